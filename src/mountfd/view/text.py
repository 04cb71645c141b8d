r"""Text that a terminal or a line-wise reader can be given: what isn't printable becomes `\xHH`, as findmnt does."""

from __future__ import annotations

__all__ = ["fitted", "printable", "raw", "width"]


def printable(text: str, *, is_ascii: bool = False) -> str:
    r"""Escape control characters, bytes that aren't UTF-8, and a backslash that would look like an escape.

    With is_ascii also all other characters beyond ASCII.
    """
    if text.isascii() and text.isprintable() and "\\x" not in text:
        return text
    text = text.replace("\\x", "\\x5cx")
    return "".join(char if char.isprintable() and (char.isascii() or not is_ascii) else _escaped(char) for char in text)


def raw(text: str) -> str:
    """Escape everything but printable ASCII, and blanks and backslashes too: a field is then one word."""
    return "".join(
        char if char.isascii() and char.isprintable() and char not in " \\" else _escaped(char) for char in text
    )


def width(text: str) -> int:
    """Count the columns that printable text takes on a terminal."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width  # noqa: PLC0415 (only for names that need it)

    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def fitted(text: str, room: int, mark: str) -> str:
    """Cut text to the columns that there are, and mark the cut."""
    if width(text) <= room:
        return text
    while text and width(text) + width(mark) > room:
        text = text[:-1]
    return text + mark


def _escaped(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in char.encode(errors="surrogateescape"))
