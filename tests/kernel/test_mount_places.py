"""Where a description goes: below a root, into directories that are made, upon symlinks, and what is refused."""

from __future__ import annotations

import contextlib
import os
from errno import ENOSYS, ENOTDIR, ESTALE
from pathlib import Path

import pytest

import mountfd
from mountfd import InvalidSpec, KernelError, Missing, MountSpec
from tests.support.inject import Watch, watching
from tests.support.layers import fill
from tests.support.mounting import tmpfs as tmpfs_on
from tests.support.specs import count, put

TMPFS = MountSpec("tmpfs", "x")


def tmpfs(below: str, *words: str) -> MountSpec:
    return MountSpec("tmpfs", "x", below, words)


# --- below a root --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("below", ["a/b", "/a/b", "a//b/", "a/./b", "a/../a/b", "../../a/b", "in/b", "abs/b"])
def test_a_target_is_found_below_its_root(mount_route: str, place: Path, below: str) -> None:
    root = fill(place / "root")
    fill(root / "a/b")
    (root / "in").symlink_to("a")
    (root / "abs").symlink_to("/a")
    mountfd.mount(tmpfs(below), root)
    assert count(root / "a/b") == 1


@pytest.mark.parametrize("link", ["../../etc", "/etc", "../../../../../../etc"])
def test_a_symlink_does_not_lead_out_of_the_root(mount_route: str, place: Path, link: str) -> None:
    root = fill(place / "root")
    fill(root / "etc")
    (root / "a").symlink_to(link)
    mountfd.mount(tmpfs("a"), root)
    assert count(root / "etc") == 1
    assert not mountfd.is_mount("/etc")


def test_a_directory_that_leaves_the_root_meanwhile_is_noticed(mount_route: str, place: Path) -> None:
    root, out = fill(place / "root"), place / "out"
    fill(root / "a/b")
    call = "move_mount" if mount_route == "descriptor" else "mount"

    def leave(_count: int, name: str, _arguments: object) -> int:
        if name == call and not out.exists():
            (root / "a").rename(out)
        return 0

    with watching(Watch(leave)), pytest.raises(KernelError) as caught:
        mountfd.mount(tmpfs("a/b"), root)
    assert out.exists()
    assert caught.value.errno == ESTALE
    assert caught.value.filename == str(root / "a/b")
    assert count(out) == count(root) == 0


def test_what_somebody_mounted_upon_the_stray_mount_is_not_taken_away(place: Path) -> None:
    root, out = fill(place / "root"), place / "out"
    fill(root / "a/b")
    seen: list[str] = []
    assert mountfd.has(mountfd.Feature.MOUNT_API)  # asked before: that takes some of these calls, too

    def leave(_count: int, name: str, _arguments: object) -> int:
        if name == "move_mount" and not out.exists():
            (root / "a").rename(out)
        if "move_mount" in seen and not mounted:
            mounted.append(1)
            tmpfs_on(out / "b")
        seen.append(name)
        return 0

    mounted: list[int] = []
    with watching(Watch(leave)), pytest.raises(InvalidSpec, match="stays attached") as caught:
        mountfd.mount(tmpfs("a/b"), root)
    assert isinstance(caught.value.__context__, KernelError)
    assert count(out) == 2
    assert mountfd.lookup(out / "b").source == "tmpfs"


@pytest.mark.parametrize("missing", [(), ("statx", "statmount", "listmount")], ids=["now", "without ids"])
def test_another_directory_in_its_place_is_noticed(mount_route: str, place: Path, missing: tuple[str, ...]) -> None:
    root, out = fill(place / "root"), place / "out"
    fill(root / "a/b")
    call = "move_mount" if mount_route == "descriptor" else "mount"

    def swap(_count: int, name: str, _arguments: object) -> int:
        if name == call and not out.exists():
            (root / "a").rename(out)
            fill(root / "a/b")
        return ENOSYS if name in missing else 0

    with watching(Watch(swap)), pytest.raises(KernelError) as caught:
        mountfd.mount(tmpfs("a/b"), root)
    assert caught.value.errno == ESTALE
    assert caught.value.hint
    assert count(out) == count(root) == 0


# --- any name ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name", ["with space", "new\nline", "tab\tand\\back", "co:lon,comma", "\udcff\udcfe", "é", '"', "x (deleted)"]
)
def test_any_name_will_do(mount_route: str, place: Path, name: str) -> None:
    point, root = fill(place / name), fill(place / "root")
    fill(root / name)
    mountfd.mount(TMPFS, point)
    mountfd.mount(tmpfs(name), root)
    assert mountfd.is_mount(point)
    assert mountfd.is_mount(root / name)
    (point / "file").write_text("f")
    mountfd.mount(MountSpec("bind", point), root)
    assert (root / "file").exists()


