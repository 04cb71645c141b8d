"""Route `string`: all layers in one option string of mount(2), on a private stage. Any kernel with open_tree(2).

The kernel keeps 4,095 bytes of a longer string without an error. On the stage a layer's name is a few bytes long, so
that 500 of them take 2 KiB.
"""

from __future__ import annotations

from errno import E2BIG

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.features import Feature, has
from mountfd.errors import InvalidSpec, KernelError, from_errno
from mountfd.handles.mount import Mount
from mountfd.model.param import Flag, String
from mountfd.verbs.assemble.stage import on_stage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.model.overlay import Overlay
    from mountfd.model.param import Param
    from mountfd.verbs.assemble.layers import Placed
    from mountfd.verbs.assemble.pair import Pair
    from mountfd.verbs.assemble.stage import Stage

__all__ = ["build"]

_PAGE_KEPT = 4095
_MS_RDONLY = 1
# The words that fsconfig(2) takes for every filesystem, and mount(2) as flags.
_ON = {"ro": _MS_RDONLY, "sync": 16, "mand": 64, "dirsync": 128, "lazytime": 1 << 25}
_OFF = {"rw": _MS_RDONLY, "async": 16, "nomand": 64, "nolazytime": 1 << 25}
_MS_REMOUNT_BIND = 32 | 4096
_MNT_DETACH = 2


def build(overlay: Overlay, placed: Placed, pair: Pair | None, params: list[Param], attrs: int) -> Mount:
    """Make the overlay as a detached mount."""
    del overlay
    source = next((_text(param) for param in params if param.key == "source"), b"overlay")
    # In mount(2)'s flags this word is the superblock's; the mount's own comes later, by _detached.
    flags = _ms_flags(attrs) & ~_MS_RDONLY | _superblock_flags(params)

    def act(stage: Stage) -> Mount:
        data = _data(stage, placed, pair, params)
        spot = stage.spot()

        def create() -> None:
            try:
                calls.mount(source, spot, b"overlay", flags, data)
            except KernelError as error:
                error.filename = None  # the spot, which nobody else knows
                raise

        if pair is None:
            create()
        else:
            pair.create(create)
        return _detached(spot, attrs)

    return on_stage(placed, pair, act)


def _detached(spot: bytes, attrs: int) -> Mount:
    if attrs and not has(Feature.MOUNT_SETATTR):
        calls.mount(None, spot, None, _MS_REMOUNT_BIND | _ms_flags(attrs), None)
    clone = Mount.clone(spot)
    try:
        if attrs and has(Feature.MOUNT_SETATTR):
            clone.set(attrs)
        # Not left to the namespace's end, which may come a moment later: from now on the clone alone keeps it.
        calls.umount2(spot, _MNT_DETACH)
    except BaseException:
        clone.close()
        raise
    return clone


def _ms_flags(attrs: int) -> int:
    return sum(ms for attr, ms in n.ATTR_TO_MS.items() if attrs & attr)


def _superblock_flags(params: list[Param]) -> int:
    flags = 0
    for param in params:
        if isinstance(param, Flag):
            flags = flags & ~_OFF.get(param.key, 0) | _ON.get(param.key, 0)
    return flags


def _data(stage: Stage, placed: Placed, pair: Pair | None, params: list[Param]) -> bytes:
    regular = b":".join([stage.lower(place) for place in placed.places if not place.layer.data_only])
    data_only = b"".join([b"::" + stage.lower(place) for place in placed.places if place.layer.data_only])
    words = [b"lowerdir=" + regular + data_only]
    if pair is not None:
        words += [b"upperdir=" + stage.writable(pair.upper), b"workdir=" + stage.writable(pair.work)]
    words += [_word(param) for param in params if param.key not in {"source", *_ON, *_OFF}]
    data = b",".join(words)
    if len(data) > _PAGE_KEPT:
        hint = f"mount(2) keeps {_PAGE_KEPT} bytes of options without a word; these have {len(data)}"
        raise from_errno(E2BIG, "mount", (data,), hint=hint)
    return data


def _word(param: Param) -> bytes:
    if isinstance(param, Flag):
        return param.key.encode(errors="surrogateescape")
    value = _text(param)
    if b"," in value or b"\\" in value:
        raise InvalidSpec(f"the value of {param.key!r} can't be said in a string of options", part=param.key)
    return param.key.encode(errors="surrogateescape") + b"=" + value


def _text(param: Param) -> bytes:
    if not isinstance(param, String):
        raise InvalidSpec(f"{param!r} can't be said in a string of options", part=param.key)
    return param.value if isinstance(param.value, bytes) else param.value.encode(errors="surrogateescape")
