"""The tiny mount namespaces that others are copied from, kept by descriptors: one for each user namespace."""

from __future__ import annotations

import os

from mountfd.errors import from_errno
from mountfd.handles.fd import OwnedFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["drop_templates", "shared_template"]


class _Template(OwnedFd):
    """A kept namespace: closed with its last user, however the cache let go of it."""

    __slots__ = ()

    def __del__(self) -> None:
        """Close without a word: the cache is its owner, and dropping it is the cache's way to close."""
        self.close()


_kept: dict[int, _Template] = {}


def shared_template(make: Callable[[], int]) -> OwnedFd:
    """Give the kept namespace of this process's user namespace, made on first use.

    The result belongs to the cache: hold a reference while using it, and don't close it.
    """
    try:
        # A mount namespace keeps the user namespace that owns it, so this number isn't given to another meanwhile.
        key = os.stat("/proc/self/ns/user").st_ino
    except OSError as error:
        hint = "/proc isn't mounted here; namespaces are found through it"
        raise from_errno(error.errno or 0, "stat", (), filename="/proc/self/ns/user", hint=hint) from None
    kept = _kept.get(key)
    if kept is None:
        kept = _kept.setdefault(key, _Template(make()))
    return kept


def drop_templates() -> None:
    """Forget the kept namespaces; the next one who needs one makes it again."""
    _kept.clear()
