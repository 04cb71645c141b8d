"""No code of a foreign root: while a thread is in another root, nothing is imported from there.

Whoever fills a container's root could put a module there by the name of one that this process hasn't loaded yet, and
it would run with this process's rights, outside of the container.
"""

from __future__ import annotations

import os
import sys
from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["LATE", "load_everything", "without_imports"]

# What functions of this package import when they are called.
LATE = (
    "errno", "fcntl", "grp", "importlib", "json", "pwd", "shutil", "socket", "stat", "struct", "subprocess", "tempfile",
    "threading", "warnings",
)  # fmt: skip
_OTHERS = ("mountfd.cli", "mountfd.view", "mountfd.__main__")

_elsewhere: set[int] = set()  # threads that are in another root
_loaded: list[bool] = []


class _Refusal:
    """A finder that comes before all others, and finds nothing; in a foreign root it ends the search."""

    @staticmethod
    def find_spec(name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        if not _elsewhere or name in sys.builtin_module_names or not _is_elsewhere():
            return None
        words = f"{name} isn't loaded yet, and would come from the root that this thread is in: import it before"
        raise ImportError(words, name=name)


def _is_elsewhere() -> bool:
    """Say whether this thread is in another root: one that was brought there, or that such a one has started."""
    if get_ident() in _elsewhere:
        return True
    try:
        return not os.path.samestat(os.stat("/"), os.stat(f"/proc/{os.getpid()}/root/."))
    except OSError:
        return True  # a root without /proc isn't ours, which has one wherever namespaces are entered


def without_imports(act: Callable[[], T]) -> T:
    """Call a function that brings this thread, which ends with it, into another root; whatever it imports is refused.

    Raises: ImportError, of what would be imported there.
    """
    if not sys.meta_path or sys.meta_path[0] is not _Refusal:
        sys.meta_path.insert(0, _Refusal)  # a class serves as well as an object
    _elsewhere.add(get_ident())
    try:
        return act()
    finally:
        _elsewhere.discard(get_ident())


def load_everything() -> None:
    """Import, once, what this package would import later: in another root it couldn't any more."""
    if _loaded:
        return
    import pkgutil  # noqa: PLC0415 (only for who calls functions in another root)
    from importlib import import_module  # noqa: PLC0415

    for module in pkgutil.walk_packages(sys.modules["mountfd"].__path__, "mountfd."):
        if not module.name.startswith(_OTHERS):
            import_module(module.name)
    for name in LATE:
        import_module(name)
    _loaded[:] = [True]
