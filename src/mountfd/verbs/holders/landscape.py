"""The mounts around one: which are unmounted along with it, which share its filesystem, in every namespace.

umount(2) looks for users of the mount and, where its parent is shared, of whatever stands at the same place on each
peer and slave of the parent, in any namespace and of any filesystem; one of those that has mounts on it is passed over.
"""

from __future__ import annotations

import os
from errno import EINVAL, ESRCH

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.errors import Denied, KernelError, NotSupported
from mountfd.handles.mountns import MountNamespace
from mountfd.model.mountinfo import parse
from mountfd.verbs.query.listing import mounts
from mountfd.verbs.query.oldway import read_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountfd.model.info import MountInfo

__all__ = ["FIELDS", "Landscape", "key", "leads_to", "parent_key", "survey"]

FIELDS = (
    *("id", "parent_id", "id_old", "parent_id_old", "ns_id", "dev", "fstype", "source"),
    *("root", "point", "propagation", "peer_group", "master", "options"),
)


class Landscape:
    """The mounts around a target.

    Attributes:
    target          as far as it is known
    unique          whether ids here are the unique ones, and not the reused ones by which an older kernel, or one
                    behind a filter, tells its mounts
    number          the target's id, 0 where none of that kind is known
    is_standing     whether it is attached in a namespace that can be seen
    rows, spaces    the mounts of every such namespace by id, and the name of each one's namespace
    own_ns, inodes  this namespace's name; the inode number of each namespace's file
    is_whole        whether all namespaces could be listed
    along           ids of what is unmounted together with the target, itself included; none when it doesn't stand
    devs            the filesystems of `along`, or the target's
    """

    __slots__ = (
        *("_below", "along", "devs", "inodes", "is_standing", "is_whole"),
        *("number", "own_ns", "rows", "spaces", "target", "unique"),
    )

    def __init__(self, target: MountInfo) -> None:
        """Begin with nothing listed."""
        self.target = target
        self.rows: dict[int, MountInfo] = {}
        self.spaces: dict[int, int] = {}
        self.inodes: dict[int, int] = {}
        self.own_ns = self.number = 0
        self.unique = False
        self._below: dict[int, list[MountInfo]] = {}
        self.is_standing = False
        self.is_whole = True
        self.along: frozenset[int] = frozenset()
        self.devs: frozenset[tuple[int, int]] = frozenset()

    @property
    def can_be_elsewhere(self) -> bool:
        """Whether something may be unmounted along with the target in a namespace that can't be seen."""
        parent = self.rows.get(parent_key(self.target)) if self.is_standing else None
        return not self.is_whole and parent is not None and bool(parent.peer_group)

    def children(self, number: int) -> list[MountInfo]:
        """Give the mounts that stand directly on one."""
        if not self._below:
            for row in self.rows.values():
                self._below.setdefault(parent_key(row), []).append(row)
        return [row for row in self._below.get(number, ()) if key(row) != number]

    def of_same_filesystem(self) -> list[MountInfo]:
        """Give all mounts of the target's filesystem but itself."""
        dev = self.target.dev
        return [row for row in self.rows.values() if dev is not None and row.dev == dev and key(row) != self.number]

    def ns_of(self, number: int) -> int | None:
        """Give the namespace of a mount, or None for this one's own."""
        space = self.spaces.get(number, self.own_ns)
        return None if space == self.own_ns else space

    def verdict(self, dev: tuple[int, int] | None, path: str | None, resolved: int) -> bool | None:
        """Say whether something of the kernel's, known by its filesystem and maybe a path, holds one of `along`.

        Arguments: dev, of the file; path, its name; resolved, the id of the mount that this name leads to, 0 for none.
        A name may be of any namespace: so each mount is thought of that stands on the way of the name there.
        """
        if resolved in self.rows:
            home = self.spaces[resolved]
            candidates = {
                number
                for number, row in self.rows.items()
                if row.dev == dev and self.spaces[number] != home and leads_to(row.point, path)
            }
            candidates.add(resolved)
        else:
            candidates = {number for number, row in self.rows.items() if row.dev == dev}
        if candidates and candidates <= self.along:
            return True if self.is_whole or resolved in self.along else None
        return None if candidates & self.along else False

    def relist(self) -> None:
        """List again, for mounts that came meanwhile; what is known stays."""
        fresh = Landscape(self.target)
        _list(fresh)
        self.rows = {**fresh.rows, **self.rows}
        self.spaces = {**fresh.spaces, **self.spaces}


def key(row: MountInfo) -> int:
    """Give a mount's id: unique, where the kernel has none reused."""
    return row.id or row.id_old or 0


def parent_key(row: MountInfo) -> int:
    """Give the id of what a mount stands on."""
    return (row.parent_id if row.id else row.parent_id_old) or 0


