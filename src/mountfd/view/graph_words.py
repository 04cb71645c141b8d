"""What the pictures of propagation say in words, whichever way they are drawn."""

from __future__ import annotations

from mountfd.model.wording import is_unbindable, whole_type
from mountfd.view.columns import by_name
from mountfd.view.people import PEER_COLOURS
from mountfd.view.text import printable
from mountfd.view.tree import Node as Shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.model.graph import Frame, Group, Node

__all__ = [
    "colour",
    "facts",
    "folded",
    "group_size",
    "is_unbindable",
    "kind",
    "likeness",
    "mark",
    "names",
    "names_briefly",
    "number",
    "place",
    "source",
    "times",
]

_NAMED = 3
_FACTS = (
    ("mounted on", "TARGET"),
    ("type", "FSTYPE"),
    ("source", "SOURCE"),
    ("options", "OPTIONS"),
    ("propagation", "PROPAGATION"),
)


def place(node: Node, *, is_ascii: bool = False) -> str:
    """Say where it stands."""
    return _value(node, "TARGET", is_ascii=is_ascii) or "(unreachable)"


def kind(node: Node, *, is_ascii: bool = False) -> str:
    """Say its filesystem type."""
    return printable(whole_type(node.mount) or "", is_ascii=is_ascii)


def source(node: Node, *, is_ascii: bool = False) -> str:
    """Say what is mounted."""
    return _value(node, "SOURCE", is_ascii=is_ascii)


def mark(node: Node) -> str:
    """Say its propagation in signs."""
    words = [f"●{number(node.group)}"] if node.group is not None else []
    words += [f"◀─ ●{number(node.master)}"] if node.master is not None else []
    return " ".join(words) or ("⊘ unbindable" if is_unbindable(node.mount) else "○ private")


def number(group: Group) -> str:
    """Say a group's number; of several that are alike, the first and how many."""
    return f"{group.number}" + (f"(+{len(group.numbers) - 1})" if len(group.numbers) > 1 else "")


def group_size(group: Group) -> str:
    """Count its members in words."""
    if not group.members:
        return "out of sight"
    return "1 mount" if group.size == 1 else f"{group.size} peers"


def colour(group: Group) -> int:
    """Give the number of its colour, the one that it has in `list` too."""
    return group.number % PEER_COLOURS


def names(frame: Frame, *, most: int = _NAMED, is_ascii: bool = False) -> str:
    """Name a namespace, or how many and the first of them."""
    few = ", ".join(printable(name, is_ascii=is_ascii) for name in frame.names[:most])
    if len(frame.names) == 1:
        return few
    more = len(frame.names) - most
    return f"{likeness(frame)}: {few}" + (f", and {more} more" if more > 0 else "")


def likeness(frame: Frame) -> str:
    """Say in what several namespaces are alike: of private mounts that aren't shown only the number is known."""
    if not frame.private[1]:
        return f"{len(frame.names)} namespaces alike"
    return f"{len(frame.names)} namespaces " + ("alike in what is shown" if frame.nodes else "where nothing propagates")


def names_briefly(frame: Frame, *, is_ascii: bool = False) -> str:
    """Name a namespace, or the first and how many are alike."""
    first, more = printable(frame.names[0], is_ascii=is_ascii), len(frame.names) - 1
    return f"{first}, and {more} alike" if more else first


def folded(frame: Frame) -> str:
    """Count the private mounts that aren't shown; nothing where all are."""
    least, most = frame.private
    if not most:
        return ""
    words = f"{_range(least, most)} private mount" + ("" if most == 1 else "s")
    if len(frame.names) > 1:
        words += " in each"
    unbindable = _range(*frame.unbindable)
    return words + (
        "" if not frame.unbindable[1] else ", unbindable" if most == 1 else f", {unbindable} of them unbindable"
    )


def times(count: int) -> str:
    """Say for how many mounts one stands."""
    return f"\N{MULTIPLICATION SIGN}{count}"


def facts(node: Node) -> list[tuple[str, str]]:
    """Say everything about a mount, in pairs of a name and a value."""
    found = [(name, _value(node, column)) for name, column in _FACTS]
    found[0] = (found[0][0], place(node))
    if node.group is not None:
        found.append(("peer group", _numbers(node.group)))
    if node.master is not None:
        found.append(("master", _numbers(node.master)))
    if node.is_covered:
        found.append(("state", "covered by another mount"))
    found.append(("mount id", _ids(node)))
    found.append(("namespace" if len(node.frame.names) == 1 else "namespaces", names(node.frame, most=10)))
    return found


def _numbers(group: Group) -> str:
    return _few([str(number) for number in group.numbers])


def _ids(node: Node) -> str:
    return _few([str(mount.id_old if mount.id is None else mount.id) for mount in node.mounts])


def _few(words: list[str], most: int = 10) -> str:
    return ", ".join(words[:most]) + (f", and {len(words) - most} more" if len(words) > most else "")


def _range(least: int, most: int) -> str:
    return str(most) if least == most else f"{least} to {most}"


def _value(node: Node, column: str, *, is_ascii: bool = False) -> str:
    value = by_name(column).value(Shown(node.mount))
    return "" if value is None else printable(str(value), is_ascii=is_ascii)
