"""Which mount is meant: a path, or an id together with the path where it stands."""

from __future__ import annotations

import os
from errno import EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOSYS, ENOTDIR, EPERM

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.layouts import StatxBuffer
from mountfd.abi.paths import encode
from mountfd.errors import Gone, InvalidSpec, KernelError, Missing
from mountfd.handles.fd import OwnedFd
from mountfd.verbs.query.asking import ask, mask_of
from mountfd.verbs.query.place import FOLLOW, HERE, NOFOLLOW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from mountfd.abi.paths import StrPath

    class HasFileno(Protocol):
        """A handle on a descriptor."""

        def fileno(self) -> int:
            """Give the descriptor's number."""


__all__ = ["Aim", "HasFileno", "Seen", "find", "is_own_root", "is_same", "look", "refuse_own_root"]

_MNT_ID, _MNT_ID_UNIQUE, _MOUNT_ROOT = 0x1000, 0x4000, 0x2000
_CANNOT = (ENOSYS, EPERM, EINVAL)  # there is no statx(2), or a filter forbids it
_NO_PATH = (ENOENT, ENOTDIR, ELOOP, ENAMETOOLONG)
_O_PATH = os.O_PATH | os.O_CLOEXEC
_UNREACHABLE = "no path leads to it from this process's root"


class Aim:
    """Where to unmount.

    Attributes: raw, the path; follow, whether its final symlink is followed; number, the unique id of the only mount
    that may go, 0 for whichever is on top; fd, the caller's descriptor that it was named by, which keeps it busy.
    """

    __slots__ = ("fd", "follow", "number", "raw")

    def __init__(self, raw: bytes, number: int = 0, *, follow: bool = False, fd: int | None = None) -> None:
        """Keep the four."""
        self.raw, self.number, self.follow, self.fd = raw, number, follow, fd

    def look(self) -> Seen:
        """See what is on top there now."""
        return look(n.AT_FDCWD, self.raw, FOLLOW if self.follow else NOFOLLOW)

    @property
    def path(self) -> str:
        """The path as text."""
        return os.fsdecode(self.raw)


class Seen:
    """What a path leads to.

    Attributes: number, the id of its mount; is_unique, whether that is the kind which is never reused; is_root, whether
    the path is the mount's root.
    """

    __slots__ = ("is_root", "is_unique", "number")

    def __init__(self, number: int, *, is_unique: bool, is_root: bool) -> None:
        """Keep the three."""
        self.number, self.is_unique, self.is_root = number, is_unique, is_root

    @property
    def unique(self) -> int:
        """The unique id, or 0."""
        return self.number if self.is_unique else 0


def find(target: StrPath | int | HasFileno | None, number: int | None, *, follow: bool) -> Aim | None:
    """Find what is meant; None where it can be told at once that a descriptor is of no mount's root.

    Raises: Gone for an id or handle of a mount that doesn't stand here, NotSupported for an id before Linux 6.8.
    """
    if target is None and number is None:
        raise InvalidSpec("unmount takes a target, an id, or both", part="target")
    if isinstance(target, bool):
        raise InvalidSpec(f"{target!r} is no path, descriptor or handle", part="target")
    if number is not None:
        from mountfd.verbs.query.lookup import lookup_id  # noqa: PLC0415 (only by id)

        point = lookup_id(number, ("point",)).point
        if target is None:
            return Aim(_encoded(point, number), number)
    if target is None or isinstance(target, str | bytes | os.PathLike):
        return Aim(encode(target or "", "target"), number or 0, follow=follow)
    return _by_descriptor(target, number)


def _by_descriptor(target: int | HasFileno, number: int | None) -> Aim | None:
    fd = target if isinstance(target, int) else target.fileno()
    seen = look(fd, b"", HERE)
    if not seen.is_root:
        return None
    if number is not None and not is_same(seen, number):
        raise Gone(f"descriptor {fd} is of mount {seen.number}, not of {number}")
    if is_own_root(seen):
        raise InvalidSpec(f"descriptor {fd} is of the root of this process: that one stays", part="target")
    aim = _where_it_stands(fd, seen)
    if isinstance(target, OwnedFd):
        target.close()
    else:
        aim.fd = fd
    return aim


