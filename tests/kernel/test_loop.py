from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from errno import EAGAIN, EBUSY, EINVAL, EISDIR, ENOENT, ENOTBLK, ENOTTY, ENXIO
from pathlib import Path
from typing import Any, get_args

import pytest

import mountfd
from mountfd import Attr, Busy, Denied, FsContext, InvalidSpec, KernelError, Missing, NotSupported, param
from mountfd.handles.loop import LoopDevice, attached
from mountfd.lowlevel import numbers
from mountfd.model.signature import signatures
from tests.support import guard
from tests.support.images import ImageKind, image_file
from tests.support.inject import Watch, watching
from tests.support.need import need, need_command, need_real_root
from tests.support.others import NOBODY, in_child

SECTOR = 512
LOOP_CTL_REMOVE = 0x4C81


@pytest.fixture(autouse=True)
def loop_devices() -> None:
    need_real_root()
    need(Path("/dev/loop-control").exists(), "loop devices")


@pytest.fixture(params=["configure", "status"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force each way to put an image on a device."""
    name: str = request.param
    monkeypatch.setenv("MOUNTFD_ROUTE", f"loop:{name}")
    return name


@pytest.fixture
def image(scratch: Path) -> Path:
    """Give a file of 64 sectors, each filled with its number."""
    return make(scratch / "image")


@pytest.fixture
def on_disk() -> Iterator[Path]:
    """Give a file on a disk's filesystem, which has direct I/O; a tmpfs's has not."""
    place = Path("/var/tmp")  # noqa: S108 (the pid is in the name, and nothing else is there)
    need(b" - tmpfs " not in line_of(place), "a /var/tmp on a disk")
    path = make(place / f"mountfd-tests-{os.getpid()}.img")
    yield path
    path.unlink()


def make(path: Path, sectors: int = 64) -> Path:
    path.write_bytes(b"".join(bytes([number]) * SECTOR for number in range(sectors)))
    return path


def line_of(path: Path) -> bytes:
    """Find the table's line of the mount that a path lies on."""
    device = os.stat(path).st_dev
    key = f" {os.major(device)}:{os.minor(device)} ".encode()
    return next((line for line in Path("/proc/self/mountinfo").read_bytes().split(b"\n") if key in line), b"")


def content(device: LoopDevice) -> bytes:
    return Path(device.path).read_bytes()


def is_free(number: int) -> bool:
    """Wait until the device has no image."""
    return any(not Path(f"/sys/block/loop{number}/loop").exists() for _ in guard.patiently())


def losetup(*words: str) -> str:
    done = subprocess.run([need_command("losetup"), *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def refusing(*requests: int, errno: int, times: int = 1 << 30) -> Watch:
    """Fail ioctls of these requests, that many times."""
    left = [times]

    def decide(_count: int, name: str, arguments: tuple[Any, ...]) -> int:
        if not name.startswith("ioctl") or arguments[1] not in requests or not left[0]:
            return 0
        left[0] -= 1
        return errno

    return Watch(decide)


# --- attach and detach ---------------------------------------------------------------------------------------------
def test_the_device_shows_the_image(route: str, image: Path) -> None:
    with LoopDevice.attach(image) as device:
        assert device.path == f"/dev/loop{device.number}"
        assert stat.S_ISBLK(os.stat(device.path).st_mode)
        assert content(device) == image.read_bytes()
        info = device.info()
        about = image.stat()
    assert (info.path, info.number) == (device.path, device.number)
    assert info.backing_file == str(image)
    assert info.dev == (os.major(about.st_dev), os.minor(about.st_dev))
    assert info.inode == about.st_ino
    assert (info.offset, info.sizelimit, info.rdev) == (0, 0, (0, 0))
    assert (info.read_only, info.autoclear, info.direct_io, info.partscan) == (False, True, False, False)


def test_closed_handle_frees_the_device(route: str, image: Path) -> None:
    with LoopDevice.attach(image) as device:
        assert not os.get_inheritable(device.fileno())
    assert is_free(device.number)
    assert attached(image) == []


def test_detached_device_has_no_image(route: str, image: Path) -> None:
    with LoopDevice.attach(image) as device:
        device.detach()
        for use in (device.info, device.detach):
            with pytest.raises(KernelError) as caught:
                use()
            assert (caught.value.errno, caught.value.filename) == (ENXIO, device.path)
            assert caught.value.hint == "this loop device has no image"


def test_without_autoclear_the_image_stays(route: str, image: Path) -> None:
    with LoopDevice.attach(image, autoclear=False) as device:
        assert not device.info().autoclear
    with LoopDevice.open(device.path) as again:
        assert again.info().backing_file == str(image)
        again.detach()
    assert is_free(device.number)


def test_second_handle_keeps_the_image(image: Path) -> None:
    device = LoopDevice.attach(image)
    with device.dup() as other:
        device.close()
        assert other.number == device.number
        assert other.info().backing_file == str(image)
    assert is_free(device.number)


def test_detach_waits_for_who_has_it_open(image: Path) -> None:
    with LoopDevice.attach(image, autoclear=False) as device, LoopDevice.open(device.path) as other:
        device.detach()
        assert other.info().autoclear
    assert is_free(device.number)


def test_written_bytes_come_to_the_image(route: str, image: Path) -> None:
    with LoopDevice.attach(image) as device:
        os.pwrite(device.fileno(), b"x" * SECTOR, 2 * SECTOR)
        os.fsync(device.fileno())
        assert image.read_bytes()[2 * SECTOR : 3 * SECTOR] == b"x" * SECTOR


def test_read_only_device_takes_no_bytes(route: str, image: Path) -> None:
    before = image.read_bytes()
    with LoopDevice.attach(image, read_only=True) as device:
        assert device.info().read_only
        with pytest.raises(PermissionError):
            Path(device.path).write_bytes(b"x" * SECTOR)
    assert image.read_bytes() == before


@pytest.mark.parametrize(
    ("offset", "sizelimit", "sectors"), [(1024, 0, 62), (0, 2048, 4), (512, 1024, 2), (32256, 9999, 1)]
)
def test_part_of_an_image(route: str, image: Path, offset: int, sizelimit: int, sectors: int) -> None:
    with LoopDevice.attach(image, offset=offset, sizelimit=sizelimit) as device:
        assert content(device) == image.read_bytes()[offset:][: sectors * SECTOR]
        info = device.info()
    assert (info.offset, info.sizelimit) == (offset, sizelimit)


def test_block_size(route: str, image: Path) -> None:
    with LoopDevice.attach(image, block_size=4096) as device:
        assert Path(f"/sys/block/loop{device.number}/queue/logical_block_size").read_text() == "4096\n"


def test_partitions_are_scanned(route: str, image: Path) -> None:
    with LoopDevice.attach(image, partscan=True) as device:
        assert device.info().partscan


def test_direct_io(route: str, on_disk: Path) -> None:
    with LoopDevice.attach(on_disk, direct_io=True) as device:
        assert device.info().direct_io
        assert content(device) == on_disk.read_bytes()


@pytest.mark.parametrize("autoclear", [True, False])
def test_direct_io_that_cannot_be_had_is_an_error(route: str, on_disk: Path, autoclear: bool) -> None:
    with pytest.raises(NotSupported, match="direct I/O") as caught:
        LoopDevice.attach(on_disk, offset=100, direct_io=True, autoclear=autoclear)
    assert caught.value.filename == str(on_disk)
    assert attached(on_disk) == []


def test_memory_is_an_image_too_but_without_direct_io(route: str) -> None:
    fd = os.memfd_create("image")
    try:
        os.truncate(fd, 1 << 20)
        with LoopDevice.attach(fd) as device:
            assert device.info().inode == os.fstat(fd).st_ino
        with pytest.raises(NotSupported):
            LoopDevice.attach(fd, direct_io=True)
        assert attached(fd) == []
    finally:
        os.close(fd)


@pytest.mark.parametrize("name", [b"a b", b"a\nb", b"\xff\xfe", b"a\\134b", b"\n", b"x" * 200, b"gone (deleted)"])
def test_odd_names(route: str, scratch: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(scratch), name)
    make(Path(os.fsdecode(path)))
    with LoopDevice.attach(path) as device:
        assert os.fsencode(device.info().backing_file or "") == path
        assert [info.number for info in attached(path)] == [device.number]


def test_empty_image(route: str, scratch: Path) -> None:
    (scratch / "empty").touch()
    with LoopDevice.attach(scratch / "empty") as device:
        assert content(device) == b""


def test_descriptor_of_an_image_stays_the_callers(route: str, image: Path) -> None:
    with image.open("r+b", buffering=0) as file:
        os.set_blocking(file.fileno(), False)
        with LoopDevice.attach(file.fileno()) as device:
            assert device.info().backing_file == str(image)
        assert os.pread(file.fileno(), 1, SECTOR) == b"\1"
        assert not os.get_blocking(file.fileno())


def test_a_loop_device_is_an_image_too(route: str, image: Path) -> None:
    with LoopDevice.attach(image) as below, LoopDevice.attach(below.path, offset=SECTOR) as above:
        assert content(above) == image.read_bytes()[SECTOR:]
        assert above.info().rdev == (numbers.LOOP_MAJOR, below.number)
        assert [info.number for info in attached(below.path)] == [above.number]


# --- refusals ------------------------------------------------------------------------------------------------------
def test_missing_image(scratch: Path) -> None:
    with pytest.raises(Missing) as caught:
        LoopDevice.attach(scratch / "none")
    assert caught.value.filename == str(scratch / "none")
    with pytest.raises(Missing):
        attached(scratch / "none")


@pytest.mark.parametrize("read_only", [True, False])
def test_what_is_no_image(scratch: Path, read_only: bool) -> None:
    os.mkfifo(scratch / "fifo")
    for name, errno in ((scratch, EISDIR), (scratch / "fifo", ENOTBLK), (Path("/dev/null"), ENOTBLK)):
        with pytest.raises(KernelError) as caught:
            LoopDevice.attach(name, read_only=read_only)
        assert (caught.value.errno, caught.value.filename) == (errno, str(name))
        assert caught.value.hint == "an image is a regular file or a block device"


def test_descriptors_that_are_no_image(image: Path, scratch: Path) -> None:
    for flags, words in ((os.O_PATH, "O_PATH"), (os.O_WRONLY, "writing only"), (os.O_RDONLY, "reading only")):
        fd = os.open(image, flags)
        try:
            with pytest.raises(InvalidSpec, match=words) as caught:
                LoopDevice.attach(fd)
        finally:
            os.close(fd)
        assert caught.value.part == "image"
        assert str(image) in str(caught.value)
    for number in (-1, fd):
        for use in (LoopDevice.attach, attached):
            with pytest.raises(KernelError, match="Bad file descriptor"):
                use(number)
    directory = os.open(scratch, os.O_RDONLY)
    try:
        with pytest.raises(KernelError, match="Is a directory"):
            LoopDevice.attach(directory, read_only=True)
    finally:
        os.close(directory)


def test_descriptor_for_reading_gives_a_read_only_device(route: str, image: Path) -> None:
    with image.open("rb") as file, LoopDevice.attach(file.fileno(), read_only=True) as device:
        assert device.info().read_only


def test_image_that_can_only_be_read(scratch: Path) -> None:
    image = make(scratch / "image")
    subprocess.run(["mount", "-o", "remount,ro", scratch], check=True)
    try:
        with pytest.raises(KernelError, match="Read-only") as caught:
            LoopDevice.attach(image)
        assert "read_only=True" in (caught.value.hint or "")
        with LoopDevice.attach(image, read_only=True) as device:
            assert device.info().read_only
    finally:
        subprocess.run(["mount", "-o", "remount,rw", scratch], check=True)


@pytest.mark.parametrize(
    "words",
    [
        {"offset": -1},
        {"sizelimit": -1},
        {"offset": 1 << 63},
        {"block_size": 3000},
        {"block_size": 256},
        {"block_size": -512},
    ],
)
def test_numbers_that_cannot_be(image: Path, words: dict[str, int]) -> None:
    with pytest.raises(InvalidSpec) as caught:
        LoopDevice.attach(image, **words)  # type: ignore[arg-type]
    assert caught.value.part in words


def test_what_is_no_loop_device(image: Path, scratch: Path) -> None:
    os.mkfifo(scratch / "fifo")
    others = (path for path in Path("/dev").iterdir() if not path.name.startswith("loop"))
    disk = next((path for path in others if path.is_block_device()), None)
    need(disk, "a disk")
    for path, errno in (
        (image, ENOTBLK),
        (scratch, ENOTBLK),
        (scratch / "fifo", ENOTBLK),
        (disk, ENOTTY),
        ("/none", ENOENT),
    ):
        with pytest.raises(KernelError) as caught:
            LoopDevice.open(path)  # type: ignore[arg-type]
        assert (caught.value.errno, caught.value.filename) == (errno, str(path))


def test_descriptor_of_something_else_is_no_handle(image: Path) -> None:
    fd = os.open(image, os.O_RDONLY)
    with pytest.raises(KernelError) as caught:
        LoopDevice(fd)
    assert caught.value.errno == ENOTBLK
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_ordinary_user_is_told_who_may(scratch: Path, image: Path) -> None:
    image.chmod(0o666)
    for way in (scratch, *scratch.parents[:-1]):
        if not way.stat().st_mode & 1:
            need(False, f"a directory {way} that others may enter")
    with LoopDevice.attach(image):
        for use in (LoopDevice.attach, attached):
            with pytest.raises(Denied, match="/dev/loop") as caught:
                in_child(lambda use=use: use(image) and None, NOBODY)  # type: ignore[misc]
            assert "loop devices are for root" in (caught.value.hint or "")
    unreadable = make(scratch / "secret")
    unreadable.chmod(0o600)
    with pytest.raises(Denied, match="secret"):
        in_child(lambda: LoopDevice.attach(unreadable) and None, NOBODY)


def test_errors_travel(image: Path) -> None:
    with LoopDevice.attach(image) as device, pytest.raises(Busy) as caught:
        LoopDevice.attach(image, device=device.path)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.hint) == (str(caught.value), caught.value.hint)


# --- a device of that name -----------------------------------------------------------------------------------------
def test_named_device(route: str, image: Path, scratch: Path) -> None:
    with LoopDevice.attach(image) as device:
        free = device.path
    assert is_free(device.number)
    with LoopDevice.attach(image, device=free, read_only=True) as device:
        assert device.path == free
        other = make(scratch / "other")
        for reuse in (False, True):
            with pytest.raises(Busy, match=free) as caught:
                LoopDevice.attach(other, device=free, read_only=True, reuse=reuse)
            assert "it has another image" in (caught.value.hint or "")
            assert str(image) in (caught.value.hint or "")
        with pytest.raises(Busy) as caught:
            LoopDevice.attach(image, device=free)
        assert "it has this image already" in (caught.value.hint or "")
        with pytest.raises(Busy) as caught:
            LoopDevice.attach(image, device=free, offset=SECTOR, reuse=True)
        assert "other bytes" in (caught.value.hint or "")
        with LoopDevice.attach(image, device=free, read_only=True, reuse=True) as again:
            assert again.number == device.number


def removed(control: int, number: int) -> bool:
    with contextlib.suppress(OSError):  # EBUSY: it is not free yet, or udev looks at it
        fcntl.ioctl(control, LOOP_CTL_REMOVE, number)
    return not os.path.exists(f"/dev/loop{number}")


def test_named_device_is_made(image: Path) -> None:
    number = 1000 + os.getpid() % 1000
    assert not os.path.exists(f"/dev/loop{number}")
    with LoopDevice.attach(image, device=f"/dev/loop{number}") as device:
        assert device.number == number
    with open("/dev/loop-control", "rb") as control:
        assert any(removed(control.fileno(), number) for _ in guard.patiently())
    assert not os.path.exists(f"/dev/loop{number}")


def test_named_device_that_is_none(image: Path) -> None:
    for name in ("/dev/null", str(image), "/dev/loopy", "/dev/loop007", "/dev/loop1048576", ""):
        with pytest.raises((KernelError, InvalidSpec)):
            LoopDevice.attach(image, device=name)


# --- reuse ---------------------------------------------------------------------------------------------------------
def test_reuse_gives_the_device_that_there_is(route: str, image: Path) -> None:
    link = image.with_name("link")
    link.symlink_to(image)
    hard = image.with_name("hard")
    hard.hardlink_to(image)
    with LoopDevice.attach(image, reuse=True) as first:
        for name in (image, link, hard):
            with LoopDevice.attach(name, reuse=True) as second:
                assert second.number == first.number
                os.pwrite(second.fileno(), b"y", 0)
        first.close()
        with LoopDevice.open(second.path) as third:
            pass
    assert is_free(third.number)


def test_without_reuse_each_has_its_own(image: Path) -> None:
    with LoopDevice.attach(image) as first, LoopDevice.attach(image) as second:
        assert first.number != second.number
        assert [info.number for info in attached(image)] == sorted([first.number, second.number])


def test_reused_device_lives_as_long_as_its_last_user(image: Path) -> None:
    first = LoopDevice.attach(image, reuse=True)
    with LoopDevice.attach(image, reuse=True) as second:
        first.close()
        assert second.info().backing_file == str(image)
    assert is_free(second.number)


def test_devices_of_losetup_are_reused(image: Path) -> None:
    path = losetup("--find", "--show", str(image))
    try:
        with LoopDevice.attach(image, reuse=True) as device:
            assert device.path == path
            assert not device.info().autoclear
        with LoopDevice.attach(image, reuse=True, read_only=True) as device:
            assert device.path == path
    finally:
        losetup("--detach", path)


def test_a_new_file_of_the_same_name_is_another(image: Path) -> None:
    with LoopDevice.attach(image, reuse=True) as first:
        image.unlink()
        make(image)
        assert (first.info().backing_file or "").endswith("image (deleted)")
        assert attached(image) == []
        with LoopDevice.attach(image, reuse=True) as second:
            assert first.number != second.number


@pytest.mark.parametrize(
    ("there", "wanted"), [((1000, 0), (0, 0)), ((0, 0), (0, 1024)), ((0, 1024), (512, 1024)), ((1024, 512), (0, 4096))]
)
def test_overlapping_device_is_an_error(image: Path, there: tuple[int, int], wanted: tuple[int, int]) -> None:
    with LoopDevice.attach(image, offset=there[0], sizelimit=there[1]) as device:
        with pytest.raises(Busy, match=device.path) as caught:
            LoopDevice.attach(image, offset=wanted[0], sizelimit=wanted[1], reuse=True)
        assert "overlapping loop device" in (caught.value.hint or "")
        assert len(attached(image)) == 1
        with LoopDevice.attach(image, offset=wanted[0], sizelimit=wanted[1]):
            assert len(attached(image)) == 2


@pytest.mark.parametrize(
    ("there", "wanted"), [((0, 1024), (1024, 0)), ((1024, 512), (0, 1024)), ((1024, 512), (1536, 512))]
)
def test_parts_side_by_side_have_devices_of_their_own(
    image: Path, there: tuple[int, int], wanted: tuple[int, int]
) -> None:
    with (
        LoopDevice.attach(image, offset=there[0], sizelimit=there[1]) as first,
        LoopDevice.attach(image, offset=wanted[0], sizelimit=wanted[1], reuse=True) as second,
    ):
        assert first.number != second.number


def test_read_only_device_is_not_reused_for_writing(image: Path) -> None:
    with LoopDevice.attach(image, read_only=True) as device:
        with pytest.raises(Busy, match=device.path) as caught:
            LoopDevice.attach(image, reuse=True)
        assert "read-only" in (caught.value.hint or "")
        with LoopDevice.attach(image, read_only=True, reuse=True) as again:
            assert again.number == device.number
        with LoopDevice.attach(image) as writable, LoopDevice.attach(image, reuse=True) as again:
            assert again.number == writable.number


@pytest.mark.parametrize("words", [{"partscan": True}, {"block_size": 4096}, {"direct_io": True}])
def test_reused_device_has_all_that_is_asked_for(on_disk: Path, words: dict[str, Any]) -> None:
    with LoopDevice.attach(on_disk):
        with pytest.raises(Busy) as caught:
            LoopDevice.attach(on_disk, reuse=True, **words)
        assert "without" in (caught.value.hint or "") or "blocks of 512" in (caught.value.hint or "")
    with LoopDevice.attach(on_disk, **words) as device, LoopDevice.attach(on_disk, reuse=True, **words) as again:
        assert again.number == device.number


def test_reuse_while_another_holds_the_lock(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mountfd.handles.loop._PATIENCE", 0.1)
    with open("/dev/loop-control", "rb") as control:
        fcntl.flock(control, fcntl.LOCK_EX)
        with pytest.raises(KernelError, match="loop-control") as caught:
            LoopDevice.attach(image, reuse=True)
        assert caught.value.errno == EAGAIN
        LoopDevice.attach(image).close()
    LoopDevice.attach(image, reuse=True).close()


# --- many at once, and the end of processes ------------------------------------------------------------------------
def together(count: int, act: Callable[[int], None]) -> None:
    failures: list[BaseException] = []
    start = threading.Barrier(count)

    def body(number: int) -> None:
        try:
            start.wait()
            act(number)
        except BaseException as error:  # noqa: BLE001 (raised below)
            failures.append(error)

    threads = [threading.Thread(target=body, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@pytest.mark.parametrize("turns", [True, False])
def test_many_threads_attach_at_once(route: str, scratch: Path, monkeypatch: pytest.MonkeyPatch, turns: bool) -> None:
    if not turns:  # as several processes, which don't know of each other
        monkeypatch.setattr("mountfd.handles.loop._TURN_SECONDS", 0)
    images = [make(scratch / f"image{number}") for number in range(16)]

    def act(number: int) -> None:
        for _ in range(10):
            with LoopDevice.attach(images[number]) as device:
                assert device.info().inode == images[number].stat().st_ino

    together(16, act)
    assert [attached(image) for image in images] == [[]] * 16


def test_threads_with_reuse_share_one_device(image: Path) -> None:
    held: list[LoopDevice] = []
    together(8, lambda _: held.append(LoopDevice.attach(image, reuse=True)))
    numbers_seen = {device.number for device in held}
    infos = attached(image)
    for device in held:
        device.close()
    assert len(numbers_seen) == len(infos) == 1


def test_reuse_while_others_let_go(image: Path) -> None:
    def act(_number: int) -> None:
        for _ in range(15):
            with LoopDevice.attach(image, reuse=True) as device:
                assert device.info().inode == image.stat().st_ino
                assert len(attached(image)) == 1

    together(6, act)
    assert attached(image) == []


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from mountfd.handles.loop import LoopDevice
device = LoopDevice.attach(sys.argv[1])
print(device.number, flush=True)
signal.pause()
"""


def test_killed_process_leaves_nothing_attached(image: Path) -> None:
    source = str(Path(mountfd.__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(image), source], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        number = int(child.stdout.readline())
        assert [info.number for info in attached(image)] == [number]
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert is_free(number)


# --- what goes wrong on the way ------------------------------------------------------------------------------------
@pytest.mark.parametrize("errno", [EINVAL, ENOTTY, 38])
def test_kernel_without_loop_configure(image: Path, errno: int) -> None:
    with watching(refusing(numbers.LOOP_CONFIGURE, errno=errno)) as seen:
        with LoopDevice.attach(image, offset=SECTOR, sizelimit=SECTOR, read_only=True, partscan=True) as device:
            assert content(device) == b"\1" * SECTOR
            info = device.info()
        assert seen.hit == "ioctl"
    assert (info.autoclear, info.read_only, info.partscan) == (True, True, True)


@pytest.mark.parametrize("step", [numbers.LOOP_SET_BLOCK_SIZE, numbers.LOOP_SET_STATUS64, numbers.LOOP_SET_DIRECT_IO])
@pytest.mark.parametrize("errno", [EINVAL, 5])
def test_failure_of_a_later_step_frees_the_device(
    on_disk: Path, monkeypatch: pytest.MonkeyPatch, step: int, errno: int
) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", "loop:status")
    with watching(refusing(step, errno=errno)), pytest.raises(KernelError) as caught:
        LoopDevice.attach(on_disk, autoclear=False, direct_io=True, block_size=512)
    assert caught.value.filename == str(on_disk)
    assert isinstance(caught.value, NotSupported) == (step == numbers.LOOP_SET_DIRECT_IO and errno == EINVAL)
    assert attached(on_disk) == []


def test_status_is_set_again_when_the_kernel_asks_for_it(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", "loop:status")
    with watching(refusing(numbers.LOOP_SET_STATUS64, errno=EAGAIN, times=3)), LoopDevice.attach(image) as device:
        assert device.info().autoclear
    monkeypatch.setattr("mountfd.handles.loop_setup.sleep", lambda _seconds: None)
    with watching(refusing(numbers.LOOP_SET_STATUS64, errno=EAGAIN)), pytest.raises(KernelError) as caught:
        LoopDevice.attach(image)
    assert caught.value.errno == EAGAIN
    assert attached(image) == []


@pytest.mark.parametrize("times", [1, 20])
def test_others_are_faster_for_a_while(image: Path, times: int) -> None:
    with watching(refusing(numbers.LOOP_CONFIGURE, errno=EBUSY, times=times)), LoopDevice.attach(image) as device:
        assert device.info().inode == image.stat().st_ino


def test_others_are_faster_for_ever(image: Path) -> None:
    with watching(refusing(numbers.LOOP_CONFIGURE, errno=EBUSY)), pytest.raises(Busy) as caught:
        LoopDevice.attach(image)
    assert "taken by others at once" in (caught.value.hint or "")


def test_route_that_there_is_not(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", "assemble:string,loop:magic")
    with pytest.raises(InvalidSpec, match="configure, status"):
        LoopDevice.attach(image)


# --- a /dev of its own, as in a container --------------------------------------------------------------------------
IN_CONTAINER = """
import os, sys
sys.path.insert(0, sys.argv[2])
from mountfd.handles.loop import LoopDevice, attached
with LoopDevice.attach(sys.argv[1]) as device:
    assert os.listdir("/dev").count(f"loop{device.number}") == 1
    assert open(device.path, "rb").read() == open(sys.argv[1], "rb").read()
    os.unlink(device.path)
    assert [info.number for info in attached(sys.argv[1])] == [device.number]
    assert os.listdir("/dev") == ["loop-control"]
    with LoopDevice.attach(sys.argv[1], reuse=True) as other:
        assert other.number == device.number
    print(oct(os.stat(device.path).st_mode))
"""
CONTAINER = """
set -e
mknod "$1/loop-control" c 10 237
mount --bind "$1" /dev
shift
exec "$@"
"""


def in_container(image: Path, dev: Path, *before: str, script: str = IN_CONTAINER) -> subprocess.CompletedProcess[str]:
    source = str(Path(mountfd.__file__).parents[1])
    command = [*before, sys.executable, "-c", script, str(image), source]
    return subprocess.run(
        [need_command("unshare"), "-m", "sh", "-c", CONTAINER, "sh", str(dev), *command],
        check=False,
        capture_output=True,
        text=True,
    )


def test_missing_nodes_are_made(image: Path, scratch: Path) -> None:
    (scratch / "dev").mkdir()
    done = in_container(image, scratch / "dev")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "0o60600\n"


def test_without_sysfs_the_rest_works(image: Path, scratch: Path) -> None:
    (scratch / "dev").mkdir()
    script = """
import os, subprocess, sys
sys.path.insert(0, sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "none", "/sys"], check=True)
from mountfd.handles.loop import LoopDevice, attached
with LoopDevice.attach(sys.argv[1]) as device:
    (info,) = attached(sys.argv[1])
    assert (info.number, info.backing_file) == (device.number, None)
    assert info.inode == os.stat(sys.argv[1]).st_ino
"""
    done = in_container(image, scratch / "dev", script=script)
    assert done.returncode == 0, done.stderr


def test_missing_nodes_that_cannot_be_made(image: Path, scratch: Path) -> None:
    setpriv = need_command("setpriv")
    (scratch / "dev").mkdir()
    done = in_container(image, scratch / "dev", setpriv, "--bounding-set=-mknod", "--inh-caps=-mknod")
    assert done.returncode != 0
    assert "Denied: mknod: Operation not permitted: '/dev/loop" in done.stderr
    assert "can't be made" in done.stderr


def test_no_loop_control(image: Path, scratch: Path) -> None:
    (scratch / "dev").mkdir()
    script = "import os; os.unlink('/dev/loop-control')\n" + IN_CONTAINER
    done = in_container(image, scratch / "dev", script=script)
    assert "Missing: openat: No such file or directory: '/dev/loop-control'" in done.stderr
    assert "a container needs /dev/loop-control" in done.stderr


def test_node_with_a_wrong_number(image: Path, scratch: Path) -> None:
    (scratch / "dev").mkdir()
    script = "import os\nfor i in range(64): os.mknod(f'/dev/loop{i}', 0o60600, os.makedev(7, i + 1))\n" + IN_CONTAINER
    done = in_container(image, scratch / "dev", script=script)
    assert "somebody made it with a wrong number" in done.stderr


# --- filesystems ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", get_args(ImageKind))
def test_image_is_mounted_and_its_device_goes_with_the_mount(kind: ImageKind, scratch: Path) -> None:
    image = image_file(kind, scratch, {"greeting": "hello", "other": "world"})
    with image.open("rb") as file:
        assert signatures(lambda offset, size: os.pread(file.fileno(), size, offset)) == [kind]
    with LoopDevice.attach(image, read_only=True) as device, FsContext.open(kind) as context:
        context.set(param.String("source", device.path), param.Flag("ro"))
        mount = context.create().mount(Attr.RDONLY)
    with mount:
        (info,) = attached(image)
        assert (info.number, info.read_only) == (device.number, True)
        fd = os.open("greeting", os.O_RDONLY, dir_fd=mount.fileno())
        try:
            assert os.read(fd, 100) == b"hello"
        finally:
            os.close(fd)
    assert is_free(device.number)
