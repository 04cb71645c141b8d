"""`mountfd graph`: who passes mounts on to whom, within a namespace and between them."""

from __future__ import annotations

from mountfd.cli import exits
from mountfd.cli.arguments import Option, Spec
from mountfd.errors import Denied, Gone, InvalidSpec, KernelError, Missing, MountfdError, NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountfd.cli.arguments import Arguments
    from mountfd.model.graph import Graph
    from mountfd.model.table import MountTable

__all__ = ["SPEC", "run", "status_of"]

_NAMED = 3
_FORMATS = ("text", "dot", "svg", "html", "json")

SPEC = Spec(
    "graph",
    "Draw how mounts propagate: peer groups, what receives from them, and the namespaces that all these stand in.",
    options=[
        Option("--format", "text, dot (Graphviz), svg, html (one file, needs no network) or json", metavar="FORMAT"),
        Option("-J --json", "the same as --format json"),
        Option(
            "-N --task --namespace",
            "of another mount namespace: a pid, a file, self, all that may be seen; again for more",
            metavar="PID|FILE|all",
            many=True,
        ),
        Option("--under", "only at and below this directory", metavar="DIR"),
        Option("-F --tab-file --file", "read a recorded mountinfo instead, - for standard input", metavar="FILE"),
        Option("--all", "every private mount too, instead of their number"),
        Option("--output", "write into this file", metavar="FILE"),
        Option("-a --ascii", "draw text with ASCII alone"),
        Option("--color", "auto, always or never", metavar="WHEN"),
    ],
    epilog="A mount made on a mount of a peer group (●) appears on all its peers and on all that receive from it (▶).\n"
    "svg and html are laid out by Graphviz' dot(1).",
)


def status_of(error: BaseException) -> int:
    """Tell a mistake in the question from a failure to answer."""
    return exits.USAGE if isinstance(error, InvalidSpec) else exits.FAILURE


def run(arguments: Arguments) -> int:
    """Ask, draw and write."""
    from mountfd.model.graph import graph  # noqa: PLC0415 (after the words are understood)

    form = _format(arguments)
    found = graph(_namespaces(arguments), everything=arguments.on("all"))
    if form == "text":
        _write_text(found, arguments)
    else:
        _write("".join(_document(found, form)), arguments.text("output"))
    return exits.OK


def _format(arguments: Arguments) -> str:
    form = arguments.text("format") or ("json" if arguments.on("json") else "text")
    if form not in _FORMATS:
        raise InvalidSpec(f"--format is {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}, not {form!r}", part="--format")
    if arguments.on("json") and form != "json":
        raise InvalidSpec(f"--json and --format {form} exclude each other", part="--json")
    return form


# --- asking --------------------------------------------------------------------------------------------------------
def _namespaces(arguments: Arguments) -> list[tuple[str, MountTable]]:
    """Give each namespace's name and mounts, each once."""
    recorded, under, asked = arguments.text("file"), arguments.text("under"), arguments.texts("namespace")
    if recorded is not None:
        if asked:
            raise InvalidSpec("--file and --namespace exclude each other", part="--file")
        return [_recorded(recorded, under)]
    found: dict[int | str | None, tuple[str, MountTable]] = {}
    for name in asked or ["self"]:
        for title, table in _asked(name, under):
            # No mount is in two namespaces, so its first one tells which it is, also where namespaces have no ids.
            found.setdefault((table[0].id or table[0].id_old) if len(table) else title, (title, table))
    return [*found.values()]


def _asked(name: str, under: str | None) -> Iterator[tuple[str, MountTable]]:
    from mountfd.model.info import FIELDS  # noqa: PLC0415 (after the words are understood)
    from mountfd.model.table import MountTable  # noqa: PLC0415
    from mountfd.verbs.query import mounts  # noqa: PLC0415

    if name == "self":
        yield "this namespace", mounts(under, fields=FIELDS)
    elif name == "all":
        try:
            table, inhabitants = mounts(under, namespace="all", fields=FIELDS), _inhabitants()
        except (Denied, NotSupported):
            yield from _asked_by_processes(under)
            return
        for number in dict.fromkeys(mount.ns_id for mount in table):
            title = inhabitants.get(number, f"ns {number}, of no process")
            yield title, MountTable(mount for mount in table if mount.ns_id == number)
    elif name.isascii() and name.isdecimal():
        table = mounts(under, namespace=int(name), fields=FIELDS)
        yield _process(int(name)), table
    else:
        yield name, mounts(under, namespace=name, fields=FIELDS)


def _inhabitants() -> dict[int | None, str]:
    """Name namespaces by the first process that lives in each."""
    from mountfd.handles.mountns import MountNamespace  # noqa: PLC0415 (only for all namespaces)

    first, _ = _processes()
    found: dict[int | None, str] = {}
    for pid in first.values():
        try:
            with MountNamespace.of(pid) as namespace:
                found[namespace.id] = _process(pid)
        except (Gone, KernelError):
            continue  # the same: a name is for people, the namespace is shown without one too
    with MountNamespace.current() as own:
        found[own.id] = "this namespace"
    return found


