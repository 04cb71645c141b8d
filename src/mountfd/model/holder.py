"""Who holds a mount: the kinds of holders there are, and the sentence that tells of each.

| kind | what it is | makes umount(2) say EBUSY |
| --- | --- | --- |
| file | an open descriptor, O_PATH ones and handles on mounts too | yes |
| cwd, root | a process's or thread's current directory, root directory | yes |
| exe, map | the program that a process runs, a file in its memory | yes |
| mount | another mount that stands on it | yes |
| socket | an AF_UNIX socket bound to a path on it, and every connection that was accepted there | yes |
| loop, image | a loop device, or an erofs without one, whose file lies on it | yes |
| swap | a swap file on it | yes |
| copy | the same filesystem mounted elsewhere, in this or another mount namespace | no |
| overlay | an overlay that has a directory of it as a layer, or may have | no |
| process, hidden, outside, namespace | what can't be looked into | unknown |
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["KINDS", "UNSEEN", "Holder"]

UNSEEN = ("process", "hidden", "outside", "namespace")
KINDS = (
    *("file", "cwd", "root", "exe", "map", "mount", "socket", "loop", "image", "swap", "copy", "overlay"),
    *UNSEEN,
)
_HARMLESS = ("copy", "overlay")
_FIELDS = (
    *("kind", "blocks", "pid", "command", "uid", "fd", "path", "mount_id", "ns_id", "point", "device", "is_own"),
)


class Holder:
    """Somebody who keeps a mount busy or its filesystem alive.

    Attributes; one that doesn't apply or isn't known is None:
    kind        one of KINDS
    blocks      True: umount(2) says EBUSY because of it; False: it keeps the filesystem alive although umount works;
                None: it may be either, or neither, since the kernel doesn't tell enough
    pid         of the process, or of one that lives in the mount namespace of a copy
    command     the process's name; uid, its user
    fd          the descriptor's number
    path        what it has open, as seen from here
    mount_id    the mount that it holds, or is: unique, before Linux 6.8 the reused one
    ns_id       the mount namespace of that mount, where that isn't the caller's: unique, before 6.11 the inode number
    point       where that mount stands, in its namespace
    device      of a loop device: its name
    is_own      whether it is the process that asks
    Two are equal when all of these are; they can be hashed, sorted into sets and pickled, and not changed.
    """

    __slots__ = _FIELDS

    kind: str
    blocks: bool | None
    pid: int | None
    command: str | None
    uid: int | None
    fd: int | None
    path: str | None
    mount_id: int | None
    ns_id: int | None
    point: str | None
    device: str | None
    is_own: bool

    def __init__(  # noqa: PLR0913 (a record of many facts, of which few apply)
        self,
        kind: str,
        *,
        blocks: bool | None,
        pid: int | None = None,
        command: str | None = None,
        uid: int | None = None,
        fd: int | None = None,
        path: str | None = None,
        mount_id: int | None = None,
        ns_id: int | None = None,
        point: str | None = None,
        device: str | None = None,
        is_own: bool = False,
    ) -> None:
        """Keep the facts."""
        values = (kind, blocks, pid, command, uid, fd, path, mount_id, ns_id, point, device, is_own)
        for name, value in zip(_FIELDS, values, strict=True):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse: a holder is a fact."""
        raise AttributeError(f"a Holder can't be changed: {name}")

    def __delattr__(self, name: str) -> None:
        """Refuse: a holder is a fact."""
        raise AttributeError(f"a Holder can't be changed: {name}")

    def as_dict(self) -> dict[str, object]:
        """Give the facts by name."""
        return {name: getattr(self, name) for name in _FIELDS}

    def __eq__(self, other: object) -> bool:
        """Compare all facts."""
        return self.as_dict() == other.as_dict() if isinstance(other, Holder) else NotImplemented

    def __hash__(self) -> int:
        """Hash all facts."""
        return hash(tuple(self.as_dict().values()))

    def __repr__(self) -> str:
        """Show the sentence."""
        return f"<mountfd.Holder {self.kind} blocks={self.blocks}: {self.words}>"

    def __reduce__(self) -> tuple[Callable[..., Holder], tuple[dict[str, object]]]:
        """Pickle the facts."""
        return _rebuild, (self.as_dict(),)

    @property
    def may_block(self) -> bool:
        """Whether umount(2) may say EBUSY because of it: neither a copy nor an overlay ever makes it."""
        return self.blocks is not False and self.kind not in _HARMLESS

    @property
    def words(self) -> str:
        """One sentence for a person, without a full stop."""
        return _SENTENCES[self.kind](self) + _where(self)

    @property
    def who(self) -> str:
        """Name the process in a few words: its pid, command and user."""
        if self.pid is None:
            return "nobody that can be seen"
        facts = [fact for fact in (self.command, None if self.uid is None else f"uid {self.uid}") if fact]
        own = ["this one"] if self.is_own else []
        return f"process {self.pid}" + (f" ({', '.join([*facts, *own])})" if facts or own else "")


