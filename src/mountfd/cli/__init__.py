"""LAYER 5: argv in, exit status out. One file for each command, loaded when it is the one that is called."""

from __future__ import annotations

import gc
import os
import sys

from mountfd.cli import exits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
    from typing import NoReturn

    from mountfd.cli.arguments import Arguments

__all__ = ["COMMANDS", "main", "program"]

COMMANDS = {
    "run": "a command as root in a throwaway root filesystem",
    "mount": "mount, bind, move, remount, propagation: mount(8)",
    "umount": "unmount, and name who is in the way: umount(8)",
    "replace": "another mount in place of one that stands, at no instant without one",
    "list": "mounts, with findmnt's columns and JSON; a tree on a terminal",
    "lookup": "one mount, every field",
    "check": "is this path a mount? (mountpoint)",
    "who": "who keeps a mount busy, and who keeps its filesystem alive",
    "graph": "how mounts propagate, within a namespace and between them: text, SVG, HTML",
    "watch": "mounts that come, go and move, as it happens",
    "advertise": "which protocols a service speaks, on its socket",
    "doctor": "what this kernel and this user can do, and what takes the place of the rest",
}


def program() -> NoReturn:
    """Be the whole process: run the command that its arguments name, and end with its status."""
    # Collecting garbage, and taking the interpreter apart at the end, take as long as a whole small command does; the
    # kernel frees everything at once.
    gc.disable()
    if os.path.basename(sys.argv[0]) == "mountfd-overlay":
        from mountfd.cli.overlay_helper import program as overlay  # noqa: PLC0415 (by a symlink of that name)

        overlay()
    status = main()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                status = status or exits.FAILURE  # the reader went away, or the disk is full
    os._exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that argv names and give its exit status."""
    words = [*(sys.argv[1:] if argv is None else argv)]  # once loaded, mountfd.cli.list stands in the way of list()
    try:
        status = _dispatch(words)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except OSError as error:  # of standard output: what the commands themselves meet is reported where they are called
        return _unwritten(error)
    return status


def _dispatch(words: list[str]) -> int:
    name, *rest = words or [""]
    if name == "--trace" and rest:
        name, *rest = [rest[0], "--trace", *rest[1:]]
    if name in COMMANDS:
        return _perform(_load(name), rest)
    if name in ("-h", "--help", "help"):
        return _show(_overview())
    if name in ("-V", "--version"):
        from mountfd import __version__  # noqa: PLC0415 (only when asked)

        return _show(f"mountfd {__version__}\n")
    from mountfd.cli.messages import say, write  # noqa: PLC0415 (only on the way out of an error)

    if name:
        say(f"there is no {'option' if name.startswith('-') else 'command'} {name!r}")
    write(_overview())
    return exits.USAGE


def _load(name: str) -> ModuleType:
    from importlib import import_module  # noqa: PLC0415 (one command is loaded, not all)

    return import_module(f"mountfd.cli.{name}")


def _perform(module: ModuleType, words: list[str]) -> int:
    from mountfd.cli.arguments import UsageError, parse  # noqa: PLC0415 (beside what it serves)

    try:
        arguments = parse(module.SPEC, words)
    except UsageError as error:
        from mountfd.cli.messages import say, write  # noqa: PLC0415

        say(f"{module.SPEC.name}: {error}")
        write(module.SPEC.usage() + "\n")
        misused: int = getattr(module, "MISUSED", exits.USAGE)
        return misused
    if arguments.on("help"):
        return _show(module.SPEC.help_text())
    if not arguments.on("trace"):
        return _run(module, arguments)
    from mountfd.abi.trace import trace  # noqa: PLC0415 (only when asked)

    with trace(_to_stderr):
        return _run(module, arguments)


def _run(module: ModuleType, arguments: Arguments) -> int:
    from mountfd.errors import MountfdError  # noqa: PLC0415

    status: int
    try:
        status = module.run(arguments)
    except (MountfdError, ExceptionGroup, OSError) as error:
        if _is_about_output(error):
            raise
        from mountfd.cli.messages import report  # noqa: PLC0415

        report(error)
        failed = getattr(module, "FAILED", exits.FAILURE)
        status = getattr(module, "status_of", lambda _: failed)(error)
    return status


def _is_about_output(error: BaseException) -> bool:
    """Say whether nobody reads what was written: that is no failure of the command."""
    return isinstance(error, BrokenPipeError) and error.filename is None and not hasattr(error, "syscall")


def _show(text: str) -> int:
    if sys.stdout is not None:
        sys.stdout.write(text)
    return exits.OK


def _unwritten(error: OSError) -> int:
    """Leave quietly when the reader went away, and with a message when a disk is full."""
    # Python would try again at exit, and complain, about what is still in its buffer.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if isinstance(error, BrokenPipeError):
        return exits.SIGNALLED + 13
    from mountfd.cli.messages import report  # noqa: PLC0415

    report(error)
    return exits.FAILURE


def _to_stderr(line: str) -> None:
    from mountfd.cli.messages import write  # noqa: PLC0415 (only for a trace)

    write(line + "\n")


def _overview() -> str:
    lines = ["usage: mountfd COMMAND [options]", "", "Linux mounts as file descriptors.", "", "commands:"]
    lines += [f"  {name:<12}{summary}" for name, summary in COMMANDS.items()]
    return "\n".join([*lines, "", "mountfd COMMAND --help tells more; --trace shows each system call in words."]) + "\n"
