"""mount: what fstab(5), containerd and mount(8) describe by type, source, target and options.

| what | by descriptor | by mount(2) |
| --- | --- | --- |
| a new mount | made detached and finished (make.py, source.py), then attached | step by step (by_string.py) |
| remount, propagation, move | fspick(2), mount_setattr(2), move_mount(2) (change.py) | flags (by_string.py) |
| FUSE | a helper program (helper.py) | the same |
| the place | found once, held by a descriptor (place.py) | the same |
"""

from __future__ import annotations

from errno import EINVAL
from functools import partial

from mountfd.abi import calls
from mountfd.abi.features import Feature, has
from mountfd.errors import InvalidSpec, KernelError
from mountfd.model.spec import MountSpec
from mountfd.verbs.mount.place import Directories, Place, take_back
from mountfd.verbs.query.place import HERE, id_of
from mountfd.verbs.routes import choose

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mountfd.abi.paths import StrPath
    from mountfd.handles.mount import Mount
    from mountfd.model.options import Options

__all__ = ["mount", "mount_all", "mount_apart", "route"]

_MS_REC, _MS_PRIVATE = 16384, 1 << 18
_BINDS = ("bind", "rbind")
_ROUTES = {
    "descriptor": lambda: has(Feature.MOUNT_API) and has(Feature.MOUNT_SETATTR),
    "string": lambda: True,
}


def mount(spec: MountSpec, target: StrPath, *, beneath: bool = False, reuse_loop: bool = False) -> int | None:
    """Mount what a description says; or change, move or propagate what stands, where its options say that.

    Arguments: spec, a MountSpec; target, the place, below which spec.target is found without a way out of it; beneath,
    below the mount that stands there; reuse_loop, whether a loop device that has the image already is taken again.
    Gives the mount's unique id, for `unmount`; None before Linux 6.8. A new mount is finished before it is attached:
    attributes, idmap and owner are never seen half done. On any failure nothing is left, made directories included.
    Attributes that the options don't name stay as they are: a bind of a nosuid mount is nosuid. `ro` of an rbind means
    the top mount; `rro` all of it.
    Raises: InvalidSpec, Missing, NotDirectory, Denied, Busy, NotSupported; KernelError with the kernel's words in .log.
    Calls: fsopen(2), open_tree(2), mount_setattr(2), move_mount(2), Linux 5.12; before that mount(2).
    """
    if not isinstance(spec, MountSpec):
        raise InvalidSpec(f"mount takes a MountSpec, not {type(spec).__name__}", part="spec")
    options = spec.understood()
    with Place(target, spec.target, options) as place:
        return _at(spec, options, place, beneath=beneath, reuse_loop=reuse_loop)


def mount_all(specs: Iterable[MountSpec], target: StrPath, *, reuse_loop: bool = False) -> list[int | None]:
    """Mount a list, in order, below one place: all of it or nothing.

    Arguments: specs; target, reuse_loop, as of `mount`.
    Every description is understood before anything is done. When one fails, what was mounted is taken away again, last
    first; a remount or propagation that was done stays. What stands below the source of an rbind stays there; where
    that, the source and the target are shared, copies that spread to peers of the target may stay as well: a note of
    the error says so. Gives the ids, as `mount` does.
    Raises: what `mount` raises; InvalidSpec for `move`, which can't be taken back; an ExceptionGroup of the failure
    and of every failure to take something away.
    """
    return _mount_all(specs, target, reuse_loop=reuse_loop, apart=False)


def mount_apart(specs: Iterable[MountSpec], target: StrPath) -> list[int | None]:
    """Mount a list as `mount_all` does, binds as mounts that are no peers of their sources."""
    return _mount_all(specs, target, reuse_loop=False, apart=True)


def route() -> str:
    """Name the route that mount takes here: descriptor or string."""
    return choose("mount", _ROUTES)


