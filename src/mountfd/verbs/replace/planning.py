"""What a replacement would do, said before it is done: all of it is tried but the two steps that anybody would see."""

from __future__ import annotations

import os

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.features import Feature, has
from mountfd.abi.flags import Propagation
from mountfd.errors import Denied, InvalidSpec, MountfdError, NotSupported
from mountfd.handles.fd import OwnedFd
from mountfd.handles.namespace import in_initial_user_namespace
from mountfd.verbs.enter import in_namespace, in_private_namespace
from mountfd.verbs.loading import load_everything
from mountfd.verbs.query import mounts
from mountfd.verbs.query.asking import ask, mask_of
from mountfd.verbs.replace.building import build, copy
from mountfd.verbs.replace.bystanders import receiving_groups, refuse_bystanders, refuse_returning
from mountfd.verbs.replace.carrying import points_of
from mountfd.verbs.replace.ending import is_half_replaced
from mountfd.verbs.replace.standing import Standing
from mountfd.verbs.replace.switching import check_submounts, replace, route

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountfd.abi.paths import StrPath
    from mountfd.handles.mount import Mount
    from mountfd.handles.mountns import MountNamespace
    from mountfd.model.info import MountInfo
    from mountfd.verbs.replace.building import New

__all__ = ["Plan", "plan"]

_EARLIER = "an earlier replacement was never ended: that would be done first, whatever becomes of this one"
_UNBINDABLE = "it is unbindable, so no copy of it can be kept: make it private first"
_NO_GAP = "this kernel can't attach beneath, and an instant without a mount isn't allowed (allow_gap, --allow-gap)"
_WORDS = {"carry": "would come along", "drop": "would go with it", "refuse": "stands below it"}


