"""This side of a running command while it runs: signals, job control, the terminal.

a terminal's signal   reaches the command by itself, which shares our process group; it isn't passed on
a process's signal    was meant for the command, so it is passed on
Ctrl-Z                is the command's to obey; only when it has stopped, this process stops as well
fg and bg             are for this process, which wakes the command, and lends it the terminal if it has that itself
"""

from __future__ import annotations

import os
import signal

from mountfd.errors import InvalidSpec
from mountfd.verbs.run.inside import PASSED_ON, RESUME, STOPS, heard, status_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

__all__ = ["Vigil", "end", "follow"]

_ENDING = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM}  # a stopped command must hear of these too


class Vigil:
    """Signals held back, so that none is lost before somebody is there to be told: the loop below, or the command.

    Attributes: mask, the signals that the caller had blocked; childless, whether it ignored SIGCHLD, as an ignored
    one would take the command's status with it; interactive, whether the command shall have the terminal to itself;
    others, whether a child of the caller's own ended meanwhile.
    """

    __slots__ = ("_fillers", "_group", "_init", "_ours", "_terminal", "childless", "interactive", "mask", "others")

    def __enter__(self) -> Self:
        """Block, and take note of whose the terminal is. Raises InvalidSpec where SIGCHLD can't be had."""
        self.others = False
        self._fillers = _fill_standard()
        self._terminal = _own_terminal()
        self._group, self._init, self._ours = 0, -1, True
        self.interactive = all(map(os.isatty, (0, 1, 2))) and self._terminal == 0 and _is_alone()
        self.mask = signal.pthread_sigmask(
            signal.SIG_BLOCK, PASSED_ON | STOPS | {signal.SIGCHLD, signal.SIGCONT, RESUME}
        )
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
        if self._ours:
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
        self._init = init
        if self.interactive:
            self._group = _foreground(0)  # the command's: it took the terminal before it was executed
        while _is_alone():
            info = signal.sigwaitinfo(PASSED_ON | {signal.SIGCHLD, signal.SIGCONT})
            number = info.si_signo
            if number == signal.SIGCONT:
                self._resume()
                continue
            if number != signal.SIGCHLD:
                self._pass_on(number, typed=info.si_code > 0 and number not in early)
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

    def _pass_on(self, number: int, *, typed: bool) -> None:
        """Tell the command, and wake it where the signal would end it."""
        if typed and number != signal.SIGHUP:  # a hangup is told to the session leader alone, which may be this process
            if not self._group:
                return  # the terminal has told the command too
            # A shell has given us the foreground without a word, as its fg does with what runs already.
            self._lend()
            _signal_group(self._group, number)
        elif self._init >= 0:
            _send(self._init, number)
        if number in _ENDING:
            self._resume()

    def _stop(self, pid: int) -> None:
        """Stop as the command did; when told to go on, lend it the terminal that we got, and wake it and the keeper.

        By SIGTSTP, which the kernel ignores where no shell is there to go on from it: then the command goes on at once.
        """
        if self._group and self._lend():
            os.kill(pid, signal.SIGCONT)  # it stopped because it wanted the terminal, which had come to us meanwhile
            self._resume()
            return
        os.kill(0 if self.interactive else os.getpid(), signal.SIGTSTP)  # 0: also the script that we may be part of
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
        signal.sigtimedwait({signal.SIGCONT}, 0)  # has done its work
        # In the background it is the shell's, and must not be taken from it at the end.
        self._ours = self._terminal is not None and _foreground(self._terminal) in {os.getpgrp(), self._group}
        if self._group:
            self._lend()
        # Where it goes on already, the whole group was told, and the command with it. To wake that twice would be
        # wrong: it may have stopped again, and would be reported as stopping twice.
        if self._group or os.waitid(os.P_PID, pid, os.WCONTINUED | os.WNOHANG) is None:
            os.kill(pid, signal.SIGCONT)
            self._resume()

    def _lend(self) -> bool:
        """Give the command the terminal's foreground if it is ours to give; say whether it was."""
        if _foreground(0) != os.getpgrp():
            return False
        try:
            os.tcsetpgrp(0, self._group)
        except OSError:
            return False  # the terminal or the command has gone meanwhile
        self._ours = True
        return True

    def _resume(self) -> None:
        """Wake the command, with everything in the process group that was made for it."""
        if self._group:
            _signal_group(self._group, signal.SIGCONT)
        elif self._init >= 0:
            _send(self._init, RESUME)


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
                    raise heard(line)  # noqa: TRY301 (what was started is ended on the way out)
        return status_of(vigil.wait(pid, init))
    except BaseException:
        end(pid)
        raise
    finally:
        if init >= 0:
            os.close(init)


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


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except OSError:
        return  # it has just ended


def _foreground(terminal: int) -> int:
    """Give the process group in a terminal's foreground, 0 where that can't be told."""
    try:
        return max(os.tcgetpgrp(terminal), 0)
    except OSError:
        return 0  # it has been hung up


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
