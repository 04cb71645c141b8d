"""`mountfd replace`: another mount in place of one that stands."""

from __future__ import annotations

import os
import sys

from mountfd.cli import exits
from mountfd.cli.arguments import Option, Spec
from mountfd.errors import InvalidSpec, MountfdError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mountfd.cli.arguments import Arguments
    from mountfd.handles.mount import Mount
    from mountfd.model.spec import MountSpec
    from mountfd.verbs.namespaces import MountNamespace

__all__ = ["SPEC", "run", "status_of"]

_MANY = 8
_SUBMOUNTS = ("carry", "drop", "refuse")

SPEC = Spec(
    "replace",
    "Replace the mount on TARGET with no instant without one, in every namespace that receives it.",
    "TARGET",
    [
        Option("--layer", "by an overlay: a lower layer, topmost first", metavar="DIR", many=True),
        Option("--upper", "the overlay's layer that takes changes", metavar="DIR"),
        Option("--work", "an empty directory on the mount of --upper", metavar="DIR"),
        Option("--idmap", "idmap of the lower layers, or of the new mount", metavar="MAP"),
        Option("-t --types", "by a filesystem of this type", metavar="TYPE"),
        Option("--source", "the filesystem's device, image or label", metavar="SOURCE"),
        Option("-o --options", "options of the filesystem, overlay or bind mount", metavar="OPTS", many=True),
        Option("-B --bind", "by a directory or file", metavar="SRC"),
        Option("--submounts", "of the mounts below: carry, drop or refuse [carry]", metavar="WHAT"),
        Option("--check", "run this beforehand, with the new root as $1 and $MOUNTFD_ROOT", metavar="CMD"),
        Option("--check-after", "run this afterwards; when it fails the old mount is put back", metavar="CMD"),
        Option("--wait", "wait so many seconds for who uses the old mount before it is done anyway", metavar="S"),
        Option("--allow-gap", "where the kernel can't attach beneath, accept an instant without a mount"),
        Option(
            "-N --namespace",
            "in this mount namespace, not here",
            metavar="PID|PATH",
            many=True,
        ),
        Option("--dry-run", "say what would happen, or why it would be refused; nobody sees a change"),
        Option("-v --verbose", "say what was done, and who still uses the old mount"),
    ],
    epilog="CMD is one program, started without a shell; --dry-run doesn't start it.\n"
    "The exit status is mount(8)'s: 0 done; 1 wrong words; 32 the old mount still stands, in one of the namespaces at\n"
    "least; 8 interrupted (Ctrl-C), one of the two stands, whole. Of --dry-run: 0, or 32 where it would be refused.",
)


def status_of(error: BaseException) -> int:
    """Tell wrong words from a replacement that failed."""
    return exits.USAGE if isinstance(error, InvalidSpec) and (error.part or "").startswith("--") else exits.FAILURE


def run(arguments: Arguments) -> int:
    """Replace, or say what would happen."""
    new = _new(arguments)
    _check_words(arguments)
    namespaces = _namespaces(arguments.texts("namespace"))
    try:
        return (_plan if arguments.on("dry_run") else _replace)(arguments, new, namespaces)
    finally:
        for namespace in namespaces or ():
            namespace.close()


def _replace(arguments: Arguments, new: MountSpec | str, namespaces: list[MountNamespace] | None) -> int:
    from mountfd.cli.messages import say  # noqa: PLC0415 (the verb is loaded after the words are understood)
    from mountfd.verbs.replace import replace  # noqa: PLC0415
    from mountfd.verbs.replace.everywhere import PartlyReplaced  # noqa: PLC0415

    target = arguments.operands[0]
    try:
        previous = replace(
            target,
            new,
            submounts=arguments.text("submounts") or "carry",  # type: ignore[arg-type]  # it is one of them
            check=_check(arguments.text("check")),
            check_after=_check(arguments.text("check_after")),
            allow_gap=arguments.on("allow_gap"),
            wait=_seconds(arguments.text("wait")),
            namespaces=namespaces,
            progress=_progress if namespaces is not None and len(namespaces) > _MANY else None,
        )
    except PartlyReplaced as error:
        for done in error.previous:
            done.close()
        raise
    with previous:
        if previous.gap:
            say("this kernel can't attach beneath: there was an instant without a mount")
        if arguments.on("verbose"):
            say(f"replaced the mount {previous.old_id} on {target}")
            say(f"mounts below that came along: {previous.carried}")
        if arguments.on("verbose") or arguments.on("wait"):
            for holder in previous.holders():
                say(f"still using the old one: {holder.words}")
    return exits.OK


