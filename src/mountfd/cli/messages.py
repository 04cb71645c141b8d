"""What a person reads on standard error: `mountfd: ...`, then the kernel's words and the hint."""

from __future__ import annotations

import sys

__all__ = ["report", "say", "write"]


def say(text: str) -> None:
    """Write one message."""
    write(f"mountfd: {_one_line(text)}\n")


def report(error: BaseException) -> None:
    """Write an error, and of a group each one."""
    if isinstance(error, BaseExceptionGroup):
        say(str(error))
        for each in error.exceptions:
            report(each)
        return
    say(_sentence(error))
    for note in getattr(error, "__notes__", []):
        write(f"  {_one_line(note)}\n")


def write(text: str) -> None:
    """Write to standard error in any locale; where nobody can read it, nobody can be told that either."""
    stream = sys.stderr
    if stream is None:
        return
    encoding = stream.encoding or "ascii"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except (OSError, ValueError):
        return


def _sentence(error: BaseException) -> str:
    """Say Python's own errors as this library says its: without a number."""
    if isinstance(error, OSError) and error.strerror and not hasattr(error, "syscall"):
        return error.strerror + (f": {error.filename!r}" if error.filename is not None else "")
    return str(error)


def _one_line(text: str) -> str:
    """Keep a message one line: a path may hold newlines, escapes for the terminal, and bytes that aren't UTF-8."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
