"""A detached mount sent to another process: only mounts come through, and what the receiver can do with one."""

from __future__ import annotations

import array
import contextlib
import os
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mountfd import (
    Attr,
    Denied,
    FsContext,
    Gone,
    InvalidSpec,
    KernelError,
    LimitReached,
    Mount,
    NotDirectory,
    UserNamespace,
)
from mountfd.lowlevel import calls
from mountfd.verbs.handing import lock_mount, receive_mount, send_mount
from tests.support.layers import SHIFTED
from tests.support.mounting import tmpfs, umount

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=["STREAM", "SEQPACKET", "DGRAM"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    here, there = socket.socketpair(socket.AF_UNIX, getattr(socket, f"SOCK_{request.param}"))
    with here, there:
        yield here, there


def fresh(attrs: int = 0) -> Mount:
    with FsContext.open("tmpfs") as context:
        return context.create().mount(attrs)


def send_raw(sock: socket.socket, data: bytes, *fds: int) -> None:
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])


# --- what comes through ----------------------------------------------------------------------------------------------
def test_the_same_mount_arrives(pair: Pair, scratch: Path) -> None:
    here, there = pair
    (scratch / "here").mkdir()
    with fresh() as sent:
        send_mount(here, sent)
        number = sent.id
    with receive_mount(there) as mount:
        assert mount.id == number
        assert not os.get_inheritable(mount.fileno())
        mount.attach(scratch / "here")
    umount(scratch / "here")


def test_several_arrive_in_order(pair: Pair) -> None:
    here, there = pair
    ids = []
    for _ in range(3):
        with fresh() as mount:
            send_mount(here, mount)
            ids.append(mount.id)
    for number in ids:
        with receive_mount(there) as mount:
            assert mount.id == number


def test_a_mount_of_a_file_arrives(pair: Pair, scratch: Path) -> None:
    here, there = pair
    (scratch / "file").write_text("content")
    with Mount.clone(scratch / "file") as mount:
        send_mount(here, mount)
    with receive_mount(there) as mount:
        assert Path(f"/proc/self/fd/{mount.fileno()}").read_text() == "content"


def test_with_what_the_receiver_asked_its_socket_to_add(pair: Pair) -> None:
    here, there = pair
    there.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    with contextlib.suppress(OSError):
        there.setsockopt(socket.SOL_SOCKET, 76, 1)  # SO_PASSPIDFD, Linux 6.5: it brings another descriptor
    with fresh() as mount:
        send_mount(here, mount)
        number = mount.id
    with receive_mount(there) as mount:
        assert mount.id == number


def test_in_flight_it_lives_and_dies_with_the_socket() -> None:
    here, there = socket.socketpair()
    with fresh() as mount:
        send_mount(here, mount)
    here.close()
    there.close()


# --- what is refused -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["directory", "file", "path", "pipe"])
def test_another_descriptor_is_refused_and_closed(pair: Pair, scratch: Path, kind: str) -> None:
    here, there = pair
    (scratch / "d").mkdir()
    (scratch / "file").touch()
    opened = {
        "directory": lambda: [os.open(scratch / "d", os.O_RDONLY)],
        "file": lambda: [os.open(scratch / "file", os.O_RDWR)],
        "path": lambda: [os.open(scratch / "d", os.O_PATH)],
        "pipe": lambda: list(os.pipe()),
    }[kind]()
    send_raw(here, b"m", opened[0])
    for fd in opened:
        os.close(fd)
    with pytest.raises(InvalidSpec, match="no mount"):  # the guard looks for the descriptor
        receive_mount(there)


def test_one_that_stands_here_is_refused(pair: Pair, scratch: Path) -> None:
    here, there = pair
    tmpfs(scratch / "here")
    with Mount.open(scratch / "here") as mount:
        with pytest.raises(InvalidSpec, match="attached"):
            send_mount(here, mount)
        send_raw(here, b"m", mount.fileno())
    with pytest.raises(InvalidSpec, match="attached"):
        receive_mount(there)
    umount(scratch / "here")


