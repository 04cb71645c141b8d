"""holders names who keeps a mount busy, and says EBUSY exactly where umount2(2) does."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mountfd import Busy, InvalidSpec, Missing, Mount, lookup
from mountfd.lowlevel import calls
from mountfd.model.holder import UNSEEN, Holder
from mountfd.verbs.holders import holders
from tests.support.inject import lacking, watching
from tests.support.mounting import MNT_DETACH, bind, tmpfs, umount
from tests.support.need import need_command, need_real_root, need_unique_ids

CLONE_FS, CLONE_FILES = 0x200, 0x400
OPEN = ("overlay", None)


@contextlib.contextmanager
def another(act: Callable[[], object]) -> Iterator[int]:
    """Run a function in a forked child, and keep the child and what it holds until the end of the block."""
    ready, tell = os.pipe()
    wait, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(end)
            kept = act()
            os.write(tell, b"x")
            os.read(wait, 1)
            del kept
            status = 0
        finally:
            os._exit(status)
    os.close(tell)
    os.close(wait)
    try:
        assert os.read(ready, 1) == b"x", "the other process failed"
        yield pid
    finally:
        os.close(ready)
        os.close(end)
        os.waitpid(pid, 0)


def seen(target: object, **arguments: int) -> list[Holder]:
    """Ask, without what can't be looked into, as some overlays: that depends on the machine."""
    found = holders(target, **arguments) if target is not None else holders(**arguments)  # type: ignore[arg-type]
    return [holder for holder in found if holder.kind not in UNSEEN and (holder.kind, holder.blocks) != OPEN]


def is_busy(point: Path) -> bool:
    """Unmount, and say whether the kernel refused it with EBUSY."""
    try:
        umount(point)
    except Busy:
        return True
    return False


@pytest.fixture
def place(scratch: Path) -> Iterator[Path]:
    """Give a tmpfs with a file."""
    point = tmpfs(scratch / "held")
    (point / "file").write_bytes(b"x" * mmap.PAGESIZE)
    yield point
    with contextlib.suppress(OSError):
        umount(point, MNT_DETACH)


def open_file(place: Path) -> object:
    return os.open(place / "file", os.O_RDONLY)


def open_path(place: Path) -> object:
    return os.open(place, os.O_PATH)


def open_handle(place: Path) -> object:
    return Mount.open(place)


def go_there(place: Path) -> object:
    os.chdir(place)
    return None


def be_rooted_there(place: Path) -> object:
    os.chroot(place)
    return None


def map_alone(path: bytes) -> int:
    """Map a file, and have no descriptor of it: Python's own maps keep one."""
    libc = ctypes.CDLL(None)
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    libc.mmap.restype = ctypes.c_void_p
    fd = os.open(path, os.O_RDONLY)
    address: int = libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    os.close(fd)
    return address


def map_file(place: Path) -> object:
    return map_alone(bytes(place / "file"))


def bind_socket(place: Path) -> object:
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(os.fspath(place / "socket"))
    return bound


def bind_socket_and_unlink(place: Path) -> object:
    bound = bind_socket(place)
    os.unlink(place / "socket")
    return bound


def bind_socket_by_relative_name(place: Path) -> object:
    os.chdir(place)
    bound = socket.socket(socket.AF_UNIX)
    bound.bind("socket")
    os.chdir("/")
    return bound


def keep_an_accepted_connection(place: Path) -> object:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(place / "socket"))
        listening.listen()
        client = socket.socket(socket.AF_UNIX)
        client.connect(os.fspath(place / "socket"))
        return client, listening.accept()[0]


HOLDING: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "open file": (open_file, "file", "/file"),
    "O_PATH": (open_path, "file", ""),
    "handle": (open_handle, "file", ""),
    "current directory": (go_there, "cwd", ""),
    "root directory": (be_rooted_there, "root", ""),
    "mapped file": (map_file, "map", "/file"),
    "bound socket": (bind_socket, "socket", "/socket"),
    "bound socket, unlinked": (bind_socket_and_unlink, "socket", "/socket"),
    "accepted connection": (keep_an_accepted_connection, "socket", "/socket"),
}