def _processes() -> tuple[dict[int, int], list[int]]:
    """Give the first process of each namespace, by the inode of that, and those that may not be looked into."""
    import os  # noqa: PLC0415 (only for all namespaces)

    first: dict[int, int] = {}
    closed: list[int] = []
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()):
        try:
            first.setdefault(os.stat(f"/proc/{pid}/ns/mnt").st_ino, pid)
        except PermissionError:
            closed.append(pid)
        except OSError:
            continue  # it has ended: another one may give the name
    return first, closed


def _asked_by_processes(under: str | None) -> Iterator[tuple[str, MountTable]]:
    """Give the namespaces of those processes that may be looked into; say which may not.

    The kernel lists namespaces only for root of the whole machine, outside of pid namespaces, since Linux 6.11.
    """
    import os  # noqa: PLC0415 (only for all namespaces)

    from mountfd.cli.messages import say  # noqa: PLC0415
    from mountfd.model.info import FIELDS  # noqa: PLC0415
    from mountfd.verbs.query import mounts  # noqa: PLC0415

    first, closed = _processes()
    first.pop(os.stat("/proc/thread-self/ns/mnt").st_ino, None)
    missing: Missing | None = None
    shown = 0
    for name, pid in [("this namespace", None), *((_process(pid), pid) for pid in first.values())]:
        try:
            table = mounts(under, namespace=pid, fields=FIELDS)
        except Gone:
            continue
        except Missing as error:
            missing = error  # it has no such place
            continue
        except KernelError as error:
            say(f"the mount namespace of {name} can't be looked at: {error}")
            continue
        shown += 1
        yield name, table
    if missing is not None and not shown:
        raise missing
    said = "mount namespaces can't be listed here: shown are those of processes that may be looked into"
    if closed:
        some = ", ".join(_process(pid) for pid in closed[:_NAMED]) + (", ..." if len(closed) > _NAMED else "")
        said += f", which {len(closed)} may not: {some}"
    say(said)


def _process(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return f"pid {pid} {file.read().decode(errors='surrogateescape').strip()}".rstrip()
    except OSError:
        return f"pid {pid}"  # it has ended since, or this /proc isn't its own


def _recorded(path: str, under: str | None) -> tuple[str, MountTable]:
    import sys  # noqa: PLC0415 (only for this)

    from mountfd.model.table import MountTable  # noqa: PLC0415

    if path == "-":
        if sys.stdin is None:
            raise InvalidSpec("the standard input is closed", part="file")
        data = sys.stdin.buffer.read()
    else:
        with open(path, "rb") as file:
            data = file.read()
    table = MountTable.parse(data)
    return ("standard input" if path == "-" else path), (table if under is None else table.below(under))


# --- showing -------------------------------------------------------------------------------------------------------
def _document(found: Graph, form: str) -> Iterator[str]:
    if form == "json":
        from json import dumps  # noqa: PLC0415 (only when asked)

        from mountfd.view.graph_json import as_values  # noqa: PLC0415

        yield dumps(as_values(found), indent=2) + "\n"
        return
    from mountfd.view import dot  # noqa: PLC0415 (only when asked)

    text = "".join(dot.document(found))
    if form == "dot":
        yield text
        return
    from mountfd.view import html  # noqa: PLC0415 (only when asked)

    svg = _laid_out(text)
    yield html.picture(found, svg) if form == "svg" else html.page(found, svg)


def _laid_out(text: str) -> str:
    """Have Graphviz lay the graph out. Raises MountfdError where it isn't installed or refuses."""
    import subprocess  # noqa: PLC0415 (only when asked)

    try:
        done = subprocess.run(["dot", "-Tsvg"], check=False, input=text.encode(), capture_output=True)  # noqa: S607
    except FileNotFoundError:
        error = MountfdError("svg and html need Graphviz: there is no dot(1) on the PATH")
        error.add_note("hint: install the package graphviz, or write --format dot and lay it out elsewhere")
        raise error from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise MountfdError(f"dot(1) failed with status {done.returncode}: {said or 'it said nothing'}")
    return done.stdout.decode()


def _write_text(found: Graph, arguments: Arguments) -> None:
    from mountfd.cli.terminal import Screen, put  # noqa: PLC0415 (after the words are understood)
    from mountfd.view.graph_text import lines  # noqa: PLC0415

    output, when = arguments.text("output"), arguments.text("color")
    screen = Screen(when if output is None or when == "always" else "never")
    is_ascii = arguments.on("ascii") or (screen.is_ascii and output is None)
    room = screen.room if output is None else None
    found_lines = lines(found, colour=screen.is_colourful, is_ascii=is_ascii, room=room)
    pieces = (line + "\n" for line in found_lines)
    if output is None:
        put(pieces)
    else:
        _write("".join(pieces), output)


def _write(text: str, output: str | None) -> None:
    """Write a document, in UTF-8 whatever the locale is."""
    if output is not None:
        with open(output, "wb") as file:
            file.write(text.encode())
        return
    import sys  # noqa: PLC0415 (only for this)

    if sys.stdout is not None:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode())
