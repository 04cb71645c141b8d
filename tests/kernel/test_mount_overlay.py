"""Overlays described by words: as many layers, of any name, as the kernel takes."""

from __future__ import annotations

import os
from errno import E2BIG
from pathlib import Path

import pytest

import mountfd
from mountfd import InvalidSpec, KernelError, MountSpec, NotSupported, param
from mountfd.lowlevel import calls
from mountfd.model.overlay_text import escape
from tests.support import private
from tests.support.inject import Watch, watching
from tests.support.layers import fill, layers, pair
from tests.support.need import need, need_real_root
from tests.support.others import in_child
from tests.support.specs import count, fs, fstype, in_user_namespace, put, source, tags, vfs


def word(path: Path | str) -> str:
    """Write a path as overlayfs wants it in a string of options."""
    return escape(os.fspath(path)).replace(",", "\\,")


def lowerdir(paths: list[Path]) -> str:
    return "lowerdir=" + ":".join(map(word, paths))


# --- layers --------------------------------------------------------------------------------------------------------
def test_layers_lie_in_their_order(mount_route: str, place: Path) -> None:
    point = put("overlay", "label", place / "p", [lowerdir(layers(place, 3))])
    assert {path.name: path.read_text() for path in point.iterdir()} == {
        "common": "0",
        "own0": "0",
        "own1": "1",
        "own2": "2",
    }
    assert (fstype(point), source(point), count(point)) == ("overlay", "label", 1)


@pytest.mark.parametrize("joined", [False, True])
def test_upper_and_work(mount_route: str, place: Path, joined: bool) -> None:
    upper, work = pair(place)
    words = [lowerdir(layers(place, 2)), f"upperdir={upper}", f"workdir={work}", "nodev", "volatile", "xino=off"]
    point = put("overlay", "overlay", place / "p", [",".join(words)] if joined else words)
    assert vfs(point) == {"rw", "nodev", "relatime"}
    assert fs(point) & {"volatile", "fsync=volatile"}
    (point / "new").write_text("n")
    assert (upper / "new").read_text() == "n"


@pytest.mark.parametrize("style", ["lowerdir", "lowerdir+", "typed"])
def test_four_hundred_layers_of_a_directory_with_a_long_name(mount_route: str, place: Path, style: str) -> None:
    below = place / ("x" * 200)
    paths = [fill(below / f"{i}/fs", {f"own{i}": str(i)}) for i in range(400)]
    words: list[str] | list[param.String]
    if style == "lowerdir":
        words = [lowerdir(paths)]
    elif style == "lowerdir+":
        words = [f"lowerdir+={path}" for path in paths]
    else:
        words = [param.String("lowerdir+", os.fspath(path)) for path in paths]
    (place / "p").mkdir()
    spec = MountSpec("overlay", "overlay", options=words)
    mountfd.mount(spec, place / "p")
    assert sorted(os.listdir(place / "p")) == sorted(f"own{i}" for i in range(400))
    assert list(spec.options) == words


def test_four_hundred_layers_that_have_long_names_themselves(place: Path) -> None:
    paths = [fill(place / f"{'y' * 200}{i}", {f"own{i}": str(i)}) for i in range(400)]
    point = put("overlay", "overlay", place / "p", [lowerdir(paths)])
    assert len(os.listdir(point)) == 400


def test_more_than_mount_keeps_is_refused_and_never_cut(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", "mount:string")
    paths = [fill(place / f"{i:03}{'y' * 100}") for i in range(100)]
    with pytest.raises(KernelError, match="too long") as caught:
        put("overlay", "overlay", place / "p", [lowerdir(paths)])
    assert caught.value.errno == E2BIG
    assert "4095" in str(caught.value.hint)
    assert count(place / "p") == 0


@pytest.mark.parametrize("total", [4095, 4096])
def test_mount_keeps_4095_bytes_and_one_more_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, total: int
) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", "mount:string")
    size = f"size={'0' * 4000}1m"
    mode = f"mode={'7'.rjust(total - len(size) - len(',mode='), '0')}"
    assert len(f"{size},{mode}") == total
    if total == 4095:
        assert put("tmpfs", "x", place / "p", [size, mode]).stat().st_mode & 0o7777 == 7
    else:
        with pytest.raises(KernelError) as caught:
            put("tmpfs", "x", place / "p", [size, mode])
        assert caught.value.errno == E2BIG
        assert count(place / "p") == 0


@pytest.mark.parametrize("name", ["co:lon", "com,ma", "back\\slash", "a space", "new\nline", "both\\:,\\\\", "\udcff"])
def test_layers_of_any_name(mount_route: str, place: Path, name: str) -> None:
    one, two = fill(place / f"1{name}", {"one": "1"}), fill(place / f"2{name}", {"two": "2"})
    upper, work = fill(place / f"u{name}"), fill(place / f"w{name}")
    point = put(
        "overlay",
        "overlay",
        place / "p",
        [lowerdir([one, two]), f"upperdir={word(upper)}", f"workdir={word(work)}"],
    )
    assert sorted(os.listdir(point)) == ["one", "two"]
    (point / "new").touch()
    assert os.listdir(upper) == ["new"]
    private.detach(point)
    one_string = ",".join([lowerdir([one, two]), f"upperdir={word(upper)}", f"workdir={word(work)}"])
    assert sorted(os.listdir(put("overlay", "overlay", place / "p", one_string))) == ["new", "one", "two"]


