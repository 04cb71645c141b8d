"""The door to the kernel: one table, one typed row for each call, and nothing else in this package makes one.

How a row works:

    row            Callable[[fd, path, flags], int]    its own ctypes prototype, built once, errno kept per thread
    result -1      becomes the exception of the family that stands for errno, with the call's name and arguments
    EINTR          the call is made again, as PEP 475 does for Python's own
    watcher        when set (trace, fault injection), sees every call before and after; None costs one comparison

Calls numbered 424 and above go through syscall(2) by number; all older ones through the libc's symbol.
Beside the table stand Python's own calls on open descriptors (`close`, `dup`, `fstat`, `read` and the like), which
decide nothing about mounts, and the few functions below that say why they are no rows.
"""

from __future__ import annotations

import os
from ctypes import (
    CDLL,
    CFUNCTYPE,
    addressof,
    byref,
    c_char,
    c_char_p,
    c_int,
    c_long,
    c_size_t,
    c_uint,
    c_uint64,
    c_ulong,
    c_void_p,
    cast,
    create_string_buffer,
    get_errno,
)
from errno import EINTR, ENOSYS
from functools import partial
from signal import SIG_BLOCK, SIG_SETMASK

from mountfd.abi import numbers as n
from mountfd.abi.layouts import StatxBuffer
from mountfd.errors import NotSupported, from_errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    class Watcher(Protocol):
        """Sees every call: `before` may answer an errno to inject, `after` hears how it ended."""

        def before(self, row: Row, arguments: tuple[Any, ...]) -> int:
            """Answer 0, or the errno that the call shall fail with instead of being made."""

        def after(self, row: Row, arguments: tuple[Any, ...], result: int, errno: int) -> None:
            """Hear the result, or -1 and the errno."""

        def note(self, text: str) -> None:
            """Hear what was decided between the calls."""


_libc = CDLL(None, use_errno=True)
_STACK = 16384

_TYPES = {
    "fd": c_int,
    "int": c_int,
    "flags": c_uint,
    "path": c_char_p,
    "text": c_char_p,
    "pointer": c_void_p,
    "size": c_size_t,
    "u64": c_uint64,
    "word": c_ulong,
}


class Row:
    """One call: its name and, for each argument, (name, kind); `path` arguments name the file in errors."""

    __slots__ = ("name", "parameters", "path_index")

    def __init__(self, name: str, parameters: str) -> None:
        """Read the parameters from words of the form name:kind, or kind alone where the name is the same."""
        self.name = name
        pairs = [word.partition(":") for word in parameters.split()]
        self.parameters = tuple((left, right or left) for left, _, right in pairs)
        kinds = [kind.partition("=")[0] for _, kind in self.parameters]
        # A move has two paths; the place it goes to is the one that people get wrong.
        self.path_index = len(kinds) - 1 - kinds[::-1].index("path") if "path" in kinds else -1

    def types(self) -> list[type]:
        """Give the ctypes type of each argument."""
        return [_TYPES[kind.partition("=")[0]] for _, kind in self.parameters]


ROWS: dict[str, Row] = {}
watcher: Watcher | None = None


def _call(row: Row, entry: Callable[..., int]) -> Callable[..., Any]:
    ROWS[row.name] = row

    def call(*arguments: Any) -> int:  # noqa: ANN401 (the row's prototype checks them)
        if watcher is not None:
            return _watched(row, entry, arguments)
        result = entry(*arguments)
        while result == -1:
            if (errno := get_errno()) != EINTR:
                raise failure(row, arguments, errno)
            result = entry(*arguments)
        return result

    call.__name__ = call.__qualname__ = row.name
    return call


def _watched(row: Row, entry: Callable[..., int], arguments: tuple[Any, ...]) -> int:
    while True:
        seen = watcher
        errno = seen.before(row, arguments) if seen is not None else 0
        result = -1 if errno else entry(*arguments)
        if result == -1:
            errno = errno or get_errno()
        if seen is not None:
            seen.after(row, arguments, result, errno)
        if result != -1:
            return result
        if errno != EINTR:
            raise failure(row, arguments, errno)


