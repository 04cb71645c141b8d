"""Flag words of the mount calls.

Each is an open set: a bit that this page doesn't name is kept, so that a newer kernel's answer is not an error.
Member names are the kernel's without the common prefix, which the class's first line tells.
"""

from enum import IntFlag

__all__ = [
    "Attr",
    "CloneFlag",
    "FanInit",
    "FanMark",
    "FanMask",
    "FsMount",
    "FsOpen",
    "FsPick",
    "MountFlag",
    "MoveMount",
    "OpenTree",
    "Propagation",
    "Resolve",
    "StatMount",
    "StatMountFlag",
    "Statx",
    "StatxAttr",
    "Umount",
]


class Attr(IntFlag):
    """MOUNT_ATTR_*: attributes of one mount, for fsmount(2), mount_setattr(2) and statmount(2)."""

    RELATIME = 0
    RDONLY = 0x1
    NOSUID = 0x2
    NODEV = 0x4
    NOEXEC = 0x8
    NOATIME = 0x10
    STRICTATIME = 0x20
    ATIME_MASK = 0x70
    NODIRATIME = 0x80
    IDMAP = 0x100000
    NOSYMFOLLOW = 0x200000


class Propagation(IntFlag):
    """MS_UNBINDABLE to MS_SHARED: how mount events travel between a mount and its peers and masters."""

    UNBINDABLE = 1 << 17
    PRIVATE = 1 << 18
    SLAVE = 1 << 19
    SHARED = 1 << 20


class MountFlag(IntFlag):
    """MS_*: the flag word of mount(2), of superblocks and of statmount's sb_flags."""

    RDONLY = 1
    NOSUID = 2
    NODEV = 4
    NOEXEC = 8
    SYNCHRONOUS = 16
    REMOUNT = 32
    MANDLOCK = 64
    DIRSYNC = 128
    NOSYMFOLLOW = 256
    NOATIME = 1024
    NODIRATIME = 2048
    BIND = 4096
    MOVE = 8192
    REC = 16384
    SILENT = 32768
    POSIXACL = 1 << 16
    UNBINDABLE = 1 << 17
    PRIVATE = 1 << 18
    SLAVE = 1 << 19
    SHARED = 1 << 20
    RELATIME = 1 << 21
    KERNMOUNT = 1 << 22
    I_VERSION = 1 << 23
    STRICTATIME = 1 << 24
    LAZYTIME = 1 << 25


class Umount(IntFlag):
    """MNT_* and UMOUNT_NOFOLLOW: flags of umount2(2)."""

    FORCE = 1
    DETACH = 2
    EXPIRE = 4
    NOFOLLOW = 8


class OpenTree(IntFlag):
    """OPEN_TREE_*: flags of open_tree(2); AT_EMPTY_PATH, AT_RECURSIVE and others of numbers.py may be added."""

    CLONE = 1
    NAMESPACE = 2
    CLOEXEC = 0o2000000


class MoveMount(IntFlag):
    """MOVE_MOUNT_*: flags of move_mount(2); F is the mount that moves, T the place it goes to."""

    F_SYMLINKS = 0x1
    F_AUTOMOUNTS = 0x2
    F_EMPTY_PATH = 0x4
    T_SYMLINKS = 0x10
    T_AUTOMOUNTS = 0x20
    T_EMPTY_PATH = 0x40
    SET_GROUP = 0x100
    BENEATH = 0x200


class FsOpen(IntFlag):
    """FSOPEN_*: flags of fsopen(2)."""

    CLOEXEC = 0x1


class FsMount(IntFlag):
    """FSMOUNT_*: flags of fsmount(2)."""

    CLOEXEC = 0x1
    NAMESPACE = 0x2


class FsPick(IntFlag):
    """FSPICK_*: flags of fspick(2)."""

    CLOEXEC = 0x1
    SYMLINK_NOFOLLOW = 0x2
    NO_AUTOMOUNT = 0x4
    EMPTY_PATH = 0x8


