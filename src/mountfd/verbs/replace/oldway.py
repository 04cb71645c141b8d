"""Route `gap` where mounts have no unique ids, before Linux 6.8: the old one detached, the new one attached at once.

There is an instant without a mount, and between the look and the detach another mount could come on top unnoticed.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from mountfd.abi import calls
from mountfd.abi.paths import encode
from mountfd.errors import InvalidSpec, KernelError, MountfdError, unsupported
from mountfd.handles.mount import Mount
from mountfd.verbs.query import is_mount, lookup, mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.abi.paths import StrPath
    from mountfd.verbs.replace.switching import Order, Previous

__all__ = ["replace_by_path"]

_MNT_DETACH = 2


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
    below = _below(name, order)
    if order.check is not None and not order.check(made):
        raise MountfdError(f"the check refused the new mount: {name!r} stays as it was")
    with ExitStack() as held:
        clones = [(point, held.enter_context(Mount.clone(point, recursive=True))) for point in below]
        before = previous(Mount.clone(raw, recursive=order.submounts == "drop").release())
        try:
            before.carried, before.gap = len(clones), True
            calls.umount2(raw, _MNT_DETACH)
            _attach(raw, made)
            for point, clone in clones:
                clone.attach(point)
        except BaseException:
            before.close()
            raise
    return before


def _below(name: str, order: Order) -> list[str]:
    """Give the places directly below where something stands."""
    own = lookup(name).id_old
    rows = [row for row in mounts(under=name) if row.parent_id_old == own and row.point not in (None, name)]
    points = sorted(row.point or "" for row in rows)
    if points and order.submounts == "refuse":
        raise InvalidSpec(f"mounts stand below {name!r}: {', '.join(points)}", part="submounts")
    if order.submounts == "drop":
        return []
    if len(set(points)) != len(points):
        raise InvalidSpec(f"several mounts are stacked below {name!r}: this kernel can't carry those", part="submounts")
    return points


def _attach(raw: bytes, made: Mount) -> None:
    try:
        made.attach(raw)
    except KernelError:
        made.attach(raw)  # there is nothing else that could be shown
