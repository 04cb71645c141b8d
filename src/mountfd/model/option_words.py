"""What each word of mount(8), containerd's mount package and the OCI runtimes asks for: tables, and nothing else.

A word that stands in none of them is a parameter of the filesystem itself.
"""

from __future__ import annotations

from mountfd.abi.flags import Attr, Propagation

__all__ = [
    "ACTIONS",
    "ATIME",
    "ATTRIBUTES",
    "IGNORED",
    "IMPLIED",
    "PROPAGATION",
    "QUOTED",
    "READ_ONLY_TYPES",
    "SUPERBLOCK",
]

# word: (attribute of the mount, whether the word sets it)
ATTRIBUTES: dict[str, tuple[Attr, bool]] = {
    "ro": (Attr.RDONLY, True),
    "rw": (Attr.RDONLY, False),
    "nosuid": (Attr.NOSUID, True),
    "suid": (Attr.NOSUID, False),
    "nodev": (Attr.NODEV, True),
    "dev": (Attr.NODEV, False),
    "noexec": (Attr.NOEXEC, True),
    "exec": (Attr.NOEXEC, False),
    "nosymfollow": (Attr.NOSYMFOLLOW, True),
    "symfollow": (Attr.NOSYMFOLLOW, False),
    "nodiratime": (Attr.NODIRATIME, True),
    "diratime": (Attr.NODIRATIME, False),
}

# The access-time words share one field, in which the kernel's default is relatime.
# word: (value, whether the word asks for it; a negative word takes back its own value and no other)
ATIME: dict[str, tuple[Attr, bool]] = {
    "noatime": (Attr.NOATIME, True),
    "atime": (Attr.NOATIME, False),
    "strictatime": (Attr.STRICTATIME, True),
    "nostrictatime": (Attr.STRICTATIME, False),
    "relatime": (Attr.RELATIME, True),
    "norelatime": (Attr.RELATIME, False),
}

# word: (flag of the filesystem, whether the word sets it); `ro` and `rw` are of both kinds
SUPERBLOCK: dict[str, tuple[str, bool]] = {
    "ro": ("ro", True),
    "rw": ("ro", False),
    "sync": ("sync", True),
    "async": ("sync", False),
    "dirsync": ("dirsync", True),
    "lazytime": ("lazytime", True),
    "nolazytime": ("lazytime", False),
    "mand": ("mand", True),
    "nomand": ("mand", False),
}

PROPAGATION: dict[str, tuple[Propagation, bool]] = {
    "shared": (Propagation.SHARED, False),
    "rshared": (Propagation.SHARED, True),
    "slave": (Propagation.SLAVE, False),
    "rslave": (Propagation.SLAVE, True),
    "private": (Propagation.PRIVATE, False),
    "rprivate": (Propagation.PRIVATE, True),
    "unbindable": (Propagation.UNBINDABLE, False),
    "runbindable": (Propagation.UNBINDABLE, True),
}

ACTIONS = ("bind", "rbind", "move", "remount")

# fstab(5): who may mount it also says what it may not contain, unless a later word says otherwise.
IMPLIED: dict[str, tuple[str, ...]] = {
    "user": ("nosuid", "nodev", "noexec"),
    "users": ("nosuid", "nodev", "noexec"),
    "owner": ("nosuid", "nodev"),
    "group": ("nosuid", "nodev"),
}

# Words for whoever reads fstab(5), and those that say what is so anyway.
IGNORED = frozenset(
    {
        *("defaults", "auto", "noauto", "nouser", "nousers", "noowner", "nogroup", "nofail", "_netdev"),
        *("silent", "loud"),  # whether the kernel's log hears of a failure: fsconfig(2) has its own log
        *("comment", "uhelper", "helper"),
    }
)

# Filesystems that can't be written. Each mount of one must say so: two that differ in it can't share a device.
READ_ONLY_TYPES = frozenset({"erofs", "squashfs", "iso9660", "cramfs", "romfs"})

# The value of these may stand in double quotes, which are not part of it: SELinux labels hold commas.
QUOTED = frozenset({"context", "fscontext", "defcontext", "rootcontext"})
