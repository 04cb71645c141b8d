"""This side of a running command while it runs: signals, job control, the terminal.

a terminal's signal   reaches the command by itself, which shares our process group; it isn't passed on
a process's signal    was meant for the command, so it is passed on
Ctrl-Z                is the command's to obey; only when it has stopped, this process stops as well
"""

from __future__ import annotations

import os
import signal

from mountfd.errors import InvalidSpec, from_words
from mountfd.verbs.run.inside import PASSED_ON, STOPS, status_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

__all__ = ["Vigil", "end", "follow"]


class Vigil:
    """Signals held back, so that none is lost before somebody is there to be told: the loop below, or the command.

    Attributes: mask, the signals that the caller had blocked; childless, whether it ignored SIGCHLD, as an ignored
    one would take the command's status with it; interactive, whether the command shall have the terminal to itself;
    others, whether a child of the caller's own ended meanwhile.
    """

    __slots__ = ("_fillers", "_terminal", "childless", "interactive", "mask", "others")

    def __enter__(self) -> Self:
        """Block, and take note of whose the terminal is. Raises InvalidSpec where SIGCHLD can't be had."""
        self.others = False
        self._fillers = _fill_standard()
        self._terminal = _own_terminal()
        self.interactive = all(map(os.isatty, (0, 1, 2))) and self._terminal == 0 and _is_alone()
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON | STOPS | {signal.SIGCHLD})
        self.childless = signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN
        if self.childless:
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            except ValueError:
                self.childless = False
                self.__exit__(None, None, None)
                raise InvalidSpec("run needs SIGCHLD, which is ignored; only the main thread can change that") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Give everything back: the terminal, the signals, and those of the caller's own children."""
        _take_back(self._terminal)
        if self.childless:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        for fd in self._fillers:
            os.close(fd)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)
        if self.others:
            signal.raise_signal(signal.SIGCHLD)

    def wait(self, pid: int, init: int) -> int:
        """Wait for the keeper, meanwhile passing on and stopping; init is a pidfd, or -1 where it is gone already."""
        early = signal.sigpending()  # came before there was a command to hear it, also from a terminal
        while _is_alone():
            info = signal.sigwaitinfo(PASSED_ON | {signal.SIGCHLD})
            number = info.si_signo
            if number != signal.SIGCHLD:
                # A hangup is told to the session leader alone, which may be this process.
                if init >= 0 and (info.si_code <= 0 or number == signal.SIGHUP or number in early):
                    _send(init, number)
                early.discard(signal.Signals(number))
                continue
            ended, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
            if not ended:
                self.others = True
            elif not os.WIFSTOPPED(status):
                return status
            else:
                self._stop(pid)
        return os.waitpid(pid, 0)[1]

    def _stop(self, pid: int) -> None:
        """Stop as the command did; when told to go on, give it the terminal that it had, and wake it and the keeper.

        By SIGTSTP, which the kernel ignores where no shell is there to go on from it: then the command goes on at once.
        """
        group = os.getpgrp()
        try:
            if self.interactive:
                group = os.tcgetpgrp(0)
            os.kill(0 if self.interactive else os.getpid(), signal.SIGTSTP)  # 0: also the script that we may be part of
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
            os.kill(pid, signal.SIGCONT)
            if group != os.getpgrp():
                if os.tcgetpgrp(0) == os.getpgrp():
                    os.tcsetpgrp(0, group)
                os.killpg(group, signal.SIGCONT)
        except OSError:
            return  # the terminal or the command has gone meanwhile


def follow(vigil: Vigil, pid: int, from_here: int, note: Callable[[str], None]) -> int:
    """Hear what comes from inside until the command is executed, then wait; raise what was reported or give the status.

    The pipe's end is the sign: its last writer is the command, and execve(2) closes it.
    """
    init = -1
    try:
        with os.fdopen(os.dup(from_here), "rb") as lines:
            for line in lines:
                word, _, rest = line.strip().partition(b" ")
                if word == b"pid":
                    init = _pidfd(int(rest))
                elif word == b"note":
                    note(bytes.fromhex(rest.decode()).decode(errors="surrogateescape"))
                else:
                    _raise(bytes.fromhex(rest.decode()))
        return status_of(vigil.wait(pid, init))
    except BaseException:
        end(pid)
        raise
    finally:
        if init >= 0:
            os.close(init)


def _raise(data: bytes) -> None:
    raise from_words(data.decode(errors="surrogateescape").split("\0"))


def end(pid: int) -> None:
    """Kill the keeper, and with it everything inside, and reap it."""
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        return  # it has been awaited already


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1  # it has ended already, or this kernel is older than 5.3: there is nobody to pass signals to


def _send(init: int, number: int) -> None:
    try:
        signal.pidfd_send_signal(init, number)
    except ProcessLookupError:
        return  # it has just ended; SIGCHLD is on its way


def _is_alone() -> bool:
    """Say whether this process has one thread: with more, another one would get the signals that are awaited here."""
    return len(os.listdir("/proc/self/task")) == 1


def _fill_standard() -> list[int]:
    """Open something on each closed descriptor below 3: what is made here must not be taken for standard input."""
    fillers: list[int] = []
    while (fd := os.open("/", os.O_PATH | os.O_CLOEXEC)) <= 2:  # noqa: PLR2004 (standard error)
        fillers.append(fd)
    os.close(fd)
    return fillers


def _own_terminal() -> int | None:
    """Find a standard descriptor that is a terminal in whose foreground we are."""
    for fd in (0, 1, 2):
        try:
            if os.tcgetpgrp(fd) == os.getpgrp():
                return fd
        except OSError:
            continue
    return None


def _take_back(terminal: int | None) -> None:
    """Take the foreground back from a command that had job control: inside, it has no name for our process group."""
    if terminal is None:
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        if os.tcgetpgrp(terminal) != os.getpgrp():
            os.tcsetpgrp(terminal, os.getpgrp())
    except OSError:
        pass  # the terminal has been hung up
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
