"""FUSE filesystems are unmounted by fusermount3 where it is installed, and by umount2(2) where it isn't."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from errno import ENOSYS, EPERM
from pathlib import Path
from types import FrameType

import pytest

from mountfd import Busy, Denied, Feature, has, is_mount, lookup
from mountfd.verbs.unmount import fuse, unmount, unmount_all
from tests.support.images import image_file
from tests.support.inject import Watch, lacking, watching
from tests.support.need import need, need_command, need_real_root
from tests.support.others import NOBODY, in_child
from tests.support.program import eventually

Mounting = Callable[[str], Path]


@pytest.fixture
def mounting(scratch: Path) -> Mounting:
    """Give a function that mounts an image by squashfuse on a directory of that name."""
    need_real_root()
    need(Path("/dev/fuse").exists(), "FUSE")
    program = need_command("squashfuse")
    image = image_file("squashfs", scratch)

    def mount(name: str) -> Path:
        point = scratch / name
        point.mkdir(exist_ok=True)
        subprocess.run([program, image, f"./{name}"], check=True, cwd=scratch, capture_output=True)
        assert eventually(lambda: lookup(point).fstype == "fuse")
        return point

    return mount


@pytest.fixture
def programs(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the only directory in which programs are looked for."""
    place = scratch / "programs"
    place.mkdir()
    monkeypatch.setenv("PATH", str(place))
    monkeypatch.setattr(fuse, "PATH", str(place))
    return place


@pytest.mark.parametrize("name", ["plain", "-u", "two\nlines", "a b", os.fsdecode(b"\xff")])
def test_it_goes_whatever_its_name(mounting: Mounting, name: str) -> None:
    need(has(Feature.STATMOUNT), "STATMOUNT (Linux 6.8), to tell FUSE")
    point = mounting(name)
    with watching(Watch()) as watch:
        assert unmount(point) == 1
    assert not is_mount(point)
    assert "umount2" not in watch.names, "fusermount3 did it"


def test_a_stack_of_them_goes_one_by_one(mounting: Mounting) -> None:
    mounting("point")
    point = mounting("point")
    assert unmount(point) == 1
    assert is_mount(point)
    mounting("point")
    assert unmount_all(point) == 2
    mounting("point")
    mounting("point")
    assert unmount(point, recursive=True) == 2


def test_without_the_program_the_kernel_does_it(mounting: Mounting, programs: Path) -> None:
    point = mounting("point")
    with watching(Watch()) as watch:
        assert unmount(point) == 1
    assert watch.names.count("umount2") == 1


def test_the_older_program_is_taken_where_the_newer_is_not(mounting: Mounting, programs: Path) -> None:
    need(has(Feature.STATMOUNT), "STATMOUNT (Linux 6.8), to tell FUSE")
    point = mounting("point")
    shell = "/bin/sh"
    told = programs.parent / "told"
    (programs / "fusermount").write_text(f'#!{shell}\necho "$@" > {told}\nexec /bin/umount "$3"\n')
    (programs / "fusermount").chmod(0o755)
    assert unmount(point) == 1
    assert told.read_text() == f"-u -- {point}\n"


@pytest.mark.parametrize("body", ["exit 1", "exit 0", "kill -9 $$"])
def test_a_program_that_does_nothing_whatever_it_says_is_no_obstacle(
    mounting: Mounting, programs: Path, body: str
) -> None:
    point = mounting("point")
    (programs / "fusermount3").write_text(f"#!/bin/sh\necho no\n{body}\n")
    (programs / "fusermount3").chmod(0o755)
    assert unmount(point) == 1
    assert not is_mount(point)


def test_a_program_that_can_not_be_run_is_no_obstacle(mounting: Mounting, programs: Path) -> None:
    point = mounting("point")
    (programs / "fusermount3").write_bytes(b"\x7fELF nonsense")
    (programs / "fusermount3").chmod(0o755)
    assert unmount(point) == 1


