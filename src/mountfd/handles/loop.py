"""Images as block devices: a loop device held by a descriptor, gone with it unless something is mounted from it."""

from __future__ import annotations

import os
from _thread import allocate_lock
from errno import EAGAIN, EBUSY, ENOENT, ENXIO
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN
from time import monotonic, sleep

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.paths import encode
from mountfd.errors import KernelError, from_errno
from mountfd.handles import loop_nodes as nodes
from mountfd.handles.fd import OwnedFd
from mountfd.handles.loop_setup import Image, clear, configure, describe, shows, stat_of
from mountfd.model.loop import LoopSetup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from mountfd.abi.paths import StrPath
    from mountfd.model.loop import LoopInfo

__all__ = ["AddedLoop", "LoopDevice", "attached"]

_TAKEN = (EBUSY, ENXIO, ENOENT)  # another process has it now; it is about to be freed; it was removed
_TRIES = 128
_STEP, _LONGEST = 0.001, 0.02
_PATIENCE = 10.0

# Threads that take turns don't take each other's free device. It is a courtesy alone: nobody waits for it long.
_turn = allocate_lock()
_TURN_SECONDS = 0.5


class LoopDevice(OwnedFd):
    """A loop device held by a descriptor.

    While it is open the device keeps its image. Once it is closed the device loses it, unless something is mounted
    from it (then with the last mount), it is open elsewhere, or it was attached with autoclear=False.
    """

    __slots__ = ("added", "number")

    def __init__(self, fd: int, *, added: bool = False) -> None:
        """Take over the descriptor of a loop device. Raises KernelError, and closes it, when it is something else.

        Arguments: fd; added, whether the device itself was made for this.
        """
        super().__init__(fd)
        self.added = added
        try:
            self.number = nodes.number_of(fd)
        except BaseException:
            self.close()
            raise

    @property
    def path(self) -> str:
        """The device's path, such as "/dev/loop7"."""
        return f"/dev/loop{self.number}"

    @classmethod
    def attach(  # noqa: PLR0913 (one for each property of a loop device)
        cls,
        image: StrPath | int,
        *,
        device: StrPath | None = None,
        offset: int = 0,
        sizelimit: int = 0,
        read_only: bool = False,
        direct_io: bool = False,
        partscan: bool = False,
        autoclear: bool = True,
        block_size: int = 0,
        reuse: bool = False,
    ) -> Self:
        """Attach an image to a loop device that is free, or to a named one.

        Arguments: image, a regular file or block device, or a descriptor of it, which stays the caller's; device, the
        one to use, made if there is none of that name; offset, where in the image the device begins; sizelimit, its
        largest size (0: to the image's end); direct_io, past the page cache; partscan, whether its partitions get
        devices too; autoclear, whether the device loses the image after the last close; block_size, its logical one
        (0: the kernel's choice); reuse, whether a device is given that shows just these bytes already, with its own
        autoclear.
        Without reuse an image can be on several devices at once, which know nothing of each other: written through
        two of them, it is destroyed. With reuse, a device that shows some of these bytes and others is an error, as
        with mount(8); callers with reuse take turns, so they get one device.
        What is asked for is had, or it is an error: direct I/O that the image's filesystem hasn't (losetup(8) warns,
        containerd doesn't look), writing to an image that can only be read.
        Raises: Busy for an overlapping device, or a named one that is in use; Denied when the image can't be written,
        or loop devices are not for this user; Missing for no image, or no loop devices; NotSupported for direct I/O;
        InvalidSpec for a number that can't be, or a descriptor that isn't open for what is asked.
        Call: ioctl(2) LOOP_CONFIGURE, Linux 5.8, before that LOOP_SET_FD and LOOP_SET_STATUS64; loop(4).
        """
        setup = LoopSetup(
            offset=offset,
            sizelimit=sizelimit,
            read_only=read_only,
            direct_io=direct_io,
            partscan=partscan,
            autoclear=autoclear,
            block_size=block_size,
        )
        with Image(image, read_only=read_only) as held:
            if not reuse:
                return cls(_to_free(held, setup)) if device is None else cls._named(device, held, setup)
            with nodes.control() as control:
                _wait_for_turn(control)
                try:
                    if device is not None:
                        return cls._named(device, held, setup, reuse=True)
                    found = _reusable(held, setup)
                    return cls(_to_free(held, setup) if found is None else found)
                finally:  # said, because a child that was forked meanwhile has this open file too
                    calls.flock(control.fileno(), LOCK_UN)

    @classmethod
    def _named(cls, device: StrPath, image: Image, setup: LoopSetup, *, reuse: bool = False) -> Self:
        number = nodes.named(os.fsdecode(device))
        added = number is not None and not os.path.lexists(device) and nodes.add(number)
        try:
            return cls(_to_named(device, number, image, setup, reuse=reuse), added=added)
        except BaseException:
            if added and number is not None:
                nodes.remove(number)
            raise

    @classmethod
    def open(cls, path: StrPath) -> Self:
        """Take hold of a loop device that exists, whether or not it has an image.

        Arguments: path, of the device.
        Raises: Missing, Denied; KernelError with ENOTBLK or ENOTTY for what is no loop device.
        Call: openat(2), for reading only: udev doesn't take it for a change when it is closed.
        """
        return cls(nodes.open_path(path, os.O_RDONLY))

    def info(self) -> LoopInfo:
        """Tell what the device has now.

        Raises: KernelError with ENXIO when it has no image.
        Call: ioctl(2) LOOP_GET_STATUS64; /sys/block/loopN/loop/backing_file, because the ioctl cuts the name.
        """
        info = describe(self.fileno(), self.number)
        if info is None:
            raise self._empty()
        return info

    def detach(self) -> None:
        """Take the image away from the device now, or at its last close if it is open elsewhere or mounted.

        Raises: KernelError with ENXIO when it has no image.
        Call: ioctl(2) LOOP_CLR_FD.
        """
        try:
            clear(self.fileno())
        except KernelError as error:
            if error.errno == ENXIO:
                raise self._empty() from None
            error.explain(filename=self.path)
            raise

    def _empty(self) -> KernelError:
        return from_errno(ENXIO, "ioctl", filename=self.path, hint="this loop device has no image")

    def __repr__(self) -> str:
        """Name the device and the descriptor."""
        state = "closed" if self.closed else f"fd={self.fileno()}"
        return f"<mountfd.LoopDevice {getattr(self, 'number', '?')} {state}>"


