"""assemble: a description of layers becomes one detached overlay mount.

| step | what | where |
| --- | --- | --- |
| place | a few detached clones, idmapped, on which the layers are names | layers.py |
| pair | upper and work from one clone, locked | pair.py |
| build | one of four routes: descriptor, path, string, fuse | by_*.py |
| check | what overlayfs says to the kernel's log alone, or not at all | in_use.py, pair.py, diagnose.py |
"""

from __future__ import annotations

from mountfd.abi.features import Feature, has
from mountfd.errors import InvalidSpec, KernelError
from mountfd.handles.kernel_log import KernelLog
from mountfd.model.overlay import Overlay
from mountfd.model.param import String
from mountfd.verbs.assemble.in_use import FalseAlarm, refuse_if_in_use, tells_of_use
from mountfd.verbs.assemble.layers import Placed
from mountfd.verbs.assemble.ordinary import is_overlay_refused, marks
from mountfd.verbs.assemble.pair import Pair, check_writable
from mountfd.verbs.routes import choose

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mountfd.handles.mount import Mount
    from mountfd.model.param import Param

    Build = Callable[[Overlay, Placed, Pair | None, list[Param], int], Mount]

__all__ = ["assemble", "route"]

_ROUTES = {
    "descriptor": lambda: has(Feature.OVERLAY_LAYER_DETACHED) and not is_overlay_refused(),
    "path": lambda: has(Feature.OVERLAY_LAYER_APPEND) and not is_overlay_refused(),
    "string": lambda: has(Feature.MOUNT_API) and not is_overlay_refused(),
    "fuse": lambda: has(Feature.MOUNT_API),
}
_ATTR_RDONLY = 1
_SOURCE_MAX = 255


def assemble(overlay: Overlay, attrs: int = 0) -> Mount:
    """Make an overlay out of layers as a detached mount: nothing is attached, and nothing is left on any failure.

    Arguments: overlay, an Overlay; attrs, of mountfd.Attr, for the new mount.
    The kernel dissolves the result with its last descriptor; attach it to keep it. While the handle is open its upper
    and work layers are locked against another assembly by mountfd, in this process or another; after that an upper
    layer that a live overlay uses is still refused wherever the kernel's log can be read.
    Raises: Missing and NotDirectory for a layer, Busy for an upper layer in use, NotSupported for a filesystem that
    can't be idmapped, KernelError with .log and .hint for what overlayfs refuses, InvalidSpec.
    Calls: fsopen(2), fsconfig(2), fsmount(2), open_tree(2), mount_setattr(2); on kernels before 6.15 the fallbacks
    that `mountfd doctor` names. Linux 5.2; idmaps, Linux 5.19.
    """
    if not isinstance(overlay, Overlay):
        raise InvalidSpec(f"assemble takes an Overlay, not {type(overlay).__name__}", part="overlay")
    build = _builder()
    params = _params(overlay)
    with KernelLog(b"overlayfs: ") as log:
        try:
            return _once(overlay, build, params, attrs, log, believe=False)
        except FalseAlarm:
            return _once(overlay, build, params, attrs, log, believe=True)


def _once(  # noqa: PLR0913 (what was prepared for it)
    overlay: Overlay, build: Build, params: list[Param], attrs: int, log: KernelLog, *, believe: bool
) -> Mount:
    with Placed(overlay) as placed:
        pair = _pair(overlay, build) if overlay.upper is not None else None
        try:
            try:
                mount = build(overlay, placed, pair, params, attrs)
            except KernelError as error:
                from mountfd.verbs.assemble.diagnose import explain  # noqa: PLC0415 (only on the way out of an error)

                explain(error, overlay, log.lines())
                raise
            if pair is None:
                return mount
            try:
                if tells_of_use(log.lines()):
                    mount.close()
                    refuse_if_in_use(pair, believe=believe)
                if not attrs & _ATTR_RDONLY and not any(param.key == "ro" for param in overlay.options):
                    check_writable(mount, overlay)
            except BaseException:
                mount.close()
                raise
            pair.hand_over(mount)
            return mount
        finally:
            if pair is not None:
                pair.close()


def route() -> str:
    """Name the route that assemble takes here: descriptor, path, string or fuse."""
    return choose("assemble", _ROUTES)


def _builder() -> Build:
    name = route()
    if name == "descriptor":
        from mountfd.verbs.assemble.by_descriptor import build  # noqa: PLC0415 (one route is loaded, not four)
    elif name == "path":
        from mountfd.verbs.assemble.by_path import build  # noqa: PLC0415
    elif name == "fuse":
        from mountfd.verbs.assemble.by_fuse import build  # noqa: PLC0415
    else:
        from mountfd.verbs.assemble.by_string import build  # noqa: PLC0415
    return build


def _pair(overlay: Overlay, build: Build) -> Pair:
    if build.__module__.endswith(".by_fuse"):
        from mountfd.verbs.assemble.by_fuse import pair_when_free  # noqa: PLC0415

        return pair_when_free(overlay)
    return Pair(overlay)


def _params(overlay: Overlay) -> list[Param]:
    return [String("source", overlay.source or _label(overlay)), *overlay.options, *marks(overlay.options)]


def _label(overlay: Overlay) -> bytes:
    """Say in the mount table what this is: layers given as descriptors can't be recovered from there."""
    layer = overlay.upper or overlay.lower[0]
    return layer.raw[:_SOURCE_MAX]