def _mount_all(specs: Iterable[MountSpec], target: StrPath, *, reuse_loop: bool, apart: bool) -> list[int | None]:
    listed = list(specs)
    for spec in listed:
        if not isinstance(spec, MountSpec):
            raise InvalidSpec(f"mount_all takes MountSpecs, not {type(spec).__name__}", part="specs")
        if spec.understood().action == "move":
            raise InvalidSpec("a move can't be taken back when a later mount fails: it goes alone", part="specs")
    done: dict[int, int | None] = {}
    made = Directories()
    try:
        for index, spec in enumerate(listed):
            options = spec.understood()
            with Place(target, spec.target, options) as place:
                # Noted before it is attached: an exception of a signal handler may come at any time.
                note = partial(done.__setitem__, index)
                done[index] = _at(spec, options, place, reuse_loop=reuse_loop, apart=apart, note=note)
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


def _at(  # noqa: PLR0913 (what, where, and how)
    spec: MountSpec,
    options: Options,
    place: Place,
    *,
    beneath: bool = False,
    reuse_loop: bool = False,
    apart: bool = False,
    note: Callable[[int | None], None] | None = None,
) -> int | None:
    from mountfd.verbs.mount.helper import is_for_helper, mount_by_helper  # noqa: PLC0415 (beside what it serves)

    if is_for_helper(spec) and not options.action:
        return mount_by_helper(spec, options, place, beneath=beneath) or None
    if route() == "string":
        if beneath:
            raise InvalidSpec("mount(2) can't attach beneath: that takes move_mount(2)", part="beneath")
        from mountfd.verbs.mount.by_string import act  # noqa: PLC0415 (one route is loaded, not both)

        number = act(spec, options, place, reuse_loop=reuse_loop) or None
        if note is not None:
            note(number)
        if apart and options.action in _BINDS:
            _set_apart(options, place)
        return number
    from mountfd.verbs.mount.change import change, move, remount  # noqa: PLC0415

    if options.action == "move":
        return move(spec, options, place, beneath=beneath) or None
    if options.action == "remount" or not (options.action or spec.filesystem or spec.source):
        number = id_of(place.fd, b"", HERE)  # asked first: what is done isn't taken back for want of a number
        act_on = remount if options.action else change
        act_on(options, place)
        return number or None
    from mountfd.verbs.mount.make import detached  # noqa: PLC0415

    with detached(spec, options, reuse_loop=reuse_loop) as made:
        if apart and options.action in _BINDS:
            made.set(propagation=_MS_PRIVATE, recursive=True)
        return _attach(made, options, place, beneath=beneath, note=note) or None


def _set_apart(options: Options, place: Place) -> None:
    """Do by mount(2) what goes before the attaching on the other route."""
    path = place.path()
    for propagation, recursive in ((_MS_PRIVATE, True), *options.propagation):
        calls.mount(None, path, None, int(propagation) | (_MS_REC if recursive else 0), None)


def _attach(
    made: Mount, options: Options, place: Place, *, beneath: bool, note: Callable[[int | None], None] | None
) -> int:
    from mountfd.verbs.mount.change import propagate  # noqa: PLC0415

    number = id_of(made.fileno(), b"", HERE)
    if note is not None and number:
        note(number)
    try:
        made.attach_fd(place.fd, beneath=beneath)
    except KernelError as error:
        error.explain(filename=place.name)
        if error.errno == EINVAL and not beneath:
            error.explain(hint="the mount's root and the target must both be directories, or neither")
        raise
    try:
        place.check(number, beneath=beneath)
        propagate(options, made)
    except BaseException:
        take_back(made)
        raise
    return number


def _take_away(done: list[tuple[MountSpec, int | None]], target: StrPath, cause: BaseException) -> list[BaseException]:
    from mountfd.verbs.mount.parting import STAYS, part_below, part_under  # noqa: PLC0415 (only on the way out)
    from mountfd.verbs.query.asking import stands  # noqa: PLC0415
    from mountfd.verbs.unmount import unmount  # noqa: PLC0415

    failures: list[BaseException] = []
    for spec, number in reversed(done):
        if spec.understood().action == "remount" or not (spec.filesystem or spec.source):
            continue
        try:
            if number is None:
                with Place(target, spec.target, spec.understood()) as place:
                    path = place.path()
                stays, _ = part_under(path)
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