def failure(row: Row, arguments: tuple[Any, ...], errno: int) -> OSError:
    """Make the exception for a row's errno, with the path at fault when the row has one."""
    path = arguments[row.path_index] if row.path_index >= 0 else None
    filename = os.fsdecode(path) if isinstance(path, bytes) and path else None
    feature = f"{row.name}(2)" if errno == ENOSYS else None
    hint = f"this kernel, or a seccomp filter around this process, doesn't have {row.name}(2)" if feature else None
    return from_errno(errno, row.name, arguments, filename=filename, feature=feature, hint=hint)


def remark(text: str) -> None:
    """Tell the watcher, if there is one, what was decided: which route, and why."""
    if watcher is not None:
        watcher.note(text)


def _syscall(name: str, number: int, parameters: str) -> Callable[..., Any]:
    row = Row(name, parameters)
    entry = CFUNCTYPE(c_long, c_long, *row.types(), use_errno=True)(("syscall", _libc))
    return _call(row, partial(entry, number))


def _symbol(name: str, parameters: str, *, symbol: str | None = None) -> Callable[..., Any]:
    row = Row(name, parameters)
    try:
        entry = CFUNCTYPE(c_int, *row.types(), use_errno=True)((symbol or name, _libc))
    except AttributeError:
        return _absent(row)
    return _call(row, entry)


def _absent(row: Row) -> Callable[..., Any]:
    def call(*arguments: Any) -> int:  # noqa: ANN401 (same shape as a row that is there)
        hint = f"this system's libc has no symbol {row.name}"
        raise NotSupported(ENOSYS, row.name, arguments, feature=f"{row.name}(2)", hint=hint)

    ROWS[row.name] = row
    return call


# --- the mount API made of descriptors: mount(2)'s successors ------------------------------------------------------
fsopen: Callable[[bytes, int], int] = _syscall("fsopen", n.SYS_fsopen, "fstype:text flags:flags=FsOpen")
fsmount: Callable[[int, int, int], int] = _syscall(
    "fsmount", n.SYS_fsmount, "fs:fd flags:flags=FsMount attrs:flags=Attr"
)
fspick: Callable[[int, bytes, int], int] = _syscall("fspick", n.SYS_fspick, "dfd:fd path flags:flags=FsPick")
open_tree: Callable[[int, bytes, int], int] = _syscall("open_tree", n.SYS_open_tree, "dfd:fd path flags:flags=OpenTree")
open_tree_attr: Callable[[int, bytes, int, Any, int], int] = _syscall(
    "open_tree_attr", n.SYS_open_tree_attr, "dfd:fd path flags:flags=OpenTree attr:pointer=MountAttr size"
)
move_mount: Callable[[int, bytes, int, bytes, int], int] = _syscall(
    "move_mount", n.SYS_move_mount, "from_dfd:fd from_path:path to_dfd:fd to_path:path flags:flags=MoveMount"
)
mount_setattr: Callable[[int, bytes, int, Any, int], int] = _syscall(
    "mount_setattr", n.SYS_mount_setattr, "dfd:fd path flags:flags=At attr:pointer=MountAttr size"
)

_fsconfig: Callable[[int, int, bytes | None, Any, int], int] = _syscall(
    "fsconfig", n.SYS_fsconfig, "fs:fd command:int=FsConfig key:text value:pointer aux:int"
)


def fsconfig_set_flag(fs: int, key: bytes) -> None:
    """Set a parameter that has no value."""
    _fsconfig(fs, n.FSCONFIG_SET_FLAG, key, None, 0)


