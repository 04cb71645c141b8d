"""Mount points out of /proc/PID/mountinfo, for who needs nothing else of it: without the flags' names, at no cost."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["points"]


def points(lines: Iterable[bytes]) -> Iterator[tuple[bytes, str]]:
    """Give each mount's point and filesystem type, in the table's order."""
    for line in lines:
        fields = line.split(b" ")
        yield _unescaped(fields[4]), fields[fields.index(b"-", 6) + 1].decode(errors="surrogateescape")


def _unescaped(field: bytes) -> bytes:
    if b"\\" not in field:
        return field
    head, *rest = field.split(b"\\")
    return head + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest)
