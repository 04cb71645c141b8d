"""overlayfs's layers as text, as mount(8) and containerd hold them, become an Overlay."""

from __future__ import annotations

import os

from mountfd.errors import InvalidSpec
from mountfd.model.overlay import Layer, Overlay
from mountfd.model.param import Flag, String

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountfd.model.idmap import IdMap
    from mountfd.model.param import Param

__all__ = ["escape", "overlay_of", "unescape"]

# The kernel takes these without an upper layer too, and forgets them.
_OF_UPPER = (Flag("rw"), Flag("volatile"), String("fsync", "volatile"), String("index", "on"))


def overlay_of(params: Iterable[Param], idmap: IdMap | None, source: str | None) -> Overlay:
    """Make an Overlay of parameters, in which layers are text.

    Arguments: params, of which `lowerdir`, `lowerdir+`, `datadir+`, `upperdir` and `workdir` are taken and the others
    are overlayfs's own; idmap, of the lower layers; source, a label.
    In `lowerdir` a colon separates layers, two begin the data-only ones, and a backslash protects either; `upperdir`
    and `workdir` know the backslash too. Of contradicting ones the last wins, as in the kernel. What only an upper
    layer can have is left out where there is none, as the kernel does.
    Raises: InvalidSpec.
    """
    lower: list[Layer] = []
    pair: dict[str, str] = {}
    rest: list[Param] = []
    for param in params:
        if param.key == "lowerdir":
            lower = _layers(_text(param))
        elif param.key in ("lowerdir+", "datadir+"):
            lower.append(Layer(_text(param), data_only=param.key == "datadir+"))
        elif param.key in ("upperdir", "workdir"):
            pair[param.key] = unescape(_text(param))
        else:
            rest.append(param)
    if "upperdir" not in pair:
        rest = [param for param in rest if param not in _OF_UPPER]
    label = source if source not in (None, "", "none") and len(os.fsencode(source or "")) <= 255 else None  # noqa: PLR2004 (fsconfig's limit)
    return Overlay(lower, pair.get("upperdir"), pair.get("workdir"), idmap, rest, label)


def unescape(text: str) -> str:
    """Take the backslashes away that protect what follows them."""
    chars = iter(text)
    return "".join(next(chars, "") if char == "\\" else char for char in chars)


def escape(path: str) -> str:
    """Protect what would end a path in `lowerdir`."""
    return path.replace("\\", "\\\\").replace(":", "\\:")


def _layers(text: str) -> list[Layer]:
    layers, data_only = [], False
    for separator, path in _separated(text):
        if not path:
            raise InvalidSpec(f"lowerdir={text!r} has an empty layer in it", part="lowerdir")
        data_only = data_only or separator == "::"
        if data_only and separator == ":":
            raise InvalidSpec(f"lowerdir={text!r}: after `::` every layer is data-only, so `::` again", part="lowerdir")
        layers.append(Layer(path, data_only=data_only))
    return layers


def _separated(text: str) -> list[tuple[str, str]]:
    """Cut at the colons that no backslash protects; give each part with the colons before it."""
    parts, colons, path, place = [], "", "", 0
    while place < len(text):
        char = text[place]
        if char == "\\" and place + 1 < len(text):
            place += 1
            path += text[place]
        elif char == ":":
            parts.append((colons, path))
            colons = "::" if text[place + 1 : place + 2] == ":" else ":"
            place += len(colons) - 1
            path = ""
        else:
            path += char
        place += 1
    return [*parts, (colons, path)]


def _text(param: Param) -> str:
    if not isinstance(param, String) or not param.value:
        raise InvalidSpec(f"{param.key!r} needs a path", part=param.key)
    return param.value if isinstance(param.value, str) else os.fsdecode(param.value)
