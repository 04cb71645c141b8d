"""`mountfd check`: mountpoint(1).

Nothing is loaded here that the answer doesn't need: scripts call it by the thousand.
"""

from __future__ import annotations

import os
import sys

from mountfd.cli import exits
from mountfd.cli.arguments import Option, Spec
from mountfd.errors import MountfdError
from mountfd.verbs.query.point import is_mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.cli.arguments import Arguments

__all__ = ["FAILED", "SPEC", "run"]

FAILED = exits.USAGE

SPEC = Spec(
    "check",
    "Say whether PATH is a mount: the root of a filesystem, or a bind mount of a directory or file.",
    "PATH",
    [
        Option("-q --quiet", "say it by the exit status alone, errors too"),
        Option("--nofollow", "where PATH is a symlink, ask about the link itself"),
        Option("--no-bind", "a mount that shows only a part of its filesystem doesn't count"),
        Option("-J --json", "one JSON document"),
    ],
    epilog="The exit status is mountpoint(1)'s: 0 it is a mount, 32 it isn't, 1 PATH can't be looked at.",
)


def run(arguments: Arguments) -> int:
    """Ask and say it."""
    path = arguments.operands[0]
    try:
        found = is_mount(path, follow=not arguments.on("nofollow"), bind=not arguments.on("no_bind"))
    except MountfdError:
        if arguments.on("quiet"):
            return FAILED
        raise
    if arguments.on("json"):
        _show_json(path, found)
    elif not arguments.on("quiet"):
        _show(f"{path} is {'' if found else 'not '}a mountpoint\n")
    return exits.OK if found else exits.NOT_A_MOUNT


def _show(line: str) -> None:
    if sys.stdout is None:
        return
    if sys.stdout.isatty():
        from mountfd.view.text import printable  # noqa: PLC0415 (only for a person)

        line = printable(line[:-1], is_ascii=True) + "\n"
    # A pipe gets the path's own bytes, as from mountpoint(1).
    sys.stdout.flush()
    sys.stdout.buffer.write(os.fsencode(line))


def _show_json(path: str, found: bool) -> None:  # noqa: FBT001 (the answer)
    import json  # noqa: PLC0415 (only when asked)
    from base64 import b64encode  # noqa: PLC0415

    raw = os.fsencode(path)
    answer: dict[str, object] = {"path": raw.decode(errors="replace")}
    if raw.decode(errors="replace").encode() != raw:
        answer["path_b64"] = b64encode(raw).decode()
    if sys.stdout is not None:
        sys.stdout.write(json.dumps({**answer, "mountpoint": found}) + "\n")
