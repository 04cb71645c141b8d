"""The replacement itself: build, carry, check, tuck, switch. Everything that can fail comes before the tuck."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from errno import EINVAL

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.features import Feature, has, require
from mountfd.abi.flags import Propagation
from mountfd.errors import InvalidSpec, KernelError, MountfdError
from mountfd.handles.fd import OwnedFd
from mountfd.handles.mount import Mount
from mountfd.verbs.enter import on_thread
from mountfd.verbs.query.asking import list_below
from mountfd.verbs.replace.building import build, copy
from mountfd.verbs.replace.bystanders import refuse_bystanders, refuse_returning
from mountfd.verbs.replace.carrying import Carried
from mountfd.verbs.replace.standing import Standing, detach_top
from mountfd.verbs.replace.waiting import alone, wait_for_users
from mountfd.verbs.routes import choose

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Literal, Self, TypeAlias

    from mountfd.abi.paths import StrPath
    from mountfd.handles.mountns import MountNamespace
    from mountfd.model.holder import Holder
    from mountfd.model.info import MountInfo
    from mountfd.verbs.replace.building import New

    Submounts: TypeAlias = Literal["carry", "drop", "refuse"]
    Check: TypeAlias = Callable[[Mount], object]

__all__ = ["Previous", "check_submounts", "replace", "route"]

_ROUTES = {
    "beneath": lambda: has(Feature.MOVE_MOUNT_BENEATH) and has(Feature.STATMOUNT),
    "gap": lambda: True,
}
_PRIVATE = 1 << 18
_SUBMOUNTS = ("carry", "drop", "refuse")
_OTHERS = ("copy", "overlay")  # they keep the filesystem, not the mount


class Previous(Mount):
    """What stood at the target before: a detached clone, to be put back or looked at. Close it to let it go.

    Attributes: old_id, the unique id of the mount that was taken away; carried, how many mounts came along from below
    it; gap, whether there was an instant without a mount.
    """

    __slots__ = ("carried", "gap", "old_id")

    def __init__(self, fd: int) -> None:
        """Take over the descriptor of the clone."""
        super().__init__(fd)
        self.old_id = self.carried = 0
        self.gap = False

    def dup(self) -> Self:
        """Make a second handle on the same mount, that knows the same of it."""
        other = super().dup()
        other.old_id, other.carried, other.gap = self.old_id, self.carried, self.gap
        return other

    def holders(self) -> list[Holder]:
        """Tell who still uses the mount that was taken away: it goes with the last of them."""
        from mountfd.verbs.holders import holders  # noqa: PLC0415 (only when asked)

        # Who stands in the way of unmounting it is nobody any more, since it is unmounted.
        seen = [each for each in holders(id=self.old_id) if each.blocks is not None and each.kind not in _OTHERS]
        return [each for each in seen if not (each.is_own and each.fd == self.fileno())]


class Order:
    """What `replace` was told; of the way back, also which mount alone may go, and what below it stays behind."""

    __slots__ = ("allow_gap", "beneath", "check", "check_after", "is_elsewhere", "only", "submounts", "wait", "without")

    def __init__(  # noqa: PLR0913 (all of it)
        self,
        submounts: Submounts = "carry",
        check: Check | None = None,
        check_after: Check | None = None,
        *,
        allow_gap: bool,
        beneath: bool,
        wait: float = 0.0,
        is_elsewhere: bool = False,
    ) -> None:
        """Keep it."""
        self.submounts = submounts
        self.check = check
        self.check_after = check_after
        self.allow_gap = allow_gap
        self.beneath = beneath
        self.wait = wait
        self.is_elsewhere = is_elsewhere
        self.only = 0
        self.without: frozenset[int] = frozenset()


def replace(  # noqa: PLR0913 (what to replace, by what, and four choices)
    target: StrPath,
    new: New,
    *,
    submounts: Submounts = "carry",
    check: Check | None = None,
    check_after: Check | None = None,
    allow_gap: bool = False,
    wait: float = 0.0,
    namespaces: Iterable[MountNamespace] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Previous:
    """Replace the mount that stands at a target, with no instant without one, in every namespace that receives it.

    Arguments: target, a mount point; new, a Mount (it is cloned), an Overlay, a MountSpec or a path to bind;
    submounts, of the mounts below the target: carry them over, drop them, or refuse when there are any; check, called
    with the new mount before anybody sees it: unless it answers something true nothing has changed; check_after,
    called with it afterwards: unless it does, what stood before is put back in the same way; allow_gap, accept an
    instant without a mount where the kernel can do no better; wait, seconds to wait at most for who uses the old mount,
    before it is done anyway; namespaces, do it in each of these, which have copies of their own, instead of here;
    progress, called with how many are done and how many there are.
    Who has files open on the old mount keeps them; it goes with the last of them. Gives a detached clone of it.
    A namespace that has a mount of its own below the target keeps the old one, since the kernel takes nothing away that
    others stand on. Two replacements at one place wait for each other. One that is killed shows the old or the new
    mount, whole, and the next one here ends it.
    Raises: InvalidSpec for what is no mount, for this process's root, for mounts below that can't come along, and for
    those with propagated copies elsewhere that would be unmounted with them; Busy when another replacement doesn't end;
    ExceptionGroup, of namespaces, when it failed in some; NotSupported without MOVE_MOUNT_BENEATH; what `assemble`,
    `mount` and the checks raise.
    Calls: move_mount(2) with MOVE_MOUNT_BENEATH, umount2(2) with MNT_DETACH; Linux 6.8, with mounts below best 6.15.
    """
    check_submounts(submounts)
    order = Order(submounts, check, check_after, allow_gap=allow_gap, wait=wait, beneath=route() == "beneath")
    if namespaces is not None:
        order.is_elsewhere = True
        from mountfd.verbs.replace.everywhere import in_each  # noqa: PLC0415 (most replacements are here)

        return in_each(list(namespaces), new, lambda made: _replace(target, made, order), progress)
    return _replace(target, new, order)


def check_submounts(submounts: str) -> None:
    """Raise InvalidSpec for a word that says nothing about the mounts below."""
    if submounts not in _SUBMOUNTS:
        raise InvalidSpec(f"submounts is one of {', '.join(_SUBMOUNTS)}, not {submounts!r}", part="submounts")


def route() -> str:
    """Name the route that replace takes here: beneath, or gap."""
    return choose("replace", _ROUTES)


def _replace(target: StrPath, new: New, order: Order) -> Previous:
    if not order.beneath and not order.allow_gap:
        require(Feature.MOVE_MOUNT_BENEATH, "replacing a mount without a gap tucks the new one beneath it")
        raise InvalidSpec("the route `gap` is forced, and allow_gap isn't given", part="allow_gap")
    with ExitStack() as held, ExitStack() as until_done:
        built = held.enter_context(build(new))
        if not has(Feature.STATMOUNT):
            from mountfd.verbs.replace.oldway import replace_by_path  # noqa: PLC0415 (only before Linux 6.8)

            return replace_by_path(target, built, Previous, order)
        with alone(target) as standing:
            made, previous, own = _switch(standing, built, order, held)
            until_done.enter_context(previous)
        if order.check_after is not None:
            _look_again(target, made, previous, own, order)
        until_done.pop_all()
    return previous


def _switch(standing: Standing, made: Mount, order: Order, held: ExitStack) -> tuple[Mount, Previous, set[int]]:
    """Do it; give the new mount as it was attached, the previous one, and the ids that came below the new one."""
    with ExitStack() as passing:
        standing.is_elsewhere = order.is_elsewhere
        standing = _whole(standing, passing)
        if order.only and standing.number != order.only:
            raise InvalidSpec(f"{standing.target!r} was changed meanwhile by somebody else", part="target")
        rows = standing.below()
        refuse_returning(standing, rows)
        if rows and order.submounts != "refuse":
            refuse_bystanders(standing, rows)
        carried = _carry(standing, rows, order, passing)
        if made.id < standing.number:  # the one that it will replace came after it was made
            made = held.enter_context(copy(made))
        made = _fit(standing, made, carried, held)
        if order.check is not None and not (answer := order.check(made)):
            raise MountfdError(f"the check answered {answer!r}, so {standing.target!r} stays as it was")
        wait_for_users(standing, order.wait)
        if order.check is not None or order.wait or rows:
            standing.refuse_if_covered()  # that took a while; the new one would go upon the old one, beneath that
            if {row.id for row in standing.below()} != {row.id for row in rows}:
                raise InvalidSpec(
                    f"mounts below {standing.target!r} came or went meanwhile: try again", part="submounts"
                )
        previous = _copy_of(standing, recursive=order.submounts == "drop")
        try:
            previous.old_id, previous.carried, previous.gap = standing.number, len(carried or ()), not order.beneath
            (_beneath if order.beneath else _with_gap)(standing, made, carried, alone=bool(rows))
            own = _own(made, carried) if order.check_after is not None else set()
        except BaseException:
            previous.close()
            raise
        return made, previous, own


def _whole(standing: Standing, held: ExitStack) -> Standing:
    """End a replacement that was killed between its two steps; give what stands there then."""
    while standing.is_half_replaced():
        calls.remark(f"replace: an earlier one of {standing.target!r} was never ended; ending it")
        detach_top(standing)
        elsewhere, standing = standing.is_elsewhere, held.enter_context(Standing(standing.raw))
        standing.is_elsewhere = elsewhere
    return standing


def _carry(standing: Standing, rows: list[MountInfo], order: Order, held: ExitStack) -> Carried | None:
    if order.submounts == "drop" or not rows:
        return None
    if order.submounts == "refuse":
        points = ", ".join(sorted({row.point or "a hidden place" for row in rows}))
        raise InvalidSpec(f"mounts stand below {standing.target!r}: {points}", part="submounts")
    return Carried(standing, rows, held, without=order.without, forgiving=order.only != 0)


def _fit(standing: Standing, made: Mount, carried: Carried | None, held: ExitStack) -> Mount:
    """Give the new mount what comes along, and the propagation of the old one, as far as it is its own to have."""
    from stat import S_ISDIR  # noqa: PLC0415 (beside its use)

    if standing.is_directory != S_ISDIR(os.fstat(made.fileno()).st_mode):
        kinds = ("a directory", "a file") if standing.is_directory else ("a file", "a directory")
        raise InvalidSpec(f"{standing.target!r} is {kinds[0]}, the new mount's root is {kinds[1]}", part="new")
    # A clone is a peer of what it was cloned from: what is attached in it would appear there, too.
    made.set(propagation=_PRIVATE, recursive=True)
    if carried is not None:
        made = carried.attach_in(made, held)
    if standing.is_shared and not standing.is_parent_shared:  # there the kernel does it
        made.set(propagation=Propagation.SHARED)
    return made


def _copy_of(standing: Standing, *, recursive: bool) -> Previous:
    try:
        copy = Previous.clone_fd(standing.fd, recursive=recursive)
    except KernelError as error:
        if error.errno == EINVAL and (standing.info.propagation or 0) & Propagation.UNBINDABLE:
            hint = "it is unbindable, so no copy of it can be kept: make it private first"
            error.explain(filename=standing.target, hint=hint)
        raise
    if recursive:
        try:
            # A peer of the old one would lose what stands on it together with that.
            copy.set(propagation=Propagation.PRIVATE, recursive=True)
        except BaseException:
            copy.close()
            raise
    return copy


def _own(made: Mount, carried: Carried | None) -> set[int]:
    """Give the ids of what stands below the new mount without having been carried there."""
    kept = set() if carried is None else carried.ids()
    if carried is not None and not kept:
        return set()  # they are in a clone of the tree, and can't be told apart: all of them go back
    own = set(list_below(made.id))
    for number in kept:
        own -= {number, *list_below(number)}
    return own


# --- the two steps -------------------------------------------------------------------------------------------------
def _beneath(standing: Standing, made: Mount, carried: Carried | None, *, alone: bool) -> None:
    if _may_be_interrupted():
        on_thread(lambda: _tuck_and_detach(standing, made, carried, alone=alone))
        return
    before = calls.block_signals()
    try:
        _tuck_and_detach(standing, made, carried, alone=alone)
    finally:
        calls.restore_signals(before)


def _may_be_interrupted() -> bool:
    """Say whether a signal handler may run here though this thread blocks signals: others may take them for it."""
    threading = sys.modules.get("threading")
    return threading is not None and threading.active_count() > 1


def _tuck_and_detach(standing: Standing, made: Mount, carried: Carried | None, *, alone: bool) -> None:
    _tuck(standing, made)
    try:
        if alone and not standing.is_parent_shared:
            standing.keep_to_itself()
    finally:
        detach_top(standing)
    _restore_privacy(standing, made, carried)


def _restore_privacy(standing: Standing, made: Mount, carried: Carried | None) -> None:
    """Make private again what was private: where the parent is shared, the kernel makes shared what is attached there.

    Not before the old one is gone: it goes where the new one is shared to.
    """
    if standing.is_parent_shared:
        for mount in [*([] if standing.is_shared else [made]), *(carried.private if carried is not None else ())]:
            mount.set(propagation=_PRIVATE)


def _tuck(standing: Standing, made: Mount) -> None:
    marked = standing.mark()
    try:
        made.attach_fd(standing.fd, beneath=True)
    except KernelError as error:
        if marked:
            standing.unmark()
        error.explain(filename=standing.target)
        raise


def _with_gap(standing: Standing, made: Mount, carried: Carried | None, *, alone: bool) -> None:
    """Take the old one away and attach the new one at once: as short a gap as there can be."""
    raw = os.fsencode(standing.info.point or standing.target)  # what was given may lead into the old one
    with _copy_of(standing, recursive=True) as old:
        before = calls.block_signals()
        try:
            if alone and not standing.is_parent_shared:
                standing.keep_to_itself()
            detach_top(standing)
            try:
                _attach_at(raw, made)
            except KernelError:
                try:
                    _attach_at(raw, made)
                except KernelError:
                    _attach_at(raw, old)
                    raise
            _restore_privacy(standing, made, carried)
        finally:
            calls.restore_signals(before)


def _attach_at(raw: bytes, mount: Mount) -> None:
    with OwnedFd(calls.openat(n.AT_FDCWD, raw, os.O_PATH | os.O_CLOEXEC, 0)) as place:
        mount.attach_fd(place.fileno())


def _look_again(target: StrPath, made: Mount, previous: Previous, own: set[int], order: Order) -> None:
    try:
        refused = order.check_after is not None and not order.check_after(made)
    except BaseException as error:
        _put_back(target, made, previous, own, order, error)
        error.add_note(f"what stood at {os.fsdecode(target)!r} before is back")
        raise
    if refused:
        refusal = MountfdError(f"the check refused the new mount: what stood at {os.fsdecode(target)!r} before is back")
        _put_back(target, made, previous, own, order, refusal)
        raise refusal


def _put_back(  # noqa: PLR0913, PLR0917 (all of what was done)
    target: StrPath, made: Mount, previous: Previous, own: set[int], order: Order, why: BaseException
) -> None:
    """Replace the new mount by the previous one; what came with the new one goes with it."""
    back = Order(allow_gap=order.allow_gap, beneath=order.beneath, is_elsewhere=order.is_elsewhere)
    back.only, back.without = made.id, frozenset(own)
    with previous:
        try:
            _replace(target, previous, back).close()
        except MountfdError as error:
            error.add_note(f"the check had failed ({why}), and what stood there before could not be put back")
            raise
