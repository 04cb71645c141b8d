"""A directory of a filesystem by mount(2), which takes a temporary place: each call fails, or the process is killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from errno import EBUSY, EINTR, EINVAL, EMFILE, ENOMEM, ENOSPC, EPERM, errorcode
from pathlib import Path

import pytest

import mountfd
from mountfd import MountSpec
from tests.faults.stock import killed_at_each_call
from tests.faults.test_mount_each_call_fails import each_call_fails
from tests.support.inject import Watch, watching
from tests.support.layers import fill, table
from tests.support.specs import cleared, count, fstype, put, tags, vfs

pytestmark = pytest.mark.usefixtures("real_root")

ERRNOS = pytest.mark.parametrize("errno", [ENOMEM, EPERM, EINVAL, EBUSY, EINTR, EMFILE, ENOSPC], ids=errorcode.get)


@pytest.fixture
def place(place: Path) -> Path:
    fill(place / "t")
    return place


@pytest.fixture
def ground(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the directory below which the temporary place is made; mount goes by mount(2)."""
    home = fill(place.parent / f"{place.name}-ground")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home))
    monkeypatch.setenv("MOUNTFD_ROUTE", "mount:string")
    with cleared(home):
        yield home
    home.rmdir()


def spec(origin: Path) -> MountSpec:
    return MountSpec("rbind", origin, options="X-mount.subdir=sub,nodev,rnosuid,X-mount.owner=3,rprivate")


def source(place: Path) -> Path:
    """Mount a shared tree of two."""
    origin = put("tmpfs", "x", place.parent / f"{place.name}-origin", "shared")
    put("tmpfs", "below", fill(origin / "sub") / "deep")
    return origin


@pytest.fixture
def origin(place: Path) -> Iterator[Path]:
    point = source(place)
    yield point
    mountfd.unmount(point, recursive=True)
    point.rmdir()


def check(place: Path) -> None:
    assert count(place / "t") == 2
    assert (place / "t").stat().st_uid == 3
    assert {"nodev", "nosuid"} <= vfs(place / "t")
    assert "nosuid" in vfs(place / "t/deep")
    assert tags(place / "t") == tags(place / "t/deep") == set()


@ERRNOS
def test_each_call_fails(place: Path, ground: Path, origin: Path, errno: int) -> None:
    def looked() -> None:
        check(place)
        assert os.listdir(ground) == []
        assert count(origin) == 2

    def act() -> None:
        try:
            mountfd.mount(spec(origin), place / "t")
        finally:
            # What couldn't be taken away for want of a call is found later, as after a kill.
            left.update(str(finding.error) for finding in mountfd.sweep(ground) if not finding.is_cleared)

    left: set[str] = set()
    each_call_fails(place, act, looked, errno, 20)
    assert (count(origin), left) == (2, set())


def test_killed_at_each_call_it_is_whole_or_not_there_and_swept(place: Path, ground: Path, origin: Path) -> None:
    wanted, point = spec(origin), place / "t"
    calls, whole = 0, 0
    for name in killed_at_each_call(
        lambda: mountfd.mount(wanted, point), lambda: mountfd.unmount(point, recursive=True)
    ):
        calls += 1
        if count(point):
            whole += 1
            assert {"nodev", "nosuid"} <= vfs(point)
            assert point.stat().st_uid == 3
            # Its propagation is set last: until then it is a peer of its source, as every new bind.
            mountfd.mount(MountSpec("", "", options="rprivate"), point)
            mountfd.unmount(point, recursive=True)
        assert [finding.error for finding in mountfd.sweep(ground)] in ([], [None]), name
        assert os.listdir(ground) == []
        assert count(origin) == 2
    assert 0 < whole < calls


def test_what_a_shared_ground_is_seen_by_gets_no_copy_of_the_whole(place: Path, ground: Path) -> None:
    """The temporary place may lie on a shared mount, as / of most systems is."""
    put("tmpfs", "home", ground, "shared")
    peer = put("bind", ground, place / "peer")
    origin = put("tmpfs", "x", place / "origin")
    fill(origin / "sub")
    seen: set[bytes] = set()

    def look(_count: int, _name: str, _arguments: tuple[object, ...]) -> int:
        rows = [line.split(b" ") for line in table()]
        seen.update(row[-2] for row in rows if row[4].startswith(os.fsencode(peer) + b"/"))
        return 0

    with watching(Watch(look)):
        mountfd.mount(MountSpec("bind", origin, options="X-mount.subdir=sub"), place / "t")
    assert fstype(place / "t") == "tmpfs"
    assert seen <= {b"mountfd"}  # the empty ground itself
    mountfd.unmount(peer)
    mountfd.unmount(ground)
