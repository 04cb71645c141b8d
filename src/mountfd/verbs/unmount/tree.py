"""Everything at and below a path: each mount by its id, after what stands on it and after what hides it.

A mount hides those of its siblings whose points lie below its own, so of siblings the shortest point goes first.
Unmounting one may take others along, where mount events travel: what has gone already is no error.
"""

from __future__ import annotations

import os
from errno import EBUSY, ENOENT

from mountfd.abi import numbers as n
from mountfd.errors import Gone, InvalidSpec, KernelError, Missing, MountfdError, from_errno
from mountfd.verbs.query.asking import list_below, stands
from mountfd.verbs.query.listing import ask_each, mounts
from mountfd.verbs.query.oldway import is_in_table
from mountfd.verbs.query.place import FOLLOW
from mountfd.verbs.unmount.exact import check_on_top, take_checked
from mountfd.verbs.unmount.explain import hidden_there, refuse_symlink
from mountfd.verbs.unmount.one import patiently, take
from mountfd.verbs.unmount.target import Aim, look, refuse_own_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountfd.model.info import MountInfo

__all__ = ["in_order", "take_tree"]

_FIELDS = ("id", "parent_id", "id_old", "parent_id_old", "point")
_DETACH = 2
_ROUNDS = 16


class _Changed(Exception):
    """Mounts came meanwhile: list again."""


def take_tree(aim: Aim, flags: int, deadline: float) -> int:
    """Take away everything at and below a path; with an id that mount and what is below it, not what it covers.

    Gives how many. Raises the error of the one that failed, or an ExceptionGroup of several; each is tried.
    """
    if aim.number:
        check_on_top(aim)
    try:
        seen = aim.look()
    except Missing as error:
        hint = hidden_there(aim.raw, below=True)
        if hint is None:
            return 0
        error.explain(hint=hint)
        raise
    if seen.is_root:
        refuse_own_root(aim, seen)
        if flags & _DETACH:
            along = len(list_below(seen.unique)) if seen.unique else _count_below(seen.number)
            return take(aim, flags, deadline) + along
    elif not aim.follow:
        refuse_symlink(aim)
    count = 0
    for _ in range(_ROUNDS):
        rows = _listed(aim)
        _refuse_own_root_in(rows)
        sweep = _Sweep(rows, flags, deadline)
        sweep.go()
        count += sweep.count
        if sweep.errors:
            _raise_all(sweep.errors, count, aim.path)
        # Of reused ids nobody can tell what came meanwhile: so until nothing is left.
        is_sure = all(row.id for row in rows) and not sweep.is_stale
        if is_sure and (rows or not seen.is_root or not aim.look().is_root):
            return count
    hint = "mounts come there faster than they are unmounted"
    raise from_errno(EBUSY, "umount2", (aim.raw, flags), filename=aim.path, hint=hint)


def in_order(rows: Iterable[MountInfo]) -> list[MountInfo]:
    """Order mounts so that each comes after all that stand on it, and after all that hide it."""
    below: dict[int, list[MountInfo]] = {}
    everything = sorted(rows, key=lambda row: len(row.point or ""))
    names = {_key(row) for row in everything}
    waiting = []
    for row in everything:
        above = _parent(row)
        if above in names and above != _key(row):
            below.setdefault(above, []).append(row)
        else:
            waiting.append(row)
    ordered = []
    while waiting:
        ordered.append(waiting.pop())
        waiting += below.pop(_key(ordered[-1]), [])
    return ordered[::-1]


class _Sweep:
    """One go through the mounts of one listing."""

    def __init__(self, rows: list[MountInfo], flags: int, deadline: float) -> None:
        """Begin with nothing taken away."""
        self._rows, self._flags, self._deadline = in_order(rows), flags, deadline
        self._kept: set[int] = set()  # mounts that something which stays stands on
        self.count = 0
        self.is_stale = False
        self.errors: list[MountfdError] = []

    def go(self) -> None:
        """Take each; what carries one that stays, or is hidden by one that stays, is left alone."""
        names = {_key(row) for row in self._rows}
        for row in self._rows:
            if self._flags & _DETACH and _parent(row) in names:
                self.count += 1  # it goes along with what it stands on
                continue
            if _key(row) not in self._kept:
                try:
                    self.count += self._take(row)
                    continue
                except _Changed:
                    self.is_stale = self.is_stale or not self.errors
                except MountfdError as error:
                    self.errors.append(error)
            self._kept.add(_parent(row))

    def _take(self, row: MountInfo) -> int:
        raw, number = os.fsencode(row.point or ""), row.id or 0
        if not raw:
            why = "no path leads to it from this process's root"
            raise from_errno(ENOENT, "umount2", (), hint=f"mount {_key(row)} is out of reach: {why}")
        if not number:
            try:
                return take(Aim(raw), self._flags, self._deadline)
            except Gone:
                return 0  # somebody else took it, and what it covered has a row of its own
            except Missing as error:
                if is_in_table(_key(row)):
                    raise _Changed from error  # what hides it stays
                return 0
        count, aim = 0, Aim(raw, number)
        while stands(number):  # what came on top of it is below the target, too
            count += patiently(aim, self._deadline, lambda: self._attempt(aim))
        return count

    def _attempt(self, aim: Aim) -> int:
        try:
            return take_checked(aim, self._flags)
        except Gone as error:
            if stands(aim.number):
                raise _Changed from error
            return 0
        except Missing as error:
            if error.syscall == "umount2" and stands(aim.number):
                raise _Changed from error  # it was hidden between the look and the call
            raise
        except KernelError as error:
            if error.errno == EBUSY and _has_any_on_it(aim.number):
                raise _Changed from error
            raise


def _has_any_on_it(number: int) -> bool:
    try:
        return bool(list_below(number))
    except KernelError as error:
        if error.errno != ENOENT:
            raise
        return False


def _count_below(number: int) -> int:
    """Count what stands on a mount with a reused id."""
    below: dict[int, list[MountInfo]] = {}
    for row in mounts(fields=_FIELDS):
        below.setdefault(row.parent_id_old or 0, []).append(row)
    found = [row for row in below.get(number, ()) if row.id_old != number]
    for row in found:  # which grows meanwhile
        found += below.get(row.id_old or 0, ())
    return len(found)


def _listed(aim: Aim) -> list[MountInfo]:
    if not aim.number:
        return list(mounts(under=aim.raw, fields=_FIELDS))
    if not stands(aim.number):
        return []
    return ask_each([aim.number, *list_below(aim.number)], _FIELDS)


def _refuse_own_root_in(rows: list[MountInfo]) -> None:
    own = look(n.AT_FDCWD, b"/", FOLLOW)
    for row in rows:
        if own.number == (row.id if own.is_unique and row.id else row.id_old):
            raise InvalidSpec(
                f"the root of this process is among what is to be unmounted: {row.point!r}", part="target"
            )


def _raise_all(errors: list[MountfdError], count: int, path: str) -> None:
    if len(errors) == 1:
        if count:
            errors[0].add_note(f"{count} others were unmounted")
        raise errors[0]
    raise ExceptionGroup(f"of what is at and below {path!r}, {len(errors)} mounts stay and {count} are gone", errors)


def _key(row: MountInfo) -> int:
    return row.id or row.id_old or 0


def _parent(row: MountInfo) -> int:
    return (row.parent_id if row.id else row.parent_id_old) or 0
