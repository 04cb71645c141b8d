"""Descriptors that a cache keeps to be quick, in a process that may close everything it doesn't know.

A daemon's first deed is often to close all descriptors, whoever opened them; then the number is given out again. What
is kept is known by its inode, so another file is neither taken for it nor closed in its place.
"""

from __future__ import annotations

import os

from mountfd.handles.fd import OwnedFd

__all__ = ["KeptFd"]


class KeptFd(OwnedFd):
    """A descriptor that a cache owns: closed with its last user, however the cache let go of it."""

    __slots__ = ("_inode",)

    def __init__(self, fd: int) -> None:
        """Take it over."""
        super().__init__(fd)
        self._inode = _inode(fd)

    def is_there(self) -> bool:
        """Say whether the descriptor is still open, and still of the same file."""
        return not self.closed and _inode(self.fileno()) == self._inode

    def close(self) -> None:
        """Close it, unless its number is somebody else's by now."""
        if self.is_there():
            super().close()
        elif not self.closed:
            self.release()

    def __del__(self) -> None:
        """Close without a word: the cache is its owner, and dropping it is the cache's way to close."""
        if hasattr(self, "_inode"):
            self.close()


def _inode(fd: int) -> tuple[int, int] | None:
    try:
        about = os.fstat(fd)
    except OSError:
        return None  # closed
    return about.st_dev, about.st_ino
