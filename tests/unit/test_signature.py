"""What mkfs programs write is recognised, and named as blkid(8) names it."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mountfd.model.signature import NO_FILESYSTEM, partitions, signatures
from tests.support.need import need_command

MIB = 1 << 20
QUIET = ("-quiet", "-no-progress", "-noappend")
FAST = ("--pbkdf-force-iterations", "1000")

# name, size of the image in MiB, the program with its arguments; {} is the image.
MADE: dict[str, tuple[str, int, list[str]]] = {
    "ext2": ("ext2", 4, ["mkfs.ext2", "-q", "-F", "{}"]),
    "ext3": ("ext3", 8, ["mkfs.ext3", "-q", "-F", "{}"]),
    "ext4": ("ext4", 8, ["mkfs.ext4", "-q", "-F", "{}"]),
    "ext4 without a journal": ("ext4", 8, ["mkfs.ext4", "-q", "-F", "-O", "^has_journal", "{}"]),
    "ext2 of 1k blocks": ("ext2", 4, ["mkfs.ext2", "-q", "-F", "-b", "1024", "{}"]),
    "ext2 with extents": ("ext4", 4, ["mkfs.ext2", "-q", "-F", "-O", "extents", "{}"]),
    "ext3 with huge files": ("ext4", 8, ["mkfs.ext3", "-q", "-F", "-O", "huge_file", "{}"]),
    "ext2 of revision 0": ("ext2", 4, ["mkfs.ext2", "-q", "-F", "-r", "0", "{}"]),
    "xfs": ("xfs", 300, ["mkfs.xfs", "-q", "{}"]),
    "btrfs": ("btrfs", 128, ["mkfs.btrfs", "-q", "{}"]),
    "f2fs": ("f2fs", 64, ["mkfs.f2fs", "-q", "{}"]),
    "FAT12": ("vfat", 2, ["mkfs.vfat", "-F", "12", "{}"]),
    "FAT16": ("vfat", 32, ["mkfs.vfat", "-F", "16", "{}"]),
    "FAT32": ("vfat", 64, ["mkfs.vfat", "-F", "32", "{}"]),
    "FAT of 4k sectors": ("vfat", 64, ["mkfs.vfat", "-S", "4096", "{}"]),
    "exfat": ("exfat", 16, ["mkfs.exfat", "{}"]),
    "ntfs": ("ntfs3", 16, ["mkfs.ntfs", "-q", "-F", "-Q", "{}"]),
    "udf": ("udf", 16, ["mkudffs", "{}"]),
    "udf of 512-byte blocks": ("udf", 16, ["mkudffs", "-b", "512", "{}"]),
    "udf of 4k blocks": ("udf", 16, ["mkudffs", "-b", "4096", "{}"]),
    "udf 1.02": ("udf", 16, ["mkudffs", "-r", "1.02", "{}"]),
    "swap": ("swap", 1, ["mkswap", "{}"]),
    "swap of 64k pages": ("swap", 1, ["mkswap", "-p", "65536", "{}"]),
    "luks1": (
        "crypto_LUKS",
        4,
        ["cryptsetup", "-q", "luksFormat", "--type", "luks1", "-i", "1", "-d", "/etc/passwd", "{}"],
    ),
    "luks2": (
        "crypto_LUKS",
        20,
        ["cryptsetup", "-q", "luksFormat", "--pbkdf", "pbkdf2", *FAST, "-d", "/etc/passwd", "{}"],
    ),
    "squashfs": ("squashfs", 0, ["mksquashfs", "content", "{}", *QUIET]),
    "squashfs of gzip": (
        "squashfs",
        0,
        ["mksquashfs", "content", "{}", *QUIET, "-comp", "gzip"],
    ),
    "erofs": ("erofs", 0, ["mkfs.erofs", "--quiet", "{}", "content"]),
    "iso9660": ("iso9660", 0, ["xorriso", "-as", "mkisofs", "-quiet", "-R", "-o", "{}", "content"]),
}
BLKID_NAMES = {"ntfs3": "ntfs"}


def run(command: Sequence[str], place: Path) -> str:
    done = subprocess.run(
        [need_command(command[0]), *command[1:]],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=place,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def reading(path: Path) -> Callable[[int, int], bytes]:
    """Give a reader of an image's bytes that counts on nothing but a path."""

    def read(offset: int, size: int) -> bytes:
        with path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), size, offset)

    return read