def test_no_descriptor_or_several_are_refused_and_closed(pair: Pair) -> None:
    here, there = pair
    send_raw(here, b"m")
    with pytest.raises(InvalidSpec, match="0 descriptors"):
        receive_mount(there)
    with fresh() as one, fresh() as two:
        send_raw(here, b"m", *[one.fileno(), two.fileno()] * 100)
    with pytest.raises(InvalidSpec, match="200 descriptors"):
        receive_mount(there)


def test_another_message_is_refused(pair: Pair) -> None:
    here, there = pair
    with fresh() as mount:
        send_raw(here, b"x", mount.fileno())
    with pytest.raises(InvalidSpec, match="send_mount"):
        receive_mount(there)


def test_a_longer_message_is_refused() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there, fresh() as mount:
        send_raw(here, b"more", mount.fileno())
        with pytest.raises(InvalidSpec, match="send_mount"):
            receive_mount(there)


def test_without_room_for_a_descriptor_it_says_so(pair: Pair) -> None:
    here, there = pair
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with fresh() as mount:
        send_mount(here, mount)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), limits[1]))
        free = [os.dup(0) for _ in range(_free())]
        with pytest.raises(LimitReached) as caught:
            receive_mount(there)
        for fd in free:
            os.close(fd)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert "RLIMIT_NOFILE" in str(caught.value.hint)


def _free() -> int:
    highest = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    count = 0
    for fd in range(highest):
        try:
            os.fstat(fd)
        except OSError:
            count += 1
    return count


def test_the_end_of_a_stream_is_told() -> None:
    here, there = socket.socketpair()
    with there:
        here.close()
        with pytest.raises(Gone, match="closed"):
            receive_mount(there)


def test_a_receiver_that_is_gone_is_told() -> None:
    here, there = socket.socketpair()
    with here, fresh() as mount:
        there.close()
        with pytest.raises(KernelError) as caught:
            send_mount(here, mount)
        assert caught.value.syscall == "sendmsg"


def test_sockets_that_do_not_wait_do_not(pair: Pair) -> None:
    here, there = pair
    there.setblocking(False)
    with pytest.raises(BlockingIOError):
        receive_mount(there)
    there.settimeout(0.01)
    with pytest.raises(TimeoutError):
        receive_mount(there)
    here.setblocking(False)
    with fresh() as mount:
        with contextlib.suppress(BlockingIOError):
            while True:
                here.send(b"x" * 1000)
        with pytest.raises(BlockingIOError):
            send_mount(here, mount)


def test_only_unix_sockets_and_mounts() -> None:
    with socket.socket(socket.AF_INET) as other, fresh() as mount:
        for act in (lambda: send_mount(other, mount), lambda: receive_mount(other)):
            with pytest.raises(InvalidSpec) as caught:
                act()
            assert caught.value.part == "sock"
    here, there = socket.socketpair()
    with here, there, pytest.raises(InvalidSpec) as caught:
        send_mount(here, here)  # type: ignore[arg-type]
    assert caught.value.part == "mount"


# --- a broker and its sandbox ----------------------------------------------------------------------------------------
def sandboxed(act: Callable[[socket.socket], None], serve: Callable[[socket.socket, UserNamespace], None]) -> None:
    """Let `act` run in a user and mount namespace of its own, as their root, and `serve` outside."""
    here, there = socket.socketpair()
    ready, mapped = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            here.close()
            calls.unshare(0x10000000 | 0x20000)
            os.write(ready[1], b"x")
            os.read(mapped[0], 1)
            os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            calls.mount(None, b"/", None, 0x4000 | 1 << 18, None)
            calls.mount(b"tmpfs", b"/mnt", b"tmpfs", 0, None)
            act(there)
            status = 0
        finally:
            os._exit(status)
    there.close()
    with here:
        os.read(ready[0], 1)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{name}").write_text("0 100000 65536")
        os.write(mapped[1], b"x")
        with UserNamespace.of(pid) as owner:
            serve(here, owner)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for fd in (*ready, *mapped):
        os.close(fd)


