"""A command started in a mount namespace, without a fork of Python: a thread goes there, spawns, and waits.

Nothing may be imported by that thread: the module would be one of the namespace's root, not ours.
"""

from __future__ import annotations

import os
import signal
import threading
from errno import ENOENT, ESRCH

from mountfd.abi import calls
from mountfd.errors import InvalidSpec, KernelError, MountfdError, from_errno
from mountfd.verbs.threads import finish_on_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from mountfd.handles.mountns import MountNamespace

__all__ = ["run_there"]

_CLONE_FS = 0x200
_CLONE_NEWNS = 0x20000
_SIGNALLED = 128
_TAKEN = "the command has ended, but somebody else in this process waited for it"
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


def run_there(namespace: MountNamespace, argv: Sequence[str], env: Mapping[str, str] | None, cwd: str) -> int:
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
    with _ChildHeldBack() as held:
        command = _Command()

        def body() -> None:
            calls.unshare(_CLONE_FS)  # without it a thread may not enter a mount namespace alone
            calls.setns(namespace.fileno(), _CLONE_NEWNS)
            _go(cwd)
            command.start(lambda: _spawned(programs, words, surroundings, held.mask))
            command.wait()

        return command.by_thread(body)


def _programs(name: bytes, env: Mapping[str, str]) -> list[bytes]:
    """List where the program may be, in order: as execvpe(3) of Python does, by the PATH that the command gets."""
    if b"/" in name:
        return [name]
    return [os.path.join(os.fsencode(folder), name) for folder in os.get_exec_path(env)]


def _go(cwd: str) -> None:
    try:
        os.chdir(cwd)
    except OSError as error:
        raise from_errno(error.errno or ENOENT, "chdir", (cwd,), filename=os.fsdecode(cwd)) from None


def _spawned(programs: list[bytes], words: list[bytes], env: Mapping[str, str], mask: set[int | signal.Signals]) -> int:
    found = ENOENT
    for program in programs:
        try:
            return os.posix_spawn(program, words, env, setsigmask=mask, setsigdef=_IGNORED_BY_PYTHON)
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
        with self._lock:
            self._given_up = True
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)


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
    Attributes: mask, the signals that the caller had blocked.
    """

    __slots__ = ("_handler", "mask")

    def __enter__(self) -> Self:
        """Hold it back. Raises InvalidSpec where it is ignored: then the kernel throws the command's status away."""
        handler = signal.getsignal(signal.SIGCHLD)
        self._handler = None
        if handler == signal.SIG_IGN or callable(handler):
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                self._handler = handler
            except ValueError:
                if handler == signal.SIG_IGN:
                    words = "a command needs SIGCHLD, which is ignored; only the main thread can change that"
                    raise InvalidSpec(words) from None
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Let it come: once, as for any child."""
        if self._handler is not None:
            signal.signal(signal.SIGCHLD, self._handler)
            if callable(self._handler):
                signal.raise_signal(signal.SIGCHLD)  # blocked still
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)
