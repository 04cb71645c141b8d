"""Who passes mounts on to whom: peer groups, what receives from them, and the namespaces that all these stand in.

| edge | from | to | what the kernel says |
| --- | --- | --- | --- |
| peer | a mount | its peer group | shared:N |
| slave | a peer group | a mount that receives from it | master:N |
| through | a peer group | one out of sight, which receives from it | propagate_from:N |
| cover | a mount | the mount on whose root it stands | both are at one path |

Numbers of peer groups mean the same in all namespaces. Namespaces that differ in nothing that is shown are one frame.
"""

from __future__ import annotations

from mountfd.model.table import MountTable
from mountfd.model.wording import is_unbindable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TypeAlias

    from mountfd.model.info import MountInfo

    Ends: TypeAlias = "Node | Group"

__all__ = ["COVER", "PEER", "SLAVE", "THROUGH", "Edge", "Frame", "Graph", "Group", "Node", "graph"]

PEER, SLAVE, THROUGH, COVER = "peer", "slave", "through", "cover"


class Node:
    """A mount; in a frame of several namespaces, the one of each.

    Attributes: key, unlike all others, `m` and the mount's unique id or else the old one; mounts, in the order of the
    frame's names; frame; group and master, Group or None; below, the node that it covers, or None; is_covered.
    """

    __slots__ = ("below", "frame", "group", "is_covered", "key", "master", "mounts")

    def __init__(self, key: str, mounts: tuple[MountInfo, ...], frame: Frame, *, is_covered: bool) -> None:
        """Begin without groups."""
        self.key, self.mounts, self.frame, self.is_covered = key, mounts, frame, is_covered
        self.group: Group | None = None
        self.master: Group | None = None
        self.below: Node | None = None

    @property
    def mount(self) -> MountInfo:
        """The mount, or the first of them."""
        return self.mounts[0]

    @property
    def reaches_itself(self) -> bool:
        """Whether it stands for several mounts that are peers of each other."""
        return len(self.mounts) > 1 and self.group is not None and len(self.group.numbers) == 1

    def __repr__(self) -> str:
        """Show the key and where it stands."""
        return f"<Node {self.key} on {self.mount.point!r}>"


class Group:
    """A peer group.

    Attributes: numbers, the kernel's number, or where namespaces that are alike have each a group of their own, one for
    each of them; members and receivers, nodes; source, the group that a group out of sight receives from, or None.
    """

    __slots__ = ("members", "numbers", "receivers", "source")

    def __init__(self, numbers: tuple[int, ...]) -> None:
        """Begin without members."""
        self.numbers = numbers
        self.members: list[Node] = []
        self.receivers: list[Node] = []
        self.source: Group | None = None

    @property
    def number(self) -> int:
        """The kernel's number, or the first of them."""
        return self.numbers[0]

    @property
    def is_alone(self) -> bool:
        """Whether nothing that is shown sends to its one member or receives from it."""
        return self.size == 1 and not self.receivers and self.members[0].master is None

    @property
    def size(self) -> int:
        """How many mounts are its members, or of each where namespaces have their own."""
        return sum(len(node.mounts) for node in self.members) // len(self.numbers)

    def __repr__(self) -> str:
        """Count what belongs to it."""
        return f"<Group {self.number}: {len(self.members)} members, {len(self.receivers)} receivers>"


class Frame:
    """A mount namespace, or several that are alike.

    Attributes: names, one for each namespace; nodes, by path, what is covered first; private, how many mounts that
    aren't shown, the least and the most; unbindable, how many of those refuse to be bound, the same way.
    """

    __slots__ = ("names", "nodes", "private", "unbindable")

    def __init__(self, names: tuple[str, ...], private: tuple[int, int], unbindable: tuple[int, int]) -> None:
        """Begin without nodes."""
        self.names, self.private, self.unbindable = names, private, unbindable
        self.nodes: list[Node] = []

    def __repr__(self) -> str:
        """Show the names."""
        return f"<Frame {', '.join(self.names)}: {len(self.nodes)} nodes>"


