"""Answers without statmount(2): from descriptors, /proc/thread-self/fdinfo and the mount table.

For kernels before 6.8, for seccomp filters that don't know the calls, and for mounts that are in no namespace.
A descriptor keeps its mount, and so the mount's old id, from being reused while the table is looked through.
"""

from __future__ import annotations

import os
import stat

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.flags import Attr
from mountfd.errors import KernelError, Missing, from_errno
from mountfd.model.info import MountInfo, from_fields
from mountfd.model.mountinfo import parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "OPEN_PATH",
    "find_old",
    "from_descriptor",
    "is_in_table",
    "is_mount_by_table",
    "old_id_of",
    "path_of",
    "read_table",
    "whole_table",
]

OPEN_PATH = os.O_PATH | os.O_CLOEXEC
_OPEN_READ = os.O_RDONLY | os.O_CLOEXEC
_ATTRS = {
    os.ST_RDONLY: Attr.RDONLY,
    os.ST_NOSUID: Attr.NOSUID,
    os.ST_NODEV: Attr.NODEV,
    os.ST_NOEXEC: Attr.NOEXEC,
    os.ST_NOATIME: Attr.NOATIME,
    os.ST_NODIRATIME: Attr.NODIRATIME,
    0x2000: Attr.NOSYMFOLLOW,
}
_BLOCK = 1 << 16
_NO_PROC = "this needs a /proc of the caller's own pid namespace"


def read_table(at: int = n.AT_FDCWD, path: bytes = b"/proc/thread-self/mountinfo") -> bytes:
    """Read a mount table whole: the calling thread's, who may be in another namespace than its process."""
    with open(_open_proc(at, path), "rb", buffering=0) as file:
        return bytes(file.readall())


def old_id_of(fd: int) -> int:
    """Give the reused id of the mount that a descriptor lies on."""
    lines = _open_proc(n.AT_FDCWD, b"/proc/thread-self/fdinfo/%d" % fd)
    try:
        for line in os.read(lines, _BLOCK).split(b"\n"):
            if line.startswith(b"mnt_id:"):
                return int(line.split()[1])
    finally:
        os.close(lines)
    raise Missing(2, "fdinfo", (fd,), hint=_NO_PROC)


def path_of(fd: int) -> str:
    """Give the path of a descriptor, as seen from the caller's root."""
    name = f"/proc/thread-self/fd/{fd}"
    try:
        return os.readlink(name)
    except OSError as error:
        raise from_errno(error.errno or 0, "readlink", (name,), filename=name, hint=_NO_PROC) from error


def whole_table() -> list[MountInfo]:
    """Read the table of this mount namespace."""
    return parse(read_table())


def is_in_table(id_old: int) -> bool:
    """Say whether a mount with this reused id stands where a path leads to it."""
    return find_old(whole_table(), id_old) is not None


def find_old(rows: Iterable[MountInfo], id_old: int) -> MountInfo | None:
    """Find a mount in a table by its reused id: the last one, since an older one with it must be gone."""
    found = None
    for info in rows:
        if info.id_old == id_old:
            found = info
    return found


def from_descriptor(fd: int, number: int) -> MountInfo:
    """Tell of the mount that a descriptor lies on what the table or, where it isn't in there, the descriptor tells.

    Arguments: fd; number, its unique id, or 0 where that isn't known.
    """
    status = _fstat(fd)
    try:
        id_old = old_id_of(fd)
        found = find_old(parse(read_table()), id_old)
    except Missing:
        if not number:
            raise
        id_old, found = None, None
    if found is None:
        found = from_fields({"id_old": id_old, "dev": _dev(status), "attrs": _attrs(fd)})
    found.id = number or None
    return found


def is_mount_by_table(raw: bytes, *, follow: bool) -> bool:
    """Compare a path with the point of the mount that it lies on: within one mount, only the root has that path."""
    fd = calls.openat(n.AT_FDCWD, raw, OPEN_PATH | (0 if follow else os.O_NOFOLLOW), 0)
    try:
        found, path = find_old(parse(read_table()), old_id_of(fd)), path_of(fd)
    finally:
        os.close(fd)
    return found is not None and path in {found.point, f"{found.point} (deleted)"}


def _open_proc(at: int, path: bytes) -> int:
    try:
        return calls.openat(at, path, _OPEN_READ, 0)
    except KernelError as error:
        error.explain(hint=_NO_PROC)
        raise


def _fstat(fd: int) -> os.stat_result:
    try:
        return os.fstat(fd)
    except OSError as error:
        raise from_errno(error.errno or 0, "fstat", (fd,)) from error


def _dev(status: os.stat_result) -> tuple[int, int] | None:
    # btrfs and overlayfs show numbers of their own for files, and btrfs for directories too.
    if not stat.S_ISDIR(status.st_mode):
        return None
    return os.major(status.st_dev), os.minor(status.st_dev)


def _attrs(fd: int) -> Attr:
    """Read what the mount's files feel: RDONLY may be the filesystem's, and of an idmap nothing is to be seen."""
    usage = os.fstatvfs(fd)
    attrs = Attr(0)
    for bit, attr in _ATTRS.items():
        if usage.f_flag & bit:
            attrs |= attr
    return attrs if usage.f_flag & (os.ST_NOATIME | os.ST_RELATIME) else attrs | Attr.STRICTATIME
