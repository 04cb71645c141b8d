"""What stands at the target: the top mount, what stands on it, and whether a replacement was begun and never ended."""

from __future__ import annotations

import os
from contextlib import ExitStack
from errno import EBUSY, ENOENT, EPERM
from stat import S_ISDIR

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.features import Feature, require
from mountfd.abi.layouts import MntIdReq, MountAttr
from mountfd.abi.paths import encode
from mountfd.errors import Busy, Gone, InvalidSpec, KernelError, Missing, from_errno
from mountfd.handles.fd import OwnedFd
from mountfd.verbs.enter import on_thread
from mountfd.verbs.query.asking import ask, basics, list_below, mask_of, stands
from mountfd.verbs.query.place import FOLLOW, HERE, facts_of, id_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from mountfd.abi.paths import StrPath
    from mountfd.model.info import MountInfo

__all__ = ["WAITS", "Standing", "changed", "detach_top", "look_beneath"]

_FIELDS = mask_of(("id", "parent_id", "point", "root", "attrs", "propagation", "peer_group", "master"))
_NUMBERS = mask_of(("id", "parent_id", "propagation", "peer_group"))
_BELOW = mask_of(("id", "parent_id", "point", "root", "propagation", "peer_group", "master"))
_BENEATH = mask_of(("id", "parent_id", "point", "root", "propagation", "peer_group", "ns_id"))
_BENEATH_UNREACHABLE = mask_of(("id", "parent_id", "root", "propagation", "peer_group", "ns_id"))
_PATH = os.O_PATH | os.O_CLOEXEC
_PRIVATE, _SHARED = 1 << 18, 1 << 20
_NODIRATIME, _ATIME = 0x80, 0x70
_MARK = 0x20 | _NODIRATIME  # MOUNT_ATTR_STRICTATIME
_MNT_DETACH = 2
_CLONE_FS = 0x200
WAITS = "The old mount still shows and the new one lies beneath it: the next replacement here ends this one first"
_UNTOLD = "who receives what happens there can't be told, so nothing was changed"
_FEW = 64
_TRIES = 100
_UNREACHABLE = (ENOENT, EPERM)