def fsconfig_set_string(fs: int, key: bytes, value: bytes) -> None:
    """Set a parameter to text of at most 255 bytes."""
    _fsconfig(fs, n.FSCONFIG_SET_STRING, key, value, 0)


def fsconfig_set_binary(fs: int, key: bytes, value: bytes) -> None:
    """Set a parameter to a blob."""
    _fsconfig(fs, n.FSCONFIG_SET_BINARY, key, value, len(value))


def fsconfig_set_path(fs: int, key: bytes, path: bytes, dfd: int) -> None:
    """Set a parameter to the object that a path names."""
    _fsconfig(fs, n.FSCONFIG_SET_PATH, key, path, dfd)


def fsconfig_set_path_empty(fs: int, key: bytes, dfd: int) -> None:
    """Set a parameter to the object that a descriptor names."""
    _fsconfig(fs, n.FSCONFIG_SET_PATH_EMPTY, key, b"", dfd)


def fsconfig_set_fd(fs: int, key: bytes, fd: int) -> None:
    """Set a parameter to an open file."""
    _fsconfig(fs, n.FSCONFIG_SET_FD, key, None, fd)


def fsconfig_create(fs: int) -> None:
    """Make the superblock, or find the one that these parameters share."""
    _fsconfig(fs, n.FSCONFIG_CMD_CREATE, None, None, 0)


def fsconfig_create_excl(fs: int) -> None:
    """Make the superblock and fail with EBUSY when it would be a shared one."""
    _fsconfig(fs, n.FSCONFIG_CMD_CREATE_EXCL, None, None, 0)


def fsconfig_reconfigure(fs: int) -> None:
    """Apply the parameters to the live superblock."""
    _fsconfig(fs, n.FSCONFIG_CMD_RECONFIGURE, None, None, 0)


# --- the mount API of strings, and its namespaces ------------------------------------------------------------------
mount: Callable[[bytes | None, bytes, bytes | None, int, bytes | None], int] = _symbol(
    "mount", "source:text target:path fstype:text flags:word=MountFlag data:text"
)
umount2: Callable[[bytes, int], int] = _symbol("umount2", "target:path flags:int=Umount")
pivot_root: Callable[[bytes, bytes], int] = _symbol("pivot_root", "new_root:path put_old:text")
setns: Callable[[int, int], int] = _symbol("setns", "fd nstype:flags=CloneFlag")
unshare: Callable[[int], int] = _symbol("unshare", "flags:flags=CloneFlag")
chroot: Callable[[bytes], int] = _symbol("chroot", "path")
fchdir: Callable[[int], int] = _symbol("fchdir", "fd")
sethostname: Callable[[bytes, int], int] = _symbol("sethostname", "name:text size")

# --- questions -----------------------------------------------------------------------------------------------------
statx: Callable[[int, bytes, int, int, Any], int] = _symbol(
    "statx", "dfd:fd path flags:flags=At mask:flags=Statx buffer:pointer"
)
name_to_handle_at: Callable[..., int] = _symbol("name_to_handle_at", "dfd:fd path handle:pointer id:pointer flags")
statmount: Callable[[Any, Any, int, int], int] = _syscall(
    "statmount", n.SYS_statmount, "request:pointer=MntIdReq buffer:pointer size flags:flags=StatMountFlag"
)
listmount: Callable[[Any, Any, int, int], int] = _syscall(
    "listmount", n.SYS_listmount, "request:pointer=MntIdReq ids:pointer count:size flags:flags"
)
listns: Callable[..., int] = _syscall("listns", n.SYS_listns, "request:pointer ids:pointer count:size flags:flags")
ioctl: Callable[[int, int, Any], int] = _symbol("ioctl", "fd request:word=Ioctl argument:pointer")
ioctl_fd: Callable[[int, int, int], int] = _symbol("ioctl_fd", "fd request:word=Ioctl argument:word", symbol="ioctl")
fanotify_init: Callable[[int, int], int] = _symbol("fanotify_init", "flags:flags=FanInit event_flags:flags")
fanotify_mark: Callable[[int, int, int, int, bytes | None], int] = _symbol(
    "fanotify_mark", "fd flags:flags=FanMark mask:u64=FanMask dfd:fd path"
)

