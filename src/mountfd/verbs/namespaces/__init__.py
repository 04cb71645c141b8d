"""Mount namespaces: made with the root one wants, entered, run in, attached to, kept.

| what | file |
| --- | --- |
| one that exists: of a process, a file, an id | ../../handles/mountns.py |
| a new one | making.py, entering.py, template.py |
| one that belongs to another user namespace | crossing.py |
| a command in it | starting.py; owned.py, where another user namespace must be entered first |
"""

from __future__ import annotations

import os
from errno import EINVAL

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.flags import Propagation
from mountfd.abi.paths import encode
from mountfd.errors import Denied, Exists, InvalidSpec, KernelError, NotSupported
from mountfd.handles import mountns
from mountfd.handles.fd import OwnedFd
from mountfd.handles.mount import Mount
from mountfd.handles.namespace import UserNamespace
from mountfd.model.overlay import Overlay
from mountfd.verbs.enter import in_namespace
from mountfd.verbs.loading import load_everything

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from typing import Self, TypeVar

    from mountfd.abi.paths import StrPath
    from mountfd.model.table import MountTable

    T = TypeVar("T")
    N = TypeVar("N", bound=mountns.MountNamespace)

__all__ = ["MountNamespace"]

_MS_BIND = 0x1000
_NOT_KEPT = (
    "the file must be on a private mount, since the kernel lets no mount namespace travel to others (mount --bind a "
    "directory upon itself, and mount --make-private); nor can one be bound within itself, or within a newer one"
)
_NEW_FILE = os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class MountNamespace(mountns.MountNamespace):
    """A mount namespace; it exists for as long as this handle is open, or something lives in it.

    `current()`, `of(pid)`, `open(path)`, `from_fd(fd)` and `by_id(number)` take hold of one that exists; `new(root)`
    makes one. `pid` is the process that it was found through, or None.
    """

    __slots__ = ("_locks",)

    def __init__(self, fd: int) -> None:
        """Take over the descriptor of a namespace file."""
        super().__init__(fd)
        self._locks: tuple[OwnedFd, ...] = ()

    @classmethod
    def new(
        cls,
        root: Mount | Overlay | StrPath,
        *,
        propagation: int = Propagation.PRIVATE,
        owner: UserNamespace | None = None,
    ) -> Self:
        """Make a mount namespace whose root is a copy of a mount, with what stands on it, and which holds nothing else.

        Arguments: root, a Mount (it stays the caller's; a detached one is used up before Linux 6.15), an Overlay, or
        the path of a directory; propagation, of mountfd.Propagation, for all of it; owner, the user namespace that it
        belongs to, the caller's by default.
        There is no old root in it and no mount of the host, whatever route makes it. It lives as long as a handle on
        it, a process in it, or a file that it was kept at; this handle also holds the locks on an Overlay's upper and
        work layers. With an owner, who is root there may mount in it, but takes nothing away that stands in it already
        and makes nothing writable that is read-only: the kernel locks it.
        Raises: NotDirectory for a root that is a file; Denied without CAP_SYS_ADMIN; LimitReached at
        user.max_mnt_namespaces.
        Calls: open_tree(2) with OPEN_TREE_NAMESPACE, Linux 7.0; before that setns(2), unshare(2), move_mount(2),
        pivot_root(2), Linux 5.12; with an owner a fork, and setns(2) in it.
        """
        with _root(root) as mount:
            made = _newer(lambda: cls(_make(mount, owner)))
            try:
                made.hold(*(lock.dup() for lock in getattr(mount, "_locks", ())))
                if propagation != Propagation.PRIVATE:
                    made._within(lambda: _propagate(propagation))  # noqa: SLF001 (one of this class)
            except BaseException:
                made.close()
                raise
        return made

    @classmethod
    def by_id(cls, number: int) -> Self:
        """Take hold of the one with a unique id, among those that the caller may see.

        Raises: Gone when there is none; Denied; NotSupported before Linux 6.11.
        """
        with mountns.MountNamespace.by_id(number) as found:
            return cls(found.release())

    def hold(self, *locks: OwnedFd) -> None:
        """Hold descriptors of locks for as long as this handle is open."""
        self._locks += locks

    def close(self) -> None:
        """Close the handle and, with it, the locks on an overlay's upper and work layers."""
        super().close()
        locks, self._locks = getattr(self, "_locks", ()), ()
        for lock in locks:
            lock.close()

    def call(self, act: Callable[[], T]) -> T:
        """Call a function on a thread of its own that is in this namespace; its working directory is the root.

        Whose root it is may have put anything there, so what the function needs must have been imported: an import of
        it is refused, but for mountfd's own modules, which are loaded before. So is whatever loads code in other ways,
        such as names of users looked up through libraries of that root, the caller's to avoid. An exception that a
        signal handler raises meanwhile waits for the function's end.
        Raises: what the function raises; Denied without CAP_SYS_ADMIN over the namespace, and CAP_SYS_CHROOT.
        Calls: unshare(2) with CLONE_FS, setns(2).
        """
        load_everything()
        return self._within(act)

    def _within(self, act: Callable[[], T]) -> T:
        try:
            return in_namespace(self, act)
        except Denied as error:
            if error.syscall == "setns" and error.arguments[:1] == (self.fileno(),):
                from mountfd.verbs.namespaces.owned import why_no_entry  # noqa: PLC0415 (on the way out of an error)

                error.explain(hint=why_no_entry(self))
            raise

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        pass_fds: Collection[int] = (),
    ) -> int:
        """Run a command in this namespace and give its exit status, 128+n when signal n ended it.

        Arguments: argv, the program, looked for along the PATH of env inside, and its words; env, its environment
        (None: ours); cwd, its directory; pass_fds, descriptors that it gets besides the standard streams: no others,
        since one could lead it out of its root. It has our other namespaces and ids, and lives on when this process is
        killed: `mountfd.run` is for more. Where the namespace belongs to another user namespace, and the caller isn't
        root but made that, as by `mountfd.run`, the command is in that one, too, with what its ids may do there. Root's
        stays the machine's root, whatever programs that root holds.
        An exception that a signal handler raises meanwhile, KeyboardInterrupt above all, kills the command. SIGCHLD
        is held back until it has ended; in the main thread, so is the handler of it.
        Raises: Missing or another KernelError with syscall "execve" or "chdir"; MountfdError where somebody else in
        this process waited for the command.
        Calls: setns(2) on a thread, posix_spawn(3): its cost doesn't grow with this process's memory; where a user
        namespace must be entered, fork(2).
        """
        from mountfd.verbs.namespaces.starting import run_there  # noqa: PLC0415 (beside its use)

        return run_there(self, argv, env, cwd, pass_fds)

    def mounts(self, fields: Iterable[str] | None = None) -> MountTable:
        """List its mounts, as `mountfd.mounts(namespace=...)`."""
        from mountfd.verbs.query import mounts  # noqa: PLC0415 (beside its use)

        return mounts(namespace=self, fields=fields)

    def attach(self, mount: Mount, target: StrPath) -> None:
        """Attach a detached mount at a path in this namespace, in which others may be living.

        Arguments: mount, made in any namespace; target, resolved inside; a final symlink is not followed.
        Raises: what Mount.attach raises. Calls: setns(2) on a thread, move_mount(2).
        """
        if not isinstance(mount, Mount):
            raise InvalidSpec(f"what is attached is a Mount, not {mount!r}", part="mount")
        encode(target, "target")
        self._within(lambda: mount.attach(target))

    def keep(self, path: StrPath) -> None:
        """Bind it to a file, which is made if need be: it then outlives this process, and `open(path)` finds it again.

        `unmount(path)` lets go of it; the file stays. Programs enter it by `nsenter --mount=PATH`.
        Raises: KernelError with EINVAL for a namespace whose id is below that of the one it would be bound in, which
        the kernel takes for older, and on a mount that is shared with another namespace, to which it would have to
        travel: the file must be on a private mount. Call: mount(2) with MS_BIND; move_mount(2) refuses files of nsfs.
        """
        raw, link = encode(path), b"/proc/self/fd/%d" % self.fileno()
        try:
            os.close(calls.openat(n.AT_FDCWD, raw, _NEW_FILE, 0o444))
            new = True
        except Exists:
            new = False
        try:
            calls.mount(link, raw, None, _MS_BIND, None)
        except BaseException as error:
            if isinstance(error, KernelError) and error.errno == EINVAL:
                error.explain(hint=_NOT_KEPT)
            if new:
                os.unlink(raw)
            raise


