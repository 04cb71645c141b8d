"""Where a mount goes: a descriptor of the target, found once, and the directories that are made for it."""

from __future__ import annotations

import os

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.paths import encode
from mountfd.errors import Exists, InvalidSpec, KernelError, Missing, NotDirectory, from_errno
from mountfd.handles.fd import OwnedFd
from mountfd.handles.root import Root
from mountfd.verbs.query.oldway import find_old, old_id_of, whole_table
from mountfd.verbs.query.place import HERE, id_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from mountfd.abi.paths import StrPath
    from mountfd.handles.mount import Mount
    from mountfd.model.options import Options

__all__ = ["Directories", "Place", "take_back"]

_PATH = os.O_PATH | os.O_CLOEXEC
_STEP = _PATH | os.O_DIRECTORY | os.O_NOFOLLOW
_MNT_DETACH = 2


class Directories:
    """Directories that were made, and go again when what they were made for fails: by rmdir(2) alone."""

    def __init__(self) -> None:
        """Begin with none."""
        self._made: list[tuple[OwnedFd, bytes]] = []
        self._held: dict[tuple[int, int], OwnedFd] = {}  # an inode that is held keeps its number to itself

    def add(self, parent: OwnedFd, name: bytes) -> None:
        """Remember one, and take over the descriptor of its parent."""
        self._made.append((parent, name))

    def take(self, other: Directories) -> None:
        """Take over all of another one's; of a parent that is held already one descriptor is enough."""
        made, other._made = other._made, []
        for parent, name in made:
            about = os.fstat(parent.fileno())
            held = self._held.setdefault((about.st_dev, about.st_ino), parent)
            if held is not parent:
                parent.close()
            self._made.append((held, name))

    def undo(self) -> None:
        """Remove them, the deepest first; one that is in use by now stays."""
        for parent, name in reversed(self._made):
            try:
                os.rmdir(name, dir_fd=parent.fileno())
            except OSError as error:
                calls.remark(f"the directory {os.fsdecode(name)!r} that was made stays: {error.strerror}")

    def close(self) -> None:
        """Let go of their parents: they stay."""
        made, self._made = self._made, []
        self._held.clear()
        for parent, _ in made:
            parent.close()


