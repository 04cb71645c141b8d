"""Processes: what their descriptors, directories, programs and mapped files lie on.

statx(2) follows the links of /proc/PID to a file without opening it, and tells its mount's id: 5 us each.
"""

from __future__ import annotations

import os
from errno import EACCES, EINVAL, ENOENT, ENOSYS, EPERM, ESRCH
from stat import S_ISSOCK

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.layouts import StatxBuffer
from mountfd.errors import KernelError, from_errno
from mountfd.model.holder import Holder
from mountfd.verbs.holders import maps
from mountfd.verbs.query.place import FOLLOW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.verbs.holders.landscape import Landscape
    from mountfd.verbs.holders.sockets import Sockets

__all__ = ["Lens", "Process", "facts", "pids", "scan"]

GONE = frozenset((ENOENT, ESRCH))
REFUSED = frozenset((EPERM, EACCES))
_UNIQUE_ID, _OLD_ID = 0x4000, 0x1000
_CANNOT = frozenset((ENOSYS, EINVAL))
_KERNEL_THREAD = 0x200000  # PF_KTHREAD
_ENDED = (b"Z", b"X")


class Lens:
    """Where a link leads: statx(2) into one buffer.

    Attributes: mount_id, of the kind that the landscape's ids have, or 0 where the kernel tells neither; dev; mode;
    inode.
    """

    __slots__ = ("_buffer", "_mask", "_pointer", "dev", "inode", "mode", "mount_id")

    def __init__(self, *, unique: bool) -> None:
        """Choose the kind of ids."""
        self._buffer = StatxBuffer()
        self._pointer = calls.reference(self._buffer)
        self._mask = _UNIQUE_ID if unique else _OLD_ID
        self.mount_id = self.mode = self.inode = 0
        self.dev = (0, 0)

    def look(self, path: bytes, flags: int = FOLLOW, at: int = n.AT_FDCWD) -> bool:
        """Look at a path, or at a descriptor; False when there is nothing any more. Raises Denied, KernelError."""
        try:
            calls.statx(at, path, flags, self._mask, self._pointer)
        except KernelError as error:
            if error.errno in GONE:
                return False
            if error.errno not in _CANNOT:
                raise
            place = path or b"/proc/self/fd/%d" % at
            return self._look_plainly(place, follow=not flags & n.AT_SYMLINK_NOFOLLOW)
        seen = self._buffer
        self.mount_id = seen.stx_mnt_id if seen.stx_mask & self._mask else 0
        self.dev = (seen.stx_dev_major, seen.stx_dev_minor)
        self.mode, self.inode = seen.stx_mode, seen.stx_ino
        return True

    def _look_plainly(self, path: bytes, *, follow: bool) -> bool:
        try:
            status = os.stat(path, follow_symlinks=follow)
        except OSError as error:
            if error.errno in GONE:
                return False
            raise from_errno(error.errno or 0, "stat", (path,), filename=os.fsdecode(path)) from error
        self.mount_id, self.mode, self.inode = 0, status.st_mode, status.st_ino
        self.dev = (os.major(status.st_dev), os.minor(status.st_dev))
        return True


class Process:
    """One process under examination: makes holders of what is found there.

    Attributes: pid; at, the path of its directory; found; lost, ids of mounts that stand nowhere, by holder.
    """

    __slots__ = ("_own", "_seen", "at", "found", "land", "lens", "lost", "pid")

    def __init__(self, pid: int, land: Landscape, lens: Lens, *, own: bool) -> None:
        """Begin with nothing found."""
        self.pid, self.at, self.land, self.lens, self._own = pid, b"/proc/%d/" % pid, land, lens, own
        self.found: list[Holder] = []
        self.lost: list[tuple[int, Holder]] = []
        self._seen: set[tuple[str, int | None, str | None]] = set()

    def weigh(self, kind: str, link: bytes, fd: int | None = None, path: str | None = None) -> None:
        """Note a holder where what the lens sees is on the target, or on a mount of its filesystem that is lost."""
        lens, land = self.lens, self.land
        number = lens.mount_id
        if not number:
            if lens.dev not in land.devs:
                return
            number = 0 if fd is None else _old_id(link)
        if number in land.along:
            self.note(kind, link, True, number, fd, path)
        elif not land.is_standing and number == land.number:
            if land.target.dev is None:
                land.target.dev = lens.dev
            self.note(kind, link, False, number, fd, path)
        elif not number:
            self.note(kind, link, land.verdict(lens.dev, None, 0), None, fd, path)
        elif lens.dev == land.target.dev and number not in land.rows:
            self.note(kind, link, None if land.can_be_elsewhere else False, number, fd, path, lost=True)

    def note(  # noqa: PLR0913, PLR0917 (what is known of it)
        self,
        kind: str,
        link: bytes,
        blocks: bool | None,  # noqa: FBT001 (the fact)
        number: int | None,
        fd: int | None = None,
        path: str | None = None,
        *,
        lost: bool = False,
    ) -> None:
        """Note a holder, once."""
        shown = _readlink(link) if path is None else path
        if (kind, fd, shown) in self._seen:
            return
        self._seen.add((kind, fd, shown))
        land = self.land
        row = None if number is None or number == land.number or not land.is_standing else land.rows.get(number)
        command, uid = facts(self.pid)
        made = Holder(
            kind,
            blocks=blocks,
            pid=self.pid,
            command=command,
            uid=uid,
            fd=fd,
            path=shown,
            mount_id=number,
            ns_id=None if number is None else land.ns_of(number),
            point=None if row is None else row.point,
            is_own=self._own,
        )
        self.found.append(made)
        if lost and number is not None:
            self.lost.append((number, made))

    def has_noted(self, kind: str, path: str) -> bool:
        """Say whether a file was noted as of this kind already."""
        return (kind, None, path) in self._seen


