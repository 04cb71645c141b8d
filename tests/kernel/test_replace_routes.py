"""Kernels that can't attach beneath, or inside a detached mount."""

from __future__ import annotations

import os
from errno import EINVAL
from pathlib import Path

import pytest

from mountfd import (
    Feature,
    InvalidSpec,
    KernelError,
    Missing,
    Mount,
    MountfdError,
    NotDirectory,
    NotSupported,
    has,
    is_mount,
)
from mountfd.abi import features
from mountfd.verbs import routes
from mountfd.verbs.replace import plan, replace
from tests.kernel.test_replace import Stand, fail, refuse, stand, table
from tests.kernel.test_replace_readers import Readers
from tests.support.inject import Watch, watching
from tests.support.layers import content, fill
from tests.support.mounting import MNT_DETACH, MS_SHARED, bind, change, tmpfs, umount
from tests.support.need import need

need(has(Feature.MOVE_MOUNT_BENEATH) and has(Feature.STATMOUNT), "MOVE_MOUNT_BENEATH and statmount(2) (Linux 6.8)")

__all__ = ["stand"]


@pytest.fixture
def gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Force the route with a gap."""
    monkeypatch.setenv("MOUNTFD_ROUTE", "replace:gap")


@pytest.fixture
def before_615(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be mounted inside a detached mount, nor that be cloned."""
    found = dict.fromkeys(("MOUNT_INSIDE_DETACHED", "CLONE_DETACHED"), False)
    monkeypatch.setattr(features, "_found", {**features._found, **found})


def test_without_leave_for_a_gap_nothing_changes(stand: Stand, gap: None) -> None:
    with pytest.raises(InvalidSpec, match="allow_gap"):
        replace(stand.target, stand.home / "new")
    assert (stand.shows(), stand.height()) == ("old", 1)
    assert "there would be an instant without a mount" in "\n".join(plan(stand.target))


