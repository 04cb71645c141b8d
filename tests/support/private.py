"""A mount namespace for the test process alone: the host's table is never touched.

The process moves itself, so there is no second one to start. It must do so while it has one thread.
ctypes stands here again, apart from the library, because a test must not rest on what it tests.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

CLONE_NEWNS = 0x0002_0000
CLONE_NEWUSER = 0x1000_0000
MNT_DETACH = 2
MS_REC = 0x4000
MS_PRIVATE = 0x4_0000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)


def enter() -> None:
    """Move this process into a new mount namespace, and a user namespace where that takes one.

    From then on no mount travels from or to the host. Raises OSError where neither is allowed.
    """
    outside = os.readlink("/proc/self/ns/mnt")
    try:
        _check(_libc.unshare(CLONE_NEWNS), "unshare")
    except PermissionError:
        _enter_user_namespace()
    _check(_libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "/")
    if os.readlink("/proc/self/ns/mnt") == outside:
        raise RuntimeError("unshare succeeded, but the mount namespace is the same")


def mount_tmpfs(point: Path) -> None:
    """Mount an empty tmpfs; it can be an overlay's upper layer."""
    _check(_libc.mount(b"tmpfs", os.fsencode(point), b"tmpfs", 0, b"mode=755"), str(point))


def unmounted(point: Path) -> bool:
    """Unmount, never lazily, and say whether that went: it does not while something is open or mounted there."""
    try:
        _check(_libc.umount2(os.fsencode(point), 0), str(point))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def detach(point: Path) -> None:
    """Unmount lazily, whatever is below or open there."""
    _check(_libc.umount2(os.fsencode(point), MNT_DETACH), str(point))


def _enter_user_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    _check(_libc.unshare(CLONE_NEWUSER | CLONE_NEWNS), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        Path(f"/proc/self/{name}").write_text(text)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
