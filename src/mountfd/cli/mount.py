"""`mountfd mount`: mount(8), for what it does to mounts; without a word about what, it lists them."""

from __future__ import annotations

import os
from errno import EACCES, EMFILE, ENFILE, ENOMEM, EROFS

from mountfd.cli import exits
from mountfd.cli.arguments import Option, Spec, UsageError, parse
from mountfd.errors import Denied, InvalidSpec, KernelError, unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.cli.arguments import Arguments
    from mountfd.model.spec import MountSpec

__all__ = ["SPEC", "run", "status_of"]

# The calls that meet a source which can only be read.
_OF_SOURCE = ("fsconfig", "mount")
_MAKE = [
    f"make-{word}"
    for word in ("shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable")
]

_WORDS = {
    "read_only": "ro",
    "read_write": "rw",
    "bind": "bind",
    "rbind": "rbind",
    "move": "move",
    "mkdir": "X-mount.mkdir",
    "no_canonicalize": "X-mount.nocanonicalize",
    **{f"make_{word[5:]}": word[5:] for word in _MAKE},
}

# The parts at fault where the words are right, and what they name isn't what it should be.
_FOUND = ("type", "target")

SPEC = Spec(
    "mount",
    "Mount SOURCE on TARGET, or change what stands on TARGET by `-o remount` or --make-*. Without either, list mounts.",
    "[SOURCE] [TARGET]",
    [
        Option("-t --types", "the filesystem; several are tried in turn [found by its signature]", metavar="TYPE"),
        Option("-o --options", "as in fstab(5), and those of the filesystem", metavar="OPTS", many=True),
        Option("-r --read-only", "the same as -o ro"),
        Option("-w --rw --read-write", "the same as -o rw: no falling back to read-only"),
        Option("-B --bind", "show a directory or file elsewhere, without the mounts below it"),
        Option("-R --rbind", "the same with the mounts below it"),
        Option("-M --move", "move a mount"),
        *(Option(f"--{word}", f"propagation: {word[5:]}") for word in _MAKE),
        Option("--beneath", "below the mount that stands on TARGET, not upon it"),
        Option("-m --mkdir", "make TARGET where it isn't there"),
        Option("--layer", "a lower layer of an overlay, topmost first", metavar="DIR", many=True),
        Option("--upper", "the layer that takes changes", metavar="DIR"),
        Option("--work", "an empty directory on the mount of --upper", metavar="DIR"),
        Option("--idmap", "show the owners through an idmap, on disk:seen:count", metavar="MAP"),
        Option("--source", "the source, where it could be taken for the target", metavar="SOURCE"),
        Option("--target", "the target", metavar="TARGET"),
        Option("-L --label", "the source by its filesystem's label", metavar="LABEL"),
        Option("-U --uuid", "the source by its filesystem's UUID", metavar="UUID"),
        Option("-c --no-canonicalize", "take SOURCE and TARGET as they are where they are symlinks"),
        Option("-v --verbose", "say what was done"),
        Option("-f --fake", "check the words, the source and the target, and mount nothing"),
        Option("-N --namespace", "in another mount namespace: of a pid, or a file of nsfs", metavar="PID|FILE"),
        Option("--onlyonce", "an error where SOURCE is mounted on TARGET already"),
        Option("-i --internal-only", "start no mount.fuse program: the kernel's own filesystems alone"),
        Option("-l --show-labels", "nothing: a list has no labels"),
        Option("-s", "nothing: only mount.nfs knows sloppy options, and is not started"),
        Option("-n --no-mtab", "nothing: there is no mtab"),
        Option("-J --json", "of a list, one JSON document"),
        Option("-V --version", "the version"),
        Option("--options-mode", "only ignore: fstab(5) is not read", metavar="MODE"),
        Option("-a -F --fork --options-source-force --all", "refused: fstab(5) is not read"),
        Option("-T -O --test-opts --options-source --fstab", "refused: fstab(5) is not read", metavar="WORD"),
    ],
    epilog="The exit status is mount(8)'s: 0 done, 1 wrong words or no permission, 2 out of descriptors or memory,\n"
    "32 the mount failed. fstab(5) is not read, and no mount.TYPE program but those of FUSE is started.",
)


