"""A kernel, or a filter, that lacks one of the calls: each kind of mount is as described, or refused by name."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from errno import ENOENT, ENOSYS, EPERM, errorcode
from pathlib import Path

import pytest

import mountfd
import mountfd.verbs.mount as mount_routes
from mountfd import MountSpec, NotSupported
from mountfd.abi import features
from mountfd.lowlevel import numbers
from mountfd.verbs import routes
from tests.support import guard, seccomp
from tests.support.images import image_file
from tests.support.inject import lacking, watching
from tests.support.layers import fill, layers, pair
from tests.support.mounting import tmpfs
from tests.support.need import need, need_unique_ids
from tests.support.others import in_child
from tests.support.program import mountfd as program
from tests.support.specs import cleared, count, fs, fstype, owner_of, put, tags, vfs

pytestmark = pytest.mark.usefixtures("real_root")

# Without one of these a mount can't be made by descriptor; without one of the others it can.
OF_DESCRIPTORS = ("fsopen", "fsconfig", "fsmount", "fspick", "open_tree", "move_mount", "mount_setattr")
OTHERS = ("openat2", "statmount", "listmount", "open_tree_attr")
LACKING = [(call, errno) for call in (*OF_DESCRIPTORS, *OTHERS) for errno in (ENOSYS, EPERM) if call != "openat2"]
LACKING.append(("openat2", ENOSYS))
Act = Callable[[Path], None]


@pytest.fixture
def place(scratch: Path) -> Iterator[Path]:
    """Give a directory with a source: a tmpfs with another one mounted in it, and a file in both."""
    with cleared(scratch):
        source = tmpfs(scratch / "source")
        (source / "file").write_text("outer")
        fill(source / "sub/deep", {"own": "o"})
        tmpfs(source / "sub/below")
        (source / "sub/below/inner").touch()
        yield scratch


@pytest.fixture
def unprobed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget which features and routes there are, and what is found about them meanwhile."""
    monkeypatch.setattr(features, "_found", {})
    monkeypatch.setattr(routes, "_best", {})


# --- kinds: each mounts at place/p, and looks at what stands there ---------------------------------------------------
def new_filesystem(place: Path) -> None:
    point = put("tmpfs", "label", place / "p", "size=1m,nodev,noatime")
    assert (fstype(point), vfs(point)) == ("tmpfs", {"rw", "nodev", "noatime"})
    assert "size=1024k" in fs(point)


def bind(place: Path) -> None:
    point = put("bind", place / "source", place / "p")
    assert (count(point), (point / "file").read_text(), vfs(point)) == (1, "outer", {"rw", "relatime"})


def read_only_bind(place: Path) -> None:
    point = put("bind", place / "source", place / "p", "ro,nosuid")
    assert vfs(point) == {"ro", "nosuid", "relatime"}
    assert "rw" in vfs(place / "source")


def rbind_as_slave(place: Path) -> None:
    put("", "", place / "source", "rshared")
    point = put("rbind", place / "source", place / "p", "rslave")
    assert (count(point), tags(point), tags(point / "sub/below")) == (2, {"master"}, {"master"})


def rbind_read_only_to_the_ground(place: Path) -> None:
    point = put("rbind", place / "source", place / "p", "ro=recursive")
    assert "ro" in vfs(point) & vfs(point / "sub/below")
    assert "rw" in vfs(place / "source/sub/below")


def overlay(place: Path) -> None:
    one, two = layers(place, 2)
    upper, work = pair(place)
    point = put("overlay", "o", place / "p", f"lowerdir={one}:{two},upperdir={upper},workdir={work},nodev")
    assert (point / "common").read_text() == "0"
    (point / "new").touch()
    assert (upper / "new").exists()


def image(place: Path) -> None:
    point = put("ext4", image_file("ext4", place), place / "p", "loop,noexec")
    assert ((point / "file").read_text(), "noexec" in vfs(point)) == ("hello", True)


def list_of_types(place: Path) -> None:
    assert fstype(put("foo,bar,ext4", image_file("ext4", place), place / "p")) == "ext4"


def type_by_signature(place: Path) -> None:
    assert fstype(put("auto", image_file("ext4", place), place / "p", "ro")) == "ext4"


