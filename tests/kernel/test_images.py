"""Images of each kind: mounted with a loop device or without one, refused with a reason, nothing left afterwards."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import struct
import subprocess
import tempfile
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator
from errno import EACCES, EINVAL, EIO, ENOSPC, ENOTBLK, EROFS, EUCLEAN
from pathlib import Path
from typing import Any, get_args

import pytest

import mountfd
from mountfd import Busy, InvalidSpec, KernelError, LimitReached, LoopDevice, Missing, MountSpec
from mountfd.handles.loop import attached
from tests.support import guard
from tests.support.images import ImageKind, image_file
from tests.support.inject import Watch, failing, watching
from tests.support.layers import working_directory
from tests.support.mounting import umount
from tests.support.need import need, need_command, need_real_root
from tests.support.specs import ROUTES, cleared, fs, fstype, put, source, vfs

KINDS: tuple[ImageKind, ...] = get_args(ImageKind)
WRITABLE: tuple[ImageKind, ...] = ("ext4", "xfs", "btrfs")
MIB = 1 << 20
# Where each superblock can be spoilt behind its magic, and what is kept of an image that is cut short.
SPOILT = {"ext4": 1024 + 0x18, "xfs": 40, "btrfs": 65536 + 0x60, "squashfs": 64, "erofs": 1024 + 12}
KEPT = {"ext4": 4 * MIB, "xfs": 150 * MIB, "btrfs": MIB, "squashfs": 20_000}

need_real_root()
need(Path("/dev/loop-control").exists(), "loop devices")


@pytest.fixture(params=ROUTES)
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force each way to mount."""
    name: str = request.param
    monkeypatch.setenv("MOUNTFD_ROUTE", f"mount:{name}")
    return name


@pytest.fixture(scope="module")
def pristine(temporary_directory: Path) -> Iterator[Callable[[ImageKind], Path]]:
    """Give a function that makes each image once; nothing writes to it."""
    home = Path(tempfile.mkdtemp(prefix="images-", dir=temporary_directory))
    noise = random.Random(1).randbytes(50_000).hex()  # noqa: S311 (it must only be hard to compress)
    made: dict[ImageKind, Path] = {}

    def make(kind: ImageKind) -> Path:
        if kind not in made:
            made[kind] = image_file(kind, home, {"file": "hello", "noise": noise})
        return made[kind]

    yield make
    shutil.rmtree(home)


class Images:
    """Copies of images in a directory, and the mounts that are made of them."""

    def __init__(self, place: Path, pristine: Callable[[ImageKind], Path]) -> None:
        self.place, self.point = place, place / "point"
        self.point.mkdir()
        self._pristine = pristine

    def copy(self, kind: ImageKind, name: str = "image") -> Path:
        """Copy one as it is, with its holes."""
        copy = self.place / name
        subprocess.run(["cp", "--sparse=always", self._pristine(kind), copy], check=True)
        return copy

    def mount(self, kind: str, image: str | Path, words: str = "", **more: Any) -> int | None:
        """Mount one on the point."""
        return mountfd.mount(MountSpec(kind, image, options=words), self.point, **more)

    def refusal(self, kind: str, image: str | Path, words: str = "") -> BaseException:
        """Give the error that mounting ends with; nothing may have been mounted, nor be on a loop device."""
        with pytest.raises((InvalidSpec, KernelError, ExceptionGroup)) as caught:
            self.mount(kind, image, words)
        assert not mountfd.is_mount(self.point)
        if isinstance(image, Path) and image.is_file():
            assert is_off(image)
        return caught.value


@pytest.fixture
def images(scratch: Path, pristine: Callable[[ImageKind], Path]) -> Iterator[Images]:
    """Give images on a tmpfs."""
    with cleared(scratch):
        yield Images(scratch, pristine)


@pytest.fixture
def on_disk(pristine: Callable[[ImageKind], Path]) -> Iterator[Images]:
    """Give images on a disk's filesystem."""
    place = Path(tempfile.mkdtemp(prefix="mountfd-tests-", dir="/var/tmp"))
    try:
        lines = subprocess.run(["stat", "-f", "-c", "%T", place], check=True, capture_output=True, text=True)
        need(lines.stdout.strip() not in {"tmpfs", "overlayfs"}, "a /var/tmp on a disk")
        with cleared(place):
            images = Images(place, pristine)
            yield images
        assert all(is_off(path) for path in place.iterdir() if path.is_file())
    finally:
        (place / "point").rmdir()
        for path in place.iterdir():
            path.unlink()
        place.rmdir()


