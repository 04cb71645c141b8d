"""`mountfd list`: mounts, with findmnt(8)'s columns and JSON."""

from __future__ import annotations

from mountfd.cli import exits
from mountfd.cli.arguments import Option, Spec
from mountfd.errors import InvalidSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mountfd.cli.arguments import Arguments
    from mountfd.cli.terminal import Screen
    from mountfd.model.table import MountTable
    from mountfd.view.columns import Column
    from mountfd.view.tree import Node

__all__ = ["FAILED", "SPEC", "run"]

FAILED = exits.USAGE

SPEC = Spec(
    "list",
    "List mounts: all, or those at PATH (a mount point, or a source).",
    "[PATH]",
    [
        Option("-F --tab-file --file", "read a recorded mountinfo instead, - for standard input", metavar="FILE"),
        Option("-N --task --namespace", "of another mount namespace: a pid, a file, or all", metavar="PID|FILE|all"),
        Option("--under", "only at and below this directory", metavar="DIR"),
        Option("-T --target", "only the mount that this path lies on", metavar="FILE"),
        Option("-R --submounts", "with PATH or -T: what stands below it too"),
        Option("-t --types", "only these filesystem types; no in front: all but these", metavar="TYPE[,TYPE]"),
        Option("-o --output", "these columns; + in front adds to the usual ones", metavar="COLUMNS"),
        Option("-n --noheadings", "no line with the columns' names"),
        Option("-l --list", "a flat list [in a pipe, and with -T or PATH]"),
        Option("--tree", "a tree [on a terminal]"),
        Option("-r --raw", "fields separated by single blanks, with escapes"),
        Option("-J --json", "findmnt's JSON document, with some keys more"),
        Option("-a --ascii", "draw with ASCII alone"),
        Option("--color", "auto, always or never", metavar="WHEN"),
    ],
    epilog="Columns are findmnt's TARGET SOURCE FSTYPE OPTIONS VFS-OPTIONS FS-OPTIONS FSROOT MAJ:MIN ID PARENT\n"
    "UNIQ-ID PROPAGATION OPT-FIELDS, and UNIQ-PARENT PEER-GROUP MASTER STATE SUBTYPE IDMAP NS.\n"
    "The exit status is 0, or 1 where nothing was found to show.",
)


def run(arguments: Arguments) -> int:
    """Find, choose and show."""
    from mountfd.cli.terminal import Screen, put  # noqa: PLC0415 (after the words are understood)
    from mountfd.view import columns as known  # noqa: PLC0415

    screen = Screen(arguments.text("color"))
    screen.is_ascii |= arguments.on("ascii")
    is_json, namespace = arguments.on("json"), arguments.text("namespace")
    default = known.DEFAULT_JSON if is_json else known.DEFAULT
    if namespace == "all":
        default = [known.by_name("NS"), *default]
    columns = known.choose(arguments.text("output"), default)
    is_tree = _is_tree(arguments, screen)
    roots = _chosen(_found(arguments, columns), arguments, is_tree=is_tree)
    if roots or is_json:
        put(_pieces(roots, columns, arguments, screen, is_tree=is_tree))
    return exits.OK if roots else exits.NOTHING


# --- finding -------------------------------------------------------------------------------------------------------
def _found(arguments: Arguments, columns: list[Column]) -> MountTable:
    from mountfd.model.info import FIELDS  # noqa: PLC0415 (after the words are understood)
    from mountfd.model.table import MountTable  # noqa: PLC0415
    from mountfd.verbs.query import mounts  # noqa: PLC0415
    from mountfd.view.columns import fields_of  # noqa: PLC0415

    recorded, under, namespace = (arguments.text(key) for key in ("file", "under", "namespace"))
    if recorded is not None:
        if namespace is not None:
            raise InvalidSpec("--file and --namespace exclude each other", part="--file")
        table = MountTable.parse(_read(recorded))
        return table if under is None else table.below(under)
    if namespace is None and under is None:
        # The table tells everything but this, and is cheaper where everything is wanted.
        extra = {"id", "parent_id", "ns_id", "uid_map"}.intersection(fields_of(columns))
        return mounts(fields=FIELDS if extra else None)
    where = int(namespace) if namespace is not None and namespace.isdecimal() else namespace
    return mounts(under, namespace=where, fields=FIELDS)


def _read(path: str) -> bytes:
    if path == "-":
        import sys  # noqa: PLC0415 (only for this)

        return sys.stdin.buffer.read()
    with open(path, "rb") as file:
        return file.read()


