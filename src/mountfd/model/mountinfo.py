r"""Lines of /proc/PID/mountinfo.

    36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
    (1)(2)(3)   (4)   (5)      (6)      (7)   (8) (9)   (10)         (11)

    (1) id_old   (2) parent_id_old   (3) dev   (4) root   (5) point   (6) attributes of the mount
    (7) optional fields, any number: shared:N master:N propagate_from:N unbindable   (8) separator
    (9) filesystem type, with .subtype   (10) source   (11) options of the filesystem

Space, tab, newline and backslash in a field are octal escapes (`\040`). A carriage return is not, so lines end at
newlines only. Names are whatever bytes somebody chose; they become text as Python's paths do, with surrogateescape.
"""

from __future__ import annotations

import gc
import os
from functools import lru_cache

from mountfd.abi.flags import Attr, MountFlag, Propagation
from mountfd.errors import InvalidSpec
from mountfd.model.info import MountInfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["NAMES", "parse", "parse_line", "parse_names", "parse_recorded", "points", "unescape"]

NAMES = frozenset(("point", "fstype", "subtype", "source"))  # what /proc/PID/mounts tells, a quarter cheaper

_LEFT = frozenset(("id_old", "parent_id_old", "dev", "root"))
_RIGHT = frozenset(("subtype", "source", "sb_flags", "options"))
_MIDDLE = frozenset(("attrs", "propagation", "peer_group", "master", "propagate_from"))
_ATTRS = {
    "ro": Attr.RDONLY,
    "nosuid": Attr.NOSUID,
    "nodev": Attr.NODEV,
    "noexec": Attr.NOEXEC,
    "noatime": Attr.NOATIME,
    "nodiratime": Attr.NODIRATIME,
    "nosymfollow": Attr.NOSYMFOLLOW,
    "idmapped": Attr.IDMAP,
}
# What the kernel writes in front of the filesystem's own options, in its order; `mand` until Linux 5.14.
_SB_FLAGS = {
    "sync": MountFlag.SYNCHRONOUS,
    "dirsync": MountFlag.DIRSYNC,
    "mand": MountFlag.MANDLOCK,
    "lazytime": MountFlag.LAZYTIME,
}
_POINT, _OPTIONAL = 4, 6
_ESCAPE = 3


def parse_line(line: bytes) -> MountInfo:
    """Make a record of one line, without its newline. Raises InvalidSpec."""
    return parse(line)[0]


def points(lines: Iterable[bytes]) -> Iterator[tuple[bytes, str]]:
    """Give each mount's point and filesystem type, in the table's order."""
    for line in lines:
        info = parse_line(line)
        yield os.fsencode(info.point or ""), info.fstype or ""


def parse(data: bytes) -> list[MountInfo]:
    """Make records of a table, in its order. Raises InvalidSpec that names the line that isn't one.

    Point and type are decoded now, since hardly anybody asks for less, and the rest of a line when it is looked at.
    """
    return _without_collector(_records, data)


def parse_names(data: bytes) -> list[MountInfo]:
    """Make records of /proc/PID/mounts, in its order: the same mounts as in mountinfo, told NAMES alone."""
    return _without_collector(_named_records, data)


def parse_recorded(data: bytes) -> list[MountInfo]:
    """Make records of a table that was recorded somewhere. Raises InvalidSpec that names the line that isn't one."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise InvalidSpec(f"a recorded table is bytes, not {type(data).__name__}", part="data")
    records = parse(bytes(data))
    for info in records:
        line: str = info._raw  # noqa: SLF001 (a record of this module's making)
        try:
            _check(info, line.split(" "))
        except ValueError as error:
            raise _broken(line, os.fsdecode(data).split("\n")) from error
    return records


def unescape(field: bytes) -> bytes:
    r"""Undo the kernel's octal escapes: `\040` is a space. A backslash before anything else is one."""
    if b"\\" not in field:
        return field
    head, *rest = field.split(b"\\")
    return head + b"".join(map(_unescape_one, rest))


def _unescape_one(part: bytes) -> bytes:
    digits = part[:_ESCAPE]
    if len(digits) == _ESCAPE and digits[0] in b"0123" and digits.strip(b"01234567") == b"":
        return bytes((int(digits, 8),)) + part[_ESCAPE:]
    return b"\\" + part


# --- records -------------------------------------------------------------------------------------------------------
def _without_collector(make: Callable[[list[str]], list[MountInfo]], data: bytes) -> list[MountInfo]:
    # The collector would look at all records so far again and again while they are made, and find nothing.
    enabled = gc.isenabled()
    gc.disable()
    try:
        # At newlines alone, since a field may hold any other kind of line break.
        return make(os.fsdecode(data).split("\n"))
    finally:
        if enabled:
            gc.enable()


