"""holders beyond this process tree: other namespaces, devices, overlays, other users, kernels that tell less."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mountfd
from mountfd import Mount, MountNamespace, lookup
from mountfd.abi import numbers as n
from mountfd.lowlevel import calls
from mountfd.model.holder import Holder
from mountfd.verbs.holders import holders
from tests.kernel.test_holders import another, bind_socket, go_there, is_busy, map_alone, open_file, open_path, seen
from tests.support.images import filesystem
from tests.support.inject import Watch, lacking, watching
from tests.support.mounting import MNT_DETACH, MS_PRIVATE, MS_REC, MS_SHARED, MS_SLAVE, bind, change, tmpfs, umount
from tests.support.need import need, need_command, need_real_root, need_walk_of_namespaces
from tests.support.others import NOBODY, in_child

CLONE_NEWNS = 0x20000
OLD = {
    "no statmount": (("statmount", "listmount"), errno.ENOSYS),
    "filtered": (("statmount", "listmount"), errno.EPERM),
    "no ids": (("statmount", "listmount", "statx", "ioctl"), errno.ENOSYS),
    "no namespaces": (("ioctl",), errno.ENOTTY),
}


@pytest.fixture
def place(scratch: Path) -> Iterator[Path]:
    """Give a tmpfs with a file, on another one."""
    point = tmpfs(tmpfs(scratch / "parent") / "held")
    (point / "file").write_bytes(b"x")
    yield point
    with contextlib.suppress(OSError):
        umount(point, MNT_DETACH)
    umount(scratch / "parent", MNT_DETACH)


def facts(found: list[Holder]) -> list[tuple[str, bool | None]]:
    return [(holder.kind, holder.blocks) for holder in found]


def in_a_namespace_of_its_own(propagation: int, act: Callable[[], object]) -> Callable[[], object]:
    def inside() -> object:
        calls.unshare(CLONE_NEWNS)
        if propagation:
            change(Path("/"), MS_REC | propagation)
        return act()

    return inside


# --- other mount namespaces ----------------------------------------------------------------------------------------
def test_a_copy_in_another_namespace_does_not_block_and_names_who_lives_there(place: Path) -> None:
    need_real_root()
    with another(in_a_namespace_of_its_own(0, lambda: os.open(place, os.O_PATH))) as pid:
        (holder,) = seen(place)
        with MountNamespace.of(pid) as namespace:
            assert (holder.kind, holder.blocks, holder.pid, holder.ns_id) == ("copy", False, pid, namespace.id)
        assert holder.point == str(place)
        assert not is_busy(place)


def test_a_namespace_that_nobody_lives_in_keeps_its_copy(place: Path) -> None:
    need_real_root()
    need_walk_of_namespaces()
    with another(in_a_namespace_of_its_own(0, lambda: None)) as pid:
        namespace = MountNamespace.of(pid)
    with namespace:
        (holder,) = seen(place)
        assert (holder.kind, holder.blocks, holder.pid, holder.ns_id) == ("copy", False, None, namespace.id)
        assert "no process is seen" in holder.words
    assert seen(place) == []


@pytest.mark.parametrize("propagation", [MS_SHARED, MS_SLAVE])
def test_where_unmounting_propagates_a_holder_of_another_namespace_blocks(place: Path, propagation: int) -> None:
    need_real_root()
    change(place.parent, MS_SHARED)
    act = in_a_namespace_of_its_own(0 if propagation == MS_SHARED else MS_SLAVE, lambda: os.open(place, os.O_PATH))
    with another(act) as pid:
        (holder,) = seen(place)
        assert (holder.kind, holder.blocks, holder.pid, holder.point) == ("file", True, pid, str(place))
        with MountNamespace.of(pid) as namespace:
            assert holder.ns_id == namespace.id
        assert "unmounted along" in holder.words
        assert is_busy(place)
    assert not is_busy(place)


def test_where_unmounting_no_longer_propagates_it_does_not(place: Path) -> None:
    need_real_root()
    change(place.parent, MS_SHARED)
    with another(in_a_namespace_of_its_own(MS_PRIVATE, lambda: os.open(place, os.O_PATH))):
        assert facts(seen(place)) == [("copy", False)]
        assert not is_busy(place)


def test_a_copy_with_a_mount_on_it_stays_and_does_not_block(place: Path, scratch: Path) -> None:
    change(place.parent, MS_SHARED)
    umount(place)
    peer = bind(place.parent, scratch / "peer")
    tmpfs(place)
    change(peer / "held", MS_PRIVATE)
    child = tmpfs(peer / "held" / "child")
    with another(lambda: os.open(peer / "held", os.O_PATH)):
        assert facts(seen(place)) == [("copy", False)]
        assert not is_busy(place)
    umount(child)
    umount(peer, MNT_DETACH)


def test_whatever_stands_at_that_place_of_a_slave_blocks_even_another_filesystem(place: Path, scratch: Path) -> None:
    change(place.parent, MS_SHARED)
    umount(place)
    slave = bind(place.parent, scratch / "slave")
    change(slave, MS_SLAVE)
    tmpfs(place)
    umount(slave / "held")
    tmpfs(slave / "held")
    with another(lambda: os.open(slave / "held", os.O_PATH)) as pid:
        (holder,) = seen(place)
        assert (holder.blocks, holder.pid, holder.point) == (True, pid, str(slave / "held"))
        assert is_busy(place)
    assert not is_busy(place)
    umount(slave, MNT_DETACH)


# --- the kernel's own ----------------------------------------------------------------------------------------------
@contextlib.contextmanager
def loop_on(image: Path, size: int = 1 << 20) -> Iterator[str]:
    """Give a loop device that is backed by a file."""
    need_real_root()
    need(Path("/dev/loop-control").exists(), "loop devices")
    image.touch()
    os.truncate(image, size)
    line = [need_command("losetup"), "--find", "--show", str(image)]
    device = subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.parametrize("name", ["image", "an image", "image\udcff"])
def test_a_loop_device(place: Path, name: str) -> None:
    with loop_on(place / name) as device:
        (holder,) = seen(place)
        assert (holder.kind, holder.blocks, holder.device) == ("loop", True, device)
        assert holder.path == str(place / name)
        assert is_busy(place)
    assert seen(place) == []


def test_a_loop_device_blocks_the_mount_that_its_file_was_opened_through(place: Path, scratch: Path) -> None:
    need_real_root()
    other = bind(place, scratch / "other")
    with loop_on(other / "image"):
        assert sorted(facts(seen(place))) == [("copy", False), ("loop", False)]
        assert sorted(facts(seen(other))) == [("copy", False), ("loop", True)]
        assert is_busy(other)
        assert not is_busy(place)
    umount(other)


@pytest.mark.parametrize("unlinked", [False, True])
def test_a_name_that_means_a_place_in_two_namespaces_is_told_apart(place: Path, unlinked: bool) -> None:
    with another(in_a_namespace_of_its_own(0, lambda: None)), loop_on(place / "image"):
        if unlinked:
            os.unlink(place / "image")
        assert sorted(facts(seen(place)), key=str) == [("copy", False), ("loop", True)]
        assert is_busy(place)


def test_a_loop_device_that_was_set_up_in_another_namespace_does_not_block(place: Path) -> None:
    need_real_root()
    with contextlib.ExitStack() as stack, another(in_a_namespace_of_its_own(0, lambda: None)) as pid:
        (place / "image").touch()
        enter = ["nsenter", f"--mount=/proc/{pid}/ns/mnt"]
        line = [*enter, need_command("losetup"), "--find", "--show", str(place / "image")]
        os.truncate(place / "image", 1 << 20)
        device = subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()
        stack.callback(subprocess.run, ["losetup", "--detach", device], check=True)
        assert sorted(facts(seen(place)), key=str) == [("copy", False), ("loop", False)]
        # What can't be told apart without CAP_SYS_CHROOT may be either.
        with watching(lacking("chroot", errno=errno.EPERM)):
            assert sorted(facts(seen(place)), key=str) == [("copy", False), ("loop", None)]
        assert not is_busy(place)


def test_a_loop_device_whose_file_was_unlinked(place: Path) -> None:
    with loop_on(place / "image"):
        os.unlink(place / "image")
        assert facts(seen(place)) == [("loop", True)]
        assert is_busy(place)


@pytest.mark.parametrize("code", [errno.ENOTTY, errno.ENOSYS])
def test_a_loop_device_of_somebody_is_no_trouble_where_no_request_is_known(
    place: Path, scratch: Path, code: int
) -> None:
    with loop_on(scratch / "unrelated"), watching(lacking("ioctl", errno=code)):
        assert seen(place) == []


@pytest.mark.parametrize("code", [errno.ENOTTY, errno.EPERM])
def test_a_loop_device_that_cannot_be_asked_is_known_by_its_name(place: Path, scratch: Path, code: int) -> None:
    def asked(name: str, arguments: tuple[object, ...]) -> int:
        return code if name == "ioctl" and arguments[1] == n.LOOP_GET_STATUS64 else 0

    with loop_on(place / "image"), loop_on(scratch / "unrelated"):
        with watching(Watch(lambda _count, name, arguments: asked(name, arguments))):
            assert facts(seen(place)) == [("loop", True)]
        # The kernel shows the name as it is from within the mount: without that it may be another file's.
        with watching(Watch(lambda _, name, words: asked(name, words) or errno.EPERM * (name == "chroot"))):
            assert facts(seen(place)) == [("loop", None)]


def test_a_swap_file() -> None:
    with filesystem("ext4") as point:
        file = point / "swap file"
        subprocess.run([need_command("fallocate"), "--length", "8M", file], check=True)
        file.chmod(0o600)
        subprocess.run([need_command("mkswap"), file], check=True, capture_output=True)
        done = subprocess.run([need_command("swapon"), file], check=False, capture_output=True, text=True)
        need(done.returncode == 0, f"swap files: {done.stderr}")
        try:
            found, busy = seen(point), is_busy(point)
        finally:
            subprocess.run(["swapoff", file], check=True)
    assert [(h.kind, h.blocks, h.path) for h in found] == [("swap", True, str(file))]
    assert busy


def test_a_filesystem_in_a_file_without_a_loop_device(scratch: Path) -> None:
    make = need_command("mkfs.erofs")
    content = scratch / "content"
    content.mkdir()
    (content / "file").write_text("x")
    with filesystem("ext4") as point:
        subprocess.run([make, "--quiet", point / "image", content], check=True, capture_output=True)
        try:
            (scratch / "erofs").mkdir()
            calls.mount(bytes(point / "image"), bytes(scratch / "erofs"), b"erofs", 1, None)
        except OSError as error:
            need(error.errno not in {errno.ENOTBLK, errno.ENODEV}, "erofs in a file (Linux 6.12)")
            raise
        found, busy = seen(point), is_busy(point)
        umount(scratch / "erofs")
    assert [(h.kind, h.blocks, h.path, h.point) for h in found] == [
        ("image", True, f"{point}/image", f"{scratch}/erofs")
    ]
    assert busy


@pytest.mark.parametrize("option", ["lowerdir={0}/a:/etc", "lowerdir=/etc:{0}/a\\:b", "lowerdir=/etc,upperdir={0}/up"])
def test_an_overlay_does_not_block(place: Path, scratch: Path, option: str) -> None:
    for name in ("a", "a:b", "up", "work"):
        (place / name).mkdir()
    (scratch / "merged").mkdir()
    words = option.format(place) + (f",workdir={place}/work" if "upperdir" in option else "")
    calls.mount(b"overlay", bytes(scratch / "merged"), b"overlay", 0, words.encode())
    try:
        (holder,) = seen(place)
        assert (holder.kind, holder.blocks, holder.point) == ("overlay", False, f"{scratch}/merged")
        assert str(holder.path).startswith(str(place))
        assert not is_busy(place)
    finally:
        umount(scratch / "merged")


# --- overlays whose options don't lead to their layers ---------------------------------------------------------------
@contextlib.contextmanager
def overlay(point: Path, options: str, *, where: Path | None = None) -> Iterator[Path]:
    """Mount an overlay by a string of options, which may be relative to a directory."""
    point.mkdir(exist_ok=True)
    before = os.getcwd()
    os.chdir(where or "/")
    try:
        calls.mount(b"overlay", bytes(point), b"overlay", 0, options.encode())
    finally:
        os.chdir(before)
    try:
        yield point
    finally:
        umount(point)


@contextlib.contextmanager
def by_descriptor(point: Path, *layers: Path) -> Iterator[Path]:
    """Mount an overlay whose layers are given by descriptor: its options show paths within clones."""
    point.mkdir(exist_ok=True)
    with mountfd.assemble(mountfd.Overlay([*layers])) as mount:
        mount.attach(point)
    try:
        yield point
    finally:
        umount(point)


def about(point: Path, target: object) -> list[tuple[bool | None, str | None]]:
    return [(h.blocks, h.path) for h in holders(target) if h.kind == "overlay" and h.point == str(point)]  # type: ignore[arg-type]


def need_handles(place: Path) -> None:
    """Skip where the kernel doesn't tell an overlay's layer by its handle, or a filesystem's UUID."""
    fd = os.open(place, os.O_RDONLY)
    try:
        calls.ioctl(fd, n.FS_IOC_GETFSUUID, calls.bytes_buffer(17))
    except OSError as error:
        need(error.errno != errno.ENOTTY, "FS_IOC_GETFSUUID of a tmpfs (Linux 6.9)")
        raise
    finally:
        os.close(fd)


