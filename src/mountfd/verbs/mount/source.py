"""What a filesystem is mounted from: tags resolved, images put on loop devices, the type found out."""

from __future__ import annotations

import os
import stat
from errno import EIO, ENOENT

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.paths import encode
from mountfd.errors import InvalidSpec, from_errno
from mountfd.handles.fd import OwnedFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self, TypeVar

    from mountfd.handles.loop import LoopDevice
    from mountfd.model.options import LoopWish, Options

    T = TypeVar("T")

__all__ = ["Source", "by_tag", "held_types", "in_words"]

_TAGS = {"LABEL": "by-label", "UUID": "by-uuid", "PARTLABEL": "by-partlabel", "PARTUUID": "by-partuuid", "ID": "by-id"}


class Source:
    """The source of a filesystem; while it is open, so is the loop device that was made for it.

    Arguments: text, as a person gave it; options; reuse, whether a loop device that has the image already is taken.
    Attributes: name, what the kernel is told; path, the image or device.
    """

    def __init__(self, text: str, options: Options, *, reuse: bool = False) -> None:
        """Find it; a loop device is made at once only where the options ask for one."""
        self.path = by_tag(text)
        self.name = os.fsencode(self.path or "none")
        self._options, self._reuse = options, reuse
        self._loop: LoopDevice | None = None
        if options.loop is not None:
            self.put_on_loop()

    @property
    def is_on_loop(self) -> bool:
        """Whether a loop device was made or found for it."""
        return self._loop is not None

    @property
    def is_image(self) -> bool:
        """Whether it is a regular file, which most filesystems can't be mounted from as it is."""
        return bool(self.path) and stat.S_ISREG(_mode_of(self.path))

    @property
    def is_readable(self) -> bool:
        """Whether it is an image or a block device, which bear a signature; else it is a label, or a directory."""
        return self.is_image or (bool(self.path) and stat.S_ISBLK(_mode_of(self.path)))

    @property
    def partitions(self) -> str:
        """How its partitions are mounted, in words; nothing where it has no table of them."""
        from mountfd.model.signature import partitions  # noqa: PLC0415 (only on the way out of an error)

        table = _read_by(partitions, self.name)
        if table is None:
            return ""
        kind = "a GPT" if table.kind == "gpt" else "an MBR"
        begin = self._options.loop.offset if self._loop is not None and self._options.loop is not None else 0
        first = f"{begin + table.first} for the first" if table.first else "in bytes"
        return (
            f"holds partitions ({kind}), each with a filesystem of its own: mount one from its device, which "
            f"`losetup --partscan` makes for an image, or by its offset= ({first})"
        )

    @property
    def wants_read_only(self) -> bool:
        """Whether the options ask for a filesystem that is only read."""
        return self._options.superblock.get("ro", False)

    @property
    def added_loop(self) -> int | None:
        """The number of the loop device that was itself made for this, which was none before; or None."""
        return self._loop.number if self._loop is not None and self._loop.added else None

    def put_on_loop(self) -> None:
        """Put the image on a loop device, from now on the source."""
        from mountfd.handles.loop import LoopDevice  # noqa: PLC0415 (most mounts have no image)
        from mountfd.model.options import LoopWish  # noqa: PLC0415

        wish: LoopWish = self._options.loop or LoopWish()
        self._loop = LoopDevice.attach(
            self.path,
            offset=wish.offset,
            sizelimit=wish.sizelimit,
            read_only=self.wants_read_only or _is_unwritable(self.path),
            direct_io=wish.direct_io,
            partscan=wish.partscan,
            device=wish.device,
            reuse=self._reuse,
        )
        self.name = os.fsencode(self._loop.path)

    def types(self, wanted: str) -> list[str]:
        """Give the types to try: those that are asked for, or the one whose signature the source bears.

        Raises: InvalidSpec where none is asked for and none, or more than one, is found.
        """
        # `nosuchfs` may be a type that this kernel lacks: only of what bears a signature a type can be left out.
        is_negative = wanted.startswith("no") and self.is_readable
        if wanted and wanted != "auto" and not is_negative:
            return wanted.split(",")
        from mountfd.model.signature import NO_FILESYSTEM  # noqa: PLC0415 (only where no type is given)

        found = held_types(self.name)
        unwanted = wanted.removeprefix("no").split(",") if is_negative else []
        found = [fstype for fstype in found if fstype not in unwanted]
        if len(found) == 1 and found[0] not in NO_FILESYSTEM:
            return found
        if len(found) == 1:
            raise InvalidSpec(f"{self.path!r} holds {in_words(found)}: that can't be mounted", part="type")
        if os.path.isdir(self.path):
            raise InvalidSpec(f"{self.path!r} is a directory: `bind` shows it elsewhere", part="type")
        if found:
            raise InvalidSpec(f"{self.path!r} bears the signatures of {', '.join(found)}: say the type", part="type")
        if self.partitions:
            raise InvalidSpec(f"{self.path!r} {self.partitions}", part="type")
        raise InvalidSpec(f"{_unknown(self.path, unwanted)}: say the type", part="type")

    def close(self) -> None:
        """Close the loop device, which goes with its last mount."""
        if self._loop is not None:
            self._loop.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close; where it was for nothing, a loop device that was itself made goes too."""
        added = self.added_loop if error is not None else None
        self.close()
        if added is not None:
            from mountfd.handles.loop_nodes import remove  # noqa: PLC0415 (few name a loop device, and that isn't there)

            remove(added)


def by_tag(text: str) -> str:
    """Give the device that a tag such as LABEL=data means; anything else is given back as it is."""
    tag, equals, value = text.partition("=")
    if not equals or tag not in _TAGS:
        return text
    value = value.strip('"')
    link = f"/dev/disk/{_TAGS[tag]}/{_udev(value)}"
    if os.path.exists(link):
        return os.path.realpath(link)
    found = _findfs(f"{tag}={value}") if tag != "ID" else ""
    if not found:
        raise from_errno(ENOENT, "findfs", (text,), filename=text, hint=f"no device has the {tag.lower()} {value!r}")
    return found


def held_types(device: bytes) -> list[str]:
    """Tell by their signatures which filesystems a device or image holds."""
    from mountfd.model.signature import signatures  # noqa: PLC0415 (only where no type is given, or one was wrong)

    return _read_by(signatures, device) or []


def _read_by(look: Callable[[Callable[[int, int], bytes]], T], device: bytes) -> T | None:
    """Have a function look at what is in a device or image; None for what is neither."""
    with OwnedFd(
        calls.openat(n.AT_FDCWD, encode(device, "source"), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, 0)
    ) as held:
        fd = held.fileno()
        if stat.S_IFMT(os.fstat(fd).st_mode) not in (stat.S_IFREG, stat.S_IFBLK):
            return None

        def read(offset: int, size: int) -> bytes:
            try:
                return os.pread(fd, size, offset)
            except OSError as error:
                raise from_errno(error.errno or EIO, "pread", (size, offset), filename=os.fsdecode(device)) from None

        return look(read)


def in_words(types: list[str]) -> str:
    """Say what something holds, for a person."""
    from mountfd.model.signature import NO_FILESYSTEM  # noqa: PLC0415 (only on the way out of an error)

    return " or ".join(NO_FILESYSTEM.get(fstype, fstype) for fstype in types)


def _unknown(path: str, unwanted: list[str]) -> str:
    return f"{path!r} bears no signature of a filesystem" + (f" but {' and '.join(unwanted)}" if unwanted else "")


def _mode_of(path: str) -> int:
    try:
        return os.stat(path).st_mode
    except OSError:
        return 0  # not a path at all, as for tmpfs; or the mount call says what is wrong with it


def _is_unwritable(path: str) -> bool:
    """Say whether an image can only be read; a filesystem on it is then read-only, as on a write-protected disk."""
    return not os.access(path, os.W_OK) and os.access(path, os.R_OK)


def _udev(value: str) -> str:
    """Write a tag's value as udev(7) does in its links."""
    kept = "#+-.:=@_"
    return "".join(
        char
        if char.isalnum() or char in kept or not char.isascii()
        else "".join(f"\\x{byte:02x}" for byte in char.encode())
        for char in value
    )


def _findfs(tag: str) -> str:
    import subprocess  # noqa: PLC0415 (only where udev has made no link)
    from shutil import which  # noqa: PLC0415

    program = which("findfs", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        return ""
    done = subprocess.run([program, tag], check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return done.stdout.strip()