class AddedLoop(OwnedFd):
    """A loop device that was itself made for a mount: when this is closed it goes, unless it is used.

    Arguments: fd, of /dev/loop-control; number, of the device, or None where another one sees to it.
    """

    __slots__ = ("number",)

    def __init__(self, fd: int, number: int | None = None) -> None:
        """Take over the descriptor."""
        super().__init__(fd)
        self.number = number

    def close(self) -> None:
        """Let the device go."""
        number, self.number = getattr(self, "number", None), None
        super().close()
        if number is not None:
            try:
                nodes.remove(number)
            except KernelError as error:
                calls.remark(f"the loop device {number} that was made stays: {error}")


def attached(image: StrPath | int) -> list[LoopInfo]:
    """List the loop devices that have this image, by whatever name they were given it.

    Arguments: image, a path or an open descriptor.
    A file is known by its inode, so its hard links count too, and a new file of an old name doesn't. Each device with
    an image is opened for a moment, which takes root or the right that its node gives.
    Raises: Missing when there is no image; Denied when a loop device can't be opened.
    Call: stat(2); openat(2) and ioctl(2) LOOP_GET_STATUS64 of each loop device.
    """
    if isinstance(image, int):
        about = stat_of(image)
    else:
        with OwnedFd(calls.openat(n.AT_FDCWD, encode(image, "image"), os.O_PATH | os.O_CLOEXEC, 0)) as held:
            about = os.fstat(held.fileno())
    found = []
    for held, info in _holding(about):
        held.close()
        found.append(info)
    return found


def _holding(about: os.stat_result) -> Iterator[tuple[OwnedFd, LoopInfo]]:
    """Give each device that has a file, open: for as long as it is, it keeps the file."""
    for number in nodes.bound():
        try:
            held = OwnedFd(nodes.open_number(number, os.O_RDONLY, make=False))
        except KernelError as error:
            if error.errno in (ENOENT, ENXIO):
                continue  # it lost its image, or was removed, a moment ago
            raise
        try:
            info = describe(held.fileno(), number)
        except BaseException:
            held.close()
            raise
        if info is None or not shows(info, about):
            held.close()
        else:
            yield held, info


