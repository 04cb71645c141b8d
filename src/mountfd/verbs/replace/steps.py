"""The two steps: the new mount is attached beneath the old one, the old one is detached. Nobody sees neither."""

from __future__ import annotations

import os
import sys
from errno import EINVAL

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.errors import KernelError, Missing
from mountfd.handles.fd import OwnedFd
from mountfd.handles.mount import Mount
from mountfd.verbs.enter import on_thread
from mountfd.verbs.query.asking import stands
from mountfd.verbs.replace.standing import WAITS, detach_top

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from mountfd.model.info import MountInfo
    from mountfd.verbs.replace.carrying import Carried
    from mountfd.verbs.replace.standing import Standing

    M = TypeVar("M", bound=Mount)

__all__ = ["beneath", "copy_of", "with_gap"]

_UNBINDABLE, _PRIVATE = 1 << 17, 1 << 18


def beneath(  # noqa: PLR0913 (all that there is, and two choices)
    standing: Standing, made: Mount, number: int, carried: Carried | None, *, alone: bool, late: bool
) -> None:
    """Take both steps.

    Arguments: number, the id of the new mount, or 0; alone, whether mounts stand below the old one, which are to go
    with it but not their peers; late, whether those that came to stand there since it was looked at are to come along.
    """
    _undisturbed(lambda: _tuck_and_detach(standing, made, number, carried, alone=alone, late=late))


def _undisturbed(act: Callable[[], None]) -> None:
    """Do something without a signal handler in between."""
    if _may_be_interrupted():
        on_thread(act)
        return
    before = calls.block_signals()
    try:
        act()
    finally:
        calls.restore_signals(before)


def _may_be_interrupted() -> bool:
    """Say whether a signal handler may run here though this thread blocks signals: others may take them for it."""
    threading = sys.modules.get("threading")
    return threading is not None and threading.active_count() > 1


def _tuck_and_detach(  # noqa: PLR0913 (as `beneath`)
    standing: Standing, made: Mount, number: int, carried: Carried | None, *, alone: bool, late: bool
) -> None:
    _tuck(standing, made)
    standing.is_going = True
    if alone:
        _keep_to_itself(standing)
    if late and any(news := _news(standing)):
        from mountfd.verbs.replace.latecomers import follow  # noqa: PLC0415 (hardly ever)

        follow(standing, made, carried, *news)
        _keep_to_itself(standing)
    detach_top(standing, number, is_sure=late)  # what covers it would have been found among what came late
    _restore_propagation(standing, made, carried)


def _keep_to_itself(standing: Standing, hint: str = WAITS) -> None:
    """Let only the old one go, and what is on it; where the parent is shared, that goes everywhere.

    Raises: KernelError: the old one must not go then, since what stands on its peers would go with it.
    """
    if standing.is_parent_shared and not standing.goes_alone:
        return
    try:
        standing.keep_to_itself()
    except KernelError:
        try:
            standing.keep_to_itself()  # so near to the end one failure isn't the end
        except KernelError as error:
            if stands(standing.number):
                error.explain(filename=standing.target, hint=hint)
                raise


def _news(standing: Standing) -> tuple[list[MountInfo], frozenset[int | None]]:
    try:
        return standing.news()
    except KernelError:
        try:
            return standing.news()  # so near to the end one failure isn't the end
        except Missing:
            return [], frozenset()  # somebody took the old one away, and the new one shows


def _restore_propagation(standing: Standing, made: Mount, carried: Carried | None) -> None:
    """Let all hear and be heard as before: where the parent is shared, the kernel makes shared what is attached there.

    Not before the old one is gone: it goes where the new one is shared to.
    """
    if standing.is_parent_shared and not standing.is_shared:
        made.set(propagation=_PRIVATE)
    if carried is not None:
        carried.restore_propagation(made)


def _tuck(standing: Standing, made: Mount) -> None:
    # A mark can be undone only where it is known what was there before: by the next one, too, if this is killed here.
    early = standing.has_usual_times
    marked = early and standing.mark()
    try:
        made.attach_fd(standing.fd, beneath=True)
    except KernelError as error:
        error.explain(filename=standing.target)
        if marked:
            _unmark(standing, error)
        raise
    if not early:
        try:
            standing.mark()
        except KernelError as error:  # the first of the two steps is done: the second matters more
            calls.remark(f"replace: {standing.target!r} isn't marked ({error}): if this is killed now nobody knows")


def _unmark(standing: Standing, why: KernelError) -> None:
    try:
        standing.unmark()
    except KernelError as error:
        why.add_note(f"the old mount keeps a mark, which the next replacement takes away: {error}")


def with_gap(standing: Standing, made: Mount, carried: Carried | None, *, alone: bool) -> None:
    """Take the old one away and attach the new one at once: as short a gap as there can be."""
    with copy_of(Mount, standing, recursive=True) as old:
        _undisturbed(lambda: _detach_and_attach(standing, made, carried, old, alone=alone))


def _detach_and_attach(standing: Standing, made: Mount, carried: Carried | None, old: Mount, *, alone: bool) -> None:
    if alone:
        _keep_to_itself(standing, "nothing was changed")
    raw = os.fsencode(standing.info.point or standing.target)  # what was given may lead into the old one
    try:
        detach_top(standing)
        standing.is_going = True
        _attach_somehow(raw, made)
    except BaseException:
        if not _may_stand(standing):
            _attach_somehow(raw, old)  # nobody shall find nothing there
        raise
    _restore_propagation(standing, made, carried)


def _may_stand(standing: Standing) -> bool:
    try:
        return stands(standing.number)
    except KernelError:
        return standing.is_shown()


def _attach_somehow(raw: bytes, mount: Mount) -> None:
    try:
        _attach_at(raw, mount)
    except KernelError:
        _attach_at(raw, mount)  # nothing is there meanwhile: one failure isn't the end


def _attach_at(raw: bytes, mount: Mount) -> None:
    with OwnedFd(calls.openat(n.AT_FDCWD, raw, os.O_PATH | os.O_CLOEXEC, 0)) as place:
        mount.attach_fd(place.fileno())


def copy_of(kind: type[M], standing: Standing, *, recursive: bool) -> M:
    """Clone the old mount, to be put back."""
    try:
        copy = kind.clone_fd(standing.fd, recursive=recursive)
    except KernelError as error:
        if error.errno == EINVAL and (standing.info.propagation or 0) & _UNBINDABLE:
            hint = "it is unbindable, so no copy of it can be kept: make it private first"
            error.explain(filename=standing.target, hint=hint)
        raise
    if recursive:
        try:
            # A peer of the old one would lose what stands on it together with that.
            copy.set(propagation=_PRIVATE, recursive=True)
        except BaseException:
            copy.close()
            raise
    return copy
