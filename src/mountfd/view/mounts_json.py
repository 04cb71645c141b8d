"""Mounts as findmnt(8)'s JSON: `{"filesystems": [{..., "children": [...]}]}`.

docs/schema/list.schema.json describes it. Written piece by piece and without recursion: a stack may be thousands of
mounts deep.
"""

from __future__ import annotations

from base64 import b64encode
from json import dumps

from mountfd.view.tree import walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mountfd.view.columns import Column
    from mountfd.view.tree import Node

__all__ = ["document", "record"]

_STEP = "   "


def document(roots: Sequence[Node], columns: Sequence[Column], *, is_ascii: bool = False) -> Iterator[str]:
    """Write the document in pieces. Arguments: roots; columns; is_ascii, for a reader who knows no more."""
    yield f'{{\n{_STEP}"filesystems": ['
    last = -1
    for more, node in walk(roots):
        depth = len(more)
        if depth <= last:
            yield _closed(last, depth) + ","
        elif last >= 0:
            yield f',\n{_indent(last)}{_STEP}"children": ['
        if depth > last:
            yield "\n" + _indent(depth)
        facts = (
            f"{_indent(depth)}{_STEP}{dumps(key)}: {dumps(value, ensure_ascii=is_ascii)}"
            for key, value in record(node, columns)
        )
        yield "{\n" + ",\n".join(facts)
        last = depth
    yield (_closed(last, 0) if last >= 0 else "") + f"\n{_STEP}]\n}}\n"


def record(node: Node, columns: Sequence[Column]) -> Iterator[tuple[str, str | int | None]]:
    """Give one mount's facts; what isn't UTF-8 comes twice: readable, and as its bytes in base64."""
    for column in columns:
        value = column.value(node)
        if not isinstance(value, str) or _is_unicode(value):
            yield column.key, value
            continue
        raw = value.encode(errors="surrogateescape")
        yield column.key, raw.decode(errors="replace")
        yield f"{column.key}_b64", b64encode(raw).decode()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _closed(last: int, depth: int) -> str:
    """End the object at one depth, and the lists around it up to another depth."""
    parts = [f"\n{_indent(last)}}}"]
    parts += [f"\n{_indent(level)}{_STEP}]\n{_indent(level)}}}" for level in range(last - 1, depth - 1, -1)]
    return "".join(parts)


def _indent(depth: int) -> str:
    return _STEP * (2 + 2 * depth)
