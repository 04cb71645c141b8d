"""Mounts elsewhere that would go with those below the old one.

Unmounting travels as mounting does. What stands on a shared mount stands on its peers and slaves too, and goes there
too when the old mount is taken away with all that is on it. In namespaces that have copies of the target this is as it
should be: the carried clones take their places. At another place of this namespace nothing does.
"""

from __future__ import annotations

import os

from mountfd.errors import InvalidSpec
from mountfd.verbs.query import mounts
from mountfd.verbs.query.asking import ask, mask_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.model.info import MountInfo
    from mountfd.verbs.replace.standing import Standing

__all__ = ["refuse_bystanders", "with_mounts_of_its_own"]


def with_mounts_of_its_own(rows: list[MountInfo]) -> set[int]:
    """Give the ids of those mounts that others of the list stand on."""
    return {row.parent_id or 0 for row in rows}


def refuse_bystanders(standing: Standing, rows: list[MountInfo]) -> None:
    """Raise InvalidSpec where a mount elsewhere in this namespace would go too.

    Arguments: standing, the old mount; rows, what stands below it.
    """
    if not standing.is_parent_shared:
        return  # nothing has to travel, so the old mount is made private before it goes
    bearing = with_mounts_of_its_own(rows)
    if not any(row.id in bearing and row.peer_group for row in (standing.info, *rows)):
        return
    old = ask(standing.number, mask_of(("id", "point", "root", "peer_group")))
    bearers = {row.id: row for row in (old, *rows) if row.id in bearing and row.peer_group}
    places = {
        (bearers[row.parent_id].peer_group, _within(bearers[row.parent_id], row)): row
        for row in rows
        if row.parent_id in bearers
    }
    table = mounts(fields=("id", "parent_id", "point", "root", "peer_group", "master"))
    inside = {standing.number, *(row.id for row in rows)}
    elsewhere = {row.id: row for row in table if row.id not in inside}
    for row in elsewhere.values():
        parent = elsewhere.get(row.parent_id)
        for group in (parent.peer_group, parent.master) if parent is not None else ():
            found = places.get((group, _within(parent, row))) if parent is not None and group else None
            if found is not None:
                raise InvalidSpec(
                    f"{row.point!r} would go together with {found.point!r}, of which it is the propagated copy: make "
                    f"{standing.target!r} and what is below it private first (mount --make-rprivate)",
                    part="submounts",
                )


def _within(parent: MountInfo, row: MountInfo) -> str:
    """Give the place of a mount within the filesystem that it stands on."""
    return os.path.normpath(f"{parent.root}/{os.path.relpath(row.point or '/', parent.point or '/')}")
