"""What watch gives: an iterator that waits, for one thread or many, and a descriptor for other event loops."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections import deque

from mountfd.errors import Gone, InvalidSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Protocol, Self

    from mountfd.model.event import Event

    class Source(Protocol):
        """One route: where events come from."""

        @property
        def name(self) -> str:
            """Its name."""

        @property
        def ended(self) -> bool:
            """Whether nothing will ever come any more."""

        def fileno(self) -> int:
            """Give a descriptor that is readable while there is something to gather."""

        def waiting(self) -> tuple[int, int]:
            """Say what poll(2) shall wait for."""

        def woken(self) -> None:
            """Hear that poll(2) has seen it."""

        def gather(self, *, exactly: bool = False) -> list[Event]:
            """Give what has happened, without waiting; exactly: also what nobody has been woken for yet."""

        def close(self) -> None:
            """Let go."""


__all__ = ["Events"]


class Events:
    """Mount events, as they come: what `watch` returns.

    Iterating waits for the next event, for ever if need be; closing it, in any thread, ends every loop over it.
    Threads may share it: each event is given once. `read` and `fileno` are for event loops.
    """

    def __init__(self, source: Source) -> None:
        """Take the source over."""
        self._source = source
        self._gathered: deque[Event] = deque()
        self._turn = threading.RLock()  # held by the one thread that waits
        self._state = threading.RLock()  # held by whoever looks at or changes the rest, never for long
        self._is_waiting = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.closed = False

    @property
    def route(self) -> str:
        """Which route this is: `fanotify` tells each step, `polling` each lasting change."""
        return self._source.name

    def fileno(self) -> int:
        """Give a descriptor that is readable when `read` has something to look at. Raises InvalidSpec when closed.

        It stays readable until then. It belongs to this object.
        """
        with self._state:
            self._check()
            number = self._source.fileno()
            if self._is_waiting:
                os.eventfd_write(self._wake, 1)  # it may have to wait for something else from now on
            return number

    def read(self) -> list[Event]:
        """Give all events until now, without waiting; an empty list where none of what happened concerns this watch.

        Raises: InvalidSpec when closed; Gone after an event of kind "end".
        """
        with self._state:
            self._check()
            if self._source.ended and not self._gathered:
                raise Gone("the mount namespace has ended")
            events = list(self._gathered)
            self._gathered.clear()
            return events + self._source.gather(exactly=True)

    def __iter__(self) -> Self:
        """Begin a loop. Raises InvalidSpec when closed."""
        self._check()
        return self

    def __next__(self) -> Event:
        """Wait for the next event; there is none when this is closed, or after an event of kind "end"."""
        with self._turn:
            while True:
                with self._state:
                    if self.closed or (self._source.ended and not self._gathered):
                        raise StopIteration
                    if not self._gathered:
                        self._gathered.extend(self._source.gather())
                    if self._gathered:
                        return self._gathered.popleft()
                    self._is_waiting = True
                self._wait()

    def close(self) -> None:
        """Stop watching. Whoever waits is woken, and lets go of the descriptors; closing twice does nothing."""
        with self._state:
            if self.closed:
                return
            self.closed = True
            if self._is_waiting:
                os.eventfd_write(self._wake, 1)
            else:
                self._release()

    def __enter__(self) -> Self:
        """Return itself: the block's end closes it."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close."""
        self.close()

    def __del__(self) -> None:
        """Close what was forgotten, and say so."""
        if getattr(self, "closed", True):
            return
        self.close()
        if not sys.is_finalizing():  # then nothing can be imported any more, and nobody listens
            import warnings  # noqa: PLC0415 (only on the way out of a mistake)

            warnings.warn("unclosed mountfd.watch()", ResourceWarning, stacklevel=2, source=self)

    def __repr__(self) -> str:
        """Name the route."""
        return f"<mountfd.watch by {self.route}{' (closed)' if self.closed else ''}>"

    def _wait(self) -> None:
        try:
            fd, mask = self._source.waiting()
            both = select.poll()
            both.register(fd, mask)
            both.register(self._wake, select.POLLIN)
            seen = dict(both.poll())
            with self._state:
                if fd in seen:
                    self._source.woken()
                if self._wake in seen:
                    os.eventfd_read(self._wake)
        finally:
            with self._state:
                self._is_waiting = False
                if self.closed:
                    self._release()

    def _release(self) -> None:
        self._source.close()
        os.close(self._wake)

    def _check(self) -> None:
        if self.closed:
            raise InvalidSpec("this watch is closed", part="watch")
