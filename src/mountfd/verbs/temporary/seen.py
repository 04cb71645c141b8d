"""A mount with a path, for programs that take nothing else, for a while.

    LOCATION/mountfd-mnt-0123456789ab        a directory of mode 0700, locked by flock(2) while its owner lives
    LOCATION/mountfd-mnt-0123456789ab/mnt    what is mounted

The lock lies on the outer directory, since no descriptor reaches a directory that is covered by a mount. The kernel
lets go of it with the process: that is how `sweep` tells what a kill left from what is in use.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from errno import EAGAIN, EEXIST

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.paths import encode
from mountfd.errors import InvalidSpec, KernelError, Missing, from_errno
from mountfd.handles.fd import OwnedFd
from mountfd.model.spec import MountSpec
from mountfd.verbs.mount import mount_apart
from mountfd.verbs.temporary.clearing import clear

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mountfd.abi.paths import StrPath

__all__ = ["POINT", "default_location", "is_name", "locked", "temporary_path"]

POINT = "mnt"
_PREFIX = "mountfd-mnt-"
_DIGITS = 12
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK_EX_NB = 2 | 4


@contextmanager
def temporary_path(what: MountSpec | Iterable[MountSpec], *, location: StrPath | None = None) -> Iterator[str]:
    """Mount something at a path of its own for as long as the block lasts.

    Arguments: what, a MountSpec or a list, of which all is mounted or nothing; location, the directory that the path is
    made in (None: $XDG_RUNTIME_DIR, else the system's temporary directory); one that isn't there is made, for its owner
    alone, and stays; its parent has to be there.
    Gives the path. When the block ends, however it does, everything there is unmounted and the directory removed, by
    rmdir(2) alone: where something keeps it busy it stays, with all that is in it, for `sweep`. `volatile` is dropped
    from an overlay. Binds are private to their source: what is mounted here isn't seen there, and nothing there goes
    with what goes here.
    Raises: what `mount_all` raises; Busy, with .holders, when the unmount fails; what the block raised is its cause.
    """
    specs = [spec.without_volatile() for spec in _checked([what] if isinstance(what, MountSpec) else list(what))]
    place = os.path.abspath(default_location() if location is None else os.fsdecode(encode(location, "location")))
    if location is not None and not os.path.isdir(place):
        _make(place, exist_ok=True)
    with _home(place) as home:
        point = os.path.join(home, POINT)
        _make(point)
        try:
            with _mounted(specs, point):
                yield point
        finally:
            _remove(point)


def default_location() -> str:
    """Give the directory for mounts that have a path: $XDG_RUNTIME_DIR, else the system's temporary directory."""
    from tempfile import gettempdir  # noqa: PLC0415 (most callers have a location)

    return os.environ.get("XDG_RUNTIME_DIR") or gettempdir()


def is_name(name: str) -> bool:
    """Say whether a directory of this name may be one of a `temporary_path`."""
    digits = name.removeprefix(_PREFIX)
    return name.startswith(_PREFIX) and len(digits) == _DIGITS and not set(digits) - set("0123456789abcdef")


def locked(home: str) -> OwnedFd | None:
    """Lock a directory; None where its owner lives, or somebody else clears it right now."""
    lock = OwnedFd(calls.openat(n.AT_FDCWD, encode(home), _DIRECTORY, 0))
    try:
        calls.flock(lock.fileno(), _LOCK_EX_NB)
    except BaseException as error:
        lock.close()
        if isinstance(error, KernelError) and error.errno == EAGAIN:
            return None
        raise
    return lock


def _checked(specs: list[MountSpec]) -> list[MountSpec]:
    if not specs or not all(isinstance(spec, MountSpec) for spec in specs):
        raise InvalidSpec("temporary_path takes one or more MountSpecs", part="what")
    for spec in specs:
        if spec.understood().action == "move":
            raise InvalidSpec(f"what is moved into a temporary mount would go with it: {spec!r}", part="what")
    return specs


@contextmanager
def _home(location: str) -> Iterator[str]:
    """Make a directory and lock it; remove it at the end."""
    while True:
        home = os.path.join(location, f"{_PREFIX}{os.urandom(_DIGITS // 2).hex()}")
        _make(home)
        # A sweep may come between these steps: it takes the lock, and the directory away. Then make another one.
        try:
            lock = locked(home)
        except Missing:
            continue
        except BaseException:
            _remove(home)
            raise
        if lock is None:
            continue
        with lock:
            if not _is_at(lock, home):
                continue
            try:
                yield home
            finally:
                _remove(home)
            return


@contextmanager
def _mounted(specs: list[MountSpec], point: str) -> Iterator[None]:
    try:
        mount_apart(specs, point)
        yield
    except BaseException as cause:
        try:
            clear(point)
        except BaseException as error:
            raise error from cause
        raise
    clear(point)


def _is_at(lock: OwnedFd, home: str) -> bool:
    try:
        return os.path.samestat(os.fstat(lock.fileno()), os.lstat(home))
    except FileNotFoundError:
        return False


def _make(directory: str, *, exist_ok: bool = False) -> None:
    try:
        os.mkdir(directory, 0o700)
    except OSError as error:
        if (
            exist_ok and error.errno == EEXIST
        ):  # another one was quicker; if that is no directory, the next step says so
            return
        raise from_errno(error.errno or 0, "mkdir", (directory,), filename=directory) from None


def _remove(directory: str) -> None:
    try:
        os.rmdir(directory)
    except OSError as error:  # busy or not empty: it was said already why, or there is more below than ours
        calls.remark(f"the directory {directory!r} stays: {error.strerror}")