class Edge:
    """One edge. Attributes: kind, PEER, SLAVE, THROUGH or COVER; start and end, nodes or groups."""

    __slots__ = ("end", "kind", "start")

    def __init__(self, kind: str, start: Ends, end: Ends) -> None:
        """Keep the three."""
        self.kind, self.start, self.end = kind, start, end

    @property
    def count(self) -> int:
        """How many mounts it stands for."""
        ends = (self.start, self.end)
        return max(len(end.mounts) for end in ends if isinstance(end, Node)) if self.kind != THROUGH else 1

    def __repr__(self) -> str:
        """Show kind and ends."""
        return f"<Edge {self.kind} {self.start!r} -> {self.end!r}>"


class Graph:
    """The whole picture. Attributes: frames, in the order given; groups, by number."""

    __slots__ = ("frames", "groups")

    def __init__(self, frames: Iterable[Frame], groups: Iterable[Group]) -> None:
        """Keep them."""
        self.frames, self.groups = tuple(frames), tuple(groups)

    def nodes(self) -> Iterator[Node]:
        """Give all nodes, frame by frame."""
        for frame in self.frames:
            yield from frame.nodes

    def edges(self) -> Iterator[Edge]:
        """Give all edges: group by group, then what covers what."""
        for group in self.groups:
            if group.source is not None:
                yield Edge(THROUGH, group.source, group)
            for node in group.members:
                yield Edge(PEER, node, group)
            for node in group.receivers:
                yield Edge(SLAVE, group, node)
        for node in self.nodes():
            if node.below is not None:
                yield Edge(COVER, node, node.below)

    def reach(self, node: Node) -> list[Node]:
        """Say where a mount made on this one appears too.

        A node that stands for several mounts may reach itself: in the other namespaces. What shows another part of the
        filesystem has no place for a mount outside of that part, and is left out by the kernel then.
        """
        found: dict[str, Node] = {}
        waiting, seen = [node.group], [node.group]
        while waiting:
            group = waiting.pop()
            if group is None:
                continue
            found |= {each.key: each for each in (*group.members, *group.receivers)}
            onward = [each.group for each in group.receivers] + [each for each in self.groups if each.source is group]
            onward = [each for each in onward if each is not None and all(each is not one for one in seen)]
            seen += onward
            waiting += onward
        if not node.reaches_itself:
            found.pop(node.key, None)
        return [each for each in self.nodes() if each.key in found]


def graph(namespaces: Iterable[tuple[str, Iterable[MountInfo]]], *, everything: bool = False) -> Graph:
    """Draw up the graph of some namespaces.

    Arguments: namespaces, of each a name and its mounts (with ids, point, and the fields of propagation at least);
    everything, also private mounts, which by default are only counted unless they share a path with one that is shown.
    """
    tables = [_Table(name, mounts, everything=everything) for name, mounts in namespaces]
    mentions: dict[int, set[int]] = {}
    for at, table in enumerate(tables):
        for number in table.mentioned:
            mentions.setdefault(number, set()).add(at)
    own = {number for number, places in mentions.items() if len(places) == 1}
    alike: dict[object, list[_Table]] = {}
    for table in tables:
        alike.setdefault(table.signature(own), []).append(table)
    maker = _Maker()
    frames = [maker.frame(same) for same in alike.values()]
    for group in maker.groups.values():
        if group.members:
            group.source = None  # what its members receive is seen at them
    return Graph(frames, sorted(maker.groups.values(), key=lambda group: group.number))


