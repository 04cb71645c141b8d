"""Layers given as options of a command line, as words that overlayfs's text has for them."""

from __future__ import annotations

from mountfd.model.overlay_text import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.cli.arguments import Arguments

__all__ = ["layer_words"]


def layer_words(arguments: Arguments) -> list[str]:
    """Give `lowerdir=`, `upperdir=` and `workdir=` for --layer, --upper and --work, whatever is in their paths."""
    words = []
    if layers := arguments.texts("layer"):
        words.append("lowerdir=" + ":".join(_protected(escape(layer)) for layer in layers))
    for key, name in (("upperdir", "upper"), ("workdir", "work")):
        if (path := arguments.text(name)) is not None:
            words.append(f"{key}={_protected(escape(path))}")
    return words


def _protected(text: str) -> str:
    return text.replace(",", "\\,").replace('"', '\\"')
