"""Overlays that have a layer on a filesystem.

| asked | tells |
| --- | --- |
| the names in an overlay's options | the layers, where these are paths of the caller's |
| name_to_handle_at(2) of its root with AT_HANDLE_FID, Linux 6.6 | the file and filesystem that its topmost layer is |
| FS_IOC_GETFSUUID, Linux 6.9 | which filesystem that is |

A layer that was given by descriptor shows as its path within a mount that stands nowhere, and one that was given by a
relative path as that: such names lead nowhere, or to something else. So do those that another root wrote. Then only the
topmost layer is known; the others may be anywhere, and the holder's `blocks` is None.

    handle of an overlay   000000 00 magic length flags kind uuid     =3xBBBBB16s, then the handle of the layer's file
"""

from __future__ import annotations

import os
from struct import Struct

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.errors import KernelError
from mountfd.handles.fd import OwnedFd
from mountfd.model.holder import Holder
from mountfd.verbs.holders.alive import Inhabitants
from mountfd.verbs.query.place import FOLLOW, HERE, id_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from mountfd.model.info import MountInfo
    from mountfd.verbs.holders.landscape import Landscape
    from mountfd.verbs.holders.processes import Lens

__all__ = ["overlays"]

_APPENDED = ("lowerdir+", "datadir+")
_WRITABLE = ("upperdir", "workdir")
_LARGEST_HANDLE = 128
_HANDLE = Struct("=Ii")
_OF_OVERLAY, _MAGIC = 0xF8, 0xFB
_OVERLAY_HANDLE = Struct("=3xBBBBB16s")
_UUID_SIZE = 17
_NO_UUID = bytes(16)
_READABLE = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC
# Those without a block device that have a UUID all the same. Nobody else is opened for it: a server may be dead.
_WITH_UUID = ("tmpfs", "btrfs", "bcachefs")


def overlays(land: Landscape, lens: Lens, pids: list[int]) -> Iterator[Holder]:
    """Give the overlays that have a layer on the target's filesystem, or may have; of other namespaces once each."""
    found = {number: row for number, row in land.rows.items() if row.fstype == "overlay" and row.dev != land.target.dev}
    told = {row.dev for number, row in found.items() if land.ns_of(number) is None}
    asked, inhabitants = Asked(land), Inhabitants(pids)
    for number, row in found.items():
        space = land.ns_of(number)
        if space is None:
            has, path = _told_here(land, lens, asked, number)
        elif row.dev not in told:
            told.add(row.dev)
            pid = inhabitants.of(land.inodes.get(space, 0))
            top = None if pid is None else _topmost(lens, b"/proc/%d/root" % pid, row)
            has, path = asked.is_on_target(top), None
        else:
            continue
        if has is not False:
            blocks = False if has else None
            yield Holder("overlay", blocks=blocks, path=path, mount_id=number, ns_id=space, point=row.point)


def _told_here(land: Landscape, lens: Lens, asked: Asked, number: int) -> tuple[bool | None, str | None]:
    """Say whether an overlay of this namespace has a layer on the filesystem, and the name that leads there."""
    row = land.rows[number]
    names, top = Names(row), _topmost(lens, b"", row)
    if names.are_paths and _is_same(names.top, top):
        has, path = _by_names(land, lens, names)
        if has is not None:
            return has, path
    return asked.is_on_target(top), None


# --- the names in the options --------------------------------------------------------------------------------------
class Names:
    """The layers that an overlay's options name: `all`; the topmost one, `top`; whether they look like paths."""

    __slots__ = ("all", "are_paths", "top")

    def __init__(self, row: MountInfo) -> None:
        """Read the options."""
        self.are_paths = True
        lower: list[str] = []
        writable: list[str] = []
        for option in (row.options or "").split(","):
            name, _, value = option.partition("=")
            if name in _APPENDED:
                self.are_paths = False
                lower.append(value)
            elif name in _WRITABLE:
                writable.append(value)
            elif name == "lowerdir":
                # A backslash protects a colon, and itself.
                parts = value.replace("\\\\", "\0").replace("\\:", "\1").split(":")
                lower += [part.replace("\0", "\\").replace("\1", ":") for part in parts if part]
        self.all = [*lower, *writable]
        self.top = (writable or lower or [""])[0]
        self.are_paths &= all(path.startswith("/") and not path.startswith("/proc/") for path in self.all)


def _by_names(land: Landscape, lens: Lens, names: Names) -> tuple[bool | None, str | None]:
    """Say whether a name leads to the target's filesystem, and which; None where that can't be told of one."""
    answers = {path: _is_on(land, lens, path) for path in names.all}
    found = next((path for path, answer in answers.items() if answer), None)
    return (True, found) if found is not None else (None if None in answers.values() else False, None)


