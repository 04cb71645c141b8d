"""Layouts of the kernel's structures, byte for byte.

Fields and their order are those of include/uapi/linux; a test compiles C against the newest headers and compares
every size and offset with these.
"""

from ctypes import Structure, c_char, c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_uint64

__all__ = [
    "CapData",
    "CapHeader",
    "FanEvent",
    "FanMountInfo",
    "LoopConfig",
    "LoopInfo64",
    "MntIdReq",
    "MntNsInfo",
    "MountAttr",
    "NsIdReq",
    "OpenHow",
    "StatMountBuffer",
    "StatxBuffer",
    "StatxTimestamp",
]


class MountAttr(Structure):
    """struct mount_attr (linux/mount.h): what mount_setattr(2) shall set and clear."""

    _fields_ = (
        ("attr_set", c_uint64),
        ("attr_clr", c_uint64),
        ("propagation", c_uint64),
        ("userns_fd", c_uint64),
    )


class OpenHow(Structure):
    """struct open_how (linux/openat2.h)."""

    _fields_ = (("flags", c_uint64), ("mode", c_uint64), ("resolve", c_uint64))


class MntIdReq(Structure):
    """struct mnt_id_req (linux/mount.h): which mount statmount(2) and listmount(2) are asked about."""

    _fields_ = (
        ("size", c_uint32),
        ("mnt_ns_fd", c_uint32),
        ("mnt_id", c_uint64),
        ("param", c_uint64),
        ("mnt_ns_id", c_uint64),
    )


class NsIdReq(Structure):
    """struct ns_id_req (linux/nsfs.h): which namespaces listns(2) shall list."""

    _fields_ = (
        ("size", c_uint32),
        ("spare", c_uint32),
        ("ns_id", c_uint64),
        ("ns_type", c_uint32),
        ("spare2", c_uint32),
        ("user_ns_id", c_uint64),
    )


class StatMountBuffer(Structure):
    """struct statmount (linux/mount.h): 512 bytes; strings follow, at offsets relative to the end of these."""

    _fields_ = (
        ("size", c_uint32),
        ("mnt_opts", c_uint32),
        ("mask", c_uint64),
        ("sb_dev_major", c_uint32),
        ("sb_dev_minor", c_uint32),
        ("sb_magic", c_uint64),
        ("sb_flags", c_uint32),
        ("fs_type", c_uint32),
        ("mnt_id", c_uint64),
        ("mnt_parent_id", c_uint64),
        ("mnt_id_old", c_uint32),
        ("mnt_parent_id_old", c_uint32),
        ("mnt_attr", c_uint64),
        ("mnt_propagation", c_uint64),
        ("mnt_peer_group", c_uint64),
        ("mnt_master", c_uint64),
        ("propagate_from", c_uint64),
        ("mnt_root", c_uint32),
        ("mnt_point", c_uint32),
        ("mnt_ns_id", c_uint64),
        ("fs_subtype", c_uint32),
        ("sb_source", c_uint32),
        ("opt_num", c_uint32),
        ("opt_array", c_uint32),
        ("opt_sec_num", c_uint32),
        ("opt_sec_array", c_uint32),
        ("supported_mask", c_uint64),
        ("mnt_uidmap_num", c_uint32),
        ("mnt_uidmap", c_uint32),
        ("mnt_gidmap_num", c_uint32),
        ("mnt_gidmap", c_uint32),
        ("spare2", c_uint64 * 43),
    )


class StatxTimestamp(Structure):
    """struct statx_timestamp (linux/stat.h)."""

    _fields_ = (("tv_sec", c_int64), ("tv_nsec", c_uint32), ("reserved", c_int32))


