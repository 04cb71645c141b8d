"""Which loop devices there are, and their nodes in /dev.

The kernel makes a node in devtmpfs for each device, at once. A container that was given /dev/loop-control alone has no
devtmpfs: a node that is missing there is made, as udev would do it, where this process may.
"""

from __future__ import annotations

import os
import stat
from _thread import get_native_id
from errno import EACCES, EBUSY, EEXIST, ENODEV, ENOENT, ENOTBLK, ENOTTY, ENXIO, EPERM

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.paths import encode
from mountfd.errors import KernelError, Missing, from_errno
from mountfd.handles.fd import OwnedFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.abi.paths import StrPath

__all__ = [
    "add",
    "attribute",
    "bound",
    "control",
    "free",
    "named",
    "number_of",
    "open_number",
    "open_path",
    "remove",
]

_CONTROL = b"/dev/loop-control"
_CTL_REMOVE = 0x4C81  # LOOP_CTL_REMOVE
_NODE_MODE = 0o600
_ATTRIBUTE = 4096
_NO_MODULE = "this kernel has no loop devices, or its module `loop` isn't there to be loaded"
_NOT_GIVEN = (
    "loop devices are for root; a container needs /dev/loop-control and the devices /dev/loop* (block, major 7)"
)


def control() -> OwnedFd:
    """Open /dev/loop-control, through which free devices are found. Needs root, or what its node's mode says."""
    try:
        return OwnedFd(calls.openat(n.AT_FDCWD, _CONTROL, os.O_RDWR | os.O_CLOEXEC, 0))
    except KernelError as error:
        if error.errno in (ENOENT, EACCES, EPERM):
            error.explain(hint=_NOT_GIVEN)
        elif error.errno in (ENODEV, ENXIO):
            error.explain(hint=_NO_MODULE)
        raise


def free(control: OwnedFd) -> int:
    """Give the number of a device that has no image now; another process may take it at any time."""
    return int(calls.ioctl_fd(control.fileno(), n.LOOP_CTL_GET_FREE, 0))


def add(number: int) -> bool:
    """Make the device of that number unless it exists; say whether it was made."""
    with control() as held:
        try:
            calls.ioctl_fd(held.fileno(), n.LOOP_CTL_ADD, number)
        except KernelError as error:
            if error.errno != EEXIST:
                error.explain(filename=f"/dev/loop{number}")
                raise
            return False
    return True


def remove(number: int) -> None:
    """Remove a device that was made, and its node, unless it is used. Call: ioctl(2) LOOP_CTL_REMOVE."""
    with control() as held:
        try:
            calls.ioctl_fd(held.fileno(), _CTL_REMOVE, number)
        except KernelError as error:
            if error.errno not in (EBUSY, ENODEV):
                error.explain(filename=f"/dev/loop{number}")
                raise
            return  # it is used, so it stays; or somebody else has removed it
    try:
        os.unlink(f"/dev/loop{number}")  # devtmpfs has done it already; elsewhere it is a node that was made here
    except FileNotFoundError:
        return
    except OSError as error:
        calls.remark(f"the node /dev/loop{number} stays: {error.strerror}")


def open_number(number: int, access: int, *, make: bool = True) -> int:
    """Open the device of that number; access is O_RDONLY or O_RDWR; make, whether a missing node is made for good.

    Raises: Missing or KernelError with ENXIO where the device has just been removed.
    """
    path = b"/dev/loop%d" % number
    flags = access | os.O_CLOEXEC
    try:
        fd = calls.openat(n.AT_FDCWD, path, flags, 0)
    except Missing:
        if make:
            _make_node(path, number)
            fd = _open(path, flags)
        else:
            fd = _open_unseen(number, flags)
    except KernelError as error:
        raise _explained(error) from None
    return _checked(fd, path, number)


def open_path(path: StrPath, access: int) -> int:
    """Open whatever is at a path, and see that it is a loop device."""
    raw = encode(path, "device")
    # Nonblocking until it is known what it is: to open a FIFO could take for ever.
    fd = _checked(_open(raw, access | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY), raw, None)
    os.set_blocking(fd, True)
    return fd


