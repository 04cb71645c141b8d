"""Where paths meet: the parent that several have in common, found in their text alone."""

from __future__ import annotations

__all__ = ["common_parent", "is_plain", "shown_length"]

_ESCAPED = b" \t\n\r\\,=:#"


def is_plain(paths: list[bytes]) -> bool:
    """Say whether text alone tells what these paths mean: no `.`, `..` or empty component in any."""
    joined = b"\0" + b"\0".join(paths) + b"\0"
    return not (b"/." in joined or b"//" in joined or b"/\0" in joined or b"\0." in joined)


def common_parent(paths: list[bytes]) -> tuple[bytes, list[bytes]]:
    """Split plain paths into the deepest directory above all of them and the names below it.

    Arguments: paths, two or more different ones, all absolute or all relative, and plain.
    A relative result without a directory of its own is b".".
    """
    low, high = min(paths), max(paths)
    same = next((i for i, (one, other) in enumerate(zip(low, high, strict=False)) if one != other), len(low))
    cut = low.rfind(b"/", 0, same)
    parent = paths[0][:cut] if cut > 0 else (b"/" if cut == 0 else b".")
    return parent, [path[cut + 1 :] for path in paths]


def shown_length(name: bytes) -> int:
    r"""Bound the bytes that a layer's name can take in a line of mountinfo, where odd bytes become `\\ooo`."""
    return len(name) + 3 * sum(map(name.count, _ESCAPED_BYTES)) + _KEY


_ESCAPED_BYTES = tuple(bytes([byte]) for byte in _ESCAPED)
_KEY = len(",lowerdir+=/")
