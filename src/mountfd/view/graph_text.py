"""A propagation graph as lines: a section for each peer group, what receives from it below, then the namespaces.

    ●1  3 peers, 1 receives
      ●    /          ext4  /dev/sda1  this namespace
      ●    /srv/copy  ext4  /dev/sda1  this namespace
      ●    /          ext4  /dev/sda1  pid 812 nginx
      └─▶  /          ext4  /dev/sda1  pid 900 db      passes on to ●7

A colour repeats what a sign and a number say.
"""

from __future__ import annotations

from mountfd.view import graph_words as words
from mountfd.view.painted import by_hand
from mountfd.view.text import width

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    from mountfd.model.graph import Frame, Graph, Group, Node
    from mountfd.view.people import Cell

    Row: TypeAlias = list[Cell]
    Section: TypeAlias = tuple[Cell, list[Row]]

__all__ = ["lines"]

_ASCII = str.maketrans({"●": "*", "◀": "<", "─": "-", "└": "`", "▶": ">", "▽": "v", "⊘": "!", "○": "o"})
_GAP, _NARROW = 2, 32
_SENDS, _GETS = "●", "└─▶"


def lines(graph: Graph, *, colour: bool = False, is_ascii: bool = False, room: int | None = None) -> Iterator[str]:
    """Give the lines. Arguments: graph; colour; is_ascii; room, the terminal's columns, or None for any length."""

    def draw(rows: list[Row]) -> Iterator[str]:
        if not rows:
            return iter(())
        return by_hand(_aligned(rows), colour=colour, headings=False, room=room, is_ascii=is_ascii)

    writer = _Writer(is_ascii=is_ascii)
    sections = [*_sections(graph, writer)]
    # The columns of all these are aligned with each other.
    aligned = draw([row for _, section in sections for row in section])
    for heading, section in sections:
        yield from draw([[heading]])
        for _ in section:
            yield next(aligned)
        yield ""
    yield from draw([[[("namespaces", "faint")]]])
    yield from draw([writer.namespace(frame) for frame in graph.frames])


def _aligned(rows: list[Row]) -> list[Row]:
    """Align the columns; one path that is much longer than the others widens its own line alone, not all of them."""
    sizes = [_usual([width("".join(text for text, _ in cell)) for cell in cells]) for cells in zip(*rows, strict=True)]
    found: list[Row] = []
    for row in rows:
        line: Cell = []
        for cell, size in zip(row, sizes, strict=True):
            space = size - width("".join(text for text, _ in cell))
            line += [*cell, (" " * (max(space, 0) + _GAP), "plain")]
        while line and not line[-1][0].strip():
            line.pop()
        found.append([line])
    return found


def _usual(sizes: list[int]) -> int:
    """Give the largest size but those of which one would stand out."""
    middle = sorted(sizes)[(len(sizes) - 1) // 2]
    return max(size for size in sizes if size <= max(_NARROW, 2 * middle) or size == min(sizes))


def _sections(graph: Graph, writer: _Writer) -> Iterator[Section]:
    for group in graph.groups:
        if group.size != 1 or group.receivers:
            rows = [writer.row(node, _SENDS, group) for node in group.members]
            yield writer.heading(group), rows + [writer.row(node, _GETS, group) for node in group.receivers]
    alone = [(node, group) for group in graph.groups if group.is_alone for node in group.members]
    if alone:
        title = "shared, but nothing here sends to them or receives from them"
        yield [(title, "faint")], [writer.row(node, _SENDS, group, number=True) for node, group in alone]
    private = [node for node in graph.nodes() if node.group is None and node.master is None]
    if private:
        yield [("private", "faint")], [writer.row(node, words.mark(node)[0], None) for node in private]


class _Writer:
    """Makes cells in one alphabet."""

    def __init__(self, *, is_ascii: bool) -> None:
        self._is_ascii = is_ascii

    def heading(self, group: Group) -> Cell:
        """Say what a group is, and where it receives from."""
        cell = [self._number(group)]
        sources = {id(node.master): node.master for node in group.members if node.master is not None}
        sources |= {id(group.source): group.source} if group.source is not None else {}
        for source in sources.values():
            cell += [(self._signs(" ◀─ "), "faint"), self._number(source)]
        gets = sum(len(node.mounts) for node in group.receivers) // len(group.numbers)
        receive = f", {gets} receive{'s' if gets == 1 else ''}" if gets else ""
        return [*cell, (f"  {words.group_size(group)}{receive}", "plain")]

    def row(self, node: Node, sign: str, group: Group | None, *, number: bool = False) -> Row:
        """Give a mount's row, below the heading of a group."""
        tint = "faint" if group is None else f"peer{words.colour(group)}"
        shown = f"{sign}{words.number(group)}" if number and group is not None else sign
        return [
            [(f"  {self._signs(shown)}", tint)],
            [(words.place(node, is_ascii=self._is_ascii), "faint" if node.is_covered else "name")],
            [(words.kind(node, is_ascii=self._is_ascii), "plain")],
            [(words.source(node, is_ascii=self._is_ascii), "plain")],
            [(words.names_briefly(node.frame, is_ascii=self._is_ascii), "faint")],
            self._notes(node, sign),
        ]

    def namespace(self, frame: Frame) -> Row:
        """Give a namespace's row."""
        count, folded = len(frame.nodes), words.folded(frame)
        shown = f"{count} mount{'' if count == 1 else 's'}" if count or not folded else ""
        text = " and ".join(filter(None, [shown, folded]))
        return [[("  " + words.names(frame, is_ascii=self._is_ascii), "name")], [(text, "plain")]]

    def _notes(self, node: Node, sign: str) -> Cell:
        notes: list[Cell] = []
        if sign == _GETS and node.group is not None:
            notes.append([("passes on to ", "plain"), self._number(node.group)])
        if node.is_covered:
            notes.append([(self._signs("▽ covered"), "warn")])
        if words.is_unbindable(node.mount):
            notes.append([("unbindable", "warn")])
        return [piece for at, note in enumerate(notes) for piece in ([(", ", "plain"), *note] if at else note)]

    def _number(self, group: Group) -> tuple[str, str]:
        return self._signs(f"●{words.number(group)}"), f"peer{words.colour(group)}"

    def _signs(self, text: str) -> str:
        return text.translate(_ASCII) if self._is_ascii else text
