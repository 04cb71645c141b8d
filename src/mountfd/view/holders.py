"""Holders as text for a person, both questions apart, and as a JSON document.

busy: umount says EBUSY because of
  file   process 812 (nginx, uid 33) has /srv/data/log open as descriptor 7
  mount  another mount stands on it, at /srv/data/sub
alive: umount would work, and the filesystem stay in use
  copy   the same filesystem is mounted at /mnt
unknown
  process  3 processes of other users can't be looked into: 1, 2, 77
"""

from __future__ import annotations

from base64 import b64encode

from mountfd.view.text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mountfd.model.holder import Holder

__all__ = ["document", "lines"]

_HEADINGS = (
    ("busy", True, "busy: umount says EBUSY because of"),
    ("alive", False, "alive: umount would work all the same, but the filesystem stays in use"),
    ("unknown", None, "unknown: these may hold it, too"),
)
_NOBODY = "nobody that can be seen holds it"


def lines(holders: Sequence[Holder], *, is_ascii: bool = False) -> Iterator[str]:
    """Put holders into lines, under a heading for each question that has an answer."""
    if all(holder.blocks is None for holder in holders):
        yield _NOBODY
    wide = max((len(holder.kind) for holder in holders), default=0)
    for _, blocks, heading in _HEADINGS:
        chosen = [holder for holder in holders if holder.blocks is blocks]
        if chosen:
            yield heading
        for kind, words in _rows(chosen):
            yield f"  {kind:<{wide}}  {printable(words, is_ascii=is_ascii)}"


def document(target: str | None, number: int | None, holders: Sequence[Holder]) -> dict[str, object]:
    """Give the facts of a JSON document: the target, its id, and a list for each question."""
    found: dict[str, object] = {**dict(_text("target", target)), "id": number}
    for name, blocks, _ in _HEADINGS:
        found[name] = [_record(holder) for holder in holders if holder.blocks is blocks]
    return found


def _rows(holders: Sequence[Holder]) -> Iterator[tuple[str, str]]:
    """Give kind and words of each; but one row for all processes, and for all overlays, that can't be looked into."""
    closed = [holder for holder in holders if holder.kind == "process"]
    vague = [holder for holder in holders if holder.kind == "overlay" and holder.blocks is None]
    grouped = [group for group in (closed, vague) if len(group) > 1]
    for holder in holders:
        if not any(holder in group for group in grouped):
            yield holder.kind, holder.words
    if closed in grouped:
        numbers = ", ".join(str(holder.pid) for holder in closed)
        yield "process", f"{len(closed)} processes of other users can't be looked into: {numbers}"
    if vague in grouped:
        points = ", ".join(holder.point or "an unreachable place" for holder in vague)
        yield "overlay", f"{len(vague)} overlays may have layers here, to which no path leads: {points}"


def _record(holder: Holder) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in holder.as_dict().items():
        if name == "blocks" or value is None:
            continue
        if isinstance(value, str):
            found.update(_text(name, value))
        else:
            found[name] = value
    return {**found, "words": printable(holder.words)}


def _text(name: str, value: str | None) -> Iterator[tuple[str, object]]:
    """Give a text; one that isn't UTF-8 twice: readable, and as its bytes in base64."""
    raw = (value or "").encode(errors="surrogateescape")
    shown = raw.decode(errors="replace")
    yield name, None if value is None else shown
    if shown.encode() != raw:
        yield f"{name}_b64", b64encode(raw).decode()
