"""What a kill left of temporary mounts that had a path: found, said, cleared."""

from __future__ import annotations

import os
import stat

from mountfd.abi.paths import encode
from mountfd.errors import Missing, MountfdError, from_errno
from mountfd.verbs.temporary.clearing import clear
from mountfd.verbs.temporary.seen import POINT, default_location, is_name, locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.abi.paths import StrPath
    from mountfd.handles.fd import OwnedFd

__all__ = ["Finding", "sweep"]

_MODE = 0o700


class Finding:
    """One directory that was left: its path, how many mounts were taken away, and what stood in the way, or None."""

    __slots__ = ("error", "mounts", "path")

    def __init__(self, path: str, mounts: int, error: Exception | None = None) -> None:
        """Keep them."""
        self.path, self.mounts, self.error = path, mounts, error

    @property
    def is_cleared(self) -> bool:
        """Whether nothing of it is left."""
        return self.error is None

    def __repr__(self) -> str:
        """Say it in short."""
        return f"<Finding {self.path!r}: {self.error or f'{self.mounts} mounts taken away'}>"


def sweep(location: StrPath | None = None) -> list[Finding]:
    """Clear what killed processes left of their `temporary_path`s.

    Arguments: location, as they had it.
    Only directories of this user whose owner lives no more are touched, and nothing but mounts is taken out of them:
    directories go by rmdir(2). What stands in the way of one is told in its Finding, and the rest goes on; loop devices
    go with their last mount.
    Raises: KernelError where the location can't be read; one that isn't there has nothing left.
    """
    place = os.path.abspath(default_location() if location is None else os.fsdecode(encode(location, "location")))
    try:
        names = sorted(name for name in os.listdir(place) if is_name(name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise from_errno(error.errno or 0, "getdents64", (place,), filename=place) from None
    found = (_clear(os.path.join(place, name)) for name in names)
    return [finding for finding in found if finding is not None]


def _clear(home: str) -> Finding | None:
    taken = 0
    try:
        lock = _left(home)
        if lock is None:
            return None
        with lock:
            if _has_point(home):
                point = os.path.join(home, POINT)
                taken = clear(point)
                os.rmdir(point)
            os.rmdir(home)
    except (MountfdError, OSError, ExceptionGroup) as error:
        return Finding(home, taken, error)
    return Finding(home, taken)


def _left(home: str) -> OwnedFd | None:
    """Lock a directory that was left; None where it isn't ours, its owner lives, or it has gone meanwhile."""
    lock = None
    try:
        lock = locked(home) if _is_ours(os.lstat(home)) else None
        # Until it was locked, it may have been cleared by another sweep, and its name be another one's.
        if lock is not None and os.path.samestat(os.fstat(lock.fileno()), os.lstat(home)):
            held, lock = lock, None
            return held
    except (Missing, FileNotFoundError):
        return None
    finally:
        if lock is not None:
            lock.close()
    return None


def _is_ours(seen: os.stat_result) -> bool:
    return stat.S_ISDIR(seen.st_mode) and seen.st_mode & 0o777 == _MODE and seen.st_uid == os.geteuid()


def _has_point(home: str) -> bool:
    """Say whether there is a directory to mount on, without a look at what is mounted: its server may be dead."""
    with os.scandir(home) as entries:
        return any(entry.name == POINT and entry.is_dir(follow_symlinks=False) for entry in entries)
