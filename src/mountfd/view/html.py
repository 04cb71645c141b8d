"""A propagation graph that Graphviz has laid out, as a picture for web pages, and as a page that needs nothing else.

The page's tables hold the facts, so they can be read without its script, which only takes them from there. All text
goes through one function that escapes it; a content policy forbids the page every other script, and any network.
"""

from __future__ import annotations

import re
from html import escape, unescape

from mountfd.errors import InvalidSpec
from mountfd.model.graph import COVER, PEER, Group
from mountfd.view import graph_words as words
from mountfd.view.dot import anchor, drawn_edges, edge_id, is_drawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountfd.model.graph import Edge, Frame, Graph, Node

__all__ = ["page", "picture"]

# Graphviz writes `<` of a text as an entity, so these can't be part of one.
_TITLE = re.compile(r'(<g id="([^"]+)" class="[^"]+"[^>]*>\s*)<title>[^<]*</title>')
_COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)
_COLUMNS = ("mounted on", "type", "source", "options", "propagation", "peer group", "master", "mount id", "state")


def picture(graph: Graph, svg: str) -> str:
    """Give SVG for light and dark pages, with the facts of each part as its title. Argument: svg, as dot(1) made it."""
    start, inner = _opened(graph, svg)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{start}\n<style>\n{_read("graph.css")}</style>{inner}'


def page(graph: Graph, svg: str, *, title: str = "Mount propagation") -> str:
    """Give a page with the picture, a search, the facts of what is pointed at, and tables of all of them."""
    from base64 import b64encode  # noqa: PLC0415 (only for a page)
    from hashlib import sha256  # noqa: PLC0415

    script = _read("graph.js")
    parts = {
        "TITLE": escape(title),
        "HASH": f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}",
        "PICTURE_STYLE": _read("graph.css"),
        "COUNTS": escape(_counts(graph)),
        "SVG": "".join(_opened(graph, svg)),
        "MOUNTS": _mounts(graph),
        "GROUPS": _groups(graph),
        "SCRIPT": script,
    }
    # In one pass: what is put in may look like a place to put something.
    return re.sub(r"%%([A-Z_]+)%%", lambda found: parts[found[1]], _read("graph.html"))


# --- the picture ---------------------------------------------------------------------------------------------------
def _opened(graph: Graph, svg: str) -> tuple[str, str]:
    """Give the picture's start tag and the rest, without what names other documents, and with our titles."""
    titles = _titles(graph)

    def title(found: re.Match[str]) -> str:
        text = titles.get(unescape(found[2]))
        return found[1] + (f"<title>{escape(text)}</title>" if text else "")

    if "<svg" not in svg:
        raise InvalidSpec("dot(1) gave no picture", part="dot")
    svg = _COMMENT.sub("", svg[svg.index("<svg") :])
    start, inner = svg[: svg.index(">") + 1], svg[svg.index(">") + 1 :]
    return re.sub(r'\s+xmlns:xlink="[^"]*"', "", start), _TITLE.sub(title, inner)


def _titles(graph: Graph) -> dict[str, str]:
    found = {node.key: _lines(words.facts(node)) for node in graph.nodes()}
    found |= {anchor(group): _lines(_group_facts(group)) for group in graph.groups if is_drawn(group)}
    found |= {edge_id(edge): _edge_title(edge) for edge in drawn_edges(graph)}
    found |= {f"ns{at}": words.names(frame, most=10) for at, frame in enumerate(graph.frames, 1)}
    return found


def _lines(facts: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in facts if value)


def _edge_title(edge: Edge) -> str:
    if edge.kind == PEER:
        return f"{_name(edge.start)} is a member of {_name(edge.end)}"
    if edge.kind == COVER:
        return f"{_name(edge.start)} covers a mount at the same place"
    return f"{_name(edge.end)} receives from {_name(edge.start)}"


def _name(end: Node | Group) -> str:
    return f"peer group {words.number(end)}" if isinstance(end, Group) else words.place(end)


def _group_facts(group: Group) -> list[tuple[str, str]]:
    sources = {anchor(each): each for each in (node.master for node in group.members) if each is not None}
    if group.source is not None:
        sources[anchor(group.source)] = group.source
    return [
        ("peer group", f"●{words.number(group)}"),
        ("members", _places(group.members) or "out of sight"),
        ("receives from", ", ".join(f"●{words.number(each)}" for each in sources.values())),
        ("sends to", _places(group.receivers)),
    ]


def _places(nodes: Iterable[Node], most: int = 12) -> str:
    found = []
    for node in nodes:
        times = f" {words.times(len(node.mounts))}" if len(node.mounts) > 1 else ""
        found.append(words.place(node) + times)
    return ", ".join(found[:most]) + (f", and {len(found) - most} more" if len(found) > most else "")


# --- the page ------------------------------------------------------------------------------------------------------
def _counts(graph: Graph) -> str:
    namespaces = sum(len(frame.names) for frame in graph.frames)
    mounts = sum(len(node.mounts) for node in graph.nodes())
    groups = sum(len(group.numbers) for group in graph.groups)
    pairs = ((namespaces, "namespace"), (mounts, "mount"), (groups, "peer group"))
    return " · ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in pairs)


def _mounts(graph: Graph) -> str:
    return _table([*_COLUMNS, "namespace"], [_mount_row(node, frame) for frame in graph.frames for node in frame.nodes])


def _mount_row(node: Node, frame: Frame) -> str:
    facts = dict(words.facts(node))
    where = words.names(frame, most=10)
    data = {"key": node.key, "kind": "mount", "where": words.names_briefly(frame)}
    # Groups by the id of their own, whether they are drawn or not.
    data |= {name: f"g{group.number}" for name, group in _belongs(node) if group is not None}
    data |= {"self": "1"} if node.reaches_itself else {}
    return _row(data, [*(facts.get(name, "") for name in _COLUMNS), where])


def _belongs(node: Node) -> tuple[tuple[str, Group | None], ...]:
    return ("group", node.group), ("master", node.master)


def _groups(graph: Graph) -> str:
    rows = []
    for group in graph.groups:
        data = {"key": f"g{group.number}", "kind": "group"}
        data |= {"from": f"g{group.source.number}"} if group.source is not None else {}
        rows.append(_row(data, [value for _, value in _group_facts(group)]))
    return _table(["peer group", "members", "receives from", "sends to"], rows)


def _table(names: Iterable[str], rows: Iterable[str]) -> str:
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    return f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{''.join(rows)}</tbody>\n</table>"


def _row(data: dict[str, str], cells: Iterable[str]) -> str:
    attributes = "".join(f' data-{name}="{escape(value)}"' for name, value in data.items())
    return f"<tr{attributes}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>\n"


def _read(name: str) -> str:
    from pkgutil import get_data  # noqa: PLC0415 (beside what it reads; also out of a zip file)

    data = get_data("mountfd.view", name)
    if data is None:
        raise FileNotFoundError(name)
    return data.decode()
