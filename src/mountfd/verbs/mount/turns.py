"""One after the other: threads of this process that mount at one path by mount(2), which doesn't say what it made."""

from __future__ import annotations

import os
from _thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

__all__ = ["turn_at"]

# Whose turn it is to mount at a path: a lock, and how many threads hold it or wait for it.
_turns: dict[bytes, list[Any]] = {}
_guard = allocate_lock()


class turn_at:  # noqa: N801 (used like a function)
    """Let threads mount at one path one after the other: each then knows which mount is its own."""

    def __init__(self, path: bytes) -> None:
        """Name the path."""
        self.path = path

    def __enter__(self) -> None:
        """Wait for the turn."""
        with _guard:
            entry = _turns.setdefault(self.path, [allocate_lock(), 0])
            entry[1] += 1
        try:
            entry[0].acquire()
        except BaseException:
            self._leave()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Give the turn to the next."""
        _turns[self.path][0].release()
        self._leave()

    def _leave(self) -> None:
        with _guard:
            entry = _turns[self.path]
            entry[1] -= 1
            if not entry[1]:
                del _turns[self.path]


def _forget_turns() -> None:
    """Begin anew in a child of fork(2), in which the threads whose turn it was aren't."""
    global _guard  # noqa: PLW0603 (the child's)
    _guard = allocate_lock()
    _turns.clear()


os.register_at_fork(after_in_child=_forget_turns)
