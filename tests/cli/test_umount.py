"""`mountfd umount` as a program: umount(8)'s targets and statuses, and who is in the way."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import mountfd as library
from mountfd import is_mount, lookup
from mountfd.handles.loop import attached
from mountfd.lowlevel import calls
from tests.support import guard
from tests.support.images import image_file
from tests.support.mounting import tmpfs, umount
from tests.support.need import need, need_command, need_real_root
from tests.support.others import NOBODY
from tests.support.program import mountfd
from tests.support.specs import fs, vfs


@pytest.fixture
def device(scratch: Path) -> Iterator[str]:
    """Give a loop device with a filesystem."""
    need_real_root()
    need(Path("/dev/loop-control").exists(), "loop devices")
    image = image_file("ext4", scratch)
    losetup = need_command("losetup")
    name = subprocess.run([losetup, "-f", "--show", image], check=True, capture_output=True, text=True).stdout.strip()
    yield name
    subprocess.run([losetup, "-d", name], check=True)


def put(device: str, *points: Path) -> None:
    for point in points:
        point.mkdir(exist_ok=True)
        subprocess.run(["mount", device, point], check=True)


def umounted(*words: str | Path) -> tuple[int, list[str]]:
    done = mountfd("umount", *map(str, words))
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines()


# --- one target ----------------------------------------------------------------------------------------------------
def test_a_mount_point_goes_without_a_word(scratch: Path) -> None:
    point = tmpfs(scratch / "point")
    assert umounted(point) == (0, [])
    assert not is_mount(point)


def test_what_is_not_mounted_is_said_and_is_status_32(scratch: Path) -> None:
    (scratch / "plain").mkdir()
    said = f"mountfd: {scratch}/plain: not mounted"
    for words in ((), ("--all",), ("-R",), ("-A",), ("-l",)):
        assert umounted(*words, scratch / "plain") == (32, [said])
        assert umounted(*words, "-q", scratch / "plain") == (32, [])
        assert umounted(*words, "--graceful", scratch / "plain") == (0, [])


def test_what_is_not_there_is_an_error_unless_graceful(scratch: Path) -> None:
    status, said = umounted(scratch / "nothing")
    assert (status, said) == (32, [f"mountfd: statx: No such file or directory: '{scratch}/nothing'"])
    assert umounted("-q", scratch / "nothing")[0] == 32
    assert umounted("-g", scratch / "nothing") == (0, [])
    assert umounted("-R", scratch / "nothing")[0] == 32


def test_verbose_says_what_was_done(scratch: Path) -> None:
    point = tmpfs(tmpfs(scratch / "point"))
    assert umounted("-v", point) == (0, [f"mountfd: {point}: unmounted"])
    tmpfs(tmpfs(point) / "child")
    assert umounted("-v", "-R", point) == (0, [f"mountfd: {point}: unmounted, 3 mounts"])


def test_the_whole_stack(scratch: Path) -> None:
    point = tmpfs(tmpfs(tmpfs(scratch / "point")))
    assert umounted("--all", point) == (0, [])
    assert not is_mount(point)


def test_everything_below(scratch: Path) -> None:
    (scratch / "plain").mkdir()
    tmpfs(tmpfs(scratch / "plain" / "a") / "b")
    tmpfs(scratch / "plain" / "c")
    assert umounted("-R", scratch / "plain") == (0, [])
    assert not any(is_mount(scratch / "plain" / name) for name in ("a", "c"))


def test_by_id_and_only_that_one(scratch: Path) -> None:
    point = tmpfs(scratch / "point")
    lower = lookup(point).id
    tmpfs(point)
    status, said = umounted("--id", str(lower))
    assert (status, "not on top" in said[0]) == (32, True)
    assert umounted("--id", str(lookup(point).id)) == (0, [])
    assert umounted("--id", str(lower)) == (0, [])
    assert umounted("--id", str(lower))[0] == 32


def test_busy_names_the_holders_one_in_a_line(scratch: Path) -> None:
    point = tmpfs(scratch / "point")
    with (point / "file").open("w"), (point / "other").open("w"):
        status, said = umounted("--wait", "0", point)
        assert status == 32
        assert said[0] == f"mountfd: umount2: Device or resource busy: '{point}'"
        own = [line for line in said if line.startswith(f"  process {os.getpid()} (")]
        assert len(own) == 2
        assert f"{point}/file" in own[0] + own[1]
        assert is_mount(point)
        assert umounted("--lazy", point) == (0, [])
    assert not is_mount(point)


def test_of_a_tree_each_busy_one_is_told(scratch: Path) -> None:
    point = tmpfs(scratch / "point")
    tmpfs(point / "a")
    tmpfs(point / "b")
    with (point / "a" / "file").open("w"), (point / "b" / "file").open("w"):
        status, said = umounted("-R", "--wait", "0", point)
    assert status == 32
    assert sum("Device or resource busy" in line for line in said) == 2
    assert umounted("-R", point) == (0, [])


def test_the_own_root_is_refused() -> None:
    status, said = umounted("/")
    assert status == 1
    assert "root of this process" in said[0]


def test_odd_names(scratch: Path) -> None:
    for name in ("-R", "a b", "two\nlines", "esc\x1b[31m", os.fsdecode(b"\xff")):
        point = tmpfs(scratch / name)
        done = mountfd("umount", "-v", "--", name, cwd=scratch)
        assert done.returncode == 0
        assert "\x1b" not in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not is_mount(point)


def test_a_symlink_is_followed_unless_told_otherwise(scratch: Path) -> None:
    tmpfs(scratch / "point")
    (scratch / "link").symlink_to("point")
    assert umounted("--nofollow", scratch / "link")[0] == 32
    assert umounted(scratch / "link") == (0, [])


# --- several targets -----------------------------------------------------------------------------------------------
def test_statuses_of_several(scratch: Path) -> None:
    for name in ("plain", "other"):
        (scratch / name).mkdir()
    points = [tmpfs(scratch / name) for name in ("a", "b", "c")]
    assert umounted(points[0], points[1]) == (0, [])
    assert umounted(scratch / "plain", points[2])[0] == 64
    assert not is_mount(points[2])
    assert umounted(scratch / "plain", scratch / "other")[0] == 32
    assert umounted(scratch / "plain", "/")[0] == 33
    assert umounted("-g", scratch / "plain", scratch / "other")[0] == 0


def test_options_may_come_after_targets(scratch: Path) -> None:
    point = tmpfs(tmpfs(scratch / "point") / "child").parent
    assert umounted(point, "-R") == (0, [])


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["-r", "-R", "/x"],
        ["-r", "--all", "/x"],
        ["--id", "x"],
        ["--id", "1", "/x"],
        ["--wait", "x", "/x"],
        ["--wait", "-1", "/x"],
        [""],
        ["--nonsense"],
    ],
)
def test_wrong_words_are_status_1(words: list[str]) -> None:
    done = mountfd("umount", *words)
    assert done.returncode == 1
    assert done.stderr.startswith("mountfd: ")


def test_a_stack_and_a_tree_at_once_are_refused(scratch: Path) -> None:
    point = tmpfs(scratch / "point")
    for word in ("-R", "-A"):
        assert umounted("--all", word, point)[0] == 1
    umount(point)


def test_an_ordinary_user_gets_status_1(scratch: Path) -> None:
    need_real_root()
    point = tmpfs(scratch / "point")
    setpriv = need_command("setpriv")
    done = mountfd("umount", str(point), before=[setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"])
    need("can't open file" not in done.stderr, "a checkout that everybody can read")
    assert done.returncode == 1
    assert "umount2: Operation not permitted" in done.stderr
    umount(point)


# --- by what is mounted --------------------------------------------------------------------------------------------
def test_by_device_the_last_place_goes(device: str, scratch: Path) -> None:
    places = [scratch / name for name in ("m1", "m2", "m3")]
    put(device, *places)
    assert umounted(device) == (0, [])
    assert [is_mount(place) for place in places] == [True, True, False]
    assert umounted("-R", device) == (0, [])
    assert umounted(device, device)[0] == 64
    assert not any(map(is_mount, places))


def test_by_device_what_covers_it_is_not_taken(device: str, scratch: Path) -> None:
    put(device, scratch / "m1")
    tmpfs(scratch / "m1")
    status, said = umounted(device)
    assert (status, "not on top" in said[0]) == (32, True)
    assert umounted("--all", scratch / "m1") == (0, [])


def test_all_targets_by_mount_point_and_by_device(device: str, scratch: Path) -> None:
    places = [scratch / name for name in ("m1", "m2", "m3")]
    for target in (places[0], device):
        put(device, *places)
        assert umounted("--all-targets", target) == (0, [])
        assert not any(map(is_mount, places))


def test_all_targets_recursively(device: str, scratch: Path) -> None:
    places = [scratch / name for name in ("m1", "m2", "m3")]
    put(device, *places)
    tmpfs(tmpfs(places[0] / "subA") / "subAB")
    tmpfs(places[0] / "subB")
    assert umounted("-A", "--wait", "0", device)[0] == 32
    assert [is_mount(place) for place in places] == [True, False, False]
    put(device, *places[1:])
    assert umounted("-A", "-R", device) == (0, [])
    assert not any(map(is_mount, places))


def test_by_image_over_a_loop_device(scratch: Path) -> None:
    need_real_root()
    need(Path("/dev/loop-control").exists(), "loop devices")
    image = image_file("ext4", scratch)
    (scratch / "m1").mkdir()
    subprocess.run(["mount", "-o", "loop", image, scratch / "m1"], check=True)
    backing = lookup(scratch / "m1").source
    assert umounted(image) == (0, [])
    assert not is_mount(scratch / "m1")
    assert not Path(f"/sys/block/{Path(str(backing)).name}/loop/backing_file").exists()
    assert umounted(image) == (32, [f"mountfd: {image}: not mounted"])


def test_by_the_name_of_a_source(scratch: Path) -> None:
    (scratch / "m1").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "mountfd-test-source", scratch / "m1"], check=True)
    assert umounted("mountfd-test-source") == (0, [])
    assert not is_mount(scratch / "m1")


def test_a_mounted_file_is_a_mount_point_before_it_is_an_image(scratch: Path) -> None:
    (scratch / "one").touch()
    (scratch / "other").touch()
    subprocess.run(["mount", "--bind", scratch / "one", scratch / "other"], check=True)
    assert umounted(scratch / "other") == (0, [])
    assert not is_mount(scratch / "other")


# --- umount(8)'s other words ---------------------------------------------------------------------------------------
def test_the_version() -> None:
    for word in ("-V", "--version"):
        done = mountfd("umount", word)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"mountfd {library.__version__}\n", "")


@pytest.mark.parametrize("words", ["-c", "-i", "-d", "-n", "-r", "-cdinr", "--no-canonicalize --internal-only"])
def test_words_that_change_nothing_here(scratch: Path, words: str) -> None:
    point = tmpfs(scratch / "point")
    assert umounted(*words.split(), point) == (0, [])
    assert not is_mount(point)


def test_fake_says_what_would_go_and_leaves_it(scratch: Path) -> None:
    point = tmpfs(tmpfs(scratch / "point"))
    tmpfs(point / "child")
    (scratch / "plain").mkdir()
    before = Path("/proc/self/mountinfo").read_bytes()
    assert umounted("--fake", point) == (0, [])
    assert umounted("--fake", "-v", point) == (0, [f"mountfd: {point}: would be unmounted"])
    assert umounted("--fake", "-v", "-R", point) == (0, [f"mountfd: {point}: would be unmounted, 3 mounts"])
    assert umounted("--fake", "-A", point) == (0, [])
    assert umounted("--fake", "--id", str(lookup(point).id)) == (0, [])
    assert umounted("--fake", scratch / "plain") == (32, [f"mountfd: {scratch}/plain: not mounted"])
    assert umounted("--fake", "-g", scratch / "plain") == (0, [])
    assert umounted("--fake", scratch / "nothing")[0] == 32
    assert umounted("--fake", "--id", str(2**62))[0] == 32
    assert umounted("--fake", "/")[0] == 1
    assert Path("/proc/self/mountinfo").read_bytes() == before
    assert umounted("-R", point) == (0, [])


def test_what_is_busy_becomes_read_only(scratch: Path) -> None:
    point = tmpfs(scratch / "point")
    (point / "file").touch()
    with (point / "file").open():
        said = [f"mountfd: {point} is busy: it is read-only now"]
        assert umounted("-r", "--wait", "0", point) == (0, said)
        assert {"ro"} <= vfs(point) & fs(point)
    assert umounted("-r", point) == (0, [])
    assert not is_mount(point)


def test_what_is_written_to_can_not_become_read_only(scratch: Path) -> None:
    point = tmpfs(scratch / "point")
    with (point / "file").open("w"):
        status, said = umounted("-r", "--wait", "0", point)
    assert (status, said[0]) == (32, f"mountfd: umount2: Device or resource busy: '{point}'")
    assert any(line.startswith(f"  process {os.getpid()} (") for line in said)
    assert any("can't be made read-only" in line for line in said)
    assert "rw" in vfs(point)
    umount(point)


def test_a_loop_device_that_losetup_made_is_freed(scratch: Path) -> None:
    need_real_root()
    need(Path("/dev/loop-control").exists(), "loop devices")
    image, point = image_file("ext4", scratch), scratch / "point"
    for words in ([point], [image], ["-R", point], ["--all", point], ["-A", image]):
        losetup = [need_command("losetup"), "-f", "--show", str(image)]
        name = subprocess.run(losetup, check=True, capture_output=True, text=True).stdout.strip()
        put(name, point)
        assert umounted("-d", *words) == (0, [])
        assert not is_mount(point)
        assert any(not attached(image) for _ in guard.patiently()), words


def test_without_that_word_it_keeps_its_image(device: str, scratch: Path) -> None:
    put(device, scratch / "m1")
    assert umounted(scratch / "m1") == (0, [])
    assert attached(scratch / "ext4.img")


def test_by_a_tag(device: str, scratch: Path) -> None:
    need_command("findfs")
    uuid = f"a1b2c3d4-0000-4000-8000-11110000{os.getpid() & 0xFFFF:04x}"
    subprocess.run([need_command("tune2fs"), "-U", uuid, "-L", f"mfu {os.getpid()}", device], check=True)
    for tag in (f"UUID={uuid}", f"LABEL=mfu {os.getpid()}"):
        put(device, scratch / "m1")
        assert umounted(tag) == (0, [])
        assert not is_mount(scratch / "m1")
        assert umounted(tag)[0] == 32


def test_a_tag_that_no_device_has(scratch: Path) -> None:
    status, said = umounted("LABEL=no such label")
    assert status == 32
    assert "no device has the tag LABEL=no such label" in said[-1]
    assert umounted("-g", "LABEL=no such label") == (0, [])


def test_a_source_and_a_directory_that_are_called_like_a_tag(scratch: Path) -> None:
    (scratch / "m1").mkdir()
    calls.mount(b"ID=nothing-real", os.fsencode(scratch / "m1"), b"tmpfs", 0, None)  # mount(8) looks for a device
    assert umounted("ID=nothing-real") == (0, [])
    tmpfs(scratch / "LABEL=x")
    done = mountfd("umount", "LABEL=x", cwd=scratch)
    assert (done.returncode, done.stderr) == (0, "")
    assert not is_mount(scratch / "LABEL=x")


def test_a_mount_that_another_hides_is_named_where_a_directory_stands_in_its_place(scratch: Path) -> None:
    over = tmpfs(scratch / "over")
    tmpfs(over / "below")
    cover = tmpfs(over)
    (cover / "below").mkdir()
    status, said = umounted(over / "below")
    assert status == 32
    assert f"{over}/below: not mounted; a mount stands there, hidden by the tmpfs on '{over}'" in said[0]
    assert umounted("-R", over)[0] == 0
