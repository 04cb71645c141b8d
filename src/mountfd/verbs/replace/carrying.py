"""Mounts below the target come along: clones of them are attached in the new mount before anybody sees it.

A clone is the same filesystem with the same attributes and peers; who has files open there keeps them. Where several
are stacked on one point, or one hides another, only the topmost can be reached by a path: such a target is taken apart
in a private namespace.
"""

from __future__ import annotations

import os
from collections import Counter
from errno import EINVAL, ENOENT, ENOTDIR

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.features import Feature, has
from mountfd.abi.flags import Propagation
from mountfd.errors import InvalidSpec, KernelError
from mountfd.handles.mount import Mount
from mountfd.handles.root import Root
from mountfd.verbs.enter import in_private_namespace
from mountfd.verbs.query.asking import ask, mask_of
from mountfd.verbs.query.place import FOLLOW, HERE, id_of, is_root
from mountfd.verbs.replace.bystanders import with_mounts_of_its_own
from mountfd.verbs.replace.receiving import Receiving, in_receiving_namespace, reach
from mountfd.verbs.replace.standing import changed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from mountfd.handles.fd import OwnedFd
    from mountfd.model.info import MountInfo
    from mountfd.verbs.replace.standing import Standing

__all__ = ["Carried", "is_made_here", "points_of"]

_MNT_DETACH = 2
_PARENT = mask_of(("parent_id",))
_NO_PLACE = (ENOENT, ENOTDIR, EINVAL)  # the last: a directory is no place for a file, nor a file for a directory


class Carried:
    """Clones of what stands below a target, with the place of each within it, in the order of attaching.

    Arguments: standing, the old mount, with which the clones are closed; rows, what stands below it; without, ids of
    mounts that stay behind; forgiving, whether one that can't be cloned or has no place stays behind, too.
    Raises: InvalidSpec for a mount that can't be cloned.
    """

    def __init__(
        self,
        standing: Standing,
        rows: list[MountInfo],
        *,
        without: Collection[int] = (),
        forgiving: bool = False,
    ) -> None:
        """Clone them, or find out why not."""
        # By the id of what was cloned, in the order of attaching.
        self._clones: dict[int | None, Mount] = {}
        self._within: dict[int | None, bytes] = {}
        self._forgiving = forgiving
        self._home = standing.info.point or "/"
        stuck = [row for row in rows if (row.propagation or 0) & Propagation.UNBINDABLE and row.id not in without]
        if stuck and not forgiving:
            raise InvalidSpec(
                f"the mount at {stuck[0].point!r} is unbindable, so it can't come along", part="submounts"
            )
        stacks = [stack for stack in _stacks(standing, rows, without) if not any(row in stuck for row in stack)]
        points = [stack[0].point or "" for stack in stacks]
        plain = all(len(stack) == 1 for stack in stacks) and not any(
            point.startswith(f"{other}/") for point in points for other in points
        )
        memories: dict[int, Mount] = {}
        held = standing.passing
        try:
            made = _clone_each(standing, stacks) if plain else _clone_apart(standing, stacks, memories)
        finally:
            for memory in memories.values():
                held.enter_context(memory)
        for row, clone in made:
            held.enter_context(clone)
            self._clones[row.id] = clone
            self._within[row.id] = os.fsencode(os.path.relpath(row.point or "", self._home))
        left = [row for row in rows if row.id not in without and row not in stuck]
        clones = {row.id or 0: clone for row, clone in made}
        self._receiving = Receiving(standing, left, clones, None if plain else memories, held)
        bearing = with_mounts_of_its_own(rows) if standing.is_parent_shared else ()
        for row, clone in made:
            if row.id in bearing:
                # It must not be a peer of the old one when what is on that is unmounted.
                clone.set(propagation=Propagation.PRIVATE, recursive=True)

    def attach_in(self, new: Mount) -> Mount:
        """Attach every clone at its place within the new mount; give the tree, which is another one on some kernels.

        Raises: Missing, NotDirectory where the new mount has no such place.
        """
        if has(Feature.MOUNT_INSIDE_DETACHED) and is_made_here(new):
            self._attach(new)
            return new

        # Before Linux 6.15 nothing is mounted inside a detached mount, and never in one that was made in another mount
        # namespace; but a tree that is attached can be cloned.
        def act() -> Mount:
            new.attach(b"/")
            self._attach(new)
            return Mount.clone_fd(new.fileno(), recursive=True)

        with new:
            tree = in_private_namespace(act, owned=True)
        self._clones = {}  # they went with the namespace
        self._receiving.forget_hidden()
        return tree

    def _attach(self, new: Mount) -> None:
        with Root(os.dup(new.fileno())) as root:
            for number, clone in self._clones.items():
                within = self._within[number]
                try:
                    _attach_within(root, within, clone)
                except KernelError as error:
                    if not (self._forgiving and error.errno in _NO_PLACE):
                        error.explain(filename=os.fsdecode(within), hint=_hint(error, within))
                        raise
                    _leave_behind(root, within, clone, error.errno)

    def restore_propagation(self, new: Mount) -> None:
        """Give the clones what they received before, where that was lost on the way; the new mount shows now."""
        self._receiving.restore(new)

    def let_go(self, new: Mount, gone: Collection[int | None]) -> None:
        """Unmount the clones of what was unmounted since within the new mount."""
        for number in [each for each in reversed(self._within) if each in gone]:  # what stands on another comes first
            within, clone = self._within.pop(number), self._clones.pop(number, None)
            if clone is not None:
                calls.umount2(b"/proc/self/fd/%d" % clone.fileno(), _MNT_DETACH)
                continue
            with Root(os.dup(new.fileno())) as root, root.resolve(within) as place:
                if is_root(place.fileno(), b"", HERE):
                    calls.umount2(b"/proc/self/fd/%d" % place.fileno(), _MNT_DETACH)

    def ids(self, new: Mount) -> set[int]:
        """Give the unique ids of the clones within the new mount."""
        if self._clones:
            return {clone.id for clone in self._clones.values()}
        found: set[int] = set()
        with Root(os.dup(new.fileno())) as root:
            for within, count in Counter(self._within.values()).items():
                with root.resolve(within) as place:
                    number = id_of(place.fileno(), b"", HERE)
                for _ in range(count):  # the topmost can be reached, and each tells what it stands on
                    found.add(number)
                    number = ask(number, _PARENT).parent_id or 0
        return found

    def __len__(self) -> int:
        """Count the clones."""
        return len(self._within)


