"""FUSE filesystems: their programs are started, what they say is told, and nothing of them stays."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

import mountfd
from mountfd import Feature, InvalidSpec, KernelError, MountSpec, NotSupported, param
from tests.support.images import image_file
from tests.support.layers import fill
from tests.support.mounting import umount
from tests.support.need import need, need_command, need_idmapped_tmpfs, need_real_root
from tests.support.program import SCRIPT, alive, eventually
from tests.support.specs import cleared, fs, fstype, source, tags, vfs

FAMILIES = ("fuse", "fuse3")
TIMES, THREADS = 50, 10

need_real_root()
need(Path("/dev/fuse").exists(), "FUSE")
need_command("mount.fuse3")


@pytest.fixture
def place(scratch: Path) -> Iterator[Path]:
    """Give a directory; at the end no program serves anything there."""
    with cleared(scratch):
        yield scratch
    assert eventually(lambda: not alive(f"{scratch}/"))


@pytest.fixture
def programs(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a directory for programs of the test's own, first on PATH."""
    home = fill(place / "programs")
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    return home


def program(home: Path, name: str, script: str) -> None:
    path = home / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def overlay(place: Path, name: str = "") -> tuple[list[str], Path]:
    """Make two layers and a pair for changes; give the options, and the directory that gets the changes."""
    home = place / f"layers{name}"
    fill(home / "a", {"own": "a"})
    fill(home / "b", {"deep": "b"})
    upper, work = fill(home / "upper"), fill(home / "work")
    return [f"lowerdir={home}/a:{home}/b", f"upperdir={upper}", f"workdir={work}"], upper


def point_in(place: Path, name: str = "point") -> Path:
    return fill(place / name)


# --- mounted ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", FAMILIES)
def test_fuse_overlayfs_is_mounted_written_and_unmounted(place: Path, family: str) -> None:
    need_command("fuse-overlayfs")
    options, upper = overlay(place)
    point = point_in(place)
    number = mountfd.mount(MountSpec(f"{family}.fuse-overlayfs", "overlay", options=options), point)
    assert number == mountfd.lookup(point).id
    assert fstype(point) == "fuse.fuse-overlayfs"
    assert ((point / "own").read_text(), (point / "deep").read_text()) == ("a", "b")
    (point / "new").write_text("kept")
    assert mountfd.unmount(point) == 1
    assert (upper / "new").read_text() == "kept"


@pytest.mark.parametrize("family", FAMILIES)
def test_squashfuse_is_mounted_and_unmounted(place: Path, family: str) -> None:
    need_command("squashfuse")
    point = point_in(place)
    mountfd.mount(MountSpec(f"{family}.squashfuse", image_file("squashfs", place)), point)
    assert (fstype(point), source(point)) == ("fuse.squashfuse", "squashfuse")
    assert (point / "file").read_text() == "hello"
    assert mountfd.unmount(point) == 1


def test_options_are_passed_as_given(place: Path) -> None:
    need_command("squashfuse")
    point = point_in(place)
    options = ["ro", "nosuid,nodev", "allow_other", "defaults", "x-systemd.automount", "rprivate"]
    mountfd.mount(MountSpec("fuse3.squashfuse", image_file("squashfs", place), options=options), point)
    assert {"ro", "nosuid", "nodev"} <= vfs(point)
    assert "allow_other" in fs(point)


@pytest.mark.parametrize(
    "name", ["a b", "quo'te", "dol$(touch x)lar", "new\nline", "semi;colon", "back\\slash", "not\udcffutf"]
)
def test_places_of_any_name(place: Path, name: str) -> None:
    need_command("squashfuse")
    home = fill(place / name)
    point = point_in(home, name)
    mountfd.mount(MountSpec("fuse3.squashfuse", image_file("squashfs", home), f"{name}/{name}"), place)
    assert (point / "file").read_text() == "hello"
    umount(point)


def test_a_target_that_is_made(place: Path) -> None:
    need_command("squashfuse")
    image, words = image_file("squashfs", place), ["X-mount.mkdir"]
    mountfd.mount(MountSpec("fuse3.squashfuse", image, "new/deep", words), place)
    assert (place / "new/deep/file").read_text() == "hello"


def test_upon_another_one(place: Path) -> None:
    need_command("squashfuse")
    point, spec = point_in(place), MountSpec("fuse3.squashfuse", image_file("squashfs", place))
    first = mountfd.mount(spec, point)
    second = mountfd.mount(spec, point)
    assert first != second or not mountfd.has(Feature.STATX_MNT_ID_UNIQUE)
    assert mountfd.unmount_all(point) == 2


def test_fuse_overlayfs_beside_others_in_a_list(place: Path) -> None:
    need_command("fuse-overlayfs")
    options, _ = overlay(place)
    point = point_in(place)
    specs = [
        MountSpec("fuse3.fuse-overlayfs", "overlay", options=options),
        MountSpec("tmpfs", "x", "sub", ["X-mount.mkdir"]),
    ]
    ids = mountfd.mount_all(specs, point)
    assert len(ids) == 2
    assert None not in ids or not mountfd.has(Feature.STATX_MNT_ID_UNIQUE)
    assert fstype(point / "sub") == "tmpfs"
    assert mountfd.unmount(point, recursive=True) == 2


