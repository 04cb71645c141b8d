"""Which rule keeps a mount from being attached beneath another: the kernel says EINVAL for each of them."""

from __future__ import annotations

import os
import stat

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.layouts import StatxBuffer
from mountfd.errors import KernelError
from mountfd.handles.namespace import in_initial_user_namespace

__all__ = ["why_not_beneath"]

_FLAGS = n.AT_STATX_DONT_SYNC | n.AT_NO_AUTOMOUNT
_MNT_ID_UNIQUE = 0x4000
_MOUNT_ROOT = 0x2000


def why_not_beneath(ours: int, target: int) -> str | None:
    """Name the rule that a mount and the place it should have gone beneath break.

    Arguments: ours, a descriptor of the mount's root; target, one of the place. None where they can't be looked at.
    """
    try:
        kinds = [stat.S_ISDIR(os.fstat(fd).st_mode) for fd in (ours, target)]
        is_root, covering = _look(target, b"", n.AT_EMPTY_PATH)
        _, moving = _look(ours, b"", n.AT_EMPTY_PATH)
        _, own = _look(n.AT_FDCWD, b"/", 0)
    except (OSError, KernelError):
        return None
    words = ("a directory", "a file") if kinds[0] else ("a file", "a directory")
    rules = (
        (not is_root, "no mount stands there, so there is nothing to go beneath: attach it the usual way"),
        (covering == own, "that is this process's own root: nothing can be attached beneath it before Linux 7.1"),
        (
            kinds[0] != kinds[1],
            f"the mount's root is {words[0]}, the target is {words[1]}: both must be of one kind",
        ),
        (covering == moving, "that is the mount itself"),
        (
            not in_initial_user_namespace(),
            "the mount that stands there came from a more privileged namespace: it is locked, before Linux 7.1",
        ),
        (
            True,
            (
                "the new mount stands on a shared one and can't be moved, or what stands there is a peer of the mount "
                "that it stands on: the new one would come back to it"
            ),
        ),
    )
    return next(rule for broken, rule in rules if broken)


def _look(at: int, raw: bytes, flags: int) -> tuple[bool, int]:
    buffer = StatxBuffer()
    calls.statx(at, raw, _FLAGS | flags, _MNT_ID_UNIQUE, calls.reference(buffer))
    return bool(buffer.stx_attributes & _MOUNT_ROOT), int(buffer.stx_mnt_id)
