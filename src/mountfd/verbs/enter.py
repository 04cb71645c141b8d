"""Work done on a thread of its own: in a mount namespace of its own, which both end together, or with other ids."""

from __future__ import annotations

import os
from errno import EINVAL, EPERM

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.layouts import CapData, CapHeader
from mountfd.errors import KernelError, Missing, from_errno
from mountfd.handles.fd import OwnedFd
from mountfd.verbs.loading import without_imports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from mountfd.handles.mountns import MountNamespace

    T = TypeVar("T")

__all__ = [
    "in_namespace",
    "in_private_namespace",
    "leave_the_hosts",
    "namespace_here",
    "on_thread",
    "pivot_here",
    "take_ids",
    "take_namespace_root",
]

_CLONE_FS = 0x200
_CLONE_NEWNS = 0x20000
_MS_REC_PRIVATE = 16384 | 1 << 18
_MNT_DETACH = 2


def in_private_namespace(act: Callable[[], T], *, owned: bool = False) -> T:
    """Run a function on a thread in a private copy of this mount namespace.

    Arguments: act; owned, as of `on_thread`.
    What the function attaches there nobody else sees, and it is gone when the function returns, or when this process
    is killed. The thread has its own working directory. What the function raises is raised here.
    Calls: unshare(2) with CLONE_NEWNS, which a thread may do for itself alone.
    """

    def body() -> T:
        calls.unshare(_CLONE_NEWNS)
        _let_nothing_travel()
        return act()

    return on_thread(body, owned=owned)


def _let_nothing_travel() -> None:
    try:
        calls.mount(None, b"/", None, _MS_REC_PRIVATE, None)
    except KernelError as error:
        if error.errno != EINVAL:
            raise
        # In a chroot the root may be a directory of a mount: then go to that of the namespace, and come back.
        with OwnedFd(calls.openat(n.AT_FDCWD, b"/", os.O_PATH | os.O_CLOEXEC, 0)) as own:
            leave_the_hosts()
            calls.fchdir(own.fileno())
            calls.chroot(b".")


def leave_the_hosts() -> None:
    """Have a new mount namespace to oneself: its root, which alone can be pivoted away, and nothing that travels."""
    take_namespace_root()
    calls.mount(None, b"/", None, _MS_REC_PRIVATE, None)


def take_namespace_root() -> None:
    """Make the root of this mount namespace the thread's or process's own, also where mountfd was called in a chroot.

    Entering a mount namespace, here the one we are in, gives its root. Raises: Missing where there is no /proc.
    """
    with namespace_here() as here:
        calls.setns(here.fileno(), _CLONE_NEWNS)


def namespace_here() -> OwnedFd:
    """Hold this thread's mount namespace by a descriptor."""
    try:
        return OwnedFd(calls.openat(n.AT_FDCWD, b"/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC, 0))
    except Missing as error:
        error.explain(hint="in a chroot that has no /proc the way to the mount namespace can't be found")
        raise


def in_namespace(namespace: MountNamespace, act: Callable[[], T]) -> T:
    """Run a function on a thread that has entered a mount namespace; its working directory is that namespace's root.

    Nothing can be imported there: it would be that root's.
    Raises: Denied without CAP_SYS_ADMIN in the namespace's owner and CAP_SYS_CHROOT; what the function raises.
    Calls: setns(2), after unshare(2) with CLONE_FS, without which a thread may not go alone.
    """

    def body() -> T:
        calls.unshare(_CLONE_FS)
        calls.setns(namespace.fileno(), _CLONE_NEWNS)
        return act()

    return on_thread(lambda: without_imports(body))


def on_thread(act: Callable[[], T], *, owned: bool = False) -> T:
    """Run a function on a thread that ends with it, for what a thread may change for itself alone.

    Arguments: act; owned, whether it gives a handle, which is closed where an exception keeps it from being given.
    What the function raises is raised here. An exception that a signal handler raises meanwhile waits for the
    function's end: it works with descriptors that the caller would close.
    """
    from mountfd.verbs.threads import finish_on_thread  # noqa: PLC0415 (most assemblies and runs do without)

    results: list[T] = []
    try:
        finish_on_thread(lambda: results.append(act()))
    except BaseException:
        for result in results if owned else ():
            result.close()  # type: ignore[attr-defined]  # it is a handle
        raise
    return results.pop()


def pivot_here() -> None:
    """Make the mount that is the working directory the root of this namespace and of all who live here.

    The mount must be attached: pivot_root(2) takes none that stands nowhere. The old root goes with all that is on it.
    """
    try:
        calls.pivot_root(b".", b".")
    except KernelError as error:
        if error.errno == EINVAL:
            error.explain(hint="the root here is the initramfs itself, which can't be left before Linux 7.0")
        raise
    calls.umount2(b".", _MNT_DETACH)


def take_ids(uid: int, gid: int) -> None:
    """Give this thread other filesystem ids, and leave it every capability. Calls: setfsuid(2), capset(2)."""
    header, held = CapHeader(n.LINUX_CAPABILITY_VERSION_3, 0), CapData()
    calls.capget(calls.reference(header), calls.reference(held))
    if not calls.set_fs_ids(uid, gid):
        hint = "acting with the ids of an idmap needs CAP_SETUID and CAP_SETGID"
        raise from_errno(EPERM, "setfsuid", (uid, gid), hint=hint)
    # Leaving id 0 took the file capabilities out of the effective set; they are still permitted.
    wanted = CapData.from_buffer_copy(held)
    calls.capset(calls.reference(header), calls.reference(wanted))