class Standing:
    """The mount that a target shows, held by a descriptor of its root.

    Arguments: target, a path.
    Attributes: info; fd, a descriptor of its root, closed with this; is_directory, whether its root is one, and not a
    file; is_marked, whether it bears the mark of one that is about to go; is_older, whether it is than what it stands
    on; has_usual_times, whether it keeps access times as a mount does that nobody told otherwise, so that a mark can be
    undone; is_shared, whether mount events travel from and to it; is_parent_shared, whether what happens at the target
    happens to peers and slaves of its parent; hears_its_parent, whether what happens on that happens on itself;
    is_elsewhere, whether /proc may be that of others, as in another mount namespace; own_fds, what the replacement
    itself has open in the mount; lock, what is locked to keep others waiting, let go of with this; seen, the ids of
    what stood below it when that was looked at, None before; is_going, whether the first of the two steps is done;
    goes_alone, whether no copy of it stands anywhere, so that nothing has to go elsewhere when it goes.
    Raises: InvalidSpec where the target is no mount, or this process's root.
    """

    is_elsewhere = is_going = goes_alone = False
    lock: OwnedFd | None = None
    seen: frozenset[int | None] | None = None
    _passing: ExitStack | None = None
    _parent: MountInfo | None = None
    _request: object = None

    def __init__(self, target: StrPath) -> None:
        """Resolve the target, once."""
        require(Feature.STATMOUNT, "replace follows mounts by their unique ids")
        self.raw = encode(target, "target")
        self._held = OwnedFd(calls.openat(n.AT_FDCWD, self.raw, _PATH, 0))
        self.fd = self._held.fileno()
        self.own_fds = {self.fd}
        try:
            self._look()
            self._look_beneath()
        except BaseException:
            self.close()
            raise

    def _look(self) -> None:
        self.number, mode, is_root = facts_of(self.fd)
        self.is_directory = S_ISDIR(mode)
        if not is_root:
            hint = "mount something there by `mount`, or make it a mount by binding it upon itself"
            raise InvalidSpec(f"{self.target!r} is no mount, so there is nothing to replace: {hint}", part="target")
        try:
            self.info = ask(self.number, _FIELDS)
        except Missing as error:
            if self.is_shown():
                hint = "enter that one, or name it by `namespaces`"
                words = f"{self.target!r} was unmounted, or stands in another mount namespace: {hint}"
                raise InvalidSpec(words, part="target") from error
            raise Gone(f"the mount at {self.target!r} went while it was looked at") from error
        if self.info.point in (None, "/") and self.number == id_of(n.AT_FDCWD, b"/", HERE):
            raise InvalidSpec(f"{self.target!r} is the root of this process: that one stays", part="target")
        self._parent_id, attrs, propagation, self._group, self._master = basics(self.info)
        self.is_shared = bool(propagation & _SHARED)
        self.is_marked = attrs & _MARK == _MARK
        self.is_older = self._parent_id > self.number
        self.has_usual_times = not attrs & (_ATIME | _NODIRATIME)

    def _look_beneath(self) -> None:
        # Whether it is shared must be known: taken for private, receivers would keep the old one; taken for shared,
        # what stands on peers of the old one would go with it.
        try:
            beneath = ask(self._parent_id, _NUMBERS)
        except KernelError as error:
            if isinstance(error, Missing) and not self._stands_still():
                raise Gone(f"the mount at {self.target!r} went while it was looked at") from error
            error.explain(filename=self.target, hint=_UNTOLD)
            raise
        _, _, propagation, group, _ = basics(beneath)
        self.is_parent_shared = bool(propagation & _SHARED)
        self.hears_its_parent = group != 0 and group in (self._group, self._master)

    def _stands_still(self) -> bool:
        return self.is_shown() and ask(self.number, _FIELDS).parent_id == self._parent_id

    @property
    def parent(self) -> MountInfo:
        """The mount that it stands on; its point is None where that is out of reach, as above a chroot."""
        if self._parent is None:
            self._parent = look_beneath(self._parent_id, self)
        return self._parent

    @property
    def target(self) -> str:
        """The target, as it was given, for a person."""
        return os.fsdecode(self.raw)

    @property
    def passing(self) -> ExitStack:
        """What is closed with this: for what is needed as long."""
        if self._passing is None:
            self._passing = ExitStack()
        return self._passing

    def is_half_replaced(self) -> bool:
        """Say whether a replacement was begun here and never ended: it is marked, and a newer mount lies beneath it.

        What is mounted upon something is newer than it; only what was tucked beneath is newer than what covers it, or
        what somebody moved there: hence the mark.
        """
        return self.is_marked and self.is_older and self.covers

    @property
    def covers(self) -> bool:
        """Whether it stands on another mount's root, at the same place."""
        return self.parent.point is not None and self.parent.point == self.info.point

    def mark(self) -> bool:
        """Mark it as about to go, by two attributes that nobody has together; say whether that was to be done.

        For the moment that it has left it keeps access times more strictly, and not for directories. Where it is
        locked, as in a user namespace, what is killed half-way stays so.
        """
        if self.is_marked:
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
        """Take the mark away, where nothing came of it: only what kept the usual access times was marked so early."""
        try:
            self._set(MountAttr(0, _ATIME | _NODIRATIME, 0, 0))
        except KernelError as error:
            if error.errno != EPERM:
                raise
            calls.remark(f"replace: {self.target!r} was marked by one that was killed, and can't be changed back")
        else:
            self.is_marked, self.has_usual_times = False, True

    def _set(self, change: MountAttr, flags: int = 0) -> None:
        size = n.MOUNT_ATTR_SIZE_VER0
        calls.mount_setattr(self.fd, b"", n.AT_EMPTY_PATH | flags, calls.reference(change), size)

    def keep_to_itself(self) -> None:
        """Make it and all on it private, so that what stands on peers of these stays when they go."""
        self._set(MountAttr(0, 0, _PRIVATE, 0), n.AT_RECURSIVE)

    def is_shown(self) -> bool:
        """Say whether the target still leads to it."""
        return self.shows(self.number)

    def shows(self, number: int) -> bool:
        """Say whether the target leads to the mount with that unique id."""
        try:
            return id_of(n.AT_FDCWD, self.raw, FOLLOW) == number
        except KernelError:
            return False  # it leads nowhere, or isn't ours to walk any more

    def refuse_if_covered(self) -> None:
        """Raise InvalidSpec where something was mounted upon it since it was looked at."""
        if self.is_shown():
            return
        try:
            below = self.below()
        except Missing:
            return  # it isn't covered, but gone
        if any(row.parent_id == self.number and row.point == self.info.point for row in below):
            raise InvalidSpec(
                f"something was mounted upon {self.target!r} meanwhile, so the old mount stays",
                part="target",
            )

    def below(self) -> list[MountInfo]:
        """Give what stands on this mount and below, parents first; hidden ones too."""
        ids = self.ids_below()
        return _rows_below(self, ids) if ids else []

    def news(self) -> tuple[list[MountInfo], frozenset[int | None]]:
        """Give what came to stand below it since that was looked at, and the ids of what went."""
        if self.seen is None or self.seen == set(self.ids_below()):
            return [], frozenset()
        rows = self.below()
        return [row for row in rows if row.id not in self.seen], self.seen - {row.id for row in rows}

    def look_again(self) -> None:
        """Raise Busy where mounts below came or went since they were looked at."""
        if self.seen is not None and self.seen != set(self.ids_below()):
            raise changed(self.target, f"mounts below {self.target!r} came or went meanwhile: try again")

    def ids_below(self) -> list[int]:
        """List what stands on this mount and below."""
        # Most have few, and room for many takes longer to make than to fill.
        if self._request is None:
            self._request = calls.reference(MntIdReq(n.MNT_ID_REQ_SIZE_VER0, 0, self.number, 0, 0))
        found = calls.list_ids(self._request, _FEW)
        return found if len(found) < _FEW else list_below(self.number)

    def has_changed(self) -> bool:
        """Say whether somebody else took it away, or changed what stands below it, since it was looked at."""
        try:
            self.look_again()
        except (Busy, Missing):
            return True
        return not self.is_shown()

    def close(self) -> None:
        """Let go of it, first of what is held as long."""
        self.fd = -1
        try:
            if self._passing is not None:
                self._passing.close()
        finally:
            try:
                if self.lock is not None:
                    self.lock.close()
            finally:
                self._held.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close."""
        self.close()


def changed(target: str, hint: str) -> KernelError:
    """Make the error that says that somebody else was at work there, and that nothing was changed by us."""
    return from_errno(EBUSY, "replace", filename=target, hint=hint)


def look_beneath(number: int, standing: Standing) -> MountInfo:
    """Ask about a mount on which what stands at a target stands, also where it is above the caller's root.

    Raises: Missing or Denied where not even its propagation can be told.
    """
    try:
        return ask(number, _BENEATH)
    except KernelError as error:
        if error.errno not in _UNREACHABLE:
            raise
    try:
        return ask(number, _BENEATH_UNREACHABLE)
    except KernelError as error:
        error.explain(filename=standing.target, hint=_UNTOLD)
        raise


def _rows_below(standing: Standing, ids: list[int]) -> list[MountInfo]:
    """Give every mount below what stands at a target, parents before their children.

    Arguments: standing; ids, what was listed just now.
    Raises: Busy where they come and go all the time.
    """
    for _ in range(_TRIES):
        # What is known already may have got another parent: of that only the ids stay true.
        try:
            rows = {each: ask(each, _BELOW) for each in ids}
            ordered = _in_order(standing.number, rows)
            if len(ordered) == len(rows):
                return ordered
            # One stands on a mount that came after they were listed: without that it would be overlooked.
        except Missing:
            pass  # it went meanwhile, and isn't listed any more
        ids = standing.ids_below()
    raise changed(standing.target, f"mounts below {standing.target!r} come and go all the time: try again")


def _in_order(number: int, rows: dict[int, MountInfo]) -> list[MountInfo]:
    children: dict[int, list[MountInfo]] = {}
    for row in rows.values():
        children.setdefault(row.parent_id or 0, []).append(row)
    ordered, next_one = list(children.get(number, ())), 0
    while next_one < len(ordered):
        ordered += children.get(ordered[next_one].id or 0, ())
        next_one += 1
    return ordered


def detach_top(standing: Standing, following: int = 0, *, is_sure: bool = False) -> bool:
    """Take the old mount away, lazily, with all that stands on it; say whether it was still there.

    Arguments: following, the id of the mount that shows then, where one does; is_sure, whether it was seen just now
    that nothing covers it.
    Raises: InvalidSpec where something covers it.
    """
    if not is_sure:
        standing.refuse_if_covered()
    try:
        (_detach_by_directory if standing.is_elsewhere else _detach_by_proc)(standing)
    except KernelError:
        if not stands(standing.number):
            return False  # another replacement, or a person, was faster
        # Once something is tucked beneath, only this one's going takes that out of hiding: one failure isn't the end.
        _detach_by_directory(standing)
    # What lies beneath it shows when it is gone, and to ask for that is less than to fail.
    if not (following and standing.shows(following)) and stands(standing.number):
        # Whatever the kernel is given, it takes away what lies on top there.
        hint = "something was mounted upon it in the last moment, and that was unmounted instead: mount it again"
        raise changed(standing.target, f"{hint}. {WAITS}")
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
