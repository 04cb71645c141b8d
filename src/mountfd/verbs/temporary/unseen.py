"""A detached mount, or a tree of them, and a directory descriptor that leads into it."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.features import Feature, has
from mountfd.errors import InvalidSpec
from mountfd.handles.fd import OwnedFd
from mountfd.handles.mount import Mount
from mountfd.handles.root import Root
from mountfd.model.overlay import Overlay
from mountfd.model.param import Flag, String
from mountfd.model.spec import MountSpec
from mountfd.verbs.assemble import assemble
from mountfd.verbs.mount.helper import is_for_helper
from mountfd.verbs.mount.make import make_detached
from mountfd.verbs.mount.one import is_new
from mountfd.verbs.mount.parting import make_private
from mountfd.verbs.mount.place import Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TypeAlias

    What: TypeAlias = "Overlay | MountSpec | Mount | Iterable[MountSpec]"

__all__ = ["temporary"]

_READABLE = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_VOLATILE = (Flag("volatile"), String("fsync", "volatile"))


@contextmanager
def temporary(what: What) -> Iterator[Root]:
    """Give a directory descriptor into a mount that is attached nowhere: nobody else can see it.

    Arguments: what, an Overlay, a MountSpec, a list of them whose targets lie one below the other, or a Mount, which
    stays the caller's.
    Gives a Root: os.open(..., dir_fd=root.fileno()), os.listdir(root.fileno()) and root.resolve(...) work in it. When
    the block ends, or the process is killed, the kernel dissolves the mount; who has a file open there keeps the file.
    Binds are private to their source: what is mounted here isn't seen there. `volatile` is dropped from an overlay:
    what is written here shall be there afterwards.
    Raises: what `assemble` and `mount` raise.
    Calls: those of `assemble` and `mount`; a tree takes Linux 6.15, and before that a private namespace.
    """
    with ExitStack() as held:
        if isinstance(what, Mount):
            top = what
        elif isinstance(what, Overlay):
            top = held.enter_context(assemble(_kept(what)))
        else:
            specs = [what] if isinstance(what, MountSpec) else list(what)
            top = _tree([spec.without_volatile() for spec in _checked(specs)], held)
        yield held.enter_context(Root(calls.openat(top.fileno(), b".", _READABLE, 0)))


def _checked(specs: list[MountSpec]) -> list[MountSpec]:
    if not specs or not all(isinstance(spec, MountSpec) for spec in specs):
        raise InvalidSpec("temporary takes an Overlay, a Mount, or one or more MountSpecs", part="what")
    for spec in specs:
        if not is_new(spec):
            raise InvalidSpec(f"a temporary mount is a new one: {spec!r} isn't", part="what")
        if is_for_helper(spec):
            raise InvalidSpec(f"{spec.type} is mounted by a program, at a path: temporary_path has one", part="type")
    if specs[0].target.strip("/."):
        raise InvalidSpec("the first of several is the root of the others, so it has no target", part="target")
    if not all(spec.target.strip("/.") for spec in specs[1:]):
        raise InvalidSpec("each but the first of several stands below it, so it has a target", part="target")
    return specs


def _tree(specs: list[MountSpec], held: ExitStack) -> Mount:
    top = held.enter_context(_apart(specs[0]))
    if len(specs) == 1:
        return top
    if has(Feature.MOUNT_INSIDE_DETACHED):
        _fill(top, specs[1:])
        return top
    from mountfd.verbs.enter import in_private_namespace  # noqa: PLC0415 (only on kernels before 6.15)

    def act() -> int:
        top.attach("/")
        _fill(top, specs[1:])
        # The mounts below would go with the namespace; it goes with this descriptor.
        return calls.openat(n.AT_FDCWD, b"/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC, 0)

    held.enter_context(OwnedFd(in_private_namespace(act)))
    return top


def _fill(top: Mount, specs: list[MountSpec]) -> None:
    for spec in specs:
        options = spec.understood()
        with Place(f"/proc/self/fd/{top.fileno()}", spec.target, options) as place, _apart(spec) as mount:
            mount.attach_fd(place.fd)


def _apart(spec: MountSpec) -> Mount:
    """Make a detached mount that is no peer of its source: what is mounted in a peer is seen there, too."""
    options = spec.understood()
    mount = make_detached(spec, options)
    try:
        if options.action:
            make_private(mount.fileno(), recursive=True)
    except BaseException:
        mount.close()
        raise
    return mount


def _kept(overlay: Overlay) -> Overlay:
    options = [param for param in overlay.options if param not in _VOLATILE]
    if len(options) == len(overlay.options):
        return overlay
    return Overlay(overlay.lower, overlay.upper, overlay.work, overlay.idmap, options, overlay.source)
