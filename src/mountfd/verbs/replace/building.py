"""The mount that shall take the target's place, made detached out of whatever describes it."""

from __future__ import annotations

import os
from errno import EINVAL

from mountfd.abi.features import Feature, has
from mountfd.errors import Busy, InvalidSpec, KernelError
from mountfd.handles.mount import Mount
from mountfd.model.overlay import Overlay
from mountfd.model.spec import MountSpec
from mountfd.verbs.query.place import stands_here

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from mountfd.abi.paths import StrPath

    New: TypeAlias = "Mount | Overlay | MountSpec | StrPath"

__all__ = ["build", "copy", "explain_unusable"]

_PATHS = (str, bytes, os.PathLike)
_ANOTHER_UPPER = (
    "both mounts exist for an instant: where the old one is an overlay over this upper layer, give the new one "
    "an upper layer of its own (a copy of it), or unmount the old one first, with a gap"
)


def build(new: New) -> Mount:
    """Make a detached mount of an Overlay, a MountSpec, a path to bind, or a Mount, of which it is a clone."""
    if isinstance(new, Mount):
        return copy(new)
    if isinstance(new, Overlay):
        from mountfd.verbs.assemble import assemble  # noqa: PLC0415 (one kind is made, not all)

        try:
            return assemble(new)
        except Busy as error:
            if new.upper is not None:
                error.add_note(_ANOTHER_UPPER)
            raise
    if isinstance(new, MountSpec):
        return _specified(new)
    if isinstance(new, _PATHS):
        return Mount.clone(new)
    raise InvalidSpec(f"a target is replaced by a Mount, an Overlay, a MountSpec or a path, not by {new!r}", part="new")


def copy(mount: Mount) -> Mount:
    """Clone a mount with all that stands on it, or give a second handle on one made in another mount namespace.

    A clone is younger than the mount it will cover or be covered by, which tells a tucked mount from one mounted upon.
    """
    fd = mount.fileno()
    try:
        return Mount.clone_fd(fd, recursive=True)
    except KernelError as error:
        if error.errno != EINVAL or _is_known_to_stand(fd):
            raise
    if has(Feature.CLONE_DETACHED):
        return mount.dup()
    from mountfd.verbs.assemble.stage import clone_of_detached  # noqa: PLC0415 (only on kernels before 6.15)

    try:
        return clone_of_detached(mount, fd, recursive=True)
    except KernelError as error:
        explain_unusable(error)
        raise


def explain_unusable(error: KernelError) -> None:
    """Say why a mount can't be attached that is neither attached nor detached."""
    if error.errno == EINVAL:
        error.explain(hint="the new mount was attached once and isn't any more: it can't be attached again")


def _is_known_to_stand(fd: int) -> bool:
    try:
        return stands_here(fd)
    except KernelError:
        return False  # before Linux 6.8 it is told by /proc, which not every namespace has


def _specified(spec: MountSpec) -> Mount:
    from mountfd.verbs.mount.make import make_detached  # noqa: PLC0415 (one kind is made, not all)
    from mountfd.verbs.mount.one import is_new  # noqa: PLC0415

    if not is_new(spec) or spec.target:
        raise InvalidSpec(f"{spec!r} describes no new mount of its own", part="new")
    return make_detached(spec, spec.understood())
