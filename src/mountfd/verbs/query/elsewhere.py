"""Mounts of other namespaces: listmount(2) and statmount(2) with the namespace's id; else a thread that goes there.

The fallback sees what can be reached from that namespace's root. Where the caller may not enter it, the table of the
process that it was found through serves, as long as that process sees the whole.
"""

from __future__ import annotations

import os
from errno import ENOENT

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.errors import Denied, Gone, InvalidSpec, KernelError, NotSupported
from mountfd.handles.mountns import MountNamespace
from mountfd.model.mountinfo import parse
from mountfd.verbs.query.asking import list_below
from mountfd.verbs.query.listing import CANNOT, ask_each
from mountfd.verbs.query.oldway import read_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.model.info import MountInfo
    from mountfd.verbs.query.listing import Namespace

__all__ = ["elsewhere"]

_OPEN_PATH_DIR = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_NOT_YOURS = "looking into another user's mount namespace takes CAP_SYS_ADMIN in the user namespace that owns it"


def elsewhere(namespace: Namespace, fields: tuple[str, ...], route: str | None) -> list[MountInfo]:
    """List the mounts of a namespace, or of all."""
    if isinstance(namespace, str) and namespace == "all":
        return _all(fields, route)
    if isinstance(namespace, MountNamespace):
        return _of(namespace, fields, route)
    if isinstance(namespace, bool) or not isinstance(namespace, int | str | bytes | os.PathLike):
        raise InvalidSpec(f"{namespace!r} is not a mount namespace, a pid or a path", part="namespace")
    with MountNamespace.of(namespace) if isinstance(namespace, int) else MountNamespace.open(namespace) as opened:
        return _of(opened, fields, route)


def _all(fields: tuple[str, ...], route: str | None) -> list[MountInfo]:
    found: list[MountInfo] = []
    with MountNamespace.current() as own:
        for namespace in own.others():
            with namespace:
                found += _of(namespace, tuple({*fields, "ns_id"}), route)
    return found


def _of(namespace: MountNamespace, fields: tuple[str, ...], route: str | None) -> list[MountInfo]:
    number = None
    try:
        number = namespace.id
        if route != "mountinfo":
            ids = list_below(n.LSMT_ROOT, ns_id=number)
            found = ask_each(ids, fields, ns_id=number, read=lambda: _table_inside(namespace))
            if found or not ids:
                return found
    except NotSupported:
        if route == "listmount":
            raise
    except KernelError as error:
        # ENOENT is what the kernel says to those who may not look, too.
        if error.errno not in {*CANNOT, ENOENT} or route == "listmount":
            raise
    rows = parse(_table_inside(namespace))
    for row in rows:
        row.ns_id = number
    return rows


def _table_inside(namespace: MountNamespace) -> bytes:
    """Read a namespace's own table: by a thread that goes there, else through the process that is in it."""
    from mountfd.verbs.enter import in_namespace  # noqa: PLC0415 (only where the kernel can't be asked from outside)

    # The table of a thread is looked at through a /proc from here: in there may be none.
    def read() -> bytes:
        return read_table(at=proc, path=b"thread-self/mountinfo")

    proc = calls.openat(n.AT_FDCWD, b"/proc", _OPEN_PATH_DIR, 0)
    try:
        return in_namespace(namespace, read)
    except Denied as error:
        error.explain(hint=_NOT_YOURS)
        table = _table_of_process(namespace)
        if table is None:
            raise
        return table
    finally:
        os.close(proc)


def _table_of_process(namespace: MountNamespace) -> bytes | None:
    """Read the table of the process that a namespace was found through; None unless it sees the whole."""
    if namespace.pid is None:
        return None
    try:
        if os.readlink(f"/proc/{namespace.pid}/root") != "/":
            return None  # its table ends at its own root
        table = read_table(path=b"/proc/%d/mountinfo" % namespace.pid)
        with MountNamespace.of(namespace.pid) as now:
            # A process may have gone elsewhere, or ended and left its pid to another.
            return table if os.path.sameopenfile(now.fileno(), namespace.fileno()) else None
    except (Gone, OSError):
        return None
