"""Several descriptions at once: all of them or nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from errno import EBUSY, EINVAL, ENOSYS
from pathlib import Path

import pytest

import mountfd
from mountfd import InvalidSpec, KernelError, MountSpec
from tests.support.inject import Watch, lacking, watching
from tests.support.layers import fill, layers
from tests.support.specs import ROUTES, cleared, count, fstype, put, tags


@pytest.fixture(params=ROUTES)
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    monkeypatch.setenv("MOUNTFD_ROUTE", f"mount:{name}")
    return name


@pytest.fixture
def place(scratch: Path) -> Iterator[Path]:
    with cleared(scratch):
        fill(scratch / "t")
        yield scratch


def tmpfs(below: str = "", *words: str) -> MountSpec:
    return MountSpec("tmpfs", f"on /{below}", below, words)


FAILS = MountSpec("tmpfs", "x", options=["nonsense=1"])


def test_each_in_its_order_and_with_its_id(route: str, place: Path) -> None:
    fill(place / "a/foo")
    one, two = layers(place, 2)
    specs = [
        MountSpec("bind", place / "a"),
        MountSpec("overlay", "o", "foo", [f"lowerdir={one}:{two}"]),
        tmpfs("bar", "X-mount.mkdir"),
    ]
    numbers = mountfd.mount_all(specs, place / "t")
    points = [place / "t", place / "t/foo", place / "t/bar"]
    assert numbers == [mountfd.lookup(point).id for point in points]
    assert [fstype(point) for point in points[1:]] == ["overlay", "tmpfs"]
    assert (place / "a/bar").is_dir()


def test_none(route: str, place: Path) -> None:
    assert mountfd.mount_all([], place / "t") == []


def test_all_on_one_place(route: str, place: Path) -> None:
    mountfd.mount_all([tmpfs(), tmpfs(), tmpfs()], place / "t")
    assert count(place / "t") == 3


def test_a_change_among_mounts(route: str, place: Path) -> None:
    mountfd.mount_all(
        [tmpfs(), MountSpec("", "", options=["remount", "ro"]), MountSpec("", "", options="shared")], place / "t"
    )
    assert tags(place / "t") == {"shared"}
    with pytest.raises(OSError, match="Read-only"):
        (place / "t/x").touch()


@pytest.mark.parametrize("before", [0, 1, 2, 5])
def test_a_failure_takes_away_what_was_mounted(route: str, place: Path, before: int) -> None:
    specs = [tmpfs()] + [tmpfs(f"d{number}", "X-mount.mkdir") for number in range(before)]
    table = Path("/proc/self/mountinfo").read_bytes()
    with pytest.raises(KernelError) as caught:
        mountfd.mount_all([*specs[: before + 1], FAILS, tmpfs("never")], place / "t")
    assert caught.value.errno == EINVAL
    assert Path("/proc/self/mountinfo").read_bytes() == table
    assert os.listdir(place / "t") == []


def test_directories_that_were_made_go_too_and_no_others(route: str, place: Path) -> None:
    fill(place / "t/there")
    specs = [tmpfs("there/a/b", "X-mount.mkdir"), tmpfs("there/a/b/c/d", "X-mount.mkdir"), tmpfs("e", "X-mount.mkdir")]
    with pytest.raises(KernelError):
        mountfd.mount_all([*specs, FAILS], place / "t")
    assert os.listdir(place / "t") == ["there"]
    assert os.listdir(place / "t/there") == []


def test_what_is_not_understood_is_found_before_anything_is_done(route: str, place: Path) -> None:
    with watching(Watch()) as seen, pytest.raises(InvalidSpec):
        mountfd.mount_all([tmpfs(), tmpfs("", "uidmap=0:1:1")], place / "t")
    assert seen.names == []


def test_what_stood_before_stays(route: str, place: Path) -> None:
    put("tmpfs", "before", place / "t")
    with pytest.raises(KernelError):
        mountfd.mount_all([tmpfs(), FAILS], place / "t")
    assert count(place / "t") == 1
    assert mountfd.lookup(place / "t").source == "before"


def test_a_mount_that_somebody_uses_is_taken_away_all_the_same(route: str, place: Path) -> None:
    held: list[int] = []

    def hold(_count: int, name: str, _arguments: object) -> int:
        if name in ("fsopen", "mount") and not held and mountfd.is_mount(place / "t"):
            held.append(os.open(place / "t", os.O_PATH))
        return 0

    with watching(Watch(hold)), pytest.raises(KernelError):
        mountfd.mount_all([tmpfs(), FAILS], place / "t")
    assert count(place / "t") == 0
    os.close(held.pop())


def test_failures_to_take_away_are_told_too(route: str, place: Path) -> None:
    refused: list[object] = []

    def refuse(_count: int, name: str, arguments: tuple[object, ...]) -> int:
        if name == "umount2":
            refused.append(arguments)
            return EBUSY
        return 0

    with watching(Watch(refuse)), pytest.raises(ExceptionGroup) as caught:
        mountfd.mount_all([tmpfs(), tmpfs("a", "X-mount.mkdir"), FAILS], place / "t")
    first, *others = caught.value.exceptions
    assert isinstance(first, KernelError)
    assert first.errno == EINVAL
    assert [type(other) for other in others] == [mountfd.Busy, mountfd.Busy]
    assert len(refused) >= 2
    assert count(place / "t") == 2


def test_any_iterable_will_do(route: str, place: Path) -> None:
    assert len(mountfd.mount_all(iter([tmpfs(), tmpfs()]), str(place / "t"))) == 2


def test_without_unique_ids_it_is_taken_away_by_its_path(route: str, place: Path) -> None:
    with watching(lacking("statx", "statmount", "listmount", errno=ENOSYS)), pytest.raises(KernelError):
        mountfd.mount_all([tmpfs(), tmpfs("a/b", "X-mount.mkdir"), FAILS], place / "t")
    assert count(place / "t") == 0
    with watching(lacking("statx", "statmount", "listmount", errno=ENOSYS)):
        assert mountfd.mount_all([tmpfs()], place / "t") == [None]
