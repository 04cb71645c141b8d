"""User namespaces as carriers of an idmap, made without a fork.

    clone(fn, stack, CLONE_NEWUSER|CLONE_VM|CLONE_FILES|CLONE_PIDFD)   fn is a libc function: no Python in the child
    write /proc/PID/uid_map, gid_map                                   one write each
    open /proc/PID/ns/user                                             this descriptor keeps the namespace
    SIGKILL, waitid(P_PIDFD, __WALL)

No page table is copied and no signal handler runs in the child: 0.2 ms whatever the size of this process.
"""

from __future__ import annotations

import os
import signal
from errno import EACCES, EAGAIN, EINVAL, EPERM

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.errors import Denied, KernelError, LimitReached, Missing
from mountfd.handles.fd import OwnedFd
from mountfd.handles.kept import KeptFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, Self

    from mountfd.model.idmap import IdMap

__all__ = ["UserNamespace", "drop_caches", "in_initial_user_namespace", "shared_user_namespace", "write_id_maps"]

_CLONE = 0x10000000 | 0x100 | 0x400 | 0x1000  # CLONE_NEWUSER | CLONE_VM | CLONE_FILES | CLONE_PIDFD, exit signal 0
_CLONE_FS = 0x200
_CLONE_NEWNS = 0x20000
_ORPHAN_SECONDS = 60
_INITIAL = 0xEFFFFFFD  # the inode number that the kernel gives to no other
_KEPT = 16


class UserNamespace(OwnedFd):
    """A user namespace held by a descriptor; an idmapped mount reads its id maps from it."""

    __slots__ = ()

    @classmethod
    def new(cls, idmap: IdMap) -> Self:
        """Make a user namespace with these id maps; nothing lives in it.

        Arguments: idmap, on-disk ids to ids seen.
        Who lacks CAP_SETUID or CAP_SETGID can map the own id, and subordinate ones through newuidmap(1), newgidmap(1).
        Raises: Denied when the caller may not map these ids, LimitReached at user.max_user_namespaces.
        Call: clone(2) with CLONE_NEWUSER and a libc function as the child; user_namespaces(7).
        """
        return cls(_make(idmap))

    @classmethod
    def of(cls, pid: int) -> Self:
        """Take hold of the user namespace that a process is in.

        Arguments: pid, a process that the caller may inspect.
        Raises: Gone when there is no such process, Denied when it may not be inspected or /proc hides it.
        """
        return cls(_open_namespace(pid))


def _open_namespace(pid: int) -> int:
    try:
        return calls.openat(n.AT_FDCWD, b"/proc/%d/ns/user" % pid, os.O_RDONLY | os.O_CLOEXEC, 0)
    except Missing as error:
        from mountfd.handles.refused import raise_without_process  # noqa: PLC0415 (only on the way out of an error)

        raise_without_process(error, pid)
    except Denied as error:
        from mountfd.handles.refused import CLOSED  # noqa: PLC0415 (only on the way out of an error)

        error.explain(hint=CLOSED)
        raise


def in_initial_user_namespace() -> bool:
    """Say whether this process is in the machine's own user namespace; without /proc it counts as being there."""
    try:
        return os.stat("/proc/self/ns/user").st_ino == _INITIAL
    except OSError:
        return True


def write_id_maps(pid: int, idmap: IdMap) -> None:
    """Write a process's uid_map and gid_map, in one write each as the kernel wants it.

    What the kernel takes only from who has CAP_SETUID and CAP_SETGID, newuidmap(1) and newgidmap(1) are asked for: a
    user's subordinate ids. A map can't be written twice: after a failure begin again with another process.
    Raises: Denied, with the program's words in .hint.
    """
    try:
        folder = calls.openat(n.AT_FDCWD, b"/proc/%d" % pid, os.O_PATH | os.O_CLOEXEC, 0)
    except Missing as error:
        from mountfd.handles.refused import raise_without_process  # noqa: PLC0415 (only on the way out of an error)

        raise_without_process(error, pid)
    try:
        _write_map(folder, pid, "uid", idmap.uid_map_text())
        own = _is_own_group(idmap, pid)
        _write_map(folder, pid, "gid", idmap.gid_map_text(), own=own, deny=own and os.geteuid() != 0)
    finally:
        os.close(folder)


def _write_map(  # noqa: PLR0913 (whose, which and how)
    folder: int, pid: int, kind: Literal["uid", "gid"], text: bytes, *, own: bool = False, deny: bool = False
) -> None:
    try:
        if deny:
            _write(folder, b"setgroups", b"deny")  # one's own group is EPERM without it, and it is EPERM afterwards
        _write(folder, b"%b_map" % kind.encode(), text)
    except Denied as error:
        if own and not deny and error.errno == EPERM:
            _write_map(folder, pid, kind, text, own=True, deny=True)  # root without CAP_SETGID is like anybody
            return
        from mountfd.handles.subordinate import map_otherwise  # noqa: PLC0415 (root does without)

        map_otherwise(error, pid, kind, text)


