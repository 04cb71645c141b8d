"""How a layer's directory is found, and what is asked about it: names below descriptors, mounts, the kernel's paths."""

from __future__ import annotations

import os
from errno import EACCES, EAGAIN, EINVAL, ELOOP, ENOENT, ENOSYS, ENOTDIR, EOPNOTSUPP, EPERM, EXDEV

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.layouts import MntIdReq, OpenHow, StatxBuffer
from mountfd.errors import KernelError, from_errno
from mountfd.handles.root import walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.model.overlay import Layer

__all__ = [
    "HOW",
    "IN_BASE",
    "IN_CLONE",
    "NOT_BY_NAME",
    "PATH_DIR",
    "Found",
    "Place",
    "all_lie_on",
    "blame",
    "has_nothing_below",
    "mount_of",
    "open_across",
    "open_below",
    "open_directory",
    "open_to_read",
    "real_path",
]

PATH_DIR = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_READ_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_HOW_SIZE = 24
_NO_XDEV = 0x01
IN_CLONE = 0x08 | 0x04 | _NO_XDEV  # RESOLVE_BENEATH | NO_SYMLINKS | NO_XDEV: the name means its text, or fails
IN_BASE = 0x10 | 0x02 | _NO_XDEV  # RESOLVE_IN_ROOT | NO_MAGICLINKS | NO_XDEV
_ACROSS = IN_BASE & ~_NO_XDEV
_HOW_HELD = {resolve: OpenHow(PATH_DIR, 0, resolve) for resolve in (IN_CLONE, IN_BASE, _ACROSS)}
HOW = {resolve: calls.reference(how) for resolve, how in _HOW_HELD.items()}
_HOW_TO_READ_HELD = {resolve: OpenHow(_READ_DIR, 0, resolve) for resolve in (IN_CLONE, IN_BASE)}
_HOW_TO_READ = {resolve: calls.reference(how) for resolve, how in _HOW_TO_READ_HELD.items()}
# Why a name below a clone may fail although the layer's path is good.
NOT_BY_NAME = (ELOOP, EXDEV, ENOENT, ENOTDIR, ENOSYS)
_NOT_THERE = (ELOOP, ENOENT, ENOTDIR)
_MNT_ID = 0x1000
_MNT_ID_UNIQUE = 0x4000
_WHY = {
    ENOTDIR: "is not a directory",
    ENOENT: "doesn't exist",
    EACCES: "can't be reached by this user",
}
_WHY_NO_CLONE = {
    EPERM: "can't be cloned without CAP_SYS_ADMIN",
    EINVAL: "can't be cloned: it lies on an unbindable mount, or a locked one stands below it",
}


_free: list[tuple[StatxBuffer, object]] = []  # each taken by one call at a time


class Place:
    """Where a layer is found: a name below a held mount, or with an empty name that mount's root itself."""

    __slots__ = ("holder", "layer", "name", "resolve")

    def __init__(self, layer: Layer, holder: int, name: bytes, resolve: int) -> None:
        """Keep the layer, the borrowed descriptor, the name below it and how openat2(2) shall walk."""
        self.layer, self.holder, self.name, self.resolve = layer, holder, name, resolve


class Found:
    """What the kernel says about a layer's directory: its path (empty where it has none here) and its identity."""

    __slots__ = ("_stat", "layer", "real")

    def __init__(self, layer: Layer, fd: int) -> None:
        """Ask about a directory that is open."""
        self.layer = layer
        self._stat = os.fstat(fd)
        self.real = real_path(fd)

    def is_at(self, at: int, name: bytes) -> bool:
        """Say whether a name below a descriptor is this directory: paths change, and some only look like one."""
        try:
            return os.path.samestat(self._stat, os.stat(name, dir_fd=at, follow_symlinks=False))
        except OSError:
            return False


def real_path(fd: int) -> bytes:
    """Give the path that the kernel has for a descriptor; nothing without /proc, or where it is beyond the root."""
    try:
        real = os.readlink(b"/proc/self/fd/%d" % fd)
    except OSError:
        return b""
    return real if real.startswith(b"/") else b""