def made(place: Path, size: int, command: list[str]) -> Path:
    image, content = place / "image", place / "content"
    content.mkdir()
    (content / "file").write_text("hello")
    if size:
        image.touch()
        os.truncate(image, size * MIB)
    run([word.replace("{}", str(image)) for word in command], place)
    return image


def in_memory(**pieces: tuple[int, bytes]) -> Callable[[int, int], bytes]:
    data = bytearray(1 << 17)
    for offset, piece in pieces.values():
        data[offset : offset + len(piece)] = piece
    return reading_bytes(bytes(data))


def reading_bytes(data: bytes) -> Callable[[int, int], bytes]:
    return lambda offset, size: data[offset : offset + size]


@pytest.mark.parametrize("case", MADE)
def test_what_mkfs_makes_is_recognised(case: str, tmp_path: Path) -> None:
    expected, size, command = MADE[case]
    image = made(tmp_path, size, command)
    assert signatures(reading(image)) == [expected]


@pytest.mark.parametrize("case", MADE)
def test_blkid_agrees(case: str, tmp_path: Path) -> None:
    need_command("blkid")
    _, size, command = MADE[case]
    image = made(tmp_path, size, command)
    theirs = run(["blkid", "--probe", "--match-tag", "TYPE", "--output", "value", str(image)], tmp_path).strip()
    ours = signatures(reading(image))
    assert [BLKID_NAMES.get(name, name) for name in ours] == [theirs]


def test_a_disc_in_both_formats_is_udf() -> None:
    both = in_memory(
        iso=(32769, b"CD001"),
        end=(34817, b"CD001"),
        begin=(36865, b"BEA01"),
        udf=(38913, b"NSR02"),
        tea=(40961, b"TEA01"),
    )
    assert signatures(both) == ["udf"]


def test_a_name_far_behind_the_descriptors_is_no_udf() -> None:
    gap = in_memory(iso=(32769, b"CD001"), udf=(32769 + 3 * 2048, b"NSR02"))
    assert signatures(gap) == ["iso9660"]


def test_physical_volume(tmp_path: Path) -> None:
    """A label as pvcreate(8) writes it, in the second sector, taken for one by blkid(8) too."""
    image = tmp_path / "image"
    label = b"LABELONE" + (1).to_bytes(8, "little") + b"\0\0\0\0" + (32).to_bytes(4, "little") + b"LVM2 001"
    body = label[20:] + b"0123456789abcdefghijklmnopqrstuv" + bytes(1 << 9)
    crc = 0xF597A6CF
    for byte in body[: 512 - 20]:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    sector = label[:16] + crc.to_bytes(4, "little") + body[: 512 - 20]
    image.write_bytes(bytes(512) + sector + bytes(4 * MIB))
    assert signatures(reading(image)) == ["LVM2_member"]
    theirs = run(["blkid", "--probe", "--match-tag", "TYPE", "--output", "value", str(image)], tmp_path).strip()
    assert theirs == "LVM2_member"


def test_two_signatures_are_both_told() -> None:
    assert signatures(in_memory(old=(65600, b"_BHRfS_M"), new=(0, b"XFSB"))) == ["xfs", "btrfs"]


def test_swap_over_an_old_filesystem(tmp_path: Path) -> None:
    image = made(tmp_path, 8, ["mkfs.ext4", "-q", "-F", "{}"])
    with image.open("r+b") as file:
        file.seek(4086)
        file.write(b"SWAPSPACE2")
    assert signatures(reading(image)) == ["ext4", "swap"]


def test_a_journal_of_its_own_is_no_filesystem(tmp_path: Path) -> None:
    image = made(tmp_path, 8, ["mke2fs", "-q", "-F", "-O", "journal_dev", "{}"])
    assert signatures(reading(image)) == []