# Each makes one pass without calls of our own for each line: this is most of what a listing costs besides reading.
def _records(lines: list[str]) -> list[MountInfo]:
    records: list[MountInfo] = []
    types: dict[str, str] = {}
    new, before = MountInfo.__new__, None
    for line in lines:
        # Before Linux 7.0 a mount is told twice when its line is longer than what the kernel has room for.
        if line == before or not line:
            continue
        before = line
        try:
            _, _, _, _, point, rest = line.split(" ", _POINT + 1)
            start = rest.index(" - ") + 3
            fstype = rest[start : rest.index(" ", start)]
        except ValueError as error:
            raise _broken(line, lines) from error
        info = new(MountInfo)
        info._raw, info._decode = line, _decode  # noqa: SLF001 (what its __init__ does)
        info.point = point if "\\" not in point else _text(point)
        info.fstype = types.get(fstype) or types.setdefault(fstype, _text(fstype.partition(".")[0]))
        records.append(info)
    return records


def _named_records(lines: list[str]) -> list[MountInfo]:
    records: list[MountInfo] = []
    types: dict[str, str] = {}
    new = MountInfo.__new__
    for line in lines:
        if not line:
            continue
        _, point, fstype, _ = line.split(" ", 3)
        info = new(MountInfo)
        info._raw, info._decode = line, _decode_name  # noqa: SLF001 (what its __init__ does)
        info.point = point if "\\" not in point else _text(point)
        info.fstype = types.get(fstype) or types.setdefault(fstype, _text(fstype.partition(".")[0]))
        records.append(info)
    return records


def _decode_name(info: MountInfo, line: str, name: str) -> None:
    source, _, fstype, _ = line.split(" ", 3)
    told = {"source": _text(source), "subtype": _text(fstype.partition(".")[2]) or None}
    setattr(info, name, told.get(name))


def _broken(line: str, lines: list[str]) -> InvalidSpec:
    part = f"line {lines.index(line) + 1}"
    shown = os.fsencode(line)[:120].decode(errors="replace")
    return InvalidSpec(f"{part} is not a line of mountinfo: {shown!r}", part=part)


def _check(info: MountInfo, words: list[str]) -> None:
    """Decode everything, and refuse what the kernel never writes."""
    info.as_dict()
    numbers = [*words[:2], *words[2].split(":")]
    access = words[words.index("-", _OPTIONAL) + 3].partition(",")[0]
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise ValueError("a number isn't one")
    if not str(info.point).startswith("/") or not info.fstype or not info.root or access not in {"ro", "rw"}:
        raise ValueError("a field isn't what stands there")


# --- decoding ------------------------------------------------------------------------------------------------------
def _decode(info: MountInfo, line: object, name: str) -> None:
    left, _, right = str(line).partition(" - ")
    if name in _LEFT:
        _decode_left(info, left)
    elif name in _RIGHT:
        _decode_right(info, right)
    elif name in _MIDDLE:
        attrs, *optional = left.split(" ")[_POINT + 1 :]
        info.attrs = _attrs(attrs)
        _decode_optional(info, optional)
    else:
        setattr(info, name, None)  # mountinfo doesn't tell it


def _decode_left(info: MountInfo, left: str) -> None:
    id_old, parent_id_old, dev, root, _ = left.split(" ", _POINT)
    info.id_old, info.parent_id_old = int(id_old), int(parent_id_old)
    major, minor = dev.split(":")
    info.dev = int(major), int(minor)
    info.root = _text(root)


def _decode_right(info: MountInfo, right: str) -> None:
    fstype, source, options = right.split(" ", 2)
    info.subtype = _text(fstype.partition(".")[2]) or None
    info.source = _text(source)
    info.sb_flags, info.options = _sb_options(options)


def _decode_optional(info: MountInfo, optional: list[str]) -> None:
    numbers = {"shared": 0, "master": 0, "propagate_from": 0}
    kind = Propagation(0)
    for word in optional:
        key, colon, number = word.partition(":")
        if colon and key in numbers:
            numbers[key] = int(number)
        elif word == "unbindable":
            kind = Propagation.UNBINDABLE
    kind |= Propagation.SHARED if numbers["shared"] else Propagation(0)
    kind |= Propagation.SLAVE if numbers["master"] else Propagation(0)
    info.propagation = kind or Propagation.PRIVATE
    info.peer_group, info.master = numbers["shared"], numbers["master"]
    info.propagate_from = numbers["propagate_from"]


@lru_cache(maxsize=256)
def _attrs(words: str) -> Attr:
    known = words.split(",")
    attrs = Attr(0)
    for word in known:
        attrs |= _ATTRS.get(word, Attr(0))
    if "relatime" not in known and "noatime" not in known:
        attrs |= Attr.STRICTATIME
    return attrs


def _sb_options(text: str) -> tuple[MountFlag, str]:
    """Part the filesystem's own options from the flag words that the kernel puts in front of them."""
    access, _, rest = text.partition(",")
    if access not in {"ro", "rw"}:
        return MountFlag(0), _text(text)
    flags = MountFlag.RDONLY if access == "ro" else MountFlag(0)
    for word, flag in _SB_FLAGS.items():
        first, _, following = rest.partition(",")
        if first == word:
            flags, rest = flags | flag, following
    return flags, _text(rest)


def _text(field: str) -> str:
    return os.fsdecode(unescape(os.fsencode(field))) if "\\" in field else field
