"""Answers without statmount(2): from descriptors, /proc/self/fdinfo and the mount table.

For kernels before 6.8, and for seccomp filters that don't know the calls.
"""

from __future__ import annotations

import os
import stat

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.flags import Attr
from mountfd.errors import Gone
from mountfd.model.info import MountInfo, from_fields
from mountfd.model.mountinfo import parse

__all__ = ["attrs_of", "find_old", "is_mount_by_fdinfo", "old_id_of", "read_table"]

_PATH = os.O_PATH | os.O_CLOEXEC
_ATTRS = {
    os.ST_RDONLY: Attr.RDONLY,
    os.ST_NOSUID: Attr.NOSUID,
    os.ST_NODEV: Attr.NODEV,
    os.ST_NOEXEC: Attr.NOEXEC,
    os.ST_NOATIME: Attr.NOATIME,
    os.ST_NODIRATIME: Attr.NODIRATIME,
}
_BLOCK = 1 << 16


def read_table(at: int = n.AT_FDCWD, path: bytes = b"/proc/self/mountinfo") -> bytes:
    """Read a mount table whole."""
    fd = calls.openat(at, path, os.O_RDONLY | os.O_CLOEXEC, 0)
    try:
        parts = []
        while part := os.read(fd, _BLOCK):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def old_id_of(fd: int) -> int:
    """Give the reused id of the mount that a descriptor lies on."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as lines:
        for line in lines:
            if line.startswith(b"mnt_id:"):
                return int(line.split()[1])
    raise Gone(f"/proc/self/fdinfo/{fd} names no mount")


def find_old(id_old: int) -> MountInfo:
    """Find a mount in the table by its reused id. Raises Gone."""
    for info in parse(read_table()):
        if info.id_old == id_old:
            return info
    raise Gone(f"no mount with the id {id_old} can be reached from here")


def attrs_of(fd: int) -> MountInfo:
    """Tell of a mount that is in no table what its descriptor tells."""
    status, usage = os.fstat(fd), os.fstatvfs(fd)
    attrs = Attr(0)
    for bit, attr in _ATTRS.items():
        if usage.f_flag & bit:
            attrs |= attr
    return from_fields(
        {"id_old": old_id_of(fd), "dev": (os.major(status.st_dev), os.minor(status.st_dev)), "attrs": attrs}
    )


def is_mount_by_fdinfo(raw: bytes, *, follow: bool) -> bool:
    """Compare the mount of a path with that of the directory above it."""
    flags = _PATH | (0 if follow else os.O_NOFOLLOW)
    here = calls.openat(n.AT_FDCWD, raw, flags, 0)
    try:
        if stat.S_ISDIR(os.fstat(here).st_mode):
            above = calls.openat(here, b"..", _PATH, 0)
        else:
            real = os.readlink(b"/proc/self/fd/%d" % here) if follow else raw
            above = calls.openat(n.AT_FDCWD, os.path.dirname(real) or b".", _PATH, 0)
        try:
            # The root of everything is its own parent, and a mount.
            return old_id_of(here) != old_id_of(above) or os.path.sameopenfile(here, above)
        finally:
            os.close(above)
    finally:
        os.close(here)
