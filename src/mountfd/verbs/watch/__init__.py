"""watch: mounts that come, go and move, told as it happens.

| route | kernel | who | tells | file |
| --- | --- | --- | --- | --- |
| `fanotify` | 6.15 | CAP_SYS_ADMIN in the namespace's owner | each step, in order | fanotify.py |
| `polling` | any | anybody, of the own namespace | each lasting change | polling.py |
"""

from __future__ import annotations

import os
from contextlib import nullcontext

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.paths import encode
from mountfd.errors import InvalidSpec, unsupported
from mountfd.handles.mountns import MountNamespace
from mountfd.verbs.query.lookup import id_of
from mountfd.verbs.routes import choose
from mountfd.verbs.watch.events import Events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.abi.paths import StrPath
    from mountfd.verbs.query.listing import Namespace

__all__ = ["Events", "route", "watch"]


def watch(*, namespace: Namespace | None = None, under: StrPath | None = None, unlimited: bool = False) -> Events:
    """Watch mounts come, go and move, from now on; close what is returned, or use it in a `with` block.

    Arguments: namespace, another mount namespace: a MountNamespace, the pid of a process in it, the path of its file;
    under, only mounts that are or were at or below this path (in another namespace: as it is seen there); unlimited,
    queue without a limit instead of 16,384 notices, at the cost of kernel memory when nobody reads.
    Route `fanotify` tells each step in order; when its queue was full, an event of kind "overflow" says so, followed by
    the difference to what was known. Route `polling` tells the difference from one look to the next. On both, events
    applied to the state at the beginning give the state now. With `under`, a mount that was gone before anybody could
    ask where it stood is left out, and so is its detach; without, its info is None.
    When another namespace ends, route `fanotify` tells the detaches and then an event of kind "end"; route `polling`
    keeps it alive. Remounts, changed attributes and changed propagation are no events, nor are detached mounts.
    Raises: Denied without CAP_SYS_ADMIN in another namespace's owner, or for unlimited without the whole machine's;
    Gone for a pid without a process; Missing, NotDirectory for a path; InvalidSpec; NotSupported for unlimited on the
    other route; LimitReached at user.max_fanotify_groups.
    Calls: fanotify_init(2) with FAN_REPORT_MNT, fanotify_mark(2) with FAN_MARK_MNTNS, Linux 6.15; else poll(2) on
    /proc/PID/mountinfo. listmount(2) and statmount(2), Linux 6.8; else the table.
    """
    path = None if under is None else _resolved(under, is_own=namespace is None)
    if isinstance(namespace, MountNamespace):
        return _begin(namespace, path, is_own=False, unlimited=unlimited)
    with _opened(namespace) as opened:
        return _begin(opened, path, is_own=namespace is None, unlimited=unlimited)


def route(namespace: MountNamespace | None = None) -> str:
    """Name the route that watch takes in a namespace, the caller's own unless told: fanotify or polling."""
    # One route is loaded, not both, unless the first turns out not to work.
    from mountfd.verbs.watch.fanotify import is_possible  # noqa: PLC0415

    with MountNamespace.current() if namespace is None else nullcontext(namespace) as here:
        routes = {"fanotify": lambda: is_possible(here), "polling": lambda: True}
        return choose("watch", routes, remember=False)  # what is allowed in one namespace may not be in the next


def _begin(namespace: MountNamespace, under: str | None, *, is_own: bool, unlimited: bool) -> Events:
    if route(namespace) == "fanotify":
        from mountfd.verbs.watch import fanotify  # noqa: PLC0415 (one route is loaded, not both)

        source: fanotify.FanotifySource | polling.PollingSource = fanotify.FanotifySource(
            namespace, under, is_own=is_own, unlimited=unlimited
        )
    else:
        from mountfd.verbs.watch import polling  # noqa: PLC0415

        if unlimited:
            raise unsupported("FANOTIFY_MOUNTS", "only fanotify(7) has a queue; the mount table tells no steps")
        source = polling.PollingSource(namespace, under, is_own=is_own)
    calls.remark(f"watch: {len(source)} mounts stand; what happens from now on is told")
    return Events(source)


def _opened(namespace: int | StrPath | None) -> MountNamespace:
    if namespace is None:
        return MountNamespace.current()
    if isinstance(namespace, bool) or not isinstance(namespace, int | str | bytes | os.PathLike):
        raise InvalidSpec(f"{namespace!r} is not a mount namespace, a pid or a path", part="namespace")
    if namespace == "all":
        raise InvalidSpec("one watch is of one namespace; open one for each", part="namespace")
    return MountNamespace.of(namespace) if isinstance(namespace, int) else MountNamespace.open(namespace)


def _resolved(under: StrPath, *, is_own: bool) -> str:
    """Give the path as the kernel names mount points: in this namespace resolved, in another one as it is."""
    raw = encode(under, "under")
    if is_own:
        id_of(n.AT_FDCWD, raw, n.AT_STATX_DONT_SYNC | n.AT_NO_AUTOMOUNT)  # says what is wrong with it
        return os.fsdecode(os.path.realpath(raw))
    if not raw.startswith(b"/"):
        raise InvalidSpec(f"{os.fsdecode(raw)!r} must be absolute: it is a path of another namespace", part="under")
    return os.fsdecode(os.path.normpath(raw))
