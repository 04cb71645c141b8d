"""Many mounts: of this namespace, or below a path. Those of other namespaces are elsewhere.py's.

| of | route | cost | what the kernel guarantees |
| --- | --- | --- | --- |
| this namespace | mountinfo | 2.4 us a mount | each line whole; since 6.8 a mount that stays is never left out |
| this namespace, names alone | mounts | 1.8 us a mount | as mountinfo |
| this namespace | listmount | 4 us a mount | ids ascending; a mount that stays is never left out |
| below a mount | listmount | 20 ns a mount of the namespace, 3 us a mount below | the same |
| below a plain directory | mountinfo | as the whole table | as the whole table |

No listing is a snapshot: mounts that come or go meanwhile may be in it or not.
"""

from __future__ import annotations

import os
from errno import EAGAIN, EINVAL, ENOENT, ENOSYS, EPERM

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.paths import encode
from mountfd.abi.routes import forced
from mountfd.errors import InvalidSpec, KernelError, Missing, from_errno
from mountfd.model.info import FIELDS, MountInfo, check_fields
from mountfd.model.mountinfo import NAMES, parse, parse_names
from mountfd.model.table import MountTable
from mountfd.verbs.query.asking import ask, lacks, list_below, mask_of
from mountfd.verbs.query.lookup import complete
from mountfd.verbs.query.oldway import OPEN_PATH, find_old, old_id_of, path_of, read_table
from mountfd.verbs.query.place import HERE, id_of, is_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeAlias

    from mountfd.abi.paths import StrPath
    from mountfd.handles.mountns import MountNamespace

    Namespace: TypeAlias = "MountNamespace | int | StrPath"

__all__ = ["CANNOT", "ask_each", "mounts"]

CANNOT = (ENOSYS, EPERM, EINVAL)  # the kernel or a filter doesn't let one ask
_UNIQUE = frozenset(("id", "parent_id", "ns_id", "uid_map", "gid_map"))  # what mountinfo can't tell
_ROUTES = (None, "listmount", "mountinfo")
_READINGS = 64
_NOT_OURS = "this path lies on a mount of another namespace, or on none any more: name the namespace instead"


def mounts(
    under: StrPath | None = None,
    *,
    namespace: Namespace | None = None,
    fields: Iterable[str] | None = None,
    fstype: str | None = None,
    stable: bool = False,
) -> MountTable:
    """List mounts.

    Arguments: under, only the mounts at this path, covered ones too, and all those that stand below them;
    namespace, of another mount namespace: a MountNamespace, the pid of a process in it, the path of its file, or "all"
    for every one that the caller may see (under, resolved here or else as text, is then looked for there; Missing when
    it is neither a path here nor has mounts there); fields, those of MountInfo that are wanted
    (None: whatever mountinfo tells; unique ids need to be asked for by name, and for a tree some ids must be); fstype,
    only filesystems of this type; stable, also on kernels before 6.8, whose table can leave out a mount while others
    come and go: list by id, or read the table until two readings in a row agree.
    A mount that stands all the time is in the result (before Linux 6.8: with stable=True). No record mixes two mounts.
    Raises: Missing, Denied; Gone for a pid without a process; InvalidSpec for what isn't a namespace; NotSupported.
    Calls: listmount(2) and statmount(2), Linux 6.8, with namespaces 6.11; /proc/thread-self/mountinfo.
    """
    wanted = None if fields is None else check_fields(fields)
    route = forced("mounts")
    if route not in _ROUTES:
        raise InvalidSpec(f"mounts has the routes listmount and mountinfo, not {route!r}", part="MOUNTFD_ROUTE")
    if namespace is None:
        found = _own(wanted, route, stable=stable) if under is None else _under(under, wanted, route)
        table = MountTable(found)
    else:
        from mountfd.verbs.query.elsewhere import elsewhere  # noqa: PLC0415 (imports what only this needs)

        place = None if under is None else _place(under)
        asked = wanted or FIELDS if place is None else tuple({*(wanted or FIELDS), "point"})
        table = MountTable(elsewhere(namespace, asked, route))
        table = table if place is None else _under_elsewhere(table, *place)
    return table if fstype is None else MountTable(table.by_fstype(fstype))


def ask_each(
    ids: list[int], fields: tuple[str, ...], *, ns_id: int = 0, read: Callable[[], bytes] = read_table
) -> list[MountInfo]:
    """Ask about each mount of a listing; those that went meanwhile are left out, and those out of the caller's reach.

    Arguments: ids; fields; ns_id, of their namespace; read, gives its table, for what an older kernel's answers lack.
    """
    mask, found = mask_of(fields), []
    denied: KernelError | None = None
    for number in ids:
        try:
            found.append(ask(number, mask, ns_id=ns_id))
        except KernelError as error:
            if error.errno == EPERM:
                denied = error
            elif error.errno != ENOENT:
                raise
    if denied is not None and not found:
        raise denied  # none of them: it is the call that is forbidden
    if not any(map(lacks, found)):
        return found
    rows = {row.id_old: row for row in parse(read())}
    still = ask_each([info.id or 0 for info in found], ("id",), ns_id=ns_id)
    there = {info.id for info in still}  # whose old ids weren't reused before the table was read
    return [complete(info, rows[info.id_old], fields) for info in found if info.id in there and info.id_old in rows]