class Resolve(IntFlag):
    """RESOLVE_*: how openat2(2) walks a path."""

    NO_XDEV = 0x01
    NO_MAGICLINKS = 0x02
    NO_SYMLINKS = 0x04
    BENEATH = 0x08
    IN_ROOT = 0x10
    CACHED = 0x20


class Statx(IntFlag):
    """STATX_*: fields asked of statx(2)."""

    TYPE = 0x0001
    MODE = 0x0002
    NLINK = 0x0004
    UID = 0x0008
    GID = 0x0010
    ATIME = 0x0020
    MTIME = 0x0040
    CTIME = 0x0080
    INO = 0x0100
    SIZE = 0x0200
    BLOCKS = 0x0400
    BASIC_STATS = 0x07FF
    BTIME = 0x0800
    MNT_ID = 0x1000
    DIOALIGN = 0x2000
    MNT_ID_UNIQUE = 0x4000
    SUBVOL = 0x8000
    WRITE_ATOMIC = 0x10000
    DIO_READ_ALIGN = 0x20000


class StatxAttr(IntFlag):
    """STATX_ATTR_*: attributes that statx(2) answers."""

    COMPRESSED = 0x0004
    IMMUTABLE = 0x0010
    APPEND = 0x0020
    NODUMP = 0x0040
    ENCRYPTED = 0x0800
    AUTOMOUNT = 0x1000
    MOUNT_ROOT = 0x2000
    VERITY = 0x100000
    DAX = 0x200000
    WRITE_ATOMIC = 0x400000


class StatMount(IntFlag):
    """STATMOUNT_*: fields asked of statmount(2)."""

    SB_BASIC = 0x0001
    MNT_BASIC = 0x0002
    PROPAGATE_FROM = 0x0004
    MNT_ROOT = 0x0008
    MNT_POINT = 0x0010
    FS_TYPE = 0x0020
    MNT_NS_ID = 0x0040
    MNT_OPTS = 0x0080
    FS_SUBTYPE = 0x0100
    SB_SOURCE = 0x0200
    OPT_ARRAY = 0x0400
    OPT_SEC_ARRAY = 0x0800
    SUPPORTED_MASK = 0x1000
    MNT_UIDMAP = 0x2000
    MNT_GIDMAP = 0x4000


class StatMountFlag(IntFlag):
    """STATMOUNT_BY_FD: the flag argument of statmount(2)."""

    BY_FD = 0x1


class CloneFlag(IntFlag):
    """CLONE_*: flags of clone(2), unshare(2) and setns(2)."""

    NEWTIME = 0x00000080
    VM = 0x00000100
    FS = 0x00000200
    FILES = 0x00000400
    SIGHAND = 0x00000800
    PIDFD = 0x00001000
    VFORK = 0x00004000
    THREAD = 0x00010000
    NEWNS = 0x00020000
    NEWCGROUP = 0x02000000
    NEWUTS = 0x04000000
    NEWIPC = 0x08000000
    NEWUSER = 0x10000000
    NEWPID = 0x20000000
    NEWNET = 0x40000000


class FanInit(IntFlag):
    """FAN_*: flags of fanotify_init(2) that mount events can use."""

    CLOEXEC = 0x00000001
    NONBLOCK = 0x00000002
    UNLIMITED_QUEUE = 0x00000010
    REPORT_PIDFD = 0x00000080
    REPORT_TID = 0x00000100
    REPORT_MNT = 0x00004000


class FanMark(IntFlag):
    """FAN_MARK_*: flags of fanotify_mark(2)."""

    ADD = 0x00000001
    REMOVE = 0x00000002
    FLUSH = 0x00000080
    MNTNS = 0x00000110


class FanMask(IntFlag):
    """FAN_*: events of fanotify(7) that concern mounts."""

    Q_OVERFLOW = 0x00004000
    MNT_ATTACH = 0x01000000
    MNT_DETACH = 0x02000000
