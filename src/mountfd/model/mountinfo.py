"""Lines of /proc/PID/mountinfo.

36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
(1)(2)(3)   (4)   (5)      (6)      (7)   (8) (9)   (10)         (11)

(4) root   (5) point   (7) optional fields, any number   (8) separator   (9) filesystem type   (10) source
Space, tab, newline and backslash in a field are written as octal escapes.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["points", "unescape"]


def unescape(field: bytes) -> bytes:
    r"""Undo the kernel's octal escapes: `\040` is a space."""
    if b"\\" not in field:
        return field
    head, *rest = field.split(b"\\")
    return head + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest)


def points(lines: Iterable[bytes]) -> Iterator[tuple[bytes, str]]:
    """Give each mount's point and filesystem type, in the table's order."""
    for line in lines:
        fields = line.split(b" ")
        yield unescape(fields[4]), fields[fields.index(b"-", 6) + 1].decode(errors="surrogateescape")
