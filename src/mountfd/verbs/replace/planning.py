"""What a replacement would do, said before it is done."""

from __future__ import annotations

from mountfd.abi.flags import Propagation
from mountfd.errors import InvalidSpec
from mountfd.verbs.query import mounts
from mountfd.verbs.query.asking import ask, mask_of
from mountfd.verbs.replace.bystanders import receiving_groups, refuse_bystanders, refuse_returning
from mountfd.verbs.replace.carrying import points_of
from mountfd.verbs.replace.standing import Standing
from mountfd.verbs.replace.switching import check_submounts, route

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.abi.paths import StrPath
    from mountfd.model.info import MountInfo

__all__ = ["plan"]


def plan(target: StrPath, *, submounts: str = "carry") -> list[str]:
    """Say in sentences what `replace` would do at a target; nothing is changed.

    Arguments: as of `replace`. Raises: InvalidSpec for what can't be replaced at all.
    """
    check_submounts(submounts)
    with Standing(target) as standing:
        info, below = ask(standing.number, mask_of(("id", "fstype", "source"))), standing.below()
        lines = [f"{standing.target}: the {info.fstype} mount {info.id} ({info.source or 'no source'}) would go"]
        if standing.is_half_replaced():
            lines.append("an earlier replacement was never ended: that would be done first")
        lines += _about_refusals(standing, below, submounts)
        lines += _about_mounts_below(standing, below, submounts)
        lines.append(_about_route())
        lines += _about_others(standing)
    return lines


def _about_mounts_below(standing: Standing, below: list[MountInfo], submounts: str) -> list[str]:
    if not below:
        return ["nothing stands below it"]
    if submounts == "refuse":
        return [f"{len(below)} mounts stand below it, so it would be refused"]
    word = "would come along" if submounts == "carry" else "would go with it"
    lines = [f"{point} {word}" for point in points_of(standing, below)]
    stuck = [row.point for row in below if (row.propagation or 0) & Propagation.UNBINDABLE]
    if submounts == "carry":
        lines += [f"{point} is unbindable, so it would be refused" for point in stuck]
    return lines


def _about_refusals(standing: Standing, below: list[MountInfo], submounts: str) -> list[str]:
    try:
        refuse_returning(standing, below)
        if submounts != "refuse":
            refuse_bystanders(standing, below)
    except InvalidSpec as error:
        return [f"it would be refused: {error}"]
    return []


def _about_route() -> str:
    if route() == "beneath":
        return "the new mount would be attached beneath, then the old one detached: at no instant without a mount"
    return "this kernel can't attach beneath: there would be an instant without a mount (only if a gap is allowed)"


def _about_others(standing: Standing) -> list[str]:
    """Tell which namespaces would see it: those with a peer or a slave of the mount that the target stands on."""
    parent = standing.parent
    if parent is None:
        return []
    if not parent.peer_group:
        return ["nobody else receives it: the mount that it stands on is not shared"]
    rows = mounts(namespace="all", fields=("ns_id", "peer_group", "master"))
    groups = receiving_groups(parent.peer_group, rows)
    found = {row.ns_id for row in rows if not groups.isdisjoint((row.peer_group, row.master))}
    others = len(found - {parent.ns_id})
    return [f"{others} other mount namespaces receive it, and would switch in the same instant"]
