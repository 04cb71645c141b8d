"""What keeps other people's mounts from going along with ours.

umount2(2) travels: what stands on a peer of the parent, at the same place, goes too. That is right for the copies that
spread when ours was mounted, and wrong for the mounts that an rbind was made of. They are told apart by their ids,
which the kernel hands out in ascending order: a copy is younger than what it is a copy of.
"""

from __future__ import annotations

import os
from errno import EBUSY

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.features import Feature, has
from mountfd.errors import Missing, NotDirectory, from_errno
from mountfd.handles.mount import Mount
from mountfd.verbs.query.asking import list_below
from mountfd.verbs.query.listing import ask_each, mounts
from mountfd.verbs.query.place import HERE, id_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountfd.abi.paths import StrPath
    from mountfd.model.info import MountInfo

__all__ = ["STAYS", "make_private", "part_below", "part_top", "part_under"]

STAYS = "a bind was parted from its source before it was taken away: copies that had spread elsewhere may stay there"
_FIELDS = ("id", "parent_id", "id_old", "parent_id_old", "root", "point", "peer_group", "master")
_PATH_NOFOLLOW = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_MS_REC, _MS_PRIVATE = 16384, 1 << 18


def part_below(number: int) -> bool:
    """Part the mount with a unique id, and all below it, from others whose mounts would go along with theirs.

    Gives whether copies of ours may stay for that. Raises: Busy where a mount that must be parted is covered.
    """
    return _part(ask_each([number, *list_below(number)], _FIELDS))


def part_under(path: StrPath) -> tuple[bool, int]:
    """Do so with everything at and below a path; give as well how many mounts that is."""
    rows = mounts(under=path, fields=_FIELDS)
    return _part(rows), len(rows)


def part_top(path: bytes) -> bool:
    """Do so with the mount on top at a path, and all below it, where it has no unique id.

    What stood there before isn't ours, and may be what ours was bound from.
    """
    from mountfd.verbs.query.oldway import old_id_of  # noqa: PLC0415 (only on kernels before 6.8)

    fd = calls.openat(n.AT_FDCWD, path, _PATH_NOFOLLOW, 0)
    try:
        number = old_id_of(fd)
    finally:
        os.close(fd)
    rows = mounts(fields=_FIELDS)
    standing, found = _by_parent(rows), [row for row in rows if row.id_old == number]
    for row in found:  # which grows meanwhile
        found += [each for each in standing.get(_key(row), ()) if _key(each) != _key(row)]
    return _part(found)


def make_private(fd: int, *, recursive: bool) -> None:
    """Take the mount of a descriptor, and those below it, out of their peer groups."""
    if has(Feature.MOUNT_SETATTR):
        with Mount(os.dup(fd)) as mount:
            mount.set(propagation=_MS_PRIVATE, recursive=recursive)
    else:
        calls.mount(None, b"/proc/self/fd/%d" % fd, None, _MS_PRIVATE | (_MS_REC if recursive else 0), None)


def _part(rows: Iterable[MountInfo]) -> bool:
    ours = {_key(row): row for row in rows}
    standing = _by_parent(ours.values())
    sharing = [row for row in ours.values() if row.peer_group and _key(row) in standing]
    if not sharing:
        return False
    table = {_key(row): row for row in mounts(fields=_FIELDS)}
    others = {key: row for key, row in table.items() if key not in ours}
    on_others = _by_parent(others.values())
    is_cut = False
    for row in sharing:
        places = [(_position(each, row), each) for each in standing[_key(row)]]
        for peer in _reached_from(row.peer_group or 0, others.values()):
            if any(_is_theirs(each, peer, places) for each in on_others.get(_key(peer), ())):
                _cut(row, ours)
                is_cut = True
                break
    tops = [table.get(_parent(row)) for key, row in ours.items() if _parent(row) not in ours]
    return is_cut and any(top is not None and top.peer_group for top in tops)


def _is_theirs(other: MountInfo, peer: MountInfo, places: list[tuple[str | None, MountInfo]]) -> bool:
    """Say whether a mount would go along with one of ours, and isn't a copy of it."""
    position = _position(other, peer)
    for place, ours in places:
        if position == place or position is None or place is None:
            # Ids that are used again say nothing of age.
            return not (other.id and ours.id and other.id > ours.id)
    return False


def _reached_from(group: int, rows: Iterable[MountInfo]) -> list[MountInfo]:
    """Give the mounts that an unmount in a peer group travels to: its members, its slaves, and theirs."""
    found: dict[int, MountInfo] = {}
    groups, rows = {group}, list(rows)
    while True:
        new = [row for row in rows if _key(row) not in found and not groups.isdisjoint((row.peer_group, row.master))]
        if not new:
            return list(found.values())
        found.update((_key(row), row) for row in new)
        groups.update(row.peer_group for row in new if row.peer_group)


def _position(row: MountInfo, parent: MountInfo) -> str | None:
    """Give where within a filesystem a mount stands; None where no path tells."""
    if row.point is None or parent.point is None or parent.root is None:
        return None
    # Joined without a second slash: normpath would keep two at the beginning, and "//a" is not "/a".
    return os.path.normpath(os.path.join(parent.root, os.path.relpath(row.point, parent.point)))


def _cut(row: MountInfo, ours: dict[int, MountInfo]) -> None:
    """Make a mount private; where no path leads to it, since another one covers it, with all from one above it on."""
    reached: MountInfo | None = row
    while reached is not None:
        if _is_made_private(reached, recursive=reached is not row):
            return
        reached = ours.get(_parent(reached))
    hint = "it is covered, and without a way to it what stands on it can't be parted from what stands at its source"
    raise from_errno(EBUSY, "mount_setattr", (row.point,), filename=row.point, hint=hint)


def _is_made_private(row: MountInfo, *, recursive: bool) -> bool:
    try:
        fd = calls.openat(n.AT_FDCWD, os.fsencode(row.point or ""), _PATH_NOFOLLOW, 0)
    except (Missing, NotDirectory):
        return False
    try:
        if _number(fd, row) != _key(row):
            return False
        make_private(fd, recursive=recursive)
    finally:
        os.close(fd)
    return True


def _number(fd: int, row: MountInfo) -> int:
    if row.id:
        return id_of(fd, b"", HERE)
    from mountfd.verbs.query.oldway import old_id_of  # noqa: PLC0415 (only on kernels before 6.8)

    return old_id_of(fd)


def _by_parent(rows: Iterable[MountInfo]) -> dict[int, list[MountInfo]]:
    found: dict[int, list[MountInfo]] = {}
    for row in rows:
        found.setdefault(_parent(row), []).append(row)
    return found


def _key(row: MountInfo) -> int:
    return row.id or row.id_old or 0


def _parent(row: MountInfo) -> int:
    return (row.parent_id if row.id else row.parent_id_old) or 0
