"""One mount, attached or detached, held by a descriptor."""

from __future__ import annotations

import os
import stat
from errno import EBUSY, EINVAL, ELOOP, ENOTDIR, EPERM

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.layouts import MntIdReq, MountAttr, StatMountBuffer, StatxBuffer
from mountfd.abi.paths import encode
from mountfd.errors import InvalidSpec, KernelError, NotSupported
from mountfd.handles.beneath import why_not_beneath
from mountfd.handles.fd import OwnedFd
from mountfd.handles.namespace import UserNamespace, shared_user_namespace
from mountfd.handles.refused import CAP_SYS_ADMIN, LOCKED, holds, is_filtered, why_not
from mountfd.model.idmap import IdMap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from mountfd.abi.paths import StrPath

__all__ = ["Mount"]

_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_F_EMPTY_PATH = 0x4
_T_EMPTY_PATH = 0x40
_BENEATH = 0x200
_ATTR_IDMAP = 0x100000
_ATTR_ATIME = 0x70
_ATTR_ANY_ATIME = 0x70
_STATX_MNT_ID_UNIQUE = 0x4000
_STATMOUNT_MNT_BASIC = 0x2
_STATMOUNT_SIZE = 512


class Mount(OwnedFd):
    """A mount held by a descriptor.

    A detached one can be reached through this handle alone and dies with its last descriptor, also on SIGKILL.
    An attached one stays when the handle is closed; while it is open it keeps the mount busy.
    The descriptor is one of O_PATH: files are opened below it (`dir_fd=mount.fileno()`), and to list its root, open "."
    there.

    `idmapped` is what was given to this handle's `idmap`, or None.
    """

    __slots__ = ("_locks", "idmapped")

    def __init__(self, fd: int) -> None:
        """Take over the descriptor of a mount: from fsmount(2) or open_tree(2)."""
        super().__init__(fd)
        self.idmapped: IdMap | UserNamespace | None = None
        self._locks: tuple[OwnedFd, ...] = ()

    @classmethod
    def clone(cls, path: StrPath, *, recursive: bool = False, dir_fd: int | None = None, follow: bool = True) -> Self:
        """Make a detached copy of the mount that a path lies on, with the path as its root.

        Arguments: path, a directory or file; recursive, whether mounts below come along; dir_fd, where a relative
        path starts; follow, whether a final symlink is followed.
        Raises: KernelError with EINVAL for an unbindable mount or, in a user namespace, locked mounts below.
        Call: open_tree(2) with OPEN_TREE_CLONE, Linux 5.2.
        """
        flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC
        flags |= (n.AT_RECURSIVE if recursive else 0) | (0 if follow else n.AT_SYMLINK_NOFOLLOW)
        try:
            return cls(calls.open_tree(n.AT_FDCWD if dir_fd is None else dir_fd, encode(path), flags))
        except KernelError as error:
            _explain_denied(error)
            raise

    @classmethod
    def clone_fd(cls, fd: int, *, recursive: bool = False) -> Self:
        """Make a detached copy of the mount that a descriptor lies on, with its file as the root.

        Call: open_tree(2) with OPEN_TREE_CLONE and AT_EMPTY_PATH, Linux 5.2; of a detached mount, Linux 6.15.
        """
        flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | n.AT_EMPTY_PATH | (n.AT_RECURSIVE if recursive else 0)
        try:
            return cls(calls.open_tree(fd, b"", flags))
        except KernelError as error:
            _explain_denied(error)
            raise

    @classmethod
    def open(cls, path: StrPath, *, dir_fd: int | None = None, follow: bool = True) -> Self:
        """Take a handle on the mount that stands at a path; it keeps the mount busy until closed.

        Call: open_tree(2) without OPEN_TREE_CLONE, Linux 5.2.
        """
        flags = _OPEN_TREE_CLOEXEC | (0 if follow else n.AT_SYMLINK_NOFOLLOW)
        return cls(calls.open_tree(n.AT_FDCWD if dir_fd is None else dir_fd, encode(path), flags))

    @property
    def id(self) -> int:
        """The mount's unique id, which is never reused. Call: statx(2) with STATX_MNT_ID_UNIQUE, Linux 6.8."""
        buffer = StatxBuffer()
        flags = n.AT_EMPTY_PATH | n.AT_STATX_DONT_SYNC
        calls.statx(self.fileno(), b"", flags, _STATX_MNT_ID_UNIQUE, calls.reference(buffer))
        if not buffer.stx_mask & _STATX_MNT_ID_UNIQUE:
            from mountfd.errors import unsupported  # noqa: PLC0415 (only on kernels before 6.8)

            raise unsupported("STATX_MNT_ID_UNIQUE", "unique mount ids came with Linux 6.8")
        return int(buffer.stx_mnt_id)

    def set(self, attrs: int = 0, *, clear: int = 0, propagation: int = 0, recursive: bool = False) -> Self:
        """Change attributes and propagation; all or nothing, also for a whole tree.

        Arguments: attrs and clear, of mountfd.Attr; propagation, one of mountfd.Propagation or 0 to leave it;
        recursive, whether the mounts below change too.
        Raises: Busy when the mount shall become read-only while files are open for writing.
        Call: mount_setattr(2), Linux 5.12.
        """
        if (attrs | clear) & _ATTR_ANY_ATIME:
            clear |= _ATTR_ATIME  # the kernel takes the access-time bits as one field: EINVAL for a part of it
        change = MountAttr(attrs, clear, propagation, 0)
        try:
            self._setattr(change, recursive=recursive)
        except KernelError as error:
            if error.errno == EBUSY:
                error.explain(hint="a file is open for writing on this mount, or on one below it")
            _explain_denied(error, clear=bool(change.attr_clr))
            raise
        return self

    def idmap(self, idmap: IdMap | UserNamespace, *, recursive: bool = False) -> Self:
        """Show the files' owners through an idmap; once for each detached mount.

        Arguments: idmap, or a user namespace that holds it; recursive, whether the mounts below are mapped too.
        Raises: NotSupported when this filesystem can't be idmapped, Denied when the mount is idmapped already or the
        caller lacks CAP_SYS_ADMIN over the filesystem, Busy while a file is open for writing, KernelError with EINVAL
        for an attached mount.
        Call: mount_setattr(2) with MOUNT_ATTR_IDMAP, Linux 5.12.
        """
        self.idmap_and_set(idmap, 0, recursive=recursive)
        return self

    def idmap_and_set(self, idmap: IdMap | UserNamespace, attrs: int, *, recursive: bool = False) -> None:
        """Idmap and set attributes in one call. Errors are those of `idmap`."""
        holder = shared_user_namespace(idmap) if isinstance(idmap, IdMap) else idmap
        change = MountAttr(_ATTR_IDMAP | attrs, 0, 0, holder.fileno())
        try:
            self._setattr(change, recursive=recursive)
        except KernelError as error:
            _explain_idmap(error)
            if error.errno == EINVAL and not self._is_attached():
                hint = "this filesystem can't be idmapped, or one mounted below it (`mountfd doctor` lists them)"
                raise NotSupported(
                    EINVAL, error.syscall, error.arguments, feature="idmapped mount of this filesystem", hint=hint
                ) from None
            raise
        self.idmapped = idmap

    def attach(self, target: StrPath, *, beneath: bool = False, dir_fd: int | None = None) -> Self:
        """Attach at a target: the one step that others can see.

        Arguments: target, a directory, or a file for a file's mount; beneath, below the mount that stands there;
        dir_fd, where a relative target starts. A final symlink is not followed.
        Raises: Missing, NotDirectory, Denied; KernelError with EINVAL and the rule that forbids it in .hint;
        NotSupported for beneath before Linux 6.5.
        Call: move_mount(2), Linux 5.2; beneath, Linux 6.5.
        """
        at, raw = n.AT_FDCWD if dir_fd is None else dir_fd, encode(target, "target")
        flags = _F_EMPTY_PATH | (_BENEATH if beneath else 0)
        try:
            calls.move_mount(self.fileno(), b"", at, raw, flags)
        except KernelError as error:
            if beneath and error.errno == EINVAL:
                _require_beneath()
            if error.errno in (EINVAL, ELOOP, ENOTDIR):
                error.explain(hint=self._why_not(raw, dir_fd, beneath=beneath))
            _explain_denied(error)
            raise
        return self

    def attach_fd(self, target: int, *, beneath: bool = False) -> Self:
        """Attach at the file or directory that a descriptor names: move_mount(2) with MOVE_MOUNT_T_EMPTY_PATH."""
        flags = _F_EMPTY_PATH | _T_EMPTY_PATH | (_BENEATH if beneath else 0)
        try:
            calls.move_mount(self.fileno(), b"", target, b"", flags)
        except KernelError as error:
            if beneath and error.errno == EINVAL:
                _require_beneath()
                error.explain(hint=why_not_beneath(self.fileno(), target))
            _explain_denied(error)
            raise
        return self

    def close(self) -> None:
        """Close the handle and, with it, the locks on an overlay's upper and work layers."""
        super().close()
        self._unlock()

    def release(self) -> int:
        """Hand the descriptor over to the caller, who closes it from now on; the locks of an overlay end here."""
        fd = super().release()
        self._unlock()
        return fd

    def dup(self) -> Self:
        """Make a second handle on the same mount: fcntl(2) F_DUPFD_CLOEXEC. It holds the same locks."""
        other = super().dup()
        other.idmapped = self.idmapped
        other.keep(*(lock.dup() for lock in self._locks))
        return other

    def keep(self, *locks: OwnedFd) -> None:
        """Hold descriptors of locks for as long as this handle is open."""
        self._locks += locks

    def _unlock(self) -> None:
        locks, self._locks = getattr(self, "_locks", ()), ()
        for lock in locks:
            lock.close()

    def _is_attached(self) -> bool:
        """Say whether this mount stands in this namespace, for the sake of an error; False where that can't be told."""
        request, answer = MntIdReq(n.MNT_ID_REQ_SIZE_VER0), StatMountBuffer()
        try:
            request.mnt_id = self.id
            request.param = _STATMOUNT_MNT_BASIC
            calls.statmount(calls.reference(request), calls.reference(answer), _STATMOUNT_SIZE, 0)
        except KernelError:
            return False
        return True

    def _setattr(self, change: MountAttr, *, recursive: bool) -> None:
        flags = n.AT_EMPTY_PATH | (n.AT_RECURSIVE if recursive else 0)
        calls.mount_setattr(self.fileno(), b"", flags, calls.reference(change), n.MOUNT_ATTR_SIZE_VER0)

    def _why_not(self, target: bytes, dir_fd: int | None, *, beneath: bool) -> str | None:
        try:
            there = os.stat(target, dir_fd=dir_fd, follow_symlinks=False).st_mode
            ours = os.fstat(self.fileno()).st_mode
        except (OSError, InvalidSpec):
            return None  # the call's own error says more than a guess about what can't be looked at
        if stat.S_ISLNK(there):
            return "the target is a symbolic link, which is not followed: name the place that it points to"
        if stat.S_ISDIR(ours) != stat.S_ISDIR(there):
            kinds = ("a directory", "a file") if stat.S_ISDIR(ours) else ("a file", "a directory")
            return f"the mount's root is {kinds[0]}, the target is {kinds[1]}: both must be of one kind"
        return self._why_not_beneath(target, dir_fd) if beneath else None

    def _why_not_beneath(self, target: bytes, dir_fd: int | None) -> str | None:
        try:
            place = calls.openat(n.AT_FDCWD if dir_fd is None else dir_fd, target, os.O_PATH | os.O_CLOEXEC, 0)
        except KernelError:
            return None  # it went meanwhile
        try:
            return why_not_beneath(self.fileno(), place)
        finally:
            os.close(place)


def _require_beneath() -> None:
    from mountfd.abi.features import Feature, require  # noqa: PLC0415 (only on the way out of an error)

    require(Feature.MOVE_MOUNT_BENEATH, "attaching a mount beneath another")


def _explain_denied(error: KernelError, *, clear: bool = False) -> None:
    """Say why it is EPERM; clear, whether attributes were to be taken away, which may be locked."""
    if error.errno != EPERM:
        return
    if clear and holds(CAP_SYS_ADMIN) and not is_filtered():
        error.explain(hint=LOCKED)
    else:
        error.explain(hint=why_not(error.syscall))


def _explain_idmap(error: KernelError) -> None:
    if error.errno == EINVAL:
        error.explain(hint="the mount is attached already: an idmap is given to a detached one, such as a clone of it")
    elif error.errno == EPERM:
        error.explain(
            hint="the mount is idmapped already, or the caller lacks CAP_SYS_ADMIN in the user namespace "
            "that owns the filesystem" + (", or the seccomp filter here forbids mount_setattr(2)" * is_filtered())
        )
    elif error.errno == EBUSY:
        error.explain(hint="a file on this mount is open for writing")