def is_off(image: Path) -> bool:
    """Wait until no loop device has an image."""
    return any(not attached(image) for _ in guard.patiently())


def digest(image: Path) -> str:
    return hashlib.sha256(image.read_bytes()).hexdigest()


def spoil(image: Path, kind: ImageKind) -> None:
    """Spoil what stands behind the magic of a superblock."""
    with image.open("r+b") as file:
        file.seek(SPOILT[kind])
        file.write(b"\xff" * 64)


def hint_of(error: BaseException) -> str:
    return str(getattr(error, "hint", None))


def log_is_readable() -> bool:
    return os.access("/dev/kmsg", os.R_OK)


# --- mounted ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("typed", [True, False], ids=["typed", "by signature"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_of_each_kind(route: str, images: Images, kind: ImageKind, typed: bool) -> None:
    image = images.copy(kind)
    images.mount(kind if typed else "", image)
    assert (images.point / "file").read_text() == "hello"
    assert fstype(images.point) == kind
    device = source(images.point)
    assert device.startswith("/dev/loop")  # erofs too: a tmpfs is nothing it can have its image on
    assert [info.path for info in attached(image)] == [device]
    findmnt: list[str | Path] = [need_command("findmnt"), "-n", "-o", "SOURCE,FSTYPE", images.point]
    seen = subprocess.run(findmnt, check=True, capture_output=True, text=True).stdout.split()
    assert seen == [device, kind]
    umount(images.point)
    assert is_off(image)


@pytest.mark.parametrize("kind", WRITABLE)
def test_what_is_written_is_there_the_next_time(route: str, images: Images, kind: ImageKind) -> None:
    image = images.copy(kind)
    images.mount(kind, image, "loop")
    (images.point / "new").write_text("kept")
    umount(images.point)
    assert is_off(image)
    images.mount(kind, image)
    assert (images.point / "new").read_text() == "kept"


@pytest.mark.parametrize("words", ["ro", "loop,ro"])
@pytest.mark.parametrize("kind", KINDS)
def test_read_only_leaves_the_image_as_it_was(route: str, images: Images, kind: ImageKind, words: str) -> None:
    image = images.copy(kind)
    before = digest(image)
    images.mount(kind, image, words)
    assert "ro" in vfs(images.point) & fs(images.point)
    assert [info.read_only for info in attached(image)] == [True]
    assert (images.point / "file").read_text() == "hello"
    umount(images.point)
    assert is_off(image)
    assert digest(image) == before


@pytest.mark.parametrize("kind", KINDS)
def test_direct_io_is_had(route: str, on_disk: Images, kind: ImageKind) -> None:
    image = on_disk.copy(kind)
    on_disk.mount(kind, image, "loop,direct-io,ro")
    assert [info.direct_io for info in attached(image)] == [True]
    assert (on_disk.point / "file").read_text() == "hello"


def test_an_image_within_a_larger_file(route: str, images: Images) -> None:
    image = images.copy("ext4")
    whole = images.place / "whole"
    whole.write_bytes(bytes(MIB) + image.read_bytes() + bytes(MIB))
    images.mount("", whole, "offset=1M,sizelimit=8M")
    assert (images.point / "file").read_text() == "hello"
    assert [(info.offset, info.sizelimit) for info in attached(whole)] == [(MIB, 8 * MIB)]


def test_a_device_of_ones_choice(route: str, images: Images) -> None:
    image = images.copy("ext4")
    with LoopDevice.attach(image) as device:
        free = device.path
    assert is_off(image)
    images.mount("ext4", image, f"loop={free}")
    assert source(images.point) == free


def test_a_device_that_is_one_already(route: str, images: Images) -> None:
    with LoopDevice.attach(images.copy("ext4")) as device:
        images.mount("", device.path)
        assert (images.point / "file").read_text() == "hello"
        assert source(images.point) == device.path


@pytest.mark.parametrize("name", ["a b", "com,ma", "new\nline", "col:on", "quo'\"te", "not\udcffutf"])
def test_an_image_of_any_name(route: str, images: Images, name: str) -> None:
    image = images.copy("ext4", name)
    images.mount("", image)
    assert (images.point / "file").read_text() == "hello"


