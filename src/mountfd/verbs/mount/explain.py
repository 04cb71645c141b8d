"""Why a filesystem can't be mounted: the kernel's own words, and what its source bears."""

from __future__ import annotations

import os
from errno import EACCES, EBUSY, EINVAL, EIO, ENODEV, ENOENT, ENOSPC, ENOSYS, ENOTBLK, ENOTDIR, EPERM, EROFS, EUCLEAN

from mountfd.errors import MountfdError
from mountfd.handles.refused import why_no_filesystem, why_not
from mountfd.verbs.mount.source import held_types, in_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mountfd.errors import KernelError
    from mountfd.verbs.mount.source import Source

__all__ = ["explain"]

# With which the kernel's log speaks of filesystems and their devices.
_BEGINNINGS = (
    "EXT4-fs ",
    "XFS ",
    "BTRFS",
    "SQUASHFS ",
    "erofs",
    "F2FS-fs",
    "FAT-fs",
    "ISOFS",
    "I/O error",
    "loop",
)
_DAMAGED = (EINVAL, EIO, ENOSPC, ENOSYS, EUCLEAN)


def explain(error: KernelError, fstype: str, source: Source, log: list[str]) -> None:
    """Add what concerns it of the kernel's log, and the likeliest cause, to the error of a filesystem."""
    if _is_own(error, source):
        _drop_hint(error)
    error.explain(
        log=_of_device([line for line in log if line.startswith((*_BEGINNINGS, f"{fstype}: "))], fstype, source)
    )
    is_of_target = error.errno in (ENODEV, ENOTDIR) or (error.errno == ENOENT and _takes_no_device(fstype))
    if source.path and not is_of_target:
        error.filename = source.path  # mount(2)'s own is the target
    if error.errno == EPERM:
        error.explain(hint=why_no_filesystem(fstype, error.syscall) or why_not(error.syscall))
    error.explain(hint=_hint(error.errno, fstype, source, error.log))


def _is_own(error: KernelError, source: Source) -> bool:
    """Say whether the filesystem itself gave an errno that of the call would mean a limit, or that it is missing."""
    if error.errno == ENOSYS:
        return error.syscall in ("fsconfig", "mount")
    return error.errno == ENOSPC and (error.syscall == "fsconfig" or _is_on_full_disk(source))


def _takes_no_device(fstype: str) -> bool:
    """Say whether a filesystem's source is but a name, as the kernel lists it."""
    try:
        with open("/proc/filesystems", encoding="ascii") as known:
            return any(line.split() == ["nodev", fstype] for line in known)
    except OSError:
        return False


def _drop_hint(error: KernelError) -> None:
    error.hint = error.feature = None
    notes: list[str] = getattr(error, "__notes__", [])
    notes[:] = [note for note in notes if not note.startswith("hint: ")]


def _of_device(log: list[str], fstype: str, source: Source) -> list[str]:
    """Leave out what was said of other devices: all the system writes to the kernel's log."""
    ours = os.path.basename(os.path.realpath(os.fsdecode(source.name)))
    try:
        others = {*os.listdir("/sys/class/block")} - {ours}
    except OSError:
        return log
    kept = [line for line in log if not others.intersection(_names(line))]
    return kept or (log if fstype == "btrfs" else [])  # of its devices it may name another one


def _names(line: str) -> list[str]:
    return "".join(char if char.isalnum() or char == "-" else " " for char in line).split()


def _hint(errno: int, fstype: str, source: Source, log: Sequence[str]) -> str | None:
    if errno == ENOTBLK:
        return f"{fstype} wants a block device: {source.path!r} is none; an image goes with the option `loop`"
    if errno in (EACCES, EROFS):
        return _about_reading(fstype, source, log) if source.is_readable else None
    if errno == EBUSY:
        return "the device is mounted already with other flags (`ro` and `rw` don't mix), or in use by another system"
    if errno == ENOENT and not os.path.exists(source.path) and not _takes_no_device(fstype):
        return f"the source {source.path!r} doesn't exist"
    if errno in _DAMAGED and source.is_readable:
        return _about_content(errno, fstype, source)
    return None


def _about_reading(fstype: str, source: Source, log: Sequence[str]) -> str | None:
    if not source.wants_read_only:
        return "the device can only be read: ask for `ro`"
    word = "norecovery" if fstype == "xfs" else "noload"
    if fstype != "xfs" and not any(word in line for line in log):
        return None  # the kernel's own words, or the error, must do
    return (
        f"it was not unmounted cleanly, and its log can't be replayed on a device that is only read: ask for `{word}`"
    )


def _is_on_full_disk(source: Source) -> bool:
    try:
        return source.is_on_loop and os.statvfs(source.path).f_bavail == 0
    except OSError:
        return False  # the call's own error stays


def _about_content(errno: int, fstype: str, source: Source) -> str | None:
    if errno in (EIO, ENOSPC) and _is_on_full_disk(source):
        return (
            f"the disk that {source.path!r} lies on is full, and a filesystem writes when it is mounted: ask for `ro`"
        )
    try:
        found = held_types(source.name)
    except MountfdError:
        return None  # it can't be read; the call's own error stays
    if not found:
        words = "bears no signature of a filesystem: it is empty, damaged, or something else"
        return f"{source.path!r} {source.partitions or words}"
    if fstype not in found:
        return f"{source.path!r} holds {in_words(found)}, not {fstype}"
    return f"the {fstype} on {source.path!r} is damaged, has features that this kernel lacks, or an option is wrong"
