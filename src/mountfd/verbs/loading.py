"""No code of a foreign root: while a thread is in another root, nothing is imported from there.

Whoever fills a container's root could put a module there by the name of one that this process hasn't loaded yet, and
it would run with this process's rights, outside of the container.
"""

from __future__ import annotations

import os
import sys
from _thread import get_ident

from mountfd.abi import numbers as n
from mountfd.verbs.query.place import NOFOLLOW, id_of

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
    "errno", "fcntl", "grp", "importlib", "json", "pwd", "shutil", "socket", "struct", "subprocess", "tempfile",
    "threading", "warnings",
)  # fmt: skip
_OTHERS = ("mountfd.cli", "mountfd.view", "mountfd.__main__")

_elsewhere: set[int] = set()  # threads that are in another root
_home: list[tuple[int, int, int]] = []  # our own root: device, inode and mount
_loaded: list[bool] = []


class _Refusal:
    """A finder that comes before all others, and finds nothing; in a foreign root it ends the search.

    It stays: a thread that was started there stays in that root when all who entered it have gone.
    """

    @staticmethod
    def find_spec(name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        if not _home or name in sys.builtin_module_names or not _is_elsewhere():
            return None
        words = f"{name} isn't loaded yet, and would come from the root that this thread is in: import it before"
        if name.startswith("encodings."):
            raise LookupError(words)  # of an ImportError that package would make "no such codec", for good
        raise ImportError(words, name=name)


def _is_elsewhere() -> bool:
    """Say whether this thread is in another root: one that was brought there, or that such a one has started."""
    if get_ident() in _elsewhere:
        return True
    here = _root()
    if here == _home[0]:
        return False
    threading = sys.modules.get("threading")
    if threading is None or get_ident() != threading.main_thread().ident:
        return True
    _home[:] = [here]  # the process itself has moved
    return False


def _root() -> tuple[int, int, int]:
    about = os.stat("/")
    return about.st_dev, about.st_ino, id_of(n.AT_FDCWD, b"/", NOFOLLOW)


def without_imports(act: Callable[[], T]) -> T:
    """Call a function that brings this thread, which ends with it, into another root; whatever it imports is refused.

    Raises: ImportError, of what would be imported there.
    """
    if not sys.meta_path or sys.meta_path[0] is not _Refusal:
        sys.meta_path.insert(0, _Refusal)  # a class serves as well as an object
    if not _home:
        _home[:] = [_root()]  # this thread is at home still
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
    for name in (*LATE, "encodings.idna"):  # the last for names of hosts
        import_module(name)
    _loaded[:] = [True]