# --- one namespace -------------------------------------------------------------------------------------------------
class _Table:
    """A namespace's mounts: which are shown, in a fixed order, and what groups they name."""

    __slots__ = ("mentioned", "name", "private", "shown", "table", "unbindable")

    def __init__(self, name: str, mounts: Iterable[MountInfo], *, everything: bool) -> None:
        self.name = name
        self.table = table = mounts if isinstance(mounts, MountTable) else MountTable(mounts)
        order = [mount for _, mount in table.walk()]
        kept = {id(mount) for mount in order if everything or mount.peer_group or mount.master}
        # What shares a path with a mount that is shown hides it, or is hidden by it.
        for way in (order, order[::-1]):
            for mount in way:
                if (below := self.below(mount)) is not None and kept.intersection((id(mount), id(below))):
                    kept |= {id(mount), id(below)}
        self.shown = sorted(
            (mount for mount in order if id(mount) in kept), key=_by_path
        )  # which keeps stacks in order
        left = [mount for mount in order if id(mount) not in kept]
        self.private, self.unbindable = len(left), sum(map(is_unbindable, left))
        self.mentioned = [number for mount in self.shown for number in _numbers(mount)]

    def below(self, mount: MountInfo) -> MountInfo | None:
        """Give the mount that this one covers."""
        parent = self.table.parent(mount)
        return parent if parent is not None and parent is not mount and _same_place(parent, mount) else None

    def signature(self, own: set[int]) -> object:
        """Give what namespaces that are alike have in common; numbers that only this one knows count by their order."""
        order: dict[int, int] = {}
        for number in self.mentioned:
            if number in own:
                order.setdefault(number, -1 - len(order))
        places = {id(mount): at for at, mount in enumerate(self.shown)}
        return tuple(
            (
                (mount.point, mount.dev, mount.root, mount.fstype, mount.source, mount.attrs, mount.propagation),
                tuple(order.get(number, number) for number in _all_numbers(mount)),
                places.get(id(self.below(mount))),
                self.table.is_covered(mount),
            )
            for mount in self.shown
        )


class _Maker:
    """Makes frames, nodes and groups, each group once."""

    def __init__(self) -> None:
        self.groups: dict[tuple[int, ...], Group] = {}
        self._keys: set[str] = set()

    def frame(self, same: list[_Table]) -> Frame:
        """Make one of namespaces that are alike."""
        private, unbindable = [table.private for table in same], [table.unbindable for table in same]
        names = tuple(table.name for table in same)
        frame = Frame(names, (min(private), max(private)), (min(unbindable), max(unbindable)))
        first, nodes = same[0], {}
        for mounts in zip(*(table.shown for table in same), strict=True):
            mount = mounts[0]
            node = Node(self._key(mount), mounts, frame, is_covered=first.table.is_covered(mount))
            nodes[id(mount)] = node
            node.group = self._group([each.peer_group or 0 for each in mounts])
            node.master = self._group([each.master or 0 for each in mounts])
            if node.group is not None:
                node.group.members.append(node)
            if node.master is not None:
                node.master.receivers.append(node)
        for mount, node in zip(first.shown, nodes.values(), strict=True):
            node.below = nodes.get(id(first.below(mount)))
        frame.nodes = [*nodes.values()]
        for node in frame.nodes:
            self._look_through(node)
        return frame

    def _group(self, numbers: list[int]) -> Group | None:
        if not numbers[0]:
            return None
        key = tuple(dict.fromkeys(numbers))
        return self.groups.setdefault(key, Group(key))

    def _look_through(self, node: Node) -> None:
        """Note who sends to a master of which no member can be seen."""
        source = self._group([each.propagate_from or 0 for each in node.mounts])
        if node.master is not None and source not in {None, node.master}:
            node.master.source = source

    def _key(self, mount: MountInfo) -> str:
        base = key = f"m{mount.id_old if mount.id is None else mount.id}"
        again = 1
        while key in self._keys:  # a recorded table may say anything
            again += 1
            key = f"{base}-{again}"
        self._keys.add(key)
        return key


def _by_path(mount: MountInfo) -> tuple[bool, list[str]]:
    return (mount.point is None, (mount.point or "").rstrip("/").split("/"))


def _same_place(one: MountInfo, other: MountInfo) -> bool:
    return one.point is not None and one.point == other.point


def _all_numbers(mount: MountInfo) -> tuple[int, int, int]:
    return (mount.peer_group or 0, mount.master or 0, mount.propagate_from or 0)


def _numbers(mount: MountInfo) -> list[int]:
    return [number for number in _all_numbers(mount) if number]
