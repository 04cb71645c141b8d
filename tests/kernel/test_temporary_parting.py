"""Temporary mounts at a path take nothing with them from where they were bound, or were propagated to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import mountfd
from mountfd import Busy, Denied, KernelError, MountSpec
from mountfd.verbs.temporary import sweep, temporary_path
from tests.support.layers import table
from tests.support.mounting import MS_REC, MS_SHARED, bind, change, tmpfs, umount
from tests.support.need import need_real_root, need_unique_ids
from tests.support.others import in_child
from tests.support.specs import count, in_user_namespace
from tests.support.temporaries import TMPFS, furnish, left, shared_tree


@pytest.fixture
def place(place: Path) -> Path:
    """Give a directory with layers in it, and one for temporary mounts."""
    return furnish(place)


def test_what_stands_at_the_source_of_an_rbind_stays_there(place: Path, mount_route: str) -> None:
    source = shared_tree(place)
    before = table()
    with temporary_path(MountSpec("bind", source, options="rbind,shared"), location=place / "tmp") as path:
        assert count(Path(path)) == 3
        tmpfs(Path(path) / "dir")
        assert count(source) == 3
    assert table() == before
    assert os.listdir(place / "tmp") == []


def test_it_stays_there_too_when_one_of_a_list_fails(place: Path, mount_route: str) -> None:
    source = shared_tree(place)
    before = table()
    specs = [MountSpec("bind", source, options="rbind"), MountSpec("tmpfs", "x", options="nonsense=1")]
    with pytest.raises(KernelError), temporary_path(specs, location=place / "tmp"):
        pytest.fail("never here")
    assert table() == before


def test_it_stays_there_too_when_the_dead_had_bound_it(place: Path, mount_route: str) -> None:
    source = shared_tree(place)
    before = table()
    left(place / "tmp", MountSpec("bind", source, options="rbind"))
    assert [(finding.mounts, finding.error) for finding in sweep(place / "tmp")] == [(3, None)]
    assert table() == before


def test_copies_at_peers_of_the_location_go_too(place: Path) -> None:
    need_unique_ids()
    source = shared_tree(place)
    location = tmpfs(place / "location")
    change(location, MS_SHARED)
    bind(location, place / "peer")
    before = table()
    with temporary_path(MountSpec("bind", source, options="rbind"), location=location):
        assert (count(location), count(place / "peer"), count(source)) == (4, 4, 3)
    assert table() == before
    left(location, MountSpec("bind", source, options="rbind"))
    assert count(place / "peer") == 4
    assert [finding.error for finding in sweep(location)] == [None]
    assert table() == before


@pytest.mark.parametrize("is_dead", [False, True], ids=["at the end", "by a sweep"])
def test_what_is_bound_there_meanwhile_stays_whole_at_its_source(place: Path, is_dead: bool) -> None:
    """Who prepares a root directory binds /dev into it with all that is below."""
    source = shared_tree(place)
    tmpfs(source / "child")  # as an automount is covered by what it mounts
    before = table()
    if is_dead:
        bind(source, left(place / "tmp") / "dev", MS_REC)
        assert [finding.error for finding in sweep(place / "tmp")] == [None]
    else:
        with temporary_path(TMPFS, location=place / "tmp") as path:
            bind(source, Path(path) / "dev", MS_REC)
            assert count(Path(path)) == 5
    assert table() == before
    assert os.listdir(place / "tmp") == []


def test_a_path_that_was_taken_away_in_the_block(place: Path) -> None:
    with temporary_path(TMPFS, location=place / "tmp") as path:
        umount(Path(path))
        os.rmdir(path)
    assert os.listdir(place / "tmp") == []


def test_what_was_mounted_in_a_bind_there_goes_from_its_source_too(place: Path) -> None:
    need_unique_ids()
    source = shared_tree(place)
    before = table()
    with temporary_path(TMPFS, location=place / "tmp") as path:
        bind(source, Path(path) / "in")
        tmpfs(Path(path) / "in/dir")
        assert count(source) == 4
    assert table() == before


def test_what_can_not_be_parted_from_its_source_stays(place: Path) -> None:
    """What covers a bind went to its source as well, and no path leads to the bind any more."""
    source = shared_tree(place)
    before = table()
    context = temporary_path(TMPFS, location=place / "tmp")
    path = Path(context.__enter__())
    bind(source, path, MS_REC)
    tmpfs(path)
    with pytest.raises(Busy, match="covered"):
        context.__exit__(None, None, None)
    assert count(source) == 4
    umount(path)
    assert [finding.error for finding in sweep(place / "tmp")] == [None]
    assert table() == before


def test_mounts_that_are_locked_below_an_rbind_go_with_it(place: Path) -> None:
    need_real_root()
    source, location = shared_tree(place), place / "tmp"

    def act() -> list[Any]:
        spec = MountSpec("bind", source, options="rbind")
        with temporary_path(spec, location=location) as path:
            seen: list[Any] = [count(Path(path))]
            with pytest.raises(Denied):
                mountfd.unmount(Path(path) / "child/grandchild")
        seen += [os.listdir(location), count(location)]
        dead = left(location, spec)
        findings = [(finding.path, finding.mounts, finding.error) for finding in sweep(location)]
        return [*seen, findings == [(str(dead.parent), 3, None)], os.listdir(location), count(location), count(source)]

    before = table()
    assert in_child(in_user_namespace(act)) == [3, [], 0, True, [], 0, 3]
    assert table() == before