def test_a_target_in_bytes(mount_route: str, place: Path) -> None:
    fill(place / "p")
    mountfd.mount(TMPFS, os.fsencode(place / "p"))
    assert count(place / "p") == 1


def test_relative_paths_are_from_the_working_directory(mount_route: str, place: Path) -> None:
    fill(place / "one/foo", {"file": "f"})
    fill(place / "two/bar")
    with contextlib.chdir(place / "two"):
        mountfd.mount(MountSpec("bind", "../one/foo"), "bar")
        mountfd.mount(MountSpec("bind", "../one/foo", options=["X-mount.mkdir"]), "new/deep")
        assert os.getcwd() == str(place / "two")
    assert (place / "two/bar/file").exists()
    assert (place / "two/new/deep/file").exists()


def test_the_root_of_a_mount_is_a_target_too(mount_route: str, place: Path) -> None:
    point = put("tmpfs", "one", place / "p")
    mountfd.mount(MountSpec("tmpfs", "two"), point)
    assert count(point) == 2
    assert mountfd.lookup(point).source == "two"


# --- what is refused -----------------------------------------------------------------------------------------------
def test_a_missing_target(mount_route: str, place: Path) -> None:
    with pytest.raises(Missing) as caught:
        mountfd.mount(TMPFS, place / "nowhere")
    assert caught.value.filename == str(place / "nowhere")
    with pytest.raises(Missing):
        mountfd.mount(tmpfs("nowhere"), place)


def test_an_empty_target(mount_route: str) -> None:
    with pytest.raises(InvalidSpec):
        mountfd.mount(TMPFS, "")


def test_a_missing_source(mount_route: str, place: Path) -> None:
    with pytest.raises(Missing) as caught:
        put("bind", place / "nowhere", place / "p")
    assert "nowhere" in str(caught.value) or mount_route == "string"
    assert count(place / "p") == 0


def test_a_file_on_a_directory_and_a_directory_on_a_file(mount_route: str, place: Path) -> None:
    fill(place, {"file": "f"})
    fill(place / "dir")
    for source, target in (("file", "dir"), ("dir", "file")):
        with pytest.raises(KernelError) as caught:
            mountfd.mount(MountSpec("bind", place / source), place / target)
        assert caught.value.filename == str(place / target)
        assert mount_route == "string" or "both" in str(caught.value.hint)
    with pytest.raises(KernelError):
        mountfd.mount(TMPFS, place / "file")
    assert count(place / "file") == count(place / "dir") == 0


def test_a_root_that_is_no_directory(mount_route: str, place: Path) -> None:
    fill(place, {"file": "f"})
    with pytest.raises(KernelError) as caught:
        mountfd.mount(tmpfs("a"), place / "file")
    assert caught.value.errno == ENOTDIR


# --- directories that are made -------------------------------------------------------------------------------------
@pytest.mark.parametrize("word", ["X-mount.mkdir", "x-mount.mkdir", "X-mount.mkdir=0700"])
def test_missing_directories_are_made(mount_route: str, place: Path, word: str) -> None:
    mountfd.mount(MountSpec("tmpfs", "x", options=[word]), place / "a/b/c")
    assert count(place / "a/b/c") == 1
    assert (place / "a/b").stat().st_mode & 0o777 == (0o700 if "7" in word else 0o755)
    mountfd.mount(MountSpec("tmpfs", "x", options=[word]), place / "a/b/c")
    assert count(place / "a/b/c") == 2


def test_they_are_made_below_the_root_alone(mount_route: str, place: Path) -> None:
    root = fill(place / "root/real").parent
    (root / "link").symlink_to("/real")
    mountfd.mount(tmpfs("link/a/b/", "X-mount.mkdir"), root)
    assert count(root / "real/a/b") == 1
    assert os.listdir(root / "real") == ["a"]
    with pytest.raises(KernelError):
        mountfd.mount(tmpfs("c/../../d", "X-mount.mkdir"), root)
    assert sorted(os.listdir(root)) == ["link", "real"]
    assert sorted(os.listdir(place)) == ["root"]


def test_the_root_too_is_made(mount_route: str, place: Path) -> None:
    mountfd.mount(tmpfs("c/d", "X-mount.mkdir"), place / "a/b")
    assert count(place / "a/b/c/d") == 1


def test_a_dangling_symlink_is_not_followed_to_make_what_it_names(mount_route: str, place: Path) -> None:
    (place / "link").symlink_to(place / "elsewhere")
    with pytest.raises(KernelError):
        mountfd.mount(MountSpec("tmpfs", "x", options=["X-mount.mkdir"]), place / "link/a")
    assert sorted(os.listdir(place)) == ["link"]


