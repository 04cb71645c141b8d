"""Mounts elsewhere that would go with those below the old one.

Unmounting travels as mounting does. What stands on a shared mount stands on its peers and slaves too, and goes there
too when the old mount is taken away with all that is on it. In namespaces that receive the replacement this is as it
should be: the carried clones take their places. At any other place nothing does.
"""

from __future__ import annotations

import os

from mountfd.errors import Denied, InvalidSpec, NotSupported
from mountfd.verbs.query import mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountfd.model.info import MountInfo
    from mountfd.verbs.replace.standing import Standing

__all__ = ["receiving_groups", "refuse_bystanders", "refuse_returning", "with_mounts_of_its_own"]

_FIELDS = ("id", "parent_id", "ns_id", "point", "root", "peer_group", "master")


def with_mounts_of_its_own(rows: list[MountInfo]) -> set[int]:
    """Give the ids of those mounts that others of the list stand on."""
    return {row.parent_id or 0 for row in rows}


def refuse_returning(standing: Standing, rows: list[MountInfo]) -> None:
    """Raise InvalidSpec where what is attached beneath the old mount would also be attached within it, and go with it.

    That is so for a peer or slave of the mount that it stands on, in which its own place can be seen. The kernel
    refuses only the simplest of these.
    """
    parent = standing.parent
    if parent is None or not parent.peer_group:
        return
    for row in (standing.info, *rows):
        if parent.peer_group not in (row.peer_group, row.master):
            continue
        if _is_at_or_below(_within(parent, standing.info), row.root or "/"):
            raise InvalidSpec(
                f"{row.point!r} shows the mount that {standing.target!r} stands on: what is attached there would come "
                "back to it (make one of them private first)",
                part="target",
            )


def refuse_bystanders(standing: Standing, rows: list[MountInfo]) -> None:
    """Raise InvalidSpec where a mount elsewhere, in any namespace that can be looked at, would go too.

    Arguments: standing, the old mount; rows, what stands below it.
    """
    if not standing.is_parent_shared or standing.parent is None:
        return  # nothing has to travel, so the old mount is made private before it goes
    bearing = with_mounts_of_its_own(rows)
    bearers = {row.id: row for row in (standing.info, *rows) if row.id in bearing and row.peer_group}
    if not bearers:
        return
    places = {
        (bearers[row.parent_id].peer_group, _within(bearers[row.parent_id], row)): row
        for row in rows
        if row.parent_id in bearers
    }
    inside = {standing.number, *(row.id for row in rows)}
    elsewhere = {row.id: row for row in _everything() if row.id not in inside}
    groups = receiving_groups(standing.parent.peer_group or 0, elsewhere.values())
    spot = _within(standing.parent, standing.info)
    for row in elsewhere.values():
        parent = elsewhere.get(row.parent_id)
        for group in (parent.peer_group, parent.master) if parent is not None else ():
            found = places.get((group, _within(parent, row))) if parent is not None and group else None
            if found is not None and not _goes_with_target(row, elsewhere, groups, spot):
                where = "" if row.ns_id in (None, standing.parent.ns_id) else f" in the mount namespace {row.ns_id}"
                raise InvalidSpec(
                    f"{row.point!r}{where} would go together with {found.point!r}, of "
                    f"which it is the propagated copy: make {standing.target!r} and what is below it private first "
                    "(mount --make-rprivate)",
                    part="submounts",
                )


def receiving_groups(group: int, rows: Iterable[MountInfo]) -> set[int]:
    """Give the peer groups that receive what happens in one, itself among them."""
    known = list(rows)
    groups = {group}
    while True:
        fresh = {row.peer_group for row in known if row.master in groups and row.peer_group} - groups
        if not fresh:
            return groups
        groups |= {number for number in fresh if number}


def _everything() -> list[MountInfo]:
    try:
        return list(mounts(namespace="all", fields=_FIELDS))
    except (Denied, NotSupported):
        return list(mounts(fields=_FIELDS))  # who may not look into other namespaces sees to its own


def _goes_with_target(row: MountInfo, rows: dict[int | None, MountInfo], groups: set[int], spot: str) -> bool:
    """Say whether a mount stands on a copy of the target, which is replaced in the same instant."""
    upper: MountInfo | None = row
    while upper is not None and (lower := rows.get(upper.parent_id)) is not None:
        if not groups.isdisjoint((lower.peer_group, lower.master)) and _within(lower, upper) == spot:
            return True
        upper = lower
    return False


def _within(parent: MountInfo, row: MountInfo) -> str:
    """Give the place of a mount within the filesystem that it stands on."""
    relative = os.path.relpath(row.point or "/", parent.point or "/")
    return os.path.normpath("/" + f"{parent.root or '/'}/{relative}".lstrip("/"))


def _is_at_or_below(place: str, root: str) -> bool:
    return place == root or place.startswith(root.rstrip("/") + "/")
