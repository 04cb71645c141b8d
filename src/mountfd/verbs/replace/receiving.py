"""Who hears of mounts within those that come along, and of whom they hear: kept as far as the kernel lets it be.

What is attached on a shared mount is made shared. Afterwards what was private is made so again, and what only received
joins its master again, by a clone that remembers it. What was taken out of a stack became a slave of its like: it is
made a peer again, unless that lies hidden; then it is shared, in a group of its own that hears of the other.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from errno import EINVAL, ENOENT, ENOTDIR

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.features import Feature, has
from mountfd.abi.layouts import MountAttr
from mountfd.errors import KernelError
from mountfd.handles.fd import OwnedFd
from mountfd.handles.mount import Mount
from mountfd.handles.root import Root
from mountfd.verbs.enter import on_thread, take_namespace_root
from mountfd.verbs.query.asking import stands
from mountfd.verbs.query.place import HERE, id_of, is_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import ExitStack
    from typing import TypeVar

    from mountfd.model.info import MountInfo
    from mountfd.verbs.replace.standing import Standing

    T = TypeVar("T")

__all__ = ["Receiving", "in_receiving_namespace", "reach"]

_SHARED, _PRIVATE, _SLAVE, _REC = 1 << 20, 1 << 18, 1 << 19, 16384
_CLONE_NEWNS = 0x20000
_BOTH_EMPTY_SET_GROUP = 0x4 | 0x40 | 0x100
_GONE = (ENOENT, ENOTDIR)


class Receiving:
    """What mounts below an old one received and sent, to be given to their clones when these show.

    Arguments: standing, the old mount; rows, those below it that come along; clones, those that have a handle of their
    own, by the id of what they were cloned from; memories, where they were cloned as slaves of that, clones of slaves
    by the same; held, what closes the clones that are made to remember.
    """

    def __init__(
        self,
        standing: Standing,
        rows: list[MountInfo],
        clones: dict[int, Mount],
        memories: dict[int, Mount] | None,
        held: ExitStack,
    ) -> None:
        """Look at them, while they stand."""
        # Each place, the clone itself where another hides that, what it has to be, and a like of it.
        self._left: list[tuple[bytes, Mount | None, int, Mount | None]] = []
        apart = memories is not None
        for row in rows:
            shared = bool(int(row.propagation or 0) & _SHARED)
            if (not shared) if standing.is_parent_shared else (apart and shared):
                number = row.id or 0
                self._add(standing, row, clones.get(number), (memories or {}).get(number), held)

    def _add(
        self, standing: Standing, row: MountInfo, clone: Mount | None, model: Mount | None, held: ExitStack
    ) -> None:
        shared = bool(int(row.propagation or 0) & _SHARED)
        with reach(standing, row) as place:
            if place is None and clone is None:
                calls.remark(f"replace: {row.point!r} is hidden by another mount, and hears of what it heard no more")
                return
            if shared:
                model = None
            if place is not None and (shared or row.master) and model is None:
                # Without what stands on it: as a peer of the old one it would lose that.
                model = held.enter_context(Mount.clone_fd(place.fileno()))
        if shared and clone is not None:
            _restore(clone.fileno(), _SHARED, model)  # a detached tree's root can be changed at once, not the rest
            return
        within = os.fsencode(os.path.relpath(row.point or "/", standing.info.point or "/"))
        wanted = _SHARED if shared else _PRIVATE
        self._left.append((within, clone if place is None else None, wanted, model))

    def forget_hidden(self) -> None:
        """Leave those that another hides as they will be: their clones can't be reached in a clone of the whole."""
        self._left = [each for each in self._left if each[1] is None]

    def restore(self, new: Mount) -> None:
        """Give it to their clones within the new mount."""
        if not self._left:
            return
        with Root(os.dup(new.fileno())) as root:
            for within, clone, wanted, model in self._left:
                if clone is not None:
                    _restore(clone.fileno(), wanted, model)
                    continue
                try:
                    place = root.resolve(within)
                except KernelError as error:
                    if error.errno not in _GONE:
                        raise
                    continue  # it stayed behind, where that was allowed
                with place:
                    _restore_at(place.fileno(), wanted, model)


def _restore_at(fd: int, wanted: int, model: Mount | None) -> None:
    if not is_root(fd, b"", HERE):
        return  # it stayed behind, or was unmounted
    try:
        _restore(fd, wanted, model)
    except KernelError as error:
        if error.errno != EINVAL or stands(id_of(fd, b"", HERE)):
            raise


def _restore(fd: int, wanted: int, model: Mount | None) -> None:
    """Make a mount private or shared, or a peer or slave of what another of its filesystem is one."""
    if model is None or not has(Feature.MOVE_MOUNT_SET_GROUP):
        _set(fd, wanted)
        return
    _set(fd, _PRIVATE)
    try:
        calls.move_mount(model.fileno(), b"", fd, b"", _BOTH_EMPTY_SET_GROUP)
    except KernelError as error:
        if error.errno != EINVAL:
            raise
        calls.remark("replace: whom a mount heard of went together with the old one, so it hears of nobody now")


def _set(fd: int, propagation: int) -> None:
    change = MountAttr(0, 0, propagation, 0)
    calls.mount_setattr(fd, b"", n.AT_EMPTY_PATH, calls.reference(change), n.MOUNT_ATTR_SIZE_VER0)


@contextmanager
def reach(standing: Standing, row: MountInfo) -> Iterator[OwnedFd | None]:
    """Open the root of a mount below the old one, for a block; None where another mount hides it."""
    within = os.fsencode(os.path.relpath(row.point or "/", standing.info.point or "/"))
    try:
        # From the old mount itself, since the path that leads there may mean another one by now.
        place = OwnedFd(calls.openat(standing.fd, within, os.O_PATH | os.O_CLOEXEC, 0))
    except KernelError as error:
        if error.errno not in _GONE:
            raise
        yield None
        return
    with place:
        yield place if id_of(place.fileno(), b"", HERE) == row.id else None


def in_receiving_namespace(act: Callable[[], T]) -> T:
    """Run a function on a thread in a copy of this mount namespace, whose mounts are slaves of those here.

    Nothing that happens there is seen here. Unlike private copies they know whom they received from.
    """

    def body() -> T:
        calls.unshare(_CLONE_NEWNS)
        try:
            calls.mount(None, b"/", None, _REC | _SLAVE, None)
        except KernelError as error:
            if error.errno != EINVAL:
                raise
            # In a chroot the root may be a directory of a mount: then go to that of the namespace, and come back.
            with OwnedFd(calls.openat(n.AT_FDCWD, b"/", os.O_PATH | os.O_CLOEXEC, 0)) as own:
                take_namespace_root()
                calls.mount(None, b"/", None, _REC | _SLAVE, None)
                calls.fchdir(own.fileno())
                calls.chroot(b".")
        return act()

    return on_thread(body)
