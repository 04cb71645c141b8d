"""Many mounts, as one listing gave them: looked up by any of their names, as a tree, compared with another listing."""

from __future__ import annotations

from mountfd.errors import Gone
from mountfd.model.mountinfo import parse_recorded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator

    from mountfd.model.info import MountInfo

__all__ = ["Change", "MountTable"]


class MountTable:
    """The mounts of one listing, in the kernel's order.

    Arguments: mounts, MountInfo records.
    A listing is no snapshot: a mount that stood all the time is in it, but one that came or went meanwhile may be there
    without its parent. Such a mount counts as a root of the tree. An old id that was reused meanwhile names the later
    one.
    """

    __slots__ = ("_indexes", "_mounts", "_places")

    def __init__(self, mounts: Iterable[MountInfo]) -> None:
        """Keep the records."""
        self._mounts = mounts if isinstance(mounts, list) else list(mounts)
        self._indexes: dict[str, dict[Hashable, list[MountInfo]]] = {}
        self._places: dict[tuple[int, str | None], MountInfo] | None = None

    @classmethod
    def parse(cls, data: bytes) -> MountTable:
        """Read a recorded /proc/PID/mountinfo. Raises InvalidSpec that names the line that isn't one."""
        return cls(parse_recorded(data))

    def __iter__(self) -> Iterator[MountInfo]:
        """Give the mounts in the kernel's order."""
        return iter(self._mounts)

    def __len__(self) -> int:
        """Count the mounts."""
        return len(self._mounts)

    def __getitem__(self, index: int) -> MountInfo:
        """Give a mount by its place in the listing."""
        return self._mounts[index]

    def __repr__(self) -> str:
        """Count the mounts."""
        return f"<MountTable of {len(self._mounts)} mounts>"

    # --- looking up --------------------------------------------------------------------------------------------
    def by_id(self, number: int) -> MountInfo:
        """Give the mount with a unique id, or with an old one. Raises Gone when it isn't in this listing."""
        for name in ("id", "id_old"):
            found = self._index(name).get(number)
            if found:
                return found[-1]
        raise Gone(f"no mount {number} in this listing")

    def by_point(self, point: str) -> list[MountInfo]:
        """Give all mounts at a path, in the listing's order."""
        return list(self._index("point").get(point, ()))

    def by_peer_group(self, number: int) -> list[MountInfo]:
        """Give the members of a peer group."""
        return list(self._index("peer_group").get(number, ())) if number else []

    def by_source(self, source: str) -> list[MountInfo]:
        """Give the mounts of a device or label."""
        return list(self._index("source").get(source, ()))

    def by_fstype(self, fstype: str) -> list[MountInfo]:
        """Give the mounts of a filesystem type; `fuse.sshfs` also means type and subtype."""
        kind, _, subtype = fstype.partition(".")
        return [m for m in self._index("fstype").get(kind, ()) if not subtype or m.subtype == subtype]

    def visible(self, path: str) -> MountInfo | None:
        """Give the mount that an absolute path without symlinks lies on, by this listing, or None."""
        here = self._top_of_root()
        parts = path.strip("/").split("/") if path.strip("/") else []
        for depth in range(len(parts) + 1):
            point = "/" + "/".join(parts[:depth])
            while here is not None and (above := self._on(here, point)) is not None:
                here = above
        return here

    def stack(self, path: str) -> list[MountInfo]:
        """Give the mounts at a path: the visible one, what it covers, then those that are hidden with their parents."""
        point = "/" + path.strip("/")
        chain: list[MountInfo] = []
        here = self.visible(point)
        while here is not None and here.point == point and all(here is not one for one in chain):
            chain.append(here)
            here = self.parent(here)
        rest = [mount for mount in self.by_point(point) if all(mount is not one for one in chain)]
        return chain + sorted(rest, key=self._depth, reverse=True)

    def is_covered(self, mount: MountInfo) -> bool:
        """Say whether another mount stands on this one's root, and so hides it."""
        return mount.point is not None and self._on(mount, mount.point) is not None

    # --- the tree ----------------------------------------------------------------------------------------------
    def children(self, mount: MountInfo) -> list[MountInfo]:
        """Give the mounts that stand directly on a mount, in the listing's order."""
        name, parent = _key(mount)
        if parent is None:
            return []
        index = self._index("parent_id" if name == "id" else "parent_id_old")
        return [child for child in index.get(parent, ()) if child is not mount]

    def parent(self, mount: MountInfo) -> MountInfo | None:
        """Give the mount that a mount stands on; None for a root of this listing."""
        name, _ = _key(mount)
        number = mount.parent_id if name == "id" else mount.parent_id_old
        found = self._index(name).get(number) if number is not None else None
        return found[-1] if found and found[-1] is not mount else None

    def roots(self) -> list[MountInfo]:
        """Give the mounts whose parent isn't in this listing."""
        return [mount for mount in self._mounts if self.parent(mount) is None]

    def walk(self) -> Iterator[tuple[int, MountInfo]]:
        """Give every mount once, with its depth, parents first, siblings in the listing's order.

        Two mounts of which each was seen on the other, because they were moved meanwhile, are a root and its child.
        """
        seen: set[int] = set()
        for start in [*self.roots(), *self._mounts]:
            waiting = [(0, start)]
            while waiting:
                depth, mount = waiting.pop()
                if id(mount) not in seen:
                    seen.add(id(mount))
                    yield depth, mount
                    waiting += [(depth + 1, child) for child in reversed(self.children(mount))]

    def below(self, point: str) -> MountTable:
        """Give the mounts at a path and below it, covered ones too."""
        exact = "/" + point.strip("/")
        prefix = exact.rstrip("/") + "/"
        return self.where(lambda m: m.point is not None and (m.point == exact or m.point.startswith(prefix)))

    def where(self, wanted: Callable[[MountInfo], object]) -> MountTable:
        """Give the mounts for which a function says yes."""
        return MountTable([mount for mount in self._mounts if wanted(mount)])

    def diff(self, other: MountTable) -> list[Change]:
        """Say what is different in a later listing: detached in this one's order; attached, moved, changed in its own.

        Mounts are the same when their unique ids are; where a listing has none, when their old id, filesystem and root
        are, since an old id is reused at once.
        """
        unique = all(mount.id is not None for mount in (*self._mounts[:1], *other._mounts[:1]))
        name = _unique_identity if unique else _old_identity
        before = {name(mount): mount for mount in self}
        after = {name(mount): mount for mount in other}
        changes = [Change("detach", mount, None) for number, mount in before.items() if number not in after]
        for number, mount in after.items():
            old = before.get(number)
            if old is None:
                changes.append(Change("attach", None, mount))
            elif (old.point, _parent(old, unique=unique)) != (mount.point, _parent(mount, unique=unique)):
                changes.append(Change("move", old, mount))
            elif old != mount:
                changes.append(Change("change", old, mount))
        return changes

    # --- indexes -----------------------------------------------------------------------------------------------
    def _index(self, name: str) -> dict[Hashable, list[MountInfo]]:
        index = self._indexes.get(name)
        if index is None:
            index = {}
            for mount in self._mounts:
                index.setdefault(getattr(mount, name), []).append(mount)
            self._indexes[name] = index
        return index

    def _on(self, mount: MountInfo, point: str) -> MountInfo | None:
        """Give the mount that stands on another one at a path; the kernel has at most one there."""
        if self._places is None:
            self._places = {}
            for one in self._mounts:
                parent = self.parent(one)
                if parent is not None:
                    self._places[id(parent), one.point] = one
        return self._places.get((id(mount), point))

    def _top_of_root(self) -> MountInfo | None:
        found = [mount for mount in self.roots() if mount.point == "/"]
        return found[-1] if found else None

    def _depth(self, mount: MountInfo) -> int:
        depth, seen = 0, mount
        while (parent := self.parent(seen)) is not None and depth <= len(self._mounts):
            depth, seen = depth + 1, parent
        return depth


class Change:
    """One difference between two listings.

    Attributes: kind, `attach`, `detach`, `move` or `change`; before and after, the records or None.
    """

    __slots__ = ("after", "before", "kind")

    def __init__(self, kind: str, before: MountInfo | None, after: MountInfo | None) -> None:
        """Keep the three."""
        self.kind, self.before, self.after = kind, before, after

    def __repr__(self) -> str:
        """Show the kind and the mount."""
        return f"<Change {self.kind} {self.after or self.before!r}>"


def _key(mount: MountInfo) -> tuple[str, int | None]:
    """Name the id that a listing knows its mounts by: unique, or where the kernel has none, old."""
    return ("id", mount.id) if mount.id is not None else ("id_old", mount.id_old)


def _unique_identity(mount: MountInfo) -> Hashable:
    return mount.id


def _old_identity(mount: MountInfo) -> Hashable:
    return mount.id_old, mount.dev, mount.root


def _parent(mount: MountInfo, *, unique: bool) -> int | None:
    return mount.parent_id if unique else mount.parent_id_old
