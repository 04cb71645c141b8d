"""What is done to mounts that stand: propagation, remount, move; by descriptor and by mount(2) alike."""

from __future__ import annotations

from errno import EINVAL
from pathlib import Path
from typing import Any

import pytest

import mountfd
from mountfd import Attr, Busy, InvalidSpec, KernelError, MountSpec, param
from tests.support.layers import fill
from tests.support.specs import count, fs, put, tags, vfs


@pytest.fixture
def origin(place: Path) -> Path:
    """Give a private tmpfs with a file and a directory in it."""
    put("tmpfs", "origin", place / "origin", ["mode=755"])
    fill(place / "origin/sub", {"file": "f"})
    return place / "origin"


# --- propagation ---------------------------------------------------------------------------------------------------
def other(place: Path, name: str) -> Path:
    return fill(place / name, {"seen": name})


def test_private_copies_do_not_see_each_others_mounts(mount_route: str, place: Path) -> None:
    start = put("tmpfs", "x", place / "s")
    fill(start / "a"), fill(start / "b")
    point = put("bind", start, place / "t", ["private"])
    put("bind", other(place, "o1"), start / "a")
    put("bind", other(place, "o2"), point / "b")
    assert not (point / "a/seen").exists()
    assert not (start / "b/seen").exists()


def test_shared_copies_see_each_others_mounts(mount_route: str, place: Path) -> None:
    start = fill(place / "s/a").parent
    put("bind", start, start, ["shared"])
    point = put("bind", start, place / "t")
    put("bind", other(place, "o"), point / "a")
    assert (start / "a/seen").exists()
    assert tags(start) == tags(point) == {"shared"}


def test_a_slave_sees_what_its_master_gets_and_gives_nothing_back(mount_route: str, place: Path) -> None:
    start = put("tmpfs", "x", place / "s", ["shared"])
    fill(start / "a"), fill(start / "b")
    point = put("bind", start, place / "t", ["slave"])
    put("bind", other(place, "o1"), start / "a")
    put("bind", other(place, "o2"), point / "b")
    assert (point / "a/seen").exists()
    assert not (start / "b/seen").exists()


def test_an_unbindable_mount_is_not_bound(mount_route: str, place: Path) -> None:
    start = put("tmpfs", "x", place / "s", ["unbindable"])
    assert tags(start) == {"unbindable"}
    with pytest.raises(KernelError) as caught:
        put("bind", start, place / "t")
    assert caught.value.errno == EINVAL
    assert count(place / "t") == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("shared", {"shared"}),
        ("private", set()),
        ("unbindable", {"unbindable"}),
        ("private,unbindable", {"unbindable"}),
        ("slave", {"master"}),
        ("slave,shared", {"shared", "master"}),
        ("slave,private", set()),
        ("defaults", {"shared"}),
    ],
)
def test_the_propagation_of_a_mount_that_stands(mount_route: str, place: Path, words: str, expected: set[str]) -> None:
    start = put("tmpfs", "x", place / "s", ["shared"])
    point = put("bind", start, place / "t")
    put("", "", point, words)
    assert tags(point) == expected
    assert tags(start) == {"shared"}


def test_propagation_of_a_whole_tree(mount_route: str, place: Path, origin: Path) -> None:
    put("tmpfs", "below", origin / "sub")
    point = put("rbind", origin, place / "p", ["rshared"])
    assert (tags(point), tags(point / "sub")) == ({"shared"}, {"shared"})
    put("", "", point, ["rprivate"])
    assert (tags(point), tags(point / "sub")) == (set(), set())
    put("", "", point, ["shared"])
    assert (tags(point), tags(point / "sub")) == ({"shared"}, set())


def test_several_propagations_beside_a_new_filesystem(mount_route: str, place: Path) -> None:
    point = put("tmpfs", "x", place / "p", ["private", "unbindable", "ro"])
    assert tags(point) == {"unbindable"}
    assert vfs(point) == {"ro", "relatime"}


# --- remount -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("word", ["rw", "ro"])
def test_remount_changes_mount_and_filesystem(mount_route: str, place: Path, word: str) -> None:
    point = put("tmpfs", "x", place / "p", ["size=1m"])
    number = mountfd.mount(MountSpec("", "", options=["remount", word, "size=128k"]), point)
    assert word in vfs(point)
    assert {word, "size=128k"} <= fs(point)
    assert count(point) == 1
    assert number == mountfd.lookup(point).id


def test_what_a_remount_does_not_name_stays(mount_route: str, place: Path) -> None:
    point = put("tmpfs", "x", place / "p", "ro,noexec,nosuid,strictatime,sync")
    assert vfs(point) == {"ro", "nosuid", "noexec"}
    put("", "", point, "remount,rw")
    assert vfs(point) == {"rw", "nosuid", "noexec"}
    assert fs(point) >= {"rw", "sync"}
    put("", "", point, "remount,nodev,async")
    assert vfs(point) == {"rw", "nosuid", "nodev", "noexec"}
    assert "sync" not in fs(point)
    put("", "", point, "remount,atime,exec,suid,dev")
    assert vfs(point) == {"rw", "relatime"}


def test_remount_with_bind_leaves_the_filesystem_alone(mount_route: str, place: Path) -> None:
    point = put("tmpfs", "x", place / "p", ["nodev"])
    put("", "", point, "remount,bind,ro")
    assert vfs(point) == {"ro", "nodev", "relatime"}
    assert "rw" in fs(point)


