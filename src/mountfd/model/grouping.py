"""Where paths meet: the parent that several have in common, found in their text alone."""

from __future__ import annotations

__all__ = ["common_parent", "is_plain", "shown_length", "too_long"]

_ESCAPED = b" \t\n\r\\,=:#"
_KEY = len(",lowerdir+=/")
_WORST = 4  # an odd byte is shown as four
_LINE_BUDGET = 20 * 1024
# Components that are empty, `.` or `..`, where each path has a NUL before and after it.
_ODD = (b"//", b"/\0", b"\0\0", b"/./", b"/../", b"/.\0", b"/..\0", b"\0./", b"\0../", b"\0.\0", b"\0..\0")


def is_plain(paths: list[bytes]) -> bool:
    """Say whether text alone tells what these paths mean: no `.`, `..` or empty component in any."""
    joined = b"\0" + b"\0".join(paths) + b"\0"
    return not any(odd in joined for odd in _ODD)


def common_parent(paths: list[bytes]) -> tuple[bytes, list[bytes]]:
    """Split plain paths into the deepest directory above all of them and the names below it.

    Arguments: paths, one or more, all absolute or all relative, and plain.
    A relative result without a directory of its own is b".".
    """
    low, high = min(paths), max(paths)
    same = next((i for i, (one, other) in enumerate(zip(low, high, strict=False)) if one != other), len(low))
    cut = low.rfind(b"/", 0, same)
    parent = low[:cut] if cut > 0 else (b"/" if cut == 0 else b".")
    return parent, [path[cut + 1 :] for path in paths]


def shown_length(name: bytes) -> int:
    r"""Bound the bytes that a layer's name can take in a line of mountinfo, where odd bytes become `\ooo`."""
    odd = len(name) - len(name.translate(None, _ESCAPED))
    return len(name) + (_WORST - 1) * odd + _KEY


def too_long(names: list[bytes]) -> list[int]:
    """Choose names, by their index and longest first, that must not be shown for a line of mountinfo to stay short."""
    if shown_length(b"".join(names)) + _KEY * len(names) <= _LINE_BUDGET:
        return []
    lengths = sorted(((shown_length(name), i) for i, name in enumerate(names)), reverse=True)
    total = sum(length for length, _ in lengths)
    chosen = []
    for length, i in lengths:
        if total <= _LINE_BUDGET:
            break
        chosen.append(i)
        total -= length - _KEY
    return chosen