def test_a_view_of_a_description_shows_what_was_written(mount_route: str, place: Path) -> None:
    upper, work = fill(place / "u,:"), fill(place / "w")
    spec = MountSpec(
        "overlay", "overlay", options=[lowerdir(layers(place, 1)), f"upperdir={word(upper)}", f"workdir={work}"]
    )
    (place / "p").mkdir()
    mountfd.mount(spec, place / "p")
    (place / "p/new").write_text("n")
    private.detach(place / "p")
    mountfd.mount(spec.read_only(), place / "p")
    assert (place / "p/new").read_text() == "n"
    with pytest.raises(OSError, match="Read-only"):
        (place / "p/more").touch()


def test_relative_layers(mount_route: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers(place, 2)
    monkeypatch.chdir(place)
    point = put("overlay", "overlay", place / "p", "lowerdir=l0:./l1")
    assert sorted(os.listdir(point)) == ["common", "own0", "own1"]
    monkeypatch.chdir("/")


def need_data_only(words: str, point: Path) -> None:
    try:
        calls.mount(b"overlay", bytes(point), b"overlay", 0, words.encode())
    except KernelError:
        need(condition=False, feature="data-only layers of overlays (Linux 6.5)")
    calls.umount2(bytes(point), 0)


def test_layers_of_data_alone(mount_route: str, place: Path) -> None:
    need_real_root()  # overlayfs takes metacopy from no one else
    one, two = layers(place, 2)
    data = fill(place / "data", {"hidden": "h"})
    need_data_only(f"lowerdir={one}:{two}::{data},metacopy=on", fill(place / "tried"))
    point = put("overlay", "overlay", place / "p", [f"lowerdir={one}:{two}::{data}", "metacopy=on"])
    assert "hidden" not in os.listdir(point)
    assert "own1" in os.listdir(point)


def test_what_only_an_upper_layer_can_have_is_forgotten_without_one(mount_route: str, place: Path) -> None:
    point = put("overlay", "overlay", place / "p", [lowerdir(layers(place, 2)), "index=on", "volatile", "rw"])
    assert (point / "common").read_text() == "0"


def test_a_long_label(mount_route: str, place: Path) -> None:
    point = put("overlay", "L" * 255, place / "p", [lowerdir(layers(place, 2))])
    assert source(point) == "L" * 255
    point = put("overlay", "L" * 300, place / "q", [lowerdir(layers(place, 2))])
    assert count(point) == 1


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("lowerdir=/nowhere/1:/nowhere/2", KernelError),
        ("upperdir=/u,workdir=/w", InvalidSpec),
        ("lowerdir=", InvalidSpec),
        ("lowerdir", InvalidSpec),
        ("", InvalidSpec),
    ],
)
def test_what_is_no_overlay_leaves_nothing(mount_route: str, place: Path, words: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        put("overlay", "overlay", place / "p", words)
    assert count(place / "p") == 0


def test_root_of_a_user_namespace_mounts_one_too(mount_route: str, place: Path) -> None:
    need_real_root()
    upper, work = pair(place)
    words = [lowerdir(layers(place, 2)), f"upperdir={upper}", f"workdir={work}", "userxattr"]

    def act() -> list[str]:
        point = put("overlay", "overlay", place / "p", words)
        (point / "new").touch()
        return sorted(os.listdir(point))

    assert in_child(in_user_namespace(act)) == ["common", "new", "own0", "own1"]


# --- idmapped ------------------------------------------------------------------------------------------------------
def test_the_layers_of_an_overlay_are_idmapped(place: Path) -> None:
    need_real_root()
    upper, work = pair(place)
    words = [lowerdir(layers(place, 2)), f"upperdir={upper}", f"workdir={work}", "uidmap=0:5:10", "gidmap=0:6:10"]
    point = put("overlay", "overlay", place / "p", words)
    found = (point / "own1").stat()
    assert (found.st_uid, found.st_gid) == (5, 6)
    assert count(place) == 2, "the scratch directory's own, and the overlay: no mount of a layer is to be seen"


def test_mount_alone_cannot_idmap_and_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", "mount:string")
    with pytest.raises(NotSupported) as caught:
        put("overlay", "overlay", place / "p", [lowerdir(layers(place, 2)), "uidmap=0:5:1", "gidmap=0:5:1"])
    assert caught.value.feature
    assert count(place / "p") == 0


# --- values that fsconfig can't carry ------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [255, 256, 3000])
def test_a_value_of_any_length_reaches_the_filesystem(mount_route: str, place: Path, size: int) -> None:
    text = "7".rjust(size, "0")
    with watching(Watch()) as seen:
        point = put("tmpfs", "x", place / "p", [f"mode={text}", "nodev", "size=128k"])
    assert ("unshare" in seen.names) == (mount_route == "descriptor" and size > 255)
    assert point.stat().st_mode & 0o7777 == 7
    assert vfs(point) == {"rw", "nodev", "relatime"}
    assert "size=128k" in fs(point)
    assert (count(point), source(point)) == (1, "x")


def test_a_source_of_any_length(mount_route: str, place: Path) -> None:
    assert source(put("tmpfs", "s" * 3000, place / "p", ["ro", "noatime"])) == "s" * 3000
    assert vfs(place / "p") == {"ro", "noatime"}


def test_a_long_value_that_is_refused_leaves_nothing(mount_route: str, place: Path) -> None:
    with pytest.raises(KernelError):
        put("tmpfs", "x", place / "p", [f"mode={'9' * 300}"])
    assert count(place / "p") == 0


def test_a_long_value_beside_all_that_a_mount_can_have(place: Path) -> None:
    need_real_root()
    words = [f"mode={'700'.rjust(300, '0')}", "uidmap=0:5:10", "gidmap=0:5:10", "X-mount.owner=7", "shared"]
    point = put("tmpfs", "x", place / "p", words)
    assert (point.stat().st_uid, tags(point)) == (7, {"shared"})