@pytest.fixture
def layers(place: Path) -> Path:
    """Make directories in the held filesystem, some with the names of others in the root's."""
    for name in ("usr", "etc", "up", "work"):
        (place / name).mkdir()
    return place


def test_layers_given_by_descriptor_are_found_and_another_place_of_their_name_is_not_blamed(
    layers: Path, scratch: Path
) -> None:
    need_handles(layers)
    with by_descriptor(scratch / "merged", layers / "usr", layers / "etc") as point:
        assert about(point, layers) == [(False, None)]
        (holder,) = seen(layers)
        assert holder.words == f"the overlay on {point} has a layer here"
        # The layers below the topmost one may be anywhere.
        for other in ("/", layers.parent):
            assert about(point, other) == [(None, None)]
        assert not is_busy(layers)


def test_layers_given_by_relative_names_are_found(layers: Path, scratch: Path) -> None:
    need_handles(layers)
    with overlay(scratch / "merged", "lowerdir=usr:etc", where=layers) as point:
        assert about(point, layers) == [(False, None)]
        assert about(point, layers.parent) == [(None, None)]


def test_a_lower_layer_given_by_descriptor_may_be_there(layers: Path, scratch: Path) -> None:
    (scratch / "top").mkdir()
    with by_descriptor(scratch / "merged", scratch / "top", layers / "etc") as point:
        assert about(point, layers) == [(None, None)]
        (holder,) = [holder for holder in holders(layers) if holder.point == str(point)]
        assert "may have a layer here" in holder.words
        assert not holder.may_block


