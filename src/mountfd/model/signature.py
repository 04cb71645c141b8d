"""Which filesystem an image or device bears, by the signatures in its superblocks.

ext2 ext3 ext4   0xEF53 at 1080       told apart by the features they need, as the kernel and blkid(8) do
xfs              "XFSB" at 0          squashfs  "hsqs" at 0, version 4    btrfs    "_BHRfS_M" at 65600
erofs            0xE0F5E1E2 at 1024   f2fs      0xF2F52010 at 1024
exfat            "EXFAT   " at 3      ntfs3     "NTFS    " at 3           vfat     a BIOS parameter block that adds up
iso9660          "CD001" at 32769     udf       "NSR02" or "NSR03" in one of the descriptors from 32768 on
swap             "SWAPSPACE2" at the end of the first page, whatever its size
crypto_LUKS      "LUKS" at 0          LVM2_member    "LABELONE" in one of the first four sectors

A table of partitions is no filesystem, and stands beside some (on a disc that can be booted from, for one):
gpt  "EFI PART" in the second sector    dos  0x55 0xAA at 510, and from 446 on entries that add up
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Read = Callable[[int, int], bytes]

__all__ = ["NO_FILESYSTEM", "Partitions", "partitions", "signatures"]

# What can't be mounted, in words for a person; the names are those of blkid(8).
NO_FILESYSTEM = {
    "LVM2_member": "a physical volume of LVM",
    "crypto_LUKS": "an encrypted volume (LUKS)",
    "swap": "swap space",
}

_MAGIC = (
    ("xfs", 0, b"XFSB"),
    ("btrfs", 65600, b"_BHRfS_M"),
    ("erofs", 1024, b"\xe2\xe1\xf5\xe0"),
    ("f2fs", 1024, b"\x10\x20\xf5\xf2"),
    ("exfat", 3, b"EXFAT   "),
    ("ntfs3", 3, b"NTFS    "),
    ("crypto_LUKS", 0, b"LUKS\xba\xbe"),
)

_EXT_SUPERBLOCK = 1024
_EXT_SIZE = 0x68  # as far as it is looked at
_EXT_MAGIC = b"\x53\xef"
_EXT_LARGEST_BLOCK = 6  # 1024 << 6
_COMPAT_HAS_JOURNAL = 0x4
_RO_COMPAT_OLD = 0x1 | 0x2 | 0x4  # SPARSE_SUPER, LARGE_FILE, BTREE_DIR
_INCOMPAT_OLD = 0x2 | 0x10  # FILETYPE, META_BG
_INCOMPAT_RECOVER = 0x4
_INCOMPAT_JOURNAL_DEV = 0x8

_SQUASHFS_MAJOR = 4
_PAGES = (4096, 8192, 16384, 32768, 65536)
_SECTOR = 512
_BOOT_SECTOR = 512
_LARGEST_SECTOR = 4096
_FIXED_MEDIA, _FLOPPY = 0xF8, 0xF0
_VOLUME_DESCRIPTORS = 32768
_STRIDES = (2048, 4096)
_DESCRIPTORS = 64
_ENTRIES, _ENTRY_SIZE = 446, 16
_LARGEST_OFFSET = 1 << 40  # a table lies near its header; a header can say anything
_LEAST_GPT_ENTRY, _MOST_GPT_ENTRIES = 128, 128
_DESCRIPTOR_NAMES = (b"BEA01", b"BOOT2", b"CD001", b"CDW02", b"TEA01")


def signatures(read: Read) -> list[str]:
    """Tell the type of each filesystem whose signature is there, by the kernel's names: one, unless something is odd.

    Arguments: read, a function of an offset and a size that gives bytes, fewer than size at the end, as os.pread does.
    Gives none for what isn't known, and several for what one program wrote without wiping what another had left.
    Some names are not of filesystems: see NO_FILESYSTEM.
    What is there is looked at, not checked: the filesystem may still be damaged.
    """
    found = [fstype for fstype, offset, magic in _MAGIC if read(offset, len(magic)) == magic]
    found += filter(None, (look(read) for look in (_ext, _squashfs, _vfat, _disc, _swap, _lvm)))
    return found


class Partitions:
    """A table of partitions: its kind, "gpt" or "dos", and where the first partition begins, in bytes; 0: not known."""

    __slots__ = ("first", "kind")

    def __init__(self, kind: str, first: int) -> None:
        """Keep them."""
        self.kind, self.first = kind, first


def partitions(read: Read) -> Partitions | None:
    """Tell the table of partitions that something begins with, or None.

    Arguments: read, as `signatures` has it, which finds what is mounted as a whole and is asked first.
    """
    for sector in (_SECTOR, _LARGEST_SECTOR):
        header = read(sector, 92)
        if header[:8] == b"EFI PART" and len(header) == 92:  # noqa: PLR2004 (the header's size)
            return Partitions("gpt", _first_of_gpt(read, header, sector))
    block = read(0, _BOOT_SECTOR)
    if len(block) < _BOOT_SECTOR or block[510:] != b"\x55\xaa":
        return None
    entries = [block[at : at + _ENTRY_SIZE] for at in range(_ENTRIES, 510, _ENTRY_SIZE)]
    used = [entry for entry in entries if entry[4]]
    # Boot sectors end with these two bytes, too; there is code where the entries would be.
    if not used or not all(entry[0] in (0, 0x80) and _number(entry, 8, 4) and _number(entry, 12, 4) for entry in used):
        return None
    return Partitions("dos", min(_number(entry, 8, 4) for entry in used) * _SECTOR)


def _first_of_gpt(read: Read, header: bytes, sector: int) -> int:
    at, number, size = _number(header, 72, 8) * sector, _number(header, 80, 4), _number(header, 84, 4)
    if size < _LEAST_GPT_ENTRY or at > _LARGEST_OFFSET:
        return 0
    entries = (read(at + i * size, 40) for i in range(min(number, _MOST_GPT_ENTRIES)))
    return min((_number(entry, 32, 8) * sector for entry in entries if any(entry[:16])), default=0)


def _ext(read: Read) -> str:
    block = read(_EXT_SUPERBLOCK, _EXT_SIZE)
    if len(block) < _EXT_SIZE or block[0x38:0x3A] != _EXT_MAGIC or _number(block, 0x18, 4) > _EXT_LARGEST_BLOCK:
        return ""
    compat, incompat, ro_compat = (_number(block, at, 4) for at in (0x5C, 0x60, 0x64))
    if incompat & _INCOMPAT_JOURNAL_DEV:
        return ""  # another filesystem's journal
    if not ro_compat & ~_RO_COMPAT_OLD:
        if not compat & _COMPAT_HAS_JOURNAL and not incompat & ~_INCOMPAT_OLD:
            return "ext2"
        if compat & _COMPAT_HAS_JOURNAL and not incompat & ~(_INCOMPAT_OLD | _INCOMPAT_RECOVER):
            return "ext3"
    return "ext4"


def _squashfs(read: Read) -> str:
    block = read(0, 32)
    return "squashfs" if block[:4] == b"hsqs" and _number(block, 28, 2) == _SQUASHFS_MAJOR else ""


def _vfat(read: Read) -> str:
    """See whether the first sector describes a FAT; no magic is obligatory there, so all must add up."""
    block = read(0, _BOOT_SECTOR)
    if len(block) < _BOOT_SECTOR or block[510:] != b"\x55\xaa" or block[0] not in (0xEB, 0xE9):
        return ""
    sector, cluster, reserved, fats = _number(block, 11, 2), block[13], _number(block, 14, 2), block[16]
    per_fat = _number(block, 22, 2) or _number(block, 36, 4)
    sectors = _number(block, 19, 2) or _number(block, 32, 4)
    media = block[21]
    fits = (
        _is_power(sector)
        and _SECTOR <= sector <= _LARGEST_SECTOR
        and _is_power(cluster)
        and reserved
        and fats
        and per_fat
        and (media == _FLOPPY or media >= _FIXED_MEDIA)
        and reserved + fats * per_fat < sectors
    )
    return "vfat" if fits else ""


def _disc(read: Read) -> str:
    """Tell a UDF from an ISO 9660; a disc that has both is one disc in two formats, and UDF knows more of it."""
    for stride in _STRIDES:
        for i in range(_DESCRIPTORS):
            name = read(_VOLUME_DESCRIPTORS + i * stride + 1, 5)
            if name in (b"NSR02", b"NSR03"):
                return "udf"
            if name not in _DESCRIPTOR_NAMES:
                break
    return "iso9660" if read(_VOLUME_DESCRIPTORS + 1, 5) == b"CD001" else ""


def _swap(read: Read) -> str:
    return "swap" if any(read(page - 10, 10) in (b"SWAPSPACE2", b"SWAP-SPACE") for page in _PAGES) else ""


def _lvm(read: Read) -> str:
    for sector in range(4):
        label = read(sector * _SECTOR, 32)
        if label[:8] == b"LABELONE" and label[24:] == b"LVM2 001":
            return "LVM2_member"
    return ""


def _number(block: bytes, at: int, size: int) -> int:
    return int.from_bytes(block[at : at + size], "little")


def _is_power(value: int) -> bool:
    return value.bit_count() == 1
