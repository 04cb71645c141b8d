"""Paths on their way to the kernel: bytes without a NUL, whatever the caller holds them in."""

from __future__ import annotations

import os

from mountfd.errors import InvalidSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    StrPath: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"


def encode(path: StrPath, part: str = "path") -> bytes:
    """Encode a path for the kernel; one that C would cut short at a NUL, or an empty one, is refused."""
    raw = os.fsencode(path)
    if not raw:
        raise InvalidSpec(f"{part} is empty", part=part)
    if b"\0" in raw:
        raise InvalidSpec(f"{part} {os.fsdecode(raw)!r} has a NUL byte in it", part=part)
    return raw
