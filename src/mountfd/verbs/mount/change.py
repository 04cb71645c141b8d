"""What is done to mounts that stand already: remount, propagation, move. By descriptor."""

from __future__ import annotations

import os
from errno import EINVAL, EPERM

from mountfd.abi.paths import encode
from mountfd.errors import InvalidSpec, KernelError
from mountfd.handles.context import FsContext
from mountfd.handles.mount import Mount
from mountfd.handles.refused import LOCKED
from mountfd.verbs.query import lookup
from mountfd.verbs.query.place import HERE, id_of, is_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mountfd.model.options import Options
    from mountfd.model.param import Param
    from mountfd.model.spec import MountSpec
    from mountfd.verbs.mount.place import Place

__all__ = ["change", "move", "propagate", "remount", "set_all", "set_attributes"]

_SETTABLE = 0x2000FF


def remount(options: Options, place: Place) -> None:
    """Change a mount that stands, and unless `bind` was said its filesystem too. What isn't named stays as it is.

    Raises: Busy for `ro` with a file open for writing: then nothing has changed.
    """
    _want_mount(place)
    params = [] if options.bind_too else [*options.sb_params(negative=True), *options.params]
    with _opened(place) as mount:
        try:
            set_all(options, mount, params)
        except KernelError as error:
            error.explain(filename=place.name)
            raise


def change(options: Options, place: Place) -> None:
    """Set the propagation, and where words say so attributes, of a mount that stands; its filesystem stays as it is."""
    _want_mount(place)
    with _opened(place) as mount:
        try:
            set_all(options, mount)
        except KernelError as error:
            error.explain(filename=place.name)
            raise


def set_all(options: Options, mount: Mount, params: Sequence[Param] = ()) -> None:
    """Set attributes and propagation of a mount, and parameters of its filesystem; or nothing, should that fail."""
    before = int(lookup(fd=mount, fields=("attrs",)).attrs or 0) & _SETTABLE
    if options.attrs or options.clear:
        set_attributes(mount, options.attrs, options.clear)
    try:
        if params:
            with FsContext.pick(f"/proc/self/fd/{mount.fileno()}") as context:
                context.set(*params).reconfigure()
        if options.below or options.below_clear:
            set_attributes(mount, options.below, options.below_clear, recursive=True)
        propagate(options, mount)
    except BaseException:
        if options.attrs or options.clear:
            mount.set(before, clear=_SETTABLE & ~before)
        raise


def set_attributes(mount: Mount, attrs: int, clear: int, *, recursive: bool = False) -> None:
    """Change attributes, and say what it usually is where that is forbidden."""
    try:
        mount.set(attrs, clear=clear, recursive=recursive)
    except KernelError as error:
        if error.errno == EPERM and clear:
            error.explain(hint=LOCKED)
        raise


def propagate(options: Options, mount: Mount) -> None:
    """Set the propagation that the options ask for, in their order."""
    for propagation, recursive in options.propagation:
        mount.set(propagation=propagation, recursive=recursive)


def move(spec: MountSpec, options: Options, place: Place, *, beneath: bool) -> int:
    """Move a mount that stands at the source to the place; give its unique id, 0 where the kernel has none."""
    with Mount.open(encode(spec.source, "source"), follow="source" not in options.nofollow) as mount:
        number = id_of(mount.fileno(), b"", HERE)
        try:
            mount.attach_fd(place.fd, beneath=beneath)
        except KernelError as error:
            if error.errno == EINVAL:
                error.explain(
                    filename=spec.source,
                    hint="the source is no mount, stands on a shared one, is locked, or the target lies within it",
                )
            raise
        place.check(mount, beneath=beneath)
        propagate(options, mount)
    return number


def _opened(place: Place) -> Mount:
    return Mount(os.dup(place.fd))  # mount_setattr(2) takes any descriptor of a mount's root


def _want_mount(place: Place) -> None:
    if is_root(place.fd, b"", HERE) is False:
        raise InvalidSpec(f"{place.name!r} is no mount: only one that stands can be changed", part="target")