def _is_own_group(idmap: IdMap, pid: int) -> bool:
    """Say whether a map has one's own group alone, which takes no privilege once setgroups(2) is denied for good."""
    only = idmap.gid[0]
    # Who has entered a user namespace without a map isn't told its group, and can map no other.
    return len(idmap.gid) == only.count == 1 and (only.outside == os.getegid() or pid == os.getpid())


def _write(folder: int, name: bytes, text: bytes) -> None:
    fd = calls.openat(folder, name, os.O_WRONLY | os.O_CLOEXEC, 0)
    try:
        calls.write(fd, text, len(text))
    except KernelError as error:
        if error.errno == EINVAL:
            error.explain(hint="the kernel refused this id map")
        raise
    finally:
        os.close(fd)


def _make(idmap: IdMap) -> int:
    # The child shares our memory and inherits our signal mask: with every signal blocked no handler can run there.
    made = -1
    try:
        mask = calls.block_signals()
        try:
            made = _make_blocked(idmap)
        finally:
            calls.restore_signals(mask)
    except BaseException:
        if made >= 0:  # a Python handler ran as soon as it could, and raised
            os.close(made)
        raise
    return made


def _make_blocked(idmap: IdMap) -> int:
    # Root of the machine can write the maps of a zombie, so its child ends at once and can't be orphaned. Others, and
    # root of a user namespace, need a live one, which goes by itself should this process be killed right now.
    is_root = os.geteuid() == 0 and in_initial_user_namespace()
    name, argument = ("_exit", 0) if is_root else ("sleep", _ORPHAN_SECONDS)
    try:
        pid, pidfd, stack = _spawn(name, argument)
    except KernelError as error:
        if error.errno in (EAGAIN, EPERM, EACCES):
            error.explain(hint="user namespaces are limited here: see user.max_user_namespaces, RLIMIT_NPROC, seccomp")
        raise
    try:
        write_id_maps(pid, idmap)
        return _open_namespace(pid)
    finally:
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | n.WALL)
            os.close(pidfd)
            del stack  # not before: the child ran on it


def _spawn(name: str, argument: int) -> tuple[int, int, object]:
    try:
        return calls.spawn(name, argument, _CLONE)
    except KernelError as error:
        if error.errno != EPERM or os.geteuid() != 0:
            raise
        try:
            return _spawn_outside_of_chroot(name, argument)
        except KernelError:
            raise error from None


def _spawn_outside_of_chroot(name: str, argument: int) -> tuple[int, int, object]:
    """Do it on a thread that has the root of its mount namespace: nobody in a chroot may make a user namespace.

    Entering a mount namespace, here the one that the thread is in already, gives one that namespace's root.
    """
    import threading  # noqa: PLC0415 (only in a chroot)

    made: list[tuple[int, int, object]] = []
    refused: list[KernelError] = []

    def body() -> None:
        try:
            own = calls.openat(n.AT_FDCWD, b"/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC, 0)
            try:
                calls.unshare(_CLONE_FS)
                calls.setns(own, _CLONE_NEWNS)
            finally:
                os.close(own)
            made.append(calls.spawn(name, argument, _CLONE))
        except KernelError as error:
            refused.append(error)

    thread = threading.Thread(target=body, name="mountfd-chroot")
    thread.start()
    thread.join()
    if refused:
        raise refused.pop()
    return made.pop()


class _Kept(KeptFd, UserNamespace):
    """A cached namespace."""

    __slots__ = ()


_shared: dict[IdMap, _Kept] = {}


def shared_user_namespace(idmap: IdMap) -> UserNamespace:
    """Give the kept user namespace of a map, made on first use; the 16 newest are kept while descriptors are free.

    The result belongs to the cache: hold a reference while using it, and don't close it.
    """
    kept = _shared.get(idmap)
    if kept is not None and not kept.is_there():
        _shared.pop(idmap, None)
        kept = None
    if kept is None:
        try:
            made = _Kept.new(idmap)
        except LimitReached:
            if not _shared:
                raise
            drop_caches()  # what is kept to be quick mustn't be what there is no room for
            made = _Kept.new(idmap)
        kept = _shared.setdefault(idmap, made)
        for old in list(_shared)[:-_KEPT]:
            # Only forget it: another thread may be using it right now, and its reference keeps it open.
            _shared.pop(old, None)
    return kept


def drop_caches() -> None:
    """Forget the kept user namespaces; the next idmap makes its own again."""
    _shared.clear()