def test_an_image_below_a_relative_path(route: str, images: Images) -> None:
    images.copy("ext4")
    with working_directory(images.place):
        images.mount("ext4", "image")
    assert (images.point / "file").read_text() == "hello"


# --- erofs, with a loop device and without --------------------------------------------------------------------------
def test_erofs_on_a_disk_needs_no_loop_device(on_disk: Images) -> None:
    image = on_disk.copy("erofs")
    on_disk.mount("erofs", image)
    need(not source(on_disk.point).startswith("/dev/loop"), "erofs in a file (Linux 6.12)")
    assert source(on_disk.point) == str(image)
    assert attached(image) == []
    assert (on_disk.point / "file").read_text() == "hello"


def test_erofs_has_a_loop_device_where_that_is_asked_for(route: str, on_disk: Images) -> None:
    image = on_disk.copy("erofs")
    on_disk.mount("erofs", image, "loop")
    assert [info.path for info in attached(image)] == [source(on_disk.point)]


def test_erofs_has_a_loop_device_where_the_kernel_wants_one(on_disk: Images) -> None:
    image = on_disk.copy("erofs")
    with watching(Watch()) as seen:
        on_disk.mount("erofs", image)
    need(not attached(image), "erofs in a file (Linux 6.12)")
    umount(on_disk.point)
    left = [seen.names.count("fsconfig")]  # the last of them creates the filesystem

    def decide(_count: int, name: str, _arguments: tuple[Any, ...]) -> int:
        left[0] -= name == "fsconfig"
        return ENOTBLK if name == "fsconfig" and left[0] == 0 else 0

    with watching(Watch(decide)) as watch:
        on_disk.mount("erofs", image)
    assert watch.hit == "fsconfig"
    assert [info.path for info in attached(image)] == [source(on_disk.point)]


# --- the same image twice --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_mounted_twice_is_on_one_device(route: str, images: Images, kind: ImageKind) -> None:
    image, second = images.copy(kind), images.place / "second"
    images.mount(kind, image, reuse_loop=True)
    put_again(kind, image, second)
    assert source(second) == source(images.point)
    assert os.stat(second).st_dev == os.stat(images.point).st_dev
    umount(images.point)
    assert (second / "file").read_text() == "hello"
    assert len(attached(image)) == 1
    umount(second)
    assert is_off(image)


def put_again(kind: str, image: Path, target: Path, words: str = "") -> None:
    target.mkdir(exist_ok=True)
    mountfd.mount(MountSpec(kind, image, options=words), target, reuse_loop=True)


def test_an_image_that_stands_read_only_is_not_mounted_for_writing(route: str, images: Images) -> None:
    image = images.copy("ext4")
    images.mount("ext4", image, "ro", reuse_loop=True)
    with pytest.raises(Busy, match="loop") as caught:
        put_again("ext4", image, images.place / "second")
    assert "read-only" in hint_of(caught.value)
    put_again("ext4", image, images.place / "second", "ro")


def test_flags_of_a_filesystem_that_stands_do_not_mix(route: str, images: Images) -> None:
    image = images.copy("ext4")
    images.mount("ext4", image, reuse_loop=True)
    with pytest.raises(KernelError) as caught:
        put_again("ext4", image, images.place / "second", "ro")
    assert isinstance(caught.value, Busy)
    assert "`ro` and `rw` don't mix" in hint_of(caught.value)
    assert len(attached(image)) == 1


def test_many_threads_get_one_device(images: Images) -> None:
    image = images.copy("ext4")
    points = [images.place / f"point{number}" for number in range(12)]
    errors: list[BaseException] = []

    def act(point: Path) -> None:
        try:
            put_again("ext4", image, point)
        except BaseException as error:  # noqa: BLE001 (looked at below)
            errors.append(error)

    in_parallel(act, points)
    assert errors == []
    assert len({source(point) for point in points}) == 1
    for point in points:
        umount(point)
    assert is_off(image)


