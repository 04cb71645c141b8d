"""A thread's way into a mount namespace of its own, and to the root that it shall have there."""

from __future__ import annotations

import os

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.handles.fd import OwnedFd
from mountfd.verbs.enter import leave_the_hosts, pivot_here

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mountfd.handles.mount import Mount

__all__ = ["enter_copy_of_host", "rooted_at"]

_CLONE_NEWNS = 0x20000
_MNT_DETACH = 2
_PATH = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_CLOEXEC


def rooted_at(root: Mount, enter: Callable[[], None]) -> int:
    """Enter a mount namespace, make a detached mount its root and the only one there, and give its descriptor.

    Arguments: root; enter, brings this thread into a namespace that nobody else uses.
    """
    # The new root has no /proc, so the way there is kept.
    with OwnedFd(calls.openat(n.AT_FDCWD, b"/proc", _PATH, 0)) as proc:
        enter()
        _take_root(root)
        found: int = calls.openat(proc.fileno(), b"thread-self/ns/mnt", _READ, 0)
        return found


def enter_copy_of_host() -> None:
    """Bring this thread into a private copy of its mount namespace; its root is that namespace's, also in a chroot."""
    calls.unshare(_CLONE_NEWNS)
    leave_the_hosts()


def _take_root(root: Mount) -> None:
    with _renewed(root) as newer:
        # pivot_root(2) takes no mount that stands nowhere, so it goes over "/" first; then the old root is upon it.
        newer.attach("/")
        calls.fchdir(newer.fileno())
        pivot_here()
        calls.chroot(b".")


def _renewed(root: Mount) -> Mount:
    """Copy a detached mount in this namespace, and take it away.

    listmount(2) of a foreign namespace finds the root only among ids above that of the hidden mount below it, and that
    one was made when the namespace was. A clone can be cloned where it was made or where it is attached.
    """
    root.attach("/")
    calls.fchdir(root.fileno())
    newer = root.clone_fd(root.fileno(), recursive=True)
    try:
        calls.umount2(b".", _MNT_DETACH)
    except BaseException:
        newer.close()
        raise
    return newer