def _where_it_stands(fd: int, seen: Seen) -> Aim:
    if seen.unique:
        try:
            return Aim(_encoded(ask(seen.unique, mask_of(("point",))).point, seen.unique), seen.unique)
        except Missing as error:
            raise Gone(f"the mount of descriptor {fd} doesn't stand in this mount namespace") from error
        except KernelError as error:
            if error.errno not in _CANNOT:
                raise
    from mountfd.verbs.query.oldway import is_in_table, old_id_of, path_of  # noqa: PLC0415 (old kernels and filters only)

    if not is_in_table(old_id_of(fd)):
        raise Gone(f"the mount of descriptor {fd} doesn't stand in this mount namespace")
    # Without a question by id, what comes on top between this look and the unmount can't be told from it.
    aim = Aim(os.fsencode(path_of(fd)))
    if aim.look().number != seen.number:
        raise Gone(f"the mount of descriptor {fd} is not on top at {aim.path!r}")
    return aim


def _encoded(point: str | None, number: int) -> bytes:
    if point is None:
        raise Gone(f"mount {number} can't be unmounted from here: {_UNREACHABLE}")
    return os.fsencode(point)


# --- looking -------------------------------------------------------------------------------------------------------
def look(at: int, raw: bytes, flags: int) -> Seen:
    """See what a path or descriptor leads to. Raises Missing, NotDirectory, Denied for a path."""
    buffer = StatxBuffer()
    pointer = calls.reference(buffer)
    try:
        calls.statx(at, raw, flags, _MNT_ID_UNIQUE, pointer)
    except KernelError as error:
        if error.errno in _CANNOT:
            return _look_by_table(at, raw, flags)
        if error.errno in _NO_PATH:
            raise
        # A FUSE server that serves another user alone answers nothing, but nothing needn't be asked of it. Then the
        # kernel gives the reused id.
        calls.statx(at, raw, flags, 0, pointer)
    if not (buffer.stx_mask & (_MNT_ID | _MNT_ID_UNIQUE) and buffer.stx_attributes_mask & _MOUNT_ROOT):
        return _look_by_table(at, raw, flags)
    is_root = bool(buffer.stx_attributes & _MOUNT_ROOT)
    return Seen(buffer.stx_mnt_id, is_unique=bool(buffer.stx_mask & _MNT_ID_UNIQUE), is_root=is_root)


def _look_by_table(at: int, raw: bytes, flags: int) -> Seen:
    from mountfd.model.mountinfo import parse  # noqa: PLC0415 (old kernels and filters only)
    from mountfd.verbs.query.oldway import find_old, old_id_of, path_of, read_table  # noqa: PLC0415

    follows = not flags & n.AT_SYMLINK_NOFOLLOW
    fd = calls.openat(at, raw, _O_PATH if follows else _O_PATH | os.O_NOFOLLOW, 0) if raw else at
    try:
        number = old_id_of(fd)
        row = find_old(parse(read_table()), number)
        return Seen(number, is_unique=False, is_root=row is not None and row.point == path_of(fd))
    finally:
        if raw:
            os.close(fd)


def is_same(seen: Seen, number: int) -> bool:
    """Say whether what was seen is the root of the mount with this unique id. Raises Missing when there is none."""
    if not seen.is_root:
        return False
    return seen.number == (number if seen.is_unique else ask(number, mask_of(("id_old",))).id_old)


def is_own_root(seen: Seen) -> bool:
    """Say whether what was seen is the mount that this process has its root on."""
    own = look(n.AT_FDCWD, b"/", FOLLOW)
    if own.is_unique != seen.is_unique and own.unique:
        return ask(own.unique, mask_of(("id_old",))).id_old == seen.number
    return own.number == seen.number


def refuse_own_root(aim: Aim, seen: Seen) -> None:
    """Raise InvalidSpec for this process's own root, however it is named.

    umount2(2) would make its filesystem read-only, for everybody who has it mounted; lazily, leave nothing to walk.
    """
    if is_own_root(seen):
        raise InvalidSpec(f"{aim.path!r} is the root of this process: that one stays", part="target")
