"""Who a replacement waits for: another one at the same place, and, when told to, those who use the old mount."""

from __future__ import annotations

import os
import time
from errno import EAGAIN, EBADF, EBUSY, ENOLCK, EOPNOTSUPP

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.errors import Denied, Gone, KernelError, Missing, NotDirectory, from_errno
from mountfd.handles.fd import OwnedFd
from mountfd.verbs.replace.standing import Standing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.abi.paths import StrPath
    from mountfd.model.info import MountInfo

__all__ = ["alone", "keep_waiting_below", "wait_for_users"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_LOCK_EX_NB = 2 | 4
_LOCK_UN = 8
_PATIENCE = 10.0
_PAUSE = 0.01
_CANNOT_LOCK = (EBADF, ENOLCK, EOPNOTSUPP)  # some filesystems of others
_MANY = 256


class _Lock(OwnedFd):
    """A directory that others of us wait for, as long as this handle is open, once it is locked."""

    is_locked = False

    def close(self) -> None:
        """Let go of it. Not only by closing: a process that was forked meanwhile has the descriptor too."""
        try:
            if self.is_locked and self._fd >= 0:
                calls.flock(self._fd, _LOCK_UN)
        finally:
            super().close()


def alone(target: StrPath) -> Standing:
    """Give what stands at the target, and keep other replacements there waiting until that is closed.

    The lock is flock(2) on the directory that the target stands in: the kernel lets go of it with the process, it lies
    beneath no mount that is replaced, and needs no file.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            standing = Standing(target)
        except Gone:
            if time.monotonic() > deadline:
                raise
            continue  # another one was faster
        try:
            _keep_waiting(standing, deadline)
            if standing.shows(standing.number):
                return standing
        except BaseException:
            standing.close()
            raise
        standing.close()  # another one was faster, and there is another mount to be replaced


def _keep_waiting(standing: Standing, deadline: float) -> None:
    # Not `..` of the old mount's root: to walk there that filesystem is asked, and its server may be dead.
    point = standing.info.point or os.path.realpath(standing.target)
    folder = os.fsencode(point.rpartition("/")[0] or "/")
    try:
        standing.lock = lock = _Lock(calls.openat(n.AT_FDCWD, folder, _DIRECTORY, 0))
    except Denied:
        # It may only be walked through: then nobody waits for anybody.
        calls.remark(f"replace: {os.fsdecode(folder)!r} can't be read, so other replacements there aren't kept waiting")
    else:
        _lock(lock, folder, standing, deadline)


def keep_waiting_below(standing: Standing, rows: list[MountInfo]) -> list[MountInfo]:
    """Keep replacements of the mounts below waiting, too, or their outcome would go with the old mount.

    Arguments: rows, what stands below. Gives what stands below since none can change, until the old mount is closed.
    Who waits there finds another mount afterwards, and begins anew with that.
    """
    deadline = time.monotonic() + _PATIENCE
    locked: set[bytes] = set()
    files = set() if standing.lock is None else {_file_of(standing.lock)}
    while fresh := _folders(standing, rows) - locked:
        if len(locked) + len(fresh) > _MANY:  # descriptors are few; changes are noticed anyway
            break
        for folder in sorted(fresh):
            _lock_within(standing, folder, files, deadline)
        locked |= fresh
        rows = standing.below()
    return rows


def _folders(standing: Standing, rows: list[MountInfo]) -> set[bytes]:
    """Give the directories in which mounts stand, as the old mount leads to them."""
    home = standing.info.point or "/"
    points = {row.point for row in rows if row.point is not None and row.point != home}
    return {os.fsencode(os.path.relpath(os.path.dirname(point), home)) for point in points}


def _lock_within(standing: Standing, folder: bytes, files: set[tuple[int, int]], deadline: float) -> None:
    try:
        lock = standing.passing.enter_context(_Lock(calls.openat(standing.fd, folder, _DIRECTORY, 0)))
    except (Denied, Missing, NotDirectory):
        calls.remark(f"replace: {os.fsdecode(folder)!r} can't be opened, so other replacements there aren't waited for")
        return
    standing.own_fds.add(lock.fileno())
    if (file := _file_of(lock)) in files:
        return  # a lock isn't shared with itself
    files.add(file)
    try:
        _lock(lock, folder, standing, deadline)
    except KernelError as error:
        if error.errno not in _CANNOT_LOCK:
            raise
        calls.remark(f"replace: {os.fsdecode(folder)!r} can't be locked, so other replacements there aren't waited for")


def _file_of(lock: OwnedFd) -> tuple[int, int]:
    found = os.fstat(lock.fileno())
    return found.st_dev, found.st_ino


def _lock(lock: _Lock, folder: bytes, standing: Standing, deadline: float) -> None:
    while True:
        try:
            calls.flock(lock.fileno(), _LOCK_EX_NB)
        except KernelError as error:
            if error.errno != EAGAIN:
                raise
        else:
            lock.is_locked = True
            return
        if time.monotonic() > deadline:
            hint = f"another replacement below {os.fsdecode(folder)!r} is going on, or somebody locks that directory"
            raise from_errno(EBUSY, "flock", (folder,), filename=standing.target, hint=hint)
        time.sleep(_PAUSE)


def wait_for_users(standing: Standing, seconds: float) -> None:
    """Wait until nobody uses the old mount, or the time is up."""
    from mountfd.verbs.holders import holders  # noqa: PLC0415 (only when asked)

    deadline = time.monotonic() + seconds
    pause = _PAUSE
    while time.monotonic() < deadline:
        if all(
            one.is_own and one.fd in standing.own_fds for one in holders(id=standing.number) if one.blocks and one.pid
        ):
            return
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(pause * 2, 0.25)
