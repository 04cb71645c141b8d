"""Watchers on the door to the kernel: they count, fail and end calls."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

from mountfd.lowlevel import calls


class Watch:
    """Hears every call; `decide` gets the call's number, from 1 on, its name and arguments, and may give an errno."""

    def __init__(self, decide: Callable[[int, str, tuple[Any, ...]], int] | None = None) -> None:
        """Begin to count."""
        self.names: list[str] = []
        self.hit: str | None = None
        self._decide = decide

    def before(self, row: calls.Row, arguments: tuple[Any, ...]) -> int:
        """Count the call and decide about it."""
        self.names.append(row.name)
        errno = self._decide(len(self.names), row.name, arguments) if self._decide is not None else 0
        if errno:
            self.hit = row.name
        return errno

    def after(self, row: calls.Row, arguments: tuple[Any, ...], result: int, errno: int) -> None:
        """Hear how it ended."""

    def note(self, text: str) -> None:
        """Hear what was decided."""


@contextlib.contextmanager
def watching(watch: Watch) -> Iterator[Watch]:
    """Put a watcher on the door, and take it away again."""
    before, calls.watcher = calls.watcher, watch
    try:
        yield watch
    finally:
        calls.watcher = before


def failing(number: int, errno: int) -> Watch:
    """Fail the call of that number."""
    return Watch(lambda count, _name, _arguments: errno if count == number else 0)


def lacking(*names: str, errno: int) -> Watch:
    """Fail each call of these names, as a kernel without them would."""
    return Watch(lambda _count, name, _arguments: errno if name in names else 0)


def killing(number: int) -> Watch:
    """Kill this process where it would make the call of that number."""

    def decide(count: int, _name: str, _arguments: tuple[Any, ...]) -> int:
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    return Watch(decide)
