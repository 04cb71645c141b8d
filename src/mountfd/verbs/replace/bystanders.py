"""Mounts elsewhere that would go with those below the old one, or keep it from going.

Unmounting travels as mounting does. What stands on a shared mount stands on its peers and slaves too, and goes there
too when the old mount is taken away with all that is on it. In namespaces that receive the replacement this is as it
should be: the carried clones take their places. At any other place nothing does.

Nor does it where the copy of the old mount bears a mount that nothing unmounts: the kernel takes no mount away that
another stands on. That copy stays and shows, without what went from it, and the new one is hidden beneath it.
"""

from __future__ import annotations

import os
import time

from mountfd.abi import calls
from mountfd.errors import Denied, Gone, InvalidSpec, Missing, NotSupported
from mountfd.handles.mountns import MountNamespace
from mountfd.verbs.enter import on_thread, take_namespace_root
from mountfd.verbs.query import mounts
from mountfd.verbs.query.asking import ask, mask_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountfd.model.info import MountInfo
    from mountfd.verbs.replace.standing import Standing

__all__ = ["is_begun_elsewhere", "receiving_groups", "refuse_bystanders", "refuse_returning", "with_mounts_of_its_own"]

# No paths: the kernel has to put those together, and few are needed.
_FIELDS = ("id", "parent_id", "peer_group", "master")
_WHERE = mask_of(("id", "point", "root"))
_MARKED = (*_FIELDS, "attrs")
_MARK = 0x20 | 0x80  # MOUNT_ATTR_STRICTATIME and NODIRATIME
_CLONE_FS = 0x200
_LOOKS, _PAUSE = 3, 0.01


def with_mounts_of_its_own(rows: list[MountInfo]) -> set[int]:
    """Give the ids of those mounts that others of the list stand on."""
    return {row.parent_id or 0 for row in rows}


def refuse_returning(standing: Standing, rows: list[MountInfo]) -> None:
    """Raise InvalidSpec where what is attached beneath the old mount would also be attached within it, and go with it.

    That is so for a peer or slave of the mount that it stands on, in which its own place can be seen. The kernel
    refuses only the simplest of these.
    """
    parent = standing.parent
    if not parent.peer_group:
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
    """Raise InvalidSpec where a mount elsewhere would go too, or would keep a copy of the old one from going.

    Arguments: standing, the old mount; rows, what stands below it.
    Looked at is every namespace that may be. Where mounts elsewhere would go, but no copy of the old one stands
    anywhere, that is told by `standing.goes_alone`: then nothing has to travel, and nothing needs to be refused.
    """
    parent = standing.parent
    if not standing.is_parent_shared or not rows:
        return  # nothing has to travel, so the old mount is made private before it goes
    if parent.point is None:
        # From a chroot the paths of what the target stands on can't be told, nor those of its copies.
        on_thread(lambda: _from_the_top(standing, rows))
    else:
        _look(standing, rows, parent, standing.info)


def _from_the_top(standing: Standing, rows: list[MountInfo]) -> None:
    calls.unshare(_CLONE_FS)
    take_namespace_root()
    mask = mask_of(("id", "parent_id", "ns_id", "point", "root", "peer_group", "master"))
    parent, info = (ask(number, mask) for number in (standing.info.parent_id or 0, standing.number))
    _look(standing, [ask(row.id or 0, mask) for row in rows], parent, info)


def _look(standing: Standing, rows: list[MountInfo], parent: MountInfo, info: MountInfo) -> None:
    """Look as often as it takes to know that a reason to refuse stays: namespaces come and go while they are read."""
    for _ in range(_LOOKS - 1):
        try:
            _Elsewhere(standing, rows, parent, info).refuse()
        except InvalidSpec:
            time.sleep(_PAUSE)
        else:
            return
    _Elsewhere(standing, rows, parent, info).refuse()