@pytest.mark.parametrize("name", HOLDING)
def test_what_another_process_has_makes_it_busy_and_is_named(place: Path, name: str) -> None:
    act, kind, path = HOLDING[name]
    if act is bind_socket_and_unlink:
        need_real_root()  # others don't see every namespace where it could have been bound
    with another(lambda: act(place)) as pid:
        (holder,) = [each for each in seen(place) if each.pid == pid]
        assert (holder.kind, holder.blocks, holder.path) == (kind, True, f"{place}{path}")
        assert (holder.uid, holder.is_own, holder.ns_id, holder.point) == (os.geteuid(), False, None, None)
        assert f"process {pid} (" in holder.words
        assert is_busy(place)
    assert seen(place) == []
    assert not is_busy(place)


def test_a_socket_bound_by_a_relative_name(place: Path) -> None:
    need_real_root()  # others don't see every namespace where it could have been bound
    with another(lambda: bind_socket_by_relative_name(place)) as pid:
        assert [(h.kind, h.blocks, h.pid, h.path) for h in seen(place)] == [("socket", True, pid, "socket")]
        assert is_busy(place)


def test_a_connected_client_holds_nothing(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client:
        listening.bind(os.fspath(place / "socket"))
        listening.listen()
        client.connect(os.fspath(place / "socket"))
        assert [holder.fd for holder in seen(place)] == [listening.fileno()]


def test_a_socket_of_another_network_namespace(place: Path) -> None:
    need_real_root()

    def act() -> object:
        calls.unshare(0x40000000)
        return bind_socket(place)

    with another(act) as pid:
        assert [(h.kind, h.blocks, h.pid) for h in seen(place)] == [("socket", True, pid)]
        assert is_busy(place)


def test_a_running_program_is_named_once(place: Path) -> None:
    shutil.copy(need_command("sleep"), place / "program")
    with subprocess.Popen([place / "program", "60"]) as process:
        found = seen(place)
        busy = is_busy(place)
        process.kill()
    assert [(h.kind, h.blocks, h.pid, h.path) for h in found] == [("exe", True, process.pid, f"{place}/program")]
    assert busy


def test_a_mount_on_it(place: Path) -> None:
    child = tmpfs(place / "child")
    assert [(h.kind, h.blocks, h.point) for h in seen(place)] == [("mount", True, str(child))]
    assert is_busy(place)
    umount(child)
    assert not is_busy(place)


def test_our_own_descriptors_count_and_are_named_as_ours(place: Path) -> None:
    with open(place / "file", "rb") as file:
        (holder,) = seen(place)
        assert (holder.pid, holder.fd, holder.is_own) == (os.getpid(), file.fileno(), True)
        assert "this one" in holder.words
        assert is_busy(place)
    assert seen(place) == []


def test_odd_names_come_through(place: Path) -> None:
    odd = os.fsencode(place) + b"/a b\n\xff"
    with another(lambda: os.open(odd, os.O_CREAT | os.O_RDWR)) as pid:
        assert [(h.pid, h.path) for h in seen(place)] == [(pid, os.fsdecode(odd))]

    with another(lambda: map_alone(odd)) as pid:
        assert [(h.kind, h.pid, h.path) for h in seen(place)] == [("map", pid, os.fsdecode(odd))]


# --- threads -------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def thread_that(act: Callable[[], object]) -> Iterator[None]:
    """Run a function in a thread, and keep the thread until the end of the block."""
    ready, end = threading.Event(), threading.Event()

    def body() -> None:
        kept = act()
        ready.set()
        end.wait()
        if isinstance(kept, int):
            os.close(kept)

    thread = threading.Thread(target=body)
    thread.start()
    try:
        assert ready.wait(20)
        yield
    finally:
        end.set()
        thread.join()


def test_a_thread_with_a_directory_of_its_own(place: Path) -> None:
    def act() -> None:
        calls.unshare(CLONE_FS)
        os.chdir(place)

    with thread_that(act):
        assert [(h.kind, h.blocks, h.pid) for h in seen(place)] == [("cwd", True, os.getpid())]
        assert is_busy(place)
    assert seen(place) == []


def test_a_thread_with_descriptors_of_its_own(place: Path) -> None:
    def act() -> int:
        calls.unshare(CLONE_FILES)
        return os.open(place, os.O_PATH)

    with thread_that(act):
        assert [(h.kind, h.blocks, h.pid) for h in seen(place)] == [("file", True, os.getpid())]
        assert is_busy(place)


def test_a_descriptor_that_threads_share_is_told_once(place: Path) -> None:
    with thread_that(lambda: os.open(place, os.O_PATH)), thread_that(lambda: None):
        assert [(h.kind, h.blocks, h.pid) for h in seen(place)] == [("file", True, os.getpid())]


PROGRAM = """
import ctypes, os, sys, threading
os.open(sys.argv[1], os.O_PATH)
libc = ctypes.CDLL(None)
main = threading.get_native_id()
def body():
    while open(f'/proc/self/task/{main}/stat').read().rpartition(')')[2].split()[0] != 'Z':
        pass
    os.write(1, b'x')
    os.read(0, 1)
    os._exit(0)
threading.Thread(target=body).start()
libc.pthread_exit(None)
"""


def test_a_process_whose_first_thread_has_ended(place: Path) -> None:
    line: list[str | Path] = [sys.executable, "-I", "-c", PROGRAM, place]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.read(1) == b"x"
        found = seen(place)
        process.stdin.close()
    assert [(h.kind, h.blocks, h.pid) for h in found] == [("file", True, process.pid)]


# --- targets -------------------------------------------------------------------------------------------------------
def test_the_mount_can_be_named_in_every_way(place: Path) -> None:
    info = lookup(place)
    with another(lambda: open_file(place)) as pid:
        ways: list[object] = [place, str(place), bytes(place), place / "file", info]
        for way in ways:
            assert [h.pid for h in seen(way)] == [pid]
        with Mount.open(place) as handle:
            for way in (handle, handle.fileno()):
                assert {h.pid for h in seen(way)} == {pid, os.getpid()}


def test_the_mount_can_be_named_by_its_id(place: Path) -> None:
    need_unique_ids()
    info = lookup(place)
    assert info.id is not None
    with another(lambda: open_file(place)) as pid:
        assert [h.pid for h in seen(None, id=info.id)] == [pid]


def test_who_pins_a_lazily_unmounted_one_is_still_found_by_its_id(place: Path) -> None:
    need_unique_ids()
    info = lookup(place)
    with another(lambda: (open_file(place), map_file(place))) as pid:
        umount(place, MNT_DETACH)
        assert info.id is not None
        found = seen(None, id=info.id)
        assert sorted((h.kind, h.blocks, h.pid) for h in found) == [("file", False, pid), ("map", False, pid)]
        assert [h.mount_id for h in found if h.kind == "file"] == [info.id]
    assert seen(None, id=info.id) == []


def test_a_detached_mount_is_held_by_its_descriptor(place: Path) -> None:
    with Mount.clone(place) as clone:
        assert (clone.fileno(), False) in {(h.fd, h.blocks) for h in seen(clone)}


def test_wrong_targets_are_refused(place: Path) -> None:
    with pytest.raises(Missing):
        holders(place / "nothing")
    with pytest.raises(InvalidSpec):
        holders()
    with pytest.raises(InvalidSpec):
        holders(place, id=1 << 31)
    with pytest.raises(InvalidSpec):
        holders(id=7)


def test_asking_changes_nothing_and_two_can_ask_at_once(place: Path) -> None:
    answers: list[list[Holder]] = []
    with another(lambda: open_file(place)) as pid:
        threads = [threading.Thread(target=lambda: answers.append(seen(place))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [[h.pid for h in answer] for answer in answers] == [[pid]] * 4
    assert not is_busy(place)


def test_who_is_killed_meanwhile_is_no_error(place: Path) -> None:
    def churn() -> None:
        for _ in range(60):
            pid = os.fork()
            if pid == 0:
                os.open(place, os.O_PATH)
                os.kill(os.getpid(), signal.SIGKILL)
            os.waitpid(pid, 0)

    pid = os.fork()
    if pid == 0:
        churn()
        os._exit(0)
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        assert {h.blocks for h in seen(place)} <= {True}


def test_another_mount_of_the_filesystem_does_not_block_and_is_told_apart(place: Path, scratch: Path) -> None:
    elsewhere = bind(place, scratch / "elsewhere")
    with another(lambda: os.open(elsewhere, os.O_PATH)):
        assert [(h.kind, h.blocks, h.point) for h in seen(place)] == [("copy", False, str(elsewhere))]
        assert not is_busy(place)
    umount(elsewhere)


# --- sockets on mounts of the same filesystem ------------------------------------------------------------------------
@pytest.mark.parametrize("unlinked", [False, True])
def test_a_socket_holds_the_mount_that_it_was_bound_through(place: Path, scratch: Path, unlinked: bool) -> None:
    need_real_root()
    elsewhere = bind(place, scratch / "elsewhere")
    with another(lambda: bind_socket(elsewhere)) as pid:
        if unlinked:
            os.unlink(place / "socket")
        assert [(h.kind, h.blocks, h.point) for h in seen(place)] == [("copy", False, str(elsewhere))]
        assert ("socket", True, pid) in [(h.kind, h.blocks, h.pid) for h in seen(elsewhere)]
        assert is_busy(elsewhere)
        assert not is_busy(place)
    umount(elsewhere)


def test_a_socket_on_a_lazily_unmounted_mount_is_found_by_its_id(place: Path, scratch: Path) -> None:
    need_real_root()
    need_unique_ids()
    elsewhere = bind(place, scratch / "elsewhere")
    number = lookup(elsewhere).id
    assert number is not None
    with another(lambda: bind_socket(elsewhere)) as pid:
        umount(elsewhere, MNT_DETACH)
        for found in (seen(None, id=number), seen(place)):
            (holder,) = [holder for holder in found if holder.kind == "socket"]
            assert (holder.blocks, holder.pid, holder.mount_id) == (False, pid, number)
        assert not is_busy(place)


@pytest.mark.parametrize("call", ["pidfd_open", "pidfd_getfd", "ioctl_fd"])
def test_where_a_sockets_file_cannot_be_opened_its_name_tells(place: Path, scratch: Path, call: str) -> None:
    need_real_root()
    elsewhere = bind(place, scratch / "elsewhere")
    with another(lambda: bind_socket(elsewhere)) as pid, watching(lacking(call, errno=errno.EPERM)):
        assert [(h.kind, h.blocks) for h in seen(place)] == [("copy", False)]
        assert ("socket", True, pid) in [(h.kind, h.blocks, h.pid) for h in seen(elsewhere)]
    umount(elsewhere)


def test_a_socket_of_one_thread_alone_is_not_taken_for_what_the_process_has_at_that_number(
    place: Path, scratch: Path
) -> None:
    need_real_root()
    elsewhere = bind(place, scratch / "elsewhere")
    with socket.socket(socket.AF_UNIX) as own:

        def act() -> None:
            calls.unshare(CLONE_FILES)
            with socket.socket(socket.AF_UNIX) as other:
                other.bind(os.fspath(place / "other"))
                os.dup2(other.fileno(), own.fileno())

        own.bind(os.fspath(elsewhere / "own"))
        with thread_that(act):
            assert {h.path for h in seen(place) if h.kind == "socket"} == {str(place / "other")}
            assert {h.path for h in seen(elsewhere) if h.kind == "socket"} == {str(elsewhere / "own")}
    umount(elsewhere)


def test_a_lazily_unmounted_mount_keeps_the_filesystem_alive(place: Path, scratch: Path) -> None:
    elsewhere = bind(place, scratch / "elsewhere")
    with another(lambda: os.open(elsewhere, os.O_PATH)) as pid:
        umount(elsewhere, MNT_DETACH)
        (holder,) = seen(place)
        assert (holder.kind, holder.blocks, holder.pid) == ("file", False, pid)
        assert "stands in no namespace" in holder.words
        assert not is_busy(place)


def test_a_detached_clone_keeps_the_filesystem_alive(place: Path) -> None:
    with Mount.clone(place) as clone:
        assert [(h.kind, h.blocks, h.fd) for h in seen(place)] == [("file", False, clone.fileno())]
        assert not is_busy(place)
