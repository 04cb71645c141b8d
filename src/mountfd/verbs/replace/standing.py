"""What stands at the target: the top mount, what stands on it, and whether a replacement was begun and never ended."""

from __future__ import annotations

import os
from errno import ENOENT, EPERM
from stat import S_ISDIR

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.features import Feature, require
from mountfd.abi.layouts import MntIdReq, MountAttr, StatxBuffer
from mountfd.abi.paths import encode
from mountfd.errors import Gone, InvalidSpec, KernelError, Missing
from mountfd.handles.fd import OwnedFd
from mountfd.verbs.enter import on_thread
from mountfd.verbs.query.asking import ask, list_below, mask_of, stands
from mountfd.verbs.query.place import FOLLOW, HERE, id_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from mountfd.abi.paths import StrPath
    from mountfd.model.info import MountInfo

__all__ = ["Standing", "detach_top", "rows_below"]

_FIELDS = mask_of(("id", "parent_id", "point", "root", "attrs", "propagation", "peer_group", "master"))
_BELOW = mask_of(("id", "parent_id", "point", "root", "propagation", "peer_group", "master"))
_BENEATH = mask_of(("id", "point", "root", "propagation", "peer_group", "ns_id"))
_PATH = os.O_PATH | os.O_CLOEXEC
_PRIVATE, _SHARED = 1 << 18, 1 << 20
_NODIRATIME, _ATIME = 0x80, 0x70
_MARK = 0x20 | _NODIRATIME  # MOUNT_ATTR_STRICTATIME
_MNT_DETACH = 2
_CLONE_FS = 0x200
_FEW = 64
_STATX_TYPE, _STATX_MNT_ID_UNIQUE, _STATX_ATTR_MOUNT_ROOT = 0x1, 0x4000, 0x2000
_UNREACHABLE = (ENOENT, EPERM)


