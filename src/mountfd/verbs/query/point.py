"""Is this path a mount? One statx(2), which knows bind mounts and mounted files too."""

from __future__ import annotations

import os
from errno import ENOSYS

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.layouts import StatxBuffer
from mountfd.abi.paths import encode
from mountfd.errors import KernelError
from mountfd.verbs.query.oldway import is_mount_by_fdinfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.abi.paths import StrPath

__all__ = ["is_mount"]

_MOUNT_ROOT = 0x2000
_MNT_ID_UNIQUE = 0x4000
# A dead server isn't asked: what the kernel has cached is enough to know whose root this is.
_FLAGS = n.AT_STATX_DONT_SYNC | n.AT_NO_AUTOMOUNT

_free: list[tuple[StatxBuffer, object]] = []


def is_mount(path: StrPath, *, follow: bool = True, bind: bool = True) -> bool:
    """Say whether a path is the root of a mount: a filesystem's, or a bind mount of a directory or file.

    Arguments: path; follow, whether a final symlink is followed; bind, whether mounts that show only a part of their
    filesystem count (a bind mount of a whole filesystem can't be told from a mount of it).
    Nothing is read from disk or network for it, and the cost doesn't depend on how many mounts there are.
    Raises: Missing, NotDirectory, Denied for a path that can't be resolved.
    Call: statx(2) with STATX_ATTR_MOUNT_ROOT, Linux 5.8; before that, openat(2) and /proc/self/fdinfo.
    """
    raw = path.encode() if type(path) is str and path.isascii() else os.fsencode(path)
    if not raw or b"\0" in raw:
        encode(raw)  # says what is wrong with it
    try:
        buffer, pointer = _free.pop()
    except IndexError:
        buffer = StatxBuffer()
        pointer = calls.reference(buffer)
    try:
        calls.statx(n.AT_FDCWD, raw, _FLAGS if follow else _FLAGS | n.AT_SYMLINK_NOFOLLOW, _MNT_ID_UNIQUE, pointer)
        known, attributes, mnt_id = buffer.stx_attributes_mask, buffer.stx_attributes, buffer.stx_mnt_id
    except KernelError as error:
        if error.errno != ENOSYS:
            raise
        known = 0
    finally:
        _free.append((buffer, pointer))
    if not known & _MOUNT_ROOT:
        return is_mount_by_fdinfo(raw, follow=follow)
    if not attributes & _MOUNT_ROOT:
        return False
    return bind or _is_whole(raw, mnt_id, follow=follow)


def _is_whole(raw: bytes, mnt_id: int, *, follow: bool) -> bool:
    from mountfd.verbs.query.lookup import lookup, lookup_id  # noqa: PLC0415 (only for bind=False)

    info = lookup_id(mnt_id, ("root",)) if mnt_id >= n.FIRST_UNIQUE_ID else lookup(raw, follow=follow)
    return info.root == "/"