def remount(place: Path) -> None:
    point = put("tmpfs", "x", place / "p", "nosuid")
    put("", "", point, "remount,ro,size=1m")
    assert vfs(point) == {"ro", "nosuid", "relatime"}
    assert {"ro", "size=1024k"} <= fs(point)


def remount_of_the_mount_alone(place: Path) -> None:
    point = put("tmpfs", "x", place / "p", "nosuid")
    put("", "", point, "remount,bind,ro")
    assert ("ro" in vfs(point), "rw" in fs(point)) == (True, True)


def propagation(place: Path) -> None:
    point = put("tmpfs", "x", place / "p", "shared")
    assert tags(point) == {"shared"}
    put("", "", point, "private,unbindable")
    assert tags(point) == {"unbindable"}


def attributes_of_what_stands(place: Path) -> None:
    put("", "", place / "source", "rnodev")
    assert "nodev" in vfs(place / "source") & vfs(place / "source/sub/below")


def move(place: Path) -> None:
    put("", place / "source/sub/below", place / "p", "move")
    assert ((place / "p/inner").exists(), count(place / "source")) == (True, 1)


def directory_of_a_filesystem(place: Path) -> None:
    source = image_file("ext4", place)
    fill(put("ext4", source, place / "p") / "a", {"part": "p"})
    mountfd.unmount(place / "p")
    assert any(not loops(source) for _ in guard.patiently())
    point = put("ext4", source, place / "p", "X-mount.subdir=a,ro=vfs,nodev,X-mount.owner=7,shared")
    assert (os.listdir(point), owner_of(point)[0], tags(point)) == (["part"], 7, {"shared"})
    assert {"ro", "nodev"} <= vfs(point)
    assert ("rw" in fs(point), count(point)) == (True, 1)


def directory_of_a_bind(place: Path) -> None:
    point = put("bind", place / "source", place / "p", "X-mount.subdir=sub,nosuid")
    assert (count(point), sorted(os.listdir(point)), "nosuid" in vfs(point)) == (1, ["below", "deep"], True)
    assert "nosuid" not in vfs(place / "source")


def directory_of_an_rbind(place: Path) -> None:
    put("", "", place / "source", "rshared")
    point = put("rbind", place / "source", place / "p", "X-mount.subdir=sub,rnodev")
    assert (point / "below/inner").exists()
    assert "nodev" in vfs(point) & vfs(point / "below")
    assert tags(point) == tags(point / "below") == {"shared"}
    assert "nodev" not in vfs(place / "source/sub/below")


def directory_of_an_overlay(place: Path) -> None:
    fill(place / "l0/in", {"file": "i"}), fill(place / "l1")
    point = put("overlay", "o", place / "p", f"lowerdir={place}/l0:{place}/l1,X-mount.subdir=in")
    assert (fstype(point), os.listdir(point)) == ("overlay", ["file"])


def directories_that_are_made(place: Path) -> None:
    mountfd.mount(MountSpec("tmpfs", "x", options="X-mount.mkdir=700"), place / "p/a/b")
    assert count(place / "p/a/b") == 1


def owner_and_mode(place: Path) -> None:
    point = put("tmpfs", "x", place / "p", "X-mount.owner=3,X-mount.group=4,X-mount.mode=711")
    assert (owner_of(point), point.stat().st_mode & 0o777) == ((3, 4), 0o711)


KINDS = (
    *(new_filesystem, bind, read_only_bind, rbind_as_slave, rbind_read_only_to_the_ground, overlay, image),
    *(list_of_types, type_by_signature, remount, remount_of_the_mount_alone, propagation, attributes_of_what_stands),
    *(move, directory_of_a_filesystem, directory_of_a_bind, directory_of_an_rbind, directory_of_an_overlay),
    *(directories_that_are_made, owner_and_mode),
)
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def loops(source: Path) -> list[str]:
    return [line for line in guard._loop_devices() if line.endswith(f" -> {source}")]


