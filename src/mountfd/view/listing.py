"""Mounts as findmnt(8) prints them: columns, with the tree drawn in TARGET; or raw, one word for each field."""

from __future__ import annotations

from mountfd.view.text import fitted, printable, raw, width
from mountfd.view.tree import walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mountfd.view.columns import Column
    from mountfd.view.tree import Node

__all__ = ["branch", "fields", "lines", "raw_lines"]

_UNICODE = ("├─", "└─", "│ ", "  ")
_ASCII = ("|-", "`-", "| ", "  ")


def lines(  # noqa: PLR0913 (each is a choice of the reader)
    roots: Sequence[Node],
    columns: Sequence[Column],
    *,
    is_tree: bool = False,
    is_ascii: bool = False,
    headings: bool = True,
    room: int | None = None,
) -> Iterator[str]:
    """Give aligned columns, numbers to the right.

    Arguments: roots; columns; is_tree, draw it in TARGET; is_ascii, for a reader who knows no more; headings, above
    the columns; room, the terminal's width: the last column is cut there.
    """
    rows = [[column.name for column in columns]] if headings else []
    for more, node in walk(roots):
        row = [_shown(column.value(node), is_ascii=is_ascii) for column in columns]
        for at, column in enumerate(columns):
            if is_tree and column.name == "TARGET":
                row[at] = branch(more, is_ascii=is_ascii) + row[at]
        rows.append(row)
    sizes = [max(map(width, cells)) for cells in zip(*rows, strict=True)]
    for row in rows:
        line = " ".join(_aligned(*cell) for cell in zip(row, sizes, columns, strict=True)).rstrip()
        yield line if room is None else fitted(line, room, "~" if is_ascii else "…")


def raw_lines(roots: Sequence[Node], columns: Sequence[Column], *, headings: bool = True) -> Iterator[str]:
    """Give fields separated by one blank each, with every blank in them escaped."""
    if headings:
        yield " ".join(column.name for column in columns)
    for _, node in walk(roots):
        values = (column.value(node) for column in columns)
        yield " ".join("" if value is None else raw(str(value)) for value in values)


def fields(node: Node, columns: Sequence[Column], *, is_ascii: bool = False) -> Iterator[str]:
    """Give one mount, a line for each column."""
    size = max(len(column.name) for column in columns)
    for column in columns:
        value = _shown(column.value(node), is_ascii=is_ascii)
        yield f"{column.name:<{size}}  {value or '-'}"


def branch(more: tuple[bool, ...], *, is_ascii: bool) -> str:
    """Draw the way from the root to a node."""
    if not more:
        return ""
    fork, end, pipe, gap = _ASCII if is_ascii else _UNICODE
    return "".join(pipe if goes_on else gap for goes_on in more[:-1]) + (fork if more[-1] else end)


def _shown(value: str | int | None, *, is_ascii: bool) -> str:
    return "" if value is None else printable(str(value), is_ascii=is_ascii)


def _aligned(text: str, size: int, column: Column) -> str:
    gap = " " * (size - width(text))
    return gap + text if column.is_number else text + gap
