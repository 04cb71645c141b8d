"""What the kernel says to its log from now on: nearly all of overlayfs's reasons go there, and nowhere else.

Opening the log takes as long as assembling a small overlay, so it is kept open; going to its end costs nothing.
"""

from __future__ import annotations

import os
from errno import EPIPE

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.errors import KernelError
from mountfd.handles.kept import KeptFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["KernelLog", "drop_idle"]

_RECORD = 8192
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC

# Open logs that nobody reads now. Each is taken by one reader at a time: the place in the log belongs to the open file.
_idle: list[KeptFd] = []


class KernelLog:
    """The place in the kernel's log where something begins; without lines for a user who may not read it.

    Arguments: prefix, with which the lines begin that are meant. Others may cause such lines at the same time.
    """

    __slots__ = ("_held", "_prefix")

    def __init__(self, prefix: bytes) -> None:
        """Go to the log's end. Calls: openat(2) of /dev/kmsg, lseek(2)."""
        self._prefix = prefix
        self._held = _take()

    def lines(self) -> list[str]:
        """Give what has been said since the last time, oldest first."""
        lines: list[str] = []
        while self._held is not None:
            try:
                # Nearly always there is nothing: too common for an exception that tells a person what went wrong.
                record = os.read(self._held.fileno(), _RECORD)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == EPIPE:
                    continue  # the ring has moved on; the next read gives the oldest record that is left
                break
            if not record:
                break
            text = record.partition(b";")[2].split(b"\n")[0]
            if text.startswith(self._prefix):
                lines.append(text.decode(errors="replace"))
        return lines

    def close(self) -> None:
        """Leave the log to the next reader."""
        held, self._held = self._held, None
        if held is not None:
            _idle.append(held)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Leave the log."""
        self.close()


def _idle_one() -> KeptFd | None:
    while True:
        try:
            held = _idle.pop()
        except IndexError:
            return None
        if held.is_there():
            return held
        held.close()


def drop_idle() -> None:
    """Close the logs that are kept open."""
    while _idle:
        _idle.pop().close()


def _take() -> KeptFd | None:
    held = _idle_one()
    if held is None:
        try:
            held = KeptFd(calls.openat(n.AT_FDCWD, b"/dev/kmsg", _FLAGS, 0))
        except KernelError:
            return None  # not for this user; whoever wanted to read must do without
    try:
        os.lseek(held.fileno(), 0, os.SEEK_END)
    except OSError:  # a container's /dev/kmsg may be anything
        held.close()
        return None
    return held
