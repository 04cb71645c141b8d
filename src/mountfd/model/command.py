"""A command to run inside a root filesystem: what it is, and what stands around it."""

from __future__ import annotations

import os

from mountfd.errors import InvalidSpec
from mountfd.model.idmap import Extent, IdMap
from mountfd.model.overlay import Layer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypedDict

    class Surroundings(TypedDict, total=False):
        """The keyword arguments of Command."""

        layers: Sequence[str | Layer]
        upper: str | None
        work: str | None
        idmap: IdMap | None
        binds: Sequence[Bind]
        tmpfs: Sequence[str]
        net: str
        env: Mapping[str, str] | None
        chdir: str | None
        hostname: str | None
        pid_namespace: bool


__all__ = ["DEFAULT_IDMAP", "Bind", "Command"]

# The first 65,536 ids behind those that systemd hands to containers (524288 to 1879048191): nobody else's by custom.
# Where these can't be had run takes others instead, but only for this very object: an equal map was asked for.
DEFAULT_IDMAP = IdMap([Extent(0, 0x70000000, 65536)])

NETWORKS = ("host", "none")


class Bind:
    """A directory or file of the host, shown inside.

    Arguments: source, a path on the host; target, an absolute path inside (the source's own by default); read_only.
    """

    __slots__ = ("read_only", "source", "target")

    def __init__(self, source: str, target: str | None = None, *, read_only: bool = False) -> None:
        """Check that both are there and that the target is absolute."""
        _check_text(source, "bind")
        _check_text(target or "", "bind")
        if not source or "\0" in source:
            raise InvalidSpec(f"bind: the source {source!r} is empty or has a NUL byte in it", part="bind")
        # Not normalized: `..` after a symlink leads elsewhere than its text says.
        self.source = os.path.join(os.getcwd(), source)
        self.target = target or os.path.normpath(self.source)
        self.read_only = read_only
        if not self.target.startswith("/") or "\0" in self.target:
            raise InvalidSpec(f"bind: the target {self.target!r} must be an absolute path", part="bind")
        _check_not_root(self.target, "bind")

    @classmethod
    def parse(cls, text: str) -> Bind:
        r"""Read SRC[:DST[:ro|rw]]; a colon that belongs to a path is written `\:`."""
        parts = _split(text)
        if len(parts) > 3:  # noqa: PLR2004 (the three that the form has)
            raise InvalidSpec(rf"bind {text!r} has more than SRC:DST:ro; write \: for a colon in a path", part="bind")
        if len(parts) == 3 and parts[2] not in ("ro", "rw"):  # noqa: PLR2004
            raise InvalidSpec(f"bind {text!r}: the third part is ro or rw, not {parts[2]!r}", part="bind")
        target = parts[1] if len(parts) > 1 else None
        return cls(parts[0], target, read_only=parts[2:] == ["ro"])

    def __repr__(self) -> str:
        """Show it as it would be constructed."""
        return f"Bind({self.source!r}, {self.target!r}, read_only={self.read_only})"


def _split(text: str) -> list[str]:
    parts, escaped = [""], False
    for char in text:
        if escaped:
            parts[-1] += char if char in ":\\" else "\\" + char
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == ":":
            parts.append("")
        else:
            parts[-1] += char
    if escaped:
        parts[-1] += "\\"
    return parts


