"""What standard output can show, and what its reader asked for.

| said by | colour |
| --- | --- |
| --color=always, --color=never | as said |
| NO_COLOR, not empty | none |
| FORCE_COLOR, not empty and not 0 | yes, also in a pipe |
| TERM=dumb | none |
| otherwise | on a terminal |
"""

from __future__ import annotations

import os
import sys

from mountfd.errors import InvalidSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Screen", "put"]

_WIDTH = 80


class Screen:
    """Standard output.

    Attributes: is_terminal; is_colourful; is_for_people, on a terminal or where colour was asked for; is_ascii, where
    the locale's encoding isn't UTF-8; room, the terminal's columns, or None where nothing limits a line.
    """

    __slots__ = ("is_ascii", "is_colourful", "is_for_people", "is_terminal", "room")

    def __init__(self, when: str | None, environ: Mapping[str, str] = os.environ) -> None:
        """Look at it. Arguments: when, the value of --color; environ. Raises InvalidSpec for another word."""
        if when not in (None, "auto", "always", "never"):
            raise InvalidSpec(f"--color is auto, always or never, not {when!r}", part="--color")
        self.is_ascii = not _knows_unicode(environ)
        self.is_terminal = sys.stdout is not None and sys.stdout.isatty()
        self.is_colourful = when == "always" or (when != "never" and self._likes_colour(environ))
        self.is_for_people = self.is_terminal or self.is_colourful
        self.room = _columns(environ) if self.is_terminal else None

    def _likes_colour(self, environ: Mapping[str, str]) -> bool:
        if environ.get("NO_COLOR"):
            return False
        if environ.get("FORCE_COLOR", "0") not in ("", "0"):
            return True
        return self.is_terminal and environ.get("TERM") != "dumb"


def put(pieces: Iterable[str]) -> None:
    """Write to standard output, whatever its encoding."""
    if sys.stdout is not None:
        sys.stdout.writelines(pieces)


def _knows_unicode(environ: Mapping[str, str]) -> bool:
    # In these two locales Python speaks UTF-8 of its own accord; who chose one of them didn't ask for that.
    chosen = environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG")
    encoding: str = getattr(sys.stdout, "encoding", None) or "ascii"
    return chosen not in ("C", "POSIX") and encoding.lower().replace("_", "-") in ("utf-8", "utf8")


def _columns(environ: Mapping[str, str]) -> int:
    said = environ.get("COLUMNS", "")
    if said.isdecimal() and int(said):
        return int(said)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or _WIDTH
    except OSError:
        return _WIDTH