def pids() -> list[int]:
    """List the processes that can be seen."""
    return sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())


def facts(pid: int) -> tuple[str | None, int | None]:
    """Give a process's name and user, as far as they are to be had."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = dict(line.partition(b":")[::2] for line in file)
    except OSError as error:
        calls.remark(f"holders: {error}")
        return None, None
    uid = lines.get(b"Uid", b"").split()
    return os.fsdecode(_name(lines.get(b"Name", b""))), int(uid[1]) if uid else None


def scan(land: Landscape, sockets: Sockets) -> list[Holder]:
    """Look into every process that can be seen; who ends meanwhile holds nothing."""
    lens = Lens(unique=land.unique)
    own = os.readlink("/proc/self")
    found: list[Holder] = []
    lost: list[tuple[int, Holder]] = []
    for pid in pids():
        process = Process(pid, land, lens, own=str(pid) == own)
        try:
            _examine(process, sockets)
        except PermissionError:
            process.found += _closed(pid)
        found += process.found
        lost += process.lost
    if lost:
        land.relist()  # or did those mounts come only after the listing?
        wrong = {holder for number, holder in lost if number in land.rows}
        found = [holder for holder in found if holder not in wrong]
    return found


def _examine(process: Process, sockets: Sockets) -> None:
    if not _begin(process):
        return
    _places(process, process.at)
    tables = [_descriptors(process, process.at, sockets, [])]
    maps.examine(process)
    # Threads share all of this, unless they have called unshare(2).
    for task in _listdir(b"/proc/%d/task" % process.pid):
        here = b"/proc/%d/task/%s/" % (process.pid, task)
        if process.at != b"/proc/%s/" % task and process.lens.look(here + b"exe"):
            _places(process, here)
            tables.append(_descriptors(process, here, sockets, tables))


def _begin(process: Process) -> bool:
    """Look at the program, and say whether there is a thread that lives and isn't the kernel's."""
    link = process.at + b"exe"
    if not process.lens.look(link):
        if _has_no_files(process.pid):
            return False
        # The first thread has ended before the others, and its directory is as good as empty.
        alive = (b"/proc/%s/" % task for task in _listdir(b"/proc/%d/task" % process.pid))
        at = next((at for at in alive if process.lens.look(at + b"exe")), None)
        if at is None:
            return False
        process.at = at
        link = at + b"exe"
    process.weigh("exe", link)
    return True


def _places(process: Process, at: bytes) -> None:
    for kind in ("cwd", "root"):
        if process.lens.look(link := at + kind.encode()):
            process.weigh(kind, link)


def _descriptors(process: Process, at: bytes, sockets: Sockets, before: list[list[bytes]]) -> list[bytes]:
    """Look at a table of descriptors, unless one with the same numbers was looked at; give its numbers."""
    names, there = sorted(_listdir(at + b"fd")), []
    if names in before:
        return names
    lens, at = process.lens, at + b"fd/"
    bound, dev = sockets.bound, sockets.dev
    for name in names:
        link = at + name
        try:
            if not lens.look(link):
                continue  # closed meanwhile, or what our own process had open for the listing
        except KernelError as error:
            if error.errno in REFUSED:
                raise
            calls.remark(f"holders: {error}")  # a filesystem that is out of order
            process.note("file", link, None, None, int(name))
            continue
        there.append(name)
        if lens.inode in bound and S_ISSOCK(lens.mode) and lens.dev == dev:
            sockets.weigh(process, link, int(name), lens.inode)
        else:
            process.weigh("file", link, int(name))
    return there


def _closed(pid: int) -> list[Holder]:
    if _has_no_files(pid):
        return []
    command, uid = facts(pid)
    return [Holder("process", blocks=None, pid=pid, command=command, uid=uid)]


def _has_no_files(pid: int) -> bool:
    """Say whether it is a thread of the kernel's, or has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, *rest = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return True
    # A process whose first thread has ended looks like a zombie, and goes on.
    return bool(int(rest[5]) & _KERNEL_THREAD) or (state in _ENDED and int(rest[16]) <= 1)


def _listdir(path: bytes) -> list[bytes]:
    try:
        return os.listdir(path)
    except (FileNotFoundError, ProcessLookupError):
        return []


def _readlink(link: bytes) -> str | None:
    try:
        return os.fsdecode(os.readlink(link))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def _old_id(link: bytes) -> int:
    """Give the reused id of a descriptor's mount: before Linux 5.8 only fdinfo tells it."""
    try:
        with open(link.replace(b"/fd/", b"/fdinfo/"), "rb") as file:
            return next((int(line[7:]) for line in file if line.startswith(b"mnt_id:")), 0)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0


def _name(field: bytes) -> bytes:
    return field.strip(b"\t\n").replace(b"\\n", b"\n").replace(b"\\\\", b"\\")