class Plan(list[str]):
    """What would happen, a sentence each; `refusals` are the errors it would end with, none where it is possible."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        """Begin without refusals."""
        super().__init__(lines)
        self.refusals: list[MountfdError] = []

    def refuse(self, error: MountfdError) -> None:
        """Say that it would end with this error."""
        self.refusals.append(error)
        self.append(f"it would be refused: {error}")
        self.extend(f"  {note}" for note in getattr(error, "__notes__", ()))


class _EnoughError(Exception):
    """Everything went well up to the check, which is the last thing before anybody would see something."""


def plan(
    target: StrPath,
    new: New | None = None,
    *,
    submounts: str = "carry",
    allow_gap: bool = False,
    namespaces: Iterable[MountNamespace] | None = None,
) -> Plan:
    """Say in sentences what `replace` would do at a target; nobody sees a change.

    Arguments: as of `replace`; without new, what could be said of any new mount. With it everything is done that
    comes before the check: it is made, and what stands below the target is attached in it. Gives a list of sentences;
    its `refusals` are the errors that the replacement would end with.
    Raises: InvalidSpec for what is no mount, and for this process's root.
    """
    check_submounts(submounts)
    if namespaces is None:
        return _plan(target, new, submounts, allow_gap=allow_gap)
    load_everything()
    found = Plan()
    made = None if new is None else build(new)
    try:
        for namespace in namespaces:
            found.append(f"in the mount namespace {_name(namespace)}:")
            try:
                lines = _plan_there(namespace, target, made, submounts, allow_gap=allow_gap)
            except MountfdError as error:
                found.refuse(error)
            else:
                found += lines
                found.refusals += lines.refusals
    finally:
        if made is not None:
            made.close()
    return found


def _plan_there(
    namespace: MountNamespace, target: StrPath, made: Mount | None, submounts: str, *, allow_gap: bool
) -> Plan:
    if made is None:
        return in_namespace(namespace, lambda: _plan(target, None, submounts, allow_gap=allow_gap))
    with copy(made) as clone:
        return in_namespace(namespace, lambda: _plan(target, clone, submounts, allow_gap=allow_gap))


def _plan(target: StrPath, new: New | None, submounts: str, *, allow_gap: bool) -> Plan:
    if not has(Feature.STATMOUNT):
        return _plan_by_path(target, new, submounts, allow_gap=allow_gap)
    with Standing(target) as standing:
        info, below = ask(standing.number, mask_of(("id", "fstype", "source"))), standing.below()
        found = Plan([f"{standing.target}: the {info.fstype} mount {info.id} ({info.source or 'no source'}) would go"])
        found.append(_about_route())
        is_half = is_half_replaced(standing)
        if is_half or standing.is_marked:
            # Trying would end it.
            found.append(_EARLIER)
            if new is not None:
                build(new).close()
                new = None
            if is_half:
                return found
        found += _about_mounts_below(standing, below, submounts)
        try:
            if new is None:
                _refuse_for_any(standing, below, submounts)
            else:
                _rehearse(standing.raw, new, submounts, allow_gap=allow_gap)
            if (standing.info.propagation or 0) & Propagation.UNBINDABLE:
                raise InvalidSpec(f"{standing.target!r}: {_UNBINDABLE}", part="target")
            if new is None and route() != "beneath" and not allow_gap:
                raise InvalidSpec(_NO_GAP, part="allow_gap")
        except MountfdError as error:
            found.refuse(error)
        else:
            found += _about_others(standing)
    return found


def _plan_by_path(target: StrPath, new: New | None, submounts: str, *, allow_gap: bool) -> Plan:
    """Plan where mounts have no unique ids, before Linux 6.8."""
    found = Plan([f"{os.fsdecode(target)}: what is mounted there would go", _about_route()])
    if new is not None:
        try:
            _rehearse(target, new, submounts, allow_gap=allow_gap)
        except MountfdError as error:
            found.refuse(error)
    return found


# --- what would be in the way -------------------------------------------------------------------------------------
def _rehearse(target: StrPath, new: New, submounts: str, *, allow_gap: bool) -> None:
    """Do everything up to the check, whose refusal leaves everything as it was. Raises: what the replacement would."""

    def stop(made: Mount) -> None:
        if not in_initial_user_namespace():
            _try_beneath(os.fsencode(target), made)
        raise _EnoughError

    try:
        replace(target, new, submounts=submounts, check=stop, allow_gap=allow_gap).close()  # type: ignore[arg-type]
    except _EnoughError:
        return


def _try_beneath(raw: bytes, made: Mount) -> None:
    """Attach it where nobody sees it: what came from a more privileged namespace is locked, and nothing else tells."""
    if route() != "beneath":
        return

    def act() -> None:
        with OwnedFd(calls.openat(n.AT_FDCWD, raw, os.O_PATH | os.O_CLOEXEC, 0)) as place:
            made.attach_fd(place.fileno(), beneath=True)

    in_private_namespace(act)


def _refuse_for_any(standing: Standing, below: list[MountInfo], submounts: str) -> None:
    """Raise what would be raised for whatever new mount."""
    refuse_returning(standing, below)
    if below and submounts == "refuse":
        raise InvalidSpec(f"{_counted(len(below), 'mount stands', 'mounts stand')} below it", part="submounts")
    refuse_bystanders(standing, below)
    stuck = [row.point for row in below if (row.propagation or 0) & Propagation.UNBINDABLE]
    if stuck and submounts == "carry":
        raise InvalidSpec(f"{stuck[0]} is unbindable, so it can't come along", part="submounts")


# --- words ---------------------------------------------------------------------------------------------------------
def _about_mounts_below(standing: Standing, below: list[MountInfo], submounts: str) -> list[str]:
    if not below:
        return ["nothing stands below it"]
    return [f"{point} {_WORDS[submounts]}" for point in points_of(standing, below)]


def _about_route() -> str:
    if route() == "beneath":
        return "the new mount is attached beneath, then the old one detached: at no instant without a mount"
    return "this kernel can't attach beneath: there would be an instant without a mount (only if a gap is allowed)"


def _about_others(standing: Standing) -> list[str]:
    """Tell which namespaces would see it: those with a peer or a slave of the mount that the target stands on."""
    parent = standing.parent
    if not parent.peer_group:
        return ["nobody else receives it: the mount that it stands on is not shared"]
    try:
        rows = mounts(namespace="all", fields=("ns_id", "peer_group", "master"))
    except (Denied, NotSupported):
        return ["whether other mount namespaces receive it can't be seen from here"]
    groups = receiving_groups(parent.peer_group, rows)
    others = {row.ns_id for row in rows if not groups.isdisjoint((row.peer_group, row.master))} - {parent.ns_id}
    if not others:
        return ["no other mount namespace receives it"]
    words = _counted(len(others), "other mount namespace receives", "other mount namespaces receive")
    return [f"{words} it, and would switch in the same instant"]


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _name(namespace: MountNamespace) -> str:
    try:
        return str(namespace.id)
    except MountfdError:
        return f"of process {namespace.pid}" if namespace.pid is not None else "that was given"