# --- children of the caller ------------------------------------------------------------------------------------------
def reap_everything(_number: int, _frame: FrameType | None) -> None:
    """Be a handler as a careless program has it."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


@contextlib.contextmanager
def handling_children(how: str) -> Iterator[None]:
    handlers: dict[str, Callable[[int, FrameType | None], None] | signal.Handlers] = {
        "reaped": reap_everything,
        "ignored": signal.SIG_IGN,
        "default": signal.SIG_DFL,
    }
    before = signal.signal(signal.SIGCHLD, handlers[how])
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("how", ["reaped", "ignored", "default"])
def test_in_many_threads_whatever_becomes_of_children(place: Path, how: str) -> None:
    need_command("fuse-overlayfs")
    need_command("squashfuse")
    image = image_file("squashfs", place)
    errors: list[BaseException] = []

    def once(thread: int, turn: int) -> None:
        point = point_in(place, f"point{thread}")
        if turn % 2:
            mountfd.mount(MountSpec("fuse3.squashfuse", image), point)
            assert (point / "file").read_text() == "hello"
        else:
            options, upper = overlay(place, f"{thread}.{turn}")
            mountfd.mount(MountSpec("fuse3.fuse-overlayfs", "overlay", options=options), point)
            (point / "new").write_text("kept")
            assert (upper / "new").read_text() == "kept"
        assert mountfd.unmount(point) == 1

    def many(thread: int) -> None:
        try:
            for turn in range(TIMES // THREADS):
                once(thread, turn)
        except BaseException as error:  # noqa: BLE001 (looked at below)
            errors.append(error)

    with handling_children(how):
        threads = [threading.Thread(target=many, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []


@pytest.mark.parametrize("how", ["reaped", "ignored", "default"])
def test_a_failure_is_seen_whatever_becomes_of_children(place: Path, programs: Path, how: str) -> None:
    program(programs, "failing", "echo no such luck >&2; exit 3")
    with handling_children(how), pytest.raises(KernelError) as caught:
        mountfd.mount(MountSpec("fuse3.failing", "x"), point_in(place))
    assert caught.value.log == ("no such luck",)


# --- refused ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["reaped", "ignored", "default"])
def test_a_program_that_is_not_installed(place: Path, how: str) -> None:
    with handling_children(how), pytest.raises(KernelError) as caught:
        mountfd.mount(MountSpec("fuse3.mountfd-no-such-program", "x"), point_in(place))
    assert caught.value.hint == "mountfd-no-such-program isn't installed"
    assert not mountfd.is_mount(place / "point")


def test_no_fuse_at_all(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mountfd.handles.programs.PATH", str(place))
    monkeypatch.setenv("PATH", str(place))
    for family, package in (("fuse", "fuse"), ("fuse3", "fuse3")):
        with pytest.raises(NotSupported) as caught:
            mountfd.mount(MountSpec(f"{family}.x", "x"), point_in(place))
        assert caught.value.feature == f"mount.{family}"
        assert f"package {package})" in str(caught.value.hint)


def test_the_words_of_a_program_that_fails_are_told(place: Path) -> None:
    need_command("squashfuse")
    no_image = place / "text"
    no_image.write_text("text" * 1000)
    point = point_in(place)
    with pytest.raises(KernelError) as caught:
        mountfd.mount(MountSpec("fuse3.squashfuse", no_image), point)
    error = caught.value
    assert (error.syscall, error.filename) == ("mount.fuse3", str(point))
    assert error.log == ("This doesn't look like a squashfs image.",)
    assert "squashfuse: This doesn't look like a squashfs image." in error.__notes__
    assert "ended with status 255" in str(error.hint)
    assert not mountfd.is_mount(point)


def test_a_program_that_mounts_nothing_and_says_it_did(place: Path, programs: Path) -> None:
    program(programs, "lying", "exit 0")
    with pytest.raises(KernelError) as caught:
        mountfd.mount(MountSpec("fuse3.lying", "x"), point_in(place))
    assert "status 0 and nothing is mounted" in str(caught.value.hint)


def test_a_program_that_mounts_and_fails_leaves_nothing(place: Path, programs: Path) -> None:
    need_command("squashfuse")
    image = image_file("squashfs", place)
    program(programs, "halfway", f'squashfuse "{image}" "$2"; echo sorry; exit 1')
    point = point_in(place)
    with pytest.raises(KernelError) as caught:
        mountfd.mount(MountSpec("fuse3.halfway", "x"), point)
    assert caught.value.log == ("sorry",)
    assert not mountfd.is_mount(point)


@pytest.mark.parametrize("status", [0, 1])
def test_what_others_mount_there_meanwhile_is_neither_taken_away_nor_taken_for_ours(
    place: Path, programs: Path, status: int
) -> None:
    program(programs, "beaten", f'mount -t tmpfs theirs "$2"; exit {status}')
    point = point_in(place)
    with pytest.raises(KernelError):
        mountfd.mount(MountSpec("fuse3.beaten", "x"), point)
    assert (source(point), fstype(point)) == ("theirs", "tmpfs")


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["nosymfollow"], "nosymfollow"),
        (["rnoexec"], "noexec"),
        (["ro=vfs"], "ro"),
        (["nodev=recursive"], "nodev"),
        (["rro", "private"], "ro"),
    ],
)
def test_words_that_fuse_does_not_know_are_told_to_the_kernel(place: Path, words: list[str], shown: str) -> None:
    need_command("squashfuse")
    point = point_in(place)
    mountfd.mount(MountSpec("fuse3.squashfuse", image_file("squashfs", place), options=words), point)
    assert shown in vfs(point)


def test_propagation_is_set_once_it_stands(place: Path) -> None:
    need_command("squashfuse")
    point = point_in(place)
    mountfd.mount(MountSpec("fuse3.squashfuse", image_file("squashfs", place), options=["shared"]), point)
    assert tags(point) == {"shared"}


@pytest.mark.parametrize("word", ["X-mount.owner=1", "X-mount.group=1", "X-mount.mode=700", "ro=fs", "loop"])
def test_what_is_refused_is_named(place: Path, word: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        mountfd.mount(MountSpec("fuse3.squashfuse", "x", options=[word]), point_in(place))
    assert word.partition("=")[0] in str(caught.value)


def test_a_program_mounts_nothing_beneath(place: Path) -> None:
    with pytest.raises(InvalidSpec, match="beneath"):
        mountfd.mount(MountSpec("fuse3.squashfuse", "x"), point_in(place), beneath=True)


def test_an_offset_is_the_programs_own(place: Path, programs: Path) -> None:
    program(programs, "telling", 'echo "$@"; exit 1')
    with pytest.raises(KernelError) as caught:
        mountfd.mount(MountSpec("fuse3.telling", "x", options=["offset=4096", "sizelimit=8192"]), point_in(place))
    assert "offset=4096" in caught.value.log[0]
    assert "sizelimit=8192" in caught.value.log[0]


def test_a_program_that_fails_leaves_no_directory_that_was_made(place: Path, programs: Path) -> None:
    program(programs, "failing", "exit 1")
    with pytest.raises(KernelError):
        mountfd.mount(MountSpec("fuse3.failing", "x", "new/deep", ["X-mount.mkdir"]), place)
    assert not (place / "new").exists()


@pytest.mark.parametrize(
    "options",
    [["uidmap=0:1:1", "gidmap=0:1:1"], ["loop"], ["X-mount.subdir=x"], [param.Flag("ro")]],
    ids=["idmap", "loop", "subdir", "typed"],
)
def test_what_a_program_of_its_own_cannot_be_asked_for(place: Path, options: list[str]) -> None:
    with pytest.raises(InvalidSpec):
        mountfd.mount(MountSpec("fuse3.squashfuse", "x", options=options), point_in(place))


# --- our own program as a helper -------------------------------------------------------------------------------------
def test_our_overlay_by_the_helper(place: Path, programs: Path) -> None:
    (programs / "mountfd-overlay").symlink_to(SCRIPT)
    options, upper = overlay(place)
    point = point_in(place)
    mountfd.mount(MountSpec("fuse3.mountfd-overlay", "overlay", options=[*options, "nodev"]), point)
    assert fstype(point) == "overlay"
    assert "nodev" in vfs(point)
    (point / "new").write_text("kept")
    assert (upper / "new").read_text() == "kept"


def test_our_overlay_by_the_helper_with_an_idmap(place: Path, programs: Path) -> None:
    need_idmapped_tmpfs()
    (programs / "mountfd-overlay").symlink_to(SCRIPT)
    options, _ = overlay(place)
    maps = ["uidmap=0:5000:1,1:7000:10", "gidmap=0:6000:1,1:8000:10"]
    point = point_in(place)
    mountfd.mount(MountSpec("fuse3.mountfd-overlay", "overlay", options=[options[0], *maps]), point)
    seen = (point / "own").stat()
    assert (seen.st_uid, seen.st_gid) == (5000, 6000)


def test_our_overlay_by_the_helper_says_what_is_wrong(place: Path, programs: Path) -> None:
    (programs / "mountfd-overlay").symlink_to(SCRIPT)
    with pytest.raises(KernelError) as caught:
        mountfd.mount(MountSpec("fuse3.mountfd-overlay", "overlay", options=[f"lowerdir={place}/no:{place}"]), place)
    assert any(f"the layer '{place}/no' doesn't exist" in line for line in caught.value.log)
    assert "status 32" in str(caught.value.hint)
