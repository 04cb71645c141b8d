"""Who closes a descriptor: exactly one owner, on every way out."""

from __future__ import annotations

import os
import sys
from fcntl import F_DUPFD_CLOEXEC, fcntl

from mountfd.errors import InvalidSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self, TypeVar

    T = TypeVar("T", bound="OwnedFd")

__all__ = ["OwnedFd", "made_tidily"]


class OwnedFd:
    """A descriptor with one owner; base of every handle.

    Arguments: fd, an open descriptor whose ownership passes to this object.
    Closing twice does nothing; using a closed one raises InvalidSpec; one that is forgotten is closed with a
    ResourceWarning.
    """

    __slots__ = ("__weakref__", "_fd")

    def __init__(self, fd: int) -> None:
        """Take the descriptor over."""
        self._fd = fd

    def fileno(self) -> int:
        """Give the descriptor's number, which stays owned by this object. Raises InvalidSpec when closed."""
        if self._fd < 0:
            raise InvalidSpec(f"this {type(self).__name__} is closed", part=type(self).__name__)
        return self._fd

    @property
    def closed(self) -> bool:
        """Whether the descriptor is gone."""
        return self._fd < 0

    def close(self) -> None:
        """Close the descriptor; a detached mount that nothing else holds is dissolved by the kernel with it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def release(self) -> int:
        """Hand the descriptor over to the caller, who closes it from now on."""
        fd, self._fd = self.fileno(), -1
        return fd

    def dup(self) -> Self:
        """Make a second handle on the same open file: fcntl(2) F_DUPFD_CLOEXEC."""
        return type(self)(fcntl(self.fileno(), F_DUPFD_CLOEXEC, 3))

    def __enter__(self) -> Self:
        """Return itself: the block's end closes it."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close."""
        self.close()

    def __del__(self) -> None:
        """Close what was forgotten, and say so."""
        if getattr(self, "_fd", -1) < 0:
            return
        words = f"unclosed {self!r}"
        self.close()
        if not sys.is_finalizing():  # then nothing can be imported any more, and nobody listens
            import warnings  # noqa: PLC0415 (only on the way out of a mistake)

            warnings.warn(words, ResourceWarning, stacklevel=2, source=self)

    def __repr__(self) -> str:
        """Name the class and the number."""
        state = f"fd={self._fd}" if self._fd >= 0 else "closed"
        return f"<mountfd.{type(self).__name__} {state}>"


def made_tidily(make: Callable[[], T], tidy: Callable[[], object]) -> T:
    """Make a handle and tidy up in any case; what was made is closed where tidying up fails."""
    try:
        made = make()
    except BaseException:
        tidy()
        raise
    try:
        tidy()
    except BaseException:
        made.close()
        raise
    return made
