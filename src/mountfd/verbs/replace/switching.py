"""The replacement itself: build, carry, check, then the two steps. All that can fail comes before these."""

from __future__ import annotations

import os
from errno import EINVAL, ENOENT
from stat import S_ISDIR

from mountfd.abi.features import Feature, has, require
from mountfd.abi.flags import Propagation
from mountfd.errors import InvalidSpec, KernelError, MountfdError
from mountfd.handles.mount import Mount
from mountfd.verbs.query.asking import list_below
from mountfd.verbs.query.place import facts_of
from mountfd.verbs.replace.building import build, copy, explain_unusable
from mountfd.verbs.replace.bystanders import refuse_bystanders, refuse_returning
from mountfd.verbs.replace.carrying import Carried
from mountfd.verbs.replace.ending import end_earlier
from mountfd.verbs.replace.standing import changed
from mountfd.verbs.replace.steps import beneath, copy_of, with_gap
from mountfd.verbs.replace.waiting import alone, keep_waiting_below, wait_for_users
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
    from mountfd.verbs.replace.standing import Standing

    Submounts: TypeAlias = Literal["carry", "drop", "refuse"]
    Check: TypeAlias = Callable[[Mount], object]

__all__ = ["Previous", "check_submounts", "replace", "route"]

_ROUTES = {
    "beneath": lambda: has(Feature.MOVE_MOUNT_BENEATH) and has(Feature.STATMOUNT),
    "gap": lambda: True,
}
_PRIVATE = 1 << 18
_SUBMOUNTS = ("carry", "drop", "refuse")
_RACES = (EINVAL, ENOENT)
_OTHERS = ("copy", "overlay")  # they keep the filesystem, not the mount


class Previous(Mount):
    """What stood at the target before: a detached clone, to be put back or looked at. Close it to let it go.

    Attributes: point, where it stood; old_id, the unique id of the mount that was taken away; carried, how many mounts
    came along from below it; gap, whether there was an instant without a mount; namespace, the id of the mount
    namespace that was named to do it in, 0 where none was; others, what stood in the other namespaces that were named.
    They are closed together.
    """

    __slots__ = ("carried", "gap", "namespace", "old_id", "others", "point")

    def __init__(self, fd: int) -> None:
        """Take over the descriptor of the clone."""
        super().__init__(fd)
        self.point = ""
        self.old_id = self.carried = self.namespace = 0
        self.gap = False
        self.others: tuple[Previous, ...] = ()

    def dup(self) -> Self:
        """Make a second handle on the same mount, that knows the same of it; not of the others."""
        other = super().dup()
        other.old_id, other.carried, other.gap = self.old_id, self.carried, self.gap
        other.namespace, other.point = self.namespace, self.point
        return other

    def close(self) -> None:
        """Let go of it, and of the others."""
        super().close()
        for other in getattr(self, "others", ()):
            other.close()

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
    Where nothing stands below the target here, a namespace that has a mount of its own below it keeps the old one,
    since the kernel takes nothing away that others stand on; where something does, that is refused. Two replacements at
    one place, or one below the other, wait for each other. One that is killed shows the old or the new mount, whole,
    and the next one here ends it.
    Raises: InvalidSpec for what is no mount, for this process's root, for mounts below that can't come along, and for
    those with propagated copies elsewhere that would be unmounted with them, or kept by others; Busy when another
    replacement doesn't end, or somebody changes what stands there meanwhile; ExceptionGroup, of namespaces, when it
    failed in some, whose `previous` has what can be put back in the others; NotSupported without MOVE_MOUNT_BENEATH;
    what `assemble`, `mount` and the checks raise.
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
    made, previous = build(new), None
    try:
        if not order.beneath and not has(Feature.STATMOUNT):
            from mountfd.verbs.replace.oldway import replace_by_path  # noqa: PLC0415 (only before Linux 6.8)

            return replace_by_path(target, made, Previous, order)
        with alone(target) as standing:
            made, previous, own = _switch(standing, made, order)
        if order.check_after is not None:
            _look_again(target, made, previous, own, order)
    except BaseException:
        if previous is not None:
            previous.close()
        raise
    finally:
        made.close()
    return previous