def refused(act: Callable[[], object]) -> bool:
    try:
        act()
    except OSError:
        return True
    return False


@pytest.mark.usefixtures("real_root")
def test_a_broker_serves_a_sandbox(scratch: Path) -> None:
    """The example of docs/namespaces.md."""
    (scratch / "data").mkdir()
    (scratch / "data" / "file").write_text("content")

    def sandbox(sock: socket.socket) -> None:
        with receive_mount(sock) as mount:
            mount.attach("/mnt")
        assert Path("/mnt/file").read_text() == "content"
        assert os.stat("/mnt/file").st_uid == 0
        with Mount.open("/mnt") as mount, pytest.raises(Denied):
            mount.set(clear=Attr.RDONLY)
        assert refused(lambda: Path("/mnt/new").touch())

    def broker(sock: socket.socket, owner: UserNamespace) -> None:
        with Mount.clone(scratch / "data") as mount:
            mount.idmap(SHIFTED).set(Attr.RDONLY | Attr.NODEV | Attr.NOSUID)
            with lock_mount(mount, owner) as locked:
                send_mount(sock, locked)

    sandboxed(sandbox, broker)


@pytest.mark.usefixtures("real_root")
def test_what_is_not_locked_the_receiver_can_loosen(scratch: Path) -> None:
    (scratch / "data").mkdir(mode=0o777)
    (scratch / "data").chmod(0o777)

    def sandbox(sock: socket.socket) -> None:
        with receive_mount(sock) as mount:
            assert mount.set(clear=Attr.RDONLY | Attr.NODEV | Attr.NOSUID)
            mount.attach("/mnt")
        Path("/mnt/new").touch()

    def broker(sock: socket.socket, _owner: UserNamespace) -> None:
        with Mount.clone(scratch / "data") as mount:
            send_mount(sock, mount.set(Attr.RDONLY | Attr.NODEV | Attr.NOSUID))

    sandboxed(sandbox, broker)
    assert (scratch / "data" / "new").exists()


@pytest.mark.usefixtures("real_root")
def test_what_stands_on_a_locked_one_stays(scratch: Path) -> None:
    tmpfs(scratch / "data")
    tmpfs(scratch / "data" / "cover")

    def sandbox(sock: socket.socket) -> None:
        with receive_mount(sock) as mount:
            mount.attach("/mnt")
        assert refused(lambda: calls.umount2(b"/mnt/cover", 2))
        assert refused(lambda: Mount.clone("/mnt"))

    def broker(sock: socket.socket, owner: UserNamespace) -> None:
        with Mount.clone(scratch / "data", recursive=True) as mount, lock_mount(mount, owner) as locked:
            send_mount(sock, locked)

    sandboxed(sandbox, broker)
    umount(scratch / "data" / "cover")
    umount(scratch / "data")


@pytest.mark.usefixtures("real_root")
def test_a_clone_can_be_attached_there_and_not_cloned_again_before(scratch: Path) -> None:
    (scratch / "data").mkdir()

    def sandbox(sock: socket.socket) -> None:
        with receive_mount(sock) as mount:
            assert refused(lambda: Mount.clone_fd(mount.fileno()).close())
            mount.attach("/mnt")
            Mount.clone_fd(mount.fileno()).close()

    def broker(sock: socket.socket, _owner: UserNamespace) -> None:
        with Mount.clone(scratch / "data") as mount:
            send_mount(sock, mount)

    sandboxed(sandbox, broker)


@pytest.mark.usefixtures("real_root")
def test_what_cannot_be_locked(scratch: Path) -> None:
    (scratch / "file").touch()
    with UserNamespace.new(SHIFTED) as owner, Mount.clone(scratch / "file") as file, pytest.raises(NotDirectory):
        lock_mount(file, owner)
    with UserNamespace.of(os.getpid()) as own, fresh() as mount, pytest.raises(InvalidSpec):
        lock_mount(mount, own)