def in_parallel(act: Callable[[Path], None], places: list[Path]) -> None:
    threads = [threading.Thread(target=act, args=(place,)) for place in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# --- refused ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_type_is_told_with_what_it_is(route: str, images: Images, kind: ImageKind) -> None:
    image, wrong = images.copy(kind), "ext4" if kind == "xfs" else "xfs"
    error = images.refusal(wrong, image)
    assert isinstance(error, KernelError)
    assert error.errno == EINVAL
    assert (error.filename, error.hint) == (str(image), f"{str(image)!r} holds {kind}, not {wrong}")
    if log_is_readable():
        assert any(line.lower().startswith(wrong) for line in error.log)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_superblock_is_told_in_the_kernels_words(route: str, images: Images, kind: ImageKind) -> None:
    image = images.copy(kind)
    spoil(image, kind)
    error = images.refusal(kind, image)
    assert isinstance(error, KernelError)
    assert error.errno in {EINVAL, EIO, EUCLEAN}
    assert "damaged" in hint_of(error)
    if log_is_readable():
        assert error.log
        assert {f"kernel: {line}" for line in error.log} <= {*error.__notes__}


@pytest.mark.parametrize("kind", list(KEPT))
def test_an_image_that_was_cut_short(route: str, images: Images, kind: ImageKind) -> None:
    image = images.copy(kind)
    os.truncate(image, KEPT[kind])
    error = images.refusal("", image)
    assert isinstance(error, KernelError)
    assert error.errno in {EINVAL, EIO, EUCLEAN}
    assert f"the {kind} on {str(image)!r} is damaged" in hint_of(error)
    if log_is_readable() and kind != "squashfs":  # which says nothing of this
        assert error.log


def test_an_image_on_a_full_disk(images: Images) -> None:
    full = images.place / "full"
    put("tmpfs", "full", full, "size=40m")
    image = full / "image"
    subprocess.run(["cp", "--sparse=always", images.copy("xfs"), image], check=True)
    fill_up(full / "fill")
    error = images.refusal("xfs", image)
    # Older kernels' loop devices say EIO, whatever their files say.
    assert isinstance(error, KernelError)
    assert isinstance(error, LimitReached) if error.errno == ENOSPC else error.errno == EIO
    assert (
        error.hint
        == f"the disk that {str(image)!r} lies on is full, and a filesystem writes when it is mounted: ask for `ro`"
    )
    assert [note for note in error.__notes__ if note.startswith("hint")] == [f"hint: {error.hint}"]
    images.mount("xfs", image, "ro,norecovery")
    assert (images.point / "file").read_text() == "hello"


def fill_up(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (MIB, 4096):
            while os.statvfs(path).f_bavail * 4096 >= size:
                file.write(bytes(size))


@pytest.mark.parametrize("words", ["", "rw", "loop"])
@pytest.mark.parametrize("kind", WRITABLE)
def test_an_image_that_cannot_be_written(images: Images, kind: ImageKind, words: str) -> None:
    guarded = images.place / "guarded"
    put("tmpfs", "guarded", guarded)
    image = guarded / "image"
    subprocess.run(["cp", "--sparse=always", images.copy(kind), image], check=True)
    mountfd.mount(MountSpec("", "", options="remount,ro"), guarded)
    error = images.refusal(kind, image, words)
    assert isinstance(error, KernelError)
    assert (error.errno, error.hint) == (EACCES, "the device can only be read: ask for `ro`")
    images.mount(kind, image, "ro")
    assert (images.point / "file").read_text() == "hello"


@pytest.mark.parametrize(("name", "words"), [("swap", "swap space"), ("luks", "an encrypted volume (LUKS)")])
def test_what_is_no_filesystem_is_called_by_its_name(route: str, images: Images, name: str, words: str) -> None:
    image = images.place / name
    image.write_bytes(bytes(20 * MIB))
    if name == "swap":
        image.chmod(0o600)
        subprocess.run([need_command("mkswap"), "-q", image], check=True)
    else:
        cheap = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]
        line: list[str | Path] = [need_command("cryptsetup"), "luksFormat", "--batch-mode", *cheap, image]
        subprocess.run(line, check=True, input=b"secret")
    error = images.refusal("", image)
    assert isinstance(error, InvalidSpec)
    assert str(error) == f"{str(image)!r} holds {words}: that can't be mounted"
    assert images.refusal("ext4", image).hint == f"{str(image)!r} holds {words}, not ext4"  # type: ignore[attr-defined]


def test_two_signatures_are_one_too_many(route: str, images: Images) -> None:
    image = images.copy("ext4")
    with image.open("r+b") as file:
        file.write(b"XFSB")
    error = images.refusal("", image)
    assert str(error) == f"{str(image)!r} bears the signatures of xfs, ext4: say the type"
    images.mount("ext4", image)
    umount(images.point)
    images.mount("noxfs", image)
    assert fstype(images.point) == "ext4"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_bytes(b""), "bears no signature of a filesystem"),
        (lambda path: path.write_bytes(b"text" * 500_000), "bears no signature of a filesystem"),
        (lambda path: path.mkdir(), "is a directory"),
        (os.mkfifo, "bears no signature of a filesystem"),
        (lambda path: path.symlink_to("/dev/zero"), "bears no signature of a filesystem"),
    ],
    ids=["empty", "text", "directory", "fifo", "character device"],
)
def test_what_holds_nothing(route: str, images: Images, make: Callable[[Path], object], words: str) -> None:
    path = images.place / "odd"
    make(path)
    error = images.refusal("", path)
    assert isinstance(error, InvalidSpec)
    assert words in str(error)
    assert isinstance(images.refusal("ext4", path), KernelError)


