r"""A propagation graph in Graphviz's language: namespaces are clusters, a peer group of several mounts is a node.

In a quoted string a quote ends it, a backslash begins an escape, and an ampersand may begin an entity; a label between
angle brackets is a piece of XML, with the same escapes none the less. All text has been made printable before, so no
control character and no half of a surrogate pair is left. Ids are those of the picture's parts in SVG too.
"""

from __future__ import annotations

from mountfd.model.graph import COVER, PEER, SLAVE, THROUGH, Group
from mountfd.model.wording import is_unbindable
from mountfd.view import graph_words as words
from mountfd.view.text import width

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountfd.model.graph import Edge, Frame, Graph, Node

__all__ = ["PALETTE", "anchor", "document", "drawn_edges", "edge_id", "is_drawn"]

# Of each colour: strong, for lines and signs; pale, to fill.
PALETTE = (
    ("#0e7490", "#e0f5fa"),
    ("#a21caf", "#fbe9fd"),
    ("#2563eb", "#e6eefe"),
    ("#15803d", "#e4f6ea"),
    ("#c2410c", "#fdeee4"),
    ("#be185d", "#fde8f0"),
)
_PLAIN = ("#7a828e", "#ffffff")
_INK, _FAINT, _FRAME, _INSIDE = "#1c2128", "#59636e", "#c3cad3", "#f6f8fa"
# All fonts of one width have nearly the same width, so the boxes fit on another machine too.
_FONT = "DejaVu Sans Mono,Menlo,Consolas,Liberation Mono,monospace"
_LONGEST, _LONGEST_NAMES = 48, 76
_WIDEST = 6  # a frame's unconnected mounts stand in a grid of about so many columns, at most


def document(graph: Graph, *, title: str = "mount propagation") -> Iterator[str]:
    """Write the document in lines. Arguments: graph; title."""
    yield f"digraph {_quoted(title)} {{\n"
    yield '  graph [id="propagation" charset="UTF-8" rankdir=LR bgcolor="transparent" nodesep=0.18 ranksep=0.7'
    yield f' pad=0.2 fontname={_quoted(_FONT)} fontsize=12 fontcolor="{_INK}"]\n'
    yield f'  node [fontname={_quoted(_FONT)} fontsize=12 fontcolor="{_INK}" shape=box style="rounded,filled"'
    yield ' margin="0.14,0.09" height=0.1]\n'
    yield f'  edge [fontname={_quoted(_FONT)} fontsize=10 fontcolor="{_FAINT}" arrowsize=0.8]\n'
    connected = {anchor(end) for edge in drawn_edges(graph) for end in (edge.start, edge.end)}
    for at, frame in enumerate(graph.frames, 1):
        yield from _frame(frame, at, connected)
    for group in graph.groups:
        if is_drawn(group):
            yield _group(group)
    for edge in drawn_edges(graph):
        yield _edge(edge)
    yield "}\n"


def anchor(end: Node | Group) -> str:
    """Give the id of what an edge leads to: a group of one mount is that mount."""
    if not isinstance(end, Group):
        return end.key
    return f"g{end.number}" if is_drawn(end) else end.members[0].key


def edge_id(edge: Edge) -> str:
    """Give the id of an edge, which tells its ends."""
    return f"{edge.kind}--{anchor(edge.start)}--{anchor(edge.end)}"


def drawn_edges(graph: Graph) -> list[Edge]:
    """Give the edges that are drawn, in order: none from a mount to a group that isn't drawn."""
    return [edge for edge in graph.edges() if edge.kind != PEER or anchor(edge.start) != anchor(edge.end)]


def is_drawn(group: Group) -> bool:
    """Say whether a group has a node of its own."""
    return len(group.members) != 1 or group.size > 1


# --- parts ---------------------------------------------------------------------------------------------------------
def _frame(frame: Frame, at: int, connected: set[str]) -> Iterator[str]:
    names, folded = words.names(frame), words.folded(frame)
    label = [words.likeness(frame), names.partition(": ")[2]] if len(frame.names) > 1 else [names]
    label += [f"and {folded}" if frame.nodes else folded] if folded else []
    yield f"  subgraph cluster_{at} {{\n"
    label = [_cut(line, _LONGEST_NAMES) for line in label]
    yield f'    graph [id="ns{at}" class="namespace" label={_quoted(*label)} labeljust=l style="rounded,filled"'
    yield f' color="{_FRAME}" fillcolor="{_INSIDE}" margin=14]\n'
    for node in frame.nodes:
        yield _node(node)
    if not frame.nodes:
        yield f'    "empty{at}" [id="empty{at}" class="nothing" label="nothing that propagates" shape=plain style=""'
        yield f' fontcolor="{_FAINT}"]\n'
    yield from _grid([node for node in frame.nodes if node.key not in connected])
    yield "  }\n"