def test_remount_of_a_tree_and_its_propagation(mount_route: str, place: Path, origin: Path) -> None:
    put("tmpfs", "below", origin / "sub")
    put("", "", origin, "remount,bind,rnodev,rshared")
    for point in (origin, origin / "sub"):
        assert "nodev" in vfs(point)
        assert tags(point) == {"shared"}


@pytest.mark.parametrize(
    "words", ["remount,ro", "remount,bind,ro,nodev", "remount,rro,nodev", "remount,ro,nodev,shared"]
)
def test_a_remount_that_fails_for_a_writer_has_changed_nothing(mount_route: str, place: Path, words: str) -> None:
    point = put("tmpfs", "x", place / "p", "nosuid,noatime")
    before = vfs(point), fs(point), tags(point)
    with open(point / "file", "w"), pytest.raises(Busy):
        put("", "", point, words)
    assert (vfs(point), fs(point), tags(point)) == before


def test_a_remount_that_the_filesystem_refuses_has_changed_nothing(mount_route: str, place: Path) -> None:
    point = put("tmpfs", "x", place / "p", "nosuid,noatime")
    before = vfs(point), fs(point)
    with pytest.raises(KernelError):
        put("", "", point, "remount,nodev,ro,nonsense=1")
    assert (vfs(point), fs(point)) == before


def test_only_a_mount_can_be_changed(mount_route: str, place: Path) -> None:
    for words in ("remount,ro", "shared"):
        with pytest.raises((InvalidSpec, KernelError)):
            put("", "", place / "dir", words)
    assert "rw" in vfs(place)
    assert tags(place) == set()


# --- attributes of a mount that stands -----------------------------------------------------------------------------
def test_a_change_sets_attributes_and_leaves_the_filesystem_alone(mount_route: str, place: Path) -> None:
    point = put("tmpfs", "x", place / "p", ["noexec", "shared"])
    put("", "", point, ["private", "ro", "nosuid", "exec"])
    assert vfs(point) == {"ro", "nosuid", "relatime"}
    assert "rw" in fs(point)
    assert tags(point) == set()


def test_a_change_of_a_whole_tree(mount_route: str, place: Path, origin: Path) -> None:
    put("tmpfs", "below", origin / "sub")
    put("", "", origin, ["rnodev"])
    assert "nodev" in vfs(origin) & vfs(origin / "sub")


@pytest.mark.parametrize("typed", [{"attrs": Attr.RDONLY}, {"options": [param.Flag("ro")]}])
def test_a_typed_change(mount_route: str, place: Path, typed: dict[str, Any]) -> None:
    point = put("tmpfs", "x", place / "p")
    mountfd.mount(MountSpec("", "", **typed), point)
    assert vfs(point) == {"ro", "relatime"}


def test_a_change_that_fails_for_a_writer_has_changed_nothing(mount_route: str, place: Path) -> None:
    point = put("tmpfs", "x", place / "p", "nosuid,noatime")
    before = vfs(point), tags(point)
    with open(point / "file", "w"), pytest.raises(Busy):
        put("", "", point, ["shared", "nodev", "ro"])
    assert (vfs(point), tags(point)) == before


OF_NEW = ["X-mount.owner=1", "X-mount.group=1", "X-mount.mode=700", "X-mount.subdir=x", "X-mount.idmap=/x", "loop"]


@pytest.mark.parametrize("kind", ["private", "remount", "remount,bind", "move"])
@pytest.mark.parametrize("word", [*OF_NEW, "offset=4096"])
def test_what_only_a_new_mount_can_be_given_is_refused_by_name(
    mount_route: str, place: Path, kind: str, word: str
) -> None:
    point = put("tmpfs", "x", place / "p")
    with pytest.raises(InvalidSpec) as caught:
        put("", place / "a" if kind == "move" else "", point, [*kind.split(","), word])
    assert caught.value.part == word.partition("=")[0]


@pytest.mark.parametrize("kind", ["private", "remount,bind", "move"])
@pytest.mark.parametrize("word", ["sync", "lazytime", "ro=fs", "size=1m"])
def test_what_only_a_filesystem_can_be_given_is_refused_by_name(
    mount_route: str, place: Path, kind: str, word: str
) -> None:
    point = put("tmpfs", "x", place / "p")
    with pytest.raises(InvalidSpec) as caught:
        put("", place / "a" if kind == "move" else "", point, [*kind.split(","), word])
    assert repr(word) in str(caught.value)


@pytest.mark.parametrize("word", ["ro", "rw", "nosuid", "rro", "noatime", "rnodev"])
def test_a_move_changes_no_attributes(mount_route: str, place: Path, word: str) -> None:
    start = put("tmpfs", "x", place / "a")
    with pytest.raises(InvalidSpec) as caught:
        mountfd.mount(MountSpec("", start, options=["move", word]), fill(place / "b"))
    assert caught.value.part == word
    assert count(start) == 1


# --- move ----------------------------------------------------------------------------------------------------------
def test_a_move_leaves_nothing_where_it_was(mount_route: str, place: Path, origin: Path) -> None:
    start = put("bind", origin / "sub", place / "a")
    before = mountfd.lookup(start).id
    number = mountfd.mount(MountSpec("", start, options=["move", "shared"]), fill(place / "b"))
    assert number == before
    assert (count(place / "a"), count(place / "b")) == (0, 1)
    assert tags(place / "b") == {"shared"}
    assert (place / "b/file").read_text() == "f"


def test_what_is_no_mount_is_not_moved(mount_route: str, place: Path) -> None:
    fill(place / "a"), fill(place / "b")
    with pytest.raises(KernelError) as caught:
        mountfd.mount(MountSpec("", place / "a", options=["move"]), place / "b")
    assert caught.value.errno == EINVAL
