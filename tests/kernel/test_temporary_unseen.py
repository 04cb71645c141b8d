"""Temporary mounts that nobody sees: their content by descriptor, one or a tree of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mountfd
from mountfd import InvalidSpec, KernelError, Mount, MountSpec, NotDirectory, Overlay, param
from mountfd.abi import features
from mountfd.handles.loop import attached
from mountfd.verbs.temporary import temporary, temporary_path
from tests.support import guard
from tests.support.images import image_file
from tests.support.layers import fill, pair, table
from tests.support.need import need, need_real_root
from tests.support.others import in_child
from tests.support.specs import fs
from tests.support.temporaries import TMPFS, furnish, overlay_of, shared_tree


@pytest.fixture
def place(place: Path) -> Path:
    """Give a directory with layers in it, and one for temporary mounts."""
    return furnish(place)


@pytest.fixture(params=["inside detached", "in a namespace"])
def tree(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Build trees as this kernel can, and as kernels before 6.15 can."""
    kind: str = request.param
    if kind == "inside detached":
        need(mountfd.has(mountfd.Feature.MOUNT_INSIDE_DETACHED), "mounts inside detached mounts (Linux 6.15)")
    else:
        older = dict.fromkeys(("MOUNT_INSIDE_DETACHED", "CLONE_DETACHED", "OVERLAY_LAYER_DETACHED"), False)
        monkeypatch.setattr(features, "_found", features._found | older)
        way = "path" if mountfd.has(mountfd.Feature.OVERLAY_LAYER_APPEND) else "string"
        monkeypatch.setenv("MOUNTFD_ROUTE", f"assemble:{way}")
    return kind


def read(root: mountfd.Root, name: str) -> str:
    with open(name, opener=lambda path, flags: os.open(path, flags, dir_fd=root.fileno())) as file:
        return file.read()


def write(root: mountfd.Root, name: str, text: str) -> None:
    with open(name, "w", opener=lambda path, flags: os.open(path, flags, 0o644, dir_fd=root.fileno())) as file:
        file.write(text)


def test_nobody_sees_it(place: Path) -> None:
    before = table()
    with temporary(overlay_of(place)) as root:
        assert {*os.listdir(root.fileno())} == {"own", "both", "deep", "sub"}
        assert table() == before
        assert in_child(table) == before
    assert table() == before


def test_content_by_descriptor_and_by_the_root(place: Path) -> None:
    with temporary(overlay_of(place)) as root:
        assert read(root, "both") == "a"
        assert isinstance(root, mountfd.Root)
        with root.resolve("sub/file") as found:
            assert os.stat(found.fileno()).st_size == 1
        with root.resolve("../../sub") as found:  # no way out
            assert os.path.samestat(os.fstat(found.fileno()), os.stat("sub", dir_fd=root.fileno()))


def test_what_is_written_is_there_afterwards(place: Path) -> None:
    with temporary(overlay_of(place)) as root:
        write(root, "new", "kept")
    assert (place / "upper/new").read_text() == "kept"


@pytest.mark.parametrize("words", [["volatile"], ["fsync=volatile"], ["volatile,index=off"]])
def test_volatile_is_dropped_from_words(place: Path, words: list[str]) -> None:
    if words == ["fsync=volatile"]:
        words = ["volatile", "fsync=volatile"]  # new kernels alone know the second, and it must never come there
    spec = overlay_of(place, *words)
    for _ in range(2):  # a volatile upper layer couldn't be used again
        with temporary(spec) as root:
            write(root, "new", "kept")
        with temporary_path(spec, location=place / "tmp") as path:
            assert "volatile" not in fs(Path(path))
    assert not (place / "work/work/incompat").exists()


def test_volatile_is_dropped_from_an_overlay(place: Path) -> None:
    upper, work = pair(place)
    options = [param.Flag("volatile"), param.String("index", "off")]
    overlay = Overlay([place / "a", place / "b"], upper, work, options=options)
    for _ in range(2):
        with temporary(overlay) as root:
            write(root, "new", "kept")
    assert (upper / "new").read_text() == "kept"
    assert overlay.options == tuple(options)
    assert not (work / "work/incompat").exists()


def test_a_mount_that_is_given_stays_the_callers(place: Path) -> None:
    with Mount.clone(place / "a") as mount:
        with temporary(mount) as root:
            assert read(root, "own") == "a"
        assert not mount.closed
        mount.attach(place / "tmp")
    assert (place / "tmp/own").read_text() == "a"


def test_an_image_is_on_a_loop_device_for_that_time_alone(place: Path) -> None:
    need_real_root()
    need(Path("/dev/loop-control").exists(), "loop devices")
    image = image_file("ext4", place)
    with temporary(MountSpec("ext4", image, options=["loop"])) as root:
        assert read(root, "file") == "hello"
        write(root, "new", "kept")
        assert len(attached(image)) == 1
    assert any(not attached(image) for _ in guard.patiently())
    with temporary(MountSpec("", image, options=["ro"])) as root:
        assert read(root, "new") == "kept"
    assert any(not attached(image) for _ in guard.patiently())


