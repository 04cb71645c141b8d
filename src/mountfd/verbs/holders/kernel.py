"""What the kernel itself has open: files behind loop devices and erofs, swap files.

A name alone may mean several mounts: of several namespaces. But the kernel writes the names of loop devices' and swap
files by walking from the file up to the reader's root; so to a reader whose root is the target's they look different
exactly when the file was opened through the target, or through what stands on it.
"""

from __future__ import annotations

import os
from errno import ENXIO
from stat import S_ISREG
from struct import Struct

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.errors import KernelError
from mountfd.handles.fd import OwnedFd
from mountfd.model.holder import Holder
from mountfd.model.mountinfo import unescape
from mountfd.verbs.enter import on_thread
from mountfd.verbs.holders.landscape import leads_to
from mountfd.verbs.holders.processes import Lens
from mountfd.verbs.query.oldway import OPEN_PATH
from mountfd.verbs.query.place import HERE, NOFOLLOW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountfd.verbs.holders.landscape import Landscape

__all__ = ["kernel_holders"]

_LOOP_GET_STATUS64 = 0x4C05
_STATUS_SIZE = 232
_DEVICE_AND_INODE = Struct("=QQ")
_OPEN_QUIETLY = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_SWAPS = b"/proc/swaps"
_CLONE_FS = 0x200
_DETACHED = (0, 0)


def kernel_holders(land: Landscape, lens: Lens) -> Iterator[Holder]:
    """Give loop devices, file-backed filesystems and swap files that hold the target or its filesystem."""
    yield from _loops(land, lens)
    for index, raw in enumerate(_swap_files()):
        number = _resolved(lens, raw, None)
        if number:
            holder = Holder("swap", blocks=None, path=os.fsdecode(raw))
            yield from _weighed(land, holder, lens.dev, number, (_SWAPS, index))
    for number, row in land.rows.items():
        if row.fstype == "erofs" and (row.source or "").startswith("/"):
            raw = os.fsencode(row.source or "")
            resolved = _resolved(lens, raw, None)
            if resolved:
                holder = Holder("image", blocks=None, path=row.source, point=row.point, ns_id=land.ns_of(number))
                yield from _weighed(land, holder, lens.dev, resolved)


def _weighed(  # noqa: PLR0913 (what is known of it)
    land: Landscape,
    holder: Holder,
    dev: tuple[int, int] | None,
    resolved: int,
    source: tuple[bytes, int] | None = None,
    *,
    is_sure: bool = True,
) -> Iterator[Holder]:
    """Give a holder with the verdict about it, unless it has nothing to do with the target's filesystem.

    Arguments: land; holder; dev, of its file; resolved, the mount that its name leads to; source, the file that the
    kernel writes the name into, and which of the names there it is; is_sure, whether the name is known to lead to the
    file and not to another one of that name.
    """
    row = land.rows.get(resolved)
    filesystem = dev if row is None else row.dev
    if filesystem is None:  # nothing but a name that leads nowhere
        below = any(leads_to(land.rows[number].point, holder.path) for number in land.along)
        verdict = None if below else False
    else:
        verdict = land.verdict(filesystem, holder.path, resolved)
        verdict = None if verdict and not is_sure else verdict
    if verdict is None and source is not None and filesystem is not None:
        verdict = _sharpened(land, source, resolved)
    if verdict is not False or (filesystem is not None and filesystem == land.target.dev):
        misleading = verdict is False and resolved in land.along  # the name is that of another namespace
        number = None if misleading else resolved or None
        yield Holder(**{**holder.as_dict(), "blocks": verdict, "mount_id": number})  # type: ignore[arg-type]


def _resolved(lens: Lens, raw: bytes, identity: tuple[int, int] | None) -> int:
    """Give the mount that a file's name leads to from here; 0 when that is no file, or another than the one meant."""
    try:
        if not lens.look(raw, NOFOLLOW) or not S_ISREG(lens.mode):
            return 0
    except KernelError as error:
        calls.remark(f"holders: {error}")  # a place on the way that we may not walk through
        return 0
    seen = os.makedev(*lens.dev), lens.inode
    return lens.mount_id if identity is None or identity == seen else 0


# --- which mount a name means --------------------------------------------------------------------------------------
def _sharpened(land: Landscape, source: tuple[bytes, int], resolved: int) -> bool | None:
    """Find out whether a file was opened through the target: compare its name with what a reader in there is told."""
    try:
        here, there = on_thread(lambda: _both_names(land, source))
    except KernelError as error:
        calls.remark(f"holders: a root at the mount can't be had ({error})")
        return None
    if here is None or there is None or land.target.point == "/":
        return None
    if here == there:
        # Not through the target. What is unmounted along with it stands in another place or namespace.
        return None if len(land.along) > 1 else False
    return resolved in land.along or not resolved


