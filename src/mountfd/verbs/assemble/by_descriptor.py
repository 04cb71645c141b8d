"""Route `descriptor`: every layer reaches overlayfs as a descriptor below a detached clone. Linux 6.15.

open_tree CLONE, mount_setattr     once for each group of layers
openat2, fsconfig SET_FD, close    for each layer, topmost first
fsconfig CREATE, fsmount           a detached mount; no path was ever involved
"""

from __future__ import annotations

import os

from mountfd.abi import calls
from mountfd.errors import KernelError
from mountfd.handles.context import FsContext
from mountfd.verbs.assemble.finding import HOW, blame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.handles.mount import Mount
    from mountfd.model.overlay import Overlay
    from mountfd.model.param import Param
    from mountfd.verbs.assemble.layers import Placed
    from mountfd.verbs.assemble.pair import Pair

__all__ = ["build"]


def build(overlay: Overlay, placed: Placed, pair: Pair | None, params: list[Param], attrs: int) -> Mount:
    """Make the overlay as a detached mount."""
    del overlay
    placed.shorten()
    with FsContext.open("overlay") as context:
        _feed(context, placed)
        if pair is not None:
            _feed_pair(context, pair)
        context.set(*params)
        if pair is None:
            context.create()
        else:
            pair.create(context.create)
        return context.mount(attrs)


def _feed(context: FsContext, placed: Placed) -> None:
    fd = context.fileno()
    if placed.alike is not None:
        alike = placed.alike
        fed = calls.feed_layers(fd, b"lowerdir+", alike.holder, alike.names, HOW[alike.resolve])
        if fed == len(alike.names):
            return
    else:
        fed = 0
    set_fd, close, find = calls.fsconfig_set_fd, os.close, placed.open
    # From the first layer on whose name wasn't enough, one by one: each may need a clone of its own, or the blame.
    for place in placed.places[fed:]:
        layer = find(place)
        try:
            set_fd(fd, b"datadir+" if place.layer.data_only else b"lowerdir+", layer)
        except KernelError as error:
            error.explain(log=context.log())
            raise blame(error, place.layer) from None
        finally:
            close(layer)


def _feed_pair(context: FsContext, pair: Pair) -> None:
    places = ((b"upperdir", pair.upper), (b"workdir", pair.work))
    for (key, place), lock in zip(places, pair.locks, strict=True):  # the locks are the directories, open already
        try:
            calls.fsconfig_set_fd(context.fileno(), key, lock.fileno())
        except KernelError as error:
            error.explain(log=context.log())
            raise blame(error, place.layer) from None
