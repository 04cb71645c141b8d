"""Sockets bound to a path: they hold the mount that the path was on when they were bound.

Neither the socket's own descriptor nor a name in /proc/net/unix says which mount that is. sock_diag(7) tells the
filesystem and the inode, namespace by namespace of the network. SIOCUNIXFILE opens the file that a socket is bound to,
on its mount: of a process that we may trace, with CAP_NET_ADMIN. Else there is the name, where it still leads there;
another namespace may have the same name on another mount.

    netlink header   len type flags seq pid                          =IHHII
    request          family protocol pad states ino show cookie x 2  =BBHIIIII
    answer           family type state pad ino cookie x 2            =BBBBIII, then attributes len kind value
"""

from __future__ import annotations

import os
import struct
from contextlib import ExitStack
from stat import S_ISSOCK

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.errors import KernelError
from mountfd.handles.fd import OwnedFd
from mountfd.model.holder import Holder
from mountfd.verbs.enter import on_thread
from mountfd.verbs.query.place import HERE, NOFOLLOW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountfd.verbs.holders.landscape import Landscape
    from mountfd.verbs.holders.processes import Lens, Process

__all__ = ["Sockets", "bound_sockets"]

_SOCK_DIAG, _BY_FAMILY, _ERROR, _DONE = 4, 20, 2, 3
_REQUEST_DUMP = 0x301
_AF_UNIX, _AF_NETLINK = 1, 16
_SHOW_NAME, _SHOW_VFS = 1, 2
_NAME, _VFS = 0, 1
_HEADER, _ATTRIBUTE, _PLACE, _INODE = (struct.Struct(form) for form in ("=IHHII", "=HH", "=II", "=I"))
_BODY = 16
_MINOR_BITS = 20
_NEWNET = 0x40000000
_LARGEST = 1 << 16


class Bound:
    """One bound socket: its name, and the filesystem and inode of that; None and 0 where only the name is known."""

    __slots__ = ("dev", "has_holder", "inode", "name")

    def __init__(self, name: str, dev: tuple[int, int] | None, inode: int) -> None:
        """Keep them."""
        self.name, self.dev, self.inode, self.has_holder = name, dev, inode, False


class Sockets:
    """The bound sockets by their own inode number; dev is the filesystem of all sockets."""

    __slots__ = ("bound", "dev", "land")

    def __init__(self, land: Landscape, dev: tuple[int, int]) -> None:
        """Begin with none."""
        self.land, self.dev = land, dev
        self.bound: dict[int, Bound] = {}

    def weigh(self, process: Process, link: bytes, fd: int, inode: int) -> None:
        """Note a process that has a bound socket open."""
        bound = self.bound[inode]
        bound.has_holder = True
        if self._looks_at_file(process, fd, inode):
            process.weigh("socket", link, fd, bound.name)
            return
        verdict, number = self._verdict(bound, process.lens, process.at + b"root", process.at + b"cwd")
        stands_elsewhere = number in self.land.rows  # as with files: who is on that copy is no holder of this one
        if verdict is not False or (bound.dev == self.land.target.dev and not stands_elsewhere):
            process.note("socket", link, verdict, number, fd, path=bound.name)

    def _looks_at_file(self, process: Process, fd: int, inode: int) -> bool:
        """Have the process's lens look at the file that a socket is bound to; False where that can't be opened."""
        try:
            with ExitStack() as held:
                pidfd = held.enter_context(OwnedFd(calls.pidfd_open(process.pid, 0)))
                own = held.enter_context(OwnedFd(calls.pidfd_getfd(pidfd.fileno(), fd, 0)))
                # It may be closed and used again by now, or be in the table of one thread alone.
                status = os.fstat(own.fileno())
                if status.st_ino != inode or (os.major(status.st_dev), os.minor(status.st_dev)) != self.dev:
                    return False
                file = held.enter_context(OwnedFd(calls.ioctl_fd(own.fileno(), n.SIOCUNIXFILE, 0)))
                return process.lens.look(b"", HERE, file.fileno()) and process.lens.mount_id != 0
        except KernelError as error:
            calls.remark(f"holders: {error}: the socket's file can't be opened, so its name tells the mount")
            return False

    def orphans(self, lens: Lens) -> Iterator[Holder]:
        """Give the bound sockets that no process was seen to have."""
        for bound in self.bound.values():
            if not bound.has_holder:
                verdict, number = self._verdict(bound, lens, b"", b".")
                if verdict and not self.land.is_whole:
                    verdict = None  # it may be of a namespace that has the same name on a mount of its own
                if verdict is not False:
                    yield Holder("socket", blocks=verdict, path=bound.name, mount_id=number)

    def _verdict(self, bound: Bound, lens: Lens, root: bytes, cwd: bytes) -> tuple[bool | None, int | None]:
        raw = os.fsencode(bound.name)
        path = root + raw if raw.startswith(b"/") else cwd + b"/" + raw
        resolved, dev = 0, bound.dev
        try:
            if lens.look(path, NOFOLLOW) and S_ISSOCK(lens.mode) and bound.inode in {0, lens.inode & 0xFFFFFFFF}:
                resolved = lens.mount_id
        except KernelError as error:
            calls.remark(f"holders: {error}")  # a place on the way that we may not walk through
        if dev is None:
            dev = self.land.rows[resolved].dev if resolved in self.land.rows else None
        if dev is None:
            return False, None
        return self.land.verdict(dev, bound.name if raw.startswith(b"/") else None, resolved), resolved or None