def _is_on(land: Landscape, lens: Lens, path: str) -> bool | None:
    try:
        if not lens.look(os.fsencode(path), FOLLOW) or land.target.dev is None:
            return None
    except KernelError as error:
        calls.remark(f"holders: {error}")  # a place on the way that we may not walk through
        return None
    row = land.rows.get(lens.mount_id)
    return (lens.dev if row is None else row.dev) == land.target.dev


# --- file handles --------------------------------------------------------------------------------------------------
def _handle(path: bytes) -> tuple[int, bytes] | None:
    """Give the kind and bytes of a file's handle, as far as the kernel tells one."""
    buffer, mount_id = calls.bytes_buffer(_HANDLE.size + _LARGEST_HANDLE), calls.bytes_buffer(8)
    _HANDLE.pack_into(buffer, 0, _LARGEST_HANDLE, 0)
    try:
        calls.name_to_handle_at(n.AT_FDCWD, path, buffer, mount_id, n.AT_HANDLE_FID | n.AT_SYMLINK_FOLLOW)
    except KernelError as error:
        calls.remark(f"holders: {error}: it has no handle")
        return None
    size, kind = _HANDLE.unpack_from(buffer)
    return kind, buffer.raw[_HANDLE.size : _HANDLE.size + size]


def _topmost(lens: Lens, root: bytes, row: MountInfo) -> tuple[bytes, int, bytes] | None:
    """Give the UUID of an overlay's topmost layer, and kind and bytes of its handle; None where it isn't told."""
    point = root + os.fsencode(row.point or "")
    try:
        if not row.id or not lens.look(point, FOLLOW) or lens.mount_id != row.id:
            return None  # it is covered
    except KernelError as error:
        calls.remark(f"holders: {error}")
        return None
    handle = _handle(point)
    if handle is None or handle[0] != _OF_OVERLAY or len(handle[1]) < _OVERLAY_HANDLE.size:
        return None
    _, magic, _, _, kind, uuid = _OVERLAY_HANDLE.unpack_from(handle[1])
    return (uuid, kind, handle[1][_OVERLAY_HANDLE.size :]) if magic == _MAGIC else None


def _is_same(path: str, top: tuple[bytes, int, bytes] | None) -> bool:
    """Say whether a path leads to the topmost layer; it is believed where the kernel doesn't tell."""
    if top is None:
        return True
    handle = _handle(os.fsencode(path))
    return handle is None or handle == top[1:]


# --- UUIDs ---------------------------------------------------------------------------------------------------------
class Asked:
    """Asks for the UUIDs of filesystems, once each and only where an overlay's names don't tell."""

    __slots__ = ("_known", "_land")

    def __init__(self, land: Landscape) -> None:
        """Begin with none."""
        self._land = land
        self._known: dict[tuple[int, int], bytes | None] = {}

    def is_on_target(self, top: tuple[bytes, int, bytes] | None) -> Literal[True] | None:
        """Say of an overlay's topmost layer whether it is on the target's filesystem; None for what isn't known to be.

        Also where it is known to be elsewhere: every overlay has another layer.
        """
        dev = self._land.target.dev
        if top is None or top[0] == _NO_UUID or dev is None:
            return None
        own = self._uuid(dev)
        if own != top[0]:
            return None
        # The copy of an image has the UUID of the image.
        fstype = self._land.target.fstype
        others = {row.dev for row in self._land.rows.values() if row.fstype == fstype and row.dev != dev}
        if fstype != "tmpfs" and any(other and self._uuid(other) in {own, None} for other in others):
            return None
        return True

    def _uuid(self, dev: tuple[int, int]) -> bytes | None:
        if dev not in self._known:
            here = (row for number, row in self._land.rows.items() if self._land.ns_of(number) is None)
            told = (_uuid_at(row) for row in here if row.dev == dev and _may_have_uuid(row))
            self._known[dev] = next((uuid for uuid in told if uuid is not None), None)
        return self._known[dev]


def _may_have_uuid(row: MountInfo) -> bool:
    fstype = row.fstype or ""
    return fstype in _WITH_UUID or (row.dev is not None and row.dev[0] != 0 and not fstype.startswith("fuse"))


def _uuid_at(row: MountInfo) -> bytes | None:
    try:
        with OwnedFd(calls.openat(n.AT_FDCWD, os.fsencode(row.point or ""), _READABLE, 0)) as held:
            if id_of(held.fileno(), b"", HERE) != row.id:
                return None  # it is covered
            answer = calls.bytes_buffer(_UUID_SIZE)
            calls.ioctl(held.fileno(), n.FS_IOC_GETFSUUID, answer)
    except KernelError as error:
        calls.remark(f"holders: {error}: its UUID can't be asked for")
        return None
    return bytes(answer.raw[1:])