@pytest.mark.parametrize(
    "spec",
    [
        MountSpec("tmpfs", "x", options="X-mount.mkdir,nonsense=1"),
        MountSpec("bind", "/nowhere/at/all", options="X-mount.mkdir"),
        MountSpec("no-such-filesystem", "x", options="X-mount.mkdir"),
        MountSpec("tmpfs", "x", "c/d", options="X-mount.mkdir,X-mount.owner=no-such-user"),
        MountSpec("overlay", "x", "c", options="X-mount.mkdir,lowerdir=/nowhere/a:/nowhere/b"),
    ],
    ids=lambda spec: spec.type,
)
def test_they_are_taken_away_when_it_fails(mount_route: str, place: Path, spec: MountSpec) -> None:
    fill(place / "there")
    with pytest.raises((KernelError, InvalidSpec)):
        mountfd.mount(spec, place / "there/a/b")
    assert os.listdir(place) == ["there"]
    assert os.listdir(place / "there") == []


def test_what_somebody_put_into_them_meanwhile_stays(mount_route: str, place: Path) -> None:
    call = "open_tree" if mount_route == "descriptor" else "mount"

    def use(_count: int, name: str, _arguments: object) -> int:
        if name == call:
            (place / "a/precious").touch()
        return 0

    with watching(Watch(use)), pytest.raises(KernelError):
        mountfd.mount(MountSpec("bind", "/nowhere", options="X-mount.mkdir"), place / "a/b")
    assert os.listdir(place / "a") == ["precious"]


def test_making_meets_somebody_who_was_faster(mount_route: str, place: Path) -> None:
    def first(_count: int, name: str, arguments: tuple[object, ...]) -> int:
        if name == "mkdirat" and arguments[1] == b"b":
            (place / "a/b").mkdir()
        return 0

    with watching(Watch(first)):
        mountfd.mount(MountSpec("tmpfs", "x", options="X-mount.mkdir"), place / "a/b/c")
    assert count(place / "a/b/c") == 1


# --- symlinks ------------------------------------------------------------------------------------------------------
@pytest.fixture
def letters(place: Path) -> Path:
    """Give files A and B and a symlink to each."""
    for name in ("A", "B"):
        (place / f"file{name}").write_text(name)
        (place / f"link{name}").symlink_to(f"file{name}")
    return place


def bind(source: Path, target: Path, word: str) -> None:
    mountfd.mount(MountSpec("bind", source, options=["bind", *filter(None, [word])]), target)


def test_symlinks_are_followed_unless_told_otherwise(mount_route: str, letters: Path) -> None:
    bind(letters / "linkA", letters / "linkB", "")
    assert (letters / "fileB").read_text() == "A"
    assert (letters / "linkB").is_symlink()


def test_a_file_over_a_symlink(mount_route: str, letters: Path) -> None:
    bind(letters / "fileA", letters / "linkB", "X-mount.nocanonicalize=target")
    assert (letters / "linkB").read_text() == "A"
    assert not (letters / "linkB").is_symlink()
    assert (letters / "fileB").read_text() == "B"


def test_a_symlink_over_a_file(mount_route: str, letters: Path) -> None:
    bind(letters / "linkA", letters / "fileB", "X-mount.nocanonicalize=source")
    assert (letters / "fileB").is_symlink()
    assert (letters / "fileB").read_text() == "A"


def test_a_symlink_over_a_symlink(mount_route: str, letters: Path) -> None:
    bind(letters / "linkA", letters / "linkB", "X-mount.nocanonicalize")
    assert (letters / "linkB").is_symlink()
    assert (letters / "linkB").read_text() == "A"
    assert (letters / "fileB").read_text() == "B"


# --- beneath -------------------------------------------------------------------------------------------------------
def test_beneath_what_stands_below_a_root(place: Path) -> None:
    root = fill(place / "root/a").parent
    mountfd.mount(tmpfs("a"), root)
    number = mountfd.mount(MountSpec("tmpfs", "new", "a"), root, beneath=True)
    assert count(root / "a") == 2
    assert mountfd.lookup(root / "a").source == "x"
    assert number == mountfd.lookup(root / "a").parent_id


def test_moved_below_a_root(mount_route: str, place: Path) -> None:
    root, start = fill(place / "root/a").parent, put("tmpfs", "start", place / "start")
    mountfd.mount(MountSpec("", start, "a", ["move"]), root)
    assert (count(root / "a"), count(start)) == (1, 0)


def test_an_empty_source(mount_route: str, place: Path) -> None:
    for words in ("bind", "rbind", "move"):
        with pytest.raises(InvalidSpec) as caught:
            put("none", "", place / "p", words)
        assert caught.value.part == "source"