def _to_free(image: Image, setup: LoopSetup) -> int:
    """Attach to a device that is free. Between learning its number and having it, another process can be faster."""
    with nodes.control() as control:
        for attempt in range(_TRIES):
            ours = _turn.acquire(timeout=_TURN_SECONDS)
            try:
                return _configured(nodes.open_number(nodes.free(control), _access(setup)), image, setup)
            except KernelError as error:
                if error.errno not in _TAKEN:
                    raise
                if attempt == _TRIES - 1:
                    error.explain(hint="each free loop device was taken by others at once, or is held open with O_EXCL")
                    raise
            finally:
                if ours:
                    _turn.release()
            _pause(attempt)
    raise AssertionError  # the last try has raised


def _to_named(device: StrPath, wanted: int | None, image: Image, setup: LoopSetup, *, reuse: bool) -> int:
    if wanted is not None and not os.path.lexists(device):
        fd = nodes.open_number(wanted, os.O_RDONLY)
    else:
        fd = nodes.open_path(device, os.O_RDONLY)
    with OwnedFd(fd) as held:  # for as long as it is open, it keeps the image that it has
        number = nodes.number_of(fd)
        info = describe(fd, number)
        if info is None:
            return _configured(nodes.open_number(number, _access(setup)), image, setup)
        if not shows(info, image.about):
            raise _busy(info, "it has another image")
        if not reuse:
            raise _busy(info, "it has this image already")
        if not info.shows_same(setup):
            raise _busy(info, "it shows other bytes of this image")
        return _taken_over(held, info, setup)


def _reusable(image: Image, setup: LoopSetup) -> int | None:
    """Open the device that shows these bytes already, if there is one; one that shows others too is an error."""
    same: tuple[OwnedFd, LoopInfo] | None = None
    overlapping: LoopInfo | None = None
    try:
        for held, info in _holding(image.about):
            better = same is None or (same[1].read_only and not info.read_only)
            if info.shows_same(setup) and better:
                if same is not None:
                    same[0].close()
                same = held, info
                continue
            held.close()
            if not info.shows_same(setup) and info.overlaps(setup):
                overlapping = info
        if same is not None:
            return _taken_over(*same, setup)
    finally:
        if same is not None:
            same[0].close()
    if overlapping is not None:
        raise _busy(overlapping, "overlapping loop device: it shows some of the same bytes of this image, and others")
    return None


def _taken_over(held: OwnedFd, info: LoopInfo, setup: LoopSetup) -> int:
    """Open a device that is held already; it must be all that is asked for."""
    if info.read_only and not setup.read_only:
        raise _busy(info, "it has this image already, and read-only: ask for `ro`, or detach it first")
    for word in ("direct_io", "partscan"):
        if getattr(setup, word) and not getattr(info, word):
            raise _busy(info, f"it has this image already, without {word}")
    size = nodes.attribute(info.number, b"queue/logical_block_size")
    if setup.block_size and size is not None and setup.block_size != int(size):
        raise _busy(info, f"it has this image already, in blocks of {int(size)} bytes")
    if setup.read_only:
        return held.release()
    return nodes.open_number(info.number, os.O_RDWR)


def _configured(fd: int, image: Image, setup: LoopSetup) -> int:
    try:
        configure(fd, image, setup)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _access(setup: LoopSetup) -> int:
    return os.O_RDONLY if setup.read_only else os.O_RDWR


def _busy(info: LoopInfo, why: str) -> KernelError:
    return from_errno(EBUSY, "ioctl", filename=info.path, hint=f"{info.path} ({info.backing_file}): {why}")


def _pause(attempt: int) -> None:
    """Wait a random while, longer with each attempt: who collided once shall not do it again in step."""
    sleep(min(_STEP * attempt, _LONGEST) * os.urandom(1)[0] / 255)


def _wait_for_turn(control: OwnedFd) -> None:
    """Lock out every process that looks for a device to reuse: a lock on the open file of /dev/loop-control."""
    deadline, attempt = monotonic() + _PATIENCE, 0
    while True:
        try:
            calls.flock(control.fileno(), LOCK_EX | LOCK_NB)
        except KernelError as error:
            if error.errno != EAGAIN or monotonic() > deadline:
                error.explain(hint="another process holds a lock on /dev/loop-control", filename="/dev/loop-control")
                raise
        else:
            return
        attempt += 1
        _pause(attempt)