def test_an_upper_layer_on_it(layers: Path, scratch: Path) -> None:
    need_handles(layers)
    (scratch / "low").mkdir()
    words = f"lowerdir={scratch}/low,upperdir=up,workdir=work"
    with overlay(scratch / "merged", words, where=layers) as point:
        assert about(point, layers) == [(False, None)]


@pytest.mark.parametrize("kernel", ["no handles", "no UUIDs", "no ids"])
def test_what_the_kernel_does_not_tell_may_be_there(layers: Path, scratch: Path, kernel: str) -> None:
    names = {"no handles": ("name_to_handle_at",), "no UUIDs": ("ioctl",), "no ids": ("statmount", "listmount")}
    watch = lacking(*names[kernel], errno=errno.ENOSYS)
    with by_descriptor(scratch / "merged", layers / "usr", layers / "etc") as point, watching(watch):
        assert about(point, layers) == [(None, None)]
        assert about(point, "/") == [(None, None)]
    with overlay(scratch / "merged", f"lowerdir={layers}/usr:/etc") as point, watching(watch):
        assert about(point, layers) == [(False, f"{layers}/usr")]


def test_a_path_that_leads_to_another_directory_by_now_is_not_believed(layers: Path, scratch: Path) -> None:
    need_handles(layers)
    hidden = tmpfs(scratch / "hidden")
    for name in ("usr", "etc"):
        (hidden / name).mkdir()
    with overlay(scratch / "merged", f"lowerdir={hidden}/usr:{hidden}/etc") as point:
        assert about(point, hidden) == [(False, f"{hidden}/usr")]
        bind(layers, hidden)
        assert about(point, layers) == [(None, None)]
        umount(hidden)
    umount(hidden)