def number_of(fd: int, path: bytes = b"") -> int:
    """Give the number of the loop device that a descriptor is open on. Raises KernelError for anything else."""
    about = os.fstat(fd)
    name = os.fsdecode(path) or None
    if not stat.S_ISBLK(about.st_mode):
        raise from_errno(ENOTBLK, "openat", (path,), filename=name, hint="that is not a block device")
    major, minor = os.major(about.st_rdev), os.minor(about.st_rdev)
    if major == n.LOOP_MAJOR:
        # With the parameter max_part of its module a device's minor is a multiple of its number, so sysfs is asked.
        try:
            word = os.path.basename(os.readlink(f"/sys/dev/block/{major}:{minor}"))
        except OSError:
            return minor
        if digits := _number_in(word):
            return int(digits)
    raise from_errno(ENOTTY, "openat", (path,), filename=name, hint="that is a block device, but not a loop device")


def bound() -> list[int]:
    """List the numbers of the devices that have an image; where there is no sysfs, of all that have a node."""
    try:
        found = filter(None, map(_number_in, os.listdir("/sys/block")))
        return sorted(int(digits) for digits in found if os.path.exists(f"/sys/block/loop{digits}/loop"))
    except OSError:
        return sorted(int(digits) for digits in filter(None, map(_number_in, os.listdir("/dev"))))


def named(path: str) -> int | None:
    """Give the number in a path such as /dev/loop7; None for any other."""
    digits = _number_in(path.removeprefix("/dev/")) if path.startswith("/dev/") else ""
    return int(digits) if digits else None


def attribute(number: int, name: bytes) -> bytes | None:
    """Read an attribute of a device out of sysfs, without the newline at its end; None where it isn't told."""
    try:
        fd = calls.openat(n.AT_FDCWD, b"/sys/block/loop%d/%b" % (number, name), os.O_RDONLY | os.O_CLOEXEC, 0)
    except KernelError:
        return None  # no sysfs here, or the image went meanwhile
    try:
        return os.read(fd, _ATTRIBUTE).removesuffix(b"\n")
    except OSError:
        return None  # a path that is longer than sysfs can tell
    finally:
        os.close(fd)


def _number_in(name: str) -> str:
    """Give the digits of a loop device's name, as the kernel writes them; "" for any other name."""
    digits = name[4:]
    return (
        digits if name[:4] == "loop" and digits.isascii() and digits.isdecimal() and str(int(digits)) == digits else ""
    )


def _open(path: bytes, flags: int) -> int:
    try:
        return int(calls.openat(n.AT_FDCWD, path, flags, 0))
    except KernelError as error:
        raise _explained(error) from None


def _open_unseen(number: int, flags: int) -> int:
    """Open a device without a node, to look at it: the node that takes is gone again afterwards."""
    path = b"/dev/.loop%d-mountfd-%d" % (number, get_native_id())
    _make_node(path, number)
    try:
        return _open(path, flags)
    finally:
        os.unlink(path)


def _explained(error: KernelError) -> KernelError:
    if error.errno in (EACCES, EPERM):
        error.explain(hint=_NOT_GIVEN)
    return error


def _checked(fd: int, path: bytes, number: int | None) -> int:
    try:
        found = number_of(fd, path)
    except BaseException:
        os.close(fd)
        raise
    if number in (None, found):
        return fd
    os.close(fd)
    hint = f"this node belongs to loop device {found}: somebody made it with a wrong number"
    raise from_errno(ENODEV, "openat", (path,), filename=os.fsdecode(path), hint=hint)


def _make_node(path: bytes, number: int) -> None:
    major, _, minor = (attribute(number, b"dev") or b"").partition(b":")
    if not minor and os.path.exists("/sys/block"):
        raise from_errno(ENOENT, "openat", (path,), filename=os.fsdecode(path), hint="there is no such loop device")
    device = os.makedev(int(major), int(minor)) if minor else os.makedev(n.LOOP_MAJOR, number)
    try:
        os.mknod(path, stat.S_IFBLK | _NODE_MODE, device)
    except FileExistsError:
        return  # udev, or another thread, was faster
    except OSError as error:
        hint = f"the loop device's node isn't there, and can't be made; {_NOT_GIVEN}"
        raise from_errno(error.errno or EPERM, "mknod", (path,), filename=os.fsdecode(path), hint=hint) from None