# --- files and directories -----------------------------------------------------------------------------------------
openat: Callable[[int, bytes, int, int], int] = _symbol("openat", "dfd:fd path flags:int=Open mode:int")
openat2: Callable[[int, bytes, Any, int], int] = _syscall(
    "openat2", n.SYS_openat2, "dfd:fd path how:pointer=OpenHow size"
)
mkdirat: Callable[[int, bytes, int], int] = _symbol("mkdirat", "dfd:fd path mode:int")
fchownat: Callable[[int, bytes, int, int, int], int] = _symbol(
    "fchownat", "dfd:fd path uid:flags gid:flags flags:flags=At"
)
read: Callable[[int, Any, int], int] = _symbol("read", "fd buffer:pointer size")
write: Callable[[int, bytes, int], int] = _symbol("write", "fd data:text size")
flock: Callable[[int, int], int] = _symbol("flock", "fd operation:int")

# --- processes and credentials -------------------------------------------------------------------------------------
pidfd_open: Callable[[int, int], int] = _syscall("pidfd_open", n.SYS_pidfd_open, "pid:int flags:flags")
pidfd_getfd: Callable[[int, int, int], int] = _syscall("pidfd_getfd", n.SYS_pidfd_getfd, "pidfd:fd fd:int flags:flags")
pidfd_send_signal: Callable[[int, int, Any, int], int] = _syscall(
    "pidfd_send_signal", n.SYS_pidfd_send_signal, "pidfd:fd signal:int info:pointer flags:flags"
)
clone: Callable[[int, int, int, Any, Any, Any, Any], int] = _symbol(
    "clone", "fn:pointer stack:pointer flags:int=CloneFlag arg:pointer pidfd:pointer tls:pointer ctid:pointer"
)
prctl: Callable[[int, int, int, int, int], int] = _symbol("prctl", "option:int a:word b:word c:word d:word")
capget: Callable[[Any, Any], int] = _symbol("capget", "header:pointer data:pointer")
capset: Callable[[Any, Any], int] = _symbol("capset", "header:pointer data:pointer")


# The three calls of each layer of an overlay, hundreds of times: half of assembling one. So this is a loop of its own
# over a function without a prototype, which takes ints as C ints and bytes as pointers as they are.
_syscall_as_is = _libc["syscall"]
_syscall_as_is.restype = c_long
_HOW_SIZE = c_size_t(24)


def feed_layers(fs: int, key: bytes, at: int, names: list[bytes], how: Any) -> int:  # noqa: ANN401 (ctypes' byref)
    """Open each name below a descriptor and give it to a context: openat2(2), fsconfig(2) SET_FD, close(2).

    Arguments: fs, the context; key; at, the directory; names, topmost first; how, a reference to an OpenHow.
    Gives how many went well: the first that didn't is left for the rows to be tried with, as all are under a watcher.
    """
    if watcher is not None:
        return 0
    call, close = _syscall_as_is, os.close
    open_number, set_number, size = n.SYS_openat2, n.SYS_fsconfig, _HOW_SIZE
    done = 0
    for name in names:
        layer = call(open_number, at, name, how, size)
        if layer < 0:
            break
        try:
            refused = call(set_number, fs, n.FSCONFIG_SET_FD, key, None, layer)
        finally:
            close(layer)
        if refused:
            break
        done += 1
    return done


_statx_as_is = _libc["statx"] if hasattr(_libc, "statx") else None


