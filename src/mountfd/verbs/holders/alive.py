"""Who keeps a filesystem alive without keeping the mount busy: its other mounts, and overlays that stand on it."""

from __future__ import annotations

import os

from mountfd.abi import calls
from mountfd.errors import KernelError
from mountfd.model.holder import Holder
from mountfd.verbs.holders.landscape import key, parent_key
from mountfd.verbs.holders.processes import facts
from mountfd.verbs.query.place import FOLLOW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountfd.model.info import MountInfo
    from mountfd.verbs.holders.landscape import Landscape
    from mountfd.verbs.holders.processes import Lens

__all__ = ["copies", "overlays"]

_APPENDED = ("lowerdir+", "datadir+", "upperdir", "workdir")


def copies(land: Landscape, pids: list[int]) -> Iterator[Holder]:
    """Give the other mounts of the filesystem; of another namespace with somebody who lives in it."""
    inhabitants: dict[int, int] | None = None
    for row in land.of_same_filesystem():
        number = key(row)
        if number in land.along or (land.is_standing and parent_key(row) == land.number):
            continue  # it goes along, or is told as what stands on it
        space, pid = land.ns_of(number), None
        if space is not None:
            inhabitants = _inhabitants(pids) if inhabitants is None else inhabitants
            pid = inhabitants.get(land.inodes.get(space, 0))
        command, uid = (None, None) if pid is None else facts(pid)
        yield Holder(
            "copy",
            blocks=False,
            pid=pid,
            command=command,
            uid=uid,
            mount_id=number,
            ns_id=space,
            point=row.point,
        )


def _inhabitants(pids: list[int]) -> dict[int, int]:
    """Give a process for each mount namespace, by the inode number of its file: the oldest."""
    found: dict[int, int] = {}
    for pid in pids:
        try:
            found.setdefault(os.stat(f"/proc/{pid}/ns/mnt").st_ino, pid)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended; or the scan of processes names it as one that can't be looked into
    return found


def overlays(land: Landscape, lens: Lens) -> Iterator[Holder]:
    """Give the overlays of this namespace whose options name a layer that leads to the filesystem.

    Layers that were given by descriptor have no name there that leads to them.
    """
    for number, row in land.rows.items():
        if row.fstype != "overlay" or land.ns_of(number) is not None:
            continue
        layer = next((path for path in _layers(row) if _is_on(land, lens, path)), None)
        if layer is not None:
            yield Holder("overlay", blocks=False, path=layer, mount_id=number, point=row.point)


def _is_on(land: Landscape, lens: Lens, path: str) -> bool:
    try:
        if not path.startswith("/") or not lens.look(os.fsencode(path), FOLLOW):
            return False
    except KernelError as error:
        calls.remark(f"holders: {error}")  # a place on the way that we may not walk through
        return False
    row = land.rows.get(lens.mount_id)
    return land.target.dev is not None and (lens.dev if row is None else row.dev) == land.target.dev


def _layers(row: MountInfo) -> Iterator[str]:
    for option in (row.options or "").split(","):
        name, _, value = option.partition("=")
        if name in _APPENDED:
            yield value
        elif name == "lowerdir":
            # A backslash protects a colon, and itself.
            parts = value.replace("\\\\", "\0").replace("\\:", "\1").split(":")
            yield from (part.replace("\0", "\\").replace("\1", ":") for part in parts if part)