def run(arguments: Arguments) -> int:
    """Mount, or list."""
    if arguments.on("version"):
        from mountfd.cli.version import show_version  # noqa: PLC0415 (only when asked)

        return show_version()
    _refuse_fstab(arguments)
    source, target = _places(arguments)
    words = _words(arguments)
    if target is None:
        if source is not None or words:
            raise InvalidSpec("TARGET is missing", part="TARGET")
        return _list(arguments)
    if source is None and not _needs_no_source(words):
        raise InvalidSpec("SOURCE is missing: fstab(5) is not read for it", part="SOURCE")
    from mountfd.model.spec import MountSpec  # noqa: PLC0415 (the verb is loaded after the words are understood)

    spec = MountSpec(_kind(arguments), source or "", options=words)
    if spec.is_served and arguments.on("internal_only") and not spec.understood().action:
        raise unsupported(spec.type, "--internal-only starts no program, and a program has to serve this filesystem")
    namespace = arguments.text("namespace")
    if namespace is None:
        return _mount(spec, target, arguments)
    from mountfd.cli.elsewhere import within  # noqa: PLC0415 (only for another namespace)

    spec = _of_here(spec)
    return within(namespace, lambda: _mount(spec, target, arguments), status_of)


def _mount(spec: MountSpec, target: str, arguments: Arguments) -> int:
    from mountfd.verbs.mount import mount  # noqa: PLC0415 (after the words are understood)

    if arguments.on("onlyonce"):
        from mountfd.cli.rehearsal import refuse_second  # noqa: PLC0415 (only when asked)

        refuse_second(spec, target)
    if arguments.on("fake"):
        from mountfd.cli.rehearsal import rehearse  # noqa: PLC0415 (only when asked)

        rehearse(spec, target)
        if arguments.on("verbose"):
            _tell(spec.source, target, fake=True)
        return exits.OK
    beneath = arguments.on("beneath")
    try:
        mount(spec, target, beneath=beneath, reuse_loop=True)
    except (KernelError, ExceptionGroup) as error:
        if not _is_protected(error) or not _may_fall_back(spec):
            raise
        from mountfd.cli.messages import say  # noqa: PLC0415
        from mountfd.model.spec import MountSpec  # noqa: PLC0415

        read_only = MountSpec(spec.type, spec.source, options=[*_as_words(spec), "ro"])
        mount(read_only, target, beneath=beneath, reuse_loop=True)
        say(f"{spec.source} is write-protected: mounted read-only")
    if arguments.on("verbose"):
        _tell(spec.source, target)
    return exits.OK


def status_of(error: BaseException) -> int:
    """Give mount(8)'s status of a failure."""
    if isinstance(error, InvalidSpec):
        return exits.FAILURE if error.part in _FOUND else exits.USAGE
    if isinstance(error, KernelError) and error.syscall == "findfs":
        return exits.USAGE
    if isinstance(error, Denied) and os.geteuid() != 0:
        return exits.USAGE
    if isinstance(error, OSError) and error.errno in (EMFILE, ENFILE, ENOMEM):
        return exits.SYSTEM
    return exits.FAILURE


def _refuse_fstab(arguments: Arguments) -> None:
    """Refuse by name what is about fstab(5), from which nothing comes here."""
    mode = arguments.text("options_mode")
    if mode not in (None, "ignore"):
        raise InvalidSpec(
            f"--options-mode {mode}: fstab(5) is not read, so only `ignore` can be", part="--options-mode"
        )
    for key, names in (("all", "-a, -F and --options-source-force"), ("fstab", "-T, -O and --options-source")):
        if arguments.on(key):
            raise InvalidSpec(f"{names} are about fstab(5), which is not read", part=f"--{key}")