def test_a_handler_that_reaps_every_child_does_not_confuse_it(mounting: Mounting) -> None:
    point = mounting("point")

    def reap(_number: int, _frame: FrameType | None) -> None:
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    return
            except ChildProcessError:
                return

    before = signal.signal(signal.SIGCHLD, reap)
    try:
        assert unmount(point) == 1
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert not is_mount(point)


def test_busy_is_busy(mounting: Mounting) -> None:
    point = mounting("point")
    with (point / "file").open(), pytest.raises(Busy) as caught:
        unmount(point, wait=0)
    assert str(point / "file") in str(caught.value.hint)
    assert unmount(point) == 1


def test_lazily_and_by_force_the_kernel_is_asked_at_once(mounting: Mounting) -> None:
    for choice in ({"lazy": True}, {"force": True}):
        point = mounting("point")
        with watching(Watch()) as watch:
            assert unmount(point, **choice) == 1
        assert watch.names.count("umount2") == 1


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("old", [False, True])
def test_for_whom_the_kernel_refuses_the_program_does_it(mounting: Mounting, *, lazy: bool, old: bool) -> None:
    point = mounting("point")
    hidden = ("statmount", "listmount") if old else ()
    refused = lacking("umount2", *hidden, errno=EPERM)
    with watching(refused):
        assert unmount(point, lazy=lazy) == 1
    assert not is_mount(point)


def test_for_whom_all_refuse_what_the_program_said_is_told(mounting: Mounting, programs: Path) -> None:
    point = mounting("point")
    (programs / "fusermount3").write_text("#!/bin/sh\necho not yours >&2\nexit 1\n")
    (programs / "fusermount3").chmod(0o755)
    with watching(lacking("umount2", errno=EPERM)), pytest.raises(Denied) as caught:
        unmount(point)
    assert caught.value.log == ("not yours",)
    (programs / "fusermount3").write_text(
        "#!/bin/sh\necho 'fusermount3: failed to unmount: Device or resource busy' >&2\nexit 1\n"
    )
    with watching(lacking("umount2", errno=EPERM)), pytest.raises(Busy) as busy:
        unmount(point, wait=0)
    assert busy.value.syscall == "fusermount3"
    assert unmount(point) == 1


def test_where_the_kernel_can_not_be_asked_by_id_it_goes_too(mounting: Mounting) -> None:
    point = mounting("point")
    with watching(lacking("statmount", "listmount", errno=ENOSYS)):
        assert unmount(point) == 1


def test_one_that_answers_nobody_else_is_denied_to_him_not_unknown(mounting: Mounting) -> None:
    point = mounting("point")
    point.parent.chmod(0o755)

    def act() -> str:
        with pytest.raises(Denied) as caught:
            unmount(point)
        return f"{caught.value.syscall}: {caught.value.hint}"

    assert in_child(act, NOBODY).startswith("umount2: unmounting takes CAP_SYS_ADMIN")
    assert unmount(point) == 1


def test_one_whose_server_is_dead_goes(mounting: Mounting) -> None:
    point = mounting("point")
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            line = Path(f"/proc/{name}/cmdline").read_bytes()
            if b"squashfuse" in line and bytes(point.parent) in line:
                os.kill(int(name), signal.SIGKILL)
    assert unmount(point, wait=20) == 1


def test_an_overlay_served_by_a_program_goes(scratch: Path) -> None:
    need_real_root()
    need(Path("/dev/fuse").exists(), "FUSE")
    program = need_command("fuse-overlayfs")
    for name in ("lower", "upper", "work", "merged"):
        (scratch / name).mkdir()
    layers = f"lowerdir={scratch}/lower,upperdir={scratch}/upper,workdir={scratch}/work"
    subprocess.run([program, "-o", layers, str(scratch / "merged")], check=True, capture_output=True)
    assert eventually(lambda: is_mount(scratch / "merged"))
    (scratch / "merged" / "file").write_text("x")
    assert unmount_all(scratch / "merged") == 1
    assert (scratch / "upper" / "file").read_text() == "x"
    assert shutil.which("fuse-overlayfs")