def _switch(standing: Standing, made: Mount, order: Order) -> tuple[Mount, Previous, set[int]]:
    """Do it; give the new mount as it was attached, the previous one, and the ids that came below the new one.

    Arguments: made, the new mount, which is closed unless all goes well: another may be given for it.
    """
    previous: Previous | None = None
    try:
        standing.is_elsewhere = order.is_elsewhere
        standing = end_earlier(standing, order.submounts)
        if order.only:
            _want_only(standing, order.only)
        if rows := standing.below():
            rows = keep_waiting_below(standing, rows)
        standing.seen = frozenset([row.id for row in rows] if rows else ())
        carried = _look(standing, rows, order)
        made, number = _younger(standing, made)
        _keep_apart(made)
        if carried is not None:
            made, number = carried.attach_in(made), 0
        _ready(standing, made, order)
        previous = copy_of(Previous, standing, recursive=order.submounts == "drop")
        previous.point, previous.old_id = standing.info.point or standing.target, standing.number
        previous.carried, previous.gap = len(carried or ()), not order.beneath
        if rows or order.check is not None or order.wait or order.submounts != "carry" or not order.beneath:
            standing.look_again()  # that took a while; what came meanwhile would go with the old one
        if order.beneath:
            beneath(standing, made, number, carried, alone=bool(rows), late=order.submounts != "drop")
        else:
            with_gap(standing, made, carried, alone=bool(rows))
        return made, previous, _own(made, carried) if order.check_after is not None else set()
    except BaseException as error:
        made.close()
        if previous is not None:
            previous.close()
        if isinstance(error, KernelError) and _is_race(error, standing):
            hint = f"{standing.target!r} or what is below it was changed meanwhile: try again"
            raise changed(standing.target, hint) from error
        raise


def _keep_apart(made: Mount) -> None:
    """Make it private: a clone is a peer of what it was cloned from, and what is attached in it would appear there."""
    try:
        made.set(propagation=_PRIVATE, recursive=True)
    except KernelError as error:
        explain_unusable(error)
        raise


def _is_race(error: KernelError, standing: Standing) -> bool:
    """Say whether it failed because somebody else was at work there, and nothing was changed by us."""
    return error.errno in _RACES and not standing.is_going and standing.has_changed()


def _want_only(standing: Standing, number: int) -> None:
    if standing.number != number:
        raise InvalidSpec(f"{standing.target!r} was changed meanwhile by somebody else", part="target")


def _look(standing: Standing, rows: list[MountInfo], order: Order) -> Carried | None:
    """Refuse what must not be done, and clone what comes along."""
    if rows or standing.hears_its_parent:
        refuse_returning(standing, rows)
    if not rows:
        return None
    if order.submounts == "refuse":
        points = ", ".join(sorted({row.point or "a hidden place" for row in rows}))
        raise InvalidSpec(f"mounts stand below {standing.target!r}: {points}", part="submounts")
    refuse_bystanders(standing, rows)
    if order.submounts == "drop":
        return None
    return Carried(standing, rows, without=order.without, forgiving=order.only != 0)


def _younger(standing: Standing, made: Mount) -> tuple[Mount, int]:
    """Give the new mount and its id, or a clone of it and 0 where the one that it will replace came after it was made.

    Raises: InvalidSpec where one is a file and the other a directory.
    """
    number, mode, _ = facts_of(made.fileno())
    if standing.is_directory != S_ISDIR(mode):
        kinds = ("a directory", "a file") if standing.is_directory else ("a file", "a directory")
        raise InvalidSpec(f"{standing.target!r} is {kinds[0]}, the new mount's root is {kinds[1]}", part="new")
    if number > standing.number:
        return made, number
    with made:
        return copy(made), 0


def _ready(standing: Standing, made: Mount, order: Order) -> None:
    """Have the new mount looked at, and wait for who uses the old one: afterwards it is attached."""
    if standing.is_shared and not standing.is_parent_shared:  # there the kernel does it
        made.set(propagation=Propagation.SHARED)
    if order.check is not None and not (answer := order.check(made)):
        raise MountfdError(f"the check answered {answer!r}, so {standing.target!r} stays as it was")
    if order.wait > 0:
        wait_for_users(standing, order.wait)
    if order.check is not None or order.wait or standing.seen:
        standing.refuse_if_covered()  # that took a while; the new one would go upon the old one, beneath that


def _own(made: Mount, carried: Carried | None) -> set[int]:
    """Give the ids of what stands below the new mount without having been carried there."""
    kept = set() if carried is None else carried.ids(made)
    own = set(list_below(made.id))
    for number in kept:
        own -= {number, *list_below(number)}
    return own


# --- the check afterwards ------------------------------------------------------------------------------------------
def _look_again(target: StrPath, made: Mount, previous: Previous, own: set[int], order: Order) -> None:
    try:
        refused = order.check_after is not None and not order.check_after(made)
    except BaseException as error:
        _put_back(made, previous, own, order, error)
        error.add_note(f"what stood at {os.fsdecode(target)!r} before is back")
        raise
    if refused:
        refusal = MountfdError(f"the check refused the new mount: what stood at {os.fsdecode(target)!r} before is back")
        _put_back(made, previous, own, order, refusal)
        raise refusal


def _put_back(made: Mount, previous: Previous, own: set[int], order: Order, why: BaseException) -> None:
    """Replace the new mount by the previous one; what came with the new one goes with it."""
    back = Order(allow_gap=order.allow_gap, beneath=order.beneath, is_elsewhere=order.is_elsewhere)
    back.only, back.without = made.id, frozenset(own)
    with previous:
        try:
            # What was given may lead into the old mount by now, as `.` does.
            _replace(previous.point, previous, back).close()
        except MountfdError as error:
            error.add_note(f"the check had failed ({why}), and what stood there before could not be put back")
            raise
