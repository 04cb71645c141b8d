"""A command started in a mount namespace, without a fork of Python: a thread goes there, spawns, and waits.

Nothing may be imported by that thread: the module would be one of the namespace's root, not ours.
"""

from __future__ import annotations

import os
import resource
import signal
import threading
from errno import ENOENT, ESRCH

from mountfd.abi import calls
from mountfd.errors import Denied, InvalidSpec, KernelError, MountfdError, from_errno
from mountfd.verbs.threads import finish_on_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from mountfd.handles.fd import OwnedFd
    from mountfd.handles.mountns import MountNamespace

__all__ = ["run_there"]

_CLONE_FS = 0x200
_CLONE_NEWNS = 0x20000
_SIGNALLED = 128
_STREAMS = 2  # the last of the three
_MANY = 65536
_TAKEN = "the command has ended, but somebody else in this process waited for it"
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


def run_there(  # noqa: C901 (each call of a function would be one more place where a handler can raise)
    namespace: MountNamespace, argv: Sequence[str], env: Mapping[str, str] | None, cwd: str, passing: Collection[int]
) -> int:
    """Run a command whose root is the namespace's; give its exit status. Arguments and errors are those of `run`."""
    if isinstance(argv, str | bytes):
        raise InvalidSpec(f"argv is a list of words, not {argv!r}", part="argv")
    words = [os.fsencode(word) for word in argv]
    if not words or not words[0]:
        raise InvalidSpec("argv is empty: it holds the program and its words", part="argv")
    if any(b"\0" in word for word in words):
        raise InvalidSpec(f"argv {list(argv)!r} has a NUL byte in it", part="argv")
    surroundings = os.environ if env is None else env
    programs = _programs(words[0], surroundings)
    closing = [fd for fd in _inheritable() if fd not in passing]
    # A descriptor that is made a copy of itself is inherited.
    actions = [(os.POSIX_SPAWN_CLOSE, fd) for fd in closing] + [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in passing]
    command, held = _Command(), _ChildHeldBack()

    def body() -> None:
        calls.unshare(_CLONE_FS)  # without it a thread may not enter a mount namespace alone
        try:
            calls.setns(namespace.fileno(), _CLONE_NEWNS)
        except Denied as error:
            from mountfd.verbs.namespaces.owned import Child, run_by_child  # noqa: PLC0415 (the root is ours still)

            def child(owner: OwnedFd) -> Child:
                into, fds = (owner, namespace), (closing, passing)
                return Child(into, programs, words, env=surroundings, cwd=cwd, mask=held.mask, fds=fds)

            run_by_child(error, namespace, command, child)
            return
        _go(cwd)
        command.start(lambda: _spawned(programs, words, surroundings, held.mask, actions))
        command.wait()

    interruption: BaseException | None = None
    try:
        held.hold()
        return command.by_thread(body)
    finally:
        # Handlers may raise in this, too, and the caller must get its own handler and mask back all the same: twice,
        # since one can raise at the very end of an except.
        while not held.is_over:
            try:
                while not held.is_over:
                    try:
                        held.restore()
                    except BaseException as error:  # noqa: BLE001 (raised again below)
                        interruption = error
            except BaseException as error:  # noqa: BLE001 (the same)
                interruption = error
        if interruption is not None:
            raise interruption


def _programs(name: bytes, env: Mapping[str, str]) -> list[bytes]:
    """List where the program may be, in order: as execvpe(3) of Python does, by the PATH that the command gets."""
    if b"/" in name:
        return [name]
    return [os.path.join(os.fsencode(folder), name) for folder in os.get_exec_path(env)]


def _inheritable() -> list[int]:
    """List the descriptors that a command would get, and that could lead it out of its root: all but the streams."""
    try:
        numbers: Iterable[int] = map(int, os.listdir("/proc/self/fd"))
    except OSError:
        numbers = range(min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], _MANY))
    return [fd for fd in numbers if fd > _STREAMS and _is_inheritable(fd)]


