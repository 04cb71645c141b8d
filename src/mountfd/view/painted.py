"""Lines in colour: by rich where it is installed, else by the terminal's own eight colours."""

from __future__ import annotations

from mountfd.view.people import HEADINGS, drawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mountfd.view.people import Cell

__all__ = ["by_hand", "by_rich"]

_CODES = {
    "name": "1",
    "faint": "2",
    "cover": "32",
    "warn": "33",
    "peer0": "36",
    "peer1": "35",
    "peer2": "34",
    "peer3": "32",
    "peer4": "95",
    "peer5": "96",
}
_RICH = {
    "name": "bold",
    "faint": "dim",
    "cover": "green",
    "warn": "yellow",
    "peer0": "cyan",
    "peer1": "magenta",
    "peer2": "blue",
    "peer3": "green",
    "peer4": "bright_magenta",
    "peer5": "bright_cyan",
}


def by_hand(
    table: Iterable[list[Cell]], *, colour: bool, headings: bool, room: int | None, is_ascii: bool
) -> Iterator[str]:
    """Draw rows, in colour or not."""
    return drawn(table, _painted if colour else _unpainted, headings=headings, room=room, is_ascii=is_ascii)


def by_rich(table: Iterable[list[Cell]], *, headings: bool, room: int) -> Iterator[str]:
    """Draw rows in colour with rich, which knows more of terminals. Raises ImportError where it isn't installed."""
    from io import StringIO  # noqa: PLC0415 (both only for a person at a terminal)

    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    cells = [[Text.assemble(*((text, _RICH.get(style, "")) for text, style in cell)) for cell in row] for row in table]
    grid = Table(box=None, pad_edge=False, show_header=headings, header_style="dim", padding=(0, 2, 0, 0))
    for at, name in enumerate(HEADINGS):
        # Where room is short, the last columns give way.
        size = max([len(name), *(row[at].cell_len for row in cells)])
        kept = min(size, room // 2) if name == "TARGET" else 1 if name in ("SOURCE", "OPTIONS") else size
        grid.add_column(name, no_wrap=True, overflow="ellipsis", min_width=kept)
    for row in cells:
        grid.add_row(*row)
    console = Console(file=StringIO(), width=room, force_terminal=True, color_system="standard", legacy_windows=False)
    with console.capture() as capture:
        console.print(grid)
    return (line.rstrip() for line in capture.get().splitlines())


def _painted(text: str, style: str) -> str:
    code = _CODES.get(style)
    return f"\x1b[{code}m{text}\x1b[0m" if code else text


def _unpainted(text: str, _style: str) -> str:
    return text
