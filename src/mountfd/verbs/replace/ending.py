"""A replacement that was killed between its two steps: how it is known, and how it is ended."""

from __future__ import annotations

from collections import Counter

from mountfd.abi import calls
from mountfd.errors import InvalidSpec, Missing
from mountfd.verbs.query.asking import ask, list_below, mask_of
from mountfd.verbs.replace.bystanders import is_begun_elsewhere, refuse_bystanders
from mountfd.verbs.replace.standing import Standing, changed, detach_top, look_beneath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.model.info import MountInfo

__all__ = ["end_earlier", "is_half_replaced"]

_SHARED = 1 << 20
_WHAT = mask_of(("id", "point", "dev", "root"))


def end_earlier(standing: Standing, submounts: str) -> Standing:
    """End a replacement that was killed between its two steps; give what stands there then, closed with what stood.

    Raises: InvalidSpec where that would take away what was mounted upon the old one since.
    """
    while is_half_replaced(standing):
        calls.remark(f"replace: an earlier one of {standing.target!r} was never ended; ending it")
        _end(standing, submounts)
        again = standing.passing.enter_context(Standing(standing.raw))
        again.is_elsewhere, again.lock = standing.is_elsewhere, standing.lock
        standing = again
    if standing.is_marked:
        # It was killed before the first step. Nobody else gives a mount these two attributes.
        standing.unmark()
    return standing


def is_half_replaced(standing: Standing) -> bool:
    """Say whether a replacement was begun and never ended: here, or in a namespace that shares what happens here."""
    if standing.is_half_replaced():
        return True
    # There the mark stayed, or all was copied with a new namespace, the lower one first; the one it was begun in tells.
    if not (standing.is_older or standing.is_marked) or not standing.covers:
        return False
    return bool(standing.parent.peer_group) and is_begun_elsewhere(standing.parent)


def _end(standing: Standing, submounts: str) -> None:
    rows, new = standing.below(), standing.parent
    if submounts != "drop":
        _refuse_to_lose(standing, new, rows)
    lowest = look_beneath(new.parent_id or 0, standing)
    is_shared = bool(int(lowest.propagation or 0) & _SHARED)
    if is_shared and rows:
        refuse_bystanders(standing, rows)
    if not is_shared or standing.goes_alone:
        standing.keep_to_itself()  # what stands on its peers stays, as it would have without the kill
    detach_top(standing, new.id or 0)


def _refuse_to_lose(standing: Standing, new: MountInfo, rows: list[MountInfo]) -> None:
    """Raise InvalidSpec where mounts stand upon the old one that weren't carried to the new one beneath it."""
    if not rows:
        return
    old = [row.id or 0 for row in rows]
    try:
        on_new = Counter(_likeness(number) for number in {*list_below(new.id or 0)} - {*old, standing.number})
        on_old = Counter(_likeness(number) for number in old)
    except Missing as error:
        raise changed(standing.target, f"mounts below {standing.target!r} came or went meanwhile: try again") from error
    lost = sorted({str(point) for point, *_ in on_old - on_new})
    if lost:
        raise InvalidSpec(
            f"an earlier replacement of {standing.target!r} was killed half-way, and ending it would take away what "
            f"was mounted upon the old mount since: {', '.join(lost)} (unmount it, or have submounts dropped)",
            part="submounts",
        )


def _likeness(number: int) -> tuple[str | None, tuple[int, int] | None, str | None]:
    """Give what a mount and its clone at the same place have in common."""
    row = ask(number, _WHAT)
    return row.point, row.dev, row.root
