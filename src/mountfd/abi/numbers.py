"""Numbers that are neither flag words nor layouts: system calls, commands, requests, limits.

System calls numbered 424 and above have one number on every architecture (alpha and MIPS apart); all older ones go
through libc symbols, so no architecture table is needed. Names are the kernel's own.
"""

# System calls, include/uapi/asm-generic/unistd.h
SYS_pidfd_send_signal = 424
SYS_open_tree = 428
SYS_move_mount = 429
SYS_fsopen = 430
SYS_fsconfig = 431
SYS_fsmount = 432
SYS_fspick = 433
SYS_pidfd_open = 434
SYS_openat2 = 437
SYS_pidfd_getfd = 438
SYS_mount_setattr = 442
SYS_statmount = 457
SYS_listmount = 458
SYS_open_tree_attr = 467
SYS_listns = 470

# openat(2) and the *at() family, include/uapi/linux/fcntl.h
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_HANDLE_FID = 0x200
AT_SYMLINK_FOLLOW = 0x400
AT_NO_AUTOMOUNT = 0x800
AT_EMPTY_PATH = 0x1000
AT_STATX_SYNC_AS_STAT = 0x0000
AT_STATX_FORCE_SYNC = 0x2000
AT_STATX_DONT_SYNC = 0x4000
AT_RECURSIVE = 0x8000

# fsconfig(2) commands, include/uapi/linux/mount.h
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_BINARY = 2
FSCONFIG_SET_PATH = 3
FSCONFIG_SET_PATH_EMPTY = 4
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6
FSCONFIG_CMD_RECONFIGURE = 7
FSCONFIG_CMD_CREATE_EXCL = 8

# The longest string value and key that fsconfig(2) takes, in bytes, without the NUL (fs/fsopen.c: 256 with it)
FSCONFIG_STRING_MAX = 255

# mount_setattr(2), statmount(2), listmount(2)
MOUNT_ATTR_SIZE_VER0 = 32
MNT_ID_REQ_SIZE_VER0 = 24
MNT_ID_REQ_SIZE_VER1 = 32
NS_ID_REQ_SIZE_VER0 = 32
LSMT_ROOT = 0xFFFFFFFFFFFFFFFF
LISTMOUNT_REVERSE = 1
LISTNS_CURRENT_USER = 0xFFFFFFFFFFFFFFFF

# nsfs requests, include/uapi/linux/nsfs.h
NS_GET_USERNS = 0xB701
NS_GET_PARENT = 0xB702
NS_GET_NSTYPE = 0xB703
NS_GET_OWNER_UID = 0xB704
NS_GET_MNTNS_ID = 0x8008B705
NS_MNT_GET_INFO = 0x8010B70A
NS_MNT_GET_NEXT = 0x8010B70B
NS_MNT_GET_PREV = 0x8010B70C
NS_GET_ID = 0x8008B70D

# pidfd requests, include/uapi/linux/pidfd.h
PIDFD_GET_CGROUP_NAMESPACE = 0xFF01
PIDFD_GET_IPC_NAMESPACE = 0xFF02
PIDFD_GET_MNT_NAMESPACE = 0xFF03
PIDFD_GET_NET_NAMESPACE = 0xFF04
PIDFD_GET_PID_NAMESPACE = 0xFF05
PIDFD_GET_PID_FOR_CHILDREN_NAMESPACE = 0xFF06
PIDFD_GET_TIME_NAMESPACE = 0xFF07
PIDFD_GET_TIME_FOR_CHILDREN_NAMESPACE = 0xFF08
PIDFD_GET_USER_NAMESPACE = 0xFF09
PIDFD_GET_UTS_NAMESPACE = 0xFF0A

# a filesystem's UUID, include/uapi/linux/fs.h, and the file that a socket is bound to, include/uapi/linux/un.h
FS_IOC_GETFSUUID = 0x80111500
SIOCUNIXFILE = 0x89E0

# loop devices, include/uapi/linux/loop.h
LOOP_SET_FD = 0x4C00
LOOP_CLR_FD = 0x4C01
LOOP_SET_STATUS64 = 0x4C04
LOOP_GET_STATUS64 = 0x4C05
LOOP_SET_DIRECT_IO = 0x4C08
LOOP_SET_BLOCK_SIZE = 0x4C09
LOOP_CONFIGURE = 0x4C0A
LOOP_CTL_ADD = 0x4C80
LOOP_CTL_GET_FREE = 0x4C82
LO_FLAGS_READ_ONLY = 1
LO_FLAGS_AUTOCLEAR = 4
LO_FLAGS_PARTSCAN = 8
LO_FLAGS_DIRECT_IO = 16
LO_NAME_SIZE = 64
LOOP_MAJOR = 7

# fanotify_event_info types, include/uapi/linux/fanotify.h
FAN_EVENT_INFO_TYPE_MNT = 7
FANOTIFY_METADATA_VERSION = 3
FAN_NOFD = -1
FAN_EVENT_METADATA_LEN = 24

# prctl(2) and capabilities
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38
LINUX_CAPABILITY_VERSION_3 = 0x20080522

# wait4(2): a child made with exit signal 0 is only seen with this
WALL = 0x40000000

# The first unique mount id (fs/namespace.c, MNT_UNIQUE_ID_OFFSET); smaller numbers are ids of the reused kind
FIRST_UNIQUE_ID = 1 << 31

# Attributes of a mount (MOUNT_ATTR_*) as flags of mount(2) (MS_*); the two words differ from NOATIME on
ATTR_TO_MS = {0x1: 1, 0x2: 2, 0x4: 4, 0x8: 8, 0x10: 1024, 0x20: 1 << 24, 0x80: 2048, 0x200000: 256}
