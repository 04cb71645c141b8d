"""A record's flag words as text: what the kernel writes into mountinfo, and what findmnt(8) makes of it."""

from __future__ import annotations

from mountfd.abi.flags import Attr, MountFlag, Propagation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.model.info import MountInfo

__all__ = [
    "filesystem_options",
    "is_unbindable",
    "mount_options",
    "optional_fields",
    "options",
    "propagation",
    "whole_type",
]

# In the kernel's order. No bit: relatime is where neither of the other two is.
_MOUNT_WORDS = (
    (int(Attr.NOSUID), "nosuid"),
    (int(Attr.NODEV), "nodev"),
    (int(Attr.NOEXEC), "noexec"),
    (int(Attr.NOATIME), "noatime"),
    (int(Attr.NODIRATIME), "nodiratime"),
    (0, "relatime"),
    (int(Attr.NOSYMFOLLOW), "nosymfollow"),
    (int(Attr.IDMAP), "idmapped"),
)
_FILESYSTEM_WORDS = (
    (int(MountFlag.SYNCHRONOUS), "sync"),
    (int(MountFlag.DIRSYNC), "dirsync"),
    (int(MountFlag.MANDLOCK), "mand"),
    (int(MountFlag.LAZYTIME), "lazytime"),
)
_OTHER_ATIME = int(Attr.NOATIME | Attr.STRICTATIME)


def mount_options(mount: MountInfo) -> str | None:
    """Write the mount's own attributes."""
    if mount.attrs is None:
        return None
    attrs = int(mount.attrs)
    words = [word for bit, word in _MOUNT_WORDS if (attrs & bit if bit else not attrs & _OTHER_ATIME)]
    return ",".join(["ro" if attrs & Attr.RDONLY else "rw", *words])


def filesystem_options(mount: MountInfo) -> str | None:
    """Write the filesystem's flags and options."""
    if mount.sb_flags is None:
        return None
    flags = int(mount.sb_flags)
    words = [word for bit, word in _FILESYSTEM_WORDS if flags & bit]
    words = ["ro" if flags & MountFlag.RDONLY else "rw", *words]
    return ",".join([*words, mount.options] if mount.options else words)


def options(mount: MountInfo) -> str | None:
    """Join both as libmount does: read-only where one of them is."""
    own, shared = mount_options(mount), filesystem_options(mount)
    if own is None or shared is None or own == shared:
        return own if shared is None else shared
    (first, _, more), (second, _, others) = own.partition(","), shared.partition(",")
    return ",".join(filter(None, ["ro" if "ro" in (first, second) else "rw", more, others]))


def whole_type(mount: MountInfo) -> str | None:
    """Write the filesystem type with its subtype."""
    return f"{mount.fstype}.{mount.subtype}" if mount.subtype else mount.fstype


def propagation(mount: MountInfo) -> str | None:
    """Write how mount events travel, in findmnt's words."""
    kind = mount.propagation
    if kind is None:
        return None
    words = ["shared" if kind & Propagation.SHARED else "private"]
    words += ["slave"] if kind & Propagation.SLAVE else []
    words += ["unbindable"] if kind & Propagation.UNBINDABLE else []
    return ",".join(words)


def optional_fields(mount: MountInfo) -> str | None:
    """Write mountinfo's optional fields."""
    words = [f"shared:{mount.peer_group}"] if mount.peer_group else []
    words += [f"master:{mount.master}"] if mount.master else []
    if mount.propagate_from and mount.propagate_from != mount.master:
        words.append(f"propagate_from:{mount.propagate_from}")
    words += ["unbindable"] if is_unbindable(mount) else []
    return " ".join(words) or None


def is_unbindable(mount: MountInfo) -> bool:
    """Say whether it refuses to be bind-mounted elsewhere."""
    return mount.propagation is not None and bool(mount.propagation & Propagation.UNBINDABLE)
