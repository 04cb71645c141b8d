"""`mountfd-overlay SOURCE TARGET -o OPTIONS`: an overlay, for programs that mount by a helper.

mount.fuse3 starts it for the type `fuse3.mountfd-overlay`, which is how containerd has its overlays made here. The
helper adds `dev` and `suid`, which a new mount has anyway.
"""

from __future__ import annotations

import gc
import os
import sys

from mountfd.cli import exits
from mountfd.cli.arguments import Option, Spec, UsageError, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

__all__ = ["NAME", "main", "program"]

NAME = "mountfd-overlay"

_SPEC = Spec(
    NAME,
    "Mount an overlay: lowerdir=, upperdir=, workdir=, uidmap= and gidmap= are among the options.",
    "SOURCE TARGET",
    [
        Option("-o --options", "as in fstab(5)", metavar="OPTS", many=True),
        Option("-t --types", "nothing: it is an overlay", metavar="TYPE"),
        Option("-n --no-mtab", "nothing: there is no mtab"),
        Option("-s --sloppy", "nothing"),
        Option("-v --verbose", "nothing"),
    ],
)


def program() -> NoReturn:
    """Be the whole process."""
    gc.disable()
    os._exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Mount and give mount(8)'s exit status."""
    from contextlib import nullcontext  # noqa: PLC0415 (beside what they serve)

    from mountfd.abi.trace import trace  # noqa: PLC0415
    from mountfd.cli.messages import report, say, write  # noqa: PLC0415
    from mountfd.cli.mount import status_of  # noqa: PLC0415
    from mountfd.errors import MountfdError  # noqa: PLC0415
    from mountfd.model.options import split  # noqa: PLC0415
    from mountfd.model.spec import MountSpec  # noqa: PLC0415
    from mountfd.verbs.mount import mount  # noqa: PLC0415

    try:
        arguments = parse(_SPEC, argv)
    except UsageError as error:
        say(f"{NAME}: {error}")
        return exits.USAGE
    if arguments.on("help"):
        sys.stdout.write(_SPEC.help_text().replace(f"mountfd {NAME}", NAME, 1))
        sys.stdout.flush()
        return exits.OK
    source, target = arguments.operands
    try:
        words = [word for text in arguments.texts("options") for word in split(text, escapes=True)]
        with trace(lambda line: write(f"{line}\n")) if arguments.on("trace") else nullcontext():
            mount(MountSpec("overlay", source, options=words), target)
    except (MountfdError, ExceptionGroup, OSError) as error:
        report(error)
        return status_of(error)
    return exits.OK