class Command:
    """A command and its surroundings, checked as far as words go.

    Arguments: argv; layers, topmost first, of the root (none: the host's own `/`); upper and work, where changes are
    kept (none: a tmpfs that goes with the command); idmap, None for no user namespace; binds; tmpfs, targets of fresh
    ones; net, "host" or "none"; env, the whole environment; chdir, inside; hostname; pid_namespace.
    """

    __slots__ = (
        "argv", "binds", "chdir", "env", "hostname", "idmap", "layers", "net", "pid_namespace", "tmpfs", "upper",
        "work",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913 (each is one thing around a command)
        self,
        argv: Sequence[str],
        *,
        layers: Sequence[str | Layer] = (),
        upper: str | None = None,
        work: str | None = None,
        idmap: IdMap | None = DEFAULT_IDMAP,
        binds: Sequence[Bind] = (),
        tmpfs: Sequence[str] = (),
        net: str = "host",
        env: Mapping[str, str] | None = None,
        chdir: str | None = None,
        hostname: str | None = None,
        pid_namespace: bool = True,
    ) -> None:
        """Check what can be checked without the kernel."""
        _check_words(argv, {} if env is None else env)
        _check_upper(upper, work)
        _check_kinds(layers, (str, bytes, os.PathLike, Layer), "layers", "paths and Layers")
        _check_kinds(binds, (Bind,), "binds", "Binds")
        _check_kinds(tmpfs, (str,), "tmpfs", "paths")
        _check_inside([*((path, "tmpfs") for path in tmpfs), *([(chdir, "chdir")] if chdir is not None else [])])
        for path in tmpfs:
            _check_not_root(path, "tmpfs")
        if idmap is not None and not isinstance(idmap, IdMap):
            raise InvalidSpec(f"idmap must be an IdMap or None, not {idmap!r}", part="idmap")
        if idmap is not None and None in (idmap.to_host(0, "uid"), idmap.to_host(0, "gid")):
            raise InvalidSpec(f"the idmap {idmap} has no id 0, but the command starts as root", part="idmap")
        if net not in NETWORKS:
            raise InvalidSpec(f"net is {' or '.join(NETWORKS)}, not {net!r}", part="net")
        _check_hostname(hostname)
        self.argv, self.layers, self.upper, self.work = list(argv), list(layers), upper, work
        self.idmap, self.binds, self.tmpfs, self.net = idmap, list(binds), list(tmpfs), net
        self.env = dict(os.environ if env is None else env)
        self.chdir, self.hostname, self.pid_namespace = chdir, hostname, pid_namespace


def _check_words(argv: Sequence[str], env: Mapping[str, str]) -> None:
    if isinstance(argv, str | bytes) or not argv:
        raise InvalidSpec("argv must be a list with the program first", part="argv")
    _check_kinds(argv, (str,), "argv", "words")
    for word in argv:
        _check_text(word, "argv")
    if any("\0" in word for word in argv):
        raise InvalidSpec("a word of argv has a NUL byte in it", part="argv")
    if not argv[0]:
        raise InvalidSpec("the program's name is empty: there is no such program", part="program")
    if not hasattr(env, "items"):
        raise InvalidSpec(f"env must be a mapping of names to values, not {env!r}", part="env")
    for name, value in env.items():
        _check_text(name, "env")
        _check_text(value, "env")
        if not name or "=" in name or "\0" in name + value:
            raise InvalidSpec(f"env: {name!r} can't be an environment variable with this value", part="env")


def _check_upper(upper: str | None, work: str | None) -> None:
    if (upper is None) != (work is None):
        raise InvalidSpec("upper and work go together: overlayfs needs both to keep changes", part="upper")
    for path in (upper, work):
        if path is not None:
            _check_text(path, "upper")
    if "" in (upper, work):
        raise InvalidSpec("upper and work must be paths", part="upper")


def _check_inside(places: Sequence[tuple[str, str]]) -> None:
    for path, part in places:
        _check_text(path, part)
        if not path.startswith("/") or "\0" in path:
            raise InvalidSpec(f"{part}: {path!r} must be an absolute path inside", part=part)


def _check_not_root(path: str, part: str) -> None:
    # Only what can't be anything else: `..` after a symlink leads elsewhere than its text says.
    if {"", ".", ".."}.issuperset(path.split("/")):
        raise InvalidSpec(f"{part}: {path!r} is the root itself, which root= or layers= is for", part=part)


def _check_hostname(hostname: str | None) -> None:
    if hostname is None:
        return
    _check_text(hostname, "hostname")
    if "\0" in hostname or not 0 < len(os.fsencode(hostname)) <= 64:  # noqa: PLR2004 (__NEW_UTS_LEN)
        raise InvalidSpec(f"the hostname {hostname!r} must have 1 to 64 bytes, and no NUL", part="hostname")


def _check_kinds(given: object, kinds: tuple[type, ...], part: str, what: str) -> None:
    """Refuse what is no list of these; text is a list of letters only to Python."""
    if not isinstance(given, list | tuple):
        raise InvalidSpec(f"{part} must be a list of {what}, not {given!r}", part=part)
    for one in given:
        if not isinstance(one, kinds):
            raise InvalidSpec(f"{part} must be a list of {what}; {one!r} is none", part=part)


def _check_text(given: object, part: str) -> None:
    """Refuse what is no text, or has characters that the kernel can't be told."""
    if not isinstance(given, str):
        raise InvalidSpec(f"{part}: {given!r} must be text", part=part)
    try:
        os.fsencode(given)
    except UnicodeEncodeError:
        raise InvalidSpec(f"{part}: {given!r} has characters that no path or argument can have", part=part) from None
