"""The tiny mount namespaces that others are copied from, kept by descriptors: one for each user namespace."""

from __future__ import annotations

import os

from mountfd.errors import from_errno
from mountfd.handles.kept import KeptFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["drop_templates", "shared_template"]


_kept: dict[int, KeptFd] = {}


def shared_template(make: Callable[[], int]) -> KeptFd:
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
    if kept is not None and not kept.is_there():
        _kept.pop(key, None)
        kept = None
    if kept is None:
        kept = _kept.setdefault(key, KeptFd(make()))
    return kept


def drop_templates() -> None:
    """Forget the kept namespaces; the next one who needs one makes it again."""
    _kept.clear()
