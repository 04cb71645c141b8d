"""One mount at a place that was found: which route, and the step that others can see."""

from __future__ import annotations

from errno import EINVAL

from mountfd.abi import calls
from mountfd.abi.features import Feature, has
from mountfd.errors import InvalidSpec, KernelError
from mountfd.verbs.mount.place import take_back
from mountfd.verbs.query.place import HERE, id_of, stands_here
from mountfd.verbs.routes import choose

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mountfd.handles.mount import Mount
    from mountfd.model.options import Options
    from mountfd.model.spec import MountSpec
    from mountfd.verbs.mount.place import Place

__all__ = ["BINDS", "attach_at", "is_new", "mount_at", "route", "step"]

BINDS = ("bind", "rbind")
_MS_REC, _MS_PRIVATE = 16384, 1 << 18
_ROUTES = {
    "descriptor": lambda: has(Feature.MOUNT_API) and has(Feature.MOUNT_SETATTR),
    "string": lambda: True,
}


def is_new(spec: MountSpec) -> bool:
    """Say whether a description is of a new mount, and doesn't change or move one that stands."""
    return spec.understood().action not in ("remount", "move") and bool(spec.filesystem or spec.source)


def route() -> str:
    """Name the route that mount takes here: descriptor or string."""
    return choose("mount", _ROUTES)


def mount_at(  # noqa: PLR0913 (what, where, and how)
    spec: MountSpec,
    options: Options,
    place: Place,
    *,
    beneath: bool = False,
    reuse_loop: bool = False,
    apart: bool = False,
    note: Callable[[int | None], None] | None = None,
) -> int | None:
    """Do what a description says at a place, and give the id, as `mount` does.

    Arguments: options, of the spec, understood; apart, make binds no peers of their sources; note, told the id before
    it is attached.
    """
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
        if apart and options.action in BINDS:
            _set_apart(options, place)
        return number
    from mountfd.verbs.mount.change import change, move, remount  # noqa: PLC0415

    if options.action == "move":
        return move(spec, options, place, beneath=beneath) or None
    if not is_new(spec):
        number = id_of(place.fd, b"", HERE)  # asked first: what is done isn't taken back for want of a number
        act_on = remount if options.action else change
        act_on(options, place)
        return number or None
    from mountfd.verbs.mount.make import make_detached  # noqa: PLC0415

    with make_detached(spec, options, reuse_loop=reuse_loop) as made:
        if apart and options.action in BINDS:
            made.set(propagation=_MS_PRIVATE, recursive=True)
        return attach_at(made, options, place, beneath=beneath, note=note) or None


def _set_apart(options: Options, place: Place) -> None:
    """Do by mount(2) what goes before the attaching on the other route."""
    path = place.path()
    for propagation, recursive in ((_MS_PRIVATE, True), *options.propagation):
        calls.mount(None, path, None, int(propagation) | (_MS_REC if recursive else 0), None)


def attach_at(
    made: Mount, options: Options, place: Place, *, beneath: bool, note: Callable[[int | None], None] | None
) -> int:
    """Attach a detached mount, see that it stands there, and give it its propagation; it goes where that fails."""
    from mountfd.verbs.mount.change import propagate  # noqa: PLC0415

    number = id_of(made.fileno(), b"", HERE)
    if note is not None and number:
        note(number)
    try:
        step(made, place, beneath=beneath)
    except KernelError:
        raise
    except BaseException:  # of a signal handler: it may have been attached before
        if stands_here(made.fileno()):
            take_back(made)
        raise
    try:
        place.check(made, beneath=beneath)
        propagate(options, made)
    except BaseException:
        take_back(made)
        raise
    return number


def step(made: Mount, place: Place, *, beneath: bool = False) -> None:
    """Attach a detached mount, and do nothing else."""
    try:
        made.attach_fd(place.fd, beneath=beneath)
    except KernelError as error:
        error.explain(filename=place.name)
        if error.errno == EINVAL and not beneath:
            error.explain(hint="the mount's root and the target must both be directories, or neither")
        raise
