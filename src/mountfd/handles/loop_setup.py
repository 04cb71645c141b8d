"""Put an image on a loop device that is open: in one call, or in up to four on kernels before 5.8.

    LOOP_CONFIGURE                                                                       all or nothing
    LOOP_SET_FD, LOOP_SET_BLOCK_SIZE, LOOP_SET_STATUS64, LOOP_SET_DIRECT_IO              LOOP_CLR_FD on failure

A process that is killed between the first and the third of the four leaves a device that has its image for ever.
"""

from __future__ import annotations

import os
import stat
from errno import EACCES, EAGAIN, EBADF, EINVAL, EISDIR, ENOSYS, ENOTBLK, ENOTTY, ENXIO, EPERM, EROFS, ETXTBSY
from fcntl import F_DUPFD_CLOEXEC, F_GETFL, fcntl
from time import sleep

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.layouts import LoopConfig, LoopInfo64
from mountfd.abi.paths import encode
from mountfd.abi.routes import forced
from mountfd.errors import InvalidSpec, KernelError, from_errno, unsupported
from mountfd.handles import loop_nodes as nodes
from mountfd.handles.fd import OwnedFd
from mountfd.model.loop import LoopInfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.abi.paths import StrPath
    from mountfd.model.loop import LoopSetup

__all__ = ["Image", "clear", "configure", "describe", "shows", "stat_of"]

_WITHOUT_CONFIGURE = (EINVAL, ENOTTY, ENOSYS)
_SETTABLE = n.LO_FLAGS_AUTOCLEAR | n.LO_FLAGS_PARTSCAN
_TRIES = 64
_KINDS = "an image is a regular file or a block device"


class Image(OwnedFd):
    """An image, open as a loop device needs it.

    Arguments: image, a path, or a descriptor that stays the caller's; read_only.
    Attributes: name, its path where that is known; about, what stat(2) says of it.
    """

    __slots__ = ("about", "name")

    def __init__(self, image: StrPath | int, *, read_only: bool) -> None:
        """Open it, and see that it can be one."""
        if isinstance(image, int):
            fd, self.name = _borrowed(image, read_only=read_only)
        else:
            fd, self.name = _opened(encode(image, "image"), read_only=read_only), os.fsencode(image)
        super().__init__(fd)
        self.about = os.fstat(fd)
        mode = self.about.st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            self.close()
            errno = EISDIR if stat.S_ISDIR(mode) else ENOTBLK
            raise from_errno(errno, "openat", (self.name,), filename=os.fsdecode(self.name), hint=_KINDS)


def configure(fd: int, image: Image, setup: LoopSetup) -> None:
    """Put the image on the device; when that fails, the device is as free as before.

    Raises: Busy when the device has an image already; NotSupported when direct I/O is wanted and can't be had.
    """
    try:
        if _status_is_forced() or not _configure(fd, image, setup):
            _set_status(fd, image, setup)
        elif setup.direct_io:
            _check_direct_io(fd, image)
    except KernelError as error:
        error.explain(filename=os.fsdecode(image.name))
        raise


def clear(fd: int) -> None:
    """Take the image away. Call: ioctl(2) LOOP_CLR_FD."""
    calls.ioctl_fd(fd, n.LOOP_CLR_FD, 0)


def describe(fd: int, number: int) -> LoopInfo | None:
    """Tell what the device of that number, open at fd, has; None when it has nothing."""
    try:
        status = _status(fd)
    except KernelError as error:
        if error.errno == ENXIO:
            return None
        raise
    name, flags = nodes.attribute(number, b"loop/backing_file"), status.lo_flags
    return LoopInfo(
        number,
        None if name is None else os.fsdecode(name),
        dev=_numbers(status.lo_device),
        inode=status.lo_inode,
        rdev=_numbers(status.lo_rdevice),
        offset=status.lo_offset,
        sizelimit=status.lo_sizelimit,
        read_only=bool(flags & n.LO_FLAGS_READ_ONLY),
        autoclear=bool(flags & n.LO_FLAGS_AUTOCLEAR),
        direct_io=bool(flags & n.LO_FLAGS_DIRECT_IO),
        partscan=bool(flags & n.LO_FLAGS_PARTSCAN),
    )


def stat_of(image: int) -> os.stat_result:
    """Ask what an image's descriptor is open on."""
    try:
        return os.fstat(image)
    except OSError as error:
        hint = f"the image {image} is no open descriptor"
        raise from_errno(error.errno or EBADF, "fstat", (image,), hint=hint) from None


def shows(info: LoopInfo, about: os.stat_result) -> bool:
    """Say whether that file is the device's image: the same inode, or the same disk, by whatever name."""
    if stat.S_ISBLK(about.st_mode):
        return info.rdev == _numbers(about.st_rdev)
    return (info.dev, info.inode) == (_numbers(about.st_dev), about.st_ino)


def _opened(raw: bytes, *, read_only: bool) -> int:
    # Nonblocking until it is known what it is: to open a FIFO could take for ever.
    flags = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | getattr(os, "O_LARGEFILE", 0)
    try:
        fd = int(calls.openat(n.AT_FDCWD, raw, flags | (os.O_RDONLY if read_only else os.O_RDWR), 0))
    except KernelError as error:
        if error.errno in (EISDIR, ENXIO):
            error.explain(hint=_KINDS)
        elif error.errno in (EACCES, EPERM, EROFS, ETXTBSY) and not read_only:
            error.explain(hint="it can't be opened for writing: if it may be read, ask for read_only=True")
        raise
    os.set_blocking(fd, True)
    return fd