def _is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False  # there is none of that number, or not any more


def _go(cwd: str) -> None:
    try:
        os.chdir(cwd)
    except OSError as error:
        raise from_errno(error.errno or ENOENT, "chdir", (cwd,), filename=os.fsdecode(cwd)) from None


def _spawned(
    programs: list[bytes],
    words: list[bytes],
    env: Mapping[str, str],
    mask: set[int | signal.Signals],
    actions: Sequence[tuple[int, ...]],
) -> int:
    found = ENOENT
    for program in programs:
        try:
            os.stat(program)  # a child that finds nothing to execute takes a millisecond
            return os.posix_spawn(
                program, words, env, file_actions=actions, setsigmask=mask, setsigdef=_IGNORED_BY_PYTHON
            )
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            found = error.errno or ENOENT  # there may be another one further on
        except OSError as error:
            found = error.errno or ENOENT
            break
    name = os.fsdecode(words[0])
    raise from_errno(found, "execve", (name,), filename=name)


class _Command:
    """A child that a thread starts and waits for; an exception in the thread that waits for both kills it."""

    __slots__ = ("_given_up", "_lock", "_pidfd", "_status")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pidfd = -1
        self._status: int | None = None
        self._given_up = False

    def start(self, spawn: Callable[[], int]) -> None:
        with self._lock:
            if self._given_up:
                return
            pid = spawn()
            try:
                self._pidfd = calls.pidfd_open(pid, 0)
            except KernelError as error:
                if error.errno == ESRCH:
                    raise MountfdError(_TAKEN) from None
                _end(pid)  # without a descriptor nobody could tell it from another that gets its number
                raise

    def wait(self) -> None:
        if self._pidfd < 0:
            return
        try:
            ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        except ChildProcessError:
            raise MountfdError(_TAKEN) from None
        finally:
            with self._lock:
                os.close(self._pidfd)
                self._pidfd = -1
        if ended is not None:
            self._status = ended.si_status + (0 if ended.si_code == os.CLD_EXITED else _SIGNALLED)

    def by_thread(self, body: Callable[[], None]) -> int:
        finish_on_thread(body, self._give_up)
        assert self._status is not None  # noqa: S101 (the thread has waited)
        return self._status

    def _give_up(self) -> None:
        self._given_up = True  # at once: the lock is held for as long as it takes to find the program
        with self._lock:
            if self._pidfd >= 0:
                try:
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                except ProcessLookupError:
                    return  # it has just been waited for


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        return  # somebody else has waited for it


class _ChildHeldBack:
    """SIGCHLD held back: a handler of the caller's, which may wait for whomever it finds, comes after us.

    Blocking it is not enough, since another thread may get it, and Python runs the handler in the main one: there it
    is taken away meanwhile, and called afterwards.
    Attributes: mask, the signals that the caller had blocked; is_over, whether all is again as it was.
    """

    __slots__ = ("_handler", "_is_taken", "is_over", "mask")

    def __init__(self) -> None:
        """Look at what there is."""
        self._handler = signal.getsignal(signal.SIGCHLD)
        self._is_taken = self.is_over = False
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    def hold(self) -> None:
        """Hold it back. Raises InvalidSpec where it is ignored: then the kernel throws the command's status away."""
        if self._handler == signal.SIG_IGN or callable(self._handler):
            self._is_taken = True  # first: where a handler raises between the two, it is put back in vain
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            except ValueError:
                self._is_taken = False
                if self._handler == signal.SIG_IGN:
                    words = "a command needs SIGCHLD, which is ignored; only the main thread can change that"
                    raise InvalidSpec(words) from None
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})

    def restore(self) -> None:
        """Let it come: once, as for any child. When a handler raises in this, it is to be called again."""
        if self._is_taken:
            signal.signal(signal.SIGCHLD, self._handler)
            if callable(self._handler):
                signal.raise_signal(signal.SIGCHLD)  # blocked still
            self._is_taken = False
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)
        self.is_over = True
