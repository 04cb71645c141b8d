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

__all__ = ["SPEC", "run"]

_MANY = 8

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
        Option("--dry-run", "say what would happen, and do nothing"),
        Option("-v --verbose", "say what was done, and who still uses the old mount"),
    ],
    epilog="CMD is one program, started without a shell. The exit status is 0, or 32 where the old mount still stands.",
)


def run(arguments: Arguments) -> int:
    """Replace, or say what would happen."""
    from mountfd.cli.messages import say  # noqa: PLC0415 (the verb is loaded after the words are understood)
    from mountfd.cli.terminal import put  # noqa: PLC0415
    from mountfd.verbs.replace import plan, replace  # noqa: PLC0415

    target = arguments.operands[0]
    submounts = arguments.text("submounts") or "carry"
    if arguments.on("dry_run"):
        _try_to_build(_new(arguments))
    namespaces = _namespaces(arguments.texts("namespace"))
    try:
        if arguments.on("dry_run"):
            plans = [namespace.call(lambda: plan(target, submounts=submounts)) for namespace in namespaces or ()]
            for lines in plans if namespaces else [plan(target, submounts=submounts)]:
                put(f"{line}\n" for line in lines)
            return exits.OK
        if namespaces is not None and (arguments.on("check") or arguments.on("check_after")):
            raise InvalidSpec("a check runs in this mount namespace, so it doesn't go with --namespace", part="check")
        with replace(
            target,
            _new(arguments),
            submounts=submounts,  # type: ignore[arg-type]  # the verb checks it
            check=_check(arguments.text("check")),
            check_after=_check(arguments.text("check_after")),
            allow_gap=arguments.on("allow_gap"),
            wait=_seconds(arguments.text("wait")),
            namespaces=namespaces,
            progress=_progress if namespaces is not None and len(namespaces) > _MANY else None,
        ) as previous:
            if previous.gap:
                say("this kernel can't attach beneath: there was an instant without a mount")
            if arguments.on("verbose"):
                say(f"replaced the mount {previous.old_id} on {target}")
                say(f"mounts below that came along: {previous.carried}")
            if arguments.on("verbose") or arguments.on("wait"):
                for holder in previous.holders():
                    say(f"still using the old one: {holder.words}")
    finally:
        for namespace in namespaces or ():
            namespace.close()
    return exits.OK


def _try_to_build(new: MountSpec | str) -> None:
    from mountfd.verbs.replace.building import build  # noqa: PLC0415 (only for a plan)

    build(new).close()


def _new(arguments: Arguments) -> MountSpec | str:
    """Give what the target is to be replaced by: exactly one of three forms."""
    layers, bind, types = arguments.texts("layer"), arguments.text("bind"), arguments.text("types")
    if bool(layers) + (bind is not None) + (types is not None) != 1:
        raise InvalidSpec("say what TARGET is replaced by: --layer DIR..., -t TYPE, or --bind SRC", part="new")
    for name, belongs in (("upper", "--layer"), ("work", "--layer"), ("source", "--types")):
        if arguments.text(name) is not None and not (layers if belongs == "--layer" else types is not None):
            raise InvalidSpec(f"--{name} belongs to {belongs}", part=name)
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


def _seconds(text: str | None) -> float:
    try:
        seconds = float(text or 0)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise InvalidSpec(f"--wait {text!r} is no number of seconds", part="wait")
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
