"""Mounts for a person at a terminal: a stack is one entry with its layers below it, peer groups are numbered.

    /mnt            tmpfs     ●1
    ├─ root         overlay   ●2        ▲ covers 1
    │  ╎ beneath    overlay   ●3        ▽ covered
    └─ slave        tmpfs     ●4 ◀─ ●1

A colour repeats what a glyph and a number say, so nothing is lost without it. Cells are (text, style) with the styles
`name`, `plain`, `faint`, `cover`, `warn` and `peer0` to `peer5`.
"""

from __future__ import annotations

from mountfd.model.wording import is_unbindable
from mountfd.view.text import fitted, printable, width
from mountfd.view.tree import COVERED, HIDDEN, VISIBLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import TypeAlias

    from mountfd.view.columns import Column
    from mountfd.view.tree import Node

    Piece: TypeAlias = tuple[str, str]
    Cell: TypeAlias = list[Piece]

__all__ = ["HEADINGS", "PEER_COLOURS", "drawn", "rows"]

HEADINGS = ("TARGET", "FSTYPE", "PEERS", "STATE", "SOURCE", "OPTIONS")
PEER_COLOURS = 6


class _Glyphs:
    """The signs of one alphabet."""

    __slots__ = ("beneath", "branches", "covered", "covers", "cut", "from_", "hidden", "peer", "unbindable")

    def __init__(self, signs: str) -> None:
        """Take them from a line of words."""
        words = signs.split()
        self.peer, self.from_, self.covers, self.covered = words[:4]
        self.hidden, self.unbindable, self.beneath, self.cut = words[4:8]
        self.branches = [word.replace("_", " ") for word in words[8:]]


_UNICODE = _Glyphs("● ◀─ ▲ ▽ ◌ ⊘ ╎ … ├─_ └─_ │__ ___")
_ASCII = _Glyphs("* <- ^ v ? ! : ~ |-_ `-_ |__ ___")


def rows(roots: Sequence[Node], columns: dict[str, Column], *, is_ascii: bool = False) -> Iterator[list[Cell]]:
    """Give a row of cells for each mount; columns are those that fstype, source and options are taken from, by name."""
    glyphs = _ASCII if is_ascii else _UNICODE

    def text(node: Node, name: str) -> str:
        return printable(str(columns[name].value(node) or ""), is_ascii=is_ascii)

    waiting: list[tuple[tuple[bool, ...], Node, str]] = [((), root, "") for root in reversed(roots)]
    while waiting:
        more, bottom, above = waiting.pop()
        stack = _stack(bottom)
        top = stack[-1]
        lead = "".join(glyphs.branches[2 if goes_on else 3] for goes_on in more[:-1])
        fork = (glyphs.branches[0] if more[-1] else glyphs.branches[1]) if more else ""
        below = lead + (glyphs.branches[2 if more[-1] else 3] if more else "")
        children = [child for node in reversed(stack) for child in node.children if child not in stack]
        for node in reversed(stack):
            name = _relative(text(node, "TARGET"), above) if node is top else "beneath"
            start = lead + fork if node is top else f"{below}{glyphs.beneath} "
            yield [
                [(start, "faint"), (name, "name" if node.state == VISIBLE else "faint")],
                [(text(node, "FSTYPE"), "plain")],
                _peers(node, glyphs),
                _state(node, len(stack) - 1 if node is top else 0, glyphs),
                [(text(node, "SOURCE"), "plain")],
                [(text(node, "OPTIONS"), "faint")],
            ]
        point, last = text(top, "TARGET"), len(children) - 1
        waiting += [((*more, at < last), child, point) for at, child in reversed(list(enumerate(children)))]


def drawn(
    table: Iterable[list[Cell]],
    paint: Callable[[str, str], str],
    *,
    headings: bool = True,
    room: int | None = None,
    is_ascii: bool = False,
) -> Iterator[str]:
    """Align rows into lines without help; paint colours one piece of text in a style."""
    found: list[list[Cell]] = [[[(name, "faint")] for name in HEADINGS]] if headings else []
    found += table
    sizes = [max(width(_plain(cell)) for cell in cells) for cells in zip(*found, strict=True)]
    for row in found:
        left, line = room, []
        for cell, size in zip(row, sizes, strict=True):
            for text, style in [*cell, (" " * (size - width(_plain(cell)) + 2), "plain")]:
                shown = text if left is None else fitted(text, left, "" if text.isspace() else "~" if is_ascii else "…")
                left = None if left is None else left - width(shown)
                line.append((shown, style))
                if left == 0:
                    break
            if left == 0:
                break
        while line and not line[-1][0].strip():
            line.pop()
        yield "".join(paint(text, style) if text.strip() else text for text, style in line)


def _stack(bottom: Node) -> list[Node]:
    """Give the mounts that stand on each other's roots, from the lowest on."""
    stack = [bottom]
    while (cover := stack[-1].cover) is not None:
        stack.append(cover)
    return stack


def _relative(point: str, above: str) -> str:
    prefix = above.rstrip("/") + "/"
    if above and point.startswith(prefix) and len(point) > len(prefix):
        return point[len(prefix) :]
    return point or "(unreachable)"


def _peers(node: Node, glyphs: _Glyphs) -> Cell:
    mount, cell = node.mount, []
    if mount.peer_group:
        cell.append((f"{glyphs.peer}{mount.peer_group}", _peer_style(mount.peer_group)))
    if mount.master:
        cell.append((f"{' ' if cell else ''}{glyphs.from_} ", "faint"))
        cell.append((f"{glyphs.peer}{mount.master}", _peer_style(mount.master)))
    if is_unbindable(mount):
        cell.append((f"{glyphs.unbindable} unbindable", "warn"))
    return cell


def _peer_style(group: int) -> str:
    return f"peer{group % PEER_COLOURS}"


def _state(node: Node, beneath: int, glyphs: _Glyphs) -> Cell:
    if node.state == HIDDEN:
        return [(f"{glyphs.hidden} hidden", "warn")]
    if node.state == COVERED:
        return [(f"{glyphs.covered} covered", "warn")]
    return [(f"{glyphs.covers} covers {beneath}", "cover")] if beneath else []


def _plain(cell: Cell) -> str:
    return "".join(text for text, _ in cell)