def test_a_tree(place: Path, tree: str) -> None:
    before = table()
    specs = [
        overlay_of(place),
        MountSpec("tmpfs", "x", "sub", ["X-mount.mode=0711"]),
        MountSpec("tmpfs", "y", "sub/deep", ["X-mount.mkdir"]),
        MountSpec("bind", place / "a", "sub/deep/er", ["bind", "ro", "X-mount.mkdir"]),
    ]
    with temporary(specs) as root:
        assert table() == before
        assert in_child(table) == before
        assert read(root, "sub/deep/er/own") == "a"
        with root.resolve("sub") as found:
            assert os.fstat(found.fileno()).st_mode & 0o7777 == 0o711
        with pytest.raises(OSError, match="Read-only"):
            write(root, "sub/deep/er/new", "x")
        write(root, "sub/deep/new", "x")
        assert not (place / "upper/sub/deep").exists()
    assert table() == before
    assert not (place / "a/new").exists()


def test_symlinks_in_a_tree_do_not_lead_out_of_it(place: Path, tree: str) -> None:
    fill(place / "a" / "target")
    (place / "a/link").symlink_to("/target")
    with temporary([overlay_of(place), MountSpec("tmpfs", "x", "link/../target")]) as root:
        write(root, "target/inside", "x")
    assert not os.path.lexists("/target")


def test_a_tree_of_which_one_fails(place: Path, tree: str) -> None:
    before = table()
    for wrong in (MountSpec("tmpfs", "x", "nowhere"), MountSpec("tmpfs", "x", "sub", ["nonsense"])):
        with pytest.raises(KernelError), temporary([overlay_of(place), wrong]):
            pytest.fail("never here")
    assert table() == before


def test_a_file_that_is_open_outlives_the_block(place: Path) -> None:
    with temporary(overlay_of(place)) as root:
        fd = os.open("own", os.O_RDONLY, dir_fd=root.fileno())
    try:
        assert os.read(fd, 10) == b"a"
    finally:
        os.close(fd)


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), SystemExit(3), StopIteration()])
def test_an_error_in_the_block_ends_it(place: Path, error: BaseException) -> None:
    def act() -> None:
        with temporary(overlay_of(place)):
            raise error

    with pytest.raises((type(error), RuntimeError)):
        act()


def test_threads_each_have_their_own(place: Path, tree: str) -> None:
    errors: list[BaseException] = []

    def act(number: int) -> None:
        try:
            for _ in range(10):
                with temporary([TMPFS, MountSpec("tmpfs", "y", "sub", ["X-mount.mkdir"])]) as root:
                    write(root, "sub/mine", str(number))
                    assert read(root, "sub/mine") == str(number)
        except BaseException as error:  # noqa: BLE001 (looked at below)
            errors.append(error)

    in_parallel(act, 8)
    assert errors == []


@pytest.mark.parametrize(
    "what",
    [
        [],
        ["tmpfs"],
        [MountSpec("", "", options="remount,ro")],
        [MountSpec("", "/x", options="move")],
        [MountSpec("", "", options="rprivate")],
        [MountSpec("tmpfs", "x", "sub"), TMPFS],
        [TMPFS, TMPFS],
        [TMPFS, MountSpec("tmpfs", "x", "./")],
        [MountSpec("fuse3.x", "x")],
    ],
    ids=str,
)
def test_what_can_not_be_temporary(what: list[Any]) -> None:
    with pytest.raises(InvalidSpec), temporary(what):
        pytest.fail("never here")


def test_a_file_is_no_directory(place: Path) -> None:
    with pytest.raises(NotDirectory), temporary(MountSpec("bind", place / "a/own")):
        pytest.fail("never here")


def test_nothing_of_a_tree_is_seen_at_a_shared_source(place: Path, tree: str) -> None:
    source = shared_tree(place)
    before = table()
    specs = [
        MountSpec("bind", source, options="rbind"),
        MountSpec("bind", place / "a/own", "child/file"),
        MountSpec("bind", source / "child", "dir", ["bind"]),
        MountSpec("tmpfs", "x", "dir/grandchild"),
    ]
    with temporary(specs) as root:
        assert read(root, "child/file") == "a"
        assert table() == before
        write(root, "dir/grandchild/new", "x")
    assert table() == before
    assert os.listdir(source / "child/grandchild") == []


def test_nothing_that_is_attached_in_a_bind_is_seen_at_a_shared_source(place: Path) -> None:
    need(mountfd.has(mountfd.Feature.MOUNT_INSIDE_DETACHED), "mounts inside detached mounts (Linux 6.15)")
    source = shared_tree(place)
    before = table()
    with temporary(MountSpec("bind", source)) as root, Mount.clone(place / "a") as more:
        more.attach("dir", dir_fd=root.fileno())
        assert read(root, "dir/own") == "a"
        assert table() == before
    assert table() == before


def in_parallel(act: Callable[[int], None], number: int) -> None:
    threads = [threading.Thread(target=act, args=(each,)) for each in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