class Standing:
    """The mount that a target shows, held by a descriptor of its root.

    Arguments: target, a path.
    Attributes: info; parent, of the mount that it stands on (None where that is out of reach, as above a chroot);
    held, the descriptor; target; is_directory, whether its root is one, and not a file; is_shared, whether mount events
    travel from and to it; is_parent_shared, whether what happens at the target happens to peers and slaves of its
    parent; is_elsewhere, whether /proc may be that of others, as in another mount namespace.
    Raises: InvalidSpec where the target is no mount, or this process's root.
    """

    is_elsewhere = False

    def __init__(self, target: StrPath) -> None:
        """Resolve the target, once."""
        require(Feature.STATMOUNT, "replace follows mounts by their unique ids")
        self.raw = encode(target, "target")
        self.target = os.fsdecode(self.raw)
        self.held = OwnedFd(calls.openat(n.AT_FDCWD, self.raw, _PATH, 0))
        try:
            self._look()
            self._look_beneath()
            # Looked at several times each: members of an enum are made anew, and are slow to ask.
            self.is_shared = bool(int(self.info.propagation or 0) & _SHARED)
            self.is_parent_shared = self.parent is not None and bool(int(self.parent.propagation or 0) & _SHARED)
            self._attrs = int(self.info.attrs or 0)
            self._is_marked = self._attrs & _MARK == _MARK
        except BaseException:
            self.close()
            raise

    def _look(self) -> None:
        buffer = StatxBuffer()
        calls.statx(self.fd, b"", HERE, _STATX_TYPE | _STATX_MNT_ID_UNIQUE, calls.reference(buffer))
        self.is_directory = S_ISDIR(buffer.stx_mode)
        if not buffer.stx_attributes & _STATX_ATTR_MOUNT_ROOT:
            hint = "what has no mount on it gets one by `mount`, or make it one by binding it upon itself"
            raise InvalidSpec(f"{self.target!r} is no mount, so there is nothing to replace: {hint}", part="target")
        self.number: int = buffer.stx_mnt_id
        try:
            self.info = ask(self.number, _FIELDS)
        except Missing as error:
            if self.is_shown():
                hint = "enter that one, or name it by `namespaces`"
                raise InvalidSpec(
                    f"{self.target!r} stands in another mount namespace: {hint}", part="target"
                ) from error
            raise Gone(f"the mount at {self.target!r} went while it was looked at") from error
        if self.info.point in (None, "/") and self.number == id_of(n.AT_FDCWD, b"/", HERE):
            raise InvalidSpec(f"{self.target!r} is the root of this process: that one stays", part="target")

    def _look_beneath(self) -> None:
        self.parent: MountInfo | None = None
        try:
            self.parent = ask(self.info.parent_id or 0, _BENEATH)
        except KernelError as error:
            if error.errno not in _UNREACHABLE:
                raise

    @property
    def fd(self) -> int:
        """The descriptor of the mount's root."""
        return self.held.fileno()

    def is_half_replaced(self) -> bool:
        """Say whether a replacement was begun here and never ended: it is marked, and a newer mount lies beneath it.

        What is mounted upon something is newer than it; only what was tucked beneath is newer than what covers it, or
        what somebody moved there: hence the mark.
        """
        if self.parent is None or not self._is_marked or (self.parent.id or 0) < self.number:
            return False
        return self.parent.point == self.info.point

    def mark(self) -> bool:
        """Mark it as about to go, by two attributes that nobody has together; say whether that was to be done.

        For the moment that it has left it keeps access times more strictly, and not for directories. Where it is
        locked, as in a user namespace, what is killed half-way stays so.
        """
        if self._is_marked:
            return False
        try:
            self._set(MountAttr(_MARK, _ATIME, 0, 0))
        except KernelError as error:
            if error.errno != EPERM:
                raise
            calls.remark(f"replace: {self.target!r} can't be marked; if this is killed half-way the next won't know")
            return False
        return True

    def unmark(self) -> None:
        """Take the mark away, where nothing came of it."""
        before = self._attrs & (_ATIME | _NODIRATIME)
        self._set(MountAttr(before, (_ATIME | _NODIRATIME) & ~before | _ATIME, 0, 0))

    def _set(self, change: MountAttr, flags: int = 0) -> None:
        size = n.MOUNT_ATTR_SIZE_VER0
        calls.mount_setattr(self.fd, b"", n.AT_EMPTY_PATH | flags, calls.reference(change), size)

    def keep_to_itself(self) -> None:
        """Make it and all on it private, so that what stands on peers of these stays when they go."""
        self._set(MountAttr(0, 0, _PRIVATE, 0), n.AT_RECURSIVE)

    def is_shown(self) -> bool:
        """Say whether the target still leads to it."""
        try:
            return id_of(n.AT_FDCWD, self.raw, FOLLOW) == self.number
        except KernelError:
            return False  # it leads nowhere, or isn't ours to walk any more

    def refuse_if_covered(self) -> None:
        """Raise InvalidSpec where something was mounted upon it since it was looked at."""
        if self.is_shown():
            return
        covering = [row for row in self.below() if row.parent_id == self.number and row.point == self.info.point]
        if covering:
            raise InvalidSpec(
                f"something was mounted upon {self.target!r} meanwhile, so the old mount stays",
                part="target",
            )

    def below(self) -> list[MountInfo]:
        """Give what stands on this mount and below, parents first; hidden ones too."""
        return rows_below(self.number)

    def close(self) -> None:
        """Let go of it."""
        self.held.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close."""
        self.close()


def rows_below(number: int) -> list[MountInfo]:
    """Give every mount below one, parents before their children."""
    rows: dict[int, MountInfo] = {}
    ids = _ids_below(number)
    while len(rows) < len(ids):
        try:
            for each in ids:
                rows[each] = rows.get(each) or ask(each, _BELOW)
        except Missing:
            ids = _ids_below(number)  # it went meanwhile, and isn't listed any more
            rows = {each: row for each, row in rows.items() if each in ids}
    children: dict[int, list[MountInfo]] = {}
    for row in rows.values():
        children.setdefault(row.parent_id or 0, []).append(row)
    ordered, next_one = list(children.get(number, ())), 0
    while next_one < len(ordered):
        ordered += children.get(ordered[next_one].id or 0, ())
        next_one += 1
    return ordered


def _ids_below(number: int) -> list[int]:
    """List them; most have few, and room for many takes longer to make than to fill."""
    request = MntIdReq(n.MNT_ID_REQ_SIZE_VER0, 0, number, 0, 0)
    found = calls.list_ids(calls.reference(request), _FEW)
    return found if len(found) < _FEW else list_below(number)


def detach_top(standing: Standing) -> bool:
    """Take the old mount away, lazily, with all that stands on it; say whether it was still there.

    Only this mount goes, found by its own descriptor: one that came on top of it meanwhile is left, and told.
    Raises: InvalidSpec where something covers it.
    """
    standing.refuse_if_covered()
    try:
        (_detach_by_directory if standing.is_elsewhere else _detach_by_proc)(standing)
    except KernelError:
        if not stands(standing.number):
            return False  # another replacement, or a person, was faster
        # Once something is tucked beneath, only this one's going takes that out of hiding: one failure isn't the end.
        _detach_by_directory(standing)
    return True


def _detach_by_proc(standing: Standing) -> None:
    calls.umount2(b"/proc/self/fd/%d" % standing.fd, _MNT_DETACH)


def _detach_by_directory(standing: Standing) -> None:
    """Go to the mount's root, on a thread with a working directory of its own, and name it from there."""

    def act() -> None:
        calls.unshare(_CLONE_FS)
        calls.fchdir(standing.fd)
        calls.umount2(b".", _MNT_DETACH)

    if standing.is_directory:
        on_thread(act)
    else:
        calls.umount2(standing.raw, _MNT_DETACH)