def bound_sockets(land: Landscape, pids: list[int]) -> Sockets:
    """Find the sockets bound on the filesystems in question, in every network namespace that can be entered."""
    import socket  # noqa: PLC0415 (4 ms that most of this library never needs)

    first, second = socket.socketpair()
    with first, second:
        dev = os.fstat(first.fileno()).st_dev
    sockets = Sockets(land, (os.major(dev), os.minor(dev)))
    for pid in _one_of_each_network(pids):
        if pid is None:
            found = _dump(land)
        elif _has_any(_table(pid)):
            found = _dump_inside(land, pid)
        else:
            continue
        sockets.bound.update(_from_table(_table(pid)) if found is None else found)
    return sockets


def _one_of_each_network(pids: list[int]) -> list[int | None]:
    seen = {os.stat("/proc/thread-self/ns/net").st_ino}
    found: list[int | None] = [None]
    for pid in pids:
        try:
            inode = os.stat(f"/proc/{pid}/ns/net").st_ino
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended; or the scan of processes names it as one that can't be looked into
        if inode not in seen:
            seen.add(inode)
            found.append(pid)
    return found


# --- asking the kernel ---------------------------------------------------------------------------------------------
def _dump_inside(land: Landscape, pid: int) -> dict[int, Bound] | None:
    """Ask in a process's network namespace, on a thread that goes there."""

    def body() -> dict[int, Bound] | None:
        fd = calls.openat(n.AT_FDCWD, b"/proc/%d/ns/net" % pid, os.O_RDONLY | os.O_CLOEXEC, 0)
        try:
            calls.setns(fd, _NEWNET)
        finally:
            os.close(fd)
        return _dump(land)

    try:
        return on_thread(body)
    except KernelError as error:
        calls.remark(f"holders: the network namespace of {pid} can't be entered ({error}): its table of names")
        return None


def _dump(land: Landscape) -> dict[int, Bound] | None:
    """Ask in the calling thread's network namespace; None where the kernel has no sock_diag for these."""
    import socket  # noqa: PLC0415 (see above)

    wanted = land.devs if land.target.dev is None else land.devs | {land.target.dev}
    body = struct.pack("=BBHIIIII", _AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _SHOW_NAME | _SHOW_VFS, 0, 0)
    found: dict[int, Bound] = {}
    try:
        with socket.socket(_AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as asking:
            asking.send(_HEADER.pack(_HEADER.size + len(body), _BY_FAMILY, _REQUEST_DUMP, 1, 0) + body)
            while True:
                for kind, message in _messages(asking.recv(_LARGEST)):
                    if kind == _DONE:
                        return found
                    if kind == _ERROR:
                        calls.remark("holders: no sock_diag for AF_UNIX: the table of names")
                        return None
                    _read(message, wanted, found)
    except OSError as error:
        calls.remark(f"holders: no sock_diag ({error}): the table of names")
        return None


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def _read(message: bytes, wanted: frozenset[tuple[int, int]], found: dict[int, Bound]) -> None:
    number = _INODE.unpack_from(message, 4)[0]
    attributes, rest = {}, message[_BODY:]
    while len(rest) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(rest)
        attributes[kind] = rest[_ATTRIBUTE.size : length]
        rest = rest[(length + 3) & ~3 :]
    if _VFS not in attributes:
        return
    inode, raw = _PLACE.unpack(attributes[_VFS])
    dev = (raw >> _MINOR_BITS, raw & ((1 << _MINOR_BITS) - 1))
    if not wanted or dev in wanted:
        found[number] = Bound(os.fsdecode(attributes.get(_NAME, b"").rstrip(b"\0")), dev, inode)


# --- the table of names --------------------------------------------------------------------------------------------
def _table(pid: int | None) -> bytes:
    try:
        with open("/proc/thread-self/net/unix" if pid is None else f"/proc/{pid}/net/unix", "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def _has_any(table: bytes) -> bool:
    return any(_fields(line) for line in table.split(b"\n"))


def _from_table(table: bytes) -> dict[int, Bound]:
    pairs = filter(None, map(_fields, table.split(b"\n")))
    return {number: Bound(os.fsdecode(name), None, 0) for number, name in pairs}


def _fields(line: bytes) -> tuple[int, bytes] | None:
    """Read the inode number and the path of a line: Num RefCount Protocol Flags Type St Inode Path."""
    fields = line.split(None, 7)
    if len(fields) < 8 or not fields[6].isdigit() or fields[7].startswith(b"@"):  # noqa: PLR2004 (as in the docstring)
        return None
    return int(fields[6]), fields[7]
