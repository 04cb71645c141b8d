"""Words for what passes the door: each call with the names of its flags instead of their numbers.

`trace(print)` shows every call of this process until the returned object is closed.
"""

from __future__ import annotations

import errno as _errno
import os
from enum import IntFlag

from mountfd.abi import calls, flags, layouts, numbers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Self

__all__ = ["Trace", "say", "trace"]


def _named(prefix: str) -> dict[int, str]:
    return {value: name for name, value in vars(numbers).items() if name.startswith(prefix) and isinstance(value, int)}


_AT = {bit: name for bit, name in _named("AT_").items() if bit > 0}
_FSCONFIG = {value: name.removeprefix("FSCONFIG_") for value, name in _named("FSCONFIG_").items() if value <= 8}  # noqa: PLR2004
_IOCTL = _named("NS_") | _named("PIDFD_") | _named("LOOP_")
_OPEN = {
    value: name
    for name, value in vars(os).items()
    if name
    in {"O_WRONLY", "O_RDWR", "O_CREAT", "O_EXCL", "O_TRUNC", "O_DIRECTORY", "O_NOFOLLOW", "O_PATH", "O_CLOEXEC"}
}
_QUOTED = 160


def _words(value: int, names: dict[int, str]) -> str:
    found = {}
    for bits in sorted(names, key=int.bit_count, reverse=True):  # a name for several bits before those of each one
        if bits and value & bits == bits:
            found[bits] = names[bits]
            value &= ~bits
    return "|".join([*(found[bits] for bits in sorted(found)), *([hex(value)] if value else [])]) or "0"


def _flag_words(value: int, kind: str) -> str:
    names = dict(_AT) if kind in {"At", "OpenTree"} else {}
    known = getattr(flags, kind, None)
    if isinstance(known, type) and issubclass(known, IntFlag):
        names |= {member.value: member.name or "" for member in known.__members__.values()}
    return _words(value, _OPEN if kind == "Open" else names)


def _quote(data: bytes) -> str:
    text = repr(os.fsdecode(data[:_QUOTED]))
    return text + "..." if len(data) > _QUOTED else text


def _structure(value: Any) -> str:  # noqa: ANN401 (byref objects have no public type)
    held = getattr(value, "_obj", value)
    if isinstance(held, layouts.MountAttr):
        return (
            f"{{set={_flag_words(held.attr_set, 'Attr')}, clear={_flag_words(held.attr_clr, 'Attr')}, "
            f"propagation={_flag_words(held.propagation, 'Propagation')}, userns_fd={held.userns_fd}}}"
        )
    if isinstance(held, layouts.OpenHow):
        return f"{{flags={_flag_words(held.flags, 'Open')}, resolve={_flag_words(held.resolve, 'Resolve')}}}"
    if isinstance(held, layouts.MntIdReq):
        return f"{{mnt_id={held.mnt_id:#x}, param={held.param:#x}}}"
    if isinstance(value, bytes):
        return _quote(value)
    return "NULL" if value is None else "..."


def _argument(value: Any, kind: str) -> str:  # noqa: ANN401 (whatever the row takes)
    base, _, detail = kind.partition("=")
    if base in {"path", "text"}:
        return "NULL" if value is None else _quote(value)
    if base == "pointer":
        return _structure(value)
    if base == "fd" and value == numbers.AT_FDCWD:
        return "AT_FDCWD"
    if detail == "FsConfig":
        return _FSCONFIG.get(value, str(value))
    if detail == "Ioctl":
        return _IOCTL.get(value, hex(value))
    return _flag_words(value, detail) if detail else str(value)


def say(row: calls.Row, arguments: tuple[Any, ...], result: int, errno: int) -> str:
    """Put one call and its outcome into words."""
    inside = ", ".join(_argument(value, kind) for value, (_, kind) in zip(arguments, row.parameters, strict=False))
    outcome = f"-1 {_errno.errorcode.get(errno, errno)} ({os.strerror(errno)})" if result == -1 else str(result)
    return f"{row.name}({inside}) = {outcome}"


class Trace:
    """A watcher on the door that hands each call, in words, to a function."""

    def __init__(self, write: Callable[[str], object]) -> None:
        """Keep the function that takes one line without its end."""
        self._write = write
        self._before: calls.Watcher | None = None

    def before(self, row: calls.Row, arguments: tuple[Any, ...]) -> int:
        """Let an outer watcher inject; never inject by itself."""
        return self._before.before(row, arguments) if self._before is not None else 0

    def after(self, row: calls.Row, arguments: tuple[Any, ...], result: int, errno: int) -> None:
        """Write the call's line, and let an outer watcher hear as well."""
        if self._before is not None:
            self._before.after(row, arguments, result, errno)
        self._write(say(row, arguments, result, errno))

    def note(self, text: str) -> None:
        """Write a remark between the calls: which route was taken, and why."""
        if self._before is not None:
            self._before.note(text)
        self._write(f"# {text}")

    def close(self) -> None:
        """Take this watcher away again, also from below one that was begun later."""
        if calls.watcher is self:
            calls.watcher = self._before
            return
        above = calls.watcher
        while isinstance(above, Trace):
            below = above._before  # noqa: SLF001 (one of its own kind)
            if below is self:
                above._before = self._before  # noqa: SLF001 (the same)
                return
            above = below

    def __enter__(self) -> Self:
        """Return itself: `with trace(print):` ends with the block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Stop tracing."""
        self.close()


def trace(write: Callable[[str], object] = print) -> Trace:
    """Show every call that passes the door, in words, until the result is closed.

    Arguments: write, a function that takes one line (without a newline).
    Calls of all threads of this process are shown; it serves `mountfd --trace` and debugging.
    """
    made = Trace(write)
    made._before = calls.watcher  # noqa: SLF001 (the constructor's other half)
    calls.watcher = made
    return made
