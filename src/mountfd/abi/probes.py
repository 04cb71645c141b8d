"""One harmless call for each kernel feature: it changes nothing, and what it opens it closes.

Never a version check: distributions backport. The table of what the answers mean is features.py.
"""

from __future__ import annotations

import os
from ctypes import c_uint64
from errno import EAGAIN, EBADF, EFAULT, EINVAL, ENOENT, ENOMEM, ENOSYS, EPERM

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.layouts import CapData, CapHeader, MntIdReq, MountAttr, OpenHow, StatMountBuffer, StatxBuffer
from mountfd.errors import KernelError, LimitReached, unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Probe = Callable[[], bool]

_CLOEXEC = 1
_PATH_DIR = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_EMPTY_PATHS = 0x44  # MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
_ATTR_IDMAP = 0x100000
_NO_FD = 2**31 - 1
_CAP_SYS_ADMIN = 21


def _errno_of(call: Callable[[], object]) -> int:
    try:
        call()
    except KernelError as error:
        if isinstance(error, LimitReached) or error.errno in (EAGAIN, ENOMEM):
            raise  # says something about this moment, and nothing that may be remembered
        return error.errno
    return 0


def _known(call: Callable[[], object]) -> Probe:
    """Ask with bad arguments: ENOSYS is a kernel without the call, EPERM for the privileged a seccomp filter."""

    def probe() -> bool:
        errno = _errno_of(call)
        return errno != ENOSYS and not (errno == EPERM and may_mount())

    return probe


def _all_known(*asked: Callable[[], object]) -> Probe:
    """Ask for calls that are only of use together: a filter, or a kernel between two versions, may lack one of them."""
    probes = [_known(call) for call in asked]
    return lambda: all(probe() for probe in probes)


def may_mount() -> bool:
    """Say whether this thread has CAP_SYS_ADMIN in its user namespace."""
    header, held = CapHeader(n.LINUX_CAPABILITY_VERSION_3, 0), CapData()
    calls.capget(calls.reference(header), calls.reference(held))
    return bool(held.effective >> _CAP_SYS_ADMIN & 1)


def _statx(bit: int) -> Probe:
    def probe() -> bool:
        buffer = StatxBuffer()
        call = calls.statx
        refused = _errno_of(lambda: call(n.AT_FDCWD, b"/", n.AT_STATX_DONT_SYNC, bit, calls.reference(buffer)))
        return not refused and bool(buffer.stx_mask & bit)

    return probe


def _move_flag(flag: int) -> Probe:
    """Look at flags before descriptors, as the kernel does: a known flag comes as far as EBADF, others are EINVAL."""
    return lambda: _errno_of(lambda: calls.move_mount(-1, b"", -1, b"", _EMPTY_PATHS | flag)) == EBADF


def _tmpfs() -> int:
    fs = calls.fsopen(b"tmpfs", _CLOEXEC)
    try:
        calls.fsconfig_create(fs)
        return calls.fsmount(fs, _CLOEXEC, 0)
    finally:
        os.close(fs)


def _on_tmpfs(use: Callable[[int], object]) -> Probe:
    """Try something on a detached tmpfs, which is gone again afterwards."""

    def attempt() -> None:
        fd = _tmpfs()
        try:
            use(fd)
        finally:
            os.close(fd)

    return lambda: _errno_of(attempt) == 0


def _on_overlay(use: Callable[[int, int], object]) -> Probe:
    """Try parameters on an overlay context that is never created; `use` gets it and a detached directory."""

    def attempt(tmpfs: int) -> None:
        fs = calls.fsopen(b"overlay", _CLOEXEC)
        try:
            calls.mkdirat(tmpfs, b"l", 0o700)
            use(fs, tmpfs)
        finally:
            os.close(fs)

    return _on_tmpfs(attempt)


def _layer_fd(key: bytes) -> Callable[[int, int], None]:
    def use(fs: int, tmpfs: int) -> None:
        layer = calls.openat(tmpfs, b"l", _PATH_DIR, 0)
        try:
            calls.fsconfig_set_fd(fs, key, layer)
        finally:
            os.close(layer)

    return use


def _layer_append(fs: int, _tmpfs: int) -> None:
    # overlayfs before 6.5 keeps every parameter for later, and so seems to take all: ask for a layer that isn't there.
    if _errno_of(lambda: calls.fsconfig_set_string(fs, b"lowerdir+", b"/\x01no such layer")) != ENOENT:
        raise unsupported("lowerdir+", "overlayfs doesn't look at its layers one by one")


def _override_creds(fs: int, _tmpfs: int) -> None:
    if _errno_of(lambda: calls.fsconfig_set_flag(fs, b"no such parameter")) == 0:
        raise unsupported("override_creds", "overlayfs takes whatever it is given, and looks at it later")
    calls.fsconfig_set_flag(fs, b"override_creds")


def _clone(tmpfs: int) -> None:
    os.close(calls.open_tree(tmpfs, b"", 1 | os.O_CLOEXEC | n.AT_EMPTY_PATH))