# --- this namespace ------------------------------------------------------------------------------------------------
def _own(fields: tuple[str, ...] | None, route: str | None, *, stable: bool) -> list[MountInfo]:
    by_ids = stable or not _UNIQUE.isdisjoint(fields or ())
    if route == "listmount" or (by_ids and route is None):
        try:
            return ask_each(list_below(n.LSMT_ROOT), fields or FIELDS)
        except KernelError as error:
            if error.errno not in CANNOT or route:
                raise
    try:
        if fields and not stable and NAMES.issuperset(fields):
            return parse_names(read_table(path=b"/proc/thread-self/mounts"))
        return parse(_settled() if stable else read_table())
    except Missing:
        if route:
            raise
        return ask_each(list_below(n.LSMT_ROOT), fields or FIELDS)  # no /proc here


def _settled() -> bytes:
    data = read_table()
    for _ in range(_READINGS):
        again = read_table()
        if again == data:
            return data
        data = again
    raise KernelError(EAGAIN, "read", hint=f"the mount table didn't keep still for two of {_READINGS} readings")


# --- below a path --------------------------------------------------------------------------------------------------
def _under(path: StrPath, fields: tuple[str, ...] | None, route: str | None) -> list[MountInfo]:
    fd = calls.openat(n.AT_FDCWD, encode(path), OPEN_PATH, 0)
    try:
        number, root = id_of(fd, b"", HERE), bool(is_root(fd, b"", HERE))
        by_ids = route == "listmount" or root or not _UNIQUE.isdisjoint(fields or ())
        if number and by_ids and route != "mountinfo":
            try:
                return _under_by_ids(fd, number, fields or FIELDS, root=root)
            except KernelError as error:
                if error.errno not in CANNOT or route:
                    raise
        return _under_by_table(fd)
    except Missing as error:
        error.explain(hint=_NOT_OURS, filename=os.fsdecode(path))
        raise
    finally:
        os.close(fd)


def _under_by_ids(fd: int, number: int, fields: tuple[str, ...], *, root: bool) -> list[MountInfo]:
    if root:
        stack = _stack_by_ids(number)
        return ask_each([*stack, *(each for each in list_below(stack[-1]) if each not in stack)], fields)
    # The kernel lists the mounts below a mount, not below a directory.
    place = MountTable(ask_each(list_below(number), ("id", "point"))).below(path_of(fd))
    return ask_each([info.id or 0 for info in place], fields)


def _stack_by_ids(number: int) -> list[int]:
    """Give a mount and those that it covers, down to the lowest that stands at the same path."""
    mask, stack = mask_of(("point",)), [number]
    try:
        top = ask(number, mask)
        while top.point and (parent := top.parent_id) and parent not in stack:
            below = ask(parent, mask)
            if below.point != top.point:
                break
            stack.append(parent)
            top = below
    except KernelError as error:
        if error.errno not in {*CANNOT, ENOENT}:  # out of reach: the lowest that can be seen
            raise
    return stack


def _under_by_table(fd: int) -> list[MountInfo]:
    rows, id_old, path = parse(read_table()), old_id_of(fd), path_of(fd)
    top = find_old(rows, id_old)
    if top is None and id_old != _id_of_root():
        raise Missing(ENOENT, "mountinfo")
    return _standing(MountTable(rows), path, top, id_old)


def _standing(table: MountTable, path: str, top: MountInfo | None, number: int | None) -> list[MountInfo]:
    """Choose what stands at a path and below it.

    Arguments: table; path; top, the mount that the path lies on, and number, its id (top may be missing in the table).
    Other mounts with such points may be hidden, together with what they stand on.
    """
    stack = [top] if top is not None and top.point == path else []
    while stack and (parent := table.parent(stack[-1])) is not None and parent.point == path:
        if any(parent is one for one in stack):
            break
        stack.append(parent)
    children: dict[int | None, list[int | None]] = {}
    for row in table.below(path):
        children.setdefault(_ids(row)[1], []).append(_ids(row)[0])
    begun = {number, *(_ids(row)[0] for row in stack)}
    kept, waiting = set(begun), [*begun]
    while waiting:
        below = [each for each in children.get(waiting.pop(), ()) if each not in kept]
        kept.update(below)
        waiting += below
    kept -= begun
    return stack + [row for row in table if _ids(row)[0] in kept]


def _ids(info: MountInfo) -> tuple[int | None, int | None]:
    """Give the ids of a mount and its parent: unique, or where the listing has none, old."""
    return (info.id_old, info.parent_id_old) if info.id is None else (info.id, info.parent_id)


def _id_of_root() -> int:
    fd = calls.openat(n.AT_FDCWD, b"/", OPEN_PATH, 0)
    try:
        return old_id_of(fd)
    finally:
        os.close(fd)


# --- below a path of another namespace -----------------------------------------------------------------------------
def _under_elsewhere(table: MountTable, path: str, missing: KernelError | None) -> MountTable:
    """Choose what stands at a path and below it in each namespace of a table; raise `missing` where nothing does."""
    found: list[MountInfo] = []
    for number in dict.fromkeys(info.ns_id for info in table):
        one = MountTable([info for info in table if info.ns_id == number])
        top = one.visible(path)
        found += one.below(path) if top is None else _standing(one, path, top, _ids(top)[0])
    if missing is not None and not found:
        raise missing
    return MountTable(found)


def _place(path: StrPath) -> tuple[str, KernelError | None]:
    """Resolve a path here; where that can't be done, only make it absolute, and give the reason."""
    text = os.fsdecode(encode(path, "under"))
    missing: KernelError | None = None
    try:
        place = os.path.realpath(text, strict=True)
    except OSError as error:
        missing = from_errno(error.errno or ENOENT, "stat", (text,), filename=text)
        try:
            place = os.path.abspath(text)
        except OSError:
            raise missing from None  # the current directory is gone
    return "/" + place.strip("/"), missing