def test_a_partition_table_is_no_fat() -> None:
    partition = b"\x80\0\2\0\x0c\xff\xff\xff\0\x08\0\0\0\0\x10\0"
    table = in_memory(code=(0, b"\xeb\x63\x90"), entry=(446, partition), end=(510, b"\x55\xaa"))
    assert signatures(table) == []


def entry(first: int, sectors: int, kind: int = 0x83, flag: int = 0) -> bytes:
    return bytes([flag, 0, 0, 0, kind, 0, 0, 0]) + first.to_bytes(4, "little") + sectors.to_bytes(4, "little")


def test_a_table_of_partitions_tells_where_the_first_begins() -> None:
    table = in_memory(second=(446, entry(4096, 100)), first=(462, entry(2048, 9, flag=0x80)), end=(510, b"\x55\xaa"))
    found = partitions(table)
    assert found is not None
    assert (found.kind, found.first) == ("dos", 2048 * 512)


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_gpt_is_found_with_sectors_of_either_size(sector: int) -> None:
    numbers = (2).to_bytes(8, "little") + bytes(0) + (4).to_bytes(4, "little") + (128).to_bytes(4, "little")
    header = b"EFI PART" + bytes(64) + numbers + bytes(4)
    used = b"kind of 16 bytes" + b"its own 16 bytes" + (40).to_bytes(8, "little") + (99).to_bytes(8, "little")
    both = in_memory(
        protective=(446, entry(1, 99, kind=0xEE)),
        end=(510, b"\x55\xaa"),
        header=(sector, header),
        entries=(2 * sector + 128, used),
    )
    found = partitions(both)
    assert found is not None
    assert (found.kind, found.first) == ("gpt", 40 * sector)
    said = in_memory(header=(sector, header[:72] + b"\xff" * 8 + header[80:]))
    found = partitions(said)
    assert found is not None
    assert (found.kind, found.first) == ("gpt", 0)


@pytest.mark.parametrize(
    "pieces",
    [
        {},
        {"first": (446, entry(2048, 9))},
        {"end": (510, b"\x55\xaa")},
        {"end": (510, b"\x55\xaa"), "code": (446, b"\xb4\x0e\xcd\x10" * 16)},
        {"end": (510, b"\x55\xaa"), "empty": (446, entry(2048, 0))},
        {"end": (510, b"\x55\xaa"), "first": (446, entry(2048, 9)), "odd": (462, entry(2048, 9, flag=1))},
    ],
    ids=["nothing", "no end", "no entry", "code", "no sectors", "odd flag"],
)
def test_what_does_not_add_up_is_no_table_of_partitions(pieces: dict[str, tuple[int, bytes]]) -> None:
    assert partitions(in_memory(**pieces)) is None


@pytest.mark.parametrize("size", [0, 1, 3, 511, 512, 1024, 1100, 4096, 32770, 65607])
def test_what_is_empty_or_short_bears_nothing(size: int) -> None:
    assert signatures(reading_bytes(bytes(size))) == []
    assert partitions(reading_bytes(bytes(size))) is None


@pytest.mark.parametrize("case", ["ext4", "squashfs", "FAT16", "erofs"])
def test_an_image_that_ends_early_is_no_error(case: str, tmp_path: Path) -> None:
    expected, size, command = MADE[case]
    data = made(tmp_path, size, command).read_bytes()
    for end in (*range(0, 2048, 7), 4096):
        assert signatures(reading_bytes(data[:end])) in ([], [expected])


def test_noise_bears_nothing() -> None:
    chance = random.Random(20)  # noqa: S311 (the same noise each time)
    for _ in range(50):
        assert signatures(reading_bytes(chance.randbytes(1 << 17))) == []


def test_what_is_no_filesystem_has_words() -> None:
    named = {expected for expected, _, _ in MADE.values()} | {"LVM2_member"}
    assert set(NO_FILESYSTEM) <= named
    assert NO_FILESYSTEM["swap"] == "swap space"
