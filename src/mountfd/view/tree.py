"""Mounts as a tree, and what hides what.

visible   a path leads to it
covered   another mount stands on its root
hidden    what it stands on is covered, or another mount stands further up on its path
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mountfd.model.info import MountInfo

__all__ = ["COVERED", "HIDDEN", "VISIBLE", "Node", "nest", "prune", "walk"]

VISIBLE, COVERED, HIDDEN = "visible", "covered", "hidden"


class Node:
    """A mount in its tree.

    Attributes: mount; children, by old id as findmnt(8) orders them; state, VISIBLE, COVERED, HIDDEN, or None where
    only this mount is known.
    """

    __slots__ = ("children", "mount", "state")

    def __init__(self, mount: MountInfo, state: str | None = None, children: Iterable[Node] = ()) -> None:
        """Keep them."""
        self.mount, self.state, self.children = mount, state, list(children)

    @property
    def cover(self) -> Node | None:
        """The mount that stands on this one's root."""
        point = self.mount.point
        found = None
        for child in self.children if point is not None else ():
            if child.mount.point == point:
                found = child
        return found


def nest(mounts: Iterable[MountInfo]) -> list[Node]:
    """Put mounts into trees, one for each that stands on none of the others, in the listing's order."""
    nodes = [Node(mount) for mount in mounts]
    by_id = {_id(node.mount): node for node in nodes}
    roots = []
    for node in nodes:
        parent = by_id.get(_parent_id(node.mount))
        if parent is None or parent is node:
            roots.append(node)
        else:
            parent.children.append(node)
    reached = {id(node) for _, node in walk(roots)}
    # A recorded table may say anything, also that two mounts stand on each other.
    roots.extend(_cut(node, reached) for node in nodes if id(node) not in reached)
    for node in nodes:
        node.children.sort(key=lambda child: child.mount.id_old or 0)
    for root in roots:
        _judge(root)
    return roots


def prune(roots: Iterable[Node], wanted: Callable[[Node], object]) -> list[Node]:
    """Leave out what isn't wanted; what stands on it moves up to the nearest mount that is shown."""
    shown: list[Node] = []
    waiting = [(shown, node) for node in reversed(list(roots))]
    while waiting:
        place, node = waiting.pop()
        if wanted(node):
            kept = Node(node.mount, node.state)
            place.append(kept)
            place = kept.children
        waiting += [(place, child) for child in reversed(node.children)]
    return shown


def walk(roots: Iterable[Node]) -> Iterator[tuple[tuple[bool, ...], Node]]:
    """Give every node, parents first; with it, for each level from the first on, whether more is to come there."""
    waiting: list[tuple[tuple[bool, ...], Node]] = [((), node) for node in reversed(list(roots))]
    while waiting:
        more, node = waiting.pop()
        yield more, node
        last = len(node.children) - 1
        waiting += [((*more, at < last), child) for at, child in reversed(list(enumerate(node.children)))]


def _cut(node: Node, reached: set[int]) -> Node:
    """Make a root of a mount in a circle, by taking away the way back to it."""
    waiting = [node]
    while waiting:
        here = waiting.pop()
        reached.add(id(here))
        here.children = [child for child in here.children if id(child) not in reached]
        waiting += here.children
    return node


def _judge(root: Node) -> None:
    """Say for each mount of a tree whether a path leads to it."""
    root.state = VISIBLE
    waiting = [root]
    while waiting:
        node = waiting.pop()
        cover, points = node.cover, {child.mount.point for child in node.children}
        if cover is not None and node.state == VISIBLE:
            node.state = COVERED
        for child in node.children:
            below = (node.state == VISIBLE) if cover is None else (child is cover and node.state == COVERED)
            child.state = VISIBLE if below and not _is_shaded(child, node, points) else HIDDEN
        waiting += node.children


def _is_shaded(child: Node, parent: Node, points: set[str | None]) -> bool:
    """Say whether a sibling stands further up on a mount's path: had it been there first, this one would be on it."""
    path, top = child.mount.point, parent.mount.point
    if path is None or top is None:
        return path is None
    above = path.rpartition("/")[0]
    while len(above) > len(top.rstrip("/")):
        if above in points:
            return True
        above = above.rpartition("/")[0]
    return False


def _id(mount: MountInfo) -> tuple[bool, int | None]:
    return (True, mount.id) if mount.id is not None else (False, mount.id_old)


def _parent_id(mount: MountInfo) -> tuple[bool, int | None]:
    return (True, mount.parent_id) if mount.id is not None else (False, mount.parent_id_old)