def test_a_path_that_leads_nowhere_by_now_may_have_led_there(layers: Path, scratch: Path) -> None:
    need_handles(layers)
    (layers / "gone").mkdir()
    with overlay(scratch / "merged", f"lowerdir=/etc:{layers}/gone") as point:
        (layers / "gone").rmdir()
        assert about(point, layers) == [(None, None)]
    (layers / "gone").mkdir()
    with overlay(scratch / "merged", f"lowerdir={layers}/gone:/etc") as point:
        (layers / "gone").rmdir()
        assert about(point, layers) == [(False, None)]


def test_the_copy_of_an_image_is_told_from_the_image_by_paths_alone(scratch: Path) -> None:
    make = need_command("mkfs.ext4")
    points = []
    with contextlib.ExitStack() as stack:
        (scratch / "image").touch()
        os.truncate(scratch / "image", 8 << 20)
        subprocess.run([make, "-q", scratch / "image"], check=True)
        (scratch / "copy").write_bytes((scratch / "image").read_bytes())
        for name in ("image", "copy"):
            device = stack.enter_context(loop_on(scratch / name, size=8 << 20))
            point = scratch / f"{name} here"
            point.mkdir()
            subprocess.run(["mount", "-t", "ext4", device, point], check=True)
            stack.callback(umount, point)
            for layer in ("a", "b"):
                (point / layer).mkdir()
            points.append(point)
        with by_descriptor(scratch / "merged", points[0] / "a", points[0] / "b") as merged:
            assert [about(merged, point) for point in points] == [[(None, None)]] * 2
        with overlay(scratch / "merged", f"lowerdir={points[0]}/a:/etc") as merged:
            assert about(merged, points[0]) == [(False, f"{points[0]}/a")]
            assert about(merged, points[1]) == []


