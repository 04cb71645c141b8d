"""Who keeps a filesystem alive without keeping the mount busy: its other mounts, and who lives around them."""

from __future__ import annotations

import os

from mountfd.model.holder import Holder
from mountfd.verbs.holders.landscape import key, parent_key
from mountfd.verbs.holders.processes import facts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountfd.verbs.holders.landscape import Landscape

__all__ = ["Inhabitants", "copies"]


def copies(land: Landscape, pids: list[int]) -> Iterator[Holder]:
    """Give the other mounts of the filesystem; of another namespace with somebody who lives in it."""
    inhabitants = Inhabitants(pids)
    for row in land.of_same_filesystem():
        number = key(row)
        if number in land.along or (land.is_standing and parent_key(row) == land.number):
            continue  # it goes along, or is told as what stands on it
        space, pid = land.ns_of(number), None
        if space is not None:
            pid = inhabitants.of(land.inodes.get(space, 0))
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


class Inhabitants:
    """A process for each mount namespace: looked for once, and only when somebody asks."""

    __slots__ = ("_found", "_pids")

    def __init__(self, pids: list[int]) -> None:
        """Take the processes to look at."""
        self._pids = pids
        self._found: dict[int, int] | None = None

    def of(self, inode: int) -> int | None:
        """Give the oldest process in a namespace, known by its file's inode number."""
        if self._found is None:
            self._found = _inhabitants(self._pids)
        return self._found.get(inode)


def _inhabitants(pids: list[int]) -> dict[int, int]:
    """Give a process for each mount namespace, by the inode number of its file: the oldest."""
    found: dict[int, int] = {}
    for pid in pids:
        try:
            found.setdefault(os.stat(f"/proc/{pid}/ns/mnt").st_ino, pid)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended; or the scan of processes names it as one that can't be looked into
    return found
