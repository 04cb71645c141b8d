"""Many mounts: of this namespace, below a path, or of another namespace.

| of | route | cost | what the kernel guarantees |
| --- | --- | --- | --- |
| this namespace | mountinfo | 2.4 us a mount | each line whole; since 6.8 a mount that stays is never left out |
| this namespace | listmount | 4 us a mount | ids ascending; a mount that stays is never left out |
| below a path | listmount | 20 ns a mount of the namespace, 3 us a mount below | the same |
| another one | listmount with its id | 4 us a mount | the same |
| another one, older kernel | a thread enters it, mountinfo | 2.4 us a mount | as mountinfo |

No listing is a snapshot: mounts that come or go meanwhile may be in it or not.
"""

from __future__ import annotations

import os
from errno import EINVAL, ENOENT, ENOSYS, EPERM

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.paths import encode
from mountfd.errors import InvalidSpec, KernelError, NotSupported
from mountfd.handles.mountns import MountNamespace
from mountfd.model.info import FIELDS, MountInfo, check_fields
from mountfd.model.mountinfo import parse
from mountfd.model.table import MountTable
from mountfd.verbs.query.asking import ask, list_below, mask_of
from mountfd.verbs.query.lookup import id_of
from mountfd.verbs.query.oldway import read_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeAlias

    from mountfd.abi.paths import StrPath

    Namespace: TypeAlias = "MountNamespace | int | StrPath"

__all__ = ["mounts"]

_UNIQUE = frozenset(("id", "parent_id", "ns_id", "uid_map", "gid_map"))  # what mountinfo can't tell
_CANNOT = (ENOSYS, EPERM, EINVAL)
_STABLE_TRIES = 16


def mounts(
    under: StrPath | None = None,
    *,
    namespace: Namespace | None = None,
    fields: Iterable[str] | None = None,
    fstype: str | None = None,
    stable: bool = False,
) -> MountTable:
    """List mounts.

    Arguments: under, only those at and below this path; namespace, of another mount namespace: a MountNamespace, the
    pid of a process in it, the path of its file, or "all" for every one that the caller may see; fields, those of
    MountInfo that are wanted (None: whatever the cheapest route tells; unique ids need to be asked for by name);
    fstype, only filesystems of this type; stable, read the table until two readings in a row agree, for kernels
    before 6.8 whose table can leave out a mount while others come and go.
    A mount that stands all the time is in the result (before Linux 6.8: with stable=True). Records never mix two mounts.
    Raises: Missing, Denied; Gone for a pid without a process; InvalidSpec for what isn't a namespace; NotSupported.
    Calls: listmount(2) and statmount(2), Linux 6.8, with namespaces 6.11; /proc/self/mountinfo.
    """
    wanted = None if fields is None else check_fields(fields)
    if namespace is None:
        found = _own(wanted, stable=stable) if under is None else _under(under, wanted)
    elif namespace == "all":
        found = _all(wanted or FIELDS)
    else:
        found = _elsewhere(namespace, wanted or FIELDS)
    table = MountTable(found)
    if namespace is not None and under is not None:
        table = table.below(os.fsdecode(encode(under)))
    return table if fstype is None else MountTable(table.by_fstype(fstype))


# --- this namespace ------------------------------------------------------------------------------------------------
def _own(fields: tuple[str, ...] | None, *, stable: bool) -> list[MountInfo]:
    if fields is not None and not _UNIQUE.isdisjoint(fields):
        try:
            return _ask_each(list_below(n.LSMT_ROOT), fields)
        except KernelError as error:
            if error.errno not in _CANNOT:
                raise
    data = read_table()
    for _ in range(_STABLE_TRIES if stable else 0):
        again = read_table()
        if again == data:
            break
        data = again
    return parse(data)


def _under(path: StrPath, fields: tuple[str, ...] | None) -> list[MountInfo]:
    raw = encode(path)
    number = id_of(n.AT_FDCWD, raw, n.AT_STATX_DONT_SYNC | n.AT_NO_AUTOMOUNT)
    top = os.path.realpath(raw)
    if number >= n.FIRST_UNIQUE_ID:
        try:
            whole = ask(number, mask_of(("point",)))
            if os.fsencode(whole.point or "") == top:
                return _ask_each([number, *list_below(number)], fields or FIELDS)
        except KernelError as error:
            if error.errno not in (*_CANNOT, ENOENT):
                raise
    # A plain directory: the kernel lists the mounts below a mount, not below a directory.
    prefix = top.rstrip(b"/") + b"/"
    lines = [info for info in _own(fields, stable=False) if _is_at_or_below(info, top, prefix)]
    return lines


def _is_at_or_below(info: MountInfo, top: bytes, prefix: bytes) -> bool:
    point = os.fsencode(info.point or "")
    return point == top or point.startswith(prefix)


def _ask_each(ids: list[int], fields: tuple[str, ...], *, ns_id: int = 0) -> list[MountInfo]:
    mask, found = mask_of(fields), []
    for number in ids:
        try:
            found.append(ask(number, mask, ns_id=ns_id))
        except KernelError as error:
            if error.errno != ENOENT:  # it went between the listing and the question
                raise
    return found


# --- other namespaces ----------------------------------------------------------------------------------------------
def _elsewhere(namespace: Namespace, fields: tuple[str, ...]) -> list[MountInfo]:
    if isinstance(namespace, MountNamespace):
        return _of_namespace(namespace, fields)
    if isinstance(namespace, bool) or not isinstance(namespace, int | str | bytes | os.PathLike):
        raise InvalidSpec(f"{namespace!r} is not a mount namespace, a pid or a path", part="namespace")
    opened = MountNamespace.of(namespace) if isinstance(namespace, int) else MountNamespace.open(namespace)
    with opened:
        return _of_namespace(opened, fields)


def _of_namespace(namespace: MountNamespace, fields: tuple[str, ...]) -> list[MountInfo]:
    try:
        number = namespace.id
        return _ask_each(list_below(n.LSMT_ROOT, ns_id=number), fields, ns_id=number)
    except NotSupported:
        pass
    except KernelError as error:
        if error.errno not in (*_CANNOT, ENOENT):
            raise
    return parse(_table_inside(namespace))


def _table_inside(namespace: MountNamespace) -> bytes:
    """Read a namespace's own table: through a process in it, or by a thread that goes there."""
    if namespace.pid is not None:
        return read_table(path=b"/proc/%d/mountinfo" % namespace.pid)
    from mountfd.verbs.enter import in_namespace  # noqa: PLC0415 (only where the kernel can't be asked from outside)

    # The table of a thread is looked at through a /proc from here: in there may be none.
    def read() -> bytes:
        return read_table(at=proc, path=b"thread-self/mountinfo")

    proc = calls.openat(n.AT_FDCWD, b"/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0)
    try:
        return in_namespace(namespace, read)
    finally:
        os.close(proc)


def _all(fields: tuple[str, ...]) -> list[MountInfo]:
    found: list[MountInfo] = []
    with MountNamespace.current() as own:
        for namespace in own.others():
            with namespace:
                found += _of_namespace(namespace, tuple({*fields, "ns_id"}))
    return found