def _grid(nodes: list[Node]) -> Iterator[str]:
    """Put what nothing leads to into columns, by lines that aren't seen."""
    columns = max(1, min(_WIDEST, int(len(nodes) ** 0.5 / 2)))
    rows = -(-len(nodes) // columns)
    for one, other in zip(nodes, nodes[rows:], strict=False):
        yield f'    "{one.key}" -> "{other.key}" [style=invis]\n'


def _node(node: Node) -> str:
    is_lone = node.group is not None and node.group.is_alone
    strong, pale = _PLAIN if node.group is None or is_lone else PALETTE[words.colour(node.group)]
    shown = node.group or node.master
    sign = _PLAIN[0] if shown is None else PALETTE[words.colour(shown)][0]
    line = 'style="rounded,filled,dashed" ' if node.group is None else ""
    signs = words.mark(node) + (" ▽ covered" if node.is_covered else "")
    facts = " ".join(filter(None, [words.kind(node), words.source(node)]))
    label = f'<b>{_xml(_cut(words.place(node)))}</b><br align="left"/>'
    label += f'<font point-size="10" color="{sign}">{_xml(signs)}</font>'
    label += f'<font point-size="10" color="{_FAINT}">  {_xml(_cut(facts))}</font><br align="left"/>'
    return (
        f'    "{node.key}" [id="{node.key}" class="{_classes(node)}" {line}color="{strong}" fillcolor="{pale}"'
        f" label=<{label}>]\n"
    )


def _classes(node: Node) -> str:
    found = ["mount"]
    if node.group is not None:
        found += ["shared", *(["alone"] if node.group.is_alone else []), f"peer{words.colour(node.group)}"]
    elif node.master is not None:
        found += ["slave", f"peer{words.colour(node.master)}"]
    else:
        found.append("unbindable" if is_unbindable(node.mount) else "private")
    return " ".join(found + (["covered"] if node.is_covered else []))


def _group(group: Group) -> str:
    strong, pale = PALETTE[words.colour(group)]
    # One that nobody here is in has the signs of a mount elsewhere.
    look = f'style=filled fillcolor="{strong}" fontcolor="#ffffff"' if group.members else f'fontcolor="{strong}"'
    look = look if group.members else f'style="filled,dashed" fillcolor="{pale}" {look}'
    label = _quoted(f"●{words.number(group)}", words.group_size(group), joint=r"\n")
    return (
        f'  "{anchor(group)}" [id="{anchor(group)}" class="group{"" if group.members else " unseen"}'
        f' peer{words.colour(group)}" shape=ellipse color="{strong}" {look} fontsize=11 label={label}]\n'
    )


def _edge(edge: Edge) -> str:
    group = edge.end if edge.kind == PEER else edge.start
    number = words.colour(group) if isinstance(group, Group) else None
    tone = _FAINT if number is None else PALETTE[number][0]
    look = {
        PEER: f'dir=none penwidth=2.2 color="{tone}"',
        SLAVE: f'penwidth=1.4 color="{tone}"',
        THROUGH: f'style=dashed color="{tone}"',
        # It says what hides what, and shall not pull the mounts apart.
        COVER: f'style=dotted arrowhead=tee constraint=false color="{_FAINT}"',
    }[edge.kind]
    label = {PEER: "", SLAVE: "slave", THROUGH: "by way of others", COVER: "covers"}[edge.kind]
    times = words.times(edge.count) if edge.count > 1 else ""
    tint = "" if number is None else f" peer{number}"
    return (
        f'  "{anchor(edge.start)}" -> "{anchor(edge.end)}" [id="{edge_id(edge)}" class="{edge.kind}{tint}"'
        f" {look} label={_quoted(' '.join(filter(None, [label, times])))}]\n"
    )


# --- text ----------------------------------------------------------------------------------------------------------
def _quoted(*lines: str, joint: str = r"\l") -> str:
    r"""Quote a string; of several lines, each ends by a joint: `\l` sets it to the left, `\n` in the middle."""
    end = joint if len(lines) > 1 and joint == r"\l" else ""
    quoted = (line.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;") for line in lines)
    return f'"{joint.join(quoted)}{end}"'


def _xml(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # In such a label too Graphviz puts names in place of `\N` and its like, even where the backslash is an entity.
    return text.replace('"', "&quot;").replace("\\", "\\\\").replace("  ", " &#160;")


def _cut(text: str, longest: int = _LONGEST) -> str:
    """Leave out the middle of what is too long: a path's end says more than that."""
    if width(text) <= longest:
        return text
    half = longest // 2 - 1
    return f"{text[:half]}…{text[-half:]}"
