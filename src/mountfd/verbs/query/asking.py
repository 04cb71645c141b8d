"""One statmount(2) call and the decoding of its answer; one listmount(2) walk."""

from __future__ import annotations

import os
import sys
from errno import EOVERFLOW
from functools import lru_cache
from struct import Struct

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.flags import Attr, MountFlag, Propagation
from mountfd.abi.layouts import MntIdReq, StatMountBuffer
from mountfd.errors import KernelError, Missing
from mountfd.model.idmap import Extent
from mountfd.model.info import FIELDS, MountInfo
from mountfd.model.mountinfo import unescape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["EVERYTHING", "ask", "basics", "lacks", "list_below", "mask_of", "stands"]

# What statmount(2) must be asked for so that a field of MountInfo can be told: STATMOUNT_* of abi/flags.py.
_BITS = {
    "id": 0x2,
    "parent_id": 0x2,
    "id_old": 0x2,
    "parent_id_old": 0x2,
    "ns_id": 0x40,
    "dev": 0x1,
    "fstype": 0x20,
    "subtype": 0x100,
    "source": 0x200,
    "root": 0x8,
    "point": 0x10,
    "attrs": 0x2,
    "sb_flags": 0x1,
    "propagation": 0x2,
    "peer_group": 0x2,
    "master": 0x2,
    "propagate_from": 0x4,
    "options": 0x80,
    "uid_map": 0x2000,
    "gid_map": 0x4000,
}
_SUPPORTED = 0x1000
EVERYTHING = _SUPPORTED
for _bit in _BITS.values():
    EVERYTHING |= _bit
# What statmount(2) leaves out when it is empty; where the kernel doesn't say what it knows, that is no answer.
_EMPTY: dict[str, object] = {"source": "", "options": "", "uid_map": (), "gid_map": ()}
_LEARNED_LATE = _BITS["source"] | _BITS["options"] | _BITS["subtype"]  # 6.13, 6.11, 6.13

_STRINGS = 512  # where they begin: offsets in the fixed part count from here
_FIRST_BUFFER = 4096
_LAST_BUFFER = 1 << 24
_KEPT_BUFFER = 1 << 16
_IDS = 8192
_U32, _U64, _DEV = Struct("=I"), Struct("=Q"), Struct("=2I")
_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()  # os.fsdecode, without its checks
_BASIC = Struct("=Q2I4Q")
_HEAD = Struct("=IIQ")  # size of the answer, where the options are, STATMOUNT_* bits that it holds


class _Desk:
    """A request and a buffer; taken by one call at a time, also where a signal handler asks in between."""

    __slots__ = ("buffer", "pointer", "request", "size")

    def __init__(self) -> None:
        """Begin with room for most answers; EOVERFLOW makes it larger."""
        self.request = MntIdReq(n.MNT_ID_REQ_SIZE_VER0)
        self.pointer = calls.reference(self.request)
        self.grow(_FIRST_BUFFER)

    def grow(self, size: int) -> None:
        """Make room for size bytes."""
        self.size = size
        self.buffer = calls.bytes_buffer(size)


_free: list[_Desk] = []


def mask_of(fields: tuple[str, ...]) -> int:
    """Give the bits to ask for so that these fields can be told, and always the ids."""
    if fields is FIELDS:
        return EVERYTHING
    mask = _BITS["id"] | _SUPPORTED
    for name in fields:
        mask |= _BITS[name]
    return mask


def ask(mnt_id: int, mask: int, *, ns_id: int = 0, fd: int = -1) -> MountInfo:
    """Ask the kernel about one mount.

    Arguments: mnt_id, a unique id; mask, from mask_of; ns_id, of the mount's namespace (0: the caller's own);
    fd, of the mount itself instead of an id (Linux 7.0).
    Raises: Missing when there is no such mount there, Denied when it is out of the caller's reach, NotSupported.
    Call: statmount(2), Linux 6.8.
    """
    try:
        desk = _free.pop()
    except IndexError:
        desk = _Desk()
    pointer, flags = desk.pointer, 0
    if ns_id or fd >= 0:
        size = n.MNT_ID_REQ_SIZE_VER1 if ns_id else n.MNT_ID_REQ_SIZE_VER0
        flags = 1 if fd >= 0 else 0
        pointer = calls.reference(MntIdReq(size, max(fd, 0), mnt_id, mask, ns_id))
    else:
        desk.request.mnt_id, desk.request.param = mnt_id, mask
    try:
        while True:
            try:
                calls.statmount(pointer, desk.buffer, desk.size, flags)
            except KernelError as error:
                if error.errno != EOVERFLOW or desk.size >= _LAST_BUFFER:
                    raise
                desk.grow(desk.size * 4)
            else:
                size, _, held = _HEAD.unpack_from(desk.buffer)
                return MountInfo((desk.buffer[:size], mask), _decode if held & _SUPPORTED else _decode_early)
    finally:
        if desk.size <= _KEPT_BUFFER:
            _free.append(desk)


def stands(mnt_id: int) -> bool:
    """Say whether the mount with a unique id stands in this mount namespace."""
    try:
        ask(mnt_id, _BITS["id"])
    except Missing:
        return False
    return True


def basics(info: MountInfo) -> tuple[int, int, int, int, int]:
    """Give the parent's id, attributes, propagation, peer group and master of a mount asked about, as bare numbers.

    All at once, for one who wants them soon: field by field, and as members of enums, they take ten times as long.
    """
    raw = info._raw[0]  # noqa: SLF001 (a record of this module's making)
    parent, _, _, attrs, propagation, group, master = _BASIC.unpack_from(raw, _AT["mnt_parent_id"])
    return parent, attrs, propagation, group, master


