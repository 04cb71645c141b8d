"""`mountfd doctor`: what this kernel and this user can do, and what takes the place of the rest."""

from __future__ import annotations

from mountfd.cli import exits
from mountfd.cli.arguments import Option, Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.cli.arguments import Arguments

__all__ = ["SPEC", "run"]

SPEC = Spec(
    "doctor",
    "Say what this kernel and this user can do, found by trying, and what is used in place of what is missing.",
    options=[Option("--json", "one JSON document")],
)


def run(arguments: Arguments) -> int:
    """Print the examination."""
    from mountfd.cli.terminal import put  # noqa: PLC0415 (after the words are understood)
    from mountfd.verbs.examine import examine  # noqa: PLC0415

    facts = examine()
    if arguments.on("json"):
        import json  # noqa: PLC0415 (only when asked)

        put([json.dumps(facts, indent=2), "\n"])
    else:
        from mountfd.view.examination import lines  # noqa: PLC0415

        put(line + "\n" for line in lines(facts))
    return exits.OK
