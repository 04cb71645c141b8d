"""Mount namespaces held by a descriptor."""

from __future__ import annotations

import os
import stat
import sys
from errno import EINVAL, ENOENT, ENOTTY
from fcntl import F_DUPFD_CLOEXEC, fcntl

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.layouts import MntNsInfo
from mountfd.abi.paths import encode
from mountfd.errors import Gone, InvalidSpec, KernelError, Missing, NotSupported, from_errno
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
        try:
            return cls(calls.openat(n.AT_FDCWD, b"/proc/thread-self/ns/mnt", _FLAGS, 0))
        except Missing as error:
            from mountfd.handles.refused import NO_PROC  # noqa: PLC0415 (only on the way out of an error)

            error.explain(hint=NO_PROC)
            raise

    @classmethod
    def of(cls, pid: int) -> Self:
        """Take hold of the one that a process is in.

        Raises: Gone when there is no such process, or it has ended; Denied when it may not be inspected, or /proc
        hides it.
        """
        if type(pid) is not int or pid <= 0:
            raise InvalidSpec(f"{pid!r} is not a process id", part="namespace")
        try:
            made = cls(calls.openat(n.AT_FDCWD, b"/proc/%d/ns/mnt" % pid, _FLAGS, 0))
        except Missing as error:
            from mountfd.handles.refused import raise_without_process  # noqa: PLC0415 (only on the way out of an error)

            raise_without_process(error, pid)
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
        raw = encode(path, "namespace")
        shown = os.fsdecode(raw)
        # Only a regular file is opened for this: opening a device can do things.
        seen = calls.openat(n.AT_FDCWD, raw, os.O_PATH | os.O_CLOEXEC, 0)
        try:
            regular = stat.S_ISREG(os.fstat(seen).st_mode)
        finally:
            os.close(seen)
        if not regular:
            raise InvalidSpec(f"{shown!r} is not a mount namespace", part="namespace")
        return cls._checked(calls.openat(n.AT_FDCWD, raw, _FLAGS | os.O_NONBLOCK, 0), shown)

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """Make a handle on the one that an open descriptor names, which stays the caller's. Raises InvalidSpec."""
        try:
            copy = fcntl(fd, F_DUPFD_CLOEXEC, 3)
        except OSError as error:
            raise from_errno(error.errno or 0, "fcntl", (fd,)) from error
        return cls._checked(copy, f"descriptor {fd}")

    @classmethod
    def by_id(cls, number: int) -> MountNamespace:
        """Take hold of the one with a unique id, among those that the caller may see.

        Raises: Gone when there is none; Denied; NotSupported before Linux 6.11.
        """
        with cls.current() as own:
            for namespace in own.others():
                if namespace.id == number:
                    return namespace
                namespace.close()
        raise Gone(f"no mount namespace has the id {number}, or it is out of reach")

    @classmethod
    def _checked(cls, fd: int, shown: str) -> Self:
        made = cls(fd)
        if not made._is_one():
            made.close()
            raise InvalidSpec(f"{shown!r} is not a mount namespace", part="namespace")
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
        here: MountNamespace | None = self._first()
        while here is not None:
            try:
                following = here.beside(n.NS_MNT_GET_NEXT)  # asked now, since the caller may close this one
            except BaseException:
                here.close()
                raise
            try:
                yield here
            except GeneratorExit:
                if following is not None:
                    following.close()
                raise
            here = following

    def _first(self) -> MountNamespace:
        here: MountNamespace = self.dup()
        try:
            while (before := here.beside(n.NS_MNT_GET_PREV)) is not None:
                here.close()
                here = before
        except BaseException:
            here.close()
            raise
        return here

    def beside(self, request: int) -> MountNamespace | None:
        """Take hold of the one with the next larger or smaller id. Call: ioctl(2) NS_MNT_GET_NEXT or _PREV."""
        info = MntNsInfo(size=16)
        try:
            return MountNamespace(calls.ioctl(self.fileno(), request, calls.reference(info)))
        except KernelError as error:
            if error.errno == ENOENT:
                return None
            if error.errno in (ENOTTY, EINVAL):
                hint = "walking mount namespaces came with Linux 6.11"
                raise NotSupported(error.errno, "ioctl", hint=hint, feature="NS_MNT_GET_NEXT") from error
            error.explain(hint="walking mount namespaces takes CAP_SYS_ADMIN in the user namespace that owns them")
            raise

    def _is_one(self) -> bool:
        try:
            return int(calls.ioctl_fd(self.fileno(), n.NS_GET_NSTYPE, 0)) == _NEWNS
        except KernelError:
            return False  # no file of nsfs knows this request