def test_an_overlay_of_another_namespace_is_found_too(layers: Path, scratch: Path) -> None:
    need_real_root()
    need_handles(layers)
    point = scratch / "merged"

    def act() -> None:
        point.mkdir()
        calls.mount(b"overlay", bytes(point), b"overlay", 0, f"lowerdir={layers}/usr:/etc".encode())
        umount(layers)

    with another(in_a_namespace_of_its_own(MS_PRIVATE, act)) as pid:
        (holder,) = seen(layers)
        with MountNamespace.of(pid) as namespace:
            assert (holder.kind, holder.blocks, holder.ns_id) == ("overlay", False, namespace.id)
        assert holder.words == f"the overlay on {point} in mount namespace {holder.ns_id} has a layer here"
        assert not is_busy(layers)
        assert about(point, layers.parent) == [(None, None)]


# --- other users ---------------------------------------------------------------------------------------------------
def test_an_ordinary_user_is_told_which_processes_cannot_be_looked_into(place: Path) -> None:
    need_real_root()
    with another(lambda: os.open(place, os.O_PATH)) as pid:
        found = in_child(lambda: holders(place), NOBODY)
    named = {holder.pid: holder for holder in found if holder.kind == "process"}
    assert {pid, os.getpid()} <= named.keys()
    assert (named[pid].blocks, named[pid].uid) == (None, 0)
    assert named[pid].command == Path("/proc/self/comm").read_text().strip()
    assert "can't be looked into" in named[pid].words
    assert "namespace" in {holder.kind for holder in found}
    assert [holder for holder in found if holder.blocks is not None] == []


def test_for_an_ordinary_user_a_socket_of_whoever_may_be_of_another_namespace(place: Path) -> None:
    need_real_root()
    place.chmod(0o755)
    place.parent.chmod(0o755)
    with another(lambda: bind_socket(place)):
        (holder,) = [holder for holder in in_child(lambda: holders(place), NOBODY) if holder.kind == "socket"]
    assert (holder.blocks, holder.pid, holder.path) == (None, None, f"{place}/socket")
    assert holder.words == f"a socket of a process that can't be seen is bound to {place}/socket"


def test_threads_of_the_kernel_are_not_among_them(place: Path) -> None:
    need_real_root()
    named = {holder.pid for holder in in_child(lambda: holders(place), NOBODY)}
    assert not [pid for pid in named if pid is not None and is_of_kernel(pid)]