def survey(target: MountInfo) -> Landscape:
    """Look around a target; its record may know nothing but an id."""
    land = Landscape(target)
    _list(land)
    number = land.number = _number(land)
    land.is_standing = number in land.rows
    if land.is_standing:
        land.target = land.rows[number]
        land.along = frozenset((number, *_propagated(land, land.target)))
    devs = [land.rows[number].dev for number in land.along] or [target.dev]
    land.devs = frozenset(dev for dev in devs if dev is not None)
    return land


def _number(land: Landscape) -> int:
    target = land.target
    if not land.unique:
        return target.id_old or 0
    if target.id:
        return target.id
    named = (number for number, row in land.rows.items() if row.id_old == target.id_old)
    return next((number for number in named if land.spaces[number] == land.own_ns), 0)


# --- listing -------------------------------------------------------------------------------------------------------
def _list(land: Landscape) -> None:
    with MountNamespace.current() as own:
        land.own_ns = _name(own)
        land.inodes[land.own_ns] = os.fstat(own.fileno()).st_ino
        _add(land, land.own_ns, mounts(fields=FIELDS))
        land.unique = any(row.id for row in land.rows.values())
        try:
            for namespace in own.others():
                with namespace:
                    name = _name(namespace)
                    land.inodes[name] = os.fstat(namespace.fileno()).st_ino
                    if name != land.own_ns:
                        _add(land, name, mounts(namespace=namespace, fields=FIELDS))
        except (Denied, NotSupported) as error:
            calls.remark(f"holders: namespaces can't be walked ({error}): those of the processes that can be seen")
            land.is_whole = isinstance(error, NotSupported)
            _list_by_processes(land)


def _list_by_processes(land: Landscape) -> None:
    """Read the tables of the namespaces that processes are in; old kernels and ordinary users can't walk them."""
    seen = set(land.inodes.values())
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            inode = os.stat(f"/proc/{pid}/ns/mnt").st_ino
            if inode in seen:
                continue
            seen.add(inode)
            rows = parse(read_table(path=b"/proc/%s/mountinfo" % pid.encode()))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended
        except PermissionError:
            land.is_whole = False  # another user's: the scan of processes names it, but not where it lives
            continue
        except KernelError as error:
            if error.errno not in {EINVAL, ESRCH}:  # it is just about to end
                raise
            continue
        land.inodes[inode] = inode
        _add(land, inode, _with_ids(rows, land, pid))


def _with_ids(rows: list[MountInfo], land: Landscape, pid: str) -> list[MountInfo]:
    """Give rows of a foreign table the kind of id that ours have: what stands at their points tells it."""
    if not land.unique:
        return rows
    from mountfd.verbs.query.place import NOFOLLOW, id_of  # noqa: PLC0415 (for a few kernels and users)

    known = []
    for row in rows:
        try:
            row.id = id_of(n.AT_FDCWD, os.fsencode(f"/proc/{pid}/root{row.point}"), NOFOLLOW) or None
        except KernelError as error:
            calls.remark(f"holders: {error}")
            continue  # covered by a place that we may not walk through
        known.append(row)
    return known


def _name(namespace: MountNamespace) -> int:
    try:
        return namespace.id
    except NotSupported:
        return os.fstat(namespace.fileno()).st_ino


def _add(land: Landscape, name: int, rows: Iterable[MountInfo]) -> None:
    for row in rows:
        land.rows[key(row)] = row
        land.spaces[key(row)] = name


# --- propagation ---------------------------------------------------------------------------------------------------
def _propagated(land: Landscape, target: MountInfo) -> list[int]:
    parent = land.rows.get(parent_key(target))
    place = None if parent is None else _place_on(target, parent)
    if parent is None or place is None or not parent.peer_group:
        return []
    groups, receivers, before = {parent.peer_group}, {key(parent): parent}, -1
    while before != len(receivers):
        before = len(receivers)
        for number, row in land.rows.items():
            if row.peer_group in groups or row.master in groups:
                receivers[number] = row
                groups |= {row.peer_group} if row.peer_group else set()
    found = []
    for number, row in land.rows.items():
        above = receivers.get(parent_key(row))
        if above is not None and number != land.number and number != key(above) and _place_on(row, above) == place:
            on_it = land.children(number)
            # Another one that covers it wholly goes on standing in its place; anything else keeps it.
            if not on_it or (len(on_it) == 1 and on_it[0].point == row.point):
                found.append(number)
    return found


def _place_on(row: MountInfo, above: MountInfo) -> str | None:
    """Give the path within the filesystem of `above` that a mount stands at; None where it can't be reached."""
    if row.point is None or above.point is None or above.root is None:
        return None
    if row.point != above.point and not leads_to(above.point, row.point):
        return None
    inside = row.point[len(above.point.rstrip("/")) :]
    return above.root.rstrip("/") + inside or "/"


def leads_to(point: str | None, path: str | None) -> bool:
    """Say whether a path is at a mount's point or below it."""
    return point is not None and path is not None and (path + "/").startswith(point.rstrip("/") + "/")
