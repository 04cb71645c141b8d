"""What umount(8)'s words want beside the unmount itself: a loop device freed, a busy mount made read-only, a tag."""

from __future__ import annotations

import os
from errno import ENXIO

from mountfd.errors import Busy, InvalidSpec, KernelError, Missing, MountfdError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["free", "is_tag", "loops_below", "resolved", "why_not_read_only"]

_TAGS = ("LABEL=", "UUID=", "PARTLABEL=", "PARTUUID=", "ID=")
_LOOP = "/dev/loop"


def is_tag(target: str) -> bool:
    """Say whether a word names a device by a tag, and no file of this name is there."""
    return target.startswith(_TAGS) and not os.path.lexists(target)


def resolved(target: str) -> str:
    """Give the device that a tag means; where no device has it, the word as it is: it may be a source's name."""
    if not is_tag(target):
        return target
    from mountfd.verbs.mount.source import by_tag  # noqa: PLC0415 (tags are rare)

    try:
        return by_tag(target)
    except Missing:
        return target


def loops_below(target: str, *, recursive: bool, stack: bool) -> set[str]:
    """Give the loop devices that an unmount of a target takes the mounts of.

    Arguments: target, a mount point, a device or an image; recursive, with all below; stack, with all that it covers.
    """
    from mountfd.verbs.query import is_mount, lookup, mounts  # noqa: PLC0415 (only when asked)

    path = os.path.realpath(target)
    try:
        if recursive:
            sources = [row.source for row in mounts(under=path, fields=("source",))]
        elif stack:
            sources = [row.source for row in mounts(fields=("source", "point")) if row.point == path]
        elif is_mount(path):
            sources = [lookup(path, fields=("source",)).source]
        elif os.path.isfile(path):
            from mountfd.handles.loop import attached  # noqa: PLC0415 (only for images)

            sources = [device.path for device in attached(path)]
        else:
            sources = [path]
    except MountfdError:
        return set()  # nothing is there, or it can't be asked: the unmount says so
    return {source for source in sources if source and source.startswith(_LOOP)}


def free(devices: Iterable[str]) -> None:
    """Take the images away from loop devices: one that is still mounted elsewhere loses it with its last mount."""
    from mountfd.handles.loop import LoopDevice  # noqa: PLC0415 (only when asked)

    for path in sorted(devices):
        try:
            with LoopDevice.open(path) as device:
                device.detach()
        except KernelError as error:
            if error.errno != ENXIO and not isinstance(error, Missing):  # it lost its image with the mount
                raise


def why_not_read_only(busy: Busy) -> str | None:
    """Remount read-only what could not be unmounted; None where that is done, else why it isn't."""
    from mountfd.model.spec import MountSpec  # noqa: PLC0415 (only when asked)
    from mountfd.verbs.mount import mount  # noqa: PLC0415

    if not isinstance(busy.filename, str):
        return "its path isn't known"
    try:
        mount(MountSpec("", "", options=["remount", "ro"]), busy.filename)
    except (KernelError, InvalidSpec) as error:
        return str(error)
    return None