def is_of_kernel(pid: int) -> bool:
    """Say whether a process is a thread of the kernel's; one that has ended is none."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return bool(int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[6]) & 0x200000)
    return False


def test_an_ordinary_user_finds_what_is_his_own(place: Path) -> None:
    need_real_root()
    place.chmod(0o755)
    place.parent.chmod(0o755)

    def act() -> tuple[int, int, list[Holder]]:
        fd = os.open(place, os.O_PATH)
        map_alone(bytes(place / "file"))
        return os.getpid(), fd, holders(place)

    pid, fd, found = in_child(act, NOBODY)
    mine = [(holder.kind, holder.blocks, holder.fd) for holder in found if holder.pid == pid]
    assert sorted(mine, key=str) == [("file", True, fd), ("map", True, None)]


def test_hidden_processes_are_said_to_be_hidden(scratch: Path, place: Path) -> None:
    need_real_root()

    def act() -> list[Holder]:
        calls.unshare(CLONE_NEWNS)
        calls.mount(b"proc", b"/proc", b"proc", 0, b"hidepid=2")
        return in_child(lambda: holders(place), NOBODY)

    assert "hidden" in {holder.kind for holder in in_child(act)}


def test_in_a_pid_namespace_others_may_be_outside(place: Path) -> None:
    need_real_root()
    program = "from mountfd.verbs.holders import holders; import sys; print(*[h.kind for h in holders(sys.argv[1])])"
    line = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", program, str(place)]
    source = Path(mountfd.__file__).parents[1]
    done = subprocess.run(
        line, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(source)}
    )
    assert "outside" in done.stdout.split()


# --- kernels that tell less ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kernel", OLD)
def test_older_kernels_find_the_same(place: Path, scratch: Path, kernel: str) -> None:
    names, code = OLD[kernel]
    with (
        another(lambda: (open_file(place), bind_socket(place), go_there(place))) as pid,
        watching(lacking(*names, errno=code)),
    ):
        found = {(h.kind, h.blocks) for h in seen(place) if h.pid == pid}
        # Without ids it takes all namespaces to be sure.
        sure = True if kernel != "no ids" or all_can_be_looked_into() else None
        assert found == {("file", True), ("socket", sure), ("cwd", sure)}
    with watching(lacking(*names, errno=code)):
        assert seen(place) == []
        child = bind(place, place / "child")
        assert facts(seen(place)) == [("mount", True)]
    umount(child)


def all_can_be_looked_into() -> bool:
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            os.stat(f"/proc/{pid}/ns/mnt")
        except PermissionError:
            return False
        except OSError:
            continue  # it ended
    return True


def test_without_any_ids_a_directory_may_be_of_another_mount(place: Path, scratch: Path) -> None:
    names, code = OLD["no ids"]
    other = bind(place, scratch / "other")
    with another(lambda: (open_path(other), go_there(other))) as pid, watching(lacking(*names, errno=code)):
        assert [(h.kind, h.blocks) for h in seen(place) if h.pid == pid] == [("cwd", None)]
        assert sorted((h.kind, h.blocks) for h in seen(other) if h.kind == "file") == [("file", True)]
    umount(other)


@pytest.mark.parametrize("kernel", ["no namespaces", "no statmount"])
def test_other_namespaces_are_found_by_their_processes(place: Path, kernel: str) -> None:
    need_real_root()
    names, code = OLD[kernel] if kernel == "no namespaces" else (("statmount", "listmount", "ioctl"), errno.ENOSYS)
    with another(in_a_namespace_of_its_own(0, lambda: None)) as pid, watching(lacking(*names, errno=code)):
        assert [(h.kind, h.blocks, h.pid) for h in seen(place)] == [("copy", False, pid)]


def test_without_sock_diag_names_are_taken_from_the_table(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mountfd.verbs.holders.sockets._SOCK_DIAG", 31)
    with another(lambda: bind_socket(place)) as pid:
        assert [(h.kind, h.blocks, h.pid) for h in seen(place)] == [("socket", True, pid)]


def test_each_failing_call_is_an_error_of_ours_or_harmless(place: Path) -> None:
    with another(lambda: os.open(place, os.O_PATH)):
        for code in (errno.EPERM, errno.EIO, errno.EMFILE):
            for name in ("openat", "ioctl", "statx", "listmount", "setns"):
                with watching(lacking(name, errno=code)), contextlib.suppress(mountfd.KernelError):
                    assert isinstance(holders(place), list)


def test_mounts_that_come_and_go_meanwhile_are_no_error(place: Path, scratch: Path) -> None:
    end = threading.Event()

    def churn() -> None:
        while not end.is_set():
            with Mount.clone(place) as clone:
                clone.attach(scratch / "churned")
            umount(scratch / "churned", MNT_DETACH)

    (scratch / "churned").mkdir()
    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(30):
            assert {holder.blocks for holder in seen(place)} <= {False}
    finally:
        end.set()
        thread.join()
    assert lookup(place).point == str(place)
