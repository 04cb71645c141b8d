"""Lines of /proc/PID/mountinfo.

    36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
    (1)(2)(3)   (4)   (5)      (6)      (7)   (8) (9)   (10)         (11)

    (1) id_old   (2) parent_id_old   (3) dev   (4) root   (5) point   (6) attributes of the mount
    (7) optional fields, any number: shared:N master:N propagate_from:N unbindable   (8) separator
    (9) filesystem type, with .subtype   (10) source   (11) options of the filesystem

Space, tab, newline and backslash in a field are octal escapes. A carriage return is not, so lines end at newlines only.
"""

from __future__ import annotations

import gc
import os

from mountfd.abi.flags import Attr, MountFlag, Propagation
from mountfd.errors import InvalidSpec
from mountfd.model.info import MountInfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["lines_of", "parse", "parse_line", "parse_recorded", "points", "unescape"]

_LEFT = frozenset(("id_old", "parent_id_old", "dev", "root", "point"))
_NEVER = ("id", "parent_id", "ns_id", "uid_map", "gid_map")  # what mountinfo doesn't tell
_ATTRS = {
    b"ro": Attr.RDONLY,
    b"nosuid": Attr.NOSUID,
    b"nodev": Attr.NODEV,
    b"noexec": Attr.NOEXEC,
    b"noatime": Attr.NOATIME,
    b"nodiratime": Attr.NODIRATIME,
    b"nosymfollow": Attr.NOSYMFOLLOW,
    b"idmapped": Attr.IDMAP,
}
_SB_FLAGS = {
    b"rw": MountFlag(0),
    b"ro": MountFlag.RDONLY,
    b"sync": MountFlag.SYNCHRONOUS,
    b"dirsync": MountFlag.DIRSYNC,
    b"mand": MountFlag.MANDLOCK,
    b"lazytime": MountFlag.LAZYTIME,
}
_LEFT_FIELDS = 6


def parse_line(line: bytes) -> MountInfo:
    """Make a record of one line, without its newline; it is decoded when a field is looked at."""
    return MountInfo(line, _decode)


def points(lines: Iterable[bytes]) -> Iterator[tuple[bytes, str]]:
    """Give each mount's point and filesystem type, in the table's order."""
    for line in lines:
        info = parse_line(line.rstrip(b"\n"))
        yield os.fsencode(info.point or ""), info.fstype or ""


def lines_of(data: bytes) -> list[bytes]:
    """Split a table into its lines: at newlines alone, since a field may hold any other kind of line break."""
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


def parse(data: bytes) -> list[MountInfo]:
    """Make records of a table as the kernel wrote it just now, in its order."""
    # The collector would look at all records so far again and again while they are made, and find nothing.
    enabled = gc.isenabled()
    gc.disable()
    try:
        return [MountInfo(line, _decode) for line in lines_of(data)]
    finally:
        if enabled:
            gc.enable()


def parse_recorded(data: bytes) -> list[MountInfo]:
    """Make records of a table that was recorded somewhere, decoding all of it. Raises InvalidSpec naming the line."""
    records = []
    for number, line in enumerate(lines_of(data), 1):
        if not line:
            continue
        info = parse_line(line)
        try:
            info.as_dict()
        except (ValueError, IndexError) as error:
            shown = line[:120].decode(errors="replace")
            raise InvalidSpec(f"line {number} is not a line of mountinfo: {shown!r}", part=f"line {number}") from error
        records.append(info)
    return records


def unescape(field: bytes) -> bytes:
    r"""Undo the kernel's octal escapes: `\040` is a space."""
    if b"\\" not in field:
        return field
    head, *rest = field.split(b"\\")
    return head + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest)


def _decode(info: MountInfo, line: bytes, name: str) -> None:
    if name in _LEFT:
        _decode_left(info, line)
    elif name in _NEVER:
        for field in _NEVER:
            setattr(info, field, None)
    else:
        _decode_rest(info, line)


def _decode_left(info: MountInfo, line: bytes) -> None:
    id_old, parent_id_old, dev, root, point, _ = line.split(b" ", 5)
    info.id_old, info.parent_id_old = int(id_old), int(parent_id_old)
    major, minor = dev.split(b":")
    info.dev = int(major), int(minor)
    info.root = _text(root)
    info.point = _text(point)


def _decode_rest(info: MountInfo, line: bytes) -> None:
    # Blanks within a field are escaped, so this separator can't be part of one.
    left, right = line.split(b" - ", 1)
    fstype, source, options = right.split(b" ", 2)
    kind, _, subtype = fstype.decode(errors="surrogateescape").partition(".")
    info.fstype, info.subtype = kind, subtype or None
    info.source = _text(source)
    info.sb_flags, info.options = _sb_options(options)
    attrs, *optional = left.split(b" ")[_LEFT_FIELDS - 1 :]
    info.attrs = _attrs(attrs)
    _decode_optional(info, optional)


def _decode_optional(info: MountInfo, optional: list[bytes]) -> None:
    numbers = {b"shared": 0, b"master": 0, b"propagate_from": 0}
    kind = Propagation(0)
    for word in optional:
        key, colon, number = word.partition(b":")
        if colon and key in numbers:
            numbers[key] = int(number)
        elif word == b"unbindable":
            kind = Propagation.UNBINDABLE
    kind |= Propagation.SHARED if numbers[b"shared"] else Propagation(0)
    kind |= Propagation.SLAVE if numbers[b"master"] else Propagation(0)
    info.propagation = kind or Propagation.PRIVATE
    info.peer_group, info.master = numbers[b"shared"], numbers[b"master"]
    info.propagate_from = numbers[b"propagate_from"]


def _attrs(words: bytes) -> Attr:
    known = words.split(b",")
    attrs = Attr(0)
    for word in known:
        attrs |= _ATTRS.get(word, Attr(0))
    if b"relatime" not in known and b"noatime" not in known:
        attrs |= Attr.STRICTATIME
    return attrs


def _sb_options(options: bytes) -> tuple[MountFlag, str]:
    """Part the filesystem's own options from the flag words that the kernel puts in front of them."""
    flags, words = MountFlag(0), options.split(b",")
    while words and words[0] in _SB_FLAGS:
        flags |= _SB_FLAGS[words.pop(0)]
    return flags, unescape(b",".join(words)).decode(errors="surrogateescape")


def _text(field: bytes) -> str:
    return os.fsdecode(unescape(field) if b"\\" in field else field)
