"""Route `path`: each layer reaches overlayfs as one `lowerdir+` string, on a private stage. Linux 6.8."""

from __future__ import annotations

from mountfd.abi import calls
from mountfd.errors import KernelError
from mountfd.handles.context import FsContext
from mountfd.verbs.assemble.finding import blame
from mountfd.verbs.assemble.stage import on_stage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.handles.mount import Mount
    from mountfd.model.overlay import Overlay
    from mountfd.model.param import Param
    from mountfd.verbs.assemble.finding import Place
    from mountfd.verbs.assemble.layers import Placed
    from mountfd.verbs.assemble.pair import Pair
    from mountfd.verbs.assemble.stage import Stage

__all__ = ["build"]


def build(overlay: Overlay, placed: Placed, pair: Pair | None, params: list[Param], attrs: int) -> Mount:
    """Make the overlay as a detached mount."""
    del overlay

    def act(stage: Stage) -> Mount:
        with FsContext.open("overlay") as context:
            for place in placed.places:
                _set(context, b"datadir+" if place.layer.data_only else b"lowerdir+", stage.lower(place), place)
            if pair is not None:
                _set(context, b"upperdir", stage.writable(pair.upper), pair.upper)
                _set(context, b"workdir", stage.writable(pair.work), pair.work)
            context.set(*params)
            if pair is None:
                context.create()
            else:
                pair.create(context.create)
            return context.mount(attrs)

    return on_stage(placed, pair, act)


def _set(context: FsContext, key: bytes, value: bytes, place: Place) -> None:
    try:
        calls.fsconfig_set_string(context.fileno(), key, value)
    except KernelError as error:
        error.explain(log=context.log())
        raise blame(error, place.layer) from None