def _rebuild(facts: dict[str, object]) -> Holder:
    return Holder(**facts)  # type: ignore[arg-type]  # as as_dict gave them


# --- sentences -----------------------------------------------------------------------------------------------------
_BY_PROCESS = ("file", "cwd", "root", "exe", "map", "socket")


def _where(holder: Holder) -> str:
    """Say through which other mount it holds, where it isn't the mount that was asked about."""
    if holder.kind not in _BY_PROCESS or holder.blocks is None:
        return ""
    there = "" if holder.ns_id is None else f" in mount namespace {holder.ns_id}"
    if holder.blocks:
        return "" if holder.point is None else f", through {holder.point}{there}, which is unmounted along with it"
    if holder.point is not None:
        return f", through {holder.point}{there}, another mount of this filesystem"
    if holder.mount_id is None:
        return ", on another mount of this filesystem"
    return ", on a mount of this filesystem that stands in no namespace that can be seen"


def _file(holder: Holder) -> str:
    return f"{holder.who} has {holder.path or 'a file'} open as descriptor {holder.fd}"


def _socket(holder: Holder) -> str:
    if holder.pid is None:
        return f"a socket of a process that can't be seen is bound to {holder.path or 'a path'}"
    which = f" (descriptor {holder.fd})" if holder.fd is not None else ""
    return f"{holder.who} has a socket that is bound to {holder.path or 'a path'}{which}"


def _copy(holder: Holder) -> str:
    place = "where no path leads from here" if holder.point is None else f"at {holder.point}"
    if holder.ns_id is None:
        return f"the same filesystem is mounted {place}"
    life = "in which no process is seen" if holder.pid is None else f"in which {holder.who} is"
    return f"the same filesystem is mounted {place} in mount namespace {holder.ns_id}, {life}"


def _mount(holder: Holder) -> str:
    return f"another mount stands on it, at {holder.point or 'a place that no path leads to from here'}"


def _overlay(holder: Holder) -> str:
    there = "" if holder.ns_id is None else f" in mount namespace {holder.ns_id}"
    one = f"the overlay on {holder.point or 'an unreachable place'}{there}"
    if holder.blocks is None:
        return f"{one} may have a layer here: no path leads to its layers"
    return f"{one} has {holder.path} as a layer" if holder.path else f"{one} has a layer here"


def _namespace(holder: Holder) -> str:
    one = "other mount namespaces" if holder.ns_id is None else f"mount namespace {holder.ns_id}"
    return f"{one} can't be looked into"


_SENTENCES: dict[str, Callable[[Holder], str]] = {
    "file": _file,
    "cwd": lambda holder: f"{holder.who} has {holder.path or 'a place there'} as its current directory",
    "root": lambda holder: f"{holder.who} has {holder.path or 'a place there'} as its root directory",
    "exe": lambda holder: f"{holder.who} runs the program {holder.path or 'there'}",
    "map": lambda holder: f"{holder.who} has {holder.path or 'a file'} mapped into its memory",
    "mount": _mount,
    "socket": _socket,
    "loop": lambda holder: f"the loop device {holder.device or ''} is backed by {holder.path or 'a file'}",
    "image": lambda holder: (
        f"the filesystem mounted on {holder.point or 'an unreachable place'} is in {holder.path or 'a file'}"
    ),
    "swap": lambda holder: f"the kernel swaps to {holder.path or 'a file'}",
    "copy": _copy,
    "overlay": _overlay,
    "process": lambda holder: f"{holder.who} can't be looked into",
    "hidden": lambda _: "processes of other users are hidden here (hidepid)",
    "outside": lambda _: "processes outside of this pid namespace can't be seen",
    "namespace": _namespace,
}
