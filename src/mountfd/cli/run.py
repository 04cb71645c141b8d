"""`mountfd run`: a command as root in a throwaway root filesystem."""

from __future__ import annotations

from errno import ENOENT

from mountfd.cli import exits
from mountfd.cli.arguments import Option, Spec
from mountfd.errors import InvalidSpec
from mountfd.model.command import DEFAULT_IDMAP, Bind
from mountfd.model.idmap import IdMap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.cli.arguments import Arguments

__all__ = ["FAILED", "MISUSED", "SPEC", "run", "status_of"]

FAILED = MISUSED = exits.RUN_FAILED

SPEC = Spec(
    "run",
    "Run CMD as root in a throwaway root filesystem: the host's own files unless --layer says otherwise.\n"
    "What CMD changes is gone when it ends, unless --upper and --work keep it.",
    "CMD...",
    [
        Option("--layer", "a directory of the root filesystem, topmost first", metavar="DIR", many=True),
        Option("--upper", "keep changes in this directory", metavar="DIR"),
        Option("--work", "an empty directory on the filesystem of --upper", metavar="DIR"),
        Option("--idmap", f"ids inside:outside:count, or none for no user namespace [{DEFAULT_IDMAP}]", metavar="MAP"),
        Option("--bind", "show a directory or file of the host inside", metavar="SRC[:DST[:ro]]", many=True),
        Option("--tmpfs", "a fresh tmpfs at DST", metavar="DST", many=True),
        Option("--net", "the host's network, or none but a loopback [host]", metavar="host|none"),
        Option("--setenv", "set an environment variable", metavar="NAME=VALUE", many=True),
        Option("--chdir", "begin in this directory [the current one where it exists inside]", metavar="DIR"),
        Option("--hostname", "the name that the inside has", metavar="NAME"),
        Option("--no-pid-ns", "see and signal the host's processes"),
    ],
    epilog="The exit status is CMD's, 128+n when signal n ended it; 125 mountfd failed, 126 CMD can't be executed,\n"
    "127 CMD isn't there.",
)


def run(arguments: Arguments) -> int:
    """Run the command and give its exit status."""
    from mountfd.cli.messages import say  # noqa: PLC0415 (the verb is loaded after the words are understood)
    from mountfd.verbs.run import run as run_command  # noqa: PLC0415

    env = _environment(arguments.texts("setenv"))
    idmap = arguments.text("idmap")
    return run_command(
        arguments.operands,
        note=say,
        layers=arguments.texts("layer"),
        upper=arguments.text("upper"),
        work=arguments.text("work"),
        idmap=None if idmap == "none" else DEFAULT_IDMAP if idmap is None else IdMap.parse(idmap),
        binds=[Bind.parse(text) for text in arguments.texts("bind")],
        tmpfs=arguments.texts("tmpfs"),
        net=arguments.text("net") or "host",
        env=env,
        chdir=arguments.text("chdir"),
        hostname=arguments.text("hostname"),
        pid_namespace=not arguments.on("no_pid_ns"),
    )


def _environment(settings: list[str]) -> dict[str, str] | None:
    if not settings:
        return None
    import os  # noqa: PLC0415 (only for --setenv)

    env = dict(os.environ)
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not name or not equals:
            raise InvalidSpec(f"--setenv {setting!r} must be NAME=VALUE", part="setenv")
        env[name] = value
    return env


def status_of(error: BaseException) -> int:
    """Give the status of a command that never ran."""
    if isinstance(error, InvalidSpec) and error.part == "program":
        return exits.RUN_MISSING
    if getattr(error, "syscall", None) == "execve":
        return exits.RUN_MISSING if getattr(error, "errno", 0) == ENOENT else exits.RUN_CANNOT
    return exits.RUN_FAILED
