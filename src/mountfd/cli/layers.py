"""Layers given as options of a command line, as words that overlayfs's text has for them."""

from __future__ import annotations

from mountfd.errors import InvalidSpec
from mountfd.model.overlay_text import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.cli.arguments import Arguments

__all__ = ["layer_words"]

_LAYERS = ("lowerdir", "upperdir")  # the beginnings of options that name layers


def layer_words(arguments: Arguments) -> list[str]:
    """Give `lowerdir=`, `upperdir=` and `workdir=` for --layer, --upper and --work, whatever is in their paths.

    Raises: InvalidSpec for one layer alone, of which no overlay can be made.
    """
    words = []
    if layers := arguments.texts("layer"):
        more = arguments.on("upper") or any(
            option.startswith(_LAYERS) for text in arguments.texts("options") for option in text.split(",")
        )
        if len(layers) == 1 and not more:
            raise InvalidSpec(
                f"one --layer ({layers[0]!r}) and no --upper: overlayfs needs two layers; "
                "for a single directory use --bind DIR",
                part="--layer",
            )
        words.append("lowerdir=" + ":".join(_protected(escape(layer)) for layer in layers))
    for key, name in (("upperdir", "upper"), ("workdir", "work")):
        if (path := arguments.text(name)) is not None:
            words.append(f"{key}={_protected(escape(path))}")
    return words


def _protected(text: str) -> str:
    return text.replace(",", "\\,").replace('"', '\\"')
