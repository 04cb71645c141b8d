"""A propagation graph as a JSON document, with the same facts as the pictures."""

from __future__ import annotations

from mountfd.view.columns import by_name
from mountfd.view.mounts_json import record
from mountfd.view.tree import Node as Shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.model.graph import Frame, Graph, Node

__all__ = ["as_values"]

_COLUMNS = [by_name(name) for name in ("TARGET", "SOURCE", "FSTYPE", "OPTIONS", "PROPAGATION")]


def as_values(graph: Graph) -> dict[str, object]:
    """Give it as values that json can write.

    `namespaces`: names (of namespaces that are alike, several), private and unbindable (how many mounts that aren't
    shown, the least and the most), mounts. A mount's `key` is its id in the pictures; ids, peer_groups and masters have
    one value for each of the namespaces. `groups`: numbers; peers and receivers, keys; from, a group's number or null.
    """
    groups = [
        {
            "numbers": group.numbers,
            "peers": [node.key for node in group.members],
            "receivers": [node.key for node in group.receivers],
            "from": group.source.numbers if group.source is not None else None,
        }
        for group in graph.groups
    ]
    return {"namespaces": [_frame(frame) for frame in graph.frames], "groups": groups}


def _frame(frame: Frame) -> dict[str, object]:
    return {
        "names": [name.encode(errors="surrogateescape").decode(errors="replace") for name in frame.names],
        "private": frame.private,
        "unbindable": frame.unbindable,
        "mounts": [_node(node) for node in frame.nodes],
    }


def _node(node: Node) -> dict[str, object]:
    return {
        "key": node.key,
        **dict(record(Shown(node.mount), _COLUMNS)),
        "ids": [mount.id_old if mount.id is None else mount.id for mount in node.mounts],
        "peer_groups": [mount.peer_group or None for mount in node.mounts],
        "masters": [mount.master or None for mount in node.mounts],
        "covers": node.below.key if node.below is not None else None,
        "covered": node.is_covered,
    }