class _Elsewhere:
    """What stands elsewhere at the places from which unmounting the old mount will travel."""

    def __init__(self, standing: Standing, rows: list[MountInfo], parent: MountInfo, info: MountInfo) -> None:
        """Look at everything, and ask for the paths of those that receive from here."""
        self._standing, self._target = standing, standing.target
        self._parent = parent
        inside = {standing.number, *(row.id for row in rows)}
        bearers = {row.id: row for row in (info, *rows) if row.peer_group}
        # Each place from which it travels: the peer group, the place within its filesystem, and the mount that goes.
        left = [(parent.peer_group or 0, _within(parent, info), info)]
        left += [
            (bearers[row.parent_id].peer_group or 0, _within(bearers[row.parent_id], row), row)
            for row in rows
            if row.parent_id in bearers
        ]
        tables = _everything(_FIELDS)
        heard = receivers_of({group for group, _, _ in left}, (row for _, table in tables for row in table))
        self._rows: dict[int | None, MountInfo] = {}
        self._children: dict[int | None, list[MountInfo]] = {}
        receiving: list[MountInfo] = []
        for namespace, table in tables:
            hearing = [row for row in table if row.peer_group in heard or row.master in heard]
            if not hearing:
                continue  # nothing that happens here happens there
            receiving += hearing
            for row in table:
                if row.id is not None and row.id not in inside:
                    row.ns_id = namespace
                    self._rows[row.id] = row
                    self._children.setdefault(row.parent_id, []).append(row)
        self._going: dict[int | None, MountInfo] = {}
        self._copies: set[int | None] = set()
        for row in receiving:
            if row.id in self._rows and row.id in self._children:
                sources = heard.get(row.peer_group or 0, set()) | heard.get(row.master or 0, set())
                self._find(row, {place: mount for group, place, mount in left if group in sources}, info)

    def _find(self, bearer: MountInfo, places: dict[str, MountInfo], info: MountInfo) -> None:
        """Find what stands on one of the mounts that receive, at one of those places."""
        bearer = self._where(bearer)
        for child in self._children[bearer.id]:
            row = self._where(child)
            if row.point is None or bearer.point is None:
                continue  # it went meanwhile
            mount = places.get(_within(bearer, row))
            if mount is not None:
                self._going[child.id] = mount
                if mount is info:
                    self._copies.add(child.id)

    def refuse(self) -> None:
        """Raise InvalidSpec for the first that should stay, or that won't go."""
        for number, mount in self._going.items():
            row = self._rows[number]
            if number in self._copies:
                self._refuse_kept(row)
            elif not self._copies:
                self._standing.goes_alone = True
            elif not self._stands_on_copy(row):
                raise InvalidSpec(
                    f"{self._name(row)} would go together with {mount.point!r}, of which it is the propagated copy: "
                    f"make {self._target!r} and what is below it private first (mount --make-rprivate)",
                    part="submounts",
                )

    def _refuse_kept(self, copy: MountInfo) -> None:
        """Raise InvalidSpec where a mount stands on a copy of the old one that unmounting doesn't reach."""
        upper = [copy]
        for row in upper:  # it grows
            for child in self._children.get(row.id, ()):
                if child.id in self._going:
                    upper.append(child)
                    continue
                point = self._where(child).point
                # What covers the whole copy moves down to the new one; what covers a mount upon it stays there.
                if point is not None and not (row is copy and point == self._where(copy).point):
                    raise InvalidSpec(
                        f"{self._name(child)} keeps the copy of {self._target!r} that it stands on from being replaced "
                        "together with this one, and mounts below that would be lost there: unmount it, or make the "
                        "copy's own mount point private there and replace it by itself (--namespace)",
                        part="submounts",
                    )

    def _stands_on_copy(self, row: MountInfo) -> bool:
        """Say whether a mount stands on a copy of the target, which is replaced in the same instant."""
        upper: MountInfo | None = row
        while upper is not None:
            if upper.id in self._copies:
                return True
            upper = self._rows.get(upper.parent_id) if upper.parent_id != upper.id else None
        return False

    def _name(self, row: MountInfo) -> str:
        where = "" if row.ns_id in (None, self._parent.ns_id) else f" in the mount namespace {row.ns_id}"
        return f"{self._where(row).point!r}{where}"

    def _where(self, row: MountInfo) -> MountInfo:
        """Give a mount with its paths; one that went meanwhile is nowhere."""
        if row.point is None:
            try:
                asked = ask(row.id or 0, _WHERE, ns_id=0 if row.ns_id == self._parent.ns_id else row.ns_id or 0)
            except (Missing, Denied):
                return row
            row.point, row.root = asked.point, asked.root
        return row


def receiving_groups(group: int, rows: Iterable[MountInfo]) -> set[int]:
    """Give the peer groups that receive what happens in one, itself among them."""
    heard = receivers_of({group}, rows)
    return {number for number, sources in heard.items() if group in sources}


def receivers_of(groups: set[int], rows: Iterable[MountInfo]) -> dict[int, set[int]]:
    """Tell of each peer group that receives from some of these which those are; each receives from itself."""
    slaves: dict[int, set[int]] = {}
    for row in rows:
        if row.master and row.peer_group:
            slaves.setdefault(row.master, set()).add(row.peer_group)
    heard: dict[int, set[int]] = {}
    for group in groups - {0}:
        reached = [group]
        for number in reached:  # it grows
            if group not in heard.setdefault(number, set()):
                heard[number].add(group)
                reached += slaves.get(number, ())
    return heard


def is_begun_elsewhere(new: MountInfo) -> bool:
    """Say whether a replacement by this mount was begun in another namespace and never ended there.

    The mark is on the old mount of that namespace alone; what was tucked beneath is a peer or the master of this one.
    """
    rows = {row.id: row for _, table in _everything(_MARKED) for row in table}
    groups = {new.peer_group, new.master} - {0, None}
    for row in rows.values():
        lower = rows.get(row.parent_id)
        if lower is None or lower.id is None or row.id is None or lower.id < row.id:
            continue
        if int(row.attrs or 0) & _MARK == _MARK and not groups.isdisjoint((lower.peer_group, lower.master)):
            return True
    return False


def _everything(fields: tuple[str, ...]) -> list[tuple[int | None, list[MountInfo]]]:
    """Give the mounts of each namespace that may be looked at, with its id; at least those of this one."""
    found: list[tuple[int | None, list[MountInfo]]] = []
    own_id = None
    try:
        with MountNamespace.current() as own:
            own_id = own.id
            for namespace in own.others():
                with namespace:
                    number = namespace.id
                    try:
                        found.append((number, list(mounts(namespace=namespace, fields=fields))))
                    except (Denied, Gone, Missing):
                        calls.remark(f"replace: the mount namespace {number} can't be looked at")
    except (Denied, Missing, NotSupported) as error:
        calls.remark(f"replace: other mount namespaces can't be looked at: {error}")
    # Before Linux 6.11, and where others may not be looked at, this one is seen nevertheless.
    if not any(number == own_id and table and table[0].id is not None for number, table in found):
        found = [each for each in found if each[0] != own_id]
        found.append((own_id, list(mounts(fields=fields))))
    return found


def _within(parent: MountInfo, row: MountInfo) -> str:
    """Give the place of a mount within the filesystem that it stands on."""
    relative = os.path.relpath(row.point or "/", parent.point or "/")
    return os.path.normpath("/" + f"{parent.root or '/'}/{relative}".lstrip("/"))


def _is_at_or_below(place: str, root: str) -> bool:
    return place == root or place.startswith(root.rstrip("/") + "/")