def _both_names(land: Landscape, source: tuple[bytes, int]) -> tuple[bytes | None, bytes | None]:
    path, index = source
    fd = calls.openat(n.AT_FDCWD, path, os.O_RDONLY | os.O_CLOEXEC, 0)
    try:
        here = _name_in(fd, index)
        calls.unshare(_CLONE_FS)
        root = calls.openat(n.AT_FDCWD, os.fsencode(land.target.point or ""), OPEN_PATH | os.O_DIRECTORY, 0)
        try:
            lens = Lens(unique=land.unique)
            if not lens.look(b"", HERE, root) or not lens.mount_id or lens.mount_id != land.number:
                return here, None  # it is covered
            return here, _name_within(root, fd, index)
        finally:
            os.close(root)
    finally:
        os.close(fd)


def _name_within(root: int, fd: int, index: int) -> bytes | None:
    """Read a name with another root; this thread leaves it again, since its end comes a moment after its last word."""
    with OwnedFd(calls.openat(n.AT_FDCWD, b"/", OPEN_PATH | os.O_DIRECTORY, 0)) as home:
        calls.fchdir(root)
        try:
            calls.chroot(b".")
            try:
                return _name_in(fd, index)
            finally:
                calls.fchdir(home.fileno())
                calls.chroot(b".")
        finally:
            calls.fchdir(home.fileno())


def _name_in(fd: int, index: int) -> bytes | None:
    os.lseek(fd, 0, os.SEEK_SET)
    with open(fd, "rb", closefd=False) as file:
        data = file.read()
    if index < 0:
        return data
    names = _names(data)
    return names[index] if index < len(names) else None


# --- loop devices --------------------------------------------------------------------------------------------------
def _loops(land: Landscape, lens: Lens) -> Iterator[Holder]:
    wanted = {*land.devs, land.target.dev}
    others = {row.dev for row in land.rows.values()} - wanted
    for name in _listdir("/sys/block"):
        if not name.startswith("loop"):
            continue
        raw = _file_of(name)
        if raw is None:
            continue
        identity = _identity(f"/dev/{name}".encode())
        if identity == _DETACHED:
            continue
        dev = None if identity is None else (os.major(identity[0]), os.minor(identity[0]))
        # The way to a file of another filesystem may lead through a dead server. btrfs tells numbers of its own.
        if dev in others:
            continue
        number = _resolved(lens, raw, identity)
        dev = lens.dev if number else dev
        holder = Holder("loop", blocks=None, device=f"/dev/{name}", path=os.fsdecode(raw))
        source = b"/sys/block/%s/loop/backing_file" % name.encode()
        yield from _weighed(land, holder, dev, number, (source, -1), is_sure=identity is not None)


def _file_of(name: str) -> bytes | None:
    try:
        with open(f"/sys/block/{name}/loop/backing_file", "rb") as file:
            return file.read().removesuffix(b"\n") or None
    except FileNotFoundError:
        return None  # it has no file now
    except OSError as error:
        if error.errno != ENXIO:
            raise
        return None


def _identity(device: bytes) -> tuple[int, int] | None:
    """Give device number and inode of a loop device's file; None where it can't be asked, zeros where it has none."""
    try:
        fd = calls.openat(n.AT_FDCWD, device, _OPEN_QUIETLY, 0)
    except KernelError as error:
        calls.remark(f"holders: {error}: {os.fsdecode(device)}'s file is known by its name alone")
        return None
    try:
        answer = calls.bytes_buffer(_STATUS_SIZE)
        calls.ioctl(fd, _LOOP_GET_STATUS64, answer)
    except KernelError as error:
        if error.errno == ENXIO:  # it was detached meanwhile
            return _DETACHED
        calls.remark(f"holders: {error}: {os.fsdecode(device)}'s file is known by its name alone")
        return None
    finally:
        os.close(fd)
    return _DEVICE_AND_INODE.unpack_from(answer.raw)


# --- swap ----------------------------------------------------------------------------------------------------------
def _swap_files() -> list[bytes]:
    try:
        with open(_SWAPS, "rb") as file:
            return _names(file.read())
    except (FileNotFoundError, PermissionError):
        return []  # a kernel without swap, or a /proc of processes alone


def _names(data: bytes) -> list[bytes]:
    r"""Read the files in /proc/swaps: name, type, size, used, priority; a blank in a name is \040."""
    rows = (line.split() for line in data.split(b"\n")[1:])
    return [unescape(row[0]) for row in rows if len(row) > 1 and row[1] == b"file"]


def _listdir(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return []