def test_a_kernel_that_cannot_attach_beneath_is_named(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_found", {**features._found, "MOVE_MOUNT_BENEATH": False})
    monkeypatch.setattr(routes, "_best", {})
    with pytest.raises(NotSupported) as caught:
        replace(stand.target, stand.home / "new")
    assert caught.value.feature == "MOVE_MOUNT_BENEATH"
    assert (stand.shows(), stand.height()) == ("old", 1)
    with replace(stand.target, stand.home / "new", allow_gap=True) as previous:
        assert (previous.gap, stand.shows()) == (True, "new")


def test_with_a_gap_all_else_is_the_same(stand: Stand, gap: None) -> None:
    fill(tmpfs(stand.target / "sub"), {"kept": "kept"})
    tmpfs(stand.target / "sub/nested")
    before = table(stand.target)
    with replace(stand.target, stand.home / "new", allow_gap=True) as previous:
        assert (previous.gap, previous.carried) == (True, 1)
        assert content(previous)["v"] == "old"
    assert (stand.shows(), table(stand.target), stand.height()) == ("new", before, 1)
    for check in (refuse, fail):
        with pytest.raises((MountfdError, ZeroDivisionError)):
            replace(stand.target, stand.home / "other", check_after=check, allow_gap=True)
        assert (stand.shows(), table(stand.target), stand.height()) == ("new", before, 1)


@pytest.mark.parametrize("times", [1, 2])
def test_where_the_new_one_cannot_be_attached_in_the_gap_the_old_one_comes_back(
    stand: Stand, gap: None, times: int
) -> None:
    fill(tmpfs(stand.target / "sub"), {"kept": "kept"})
    before = table(stand.target)
    failed = 0
    begun = False

    def decide(_count: int, name: str, _arguments: object) -> int:
        nonlocal failed, begun
        begun = begun or name == "umount2"
        if begun and name == "move_mount" and failed < times:
            failed += 1
            return EINVAL
        return 0

    with watching(Watch(decide)):
        if times == 1:
            replace(stand.target, stand.home / "new", allow_gap=True).close()
        else:
            with pytest.raises(KernelError):
                replace(stand.target, stand.home / "new", allow_gap=True)
    assert failed == times
    assert (stand.shows(), stand.height()) == ("new" if times == 1 else "old", 1)
    assert table(stand.target) == before


def test_mounts_below_come_along_on_kernels_that_attach_nothing_inside_a_detached_mount(
    stand: Stand, before_615: None
) -> None:
    fill(tmpfs(stand.target / "sub"), {"kept": "kept"})
    fill(tmpfs(stand.target / "sub/nested"), {"deep": "deep"})
    for text in ("lower", "upper"):
        fill(tmpfs(stand.target / "second"), {"which": text})
    before = table(stand.target)
    readers = Readers()
    for path in ("sub/kept", "sub/nested/deep", "second/which"):
        readers.start(lambda path=path: (stand.target / path).read_text())  # type: ignore[misc]
    for name in ("new", "other"):
        with replace(stand.target, stand.home / name) as previous:
            assert (previous.carried, previous.gap) == (3, False)
        assert (stand.shows(), table(stand.target), stand.height()) == (name, before, 1)
    for check in (refuse, fail):
        with pytest.raises((MountfdError, ZeroDivisionError)):
            replace(stand.target, stand.home / "new", check_after=check)
        assert (stand.shows(), table(stand.target), stand.height()) == ("other", before, 1)
    assert [seen for _, seen in readers.stop()] == [{"kept"}, {"deep"}, {"upper"}]


def test_a_new_root_without_their_place_is_refused_there_too(stand: Stand, before_615: None) -> None:
    fill(tmpfs(stand.target / "extra"))
    before = table(stand.target)
    with pytest.raises(KernelError) as caught:
        replace(stand.target, stand.home / "new")
    assert caught.value.filename == "extra"
    assert (stand.shows(), table(stand.target), stand.height()) == ("old", before, 1)


def test_a_mount_that_is_handed_over_there_is_used_up_only_when_it_is_detached(stand: Stand, before_615: None) -> None:
    fill(stand.home / "elsewhere")
    with Mount.clone(stand.home / "new") as new:
        new.attach(stand.home / "elsewhere")
        replace(stand.target, new).close()
    assert stand.shows() == "new"
    assert is_mount(stand.home / "elsewhere")
    assert os.listdir(stand.home / "elsewhere") == os.listdir(stand.home / "new")


# --- before Linux 6.8 ----------------------------------------------------------------------------------------------
@pytest.fixture
def before_68(gap: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no unique ids, as kernels before 6.8."""
    missing = dict.fromkeys(("STATMOUNT", "LISTMOUNT", "STATX_MNT_ID_UNIQUE"), False)
    monkeypatch.setattr(features, "_found", {**features._found, **missing})


def test_without_unique_ids_it_is_done_with_a_gap(stand: Stand, before_68: None) -> None:
    sub = fill(tmpfs(fill(stand.target / "sub")), {"kept": ""})
    fill(stand.home / "new/sub")
    with pytest.raises(MountfdError):
        replace(stand.target, stand.home / "new")
    assert stand.shows() == "old"
    with pytest.raises(MountfdError):
        replace(stand.target, stand.home / "new", allow_gap=True, check=lambda _: None)
    assert stand.shows() == "old"
    with replace(stand.target, stand.home / "new", allow_gap=True, check=lambda _: 1) as previous:
        assert (stand.shows(), previous.gap, previous.carried) == ("new", True, 1)
        assert (sub / "kept").exists()
    umount(sub)


@pytest.mark.parametrize("kind", ["none", "a file"])
def test_there_places_are_looked_for_beforehand(stand: Stand, before_68: None, kind: str) -> None:
    fill(tmpfs(stand.target / "extra"), {"kept": "kept"})
    if kind == "a file":
        (stand.home / "new/extra").write_text("")
    with pytest.raises(Missing if kind == "none" else NotDirectory) as caught:
        replace(stand.target, stand.home / "new", allow_gap=True)
    assert "no 'extra' of the right kind" in str(caught.value.hint)
    assert (stand.shows(), (stand.target / "extra/kept").read_text(), stand.height()) == ("old", "kept", 1)


@pytest.mark.parametrize("first", [1, 2, 3])
@pytest.mark.parametrize("submounts", ["carry", "drop"])
def test_there_the_old_one_comes_back_with_all_that_stood_on_it(
    stand: Stand, before_68: None, first: int, submounts: str
) -> None:
    """Whichever mount can't be attached, twice."""
    for name in ("second", "sub"):
        fill(tmpfs(stand.target / name), {"kept": name, "in/x": ""})
        fill(tmpfs(stand.target / name / "in"), {"deep": name})
    change(stand.target / "sub", MS_SHARED)
    before, count, begun = table(stand.target), 0, False

    def decide(_count: int, name: str, _arguments: object) -> int:
        nonlocal count, begun
        begun = begun or name == "umount2"
        count += begun and name == "move_mount"
        return EINVAL if name == "move_mount" and count in {first, first + 1} else 0

    with watching(Watch(decide)) as watch:
        try:
            replace(stand.target, stand.home / "new", allow_gap=True, submounts=submounts).close()  # type: ignore[arg-type]
            expected: tuple[str, list[tuple[str, object]]] = ("new", [])
        except KernelError:
            expected = ("old", before)
    assert (watch.hit is None) == (expected[0] == "new")
    assert (stand.shows(), table(stand.target), stand.height()) == (*expected, 1)
    if expected[1]:
        assert [(stand.target / name / "in/deep").read_text() for name in ("second", "sub")] == ["second", "sub"]


def test_there_what_stands_on_peers_stays(scratch: Path, before_68: None) -> None:
    source = tmpfs(scratch / "src")
    change(source, MS_SHARED)
    fill(source / "sub")
    target = bind(source, scratch / "t")
    fill(tmpfs(target / "sub"), {"kept": "kept"})
    replace(target, fill(scratch / "new", {"sub/x": "", "v": "new"}), allow_gap=True).close()
    assert (target / "v").read_text() == "new"
    assert [(place / "sub/kept").read_text() for place in (target, source)] == ["kept"] * 2
    umount(target, MNT_DETACH)
    umount(source, MNT_DETACH)