def _attach_within(root: Root, within: bytes, clone: Mount) -> None:
    with root.resolve(within) as place:
        clone.attach_fd(place.fileno())


def _leave_behind(root: Root, within: bytes, clone: Mount, errno: int) -> None:
    """Try once more, since what stays behind is lost; raise what doesn't say again that there is no place."""
    try:
        _attach_within(root, within, clone)
    except KernelError as error:
        if error.errno != errno:
            raise
        calls.remark(f"replace: {os.fsdecode(within)!r} has no place in what is put back, and stays behind")


def is_made_here(detached: Mount) -> bool:
    """Say whether a detached mount can be cloned and built upon: not one that was made in another namespace."""
    try:
        Mount.clone_fd(detached.fileno()).close()
    except KernelError as error:
        if error.errno != EINVAL:
            raise
        return False
    return True


def _hint(error: KernelError, within: bytes) -> str | None:
    if error.errno in _NO_PLACE:
        return f"the new mount has no {os.fsdecode(within)!r} of the right kind for the mount that stands there"
    return None


def points_of(standing: Standing, rows: list[MountInfo]) -> list[str]:
    """Give the places directly on the old mount where something stands, each once."""
    return sorted({stack[0].point or "" for stack in _stacks(standing, rows)})


def _stacks(standing: Standing, rows: list[MountInfo], without: Collection[int] = ()) -> list[list[MountInfo]]:
    """Give what stands on each place of the old mount, the lowest first; a place before those that it hides."""
    parents = {standing.number, *without}
    lowest = [row for row in rows if row.parent_id in parents and row.id not in parents and row.point is not None]
    stacks = []
    for row in sorted(lowest, key=lambda row: row.point or ""):
        stack = [row]
        while upper := [each for each in rows if each.parent_id == stack[-1].id and each.point == row.point]:
            stack.append(upper[0])
        stacks.append(stack)
    return stacks


def _clone_each(standing: Standing, stacks: list[list[MountInfo]]) -> list[tuple[MountInfo, Mount]]:
    made: list[tuple[MountInfo, Mount]] = []
    try:
        for (row,) in stacks:
            with reach(standing, row) as place:
                made.append((row, Mount.clone_fd(_want(standing, row, place).fileno(), recursive=True)))
    except BaseException:
        for _, clone in made:
            clone.close()
        raise
    return made


def _want(standing: Standing, row: MountInfo, place: OwnedFd | None) -> OwnedFd:
    if place is None:
        raise changed(standing.target, f"{row.point!r} was changed meanwhile: try again")
    return place


def _clone_apart(
    standing: Standing, stacks: list[list[MountInfo]], memories: dict[int, Mount]
) -> list[tuple[MountInfo, Mount]]:
    point = os.fsencode(standing.info.point or "/")
    if id_of(n.AT_FDCWD, point, FOLLOW) != standing.number:
        hint = "its own path leads to another mount now, and what is stacked below it can only be reached by that"
        if not standing.is_shown():
            raise changed(standing.target, f"{standing.target!r} was changed meanwhile: try again")
        raise InvalidSpec(f"{standing.target!r} is hidden: {hint}", part="target")
    return in_receiving_namespace(lambda: _take_apart(stacks, memories))


def _take_apart(stacks: list[list[MountInfo]], memories: dict[int, Mount]) -> list[tuple[MountInfo, Mount]]:
    """Clone each mount from the top down, taking it away here, where that disturbs nobody; give the lowest first.

    Arguments: memories, gets a second clone of each slave, without what stands on it, by the slave's id.
    """
    made: list[tuple[MountInfo, Mount]] = []
    try:
        for stack in stacks:
            raw = os.fsencode(stack[0].point or "")
            for row in reversed(stack):
                made.append((row, Mount.clone(raw, recursive=True)))
                if row.master:
                    memories[row.id or 0] = Mount.clone(raw)
                calls.umount2(raw, _MNT_DETACH)
    except BaseException:
        for _, clone in made:
            clone.close()
        raise
    return made[::-1]
