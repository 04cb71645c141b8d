"""Route `gap` where mounts have no unique ids, before Linux 6.8: the old one detached, the new one attached at once.

There is an instant without a mount, and between the look and the detach another mount could come on top unnoticed.
What can fail is tried beforehand; where attaching fails nevertheless, the old one is attached again.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from errno import ENOENT, ENOTDIR
from stat import S_ISDIR

from mountfd.abi import calls
from mountfd.abi.paths import encode
from mountfd.errors import InvalidSpec, KernelError, MountfdError, from_errno, unsupported
from mountfd.handles.mount import Mount
from mountfd.verbs.query import is_mount, lookup, mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from mountfd.abi.paths import StrPath
    from mountfd.model.info import MountInfo
    from mountfd.verbs.replace.switching import Order, Previous

    Tree: TypeAlias = tuple[Mount, list[tuple[MountInfo, Mount]]]

__all__ = ["replace_by_path"]

_MNT_DETACH = 2
_PRIVATE, _REC = 1 << 18, 16384


def replace_by_path(target: StrPath, made: Mount, previous: type[Previous], order: Order) -> Previous:
    """Replace what stands at a path. Arguments: made, the new mount, detached; previous, the class of what is given."""
    raw = os.path.realpath(encode(target, "target"))
    name = os.fsdecode(raw)
    if not is_mount(raw):
        raise InvalidSpec(f"{name!r} is no mount, so there is nothing to replace", part="target")
    if raw == b"/":
        raise InvalidSpec(f"{name!r} is the root of this process: that one stays", part="target")
    if order.check_after is not None:
        raise unsupported("STATMOUNT", "a check afterwards, which may put back what stood before, takes Linux 6.8")
    own, rows = lookup(name), mounts(under=name)
    below = _below(name, own, list(rows), order)
    if order.check is not None and not order.check(made):
        raise MountfdError(f"the check refused the new mount: {name!r} stays as it was")
    _need_places(name, made, below)
    with ExitStack() as held:
        bearing = {row.parent_id_old for row in rows}
        carried, spare = ([(row, held.enter_context(_clone(row, bearing))) for row in below] for _ in range(2))
        before = previous(Mount.clone(raw, recursive=order.submounts == "drop").release())
        try:
            before.point, before.carried, before.gap = name, len(below), True
            if order.submounts == "drop":
                before.set(propagation=_PRIVATE, recursive=True)  # a peer would lose what goes from the old one
            if not _is_parent_shared(own):
                calls.mount(None, raw, None, _REC | _PRIVATE, None)  # or what stands on peers of it would go, too
            _switch(raw, (made, carried), (before, spare))
        except BaseException:
            before.close()
            raise
    return before


def _below(name: str, own: MountInfo, rows: list[MountInfo], order: Order) -> list[MountInfo]:
    """Give what stands directly on the old mount."""
    below = [row for row in rows if row.parent_id_old == own.id_old and row.point not in (None, name)]
    points = sorted(row.point or "" for row in below)
    if points and order.submounts == "refuse":
        raise InvalidSpec(f"mounts stand below {name!r}: {', '.join(points)}", part="submounts")
    if order.submounts == "drop":
        return []
    if any(row.point == other.point for row in rows for other in below if row is not other):
        raise InvalidSpec(f"several mounts are stacked below {name!r}: this kernel can't carry those", part="submounts")
    return sorted(below, key=lambda row: row.point or "")


def _need_places(name: str, made: Mount, below: list[MountInfo]) -> None:
    """Raise Missing or NotDirectory where the new mount has no place for one that is to come along."""
    for row in below:
        within = os.path.relpath(row.point or name, name)
        try:
            kind = os.stat(os.fsencode(within), dir_fd=made.fileno(), follow_symlinks=False).st_mode
            wanted = os.stat(os.fsencode(row.point or name), follow_symlinks=False).st_mode
            errno = 0 if S_ISDIR(kind) == S_ISDIR(wanted) else ENOTDIR
        except OSError as error:
            errno = error.errno or ENOENT
        if errno:
            hint = f"the new mount has no {within!r} of the right kind for the mount that stands there"
            raise from_errno(errno, "move_mount", filename=within, hint=hint)


def _clone(row: MountInfo, bearing: set[int | None]) -> Mount:
    clone = Mount.clone(row.point or "", recursive=True)
    if row.id_old in bearing:
        try:
            clone.set(propagation=_PRIVATE, recursive=True)  # a peer of the old one would lose what goes from that
        except BaseException:
            clone.close()
            raise
    return clone


def _is_parent_shared(own: MountInfo) -> bool:
    return any(row.peer_group for row in mounts() if row.id_old == own.parent_id_old)


def _switch(raw: bytes, new: Tree, old: Tree) -> None:
    """Detach the old tree and attach the new one; where that fails, the old one again."""
    calls.umount2(raw, _MNT_DETACH)
    attached = False
    try:
        _attach(raw, new[0])
        attached = True
        for row, clone in new[1]:
            _attach(os.fsencode(row.point or ""), clone)
    except BaseException as error:
        try:
            if attached:
                calls.umount2(raw, _MNT_DETACH)
            _attach(raw, old[0])
            for row, clone in old[1]:
                _attach(os.fsencode(row.point or ""), clone)
        except KernelError as second:
            error.add_note(f"what stood at {os.fsdecode(raw)!r} before could not be put back whole: {second}")
        raise


def _attach(raw: bytes, mount: Mount) -> None:
    try:
        mount.attach(raw)
    except KernelError:
        mount.attach(raw)  # nothing is there meanwhile: one failure isn't the end
