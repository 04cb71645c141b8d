"""`mountfd mount` as a program, beside mount(8)."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from errno import EINVAL, EMFILE, ENOMEM, EPERM
from pathlib import Path

import pytest

import mountfd
from mountfd import InvalidSpec, LoopDevice, MountSpec
from mountfd.cli.mount import status_of
from mountfd.errors import from_errno
from mountfd.handles.loop import attached
from tests.support import guard
from tests.support.images import image_file
from tests.support.layers import fill
from tests.support.mounting import bind, tmpfs, umount
from tests.support.need import need, need_command, need_real_root
from tests.support.others import NOBODY
from tests.support.program import MOUNTFD
from tests.support.program import mountfd as program
from tests.support.specs import cleared, count, fs, fstype, source, tags, vfs

ODD = ("a b", "com,ma", "col:on", "back\\slash", "new\nline", 'quo"te', '"quote', "equal=s", "not\udcffutf", "-dash")


@pytest.fixture
def place(scratch: Path) -> Iterator[Path]:
    """Give a directory with directories in it; every mount below goes at the end."""
    for name in ("point", "other", "source/deep"):
        fill(scratch / name)
    (scratch / "source/file").write_text("hello")
    with cleared(scratch):
        yield scratch


@pytest.fixture
def loops() -> None:
    need_real_root()
    need(Path("/dev/loop-control").exists(), "loop devices")


def mounting(*words: str | Path, status: int = 0) -> str:
    """Run `mountfd mount`; give what it said on standard error. Where it succeeds it is silent on standard output."""
    done = program("mount", *(os.fspath(word) for word in words))
    assert (done.stdout, done.returncode) == ("", status), done.stderr
    return done.stderr


def silently(*words: str | Path) -> None:
    assert mounting(*words) == ""


def is_off(image: Path) -> bool:
    return any(not attached(image) for _ in guard.patiently())


# --- the same as mount(8) --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "line",
    [
        "-t tmpfs x POINT",
        "-t tmpfs -o size=1m,nosuid,nodev,noexec,noatime x POINT",
        "x POINT -t tmpfs -o ro -o size=1m",
        "-t tmpfs -r x POINT",
        "-rt tmpfs x POINT",
        "-t tmpfs -r -w x POINT",
        "-t tmpfs -w -r x POINT",
        "-t tmpfs -o ro,rw,nodev,dev,nodev x POINT",
        "-t tmpfs -onosuid x POINT",
        "--options nosuid --types tmpfs x POINT",
        "-t tmpfs -n x POINT",
        "-t tmpfs -s x POINT",
        "-t tmpfs -s -o nonsense x POINT",
        "-t tmpfs -i x POINT",
        "-i -t fuse.nothing x POINT",
        "-t tmpfs --options-mode ignore x POINT",
        "-f -t tmpfs x POINT",
        "--fake --bind SOURCE POINT",
        "-fnit tmpfs x POINT",
        "-t tmpfs --source x --target POINT",
        "-t tmpfs --target POINT x",
        "-t tmpfs -o X-mount.mkdir x POINT/new",
        "-t tmpfs -o X-mount.mkdir=0700 x POINT/new/deep",
        "-t tmpfs -m x POINT/new",
        "-t tmpfs -o defaults,nofail,_netdev,x-systemd.device-timeout=3,comment=x x POINT",
        "-t tmpfs -o user x POINT",
        "-t tmpfs -o user,suid x POINT",
        "-t tmpfs -o dirsync,sync,lazytime x POINT",
        "-t proc none POINT",
        "-B SOURCE POINT",
        "--bind SOURCE POINT",
        "--bind SOURCE/file FILE",
        "-o bind SOURCE POINT",
        "-t none -o bind SOURCE POINT",
        "-R SOURCE POINT",
        "-B SOURCE POINT -o ro,nosuid,noexec",
        "-B SOURCE POINT --make-shared",
        "-t tmpfs x POINT --make-shared",
        "-t tmpfs x POINT -o shared",
        "-t tmpfs x POINT --make-unbindable",
        "-t tmpfs nonsense POINT/nowhere",
        "-t tmpfs x FILE",
        "-t nosuchtype,alsonone x POINT",
        "-t tmpfs -o nonsense x POINT",
        "-t tmpfs -o size=nonsense x POINT",
        "-t tmpfs -o X-mount.mkdir=9 x POINT/new",
        "--bind SOURCE/nowhere POINT",
        "--bind SOURCE/file POINT",
        "--move SOURCE POINT",
        "-o remount,ro SOURCE",
        "--make-shared SOURCE",
        "-t ext4 SOURCE POINT",
        "SOURCE POINT",
        "SOURCE/nowhere POINT",
        "-L no-such-label POINT",
        "UUID=no-such-uuid POINT",
        "POINT",
        "-t tmpfs POINT",
        "-o ro",
        "a b c",
        "--nonsense",
        "-t",
        "-o loop,offset=nonsense SOURCE/file POINT",
    ],
)
def test_the_same_as_mount_8(place: Path, line: str) -> None:
    """Compare the status, and what stands afterwards, of both programs; the words before it are theirs."""
    results: list[tuple[int, list[list[str]]]] = []
    for argv in ([need_command("mount")], [*MOUNTFD, "mount"]):
        home = fill(place / f"world{len(results)}", {"source/file": "hello", "file": ""})
        fill(home / "point")
        names = {"POINT": home / "point", "SOURCE": home / "source", "FILE": home / "file"}
        words = line.split(" ")
        for name, path in names.items():
            words = [word.replace(name, str(path)) for word in words]
        done = subprocess.run([*argv, *words], check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        table = [row for row in standing(place) if row[0].startswith(str(home))]
        results.append((done.returncode, [[row[0].removeprefix(str(home)), *row[1:]] for row in table]))
        assert bool(done.stderr) == bool(done.returncode)
    theirs, ours = results
    assert ours == theirs


def standing(place: Path) -> list[list[str]]:
    columns = "TARGET,FSTYPE,OPTIONS,PROPAGATION"
    done = subprocess.run(
        [need_command("findmnt"), "--json", "--list", "-o", columns], check=True, capture_output=True, text=True
    )
    rows = json.loads(done.stdout)["filesystems"]
    return [[str(value) for value in row.values()] for row in rows if row["target"].startswith(f"{place}/")]


def test_what_stands_is_changed_as_by_mount_8(place: Path) -> None:
    results: list[list[list[str]]] = []
    for argv in ([need_command("mount")], [*MOUNTFD, "mount"]):
        home = fill(place / f"world{len(results)}")
        seen: list[list[str]] = []
        for words in (
            ["-t", "tmpfs", "-o", "nosuid", "x", "."],
            ["--make-shared", "."],
            ["-o", "remount,ro,nosuid,size=2m", "."],
            ["-o", "remount,rw,nosuid", "."],
            ["--make-rprivate", "."],
            ["--make-unbindable", "."],
            ["--make-slave", "."],
        ):
            line = [str(home) if word == "." else word for word in words]
            done = subprocess.run([*argv, *line], check=False, capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, "")
            seen += [row[1:] for row in standing(place) if row[0] == str(home)]
        results.append(seen)
    assert results[0] == results[1]
    assert len(results[0]) == 7


# --- what mount(8) can't, or does otherwise --------------------------------------------------------------------------
def test_attributes_that_are_not_named_stay(place: Path) -> None:
    silently("-t", "tmpfs", "-o", "nosuid,nodev", "x", place / "point")
    silently("-o", "remount,bind,noexec", place / "point")
    assert {"nosuid", "nodev", "noexec", "rw"} <= vfs(place / "point")


def test_propagation_in_the_order_of_the_words(place: Path) -> None:
    silently("-t", "tmpfs", "x", place / "point", "--make-shared", "--make-private")
    assert tags(place / "point") == set()
    silently(place / "point", "--make-private", "--make-shared")
    assert tags(place / "point") == {"shared"}
    silently("--make-unbindable", "-o", "rprivate,rshared", place / "point")
    assert tags(place / "point") == {"shared"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [("-r -o rw", "rw"), ("-o rw -r", "ro"), ("-o ro -w", "rw"), ("-w -o ro", "ro"), ("-r -w -r", "ro")],
)
def test_the_last_of_contradicting_words_wins(place: Path, words: str, expected: str) -> None:
    silently("-t", "tmpfs", *words.split(), "x", place / "point")
    assert expected in vfs(place / "point") & fs(place / "point")


def test_a_bind_and_an_rbind(place: Path) -> None:
    tmpfs(place / "source/deep")
    silently("-B", place / "source", place / "point")
    assert count(place / "point") == 1
    umount(place / "point")
    silently("-R", place / "source", place / "point", "-o", "rro")
    assert count(place / "point") == 2
    assert "ro" in vfs(place / "point/deep")


def test_a_move(place: Path) -> None:
    silently("-t", "tmpfs", "x", place / "point")
    (place / "point/mark").touch()
    silently("-M", place / "point", place / "other")
    assert (place / "other/mark").exists()
    assert count(place / "point") == 0


def test_beneath(place: Path) -> None:
    need(mountfd.has(mountfd.Feature.MOVE_MOUNT_BENEATH), "MOVE_MOUNT_BENEATH (Linux 6.5)")
    silently("-t", "tmpfs", "upper", place / "point")
    silently("--beneath", "-t", "tmpfs", "lower", place / "point")
    assert mountfd.lookup(place / "point").source == "upper"
    umount(place / "point")
    assert mountfd.lookup(place / "point").source == "lower"


def test_directories_are_made_and_taken_away_again(place: Path) -> None:
    silently("-m", "-t", "tmpfs", "x", place / "new/deep")
    assert fstype(place / "new/deep") == "tmpfs"
    mounting("-m", "-t", "tmpfs", "-o", "nonsense", "x", place / "newer/deep", status=32)
    assert not (place / "newer").exists()


def test_an_idmap(place: Path) -> None:
    need_real_root()
    silently("--idmap", "0:5000:1", "-B", place / "source", place / "point")
    assert (place / "point/file").stat().st_uid == 5000
    umount(place / "point")
    silently("-B", place / "source", place / "point", "--idmap=u:0:5000:1,g:0:6000:1,g:1:7000:1")
    seen = (place / "point/file").stat()
    assert (seen.st_uid, seen.st_gid) == (5000, 6000)


@pytest.mark.parametrize(
    "words",
    [
        "bind,uidmap=0:5000:1,1:7000:2,gidmap=0:6000:1,1:8000:2,nosuid",
        "gidmap=0:6000:1,nosuid,uidmap=1:7000:2,0:5000:1,bind",
        "bind,X-mount.idmap=u:0:5000:1,g:0:6000:1,u:1:7000:1,nosuid",
        "bind,nosuid,X-mount.idmap=u:0:5000:1 g:0:6000:1",
    ],
)
def test_idmaps_among_the_options_keep_their_commas(place: Path, words: str) -> None:
    need_real_root()
    silently("-o", words, place / "source", place / "point")
    seen = (place / "point/file").stat()
    assert (seen.st_uid, seen.st_gid) == (5000, 6000)
    assert "nosuid" in vfs(place / "point")


def test_half_an_idmap(place: Path) -> None:
    said = mounting("-o", "bind,uidmap=0:1:1", place / "source", place / "point", status=1)
    assert said == "mountfd: uidmap= is given without gidmap=: an idmap has both\n"


def test_what_is_done_to_a_new_mount(place: Path) -> None:
    need_real_root()
    words = "X-mount.owner=5000,X-mount.group=6000,X-mount.mode=0711,size=1m"
    silently("-t", "tmpfs", "-o", words, "x", place / "point")
    seen = (place / "point").stat()
    assert (seen.st_uid, seen.st_gid, seen.st_mode & 0o7777) == (5000, 6000, 0o711)
    silently("-B", "-o", "X-mount.subdir=deep", place / "source", place / "other")
    assert os.listdir(place / "other") == []


def test_symlinks_stay_where_that_is_asked_for(place: Path) -> None:
    (place / "link").symlink_to("source/file")
    (place / "file").touch()
    silently("-B", place / "link", place / "file")
    assert (place / "file").read_text() == "hello"
    umount(place / "file")
    silently("-c", "-B", place / "link", place / "file")
    assert os.readlink(place / "file") == "source/file"


def test_verbose(place: Path) -> None:
    assert mounting("-v", "-t", "tmpfs", "x", place / "point") == f"mountfd: x mounted on {place}/point\n"
    assert mounting("-v", "--make-shared", place / "point") == f"mountfd: {place}/point changed\n"


@pytest.mark.parametrize("name", ODD)
def test_names_of_any_kind(place: Path, name: str) -> None:
    fill(place / name, {"file": "x"})
    silently("-B", place / name, place / "point")
    assert (place / "point/file").read_text() == "x"
    silently("-t", "tmpfs", "--", name, place / name)
    assert not (place / name / "file").exists()


# --- overlays --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ODD)
def test_layers_of_any_name(place: Path, name: str) -> None:
    for layer in ("one", "two"):
        fill(place / layer / name, {layer: layer, "both": layer})
    upper, work = fill(place / f"upper{name}"), fill(place / f"work{name}")
    lower: list[str | Path] = ["--layer", place / "one" / name, "--layer", place / "two" / name]
    silently(*lower, "--upper", upper, "--work", work, place / "point")
    assert fstype(place / "point") == "overlay"
    assert (place / "point/both").read_text() == "one"
    assert (place / "point/two").read_text() == "two"
    (place / "point/new").write_text("kept")
    assert (upper / "new").read_text() == "kept"


@pytest.mark.parametrize("name", ODD)
def test_layers_of_any_name_among_the_options(place: Path, name: str) -> None:
    for layer in ("one", "two"):
        fill(place / layer / name, {layer: layer})
    written = name.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,").replace('"', '\\"')
    lower = f"lowerdir={place}/one/{written}:{place}/two/{written},ro"
    silently("-t", "overlay", "label", place / "point", "-o", lower)
    assert {"one", "two"} == {*os.listdir(place / "point")}
    assert source(place / "point") == "label"


def test_layers_with_an_idmap_and_options(place: Path) -> None:
    need_real_root()
    one, two = fill(place / "one", {"file": "x"}), fill(place / "two")
    silently("--layer", one, "--layer", two, "--idmap", "0:5000:10", "-o", "nosuid,noexec", place / "point")
    assert (place / "point/file").stat().st_uid == 5000
    assert {"nosuid", "noexec"} <= vfs(place / "point")


def test_layers_of_what_is_no_overlay(place: Path) -> None:
    said = mounting("-t", "tmpfs", "--layer", place / "source", place / "point", status=1)
    assert said == "mountfd: --layer is of an overlay, not of tmpfs\n"


def test_a_layer_that_is_missing(place: Path) -> None:
    said = mounting("--layer", place / "nowhere", "--layer", place, place / "point", status=32)
    assert f"hint: the layer '{place}/nowhere' doesn't exist" in said


# --- images ----------------------------------------------------------------------------------------------------------
def test_an_image_by_its_signature(place: Path, loops: None) -> None:
    image = image_file("ext4", place)
    silently(image, place / "point")
    assert (place / "point/file").read_text() == "hello"
    silently("-o", "loop", image, place / "other")
    assert source(place / "point") == source(place / "other")
    umount(place / "point")
    umount(place / "other")
    assert is_off(image)


def test_an_image_that_can_only_be_read(place: Path, loops: None) -> None:
    guarded = tmpfs(place / "guarded")
    image = image_file("ext4", guarded)
    mountfd.mount(MountSpec("", "", options="remount,ro"), guarded)
    for words in ([], ["-t", "xfs,ext4"], ["-o", "loop"]):
        said = mounting(*words, image, place / "point")
        assert said == f"mountfd: {image} is write-protected: mounted read-only\n"
        assert "ro" in vfs(place / "point") & fs(place / "point")
        umount(place / "point")
    silently("-r", image, place / "point")
    umount(place / "point")
    said = mounting("-w", image, place / "point", status=32)
    assert "hint: the device can only be read: ask for `ro`" in said
    assert count(place / "point") == 0
    assert is_off(image)


def test_a_damaged_image_in_the_kernels_words(place: Path, loops: None) -> None:
    need(os.access("/dev/kmsg", os.R_OK), "the kernel's log")
    image = image_file("ext4", place)
    os.truncate(image, 4 << 20)
    lines = mounting(image, place / "point", status=32).splitlines()
    assert lines[0] == f"mountfd: fsconfig: Invalid argument: '{image}'"
    assert any(line.startswith("  kernel: EXT4-fs (loop") and "bad geometry" in line for line in lines)
    assert lines[-1].startswith(f"  hint: the ext4 on '{image}' is damaged")
    assert is_off(image)


def test_what_holds_no_filesystem(place: Path, loops: None) -> None:
    path = place / "swap"
    path.write_bytes(bytes(1 << 20))
    path.chmod(0o600)
    assert "no signature" in mounting(path, place / "point", status=32)
    subprocess.run([need_command("mkswap"), "-q", path], check=True)
    assert mounting(path, place / "point", status=32) == f"mountfd: '{path}' holds swap space: that can't be mounted\n"


@contextlib.contextmanager
def labelled(place: Path, label: str) -> Iterator[tuple[str, str]]:
    """Give a loop device with an ext4 of that label, and its UUID."""
    image = image_file("ext4", place)
    uuid = f"a1b2c3d4-0000-4000-8000-00000000{os.getpid() & 0xFFFF:04x}"
    subprocess.run([need_command("tune2fs"), "-L", label, "-U", uuid, image], check=True, capture_output=True)
    with LoopDevice.attach(image) as device:
        yield device.path, uuid


def test_a_label_and_a_uuid(place: Path, loops: None) -> None:
    need_command("findfs")
    label = f"mfd {os.getpid()}"
    with labelled(place, label) as (device, uuid):
        for words in (["-L", label], [f"LABEL={label}"], ["-U", uuid], [f"UUID={uuid}"], [f'LABEL="{label}"']):
            silently(*words, place / "point")
            assert source(place / "point") == device
            umount(place / "point")
        silently("-t", "ext4", "--source", f"LABEL={label}", "--target", place / "point", "-r")
        umount(place / "point")


def test_no_such_label(place: Path) -> None:
    said = mounting("-L", "no such label", place / "point", status=1)
    assert "hint: no device has the label 'no such label'" in said


# --- wrong words, lists, help ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-t"], "mount: -t needs a value: TYPE"),
        (["--nonsense"], "mount: there is no option '--nonsense'"),
        (["--bind=x", "a", "b"], "mount: --bind takes no value"),
        (["a", "b", "c"], "mount: 'c' is one word too many"),
        (["--source", "a", "b", "c"], "'c' is one word too many"),
        (["-t", "tmpfs", "-t", "ext4", "a", "b"], "mount: -t is given twice"),
        (["/nowhere"], "SOURCE is missing: fstab(5) is not read for it"),
        (["--source", "a"], "TARGET is missing"),
        (["-L", "a"], "TARGET is missing"),
        (["-o", "ro"], "TARGET is missing"),
        (["-o", 'context="a', "a", "b"], "a double quote isn't closed in 'context=\"a'"),
        (["-o", "X-mount.owner=", "a", "b"], "'X-mount.owner' needs a value"),
        (["-o", "X-containerd.x=y", "a", "b"], "containerd's own option"),
        (["-o", "bind,loop,offset=-1", "a", "b"], "offset='-1' is no size"),
        (["--idmap", "nonsense", "-B", "a", "b"], "nonsense"),
        (["-a"], "-a, -F and --options-source-force are about fstab(5), which is not read"),
        (["-T", "/etc/fstab", "a", "b"], "-T, -O and --options-source are about fstab(5), which is not read"),
        (["--options-source", "fstab", "a", "b"], "about fstab(5)"),
        (["--options-mode", "append", "a", "b"], "fstab(5) is not read, so only `ignore` can be"),
    ],
)
def test_wrong_words(words: list[str], message: str) -> None:
    said = mounting(*words, status=1)
    assert said.startswith("mountfd: ")
    assert message in said
    assert "Traceback" not in said


def test_without_words_the_mounts_are_listed(place: Path) -> None:
    silently("-t", "tmpfs", "here", place / "point")
    listed = program("mount")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert any(f"{place}/point" in line and "here" in line for line in listed.stdout.splitlines())
    found = json.loads(program("mount", "--json", "-t", "tmpfs").stdout)["filesystems"]
    text = json.dumps(found)
    assert f"{place}/point" in text
    assert set(walk(found)) == {"tmpfs"}


def walk(rows: list[dict[str, object]]) -> Iterator[str]:
    for row in rows:
        yield str(row["fstype"])
        children = row.get("children", [])
        assert isinstance(children, list)
        yield from walk(children)


def test_a_list_of_nothing() -> None:
    assert program("mount", "-t", "nosuchtype").returncode == 0


def test_help_names_every_option() -> None:
    done = program("mount", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("--bind", "--rbind", "--move", "--make-rslave", "--beneath", "--layer", "--upper", "--idmap", "fstab"):
        assert word in done.stdout
    assert all(len(line) <= 120 for line in done.stdout.splitlines())


def test_an_ordinary_user_is_told(place: Path) -> None:
    need_real_root()
    before = [need_command("setpriv"), "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    done = program("mount", "-t", "tmpfs", "x", str(place / "point"), before=before)
    need("can't open file" not in done.stderr, "a checkout that others may read")
    assert done.returncode == 1
    assert "Operation not permitted" in done.stderr
    assert count(place / "point") == 0


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidSpec("nonsense", part="options"), 1),
        (InvalidSpec("no mount", part="target"), 32),
        (from_errno(EMFILE, "openat"), 2),
        (from_errno(ENOMEM, "fsmount"), 2),
        (from_errno(EINVAL, "fsconfig"), 32),
        (from_errno(EPERM, "fsopen"), 32),  # root can't be told to become root
        (ExceptionGroup("both", [from_errno(EINVAL, "fsconfig")]), 32),
    ],
)
def test_the_status_of_each_failure(error: Exception, status: int) -> None:
    need_real_root()
    assert status_of(error) == status


def test_the_trace_shows_each_call(place: Path) -> None:
    done = program("--trace", "mount", "-t", "tmpfs", "x", str(place / "point"))
    assert done.returncode == 0
    assert "tmpfs" in done.stderr
    assert str(place / "point") in done.stderr


def test_a_mount_over_a_bind_of_itself(place: Path) -> None:
    bind(place / "source", place / "source")
    silently("-B", place / "source", place / "source")
    assert count(place / "source") == 2


# --- words that mount less -------------------------------------------------------------------------------------------
def test_the_version() -> None:
    for word in ("-V", "--version"):
        done = program("mount", word)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"mountfd {mountfd.__version__}\n", "")


def test_a_list_with_labels_is_the_list(place: Path) -> None:
    silently("-t", "tmpfs", "here", place / "point")
    done = program("mount", "-l", "-t", "tmpfs")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{place}/point" in done.stdout


def test_fake_looks_at_everything_and_mounts_nothing(place: Path) -> None:
    (place / "text").write_text("no image")
    (place / "file").touch()
    fine = [
        ["-t", "tmpfs", "x", "point"],
        ["-B", "source", "point"],
        ["-M", "source", "point"],
        ["-m", "-t", "tmpfs", "x", "new/deep"],
        ["--layer", "source", "--layer", "other", "point"],
        ["-t", "ext4", "-o", "loop", "text", "point"],
        ["--make-shared", "."],
        ["-o", "remount,ro", "."],
    ]
    wrong = [
        (["-t", "tmpfs", "x", "nowhere"], 32, "No such file or directory: 'nowhere'"),
        (["-B", "nowhere", "point"], 32, "the source 'nowhere' doesn't exist"),
        (["--layer", "source", "--layer", "nowhere", "point"], 32, "nowhere"),
        (["text", "point"], 32, "no signature"),
        (["-o", "loop", "source", "-t", "ext4", "point"], 32, "`loop` takes an image"),
        (["-t", "ext4", "-o", "loop", "nowhere", "point"], 32, "nowhere"),
        (["--make-shared", "point"], 32, "is no mount"),
        (["-o", "remount,ro", "point"], 32, "is no mount"),
        (["-t", "tmpfs", "-o", "X-mount.owner=no-such-user", "x", "point"], 1, "no-such-user"),
        (["-o", "bind,nonsense", "source", "point"], 1, "nonsense"),
        (["-L", "no such label", "point"], 1, "no such label"),
    ]
    before = Path("/proc/self/mountinfo").read_bytes(), sorted(os.listdir(place))
    for words in fine:
        done = program("mount", "--fake", *words, cwd=place)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), words
    for words, status, said in wrong:
        done = program("mount", "--fake", *words, cwd=place)
        assert (done.returncode, said in done.stderr) == (status, True), (words, done.stderr)
    assert (Path("/proc/self/mountinfo").read_bytes(), sorted(os.listdir(place))) == before
    done = program("mount", "-fv", "-t", "tmpfs", "x", str(place / "point"))
    assert done.stderr == f"mountfd: x mounted on {place}/point: not really, as --fake asks\n"


def test_fake_of_an_image_makes_no_loop_device(place: Path, loops: None) -> None:
    image = image_file("ext4", place)
    for words in ([], ["-o", "loop"], ["-t", "ext4"]):
        silently("--fake", *words, image, place / "point")
    assert attached(image) == []


def test_onlyonce(place: Path) -> None:
    silently("--onlyonce", "-t", "tmpfs", "x", place / "point")
    said = mounting("--onlyonce", "-t", "tmpfs", "x", place / "point", status=32)
    assert said == f"mountfd: x is mounted on {place}/point already\n"
    silently("--onlyonce", "-t", "tmpfs", "y", place / "point")
    silently("--onlyonce", "-B", place / "source/deep", place / "other")
    said = mounting("--onlyonce", "-B", place / "source/deep", place / "other", status=32)
    assert "already" in said
    silently("--onlyonce", "-B", place / "source", place / "other")
    silently("--onlyonce", "-o", "remount,ro", place / "point")
    assert (count(place / "point"), count(place / "other")) == (2, 2)


def test_onlyonce_of_an_image(place: Path, loops: None) -> None:
    image = image_file("ext4", place)
    silently("--onlyonce", image, place / "point")
    assert "already" in mounting("--onlyonce", image, place / "point", status=32)
    silently("--onlyonce", image, place / "other")
    assert (count(place / "point"), count(place / "other")) == (1, 1)
    umount(place / "point")
    umount(place / "other")
    assert is_off(image)


def test_internal_only_starts_no_program(place: Path) -> None:
    said = mounting("-i", "-t", "fuse3.nothing", "x", place / "point", status=32)
    assert "--internal-only starts no program" in said
    assert count(place / "point") == 0
