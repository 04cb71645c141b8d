"""Mount namespaces held by a descriptor."""

from __future__ import annotations

import os
import sys
from errno import EINVAL, ENOENT, ENOTTY

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.layouts import MntNsInfo
from mountfd.abi.paths import encode
from mountfd.errors import Gone, InvalidSpec, KernelError, Missing, NotSupported
from mountfd.handles.fd import OwnedFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from mountfd.abi.paths import StrPath

__all__ = ["MountNamespace"]

_FLAGS = os.O_RDONLY | os.O_CLOEXEC
_NEWNS = 0x20000


class MountNamespace(OwnedFd):
    """A mount namespace; it exists for as long as this handle is open, or something lives in it.

    `pid` is the process that it was found through, or None.
    """

    __slots__ = ("pid",)

    def __init__(self, fd: int) -> None:
        """Take over the descriptor of a namespace file."""
        super().__init__(fd)
        self.pid: int | None = None

    @classmethod
    def current(cls) -> Self:
        """Take hold of the calling thread's own."""
        return cls(calls.openat(n.AT_FDCWD, b"/proc/thread-self/ns/mnt", _FLAGS, 0))

    @classmethod
    def of(cls, pid: int) -> Self:
        """Take hold of the one that a process is in.

        Raises: Gone when there is no such process, or it has ended; Denied when it may not be inspected.
        """
        try:
            made = cls(calls.openat(n.AT_FDCWD, b"/proc/%d/ns/mnt" % pid, _FLAGS, 0))
        except Missing as error:
            raise Gone(f"no process {pid}, or it has ended and its parent hasn't noticed yet") from error
        except KernelError as error:
            error.explain(hint=f"process {pid} belongs to another user, or to a user namespace that isn't ours")
            raise
        made.pid = pid
        return made

    @classmethod
    def open(cls, path: StrPath) -> Self:
        """Take hold of the one that a file of nsfs names: /proc/PID/ns/mnt, or a place that it was bound to.

        Raises: Missing; InvalidSpec when the file isn't a mount namespace.
        """
        made = cls(calls.openat(n.AT_FDCWD, encode(path), _FLAGS | os.O_NONBLOCK, 0))
        try:
            if not made._is_one():
                raise InvalidSpec(f"{os.fsdecode(path)!r} is not a mount namespace", part="namespace")
        except BaseException:
            made.close()
            raise
        return made

    @property
    def id(self) -> int:
        """Its unique id, never reused. Call: ioctl(2) NS_GET_MNTNS_ID, Linux 6.11; ioctl_nsfs(2)."""
        answer = calls.bytes_buffer(8)
        try:
            calls.ioctl(self.fileno(), n.NS_GET_MNTNS_ID, answer)
        except KernelError as error:
            if error.errno in (ENOTTY, EINVAL):
                hint = "this kernel gives mount namespaces no unique id (Linux 6.11)"
                raise NotSupported(error.errno, "ioctl", hint=hint, feature="NS_GET_MNTNS_ID") from error
            raise
        return int.from_bytes(answer[:8], sys.byteorder)

    def others(self) -> Iterator[MountNamespace]:
        """Walk all namespaces that the caller may see, by ascending id; the caller closes each.

        Raises: Denied without CAP_SYS_ADMIN in the namespace's owner; NotSupported before Linux 6.11.
        Call: ioctl(2) NS_MNT_GET_PREV and NS_MNT_GET_NEXT.
        """
        first = self.dup()
        while (before := first._beside(n.NS_MNT_GET_PREV)) is not None:
            first.close()
            first = before
        here: MountNamespace | None = first
        while here is not None:
            following = here._beside(n.NS_MNT_GET_NEXT)
            yield here
            here = following

    def _beside(self, request: int) -> MountNamespace | None:
        info = MntNsInfo(size=16)
        try:
            return MountNamespace(calls.ioctl(self.fileno(), request, calls.reference(info)))
        except KernelError as error:
            if error.errno == ENOENT:
                return None
            if error.errno in (ENOTTY, EINVAL):
                hint = "walking mount namespaces came with Linux 6.11"
                raise NotSupported(error.errno, "ioctl", hint=hint, feature="NS_MNT_GET_NEXT") from error
            raise

    def _is_one(self) -> bool:
        try:
            return int(calls.ioctl_fd(self.fileno(), n.NS_GET_NSTYPE, 0)) == _NEWNS
        except KernelError as error:
            if error.errno in (ENOTTY, EINVAL):
                return False
            raise
