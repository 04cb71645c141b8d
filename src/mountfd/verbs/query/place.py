"""On which mount a path or descriptor lies, and whether it is that mount's root: one statx(2) each."""

from __future__ import annotations

from errno import EINVAL, ENOSYS, EPERM

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.layouts import StatxBuffer
from mountfd.errors import KernelError

__all__ = ["FOLLOW", "HERE", "NOFOLLOW", "facts_of", "id_of", "is_root", "stands_here"]

# A dead server isn't asked: what the kernel has cached is enough to know on whose mount this is.
FOLLOW = n.AT_STATX_DONT_SYNC | n.AT_NO_AUTOMOUNT
NOFOLLOW = FOLLOW | n.AT_SYMLINK_NOFOLLOW
HERE = FOLLOW | n.AT_EMPTY_PATH

_TYPE = 0x1
_MNT_ID_UNIQUE = 0x4000
_MOUNT_ROOT = 0x2000
# EINVAL is glibc's: where there is no statx(2) it does with stat(2) what that can, and no more.
_CANNOT = (ENOSYS, EPERM, EINVAL)

# Buffers; each is taken by one call at a time, also where a signal handler asks in between.
_free: list[tuple[StatxBuffer, object]] = []


def id_of(at: int, raw: bytes, flags: int) -> int:
    """Give the unique id of the mount that a path lies on; 0 before Linux 6.8, and where a filter forbids statx(2)."""
    try:
        buffer, pointer = _free.pop()
    except IndexError:
        buffer, pointer = _new()
    try:
        calls.statx(at, raw, flags, _MNT_ID_UNIQUE, pointer)
        return buffer.stx_mnt_id if buffer.stx_mask & _MNT_ID_UNIQUE else 0
    except KernelError as error:
        if error.errno not in _CANNOT:
            raise
        return 0
    finally:
        _free.append((buffer, pointer))


def is_root(at: int, raw: bytes, flags: int) -> bool | None:
    """Say whether a path is a mount's root; None before Linux 5.8, and where a filter forbids statx(2)."""
    try:
        buffer, pointer = _free.pop()
    except IndexError:
        buffer, pointer = _new()
    try:
        calls.statx(at, raw, flags, 0, pointer)
        if buffer.stx_attributes & _MOUNT_ROOT:
            return True
        return False if buffer.stx_attributes_mask & _MOUNT_ROOT else None
    except KernelError as error:
        if error.errno not in _CANNOT:
            raise
        return None
    finally:
        _free.append((buffer, pointer))


def facts_of(fd: int) -> tuple[int, int, bool]:
    """Give the unique id of the mount that a descriptor lies on, its file's mode, and whether that is the mount's root.

    Call: statx(2) with STATX_MNT_ID_UNIQUE, Linux 6.8.
    """
    try:
        buffer, pointer = _free.pop()
    except IndexError:
        buffer, pointer = _new()
    try:
        calls.statx(fd, b"", HERE, _TYPE | _MNT_ID_UNIQUE, pointer)
        return buffer.stx_mnt_id, buffer.stx_mode, bool(buffer.stx_attributes & _MOUNT_ROOT)
    finally:
        _free.append((buffer, pointer))


def stands_here(fd: int) -> bool:
    """Say whether the mount that a descriptor lies on is attached in this mount namespace.

    Raises: before Linux 6.8, and where a filter forbids to ask for one mount, Missing where there is no /proc.
    """
    # A detached mount has an id, too, and nothing else has that as long as it lives.
    if number := id_of(fd, b"", HERE):
        from mountfd.verbs.query.asking import stands  # noqa: PLC0415 (beside its use)

        try:
            return stands(number)
        except KernelError as error:
            if error.errno not in _CANNOT:
                raise
    from mountfd.verbs.query.oldway import is_in_table, old_id_of  # noqa: PLC0415 (old kernels and filters only)

    return is_in_table(old_id_of(fd))


def _new() -> tuple[StatxBuffer, object]:
    buffer = StatxBuffer()
    return buffer, calls.reference(buffer)