def _borrowed(fd: int, *, read_only: bool) -> tuple[int, bytes]:
    stat_of(fd)
    try:
        flags = fcntl(fd, F_GETFL)
        name = os.fsencode(os.readlink(f"/proc/self/fd/{fd}")) if os.path.exists("/proc/self") else b"fd %d" % fd
        own = fcntl(fd, F_DUPFD_CLOEXEC, 3)
    except OSError as error:
        raise from_errno(error.errno or EBADF, "fcntl", (fd,)) from None
    access = flags & os.O_ACCMODE
    if flags & os.O_PATH or access == os.O_WRONLY or (access == os.O_RDONLY and not read_only):
        os.close(own)
        how = "with O_PATH" if flags & os.O_PATH else f"for {'reading' if access == os.O_RDONLY else 'writing'} only"
        wanted = "reading" if read_only else "reading and writing, or read_only=True"
        raise InvalidSpec(
            f"descriptor {fd} of the image {os.fsdecode(name)!r} is open {how}: it takes {wanted}", part="image"
        )
    return own, name


def _configure(fd: int, image: Image, setup: LoopSetup) -> bool:
    """Do it in one call, and say whether this kernel can; what it finds wrong otherwise, the four calls will tell."""
    config = LoopConfig(image.fileno(), setup.block_size, _wanted(image, setup))
    try:
        calls.ioctl(fd, n.LOOP_CONFIGURE, calls.reference(config))
    except KernelError as error:
        if error.errno in _WITHOUT_CONFIGURE:
            return False
        raise
    return True


def _check_direct_io(fd: int, image: Image) -> None:
    """See that it is on: LOOP_CONFIGURE leaves it off without a word where it can't be had."""
    try:
        on = _status(fd).lo_flags & n.LO_FLAGS_DIRECT_IO
    except BaseException as error:
        _clear_after(fd, error)
        raise
    if not on:
        refusal = _no_direct_io(image)
        _clear_after(fd, refusal)
        raise refusal


def _set_status(fd: int, image: Image, setup: LoopSetup) -> None:
    calls.remark("loop: route status, LOOP_SET_FD and LOOP_SET_STATUS64")
    calls.ioctl_fd(fd, n.LOOP_SET_FD, image.fileno())
    try:
        if setup.block_size:
            calls.ioctl_fd(fd, n.LOOP_SET_BLOCK_SIZE, setup.block_size)
        wanted = _wanted(image, setup)
        # Read-only comes from how the device is open, direct I/O from a call of its own.
        wanted.lo_flags &= _SETTABLE
        _patiently_set(fd, wanted)
        if setup.direct_io:
            try:
                calls.ioctl_fd(fd, n.LOOP_SET_DIRECT_IO, 1)
            except KernelError as error:
                if error.errno == EINVAL:
                    raise _no_direct_io(image) from None
                raise
    except BaseException as error:
        _clear_after(fd, error)
        raise


def _patiently_set(fd: int, wanted: LoopInfo64) -> None:
    for attempt in range(_TRIES):
        try:
            calls.ioctl(fd, n.LOOP_SET_STATUS64, calls.reference(wanted))
        except KernelError as error:
            # EAGAIN: somebody, often udev, has just read from the device what would no longer be true.
            if error.errno != EAGAIN or attempt == _TRIES - 1:
                raise
            sleep(0.001 * attempt)
        else:
            return


def _wanted(image: Image, setup: LoopSetup) -> LoopInfo64:
    flags = n.LO_FLAGS_READ_ONLY if setup.read_only else 0
    flags |= n.LO_FLAGS_AUTOCLEAR if setup.autoclear else 0
    flags |= n.LO_FLAGS_PARTSCAN if setup.partscan else 0
    flags |= n.LO_FLAGS_DIRECT_IO if setup.direct_io else 0
    name = image.name[: n.LO_NAME_SIZE - 1]
    return LoopInfo64(lo_offset=setup.offset, lo_sizelimit=setup.sizelimit, lo_flags=flags, lo_file_name=name)


def _status(fd: int) -> LoopInfo64:
    status = LoopInfo64()
    calls.ioctl(fd, n.LOOP_GET_STATUS64, calls.reference(status))
    return status


def _clear_after(fd: int, error: BaseException) -> None:
    try:
        clear(fd)
    except KernelError as second:
        error.add_note(f"and the loop device couldn't be freed again: {second}")


def _no_direct_io(image: Image) -> KernelError:
    why = (
        "the filesystem that the image lies on has no direct I/O (tmpfs), or the image's offset isn't a multiple of "
        "that disk's block size"
    )
    error = unsupported("direct I/O of a loop device", why)
    error.explain(filename=os.fsdecode(image.name))
    return error


def _numbers(device: int) -> tuple[int, int]:
    return os.major(device), os.minor(device)


def _status_is_forced() -> bool:
    route = forced("loop")
    if route not in (None, "configure", "status"):
        raise InvalidSpec(f"MOUNTFD_ROUTE: loop has no route {route!r}; it has configure, status", part="MOUNTFD_ROUTE")
    return route == "status"
