"""A detached mount handed to another process over a unix socket, and locked for it beforehand.

Whoever makes mounts and whoever uses them need not be the same: the one has the privilege, the other a mount namespace
to attach in. The descriptor is all that travels; nothing is ever attached where others could see it.
"""

from __future__ import annotations

import fcntl
import os
import socket
from errno import EMFILE
from sys import byteorder

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.layouts import StatxBuffer
from mountfd.errors import Denied, Gone, InvalidSpec, Missing, NotSupported, from_errno
from mountfd.handles.fd import OwnedFd
from mountfd.handles.mount import Mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountfd.handles.namespace import UserNamespace

    Control = Iterable[tuple[int, int, bytes]]

__all__ = ["lock_mount", "receive_mount", "send_mount"]

_TAG = b"m"
_INT = 4
_SCM_PIDFD = 4
_MOUNT_ROOT = 0x2000  # STATX_ATTR_MOUNT_ROOT
# As many descriptors as one message can carry, and what the receiving socket may be set to add to them: a message that
# doesn't fit would lose the mount.
_ROOM = socket.CMSG_SPACE(253 * _INT) + socket.CMSG_SPACE(12) + socket.CMSG_SPACE(_INT) + socket.CMSG_SPACE(256)


def send_mount(sock: socket.socket, mount: Mount) -> None:
    """Send a detached mount to the process at the other end of a unix socket, in a message of its own.

    Arguments: sock; mount, which stays the sender's too: close it, since an open handle keeps the mount busy for the
    receiver. Locks on an overlay's upper and work layers are not sent: they end with the sender's handle.
    The receiver can attach it in its own mount namespace, and then change its attributes: see `lock_mount`.
    Raises: InvalidSpec for a mount that is attached here, and for other sockets; KernelError as the socket tells it;
    BlockingIOError and TimeoutError as the socket is set to. Call: sendmsg(2) with SCM_RIGHTS.
    """
    _check_socket(sock)
    if not isinstance(mount, Mount):
        raise InvalidSpec(f"mount must be a Mount, not {mount!r}", part="mount")
    if _stands_here(mount):
        words = "this mount is attached, and can't be used in another mount namespace: send a clone of it"
        raise InvalidSpec(words, part="mount")
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, mount.fileno().to_bytes(_INT, byteorder))
    try:
        sock.sendmsg([_TAG], [rights], socket.MSG_NOSIGNAL)
    except (BlockingIOError, TimeoutError):
        raise
    except OSError as error:
        raise from_errno(error.errno or 0, "sendmsg", (sock.fileno(), mount.fileno())) from None


def receive_mount(sock: socket.socket) -> Mount:
    """Receive a detached mount from a unix socket, in the message that send_mount makes: one byte, one descriptor.

    It is made sure that the descriptor is one of a mount that isn't attached in this mount namespace, as far as that
    can be told (Linux 6.8, or /proc). Who sent it, and of which filesystem it is, are for the caller to judge.
    Raises: InvalidSpec when something else came, which is closed again; Gone when the other side has closed the socket;
    LimitReached when there was no room for a descriptor; BlockingIOError and TimeoutError as the socket is set to.
    Call: recvmsg(2), which makes it close-on-exec.
    """
    _check_socket(sock)
    try:
        data, control, told, _ = sock.recvmsg(len(_TAG), _ROOM, socket.MSG_CMSG_CLOEXEC)
    except (BlockingIOError, TimeoutError):
        raise
    except OSError as error:
        raise from_errno(error.errno or 0, "recvmsg", (sock.fileno(),)) from None
    received = _descriptors(control)
    try:
        _check_message(data, told, len(received))
        _check_mount(received[0])
    except BaseException:
        for each in received:
            each.close()
        raise
    return received[0]


def lock_mount(mount: Mount, owner: UserNamespace) -> Mount:
    """Make a detached copy of a mount, with what stands on it, that a user namespace's root can't loosen.

    Arguments: mount, which stays the caller's (a detached one is used up before Linux 6.15); owner, a user namespace
    below the caller's.
    Whoever attaches the copy in a mount namespace of that user namespace, or of one below it, gets it with RDONLY,
    NOSUID, NODEV, NOEXEC and the access times as they are now, and can't take away what stands on it. Without this,
    a receiver can clear each of them.
    Raises: Denied without CAP_SYS_ADMIN over the owner; NotDirectory for a file; InvalidSpec for the caller's own.
    Calls: a fork; setns(2), unshare(2) and open_tree(2) in it.
    """
    from mountfd.verbs.namespaces.crossing import cross, is_own, locked_tree  # noqa: PLC0415 (for few)
    from mountfd.verbs.namespaces.making import make  # noqa: PLC0415

    if is_own(owner):
        raise InvalidSpec("nothing can be locked for one's own user namespace, only for one below it", part="owner")
    with OwnedFd(make(mount)) as outside:
        locked = Mount(cross(outside, owner, locked_tree))
    locked.idmapped = mount.idmapped
    return locked


def _check_socket(sock: socket.socket) -> None:
    if not isinstance(sock, socket.socket) or sock.family != socket.AF_UNIX:
        raise InvalidSpec(f"only a unix socket carries descriptors, not {sock!r}", part="sock")


def _descriptors(control: Control) -> list[Mount]:
    """Own every descriptor that a message brought, also the ones that nobody wants."""
    found = []
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind in (socket.SCM_RIGHTS, _SCM_PIDFD):
            for start in range(0, len(data) - len(data) % _INT, _INT):
                fd = int.from_bytes(data[start : start + _INT], byteorder, signed=True)
                if kind == socket.SCM_RIGHTS:
                    found.append(Mount(fd))
                elif fd >= 0:
                    os.close(fd)  # the kernel adds it where SO_PASSPIDFD is set
    return found


def _check_message(data: bytes, told: int, count: int) -> None:
    if told & socket.MSG_CTRUNC:
        hint = "a descriptor came that this process has no room for, or may not have: raise RLIMIT_NOFILE (ulimit -n)"
        raise from_errno(EMFILE, "recvmsg", hint=hint)
    if not data and not count:
        raise Gone("the other side has closed the socket; no mount came")
    if count != 1:
        raise InvalidSpec(f"the message has {count} descriptors in it, and should have that of a mount", part="sock")
    if data != _TAG or told & socket.MSG_TRUNC:
        raise InvalidSpec("the message isn't one that send_mount makes", part="sock")


def _check_mount(received: Mount) -> None:
    fd = received.fileno()
    buffer = StatxBuffer()
    calls.statx(fd, b"", n.AT_EMPTY_PATH | n.AT_STATX_DONT_SYNC, 0, calls.reference(buffer))
    # fsmount(2) and open_tree(2) give such a descriptor; that of an open file or directory is another.
    if not (fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH and buffer.stx_attributes & _MOUNT_ROOT):
        raise InvalidSpec(f"{os.readlink(f'/proc/self/fd/{fd}')!r} came, which is no mount", part="sock")
    if _stands_here(received):
        raise InvalidSpec("a mount came that is attached in this mount namespace already", part="sock")


def _stands_here(mount: Mount) -> bool:
    """Say whether a mount is attached in this mount namespace; False where that can't be told."""
    from mountfd.verbs.query.place import stands_here  # noqa: PLC0415 (beside its use)

    try:
        return stands_here(mount.fileno())
    except (Denied, Missing, NotSupported):
        return False
