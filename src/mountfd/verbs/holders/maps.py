r"""Files that a process has mapped, also when it has closed them since.

    7fb2c8280000-7fb2c8281000 rw-s 00000000 00:27 2   /srv/lib\012x      /proc/PID/maps: filesystem, inode, path
    7fb2c8280000-7fb2c8281000 -> /srv/lib...                             /proc/PID/map_files: links that tell the mount

map_files takes CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE. Without, the path has to lead to that file to know its mount.
"""

from __future__ import annotations

import os

from mountfd.abi import calls
from mountfd.errors import KernelError
from mountfd.verbs.query.place import NOFOLLOW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.verbs.holders.processes import Process

__all__ = ["examine"]

_FIELDS = 6


def examine(process: Process) -> None:
    """Look at the mapped files of the filesystems in question, each once, the program itself apart."""
    wanted = {b"%02x:%02x" % dev for dev in {*process.land.devs, *_dev_of(process)}}
    data = _read(process.at + b"maps")
    if wanted and not any(b" " + dev + b" " in data for dev in wanted):
        return
    seen: set[tuple[bytes, bytes, bytes]] = set()
    for line in data.split(b"\n"):
        fields = line.split(None, _FIELDS - 1)
        if len(fields) < _FIELDS or fields[4] == b"0" or (wanted and fields[3] not in wanted):
            continue
        segment, _, _, dev, inode, path = fields
        if (dev, inode, path) not in seen:
            seen.add((dev, inode, path))
            _look(process, segment, dev, inode, path.replace(b"\\012", b"\n"))


def _look(process: Process, segment: bytes, dev: bytes, inode: bytes, path: bytes) -> None:
    start, _, end = segment.partition(b"-")
    link = process.at + b"map_files/" + (start.lstrip(b"0") or b"0") + b"-" + end.lstrip(b"0")
    shown = os.fsdecode(path)
    if process.has_noted("exe", shown):
        return
    try:
        if process.lens.look(link):
            process.weigh("map", link)
    except PermissionError:
        land = process.land
        major, _, minor = dev.partition(b":")
        filesystem = int(major, 16), int(minor, 16)
        resolved = _resolved(process, path, filesystem, int(inode))
        verdict = land.verdict(filesystem, shown, resolved)
        if verdict is not False or (not resolved and filesystem == land.target.dev):
            process.note("map", link, verdict, resolved or None, path=shown)


def _resolved(process: Process, path: bytes, dev: tuple[int, int], inode: int) -> int:
    """Give the mount that a path leads to from here; 0 when that isn't the file meant."""
    lens = process.lens
    try:
        if not lens.look(path, NOFOLLOW) or lens.inode != inode:
            return 0
    except KernelError as error:
        calls.remark(f"holders: {error}")  # on the way to it is a place that we may not walk through
        return 0
    row = process.land.rows.get(lens.mount_id)
    return lens.mount_id if row is not None and row.dev == dev else 0


def _dev_of(process: Process) -> tuple[tuple[int, int], ...]:
    dev = process.land.target.dev
    return () if dev is None else (dev,)


def _read(path: bytes) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return bytes(file.readall())
    except (FileNotFoundError, ProcessLookupError):
        return b""
