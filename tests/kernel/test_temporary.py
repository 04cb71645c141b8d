"""Temporary mounts: seen by nobody, or at a path for a while; what is left is swept, and nothing else."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import mountfd
from mountfd import Busy, Denied, InvalidSpec, KernelError, Missing, Mount, MountSpec, NotDirectory, Overlay, param
from mountfd.abi import features
from mountfd.handles.loop import attached
from mountfd.verbs.temporary import Finding, clearing, seen, sweep, sweeping, temporary, temporary_path
from tests.support import guard
from tests.support.images import image_file
from tests.support.layers import fill, pair, table
from tests.support.mounting import MS_REC, MS_SHARED, bind, change, tmpfs, umount
from tests.support.need import need, need_command, need_real_root
from tests.support.others import NOBODY, in_child
from tests.support.program import SCRIPT, alive, eventually
from tests.support.specs import cleared, count, fs, fstype, in_user_namespace

TMPFS = MountSpec("tmpfs", "x", options=["mode=755"])
# A fork beside threads may end in a lock that one of them held, so this is a program.
KILLED = """
import os, signal, sys, mountfd
with mountfd.temporary_path(mountfd.MountSpec("tmpfs", "x"), location=sys.argv[1]):
    os.kill(os.getpid(), signal.SIGKILL)
"""
WITH_SOURCE = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1] / "src")}


@pytest.fixture
def place(scratch: Path) -> Iterator[Path]:
    """Give a directory with layers in it, and one for temporary mounts."""
    fill(scratch / "a", {"own": "a", "both": "a"})
    fill(scratch / "b", {"deep": "b", "both": "b", "sub/file": "x"})
    fill(scratch / "tmp")
    with cleared(scratch):
        yield scratch


@pytest.fixture(params=["inside detached", "in a namespace"])
def tree(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Build trees as this kernel can, and as kernels before 6.15 can."""
    kind: str = request.param
    if kind == "inside detached":
        need(mountfd.has(mountfd.Feature.MOUNT_INSIDE_DETACHED), "mounts inside detached mounts (Linux 6.15)")
    else:
        older = dict.fromkeys(("MOUNT_INSIDE_DETACHED", "CLONE_DETACHED", "OVERLAY_LAYER_DETACHED"), False)
        monkeypatch.setattr(features, "_found", features._found | older)
        monkeypatch.setenv("MOUNTFD_ROUTE", "assemble:path")
    return kind


def overlay_of(place: Path, *more: str) -> MountSpec:
    upper, work = pair(place)
    words = [f"lowerdir={place}/a:{place}/b", f"upperdir={upper}", f"workdir={work}", *more]
    return MountSpec("overlay", "overlay", options=words)


def read(root: mountfd.Root, name: str) -> str:
    with open(name, opener=lambda path, flags: os.open(path, flags, dir_fd=root.fileno())) as file:
        return file.read()


def write(root: mountfd.Root, name: str, text: str) -> None:
    with open(name, "w", opener=lambda path, flags: os.open(path, flags, 0o644, dir_fd=root.fileno())) as file:
        file.write(text)


# --- seen by nobody --------------------------------------------------------------------------------------------------
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


