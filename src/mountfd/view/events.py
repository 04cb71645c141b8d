"""Mount events as lines for a person, and as the facts of a JSON object."""

from __future__ import annotations

from base64 import b64encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountfd.model.event import Event
    from mountfd.model.info import MountInfo

__all__ = ["line", "record"]

_GAP = "  "


def line(event: Event) -> str:
    """Put an event into one line, whatever characters a path may have: kind, target, filesystem type, id."""
    info = event.info
    if event.id is None and info is None:
        return event.kind
    words = [event.kind, _shown(info.point if info else None), _shown(_fstype(info))]
    number = event.id if event.id is not None or info is None else info.id_old
    words.append(f"#{number}")
    if event.previous is not None:
        words.append(f"from {_shown(event.previous.point)}")
    return _GAP.join(words)


def record(event: Event) -> dict[str, object]:
    """Give an event's facts, under the names that `list --json` has; `from` is where a moved mount was."""
    info, facts = event.info, {"event": event.kind}
    if event.id is None and info is None:
        return dict(facts)
    pairs: list[tuple[str, object]] = [("uniq-id", event.id), ("uniq-parent", info.parent_id if info else None)]
    pairs += _text("target", info.point if info else None)
    pairs += _text("source", info.source if info else None)
    pairs += _text("fstype", _fstype(info))
    if event.previous is not None:
        pairs += _text("from", event.previous.point)
    return {**facts, **dict(pairs)}


def _text(name: str, value: str | None) -> Iterator[tuple[str, object]]:
    """Give a text; one that isn't UTF-8 twice: readable, and as its bytes in base64."""
    raw = (value or "").encode(errors="surrogateescape")
    try:
        raw.decode()
    except UnicodeDecodeError:
        yield name, raw.decode(errors="replace")
        yield f"{name}_b64", b64encode(raw).decode()
    else:
        yield name, value


def _fstype(info: MountInfo | None) -> str | None:
    if info is None:
        return None
    return f"{info.fstype}.{info.subtype}" if info.subtype else info.fstype


def _shown(text: str | None) -> str:
    """Escape what would break the line, or a terminal, and the backslash that escapes begin with."""
    if text is None:
        return "-"
    return "".join(_escaped(char) for char in text)


def _escaped(char: str) -> str:
    if char.isprintable() and char != "\\":
        return char
    raw = char.encode(errors="surrogateescape")
    return {"\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(char, "".join(f"\\x{byte:02x}" for byte in raw))
