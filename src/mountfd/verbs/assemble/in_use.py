"""Whether a live overlay, whoever made it, uses an upper or work layer already.

The kernel accepts such a layer unless index=on, and warns in its log; the warning names no layer, so that it may be
about somebody else's overlay. Then an overlay with index=on is asked for that can't come into being, since its work
layer lies on another mount: EBUSY, which comes first, means in use; nothing is written. Kernels before 6.15 can't be
asked so, and the warning must do.
"""

from __future__ import annotations

from errno import EBUSY

from mountfd.abi import calls
from mountfd.abi.features import Feature, has
from mountfd.errors import KernelError, from_errno
from mountfd.handles.context import FsContext
from mountfd.handles.fd import OwnedFd
from mountfd.model.param import Fd, String
from mountfd.verbs.assemble.finding import open_below, open_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.verbs.assemble.finding import Place
    from mountfd.verbs.assemble.pair import Pair

__all__ = ["FalseAlarm", "refuse_if_in_use", "tells_of_use"]


class FalseAlarm(Exception):
    """The warning was about somebody else's overlay; this one is to be made again."""


_WARNINGS = ("overlayfs: upperdir is in-use", "overlayfs: workdir is in-use")


def tells_of_use(lines: list[str]) -> bool:
    """Say whether the kernel has warned of an upper or work layer that is in use."""
    return any(line.startswith(_WARNINGS) for line in lines)


def refuse_if_in_use(pair: Pair, *, believe: bool) -> None:
    """Raise Busy that names the layer that a live overlay uses, or FalseAlarm.

    Arguments: pair, of an overlay that was warned of and is closed again; believe, whether the warning is taken as
    meant for this pair without asking.
    """
    believe = believe or not has(Feature.OVERLAY_LAYER_DETACHED)
    for place in (pair.upper, pair.work):
        if believe or _is_in_use(place):
            path = place.layer.path
            hint = f"another live overlay uses the layer {path!r}: two would damage each other's files"
            raise from_errno(EBUSY, "overlay", (path,), filename=path, hint=hint)
    raise FalseAlarm


def _is_in_use(place: Place) -> bool:
    # By its own path: the clone may have stood on a stage that is gone.
    found = open_directory(place.layer) if place.layer.base is None else open_below(place.holder, place)
    with (
        OwnedFd(found) as layer,
        FsContext.open("tmpfs") as elsewhere,
        elsewhere.create().mount() as work,
        FsContext.open("overlay") as context,
    ):
        context.set(Fd("lowerdir+", work.fileno()), Fd("upperdir", layer.fileno()), Fd("workdir", work.fileno()))
        context.set(String("index", "on"))
        try:
            calls.fsconfig_create(context.fileno())
        except KernelError as error:
            return error.errno == EBUSY
    return False
