"""holders: who keeps a mount busy, and who keeps its filesystem alive.

| asked about | found by |
| --- | --- |
| descriptors, directories, programs, mapped files | statx(2) on the links of /proc/PID: the mount's id |
| mounts on it, other mounts of its filesystem | listmount(2) and statmount(2) of every namespace |
| bound sockets | sock_diag(7): filesystem and inode; then the socket's own file, or their names |
| loop devices, swap files, file-backed erofs | LOOP_GET_STATUS64, /proc/swaps, the table; then their names |
| overlays | the file handles of their roots, and the paths in their options |

A name may mean several mounts; then the holder's `blocks` is None. So it is for an overlay that may have a layer there.
"""

from __future__ import annotations

import os

from mountfd.errors import Gone, InvalidSpec, KernelError, from_errno
from mountfd.model.holder import Holder
from mountfd.model.info import MountInfo, from_fields
from mountfd.verbs.holders.alive import copies
from mountfd.verbs.holders.kernel import kernel_holders
from mountfd.verbs.holders.landscape import FIELDS, Landscape, key, survey
from mountfd.verbs.holders.overlays import overlays
from mountfd.verbs.holders.processes import Lens, pids, scan
from mountfd.verbs.holders.sockets import bound_sockets
from mountfd.verbs.query.lookup import lookup, lookup_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    from mountfd.abi.paths import StrPath

    class HasFileno(Protocol):
        """A handle on a descriptor."""

        def fileno(self) -> int:
            """Give the descriptor's number."""


__all__ = ["examine", "find_target", "holders"]

_PID_NAMESPACE_OF_THE_MACHINE = 0xEFFFFFFC  # the inode number that the kernel gives to no other
_HIDING = ("hidepid=2", "hidepid=invisible", "hidepid=4", "hidepid=ptraceable")


def holders(
    target: StrPath | int | HasFileno | MountInfo | None = None,
    *,
    id: int | None = None,  # noqa: A002 (the word that everybody looks for)
) -> list[Holder]:
    """Say who keeps a mount busy, and who keeps its filesystem alive.

    Arguments: target, a path anywhere on the mount, a descriptor or handle there, or a record of it; or id, the unique
    one, also of a mount that was lazily unmounted.
    Those that make umount(2) fail with EBUSY come first (`blocks` True), then those that don't (False), then those
    that may (None): what can't be looked into is named, never left out. The caller's own descriptors count; who comes
    or goes meanwhile may be in the list or not. What no table of the kernel tells of: a descriptor on its way through a
    socket, registered with io_uring, or of a thread whose own table has the same numbers as its process's. Of an
    overlay whose layers were given by descriptor only the topmost one can be told: what may be below it is None.
    Raises: Missing, NotDirectory, Denied for a path; InvalidSpec.
    Calls: statx(2), Linux 5.8; listmount(2), statmount(2), Linux 6.8; sock_diag(7); pidfd_getfd(2), Linux 5.6, and
    ioctl(2) SIOCUNIXFILE; ioctl(2) LOOP_GET_STATUS64; name_to_handle_at(2) with AT_HANDLE_FID, Linux 6.6.
    """
    return examine(find_target(target, id))


def find_target(target: StrPath | int | HasFileno | MountInfo | None, number: int | None = None) -> MountInfo:
    """Look up what holders is asked about; of an id that no mount here has, the record knows nothing else."""
    if (target is None) == (number is None):
        raise InvalidSpec("holders takes either a target or an id", part="holders")
    if number is not None:
        try:
            return lookup_id(number, FIELDS)
        except Gone:
            return from_fields({"id": number})
    if isinstance(target, MountInfo):
        return target
    if isinstance(target, str | bytes | os.PathLike):
        return lookup(target, fields=FIELDS)
    return lookup(fd=target, fields=FIELDS)


def examine(target: MountInfo) -> list[Holder]:
    """Find the holders of a mount that was looked up."""
    try:
        return _examine(target)
    except OSError as error:
        if isinstance(error, KernelError):
            raise
        # Of a file of /proc or /sys, or there are no more descriptors.
        raise from_errno(error.errno or 0, "open", (error.filename,), filename=error.filename) from error


def _examine(target: MountInfo) -> list[Holder]:
    land = survey(target)
    everybody = pids()
    sockets = bound_sockets(land, everybody)
    lens = Lens(unique=land.unique)
    found = [*_on_it(land), *scan(land, sockets), *sockets.orphans(lens), *kernel_holders(land, lens)]
    found += [*copies(land, everybody), *overlays(land, lens, everybody), *_unseen(land)]
    order = {True: 0, False: 1, None: 2}
    return sorted(dict.fromkeys(found), key=lambda holder: order[holder.blocks])


def _on_it(land: Landscape) -> Iterator[Holder]:
    """Give the mounts that stand on the target. One that stands on a copy of it does not count: it keeps that copy."""
    if land.is_standing:
        for row in land.children(land.number):
            number = key(row)
            yield Holder("mount", blocks=True, mount_id=number, ns_id=land.ns_of(number), point=row.point)


def _unseen(land: Landscape) -> Iterator[Holder]:
    if not land.is_whole:
        yield Holder("namespace", blocks=None)
    if os.stat("/proc/self/ns/pid").st_ino != _PID_NAMESPACE_OF_THE_MACHINE:
        yield Holder("outside", blocks=None)
    proc = lookup("/proc", fields=("options",))
    if os.geteuid() != 0 and any(option in _HIDING for option in (proc.options or "").split(",")):
        yield Holder("hidden", blocks=None)
