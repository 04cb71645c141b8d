"""Into a mount namespace that belongs to another user namespace, as that of one's own `mountfd run` does.

Who made a user namespace may do everything in it, but must enter it first, and a process with threads can't. So a
command that is to run there is executed by a forked child, which enters both; a function on a thread can't go there.
"""

from __future__ import annotations

import os
import signal
from errno import EACCES, ENOENT, ENOTDIR, EPERM

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.errors import KernelError, MountfdError, from_errno
from mountfd.handles.fd import OwnedFd
from mountfd.handles.refused import CAP_SYS_ADMIN, CAP_SYS_CHROOT, filter_or_module, holds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import NoReturn, Protocol

    from mountfd.handles.mountns import MountNamespace

    class Command(Protocol):
        """Starts a process, and waits for it; ends it when the caller's thread gives up."""

        def start(self, spawn: Callable[[], int]) -> None:
            """Call a function that gives a child's pid."""

        def wait(self) -> None:
            """Wait for the child, if there is one."""


__all__ = ["foreign_owner", "run_by_child", "why_no_entry"]

_NEWNS, _NEWUSER = 0x20000, 0x10000000
_BLOCK = 65536
_NOT_BY_THREAD = (
    "this mount namespace belongs to another user namespace, which must be entered first, and no thread can: "
    "MountNamespace.run and nsenter(1) --user --mount --preserve-credentials do, with a process"
)
_OUTSIDE = (
    "this mount namespace belongs to a user namespace outside of this process's: only from there it can be entered"
)
_PRIVILEGE = (
    "entering a mount namespace takes CAP_SYS_ADMIN in the user namespace that owns it, and CAP_SYS_ADMIN and "
    "CAP_SYS_CHROOT in one's own"
)
_KILLED = "the process that was to enter the namespaces was killed"
_NOT_OURS = "only who made a user namespace, or has CAP_SYS_ADMIN in it, can enter it"


def why_no_entry(namespace: MountNamespace) -> str:
    """Say why setns(2) into a mount namespace is EPERM for a thread."""
    try:
        owner = foreign_owner(namespace)
    except KernelError as error:
        return _OUTSIDE if error.errno == EPERM else _PRIVILEGE
    if owner is not None:
        owner.close()
        return _NOT_BY_THREAD
    if holds(CAP_SYS_ADMIN) and holds(CAP_SYS_CHROOT):
        return filter_or_module("setns(2)")
    return _PRIVILEGE


def foreign_owner(namespace: MountNamespace) -> OwnedFd | None:
    """Hold the user namespace that a mount namespace belongs to; None where it is this process's own.

    Raises: Denied where it lies outside of this process's own. Call: ioctl(2) NS_GET_USERNS.
    """
    owner = OwnedFd(calls.ioctl_fd(namespace.fileno(), n.NS_GET_USERNS, 0))
    try:
        own = os.stat("/proc/thread-self/ns/user")
        if not os.path.samestat(own, os.fstat(owner.fileno())):
            return owner
    except OSError as error:
        owner.close()
        raise from_errno(error.errno or ENOENT, "stat", filename="/proc/thread-self/ns/user") from None
    except BaseException:
        owner.close()
        raise
    owner.close()
    return None


def run_by_child(
    refused: KernelError,
    namespace: MountNamespace,
    command: Command,
    child: Callable[[OwnedFd], Child],
) -> None:
    """Run a command by a child where a thread was refused; raise that error, explained, where a child would be, too.

    Arguments: refused, of setns(2); namespace; command, to be started and waited for; child, makes one of the owner.
    """
    try:
        owner = foreign_owner(namespace)
    except KernelError:
        owner = None
    if owner is None:
        refused.explain(hint=why_no_entry(namespace))
        raise refused
    with owner:
        one = child(owner)
        try:
            command.start(one.start)
            try:
                failure = one.told()
            finally:
                command.wait()
        finally:
            one.close()
    if failure is not None:
        raise failure


class Child:
    """A child that enters both namespaces and executes a command; it tells over a pipe where it can't.

    Arguments: into, the user namespace and the mount namespace; programs, of which the first that is there is executed;
    words, its own; env; cwd, where it shall be; mask, the signals it has blocked; fds, descriptors that it
    shall not get, and such that it shall.
    """

    __slots__ = ("_cwd", "_env", "_fds", "_into", "_mask", "_programs", "_reading", "_words", "_writing")

    def __init__(  # noqa: PLR0913 (all that a command has)
        self,
        into: tuple[OwnedFd, OwnedFd],
        programs: list[bytes],
        words: list[bytes],
        *,
        env: Mapping[str, str],
        cwd: str,
        mask: set[int | signal.Signals],
        fds: tuple[Iterable[int], Iterable[int]],
    ) -> None:
        """Make the pipe."""
        self._into, self._programs, self._words, self._env = into, programs, words, env
        self._cwd, self._mask, self._fds = cwd, mask, fds
        reading, writing = os.pipe()  # closed on exec: its end says that the command was executed
        self._reading, self._writing = OwnedFd(reading), OwnedFd(writing)

    def start(self) -> int:
        """Fork it, and give its pid."""
        from mountfd.verbs.run.inside import fork, guarded  # noqa: PLC0415 (this thread hasn't left its root)

        pid = fork()
        if pid == 0:
            guarded(self._writing.fileno(), self._execute)
        return pid

    def told(self) -> MountfdError | None:
        """Wait until the command is executed, or give why it can't be: the child has ended then, or will at once."""
        self._writing.close()
        said = b""
        with self._reading:
            while block := os.read(self._reading.fileno(), _BLOCK):
                said += block
        if not said:
            return None
        if not said.endswith(b"\n"):
            return MountfdError(_KILLED)
        from mountfd.verbs.run.inside import heard  # noqa: PLC0415 (loaded already)

        return heard(said)

    def close(self) -> None:
        """Let go of the pipe."""
        self._writing.close()
        self._reading.close()

    def _execute(self) -> NoReturn:
        # Inside, root of that user namespace could look into this copy of the caller's memory, and take descriptors.
        calls.prctl(n.PR_SET_DUMPABLE, 0, 0, 0, 0)
        closing, passing = self._fds
        for fd in closing:
            os.close(fd)
        for fd in passing:
            os.set_inheritable(fd, True)
        self._enter()
        try:
            os.chdir(self._cwd)
        except OSError as error:
            raise from_errno(error.errno or ENOENT, "chdir", (self._cwd,), filename=self._cwd) from None
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores both
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        found = ENOENT
        for program in self._programs:
            try:
                os.execve(program, self._words, self._env)  # noqa: S606 (that is what was asked for)
            except OSError as error:
                if error.errno not in (ENOENT, ENOTDIR):
                    found = error.errno or ENOENT  # there may be another one further on
                if error.errno not in (ENOENT, ENOTDIR, EACCES):
                    break
        name = os.fsdecode(self._words[0])
        raise from_errno(found, "execve", (name,), filename=name)

    def _enter(self) -> None:
        try:
            for namespace, kind in zip(self._into, (_NEWUSER, _NEWNS), strict=True):
                calls.setns(namespace.fileno(), kind)
        except KernelError as error:
            if error.errno == EPERM:
                error.explain(hint=_NOT_OURS)
            raise