def _of_here(spec: MountSpec) -> MountSpec:
    """Look up here what the files of another namespace shall have no word in: tags, names of users and groups."""
    from mountfd.model.spec import MountSpec  # noqa: PLC0415 (only for another namespace)
    from mountfd.verbs.mount.make import owner_ids  # noqa: PLC0415
    from mountfd.verbs.mount.source import by_tag  # noqa: PLC0415

    options = spec.understood()
    if spec.is_served and not options.action:
        why = "is mounted by a program, which would be one of that namespace"
        raise InvalidSpec(f"{spec.type} {why}: enter it with nsenter(1) for that", part="--namespace")
    words = [word for word in _as_words(spec) if not word.startswith(("X-mount.owner=", "X-mount.group="))]
    for name, number in zip(("owner", "group"), owner_ids(options), strict=True):
        words += [f"X-mount.{name}={number}"] if number >= 0 else []
    source = spec.source if options.action else by_tag(spec.source)
    return MountSpec(spec.type, source, options=words)


def _as_words(spec: MountSpec) -> list[str]:
    return [option for option in spec.options if isinstance(option, str)]


def _places(arguments: Arguments) -> tuple[str | None, str | None]:
    """Tell source and target from each other: what one word alone means depends on what is wanted."""
    operands = list(arguments.operands)
    source, target = arguments.text("source"), arguments.text("target")
    for tag in ("label", "uuid"):
        if (value := arguments.text(tag)) is not None:
            source = f"{tag.upper()}={value}"
    if len(operands) + (source is not None) + (target is not None) > 2:  # noqa: PLR2004 (source and target)
        raise InvalidSpec(f"{operands[-1]!r} is one word too many", part="TARGET")
    if target is None and operands:
        target = operands.pop()
    if source is None and operands:
        source = operands.pop()
    return source, target


def _kind(arguments: Arguments) -> str:
    """Give the type; what only an overlay has says that it is one."""
    kind = arguments.text("types") or ""
    for key in ("layer", "upper", "work"):
        if arguments.on(key):
            if kind.rpartition("/")[2] not in ("", "overlay"):
                raise InvalidSpec(f"--{key} is of an overlay, not of {kind}", part=f"--{key}")
            return kind or "overlay"
    return kind


def _words(arguments: Arguments) -> list[str]:
    """Give everything that is asked for as option words."""
    from mountfd.cli.layers import layer_words  # noqa: PLC0415 (after the words are understood)
    from mountfd.model.options import split  # noqa: PLC0415

    escapes = _kind(arguments).rpartition("/")[2] == "overlay"
    words: list[str] = []
    for key, value in arguments.given:  # in their order: of contradicting ones the last one wins
        if key == "options":
            words += split(value, escapes=escapes)
        elif key == "idmap":
            words.append(f"X-mount.idmap={value}")
        elif key in _WORDS:
            words.append(_WORDS[key])
    return words + layer_words(arguments)


def _needs_no_source(words: list[str]) -> bool:
    from mountfd.model.option_words import PROPAGATION  # noqa: PLC0415

    return any(word == "remount" or word in PROPAGATION or word.startswith("lowerdir=") for word in words)


def _may_fall_back(spec: MountSpec) -> bool:
    if {"rw", "ro"}.intersection(_as_words(spec)):
        return False
    return not spec.understood().action and bool(spec.source)


def _is_protected(error: BaseException) -> bool:
    """Say whether it failed, of several types with one of them, because it can only be read."""
    if isinstance(error, BaseExceptionGroup):
        return any(_is_protected(each) for each in error.exceptions)
    return isinstance(error, KernelError) and error.syscall in _OF_SOURCE and error.errno in (EROFS, EACCES)


def _list(arguments: Arguments) -> int:
    from mountfd.cli import list as list_command  # noqa: PLC0415

    words = ["--json"] if arguments.on("json") else []
    for key in ("types", "namespace"):
        words += [f"--{key}={text}"] if (text := arguments.text(key)) else []
    try:
        list_command.run(parse(list_command.SPEC, words))
    except UsageError as error:
        raise InvalidSpec(str(error)) from None
    return exits.OK  # as mount(8), also when there is nothing to list


def _tell(source: str, target: str, *, fake: bool = False) -> None:
    from mountfd.cli.messages import say  # noqa: PLC0415

    done = f"{source} mounted on {target}" if source else f"{target} changed"
    say(f"{done}: not really, as --fake asks" if fake else done)
