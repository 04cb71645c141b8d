"""The n-th call of a mount fails, for every n: an error of the family or a mount as described, and nothing else."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from errno import EBUSY, EINTR, EINVAL, EMFILE, ENOMEM, ENOSPC, ENOSYS, EPERM, errorcode
from pathlib import Path

import pytest

import mountfd
import mountfd.verbs.mount as mount_routes
from mountfd import KernelError, MountSpec, NotSupported
from mountfd.abi import features
from mountfd.verbs import routes
from tests.faults.stock import stock
from tests.support import guard
from tests.support.images import image_file
from tests.support.inject import failing, lacking, watching
from tests.support.layers import fill, layers, pair
from tests.support.specs import clear, count, owner_of, put, vfs

pytestmark = pytest.mark.usefixtures("real_root")

ERRNOS = pytest.mark.parametrize("errno", [ENOMEM, EPERM, EINVAL, EBUSY, EINTR, EMFILE, ENOSPC], ids=errorcode.get)
Act = Callable[[], object]


@pytest.fixture
def place(place: Path) -> Path:
    fill(place / "t")
    return place


@pytest.fixture
def elsewhere(temporary_directory: Path) -> Iterator[Path]:
    """Give a directory that stands beside the place."""
    point = Path(tempfile.mkdtemp(dir=temporary_directory)) / "mnt"
    yield point
    clear(point.parent)
    point.rmdir()
    point.parent.rmdir()


def listing(place: Path) -> list[str]:
    return sorted(os.fspath(path) for path in place.rglob("*") if "work" not in path.parts)


def loops(place: Path) -> set[str]:
    """Give the loop devices with an image of this place, once those that are on their way have gone."""
    for _ in guard.patiently():
        found = {line for line in guard._loop_devices() if f" -> {place}/" in line}
        if not found:
            break
    return found


def each_call_fails(place: Path, act: Act, check: Act, errno: int, least: int) -> None:
    """Let the first call fail, the second, and so on; `check` looks at what was made where that did no harm."""
    point = place / "t"

    def take_away() -> None:
        clear(place)
        for path in sorted(point.rglob("*"), reverse=True):
            path.rmdir()

    act()
    check()
    take_away()
    before, names, number, refused = (*stock(), loops(place)), listing(place), 0, 0
    while True:
        number += 1
        done = False
        with watching(failing(number, errno)) as watch:
            try:
                act()
                done = True
            except KernelError:
                refused += 1
            except BaseExceptionGroup as group:
                refused += 1
                assert group.subgroup(KernelError), group  # noqa: PT017 (one of several)
        if done:
            check()
            take_away()
        assert (*stock(), loops(place)) == before, (number, watch.hit)
        assert listing(place) == names, (number, watch.hit)
        if watch.hit is None:
            break
    assert number > least
    assert refused == 0 if errno == EINTR else refused > 0


@ERRNOS
def test_bind(mount_route: str, place: Path, elsewhere: Path, errno: int) -> None:
    origin = put("tmpfs", "x", elsewhere, "nosuid")
    put("tmpfs", "below", origin / "sub")
    spec = MountSpec("rbind", origin, "a/b", ["ro", "noexec", "rnodev", "X-mount.mkdir", "rprivate"])

    def check() -> None:
        assert vfs(place / "t/a/b") == {"ro", "nosuid", "nodev", "noexec", "relatime"}
        assert vfs(place / "t/a/b/sub") == {"rw", "nodev", "relatime"}

    each_call_fails(place, lambda: mountfd.mount(spec, place / "t"), check, errno, 7)


@ERRNOS
def test_tmpfs_with_all_that_goes_with_it(place: Path, errno: int) -> None:
    fill(place / "origin/sub")
    words = ["X-mount.subdir=sub", "X-mount.owner=3", "X-mount.mode=711", "uidmap=0:0:10", "gidmap=0:0:10", "shared"]
    bind = MountSpec("bind", place / "origin", options=words)
    new = MountSpec("tmpfs", "x", "new", ["X-mount.mkdir", "size=1m", "ro=vfs", "uidmap=0:0:10", "gidmap=0:0:10"])

    def check() -> None:
        assert "idmapped" in vfs(place / "t")
        assert owner_of(place / "t")[0] == 3
        assert {"ro", "idmapped"} <= vfs(place / "t/new")

    def act() -> None:
        mountfd.mount_all([bind, new], place / "t")

    each_call_fails(place, act, check, errno, 15)


@ERRNOS
def test_overlay(mount_route: str, place: Path, errno: int) -> None:
    one, two = layers(place, 2)
    upper, work = pair(place)
    spec = MountSpec("overlay", "o", options=[f"lowerdir={one}:{two}", f"upperdir={upper}", f"workdir={work}", "nodev"])

    def check() -> None:
        assert (place / "t/common").read_text() == "0"
        assert vfs(place / "t") == {"rw", "nodev", "relatime"}

    each_call_fails(place, lambda: mountfd.mount(spec, place / "t"), check, errno, 3)


@ERRNOS
def test_three_of_which_the_last_needs_a_directory(mount_route: str, place: Path, errno: int) -> None:
    fill(place / "origin")
    specs = [
        MountSpec("tmpfs", "x"),
        MountSpec("bind", place / "origin", "a", ["X-mount.mkdir", "ro"]),
        MountSpec("tmpfs", "y", "b/c", ["X-mount.mkdir", "noexec", "shared"]),
    ]

    def check() -> None:
        assert "ro" in vfs(place / "t/a")
        assert "noexec" in vfs(place / "t/b/c")

    each_call_fails(place, lambda: mountfd.mount_all(specs, place / "t"), check, errno, 12)


@ERRNOS
def test_a_value_that_only_mount_carries(place: Path, errno: int) -> None:
    spec = MountSpec("tmpfs", "x", options=[f"mode={'755'.rjust(300, '0')}", "nodev"])

    def check() -> None:
        assert vfs(place / "t") == {"rw", "nodev", "relatime"}

    each_call_fails(place, lambda: mountfd.mount(spec, place / "t"), check, errno, 8)


@ERRNOS
def test_an_image(mount_route: str, place: Path, errno: int) -> None:
    image = image_file("ext4", place)
    spec = MountSpec("ext4", image, options=["loop", "ro", "noexec"])

    def check() -> None:
        assert (place / "t/file").read_text() == "hello"
        assert "noexec" in vfs(place / "t")

    each_call_fails(place, lambda: mountfd.mount(spec, place / "t"), check, errno, 6)


@ERRNOS
def test_a_remount_that_fails_changes_nothing(mount_route: str, place: Path, errno: int) -> None:
    point = put("tmpfs", "x", place / "t", "nosuid,noatime")
    before, number = vfs(point), 0
    spec = MountSpec("", "", options=["remount", "bind", "ro", "nodev"])
    mountfd.mount(spec, point)
    mountfd.mount(MountSpec("", "", options=["remount", "bind", "rw", "dev"]), point)
    assert vfs(point) == before
    while True:
        number += 1
        with watching(failing(number, errno)) as watch:
            try:
                mountfd.mount(spec, point)
            except KernelError:
                assert vfs(point) == before, (number, watch.hit)
            else:
                assert vfs(point) == {"ro", "nosuid", "nodev", "noatime"}
        if watch.hit is None:
            break
        mountfd.mount(MountSpec("", "", options=["remount", "bind", "rw", "dev"]), point)
    assert number > 3


def test_a_kernel_without_the_new_calls_takes_the_string_route(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_found", {})
    monkeypatch.setattr(routes, "_best", {})
    new = ("fsopen", "fsconfig", "fsmount", "open_tree", "move_mount", "mount_setattr", "fspick")
    one, two = layers(place, 2)
    with watching(lacking(*new, errno=ENOSYS)):
        assert mount_routes.route() == "string"
        put("tmpfs", "x", place / "t", "noexec,size=1m")
        put("rbind", one, place / "t", "ro,rnodev,rprivate")
        put("overlay", "o", place / "t", f"lowerdir={one}:{two}")
        put("", "", place / "t", "remount,ro")
        put("", "", place / "t", "slave")
        put("bind", place / "t", place / "to")
        mountfd.mount(MountSpec("", place / "to", options="move"), fill(place / "end"))
        with pytest.raises(NotSupported):
            put("bind", one, place / "t", ["uidmap=0:1:1", "gidmap=0:1:1"])
    assert (count(place / "t"), count(place / "to"), count(place / "end")) == (3, 0, 1)
