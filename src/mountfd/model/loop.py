"""What a loop device shows of its image, and how an image shall be shown."""

from __future__ import annotations

from mountfd.errors import InvalidSpec

__all__ = ["LoopInfo", "LoopSetup"]

_LARGEST = (1 << 63) - 1
_BLOCK_SIZES = (512, 65536)


class LoopSetup:
    """How a loop device shall show its image; the words are those of `LoopDevice.attach`.

    Raises: InvalidSpec for an offset, size limit or block size that no device can have.
    """

    __slots__ = ("autoclear", "block_size", "direct_io", "offset", "partscan", "read_only", "sizelimit")

    def __init__(  # noqa: PLR0913 (one for each property of a loop device)
        self,
        *,
        offset: int = 0,
        sizelimit: int = 0,
        read_only: bool = False,
        direct_io: bool = False,
        partscan: bool = False,
        autoclear: bool = True,
        block_size: int = 0,
    ) -> None:
        """Check and keep them."""
        for part, value in (("offset", offset), ("sizelimit", sizelimit)):
            if not 0 <= value <= _LARGEST:
                raise InvalidSpec(f"{part} {value} is not a number of bytes from 0 to {_LARGEST}", part=part)
        low, high = _BLOCK_SIZES
        if block_size and not (low <= block_size <= high and block_size.bit_count() == 1):
            raise InvalidSpec(f"block_size {block_size} is not a power of two from {low} to {high}", part="block_size")
        self.offset, self.sizelimit, self.block_size = offset, sizelimit, block_size
        self.read_only, self.direct_io, self.partscan, self.autoclear = read_only, direct_io, partscan, autoclear


class LoopInfo:
    """One loop device, as it was when it was asked.

    Attributes:
    number          7 for /dev/loop7
    backing_file    the image's path as the kernel tells it, with ` (deleted)` after it when it was; None where sysfs
                    doesn't say
    dev, inode      the image itself: (major, minor) of its filesystem, and the number of its file
    rdev            (major, minor) of the image when it is a block device, else (0, 0)
    offset          bytes of the image before the device's first; sizelimit, its largest size (0: to the image's end)
    read_only, autoclear, direct_io, partscan       its flags
    """

    __slots__ = (
        *("autoclear", "backing_file", "dev", "direct_io", "inode", "number"),
        *("offset", "partscan", "rdev", "read_only", "sizelimit"),
    )

    def __init__(  # noqa: PLR0913 (one for each field)
        self,
        number: int,
        backing_file: str | None,
        *,
        dev: tuple[int, int],
        inode: int,
        rdev: tuple[int, int] = (0, 0),
        offset: int = 0,
        sizelimit: int = 0,
        read_only: bool = False,
        autoclear: bool = False,
        direct_io: bool = False,
        partscan: bool = False,
    ) -> None:
        """Keep them."""
        self.number, self.backing_file, self.dev, self.inode, self.rdev = number, backing_file, dev, inode, rdev
        self.offset, self.sizelimit = offset, sizelimit
        self.read_only, self.autoclear, self.direct_io, self.partscan = read_only, autoclear, direct_io, partscan

    @property
    def path(self) -> str:
        """The device's path."""
        return f"/dev/loop{self.number}"

    def shows_same(self, setup: LoopSetup) -> bool:
        """Say whether it shows just the bytes of its image that a setup would."""
        return (self.offset, self.sizelimit) == (setup.offset, setup.sizelimit)

    def overlaps(self, setup: LoopSetup) -> bool:
        """Say whether a byte of its image could be seen through it and through a device of that setup."""
        before = bool(self.sizelimit) and self.offset + self.sizelimit <= setup.offset
        after = bool(setup.sizelimit) and setup.offset + setup.sizelimit <= self.offset
        return not before and not after

    def __repr__(self) -> str:
        """Name the device, its image and the part that it shows."""
        part = f" offset={self.offset} sizelimit={self.sizelimit}" if self.offset or self.sizelimit else ""
        return f"<mountfd.LoopInfo {self.path} {self.backing_file!r}{part}{' read-only' if self.read_only else ''}>"
