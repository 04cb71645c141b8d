"""A list of mounts below one place: all of it or nothing."""

from __future__ import annotations

from functools import partial

from mountfd.errors import InvalidSpec
from mountfd.model.spec import MountSpec
from mountfd.verbs.mount.one import is_new, mount_at
from mountfd.verbs.mount.place import Directories, Place
from mountfd.verbs.mount.tree import fits, mount_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountfd.abi.paths import StrPath

__all__ = ["mount_all", "mount_apart"]


def mount_all(specs: Iterable[MountSpec], target: StrPath, *, reuse_loop: bool = False) -> list[int | None]:
    """Mount a list, in order, below one place: all of it or nothing.

    Arguments: specs; target, reuse_loop, as of `mount`.
    Every description is understood before anything is done. From Linux 6.15 on, a list whose first has no target, so
    that all others stand below it, is made as a detached tree and attached in one step: also a kill leaves all of it or
    nothing. Remounts, FUSE programs, stacks, and what stands on a bind, make it one after the other. When one fails
    then, what was mounted is taken away again, last first; a remount or propagation that was done stays. What stands
    below the source of an rbind stays there; where that, the source and the target are shared, copies that spread to
    peers of the target may stay as well: a note of the error says so. Gives the ids, as `mount` does.
    Raises: what `mount` raises; InvalidSpec for `move`, which can't be taken back; an ExceptionGroup of the failure
    and of every failure to take something away.
    """
    return _mount_all(specs, target, reuse_loop=reuse_loop, apart=False)


def mount_apart(specs: Iterable[MountSpec], target: StrPath) -> list[int | None]:
    """Mount a list as `mount_all` does, binds as mounts that are no peers of their sources."""
    return _mount_all(specs, target, reuse_loop=False, apart=True)


def _mount_all(specs: Iterable[MountSpec], target: StrPath, *, reuse_loop: bool, apart: bool) -> list[int | None]:
    listed = list(specs)
    for spec in listed:
        if not isinstance(spec, MountSpec):
            raise InvalidSpec(f"mount_all takes MountSpecs, not {type(spec).__name__}", part="specs")
        if spec.understood().action == "move":
            raise InvalidSpec("a move can't be taken back when a later mount fails: it goes alone", part="specs")
    if fits(listed):
        ids = mount_tree(listed, target, reuse_loop=reuse_loop, apart=apart)
        if ids is not None:
            return ids
    return _one_by_one(listed, target, reuse_loop=reuse_loop, apart=apart)


def _one_by_one(listed: list[MountSpec], target: StrPath, *, reuse_loop: bool, apart: bool) -> list[int | None]:
    done: dict[int, int | None] = {}
    made = Directories()
    try:
        for index, spec in enumerate(listed):
            options = spec.understood()
            with Place(target, spec.target, options) as place:
                # Noted before it is attached: an exception of a signal handler may come at any time.
                note = partial(done.__setitem__, index)
                done[index] = mount_at(spec, options, place, reuse_loop=reuse_loop, apart=apart, note=note)
                made.take(place.made)
    except BaseException as error:
        failures = _take_away([(listed[index], number) for index, number in done.items()], target, error)
        made.undo()
        if failures:
            what = "mount_all failed, and so did taking away what it had mounted"
            raise BaseExceptionGroup(what, [error, *failures]) from None
        raise
    finally:
        made.close()
    return list(done.values())


def _take_away(done: list[tuple[MountSpec, int | None]], target: StrPath, cause: BaseException) -> list[BaseException]:
    from mountfd.verbs.mount.parting import STAYS, part_below, part_top  # noqa: PLC0415 (only on the way out)
    from mountfd.verbs.query.asking import stands  # noqa: PLC0415
    from mountfd.verbs.unmount import unmount  # noqa: PLC0415

    failures: list[BaseException] = []
    for spec, number in reversed(done):
        if not is_new(spec):
            continue
        try:
            if number is None:
                with Place(target, spec.target, spec.understood()) as place:
                    path = place.path()
                stays = part_top(path)
                unmount(path, lazy=True, wait=0)
            elif not stands(number):
                continue  # it was never attached, or is gone already
            else:
                stays = part_below(number)
                unmount(id=number, lazy=True, wait=0)
            if stays:
                cause.add_note(STAYS)
        except Exception as error:  # noqa: BLE001 (reported together with the failure that caused this)
            failures.append(error)
    return failures
