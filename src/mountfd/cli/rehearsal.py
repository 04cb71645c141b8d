"""--fake and --onlyonce of mount(8): what a mount would need, and whether it stands already. Nothing is mounted."""

from __future__ import annotations

import os
import stat
from copy import copy
from errno import ENOENT

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.paths import encode
from mountfd.errors import InvalidSpec, KernelError, Missing, from_errno
from mountfd.handles.fd import OwnedFd
from mountfd.model.overlay_text import overlay_of
from mountfd.verbs.mount.make import owner_ids
from mountfd.verbs.mount.place import Place
from mountfd.verbs.mount.source import Source, by_tag
from mountfd.verbs.query.place import HERE, is_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.model.options import Options
    from mountfd.model.spec import MountSpec

__all__ = ["refuse_second", "rehearse"]

_PATH = os.O_PATH | os.O_CLOEXEC


def rehearse(spec: MountSpec, target: str) -> None:
    """See that the words, the source and the target are right, as far as that can be told without mounting.

    No directory and no loop device is made. Raises: what `mount` raises for the same.
    """
    options = spec.understood()
    owner_ids(options)
    _check_target(spec, options, target)
    if options.action in ("bind", "rbind", "move"):
        _check_there(spec.source, follow="source" not in options.nofollow)
    elif not options.action and (spec.filesystem or spec.source) and not spec.is_served:
        _check_filesystem(spec, options)


def refuse_second(spec: MountSpec, target: str) -> None:
    """Raise InvalidSpec where what a description names is mounted at the target already, by whomever."""
    options = spec.understood()
    if options.action in ("move", "remount") or not (spec.filesystem or spec.source):
        return
    from mountfd.verbs.query import mounts  # noqa: PLC0415 (only for this)

    point = os.path.realpath(target)
    rows = [row for row in mounts(fields=("point", "source", "root", "dev")) if row.point == point]
    if options.action:
        shown = _position(spec.source)
        stands = any((row.dev, row.root) == shown for row in rows)
    else:
        names = _names(spec.source or "none")
        stands = any(row.source in names for row in rows)
    if stands:
        raise InvalidSpec(f"{spec.source or 'none'} is mounted on {target} already", part="target")


def _check_target(spec: MountSpec, options: Options, target: str) -> None:
    as_it_is = copy(options)
    as_it_is.mkdir = None
    try:
        with Place(target, spec.target, as_it_is) as place:
            is_change = options.action == "remount" or not (options.action or spec.filesystem or spec.source)
            if is_change and is_root(place.fd, b"", HERE) is False:
                raise InvalidSpec(f"{target!r} is no mount: only one that stands can be changed", part="target")
    except Missing:
        if options.mkdir is None:
            raise


def _check_there(path: str, *, follow: bool) -> None:
    flags = _PATH if follow else _PATH | os.O_NOFOLLOW
    try:
        OwnedFd(calls.openat(n.AT_FDCWD, encode(path, "source"), flags, 0)).close()
    except KernelError as error:
        if error.errno == ENOENT:
            error.explain(hint=f"the source {path!r} doesn't exist")
        raise


def _check_filesystem(spec: MountSpec, options: Options) -> None:
    if not spec.filesystem and not spec.source:
        raise InvalidSpec("neither a type nor a source is given", part="type")
    if spec.filesystem == "overlay":
        overlay = overlay_of(options.params, None, spec.source)
        for layer in (*overlay.lower, *(layer for layer in (overlay.upper, overlay.work) if layer is not None)):
            _check_there(layer.path, follow=True)
        return
    unbound = copy(options)
    unbound.loop = None
    with Source(spec.source, unbound) as source:
        if options.loop is not None or spec.source.startswith("/"):
            _check_there(source.path, follow=True)
        if not options.loop or not options.loop.offset:  # further on in a file there may be another signature
            source.types(spec.filesystem)
    if options.loop is not None and not stat.S_ISREG(os.stat(source.path).st_mode):
        raise from_errno(ENOENT, "stat", (source.path,), filename=source.path, hint="`loop` takes an image")


def _position(source: str) -> tuple[tuple[int, int] | None, str | None]:
    """Give the filesystem that a path lies on, and where in it."""
    from mountfd.verbs.query import lookup  # noqa: PLC0415 (only for this)

    path = os.path.realpath(source)
    info = lookup(path, fields=("dev", "root", "point"))
    inner = os.path.relpath(path, info.point or "/")
    return info.dev, os.path.normpath(os.path.join(info.root or "/", inner))


def _names(source: str) -> set[str]:
    """Give the names by which the table may know a source: of an image, those of its loop devices."""
    device = by_tag(source)
    names = {source, device, os.path.realpath(device)} if device.startswith("/") else {source, device}
    if os.path.isfile(device):
        from mountfd.handles.loop import attached  # noqa: PLC0415 (only for images)

        names |= {each.path for each in attached(device)}
    return names
