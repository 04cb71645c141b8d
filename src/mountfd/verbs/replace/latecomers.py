"""What came or went below the old mount in the last moment: so it does below the new one, or the old one stays."""

from __future__ import annotations

import os

from mountfd.abi import calls
from mountfd.errors import MountfdError
from mountfd.handles.fd import OwnedFd
from mountfd.handles.mount import Mount
from mountfd.handles.root import Root
from mountfd.verbs.query.place import HERE, id_of
from mountfd.verbs.replace.bystanders import refuse_bystanders
from mountfd.verbs.replace.standing import WAITS, Standing, changed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.model.info import MountInfo
    from mountfd.verbs.replace.carrying import Carried

__all__ = ["follow"]

_PATH = os.O_PATH | os.O_CLOEXEC
_TRIES = 10


def follow(
    standing: Standing, new: Mount, carried: Carried | None, rows: list[MountInfo], gone: frozenset[int | None]
) -> None:
    """Attach clones of what came in the new mount, which is attached already, but seen by nobody; let go of what went.

    Arguments: rows, what came; gone, the ids of what went.
    Raises: Busy where one can't come along: the old mount stays with all that is on it.
    """
    calls.remark(f"replace: mounts came or went below {standing.target!r} in the last moment; the new one follows")
    try:
        for _ in range(_TRIES):
            for row in rows:
                _take(standing, new, row)
            if carried is not None:
                carried.let_go(new, gone)
            standing.seen = ((standing.seen or frozenset()) | {row.id for row in rows}) - gone
            rows, gone = standing.news()
            if not rows and not gone:
                break
        else:
            raise changed(standing.target, "mounts come and go below it all the time")
        if standing.is_parent_shared:
            with Standing(standing.raw) as now:
                refuse_bystanders(now, now.below())
                standing.goes_alone = now.goes_alone
    except MountfdError as error:
        hint = f"a mount came below {standing.target!r} in the last moment, and can't come along ({error}). {WAITS}"
        raise changed(standing.target, hint) from error


def _take(standing: Standing, new: Mount, row: MountInfo) -> None:
    within = os.fsencode(os.path.relpath(row.point or "", standing.info.point or "/"))
    with OwnedFd(calls.openat(standing.fd, within, _PATH, 0)) as place:
        if id_of(place.fileno(), b"", HERE) != row.id:
            raise changed(standing.target, f"{row.point!r} is hidden by another mount")
        with (
            Mount.clone_fd(place.fileno()) as clone,
            Root(os.dup(new.fileno())) as root,
            root.resolve(within) as there,
        ):
            clone.attach_fd(there.fileno())
