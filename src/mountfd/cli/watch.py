"""`mountfd watch`: mounts that come, go and move, a line each."""

from __future__ import annotations

from mountfd.cli import exits
from mountfd.cli.arguments import Option, Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.cli.arguments import Arguments
    from mountfd.model.event import Event
    from mountfd.verbs.watch import Events

__all__ = ["SPEC", "run"]

SPEC = Spec(
    "watch",
    "Print a line for each mount that is attached, detached or moved, as it happens, until interrupted.",
    options=[
        Option("--under", "only mounts at or below this path", metavar="PATH"),
        Option("--namespace", "another mount namespace: of a process, or of a namespace file", metavar="PID|PATH"),
        Option("--json", "a JSON object on each line"),
    ],
    epilog="A line: attach, detach or move, where it stands, filesystem type, #id; for a move, where it was.\n"
    "`overflow`: too much happened to keep each step; lines that follow tell the difference. `end`: the namespace is\n"
    "gone. Where the kernel (before 6.15) or the user can't have each step, each lasting change is told.",
)


def run(arguments: Arguments) -> int:
    """Print events until interrupted, or until nobody reads them."""
    import gc  # noqa: PLC0415 (beside what it is for)

    from mountfd.verbs.watch import watch  # noqa: PLC0415 (after the words are understood)

    gc.enable()  # unlike the other commands this one lives long
    namespace = arguments.text("namespace")
    numbered = int(namespace) if namespace is not None and namespace.isascii() and namespace.isdigit() else namespace
    try:
        with watch(namespace=numbered, under=arguments.text("under")) as events:
            _print_all(events, as_json=arguments.on("json"))
    except KeyboardInterrupt:
        pass
    return exits.OK


def _print_all(events: Events, *, as_json: bool) -> None:
    import select  # noqa: PLC0415
    import sys  # noqa: PLC0415

    if sys.stdout is None:
        return
    output = sys.stdout.fileno()
    both = select.poll()
    both.register(events, select.POLLIN)
    both.register(output, 0)  # a pipe that nobody reads any more shall not wait for the next event to be noticed
    while True:
        seen = dict(both.poll())
        for event in events.read() if events.fileno() in seen else ():
            sys.stdout.write(_line(event, as_json=as_json, encoding=sys.stdout.encoding or "ascii"))
            if event.kind == "end":
                sys.stdout.flush()
                return
        sys.stdout.flush()
        if seen.get(output, 0) & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
            raise BrokenPipeError


def _line(event: Event, *, as_json: bool, encoding: str) -> str:
    from mountfd.view.events import line, record  # noqa: PLC0415

    if as_json:
        import json  # noqa: PLC0415 (only when asked)

        return json.dumps(record(event)) + "\n"
    return line(event).encode(encoding, "backslashreplace").decode(encoding) + "\n"