def open_below(at: int, place: Place) -> int:
    """Open a place's name by O_PATH below a descriptor, as strictly as the place wants; the caller closes it."""
    return _open(at, place, place.resolve)


def open_to_read(place: Place) -> int:
    """Open a place's name for reading, as strictly as the place wants; the caller closes it."""
    try:
        return calls.openat2(place.holder, place.name, _HOW_TO_READ[place.resolve], _HOW_SIZE)
    except KernelError as error:
        if error.errno not in (ENOSYS, EAGAIN):
            raise
    path = open_below(place.holder, place)
    try:
        return calls.openat(path, b".", _READ_DIR, 0)
    finally:
        os.close(path)


def open_across(place: Place) -> int:
    """Open a place's name below its base, where a mount that stands on the base is crossed; the caller closes it."""
    return _open(place.holder, place, _ACROSS)


def _open(at: int, place: Place, resolve: int) -> int:
    try:
        return calls.openat2(at, place.name, HOW[resolve], _HOW_SIZE)
    except KernelError as error:
        if error.errno not in (ENOSYS, EAGAIN) or resolve == IN_CLONE:
            raise
    found = walk(at, place.name, directory=True)
    if resolve & _NO_XDEV and mount_of(found.fileno(), b"") != mount_of(at, b""):
        found.close()
        raise from_errno(EXDEV, "openat", (at, place.name))
    return found.release()


def open_directory(layer: Layer) -> int:
    """Open a layer's directory by its own path, which has no base; the caller closes the descriptor."""
    try:
        return calls.openat(n.AT_FDCWD, layer.raw, PATH_DIR, 0)
    except KernelError as error:
        raise blame(error, layer) from None


def blame(error: KernelError, layer: Layer) -> KernelError:
    """Name the layer in an error: its own path instead of a name below some descriptor."""
    error.filename = layer.path
    if (why := (_WHY_NO_CLONE if error.syscall == "open_tree" else _WHY).get(error.errno)) is not None:
        error.explain(hint=f"the layer {layer.path!r} {why}")
    return error


def mount_of(at: int, name: bytes) -> int:
    """Give the id of the mount on which a name below a descriptor lies; -1 when there is no such name."""
    try:
        buffer, pointer = _free.pop()
    except IndexError:
        buffer = StatxBuffer()
        pointer = calls.reference(buffer)
    flags = n.AT_STATX_DONT_SYNC | n.AT_NO_AUTOMOUNT | (0 if name else n.AT_EMPTY_PATH)
    try:
        calls.statx(at, name, flags, _MNT_ID_UNIQUE, pointer)
        if not buffer.stx_mask & _MNT_ID_UNIQUE:
            calls.statx(at, name, flags, _MNT_ID, pointer)
        known, number = buffer.stx_mask, int(buffer.stx_mnt_id)
    except KernelError as error:
        if error.errno in _NOT_THERE:
            return -1
        raise
    finally:
        _free.append((buffer, pointer))
    if not known & (_MNT_ID_UNIQUE | _MNT_ID):
        raise from_errno(EOPNOTSUPP, "statx", (at, name), hint="mount ids came with Linux 5.8", feature="STATX_MNT_ID")
    return number


def all_lie_on(at: int, names: list[bytes], mount_id: int) -> bool:
    """Say whether every name below a descriptor lies on one mount, whose unique id is given."""
    flags = n.AT_STATX_DONT_SYNC | n.AT_NO_AUTOMOUNT
    if mount_id >= n.FIRST_UNIQUE_ID and calls.all_lie_on(at, names, mount_id, flags, _MNT_ID_UNIQUE):
        return True
    return all(mount_of(at, name) == mount_id for name in names)


def has_nothing_below(mount_id: int) -> bool:
    """Say for sure that no mount stands on another one; False when this kernel can't tell."""
    request = MntIdReq(n.MNT_ID_REQ_SIZE_VER0, 0, mount_id, 0, 0)
    try:
        return not calls.list_ids(calls.reference(request), 1)
    except KernelError as error:
        if error.errno in (EINVAL, ENOENT, ENOSYS, EPERM):
            return False
        raise