class StatxBuffer(Structure):
    """struct statx (linux/stat.h): 256 bytes."""

    _fields_ = (
        ("stx_mask", c_uint32),
        ("stx_blksize", c_uint32),
        ("stx_attributes", c_uint64),
        ("stx_nlink", c_uint32),
        ("stx_uid", c_uint32),
        ("stx_gid", c_uint32),
        ("stx_mode", c_uint16),
        ("spare0", c_uint16),
        ("stx_ino", c_uint64),
        ("stx_size", c_uint64),
        ("stx_blocks", c_uint64),
        ("stx_attributes_mask", c_uint64),
        ("stx_atime", StatxTimestamp),
        ("stx_btime", StatxTimestamp),
        ("stx_ctime", StatxTimestamp),
        ("stx_mtime", StatxTimestamp),
        ("stx_rdev_major", c_uint32),
        ("stx_rdev_minor", c_uint32),
        ("stx_dev_major", c_uint32),
        ("stx_dev_minor", c_uint32),
        ("stx_mnt_id", c_uint64),
        ("stx_dio_mem_align", c_uint32),
        ("stx_dio_offset_align", c_uint32),
        ("stx_subvol", c_uint64),
        ("stx_atomic_write_unit_min", c_uint32),
        ("stx_atomic_write_unit_max", c_uint32),
        ("stx_atomic_write_segments_max", c_uint32),
        ("stx_dio_read_offset_align", c_uint32),
        ("stx_atomic_write_unit_max_opt", c_uint32),
        ("spare2", c_uint32),
        ("spare3", c_uint64 * 8),
    )


class MntNsInfo(Structure):
    """struct mnt_ns_info (linux/nsfs.h): what NS_MNT_GET_INFO, _NEXT and _PREV answer."""

    _fields_ = (("size", c_uint32), ("nr_mounts", c_uint32), ("mnt_ns_id", c_uint64))


class FanEvent(Structure):
    """struct fanotify_event_metadata (linux/fanotify.h)."""

    _fields_ = (
        ("event_len", c_uint32),
        ("vers", c_uint8),
        ("reserved", c_uint8),
        ("metadata_len", c_uint16),
        ("mask", c_uint64),
        ("fd", c_int32),
        ("pid", c_int32),
    )


class FanMountInfo(Structure):
    """struct fanotify_event_info_mnt (linux/fanotify.h), with the header that every information record has."""

    _fields_ = (
        ("info_type", c_uint8),
        ("pad", c_uint8),
        ("len", c_uint16),
        ("pad2", c_char * 4),
        ("mnt_id", c_uint64),
    )


class LoopInfo64(Structure):
    """struct loop_info64 (linux/loop.h): what LOOP_GET_STATUS64 answers and LOOP_SET_STATUS64 sets."""

    _fields_ = (
        ("lo_device", c_uint64),
        ("lo_inode", c_uint64),
        ("lo_rdevice", c_uint64),
        ("lo_offset", c_uint64),
        ("lo_sizelimit", c_uint64),
        ("lo_number", c_uint32),
        ("lo_encrypt_type", c_uint32),
        ("lo_encrypt_key_size", c_uint32),
        ("lo_flags", c_uint32),
        ("lo_file_name", c_char * 64),
        ("lo_crypt_name", c_char * 64),
        ("lo_encrypt_key", c_char * 32),
        ("lo_init", c_uint64 * 2),
    )


class LoopConfig(Structure):
    """struct loop_config (linux/loop.h): all that LOOP_CONFIGURE sets at once."""

    _fields_ = (
        ("fd", c_uint32),
        ("block_size", c_uint32),
        ("info", LoopInfo64),
        ("reserved", c_uint64 * 8),
    )


class CapHeader(Structure):
    """struct __user_cap_header_struct (linux/capability.h)."""

    _fields_ = (("version", c_uint32), ("pid", c_int32))


class CapData(Structure):
    """Two struct __user_cap_data_struct (linux/capability.h), as version 3 wants them."""

    _fields_ = (
        ("effective", c_uint32),
        ("permitted", c_uint32),
        ("inheritable", c_uint32),
        ("effective_high", c_uint32),
        ("permitted_high", c_uint32),
        ("inheritable_high", c_uint32),
    )