@pytest.mark.parametrize(("label", "kind"), [("gpt", "a GPT"), ("dos", "an MBR")])
@pytest.mark.parametrize("words", ["", "loop,partscan"])
def test_partitions_are_said_to_be_partitions(route: str, images: Images, label: str, kind: str, words: str) -> None:
    disk = images.place / "disk"
    partitioned(disk, label, images.copy("ext4"))
    error = images.refusal("", disk, words)
    assert isinstance(error, InvalidSpec)
    assert f"holds partitions ({kind})" in str(error)
    assert f"offset= ({FIRST * SECTOR} for the first)" in str(error)
    images.mount("", disk, f"offset={FIRST * SECTOR}")
    assert fstype(images.point) == "ext4"


@pytest.mark.parametrize("label", ["gpt", "dos"])
def test_the_kernel_finds_the_same_partition(images: Images, label: str) -> None:
    disk = images.place / "disk"
    partitioned(disk, label, images.copy("ext4"))
    with LoopDevice.attach(disk, partscan=True, read_only=True) as device:
        name = device.path.rpartition("/")[2]
        need(Path(f"/sys/block/{name}/{name}p1").exists(), f"partitions of the kind {label} in this kernel")
        assert int(Path(f"/sys/block/{name}/{name}p1/start").read_text()) == FIRST


SECTOR, FIRST = 512, 2048


def partitioned(disk: Path, label: str, image: Path) -> None:
    """Make a disk with a table of partitions, and an image in its first one."""
    size = image.stat().st_size
    data = bytearray(4 * MIB + size)
    last = FIRST + size // SECTOR - 1
    kind, begin, length = (0xEE, 1, len(data) // SECTOR - 1) if label == "gpt" else (0x83, FIRST, size // SECTOR)
    data[446:462] = struct.pack("<B3xB3xII", 0, kind, begin, length)
    data[510:512] = b"\x55\xaa"
    if label == "gpt":
        linux = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4").bytes_le
        entries = struct.pack("<16s16sQQ80x", linux, uuid.uuid4().bytes_le, FIRST, last).ljust(128 * 128, b"\0")
        end = len(data) // SECTOR - 1
        known = (end, 34, end - 34, uuid.uuid4().bytes_le, 2, 128, 128, zlib.crc32(entries))
        header = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, 1, *known)
        data[SECTOR : SECTOR + 92] = header[:16] + struct.pack("<I", zlib.crc32(header)) + header[20:]
        data[2 * SECTOR : 2 * SECTOR + len(entries)] = entries
    data[FIRST * SECTOR : FIRST * SECTOR + size] = image.read_bytes()
    disk.write_bytes(data)


def test_an_image_that_is_not_there(route: str, images: Images) -> None:
    for kind, words in (("", ""), ("ext4", ""), ("ext4", "loop")):
        error = images.refusal(kind, images.place / "nowhere", words)
        assert isinstance(error, Missing)
        assert error.filename == str(images.place / "nowhere")


def test_several_types_are_tried_in_turn(route: str, images: Images) -> None:
    image = images.copy("ext4")
    images.mount("btrfs,xfs,ext4", image)
    assert fstype(images.point) == "ext4"
    assert len(attached(image)) == 1
    umount(images.point)
    assert is_off(image)
    error = images.refusal("btrfs,xfs", image)
    assert isinstance(error, ExceptionGroup)
    assert [hint_of(each) for each in error.exceptions] == [
        f"{str(image)!r} holds ext4, not btrfs",
        f"{str(image)!r} holds ext4, not xfs",
    ]