# --- choosing ------------------------------------------------------------------------------------------------------
def _chosen(table: MountTable, arguments: Arguments, *, is_tree: bool) -> list[Node]:
    """Give the trees, or where a flat list was asked for, nodes without children."""
    from mountfd.view.tree import Node, nest, prune, walk  # noqa: PLC0415 (after the words are understood)

    roots, wanted, types = nest(table), _at(arguments), arguments.text("types")
    if wanted is not None and arguments.on("submounts"):
        roots = _tops(roots, wanted)
    elif arguments.on("submounts"):
        raise InvalidSpec("-R needs a PATH or -T", part="-R")
    else:
        if wanted is not None:
            roots = prune(roots, wanted)
        if types is not None:
            roots = prune(roots, lambda node: _is_of_type(node, types))
    if is_tree:
        return roots
    nodes = {id(node.mount): Node(node.mount, node.state) for _, node in walk(roots)}
    if arguments.on("submounts"):
        return [*nodes.values()]
    return [nodes[id(mount)] for mount in table if id(mount) in nodes]


def _at(arguments: Arguments) -> Callable[[Node], bool] | None:
    """Make the question that PATH or -T asks of each mount."""
    import os  # noqa: PLC0415 (after the words are understood)

    operand, target = next(iter(arguments.operands), None), arguments.text("target")
    if operand is not None and target is not None:
        raise InvalidSpec("PATH and -T exclude each other", part="-T")
    if target is not None:
        from mountfd.verbs.query import lookup  # noqa: PLC0415

        point = lookup(target, fields=["point"]).point
        return lambda node: node.mount.point == point
    if operand is None:
        return None
    point = operand if arguments.on("file") else os.path.realpath(operand)
    return lambda node: node.mount.point == point or node.mount.source == operand


def _tops(roots: list[Node], wanted: Callable[[Node], bool]) -> list[Node]:
    """Find the uppermost mounts that are wanted, with all that stands on them."""
    found, waiting = [], roots[::-1]
    while waiting:
        node = waiting.pop()
        if wanted(node):
            found.append(node)
        else:
            waiting += reversed(node.children)
    return found


def _is_of_type(node: Node, types: str) -> bool:
    """Compare as mount(8)'s -t does: `no` in front of the first type turns all round, in front of another only that."""
    from mountfd.model.wording import whole_type  # noqa: PLC0415 (only for -t)

    name = whole_type(node.mount)
    no, words = types.startswith("no"), types.removeprefix("no").split(",")
    for word in words:
        if word == f"no{name}":
            return False
        if word == name:
            return not no
    return no


# --- showing -------------------------------------------------------------------------------------------------------
def _is_tree(arguments: Arguments, screen: Screen) -> bool:
    """Tell whether the answer has a shape: where one is asked for, else as findmnt, but plain columns in a pipe."""
    if arguments.on("list"):
        return False
    if arguments.on("tree"):
        return True
    chooses = arguments.on("target") or bool(arguments.operands)
    keeps_shape = arguments.on("json") or arguments.on("raw") or screen.is_for_people
    return keeps_shape and (arguments.on("submounts") or not chooses)


def _pieces(
    roots: list[Node], columns: list[Column], arguments: Arguments, screen: Screen, *, is_tree: bool
) -> Iterator[str]:
    from mountfd.view import listing  # noqa: PLC0415 (after the words are understood)

    headings, is_ascii = not arguments.on("noheadings"), screen.is_ascii
    if arguments.on("json"):
        from mountfd.view.mounts_json import document  # noqa: PLC0415 (only when asked)

        yield from document(roots, columns, is_ascii=is_ascii)
        return
    if arguments.on("raw"):
        lines = listing.raw_lines(roots, columns, headings=headings)
    elif is_tree and screen.is_for_people and arguments.text("output") is None:
        lines = _picture(roots, screen, headings=headings)
    else:
        lines = listing.lines(roots, columns, is_tree=is_tree, is_ascii=is_ascii, headings=headings, room=screen.room)
    for line in lines:
        yield line + "\n"


def _picture(roots: list[Node], screen: Screen, *, headings: bool) -> Iterator[str]:
    """Draw for a person."""
    from mountfd.view.columns import by_name  # noqa: PLC0415 (only at a terminal)
    from mountfd.view.painted import by_hand, by_rich  # noqa: PLC0415
    from mountfd.view.people import rows  # noqa: PLC0415

    names = ("TARGET", "FSTYPE", "SOURCE", "OPTIONS")
    table = list(rows(roots, {name: by_name(name) for name in names}, is_ascii=screen.is_ascii))
    if screen.is_colourful and screen.room is not None and not screen.is_ascii:
        try:
            return by_rich(table, headings=headings, room=screen.room)
        except ImportError:
            pass
    return by_hand(table, colour=screen.is_colourful, headings=headings, room=screen.room, is_ascii=screen.is_ascii)