def lacks(info: MountInfo) -> bool:
    """Say whether an answer may lack what mountinfo tells: Linux 6.8 to 6.14 knew fewer fields, and don't say which."""
    if info._decode is _decode:  # noqa: SLF001 (a record of this module's making)
        return False
    answer, asked = info._raw  # noqa: SLF001
    return bool(asked & ~_HEAD.unpack_from(answer)[2] & _LEARNED_LATE)


def list_below(mnt_id: int, *, ns_id: int = 0) -> list[int]:
    """List the unique ids of all mounts below one, not itself; of a whole namespace for LSMT_ROOT.

    Arguments: mnt_id; ns_id, of the namespace (0: the caller's own).
    A mount that stands all the time is in the list; one that comes or goes meanwhile may be.
    Call: listmount(2), Linux 6.8; in another namespace, Linux 6.11.
    """
    size = n.MNT_ID_REQ_SIZE_VER1 if ns_id else n.MNT_ID_REQ_SIZE_VER0
    request = MntIdReq(size, 0, mnt_id, 0, ns_id)
    pointer = calls.reference(request)
    found: list[int] = []
    while True:
        part = calls.list_ids(pointer, _IDS)
        found += part
        if len(part) < _IDS:
            return found
        request.param = part[-1]


# --- decoding ------------------------------------------------------------------------------------------------------
def _decode(info: MountInfo, raw: tuple[bytes, int], name: str) -> None:
    answer, asked = raw
    held, bit = _HEAD.unpack_from(answer)[2], _BITS[name]
    if held & bit:
        value = _READERS[name](answer)
    else:
        # Not asked for, or it can't be told, or there is none.
        known = asked & bit and _U64.unpack_from(answer, _AT["supported_mask"])[0] & bit
        value = _EMPTY.get(name) if known else None
    setattr(info, name, value)


def _decode_early(info: MountInfo, raw: tuple[bytes, int], name: str) -> None:
    answer = raw[0]
    value = _READERS[name](answer) if _HEAD.unpack_from(answer)[2] & _BITS[name] else None
    # Linux 6.12 gives an empty point to a mount above the caller's chroot.
    setattr(info, name, None if name == "point" and not value else value)


_AT: dict[str, int] = {name: getattr(StatMountBuffer, name).offset for name, *_ in StatMountBuffer._fields_}


def _number(field: str, kind: Struct) -> Callable[[bytes], int]:
    at, unpack = _AT[field], kind.unpack_from
    return lambda raw: unpack(raw, at)[0]


def _flags(field: str, kind: Struct, flags: Callable[[int], Any]) -> Callable[[bytes], Any]:
    # To make a member of an enum takes longer than all the rest; few different ones are met.
    at, unpack, member = _AT[field], kind.unpack_from, lru_cache(maxsize=64)(flags)
    return lambda raw: member(unpack(raw, at)[0])


def _text(field: str) -> Callable[[bytes], str]:
    at, unpack = _AT[field], _U32.unpack_from

    def read(raw: bytes) -> str:
        start = _STRINGS + unpack(raw, at)[0]
        return str(raw[start : raw.index(0, start)], _ENCODING, _ERRORS)

    return read


def _options(raw: bytes) -> str:
    # The only string that keeps mountinfo's escapes.
    start = _STRINGS + _U32.unpack_from(raw, _AT["mnt_opts"])[0]
    return os.fsdecode(unescape(raw[start : raw.index(0, start)]))


def _propagate_from(raw: bytes) -> int:
    # mountinfo leaves out a group that is the master itself; so that both tell the same, this does too.
    group = int(_U64.unpack_from(raw, _AT["propagate_from"])[0])
    return 0 if group == _U64.unpack_from(raw, _AT["mnt_master"])[0] else group


def _id_map(count: str, field: str) -> Callable[[bytes], tuple[Extent, ...]]:
    def read(raw: bytes) -> tuple[Extent, ...]:
        number = _U32.unpack_from(raw, _AT[count])[0]
        start = _STRINGS + _U32.unpack_from(raw, _AT[field])[0]
        lines = raw[start:].split(b"\0", number)[:number]
        return tuple(Extent(*map(int, line.split())) for line in lines)

    return read


_READERS: dict[str, Callable[[bytes], Any]] = {
    "id": _number("mnt_id", _U64),
    "parent_id": _number("mnt_parent_id", _U64),
    "id_old": _number("mnt_id_old", _U32),
    "parent_id_old": _number("mnt_parent_id_old", _U32),
    "ns_id": _number("mnt_ns_id", _U64),
    "dev": lambda raw: _DEV.unpack_from(raw, _AT["sb_dev_major"]),
    "fstype": _text("fs_type"),
    "subtype": _text("fs_subtype"),
    "source": _text("sb_source"),
    "root": _text("mnt_root"),
    "point": _text("mnt_point"),
    "attrs": _flags("mnt_attr", _U64, Attr),
    "sb_flags": _flags("sb_flags", _U32, MountFlag),
    "propagation": _flags("mnt_propagation", _U64, Propagation),
    "peer_group": _number("mnt_peer_group", _U64),
    "master": _number("mnt_master", _U64),
    "propagate_from": _propagate_from,
    "options": _options,
    "uid_map": _id_map("mnt_uidmap_num", "mnt_uidmap"),
    "gid_map": _id_map("mnt_gidmap_num", "mnt_gidmap"),
}