def all_lie_on(at: int, names: list[bytes], mount_id: int, flags: int, mask: int) -> bool:
    """Say whether every name below a descriptor lies on one mount: statx(2) of each, in a tight loop as above.

    Arguments: at, the directory; names; mount_id, as mask (STATX_MNT_ID or its unique kind) tells it; flags, mask.
    False also when one can't be asked: the rows tell why.
    """
    if watcher is not None or _statx_as_is is None:
        return False
    buffer = StatxBuffer()
    call, pointer = _statx_as_is, byref(buffer)
    return all(call(at, name, flags, mask, pointer) == 0 and buffer.stx_mnt_id == mount_id for name in names)


# setfsuid(2) and setfsgid(2) answer the previous id and have no way to report failure, so they aren't rows:
# asking a second time with the invalid id -1 tells what is in force now.
_setfsuid = CFUNCTYPE(c_int, c_uint, use_errno=True)(("setfsuid", _libc))
_setfsgid = CFUNCTYPE(c_int, c_uint, use_errno=True)(("setfsgid", _libc))
_NO_ID = 0xFFFFFFFF


def set_fs_ids(uid: int, gid: int) -> bool:
    """Set this thread's filesystem ids, and say whether the kernel took both."""
    _setfsgid(gid)
    _setfsuid(uid)
    return (_setfsuid(_NO_ID) & _NO_ID, _setfsgid(_NO_ID) & _NO_ID) == (uid, gid)


# sigprocmask(2) can't fail with these arguments. signal.pthread_sigmask does the same, but makes an enum member of each
# of 64 signals, which takes longer than all the rest of making a user namespace, and may run handlers on its way.
_sigprocmask = CFUNCTYPE(c_int, c_int, c_void_p, c_void_p)(("sigprocmask", _libc))
_SigSet = c_char * 128
_EVERY_SIGNAL = _SigSet.from_buffer_copy(b"\xff" * 128)


def block_signals() -> object:
    """Block every signal in this thread; give what `restore_signals` needs."""
    before = _SigSet()
    _sigprocmask(SIG_BLOCK, _EVERY_SIGNAL, before)
    return before


def restore_signals(before: object) -> None:
    """Block again only what was blocked before."""
    _sigprocmask(SIG_SETMASK, before, None)


def function_address(name: str) -> int:
    """Give the address of a libc function, for clone(2) to run without any Python in the child."""
    function = getattr(_libc, name, None)
    address = None if function is None else cast(function, c_void_p).value
    if address is None:
        raise NotSupported(ENOSYS, name, feature=name, hint=f"this system's libc has no symbol {name}")
    return address


def spawn(name: str, argument: int, flags: int) -> tuple[int, int, object]:
    """Start a libc function as a process that shares this one's memory; give its pid, its pidfd and its stack.

    Arguments: name, a function of the libc that takes one integer; argument; flags, of clone(2), with CLONE_PIDFD.
    The exit signal is 0. Keep the stack until the process has been waited for: it lies in this process's memory, and
    the new one finds even the function's address there, whenever it gets to run.
    """
    stack = create_string_buffer(_STACK)
    pidfd = c_int(-1)
    top = (addressof(stack) + _STACK) & ~15
    pid = clone(function_address(name), top, flags, argument, byref(pidfd), None, None)
    return pid, pidfd.value, stack


def list_ids(request: Any, count: int) -> list[int]:  # noqa: ANN401 (ctypes' byref has no public type)
    """Ask listmount(2) for up to count mount ids."""
    ids = (c_uint64 * count)()
    return ids[: listmount(request, ids, count, 0)]


def bytes_buffer(size: int) -> Any:  # noqa: ANN401 (ctypes' arrays have no public type)
    """Make a buffer that calls can write to; slices of it are bytes."""
    return create_string_buffer(size)


def read_bytes(fd: int, size: int) -> bytes:
    """Read up to size bytes: one read(2)."""
    buffer = create_string_buffer(size)
    length = read(fd, buffer, size)
    return buffer.raw[:length]


reference: Callable[[Any], Any] = byref  # gives a structure's address as an argument for a row