def test_a_parameter_that_the_filesystem_does_not_know(images: Images) -> None:
    error = images.refusal("ext4", images.copy("ext4"), "nonsense=1")
    assert isinstance(error, KernelError)
    assert any("nonsense" in line for line in error.log)


def test_each_error_tells_of_its_own_image_alone(images: Images) -> None:
    need(log_is_readable(), "the kernel's log")
    broken = [images.copy("ext4", f"broken{number}") for number in range(8)]
    for image in broken:
        os.truncate(image, 4 * MIB)
    logs: dict[Path, list[tuple[str, ...]]] = {image: [] for image in broken}

    def act(image: Path) -> None:
        point = image.with_name(f"{image.name}.point")
        point.mkdir()
        for _ in range(10):
            with pytest.raises(KernelError) as caught:
                mountfd.mount(MountSpec("ext4", image), point)
            logs[image].append(caught.value.log)

    in_parallel(act, broken)
    assert [len(each) for each in logs.values()] == [10] * 8
    for lines in (line for each in logs.values() for line in each):
        assert len(lines) == 1
        assert "bad geometry" in lines[0]


def test_a_failure_at_any_call_leaves_no_device(route: str, images: Images) -> None:
    image = images.copy("squashfs")
    with watching(Watch()) as seen:
        images.mount("squashfs", image)
    umount(images.point)
    for number in range(1, len(seen.names) + 1):
        try:
            with watching(failing(number, EIO)):
                images.mount("squashfs", image)
        except (KernelError, ExceptionGroup):
            assert not mountfd.is_mount(images.point)
        else:
            umount(images.point)
        assert is_off(image), seen.names[number - 1]


def test_a_journal_that_cannot_be_replayed_names_the_word_that_does_without(route: str, images: Images) -> None:
    need_command("mkfs.ext4")
    image, dirty = images.copy("ext4"), images.place / "dirty"
    images.mount("ext4", image)
    (images.point / "new").write_text("n")
    os.sync()
    subprocess.run(["cp", "--sparse=always", image, dirty], check=True)
    umount(images.point)
    error = images.refusal("ext4", dirty, "ro")
    assert isinstance(error, KernelError)
    assert error.errno == EROFS
    assert "noload" in str(error.hint)
    images.mount("ext4", dirty, "ro,noload")
    umount(images.point)


def test_an_image_that_is_mounted_read_only_already_is_told_in_words_of_options(images: Images) -> None:
    image = images.copy("ext4")
    images.mount("ext4", image, "ro", reuse_loop=True)
    with pytest.raises(KernelError) as caught:
        images.mount("ext4", image, reuse_loop=True)
    assert "ask for `ro`" in str(caught.value.hint)
    images.mount("ext4", image, "ro", reuse_loop=True)
    umount(images.point)
    umount(images.point)


def test_a_named_loop_device_that_was_made_goes_when_the_mount_fails(route: str, images: Images) -> None:
    image = images.copy("ext4")
    number = next(each for each in range(900, 1000) if not os.path.lexists(f"/dev/loop{each}"))
    error = images.refusal("xfs", image, f"loop=/dev/loop{number}")
    assert isinstance(error, KernelError)
    assert not os.path.lexists(f"/dev/loop{number}")
    with pytest.raises(mountfd.Missing):
        images.mount("ext4", images.place / "no-image", f"loop=/dev/loop{number}")
    assert not os.path.lexists(f"/dev/loop{number}")
    with pytest.raises(KernelError):
        images.mount("ext4", image, f"loop=/dev/loop{number},X-mount.subdir=nowhere")
    assert not os.path.lexists(f"/dev/loop{number}")
    with pytest.raises(KernelError, match="Read-only"):
        images.mount("ext4", image, f"ro,loop=/dev/loop{number},X-mount.owner=1")
    assert not os.path.lexists(f"/dev/loop{number}")


def test_a_source_over_255_bytes_goes_on_a_loop_device_too(images: Images) -> None:
    home = images.place
    for _ in range(3):
        home /= "d" * 100
        home.mkdir()
    image = home / "image"
    shutil.copy(images.copy("ext4"), image)
    images.mount("ext4", image, "ro=vfs")
    assert (images.point / "file").read_text() == "hello"
    umount(images.point)
    assert is_off(image)