def _make(root: Mount, owner: UserNamespace | None) -> int:
    from mountfd.verbs.namespaces.making import make  # noqa: PLC0415 (most handles are on one that exists)

    if owner is None:
        return make(root)
    from mountfd.verbs.namespaces.crossing import cross, is_own, owned_namespace  # noqa: PLC0415 (for few)

    if not isinstance(owner, UserNamespace):
        raise InvalidSpec(f"owner is a UserNamespace, not {owner!r}", part="owner")
    if is_own(owner):
        return make(root)
    with OwnedFd(make(root)) as outside:
        return cross(outside, owner, owned_namespace)


def _root(root: Mount | Overlay | StrPath) -> Mount:
    """Give a handle of our own on the root."""
    if isinstance(root, Mount):
        return root.dup()
    if isinstance(root, Overlay):
        from mountfd.verbs.assemble import assemble  # noqa: PLC0415 (only for one)

        return assemble(root)
    if isinstance(root, str | bytes | os.PathLike):
        return Mount.clone(root, recursive=True)
    raise InvalidSpec(f"root must be a Mount, an Overlay or a path, not {root!r}", part="root")


_ahead: list[int] = []  # the processor whose ids were seen to be higher than our own's, where another's were lower


def _newer(make: Callable[[], N]) -> N:
    """Make a namespace that the kernel takes for newer than the caller's own: only such a one can be kept at a file.

    It goes by ids, and since Linux 6.18 each processor hands out those of a stock of its own: where the new one's is
    lower, another is made on each processor in turn, and the next ones on the same at once. An older one serves for all
    but being kept; it is given where a filter forbids to choose processors, or the root could be used only once.
    """
    made = None if _ahead else make()
    if made is not None and _is_newer(made):
        return made
    allowed = os.sched_getaffinity(0)
    try:
        for processor in (*_ahead, *sorted(allowed)):
            may_choose = _moved_to({processor})
            made = _another(make, made)
            if _is_newer(made):
                _ahead[:] = [processor]
                return made
            if not may_choose:
                break
    finally:
        try:  # not by a function of ours: a signal handler can raise where one begins
            os.sched_setaffinity(0, allowed)
        except OSError as error:  # as before, so there is nothing to be undone
            calls.remark(f"namespace: processors can't be chosen here: {error}")
    return made if made is not None else make()


def _another(make: Callable[[], N], made: N | None) -> N:
    """Make one more instead of the last; give the last where no more can be made."""
    try:
        another = make()
    except KernelError:
        if made is None:
            raise
        return made
    if made is not None:
        made.close()
    return another


def _moved_to(processors: set[int]) -> bool:
    """Let this thread, and those that it starts, run on these processors alone; False where a filter forbids it."""
    try:
        os.sched_setaffinity(0, processors)
    except OSError:
        return False
    return True


def _is_newer(made: mountns.MountNamespace) -> bool:
    try:
        with mountns.MountNamespace.current() as own:
            return made.id > own.id
    except NotSupported:
        return True  # kernels before 6.11 number them in the order in which they are made
    except BaseException:
        made.close()
        raise


def _propagate(propagation: int) -> None:
    with Mount.open("/") as root:
        root.set(propagation=propagation, recursive=True)
