"""`mountfd advertise`: what a service speaks, on its socket."""

from __future__ import annotations

from mountfd.cli import exits
from mountfd.cli.arguments import Option, Spec
from mountfd.errors import InvalidSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.cli.arguments import Arguments

__all__ = ["SPEC", "run", "status_of"]

SPEC = Spec(
    "advertise",
    "Write on SOCKET which protocols its service speaks; without KEY=VALUE, read what is written there.",
    "SOCKET [KEY=VALUE...]",
    [Option("-J --json", "one JSON document")],
    epilog="Attributes of sockets came with Linux 7.1. The exit status is 0, or 32 when they can't be written or read.",
)


def run(arguments: Arguments) -> int:
    """Write, or read and show."""
    from mountfd.cli.terminal import put  # noqa: PLC0415 (after the words are understood)
    from mountfd.verbs.advertise import advertise, advertised  # noqa: PLC0415

    socket, *words = arguments.operands
    protocols: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise InvalidSpec(f"{word!r} is not KEY=VALUE", part="KEY=VALUE")
        protocols[name] = value
    if protocols:
        advertise(socket, protocols)
        return exits.OK
    found = advertised(socket)
    if arguments.on("json"):
        import json  # noqa: PLC0415 (only when asked)

        put([json.dumps({"socket": socket, "protocols": found}), "\n"])
    else:
        put(f"{name}={value}\n" for name, value in sorted(found.items()))
    return exits.OK


def status_of(error: BaseException) -> int:
    """Give the exit status for an error: 1 for words that are wrong."""
    return exits.USAGE if isinstance(error, InvalidSpec) and error.part == "KEY=VALUE" else exits.FAILURE