def in_parallel(act: Callable[[int], None], number: int) -> None:
    threads = [threading.Thread(target=act, args=(each,)) for each in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


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


def shared_tree(place: Path) -> Path:
    """Mount a shared tmpfs with another one below, which has one below; give its path."""
    source = tmpfs(place / "source")
    change(source, MS_SHARED)
    tmpfs(source / "child")
    tmpfs(source / "child/grandchild")
    (source / "child/file").touch()
    (source / "dir").mkdir()
    return source


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


# --- at a path -------------------------------------------------------------------------------------------------------
def test_the_path_is_there_in_the_block_alone(place: Path) -> None:
    with temporary_path(overlay_of(place), location=place / "tmp") as path:
        home = Path(path).parent
        assert home.parent == place / "tmp"
        assert home.stat().st_mode & 0o7777 == 0o700
        assert (Path(path) / "both").read_text() == "a"
        assert in_child(lambda: fstype(Path(path))) == "overlay"
        (Path(path) / "new").write_text("kept")
    assert os.listdir(place / "tmp") == []
    assert count(place / "tmp") == 0
    assert (place / "upper/new").read_text() == "kept"


def test_a_list_at_a_path(place: Path) -> None:
    specs = [
        overlay_of(place),
        MountSpec("tmpfs", "x", "sub"),
        MountSpec("tmpfs", "y", ""),
        MountSpec("", "", options="remount,ro"),
    ]
    with temporary_path(iter(specs), location=place / "tmp") as path:
        assert count(Path(path)) == 3
        assert os.listdir(path) == []
    assert os.listdir(place / "tmp") == []


def test_all_of_a_list_or_nothing(place: Path) -> None:
    specs = [TMPFS, MountSpec("tmpfs", "x", "sub", ["X-mount.mkdir"]), MountSpec("tmpfs", "x", "nowhere")]
    with pytest.raises(Missing), temporary_path(specs, location=place / "tmp"):
        pytest.fail("never here")
    assert os.listdir(place / "tmp") == []
    assert count(place / "tmp") == 0


def test_what_is_mounted_there_meanwhile_goes_too(place: Path) -> None:
    with temporary_path(TMPFS, location=place / "tmp") as path:
        tmpfs(Path(path) / "more")
        tmpfs(Path(path) / "more/deep")
        bind(place / "a", Path(path))
    assert os.listdir(place / "tmp") == []
    assert (place / "a/own").read_text() == "a"


def test_a_bind_is_never_emptied(place: Path) -> None:
    for location in (place / "tmp", place / "a"):
        with temporary_path(MountSpec("bind", place / "a", options=["rbind"]), location=location) as path:
            assert (Path(path) / "own").exists()
    assert {*os.listdir(place / "a")} == {"own", "both"}


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_an_error_in_the_block_cleans_up(place: Path, error: BaseException) -> None:
    def act() -> None:
        with temporary_path(TMPFS, location=place / "tmp"):
            raise error

    with pytest.raises(type(error)) as caught:
        act()
    assert caught.value is error
    assert os.listdir(place / "tmp") == []


def test_an_interruption_from_outside_cleans_up(place: Path) -> None:
    def act() -> None:
        with temporary_path(TMPFS, location=place / "tmp"):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        act()
    assert os.listdir(place / "tmp") == []


def test_a_generator_that_is_closed_or_forgotten_cleans_up(place: Path) -> None:
    def generate() -> Iterator[str]:
        with temporary_path(TMPFS, location=place / "tmp") as path:
            yield path
            yield path

    generator = generate()
    assert mountfd.is_mount(next(generator))
    generator.close()  # type: ignore[attr-defined]
    assert os.listdir(place / "tmp") == []
    generator = generate()
    next(generator)
    del generator
    gc.collect()
    assert os.listdir(place / "tmp") == []


def test_busy_at_the_end_stays_whole_and_is_swept_later(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patience(monkeypatch)
    context = temporary_path(overlay_of(place), location=place / "tmp")
    path = context.__enter__()
    (Path(path) / "new").write_text("kept")
    with open(Path(path) / "own"):
        with pytest.raises(Busy) as caught:
            context.__exit__(None, None, None)
        assert any("pytest" in str(holder) or str(os.getpid()) in str(holder) for holder in caught.value.holders)
        assert caught.value.__cause__ is None
        assert (Path(path) / "new").read_text() == "kept"
        (finding,) = sweep(place / "tmp")
        assert isinstance(finding.error, Busy)
        assert not finding.is_cleared
        assert (Path(path) / "new").read_text() == "kept"
    (finding,) = sweep(place / "tmp")
    assert (finding.path, finding.mounts, finding.error) == (str(Path(path).parent), 1, None)
    assert os.listdir(place / "tmp") == []
    assert (place / "upper/new").read_text() == "kept"


def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for what is busy no longer than it takes to see that it is."""
    monkeypatch.setattr(clearing, "unmount", lambda *words, **more: mountfd.unmount(*words, **{"wait": 0.01, **more}))


def test_busy_after_an_error_has_it_as_its_cause(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patience(monkeypatch)
    first = RuntimeError("first")
    context = temporary_path(TMPFS, location=place / "tmp")
    path = context.__enter__()
    with open(Path(path) / "open", "w"), pytest.raises(Busy) as caught:
        context.__exit__(RuntimeError, first, None)
    assert caught.value.__cause__ is first
    assert [finding.error for finding in sweep(place / "tmp")] == [None]


def test_the_default_location(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place / "tmp"))
    with temporary_path(TMPFS) as path:
        assert Path(path).parents[1] == place / "tmp"
        assert sweep() == []
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    with temporary_path(TMPFS) as path:
        assert Path(path).parents[1] == Path(os.environ["TMPDIR"])


def test_a_relative_location_and_a_symlink_to_one(place: Path) -> None:
    (place / "link").symlink_to("tmp")
    with contextlib.chdir(place):
        with temporary_path(TMPFS, location="link") as path:
            os.chdir("/")
            assert mountfd.is_mount(path)
            os.chdir(place)
        assert os.listdir("tmp") == []
        assert sweep("link") == []


@pytest.mark.parametrize("name", ["a b", "new\nline", "not\udcffutf", "back\\slash"])
def test_a_location_of_any_name(place: Path, name: str) -> None:
    location = fill(place / name)
    for given in (location, str(location), os.fsencode(location)):
        with temporary_path(TMPFS, location=given) as path:
            assert mountfd.is_mount(path)
            (Path(path) / "x").touch()
        assert os.listdir(location) == []
        assert sweep(given) == []


def test_a_location_that_is_none(place: Path) -> None:
    (place / "file").touch()
    for location, kind in ((place / "nowhere", Missing), (place / "file", NotDirectory)):
        with pytest.raises(kind) as caught, temporary_path(TMPFS, location=location):
            pytest.fail("never here")
        assert str(location) in str(caught.value)


def test_what_can_not_be_at_a_path(place: Path) -> None:
    moved = tmpfs(place / "moved")
    wrong: list[Any] = [[], ["tmpfs"], [TMPFS, MountSpec("", moved, "", "move")]]
    for what in wrong:
        with pytest.raises(InvalidSpec), temporary_path(what, location=place / "tmp"):
            pytest.fail("never here")
    assert mountfd.is_mount(moved)
    assert os.listdir(place / "tmp") == []


def test_fuse_at_a_path(place: Path) -> None:
    need_command("squashfuse")
    need(Path("/dev/fuse").exists(), "FUSE")
    with temporary_path(MountSpec("fuse3.squashfuse", image_file("squashfs", place)), location=place / "tmp") as path:
        assert (Path(path) / "file").read_text() == "hello"
    assert os.listdir(place / "tmp") == []
    assert eventually(lambda: not alive(str(place)))


@pytest.fixture(params=["descriptor", "string"])
def mount_route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Mount by one route after the other."""
    name: str = request.param
    monkeypatch.setenv("MOUNTFD_ROUTE", f"mount:{name}")
    return name


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


# --- sweeping --------------------------------------------------------------------------------------------------------
def left(location: Path, *specs: MountSpec) -> Path:
    """Leave a temporary mount behind, as a kill does; give its path."""
    path = killed_in(location, *specs)
    assert mountfd.is_mount(path)
    return path


def killed_in(location: Path, *specs: MountSpec) -> Path:
    """Have a process killed in the block; give the path that it had."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with temporary_path(specs or [TMPFS], location=location) as path:
            os.write(writing, os.fsencode(path))
            os.kill(os.getpid(), signal.SIGKILL)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        path = os.fsdecode(pipe.read())
    os.waitpid(child, 0)
    assert path
    return Path(path)


def test_what_the_dead_left_is_cleared(place: Path) -> None:
    first = left(place / "tmp", overlay_of(place), MountSpec("tmpfs", "x", "sub"))
    second = left(place / "tmp", MountSpec("bind", place / "a", options=["bind"]))
    found = {finding.path: (finding.mounts, finding.error) for finding in sweep(place / "tmp")}
    assert found == {str(first.parent): (2, None), str(second.parent): (1, None)}
    assert os.listdir(place / "tmp") == []
    assert (place / "a/own").read_text() == "a"
    assert sweep(place / "tmp") == []


def test_a_finding_says_what_it_is(place: Path) -> None:
    home = left(place / "tmp").parent
    (finding,) = sweep(place / "tmp")
    assert repr(finding) == f"<Finding {str(home)!r}: 1 mounts taken away>"
    assert repr(Finding("/x", 0, OSError("no"))) == "<Finding '/x': no>"


def test_a_directory_that_was_left_before_anything_was_mounted(place: Path) -> None:
    for depth in (1, 2):
        home = place / "tmp" / f"mountfd-mnt-00000000000{depth}"
        home.mkdir(0o700)
        if depth == 2:
            (home / "mnt").mkdir(0o700)
    assert [finding.mounts for finding in sweep(place / "tmp")] == [0, 0]
    assert os.listdir(place / "tmp") == []


def test_what_lives_is_untouched(place: Path) -> None:
    with temporary_path(TMPFS, location=place / "tmp") as ours:
        reading, writing = os.pipe()
        go_reading, go_writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(go_writing)
            with temporary_path(TMPFS, location=place / "tmp") as path:
                os.write(writing, os.fsencode(path))
                os.read(go_reading, 1)
            os._exit(0)
        theirs = os.fsdecode(os.read(reading, 4096))
        dead = left(place / "tmp")
        assert [finding.path for finding in sweep(place / "tmp")] == [str(dead.parent)]
        assert in_child(lambda: [finding.path for finding in sweep(place / "tmp")]) == []
        assert mountfd.is_mount(ours)
        assert mountfd.is_mount(theirs)
        for fd in (reading, writing, go_reading, go_writing):
            os.close(fd)
        assert os.waitpid(child, 0)[1] == 0
        assert not os.path.exists(theirs)
    assert os.listdir(place / "tmp") == []


def test_what_is_left_to_a_forked_child_lives_as_long_as_that(place: Path) -> None:
    # It has the lock too: what its parent had mounted may be what it works with.
    reading, writing = os.pipe()
    go_reading, go_writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go_writing)
        with temporary_path(TMPFS, location=place / "tmp") as path:
            if os.fork() == 0:
                os.read(go_reading, 1)
                os._exit(0)
            os.write(writing, os.fsencode(path))
            os.kill(os.getpid(), signal.SIGKILL)
    path = os.fsdecode(os.read(reading, 4096))
    os.waitpid(child, 0)
    assert sweep(place / "tmp") == []
    assert mountfd.is_mount(path)
    for fd in (reading, writing, go_reading, go_writing):
        os.close(fd)
    assert eventually(lambda: [finding.error for finding in sweep(place / "tmp")] == [None])


def test_other_names_are_untouched(place: Path) -> None:
    beside = fill(place / "tmp2")
    living = left(beside)
    look_alikes = ["mountfd-mnt-notes", "mountfd-mnt-", "mountfd-mnt-0123456789AB", "xmountfd-mnt-0123456789ab"]
    for name in (*look_alikes, "mountfd-mnt-0123456789abc", "other"):
        (place / "tmp" / name).mkdir(0o700)
        tmpfs(place / "tmp" / name / "mnt")
    before = sorted(os.listdir(place / "tmp"))
    assert sweep(place / "tmp") == []
    assert sorted(os.listdir(place / "tmp")) == before
    assert all(mountfd.is_mount(place / "tmp" / name / "mnt") for name in before)
    assert mountfd.is_mount(living)
    assert [finding.error for finding in sweep(beside)] == [None]


def test_what_merely_looks_alike_loses_nothing(place: Path) -> None:
    precious = tmpfs(place / "precious")
    (precious / "file").touch()
    homes = [place / "tmp" / f"mountfd-mnt-00000000000{digit}" for digit in range(6)]
    homes[0].symlink_to(precious)
    homes[1].touch()
    homes[2].mkdir(0o755)
    tmpfs(homes[2] / "mnt")
    homes[3].mkdir(0o700)
    (homes[3] / "diary").write_text("dear")
    homes[4].mkdir(0o700)
    (homes[4] / "mnt").symlink_to(precious)
    homes[5].mkdir(0o700)
    (homes[5] / "mnt").mkdir()
    (homes[5] / "mnt/file").write_text("x")
    findings = sweep(place / "tmp")
    assert [Path(finding.path) for finding in findings] == [homes[3], homes[4], homes[5]]
    assert not any(finding.is_cleared for finding in findings)
    assert (precious / "file").exists()
    assert mountfd.is_mount(precious)
    assert mountfd.is_mount(homes[2] / "mnt")
    assert (homes[3] / "diary").read_text() == "dear"
    assert (homes[5] / "mnt/file").read_text() == "x"
    assert all(os.path.lexists(home) for home in homes)


def test_other_users_are_let_alone(place: Path) -> None:
    need_real_root()
    (place / "tmp").chmod(0o1777)
    theirs, ours = (place / "tmp" / f"mountfd-mnt-00000000000{digit}" for digit in (1, 2))
    theirs.mkdir(0o700)
    os.chown(theirs, NOBODY, NOBODY)
    assert sweep(place / "tmp") == []
    ours.mkdir(0o700)
    found = in_child(lambda: [finding.path for finding in sweep(place / "tmp")], NOBODY)
    assert found == [str(theirs)]
    assert ours.exists()


def test_one_that_fails_does_not_keep_the_others(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patience(monkeypatch)
    paths = sorted(left(place / "tmp") for _ in range(3))
    with open(paths[1] / "open", "w"):
        findings = sweep(place / "tmp")
        assert [Path(finding.path) for finding in findings] == [path.parent for path in paths]
        assert [finding.is_cleared for finding in findings] == [True, False, True]
        assert isinstance(findings[1].error, Busy)
    assert [finding.is_cleared for finding in sweep(place / "tmp")] == [True]


def test_a_location_that_is_not_there_or_can_not_be_read(place: Path) -> None:
    assert sweep(place / "nowhere") == []
    (place / "file").touch()
    with pytest.raises(NotDirectory):
        sweep(place / "file")
    need_real_root()
    (place / "tmp").chmod(0o700)
    with pytest.raises(Denied):
        in_child(lambda: sweep(place / "tmp"), NOBODY)


def test_an_image_that_the_dead_left(place: Path) -> None:
    need_real_root()
    need(Path("/dev/loop-control").exists(), "loop devices")
    image = image_file("ext4", place)
    left(place / "tmp", MountSpec("ext4", image, options=["loop"]))
    assert len(attached(image)) == 1
    assert [finding.error for finding in sweep(place / "tmp")] == [None]
    assert any(not attached(image) for _ in guard.patiently())


def test_a_server_that_died_too(place: Path) -> None:
    need_command("squashfuse")
    need(Path("/dev/fuse").exists(), "FUSE")
    path = left(place / "tmp", MountSpec("fuse3.squashfuse", image_file("squashfs", place)))
    for pid in alive(str(path)):
        os.kill(int(pid), signal.SIGKILL)
    assert eventually(lambda: not alive(str(path)))
    with pytest.raises(OSError, match="not connected"):
        os.stat(path)
    assert [finding.error for finding in sweep(place / "tmp")] == [None]


def test_sweeps_and_makers_at_once(place: Path) -> None:
    """Many come and go, and are swept by several all the time: what lives is never taken away."""
    location = place / "tmp"
    over = threading.Event()
    swept: list[Finding] = []

    def make(number: int) -> None:
        for _ in range(60):
            with temporary_path(TMPFS, location=location) as path:
                (Path(path) / "mine").write_text(str(number))
                os.sched_yield()
                assert (Path(path) / "mine").read_text() == str(number)

    def clear() -> None:
        while not over.is_set():
            swept.extend(sweep(location))

    with ThreadPoolExecutor() as pool:
        sweepers = [pool.submit(clear) for _ in range(2)]
        try:
            makers = [pool.submit(make, number) for number in range(4)]
            for _ in range(3):
                line = [sys.executable, "-c", KILLED, str(location)]
                assert subprocess.run(line, check=False, env=WITH_SOURCE).returncode == -signal.SIGKILL
            for maker in makers:
                maker.result()
        finally:
            over.set()
        for sweeper in sweepers:
            sweeper.result()
    swept.extend(sweep(location))
    assert [finding.error for finding in swept if finding.error] == []
    assert len([finding for finding in swept if finding.mounts]) == 3
    assert os.listdir(location) == []


def test_a_sweep_between_the_steps_of_a_maker(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory is made, and before it is locked a sweep takes it away: the maker makes another one."""
    location, make = place / "tmp", seen._make
    homes: list[str] = []

    def swept_at_once(directory: str) -> None:
        make(directory)
        if not directory.endswith("/mnt"):
            homes.append(directory)
            if len(homes) < 3:
                assert [finding.path for finding in sweep(location)] == [directory]

    monkeypatch.setattr(seen, "_make", swept_at_once)
    with temporary_path(TMPFS, location=location) as path:
        assert Path(path).parent == Path(homes[2])
    assert os.listdir(location) == []


def test_another_directory_of_that_name_is_not_cleared(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was looked at went before it was locked, and somebody made another one of its name."""
    home = place / "tmp/mountfd-mnt-0123456789ab"
    home.mkdir(0o700)

    def too_late(path: str) -> object:
        lock = seen.locked(path)
        home.rename(place / "tmp/placeholder")
        home.mkdir(0o700)
        return lock

    monkeypatch.setattr(sweeping, "locked", too_late)
    assert sweep(place / "tmp") == []
    assert home.exists()


def test_one_that_another_sweep_cleared_first_is_no_finding(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = place / "tmp/mountfd-mnt-0123456789ab"
    for step in ("before it is opened", "before it is locked"):
        home.mkdir(0o700)

        def late(path: str, step: str = step) -> object:
            if step == "before it is opened":
                home.rmdir()
            lock = seen.locked(path)
            if step == "before it is locked":
                home.rmdir()
            return lock

        monkeypatch.setattr(sweeping, "locked", late)
        assert sweep(place / "tmp") == []