def _plan(arguments: Arguments, new: MountSpec | str, namespaces: list[MountNamespace] | None) -> int:
    from mountfd.cli.terminal import put  # noqa: PLC0415 (only when asked)
    from mountfd.verbs.replace import plan  # noqa: PLC0415
    from mountfd.view.text import printable  # noqa: PLC0415

    found = plan(
        arguments.operands[0],
        new,
        submounts=arguments.text("submounts") or "carry",
        allow_gap=arguments.on("allow_gap"),
        namespaces=namespaces,
    )
    if found.refusals:
        put(f"{printable(line)}\n" for line in found)
        return exits.FAILURE
    refused = False
    for key, when in (("check", "before that"), ("check_after", "after that")):
        if (command := arguments.text(key)) is not None:
            why = _why_not_run(command)
            refused |= why is not None
            found.append(
                f"it would be refused: the check {command!r} can't be run: {why}"
                if why is not None
                else f"{when} the check {command!r} would be run, which is not done now: it may still refuse"
            )
    if (seconds := _seconds(arguments.text("wait"))) > 0:
        found.append(f"up to {seconds:g} s would be waited for who uses the old mount")
    put(f"{printable(line)}\n" for line in found)
    return exits.FAILURE if refused else exits.OK


def _check_words(arguments: Arguments) -> None:
    """Refuse words that mean nothing, or nothing together, before anything is done."""
    submounts = arguments.text("submounts")
    if submounts not in (None, *_SUBMOUNTS):
        raise InvalidSpec(f"--submounts is one of {', '.join(_SUBMOUNTS)}, not {submounts!r}", part="--submounts")
    if arguments.on("namespace") and (arguments.on("check") or arguments.on("check_after")):
        raise InvalidSpec("a check runs in this mount namespace, so it doesn't go with --namespace", part="--check")
    _seconds(arguments.text("wait"))


def _new(arguments: Arguments) -> MountSpec | str:
    """Give what the target is to be replaced by: exactly one of three forms."""
    layers, bind, types = arguments.texts("layer"), arguments.text("bind"), arguments.text("types")
    if bool(layers) + (bind is not None) + (types is not None) != 1:
        raise InvalidSpec("say what TARGET is replaced by: --layer DIR..., -t TYPE, or --bind SRC", part="--layer")
    for name, belongs in (("upper", "--layer"), ("work", "--layer"), ("source", "--types")):
        if arguments.text(name) is not None and not (layers if belongs == "--layer" else types is not None):
            raise InvalidSpec(f"--{name} belongs to {belongs}", part=f"--{name}")
    from mountfd.model.options import split  # noqa: PLC0415
    from mountfd.model.spec import MountSpec  # noqa: PLC0415

    words = [word for text in arguments.texts("options") for word in split(text, escapes=bool(layers))]
    idmap = arguments.text("idmap")
    words += [f"X-mount.idmap={idmap}"] if idmap is not None else []
    if bind is not None:
        return MountSpec("", bind, options=["bind", *words]) if words else bind
    if types is not None:
        return MountSpec(types, arguments.text("source") or "", options=words)
    from mountfd.cli.layers import layer_words  # noqa: PLC0415

    return MountSpec("overlay", "", options=words + layer_words(arguments))


def _check(command: str | None) -> Callable[[Mount], bool] | None:
    if command is None:
        return None

    def check(new: Mount) -> bool:
        import subprocess  # noqa: PLC0415 (only when asked)

        root = f"/proc/{os.getpid()}/fd/{new.fileno()}"
        try:
            done = subprocess.run([command, root], check=False, env={**os.environ, "MOUNTFD_ROOT": root})
        except OSError as error:
            raise MountfdError(f"the check {command!r} can't be run: {error.strerror}") from error
        if done.returncode != 0:
            raise MountfdError(f"the check {command!r} ended with status {done.returncode}")
        return True

    return check


def _why_not_run(command: str) -> str | None:
    import shutil  # noqa: PLC0415 (only for a plan)
    from errno import EACCES, ENOENT  # noqa: PLC0415

    if shutil.which(command) is not None:
        return None
    return os.strerror(EACCES if os.path.exists(command) else ENOENT)


def _seconds(text: str | None) -> float:
    try:
        seconds = float(text or 0)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise InvalidSpec(f"--wait {text!r} is no number of seconds", part="--wait")
    return seconds


def _namespaces(words: list[str]) -> list[MountNamespace] | None:
    if not words:
        return None
    from mountfd.verbs.namespaces import MountNamespace  # noqa: PLC0415

    return [MountNamespace.of(int(word)) if word.isdigit() else MountNamespace.open(word) for word in words]


def _progress(done: int, total: int) -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        sys.stderr.write(f"\r{done} of {total} mount namespaces" + ("\n" if done == total else ""))
        sys.stderr.flush()
