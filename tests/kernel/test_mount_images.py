"""Filesystems out of images: on a loop device where they need one, and which comes and goes with the mount."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from errno import EBUSY
from pathlib import Path

import pytest

import mountfd
from mountfd import InvalidSpec, KernelError, Missing, MountSpec
from tests.support import guard
from tests.support.images import ImageKind, image_file
from tests.support.layers import fill
from tests.support.need import need, need_command
from tests.support.specs import clear, cleared, count, fs, fstype, put, source, vfs

pytestmark = pytest.mark.usefixtures("real_root")


@pytest.fixture
def place(scratch: Path) -> Iterator[Path]:
    need(Path("/dev/loop-control").exists(), "loop devices")
    with cleared(scratch):
        yield scratch


def devices(image: Path) -> set[str]:
    """Give the loop devices that have an image."""
    return {line.split()[0] for line in guard._loop_devices() if line.endswith(f" -> {image}")}


def gone(image: Path) -> bool:
    """Say whether no loop device has an image any more; one that is on its way is waited for."""
    return any(not devices(image) for _ in guard.patiently())


@pytest.fixture
def ext4(place: Path) -> Path:
    return image_file("ext4", place)


# --- with a loop device --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("words", [["loop"], ["loop", "ro", "noexec"], ["ro"], []])
def test_an_image_comes_and_goes_with_its_loop_device(
    mount_route: str, place: Path, ext4: Path, words: list[str]
) -> None:
    point = put("ext4", ext4, place / "p", words)
    assert (point / "file").read_text() == "hello"
    assert ("ro" in vfs(point), "noexec" in vfs(point)) == ("ro" in words, "noexec" in words)
    assert ("ro" in fs(point)) == ("ro" in words)
    assert {source(point)} == {f"/dev/{name}" for name in devices(ext4)}
    clear(place)
    assert gone(ext4)


@pytest.mark.parametrize("kind", ["", "auto", "nosquashfs", "missing-type,ext4", "erofs,squashfs,ext4"])
def test_the_type_is_found_out(mount_route: str, place: Path, ext4: Path, kind: str) -> None:
    point = put(kind, ext4, place / "p", ["loop", "ro"])
    assert fstype(point) == "ext4"
    assert count(point) == 1


@pytest.mark.parametrize("kind", ["squashfs", "erofs"])
def test_an_image_that_can_only_be_read(mount_route: str, place: Path, kind: ImageKind) -> None:
    image = image_file(kind, place)
    image.chmod(0o444)
    point = put(kind, image, place / "p")
    assert (point / "file").read_text() == "hello"
    assert "ro" in fs(point)
    clear(place)
    assert gone(image)


def test_part_of_a_file(mount_route: str, place: Path, ext4: Path) -> None:
    whole = place / "whole"
    whole.write_bytes(b"\0" * 4096 + ext4.read_bytes() + b"\0" * 4096)
    size = ext4.stat().st_size
    point = put("ext4", whole, place / "p", ["loop", "offset=4k", f"sizelimit={size}"])
    assert (point / "file").read_text() == "hello"


def test_a_loop_device_that_has_the_image_is_taken_again_if_asked(mount_route: str, place: Path, ext4: Path) -> None:
    fill(place / "p"), fill(place / "q")
    spec = MountSpec("ext4", ext4, options=["loop"])
    mountfd.mount(spec, place / "p", reuse_loop=True)
    mountfd.mount(spec, place / "q", reuse_loop=True)
    assert source(place / "p") == source(place / "q")
    (place / "p/new").touch()
    assert (place / "q/new").exists()
    assert len(devices(ext4)) == 1


def test_an_overlapping_loop_device_is_an_error(mount_route: str, place: Path, ext4: Path) -> None:
    fill(place / "p"), fill(place / "q")
    mountfd.mount(MountSpec("ext4", ext4, options=["loop"]), place / "p")
    with pytest.raises(KernelError, match="busy") as caught:
        mountfd.mount(MountSpec("ext4", ext4, options=["loop", "offset=1024"]), place / "q", reuse_loop=True)
    assert caught.value.errno == EBUSY
    assert count(place / "q") == 0


def test_a_named_loop_device_in_use_is_an_error(mount_route: str, place: Path, ext4: Path) -> None:
    put("ext4", ext4, place / "p", ["loop"])
    other = place / "other"
    other.write_bytes(ext4.read_bytes())
    with pytest.raises(KernelError) as caught:
        put("ext4", other, place / "q", [f"loop={source(place / 'p')}"])
    assert caught.value.errno == EBUSY
    assert count(place / "q") == 0
    assert gone(other)


def test_a_directory_of_an_image(mount_route: str, place: Path, ext4: Path) -> None:
    point = put("ext4", ext4, place / "p", ["loop"])
    fill(point / "sub", {"inner": "i"})
    clear(place)
    assert gone(ext4)
    point = put("ext4", ext4, place / "p", ["loop", "X-mount.subdir=sub", "X-mount.owner=4"])
    assert os.listdir(point) == ["inner"]
    assert point.stat().st_uid == 4
    assert count(point) == 1


def test_an_image_is_idmapped(place: Path, ext4: Path) -> None:
    point = put("ext4", ext4, place / "p", ["loop", "ro", "uidmap=0:5:10", "gidmap=0:6:10"])
    assert ((point / "file").stat().st_uid, (point / "file").stat().st_gid) == (5, 6)


# --- without one ---------------------------------------------------------------------------------------------------
def test_erofs_needs_no_loop_device_where_the_kernel_reads_files(place: Path) -> None:
    image = image_file("erofs", place)  # on tmpfs it does need one, which is found out by trying
    point = put("erofs", image, place / "p")
    assert (point / "file").read_text() == "hello"


# --- what is refused -----------------------------------------------------------------------------------------------
def test_a_missing_image(mount_route: str, place: Path) -> None:
    for words in (["loop"], []):
        with pytest.raises(Missing) as caught:
            put("ext4", place / "nowhere", place / "p", words)
        assert caught.value.filename == str(place / "nowhere")
    assert count(place / "p") == 0


def test_another_filesystem_than_the_image_has(mount_route: str, place: Path, ext4: Path) -> None:
    with pytest.raises(KernelError) as caught:
        put("squashfs", ext4, place / "p", ["loop"])
    assert "holds ext4, not squashfs" in str(caught.value.hint)
    assert count(place / "p") == 0
    assert gone(ext4)


def test_none_of_several_types(mount_route: str, place: Path, ext4: Path) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        put("squashfs,erofs", ext4, place / "p", ["loop", "ro"])
    assert len(caught.value.exceptions) == 2
    assert all(isinstance(error, KernelError) for error in caught.value.exceptions)
    assert count(place / "p") == 0
    assert gone(ext4)


@pytest.mark.parametrize("content", [b"", b"\0" * 65536, os.urandom(65536)])
def test_what_bears_no_signature(mount_route: str, place: Path, content: bytes) -> None:
    image = place / "image"
    image.write_bytes(content)
    with pytest.raises(InvalidSpec, match="no signature"):
        put("", image, place / "p", ["ro"])
    with pytest.raises(KernelError):
        put("ext4", image, place / "p", ["loop", "ro"])
    assert count(place / "p") == 0
    assert gone(image)


@pytest.mark.parametrize("name", ["a directory", "a fifo", "a socket name that isn't there"])
def test_what_is_no_image_at_all(mount_route: str, place: Path, name: str) -> None:
    thing = place / name
    if "directory" in name:
        thing.mkdir()
    elif "fifo" in name:
        os.mkfifo(thing)
    for kind in ("", "ext4"):
        with pytest.raises((KernelError, InvalidSpec)):
            put(kind, thing, place / "p", ["ro"])
    with pytest.raises((KernelError, InvalidSpec)):
        put("ext4", thing, place / "p", ["loop"])
    assert count(place / "p") == 0


def test_a_parameter_that_the_image_does_not_take(mount_route: str, place: Path, ext4: Path) -> None:
    with pytest.raises(KernelError):
        put("ext4", ext4, place / "p", ["loop", "nonsense"])
    assert count(place / "p") == 0
    assert gone(ext4)


def test_a_tag_that_nobody_bears(place: Path) -> None:
    with pytest.raises(Missing, match="LABEL=no-such-label"):
        put("ext4", "LABEL=no-such-label", place / "p")


# --- beside mount(8) -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "words",
    [
        *("", "ro", "nosuid,nodev", "noatime", "sync", "lazytime", "ro,noload", "errors=remount-ro", "data=ordered"),
        *("commit=7", "user_xattr", "nodelalloc,ro", "discard", "nobarrier", "stripe=4", "shared", "nonsense"),
    ],
)
def test_the_same_words_do_the_same_as_mount(mount_route: str, place: Path, ext4: Path, words: str) -> None:
    need_command("mount")
    point, found = fill(place / "p"), []
    options = ",".join(filter(None, ["loop", words]))
    for program in (True, False):
        if program:
            line = ["mount", "-t", "ext4", "-o", options, str(ext4), str(point)]
            subprocess.run(line, check=False, capture_output=True)
        else:
            try:
                mountfd.mount(MountSpec("ext4", ext4, options=options), point)
            except KernelError:
                assert words == "nonsense"
        found.append((vfs(point), fs(point), fstype(point)) if count(point) else None)
        clear(place)
        assert gone(ext4)
    assert found[0] == found[1]
    assert (found[0] is None) == (words == "nonsense")