@kinds
@pytest.mark.parametrize(("call", "errno"), LACKING, ids=lambda value: errorcode.get(value, value))
def test_without_one_call_a_mount_is_the_same(place: Path, unprobed: None, call: str, errno: int, kind: Act) -> None:
    if kind in (image, list_of_types, type_by_signature, directory_of_a_filesystem):
        need(Path("/dev/loop-control").exists(), "loop devices")
    with watching(lacking(call, errno=errno)):
        assert mount_routes.route() == ("string" if call in OF_DESCRIPTORS else "descriptor")
        kind(place)


@kinds
def test_by_either_route_a_mount_is_the_same(mount_route: str, place: Path, kind: Act) -> None:
    if kind in (image, list_of_types, type_by_signature, directory_of_a_filesystem):
        need(Path("/dev/loop-control").exists(), "loop devices")
    kind(place)


@pytest.mark.parametrize("call", OF_DESCRIPTORS)
def test_what_takes_a_call_that_is_missing_is_refused_by_name(place: Path, unprobed: None, call: str) -> None:
    one, two = layers(place, 2)
    with watching(lacking(call, errno=ENOSYS)):
        for kind, source, words in (
            ("bind", place / "source", []),
            ("tmpfs", "x", []),
            ("overlay", "o", [f"lowerdir={one}:{two}"]),
        ):
            with pytest.raises(NotSupported) as caught:
                put(kind, source, place / "p", [*words, "uidmap=0:1:1", "gidmap=0:1:1"])
            assert caught.value.feature == "idmapped mount"
        with pytest.raises(mountfd.InvalidSpec, match="beneath"):
            mountfd.mount(MountSpec("tmpfs", "x"), place / "p", beneath=True)
    assert count(place / "p") == 0


@pytest.mark.parametrize("call", OF_DESCRIPTORS)
def test_the_program_under_a_filter_that_knows_no_such_call(
    place: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The kernel itself answers here, and the program is a new process."""
    monkeypatch.setitem(seccomp.NUMBERS, call, getattr(numbers, f"SYS_{call}"))
    fill(place / "p")

    def act() -> list[tuple[int, str]]:
        seccomp.forbid(call, errno=ENOSYS)
        said = []
        for line in (
            "--bind SOURCE POINT",
            "-t tmpfs -o X-mount.subdir=nowhere x POINT",
            "--rbind -o X-mount.subdir=sub SOURCE POINT",
            "--make-rprivate POINT",
        ):
            words = [{"SOURCE": str(place / "source"), "POINT": str(place / "p")}.get(w, w) for w in line.split()]
            done = program("mount", *words)
            said.append((done.returncode, done.stderr))
        return said

    said = in_child(act)
    assert [status for status, _ in said] == [0, 32, 0, 0], said
    assert "nowhere" in said[1][1]
    assert (place / "p/below/inner").exists()
    assert count(place / "p") == 3


# --- the temporary place that a directory of a filesystem takes by mount(2) -------------------------------------------
def test_threads_each_get_their_directory(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_unique_ids()
    monkeypatch.setenv("MOUNTFD_ROUTE", "mount:string")
    names = [f"d{number}" for number in range(6)]
    for name in names:
        fill(place / "source" / name, {"file": name})
        fill(place / "own" / name)
    common = fill(place / "common")
    numbers: list[int | None] = []

    def act(name: str) -> None:
        spec = MountSpec("bind", place / "source", options=f"X-mount.subdir={name},nodev")
        mountfd.mount(spec, place / "own" / name)
        numbers.append(mountfd.mount(spec, common))

    threads = [threading.Thread(target=act, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(place / "own" / name / "file").read_text() for name in names] == names
    roots = [mountfd.lookup(id=number, fields=("root",)).root for number in numbers]
    assert (sorted(map(str, roots)), count(common)) == ([f"/{name}" for name in names], 6)


def test_without_a_directory_for_it_the_word_is_refused_by_name(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(ENOENT, "No usable temporary directory found")

    monkeypatch.setenv("MOUNTFD_ROUTE", "mount:string")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with pytest.raises(NotSupported) as caught:
        put("bind", place / "source", place / "p", "X-mount.subdir=sub")
    assert caught.value.feature == "X-mount.subdir"
    assert count(place / "p") == 0
