"""mount: what fstab(5), containerd and mount(8) describe by type, source, target and options.

| what | by descriptor | by mount(2) |
| --- | --- | --- |
| a new mount | made detached and finished (make.py, source.py), then attached | step by step (by_string.py) |
| remount, propagation, move | fspick(2), mount_setattr(2), move_mount(2) (change.py) | flags (by_string.py) |
| FUSE | a helper program (helper.py) | the same |
| the place | found once, held by a descriptor (place.py) | the same |
| several | a detached tree, attached in one step (tree.py) | one after the other (several.py) |

one.py chooses the route.
"""

from __future__ import annotations

from mountfd.errors import InvalidSpec, unsupported
from mountfd.model.spec import MountSpec
from mountfd.verbs.mount.one import is_new, mount_at, route
from mountfd.verbs.mount.place import Place
from mountfd.verbs.mount.several import mount_all, mount_apart

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.abi.paths import StrPath
    from mountfd.handles.mount import Mount

__all__ = ["detached", "mount", "mount_all", "mount_apart", "route"]


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
        return mount_at(spec, options, place, beneath=beneath, reuse_loop=reuse_loop)


def detached(spec: MountSpec, *, reuse_loop: bool = False) -> Mount:
    """Make what a description says as a detached mount: no path leads to it until it is attached.

    Arguments: spec, of a new mount, without a target; reuse_loop, as of `mount`.
    It serves as a layer of an Overlay, as the root of a MountNamespace, or to be sent to another process. Propagation
    that the options ask for is left to whoever attaches it. A loop device goes with the last handle and mount of it.
    Raises: as `mount` does; InvalidSpec for a remount, a move, and what a program mounts at a path; NotSupported where
    mount(2) is all there is.
    Calls: fsopen(2), open_tree(2), mount_setattr(2), Linux 5.12.
    """
    if not isinstance(spec, MountSpec):
        raise InvalidSpec(f"detached takes a MountSpec, not {type(spec).__name__}", part="spec")
    from mountfd.verbs.mount.helper import is_for_helper  # noqa: PLC0415 (beside what it serves)
    from mountfd.verbs.mount.make import make_detached  # noqa: PLC0415 (one route is loaded, not both)

    options = spec.understood()
    if not is_new(spec) or spec.target:
        raise InvalidSpec(f"{spec!r} describes no new mount of its own", part="spec")
    if is_for_helper(spec) and not options.action:
        raise InvalidSpec(f"{spec.type} is mounted by a program, which wants a path", part="type")
    if route() == "string":
        raise unsupported("a detached mount", "mount(2) attaches what it makes: that takes fsmount(2), Linux 5.2")
    return make_detached(spec, options, reuse_loop=reuse_loop)