class Place:
    """The target of one mount, held by a descriptor.

    Arguments: target; below, a path within it, which can't lead out of it (""; for the target itself); options; shown,
    how errors name the target.
    Directories that `X-mount.mkdir` wants are made; `made` can remove them again.
    """

    def __init__(self, target: StrPath, below: str, options: Options, *, shown: StrPath | None = None) -> None:
        """Find the place."""
        self.name = os.fsdecode(target if shown is None else shown) + (f"/{below}" if below else "")
        self._below = below
        self._root: Root | None = None
        self.made = Directories()
        self._follow = "target" not in options.nofollow
        raw = encode(target, "target")
        try:
            if below:
                self._root = Root(self._find(self._open, raw, options).release())
                self._held = self._find(self._root.resolve, encode(below, "target"), options)
            else:
                self._held = self._find(self._open, raw, options)
        except BaseException:
            self.made.undo()
            self.close()
            raise

    @property
    def fd(self) -> int:
        """The descriptor."""
        return self._held.fileno()

    @property
    def link(self) -> bytes:
        """A path that leads here whatever is renamed, for one call of this process."""
        return b"/proc/self/fd/%d" % self.fd

    def path(self) -> bytes:
        """Give a path that leads here now, for programs that take nothing else."""
        return os.fsencode(os.readlink(f"/proc/self/fd/{self.fd}"))

    def check(self, mount: Mount, *, beneath: bool = False) -> None:
        """See that what was attached stands where the path leads, if it had to stay below a root.

        Arguments: mount, the new one; beneath, whether it is covered there.
        Raises: KernelError with ESTALE where a directory on the way was moved meanwhile: the mount may stand outside.
        """
        if self._root is None:
            return
        try:
            with self._root.resolve(self._below) as now:
                is_there = _is_at(now.fileno(), mount.fileno(), beneath=beneath)
        except (Missing, NotDirectory):
            is_there = False
        if not is_there:
            from errno import ESTALE  # noqa: PLC0415 (only on the way out of an error)

            hint = "a directory on the way to the target was moved or mounted over meanwhile"
            raise from_errno(ESTALE, "move_mount", (self.name,), filename=self.name, hint=hint)

    def is_gone(self) -> bool:
        """Say whether what the target lies on is known to stand nowhere here any more."""
        try:
            table = whole_table()
            # In a chroot that is no mount's root the table leaves out the mount of that root.
            return any(row.point == "/" for row in table) and find_old(table, old_id_of(self.fd)) is None
        except KernelError as error:
            calls.remark(f"whether the target is still there can't be told: {error}")
            return False

    def close(self) -> None:
        """Let go of every descriptor."""
        for held in (getattr(self, "_held", None), self._root, self.made):
            if held is not None:
                held.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close, after having taken back what was made for nothing."""
        if error is not None:
            self.made.undo()
        self.close()

    def _open(self, raw: bytes) -> OwnedFd:
        flags = _PATH if self._follow else _PATH | os.O_NOFOLLOW
        return OwnedFd(calls.openat(n.AT_FDCWD, raw, flags, 0))

    def _find(self, resolve: Callable[[bytes], OwnedFd], raw: bytes, options: Options) -> OwnedFd:
        if options.mkdir is None:
            try:
                return resolve(raw)
            except Missing as error:
                error.explain(hint="the target doesn't exist: the option X-mount.mkdir (`mount -m`) makes it")
                raise
        missing: list[bytes] = []
        head = raw.rstrip(b"/") or b"/"
        while True:
            try:
                held = resolve(head)
                break
            except Missing:
                head, name = os.path.split(head)
                if name in (b"", b".", b".."):
                    raise
                missing.append(name)
                head = head.rstrip(b"/") or (b"/" if raw.startswith(b"/") else b".")
        while missing:
            held = self._make(held, missing.pop(), options.mkdir)
        return held

    def _make(self, parent: OwnedFd, name: bytes, mode: int) -> OwnedFd:
        try:
            kept = parent.dup()  # before there is something to be removed again
            try:
                calls.mkdirat(parent.fileno(), name, mode)
            except Exists:  # somebody else was faster, or it is a dangling symlink: the next step tells
                kept.close()
            except BaseException:
                kept.close()
                raise
            else:
                self.made.add(kept, name)
            return OwnedFd(calls.openat(parent.fileno(), name, _STEP, 0))
        finally:
            parent.close()


def _is_at(fd: int, mount: int, *, beneath: bool) -> bool:
    """Say whether a descriptor lies on the mount of another, or on what that lies beneath."""
    number = id_of(mount, b"", HERE)
    if not beneath:
        return id_of(fd, b"", HERE) == number if number else old_id_of(fd) == old_id_of(mount)
    from mountfd.verbs.query.lookup import lookup  # noqa: PLC0415 (few mounts go beneath another)

    info = lookup(fd=fd, fields=("parent_id", "parent_id_old"))
    return info.parent_id == number if number else info.parent_id_old == old_id_of(mount)


def take_back(mount: Mount) -> None:
    """Detach a mount that was attached a moment ago, found by its own descriptor.

    What stands below its source stays there. Raises: InvalidSpec where something was mounted on it meanwhile: taking
    that away is not ours to do.
    """
    number = id_of(mount.fileno(), b"", HERE)
    if _is_covered(number) if number else _is_covered_in_table(mount.fileno()):
        raise InvalidSpec("something was mounted upon the new mount meanwhile, so it stays attached", part="target")
    from mountfd.verbs.mount.parting import make_private  # noqa: PLC0415 (only on the way out of an error)

    if not number or not _is_parted(number):
        make_private(mount.fileno(), recursive=True)
    calls.umount2(b"/proc/self/fd/%d" % mount.fileno(), _MNT_DETACH)


def _is_parted(number: int) -> bool:
    """Part a mount from what would go along with it; say whether that could be told."""
    from mountfd.verbs.mount.parting import part_below  # noqa: PLC0415 (only on the way out of an error)

    try:
        part_below(number)
    except KernelError as error:
        calls.remark(f"what would go along with a mount that is taken back can't be told: {error}")
        return False
    return True


def _is_covered_in_table(fd: int) -> bool:
    table = whole_table()
    own = find_old(table, old_id_of(fd))
    return own is not None and any(row.parent_id_old == own.id_old and row.point == own.point for row in table)


def _is_covered(number: int) -> bool:
    from mountfd.verbs.query.asking import ask, list_below, mask_of  # noqa: PLC0415 (only on the way out of an error)

    try:
        mask = mask_of(("parent_id", "point"))
        point = ask(number, mask).point
        rows = [ask(each, mask) for each in list_below(number)]
    except KernelError:
        return False  # without these calls, or with mounts going meanwhile, nobody can tell
    return any(row.parent_id == number and row.point == point for row in rows)