def _open_tree_attr(tmpfs: int) -> None:
    change = calls.reference(MountAttr(1, 0, 0, 0))
    flags = 1 | os.O_CLOEXEC | n.AT_EMPTY_PATH
    os.close(calls.open_tree_attr(tmpfs, b"", flags, change, n.MOUNT_ATTR_SIZE_VER0))


def _inside(tmpfs: int) -> None:
    calls.mkdirat(tmpfs, b"d", 0o700)
    other = _tmpfs()
    try:
        calls.move_mount(other, b"", tmpfs, b"d", 0x4)
    finally:
        os.close(other)


def _idmap() -> bool:
    # The user namespace is looked at before the mount: an attribute that is known comes as far as its bad descriptor.
    change = calls.reference(MountAttr(_ATTR_IDMAP, 0, 0, _NO_FD))
    size = n.MOUNT_ATTR_SIZE_VER0
    return _errno_of(lambda: calls.mount_setattr(-1, b"", n.AT_EMPTY_PATH, change, size)) == EBADF


def _statmount_by_fd() -> bool:
    request, buffer = MntIdReq(n.MNT_ID_REQ_SIZE_VER0, _NO_FD), StatMountBuffer()
    return _errno_of(lambda: calls.statmount(calls.reference(request), calls.reference(buffer), 512, 1)) == EBADF


def _listns() -> bool:
    return _errno_of(lambda: calls.listns(None, None, 0, 0)) in {EFAULT, EINVAL}


def _fanotify() -> bool:
    return _errno_of(lambda: os.close(calls.fanotify_init(0x4000 | 0x1 | 0x2, 0))) == 0


def _open_tree_namespace() -> bool:
    # An unknown flag is EINVAL before the path is looked at; a known one comes as far as the descriptor.
    flags = 2 | os.O_CLOEXEC | n.AT_EMPTY_PATH
    return _errno_of(lambda: calls.open_tree(-1, b"", flags)) == EBADF


def _fsmount_namespace() -> bool:
    return _errno_of(lambda: calls.fsmount(-1, 1 | 2, 0)) == EBADF


def _socket_xattr() -> bool:
    import socket  # noqa: PLC0415 (only for this question)

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            os.setxattr(sock.fileno(), "user.mountfd", b"")
        except OSError:
            return False  # EPERM: only files and directories may have such attributes
    return True


def _number_in(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (FileNotFoundError, PermissionError):
        return None


def _user_namespace() -> bool:
    if not _number_in("/proc/sys/user/max_user_namespaces"):
        return False
    switch = _number_in("/proc/sys/kernel/unprivileged_userns_clone")  # Debian's and Ubuntu's kernels have it
    return os.geteuid() == 0 or switch != 0


PROBES: dict[str, Probe] = {
    "USER_NAMESPACE": _user_namespace,
    "OVERLAY": _on_overlay(lambda _fs, _tmpfs: None),
    "MOUNT_API": _all_known(
        lambda: calls.fsopen(b"", 0),
        lambda: calls.open_tree(-1, b"", n.AT_EMPTY_PATH),
        lambda: calls.move_mount(-1, b"", -1, b"", _EMPTY_PATHS),
        lambda: calls.fsconfig_create(-1),
        lambda: calls.fsmount(-1, 0, 0),
        lambda: calls.fspick(-1, b"", _CLOEXEC),
    ),
    "OPENAT2": _known(lambda: calls.openat2(-1, b"", calls.reference(OpenHow()), 24)),
    "STATX_MNT_ID": _statx(0x1000),
    "MOUNT_SETATTR": _known(lambda: calls.mount_setattr(-1, b"", n.AT_EMPTY_PATH, None, 0)),
    "IDMAPPED_MOUNT": _idmap,
    "MOVE_MOUNT_SET_GROUP": _move_flag(0x100),
    "MOVE_MOUNT_BENEATH": _move_flag(0x200),
    "OVERLAY_LAYER_APPEND": _on_overlay(_layer_append),
    "STATX_MNT_ID_UNIQUE": _statx(0x4000),
    "STATMOUNT": _known(lambda: calls.statmount(None, None, 0, 0)),
    "LISTMOUNT": _known(lambda: calls.listmount(None, (c_uint64 * 1)(), 0, 0)),
    "OVERLAY_LAYER_DETACHED": _on_overlay(_layer_fd(b"lowerdir+")),
    "OVERLAY_OVERRIDE_CREDS": _on_overlay(_override_creds),
    "OPEN_TREE_ATTR": _on_tmpfs(_open_tree_attr),
    "CLONE_DETACHED": _on_tmpfs(_clone),
    "MOUNT_INSIDE_DETACHED": _on_tmpfs(_inside),
    "FANOTIFY_MOUNTS": _fanotify,
    "LISTNS": _listns,
    "STATMOUNT_BY_FD": _statmount_by_fd,
    "OPEN_TREE_NAMESPACE": _open_tree_namespace,
    "FSMOUNT_NAMESPACE": _fsmount_namespace,
    "SOCKET_XATTR": _socket_xattr,
}
# To others than those who may mount the kernel answers EPERM, whether it knows these or not.
PRIVILEGED = {"MOVE_MOUNT_SET_GROUP", "MOVE_MOUNT_BENEATH"}
