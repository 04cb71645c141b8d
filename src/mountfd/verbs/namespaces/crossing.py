"""Across the border to another user namespace: what is mounted gets locked there, and belongs to its root.

The kernel locks mounts when a mount namespace is copied into another user namespace: then nobody inside can take one
away from what it covers, or make it writable, or allow devices and set-user-id programs on it. A process with threads
can't enter a user namespace, so this is the one thing here that needs a fork. The child makes three calls, sends what
came of them, and ends; whenever it, or this process, is killed, nothing stays.
"""

from __future__ import annotations

import os
import signal
from errno import EMFILE, EPERM
from sys import byteorder

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.errors import KernelError, MountfdError, from_errno
from mountfd.handles.refused import why_not
from mountfd.verbs.threads import descriptor_by_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import NoReturn

    from mountfd.handles.fd import OwnedFd
    from mountfd.handles.namespace import UserNamespace

__all__ = ["cross", "is_own", "locked_tree", "owned_namespace"]

_NEWNS = 0x20000
_NEWUSER = 0x10000000
_OPEN_TREE_CLONE = 1
_PATH = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_CLOEXEC
_ANSWER = 65536
_INT = 4


def is_own(owner: UserNamespace) -> bool:
    """Say whether a user namespace is the one that this process is in."""
    return os.path.samestat(os.fstat(owner.fileno()), os.stat("/proc/self/ns/user"))


def owned_namespace(proc: int) -> int:
    """Give the copy itself; for `cross`."""
    found: int = calls.openat(proc, b"self/ns/mnt", _READ, 0)
    return found


def locked_tree(_proc: int) -> int:
    """Give a detached clone of all that is mounted in the copy, with its locks; for `cross`."""
    flags = _OPEN_TREE_CLONE | n.AT_RECURSIVE | os.O_CLOEXEC
    clone: int = calls.open_tree(n.AT_FDCWD, b"/", flags)
    return clone


def cross(namespace: OwnedFd, owner: UserNamespace, take: Callable[[int], int]) -> int:
    """Copy a mount namespace into a user namespace, and give a descriptor of what was taken there.

    Arguments: namespace, with nothing in it that its owner shall not see; owner; take, called in the child's copy with
    a descriptor of /proc.
    Raises: Denied without CAP_SYS_ADMIN in the owner; what `take` raises.
    """
    # Handlers run in the main thread alone: on another none can raise between the fork and the wait.
    return descriptor_by_thread(lambda: _crossed(namespace, owner, take))


def _crossed(namespace: OwnedFd, owner: UserNamespace, take: Callable[[int], int]) -> int:
    import socket  # noqa: PLC0415 (only for this)

    from mountfd.verbs.run.inside import fork, guarded  # noqa: PLC0415

    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        pid = fork()
        if pid == 0:
            guarded(there.fileno(), lambda: _child(namespace, owner, take, there))
        _await(pid)
        return _received(here)


def _child(namespace: OwnedFd, owner: UserNamespace, take: Callable[[int], int], parent: socket.socket) -> NoReturn:
    import socket  # noqa: PLC0415 (the parent has loaded it: nothing new may be, least of all from the new root)

    proc = calls.openat(n.AT_FDCWD, b"/proc", _PATH, 0)
    # From here on root of the user namespace could look into this copy of the caller's memory, and take descriptors.
    calls.prctl(n.PR_SET_DUMPABLE, 0, 0, 0, 0)
    try:
        calls.setns(namespace.fileno(), _NEWNS)
    except KernelError as error:
        if error.errno == EPERM:
            error.explain(hint=why_not("setns"))
        raise
    try:
        calls.setns(owner.fileno(), _NEWUSER)
    except KernelError as error:
        if error.errno == EPERM:
            error.explain(hint="only who has CAP_SYS_ADMIN in a user namespace can make a mount namespace for it")
        raise
    calls.unshare(_NEWNS)
    socket.send_fds(parent, [b"."], [take(proc)])
    os._exit(0)


def _await(pid: int) -> None:
    """Wait for the child's end; one that was stopped, which root of the user namespace may do, is killed."""
    try:
        while os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1]):
            os.kill(pid, signal.SIGKILL)
    except ChildProcessError:
        return  # it has ended, and somebody else in this process has waited for it


def _received(here: socket.socket) -> int:
    """Read what the child had to say; it has ended, so what isn't there yet won't come."""
    import socket  # noqa: PLC0415 (loaded already)

    from mountfd.verbs.run.inside import heard  # noqa: PLC0415 (loaded already)

    flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC  # socket.recv_fds has no ear for either
    try:
        said, control, told, _ = here.recvmsg(_ANSWER, socket.CMSG_SPACE(_INT), flags)
    except BlockingIOError:
        raise MountfdError("the process that was to enter the user namespace was killed") from None
    if control:
        return int.from_bytes(control[0][2][:_INT], byteorder)
    if told & socket.MSG_CTRUNC:
        raise from_errno(EMFILE, "recvmsg", (here.fileno(),))
    if not said:
        raise MountfdError("the process that was to enter the user namespace was killed")
    raise heard(said)
