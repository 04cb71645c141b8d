"""mount(2) doesn't say what it made: whose the mount on top is, when others mount and unmount there as well."""

from __future__ import annotations

import threading
from errno import ESTALE
from pathlib import Path

import pytest

import mountfd
from mountfd import KernelError, Missing, MountSpec
from mountfd.lowlevel import calls
from mountfd.verbs.mount import by_string
from tests.support import private
from tests.support.inject import Watch, watching
from tests.support.layers import fill
from tests.support.need import need_unique_ids
from tests.support.specs import count, put

MNT_DETACH = 2
THREADS = 60


@pytest.fixture(autouse=True)
def _by_string(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", "mount:string")


@pytest.fixture
def point(place: Path) -> Path:
    return put("tmpfs", "a", place / "p")


def sources(point: Path) -> list[str | None]:
    return [info.source for info in mountfd.mounts(fields=("point", "source")) if info.point == str(point)]


def before_mounting(*steps: tuple[str, Path]) -> Watch:
    """Have others mount and unmount right before the call."""
    done: list[bool] = []

    def decide(_count: int, name: str, _arguments: tuple[object, ...]) -> int:
        if name == "mount" and not done:
            done.append(True)
            for what, where in steps:
                if what == "umount":
                    calls.umount2(bytes(where), MNT_DETACH)
                else:
                    calls.mount(what.encode(), bytes(where), b"tmpfs", 0, None)
        return 0

    return Watch(decide)


def test_what_covered_the_place_for_a_while_may_go_before(point: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = by_string._stack

    def covered_when_looked_at(path: bytes) -> set[int]:
        private.mount_tmpfs(point)
        return look(path)

    monkeypatch.setattr(by_string, "_stack", covered_when_looked_at)
    with watching(before_mounting(("umount", point))):
        number = mountfd.mount(MountSpec("tmpfs", "c"), point)
    assert mountfd.lookup(point).id == number
    assert sources(point) == ["a", "c"]


def test_where_the_place_itself_goes_nothing_is_mounted(point: Path) -> None:
    with watching(before_mounting(("umount", point))), pytest.raises(Missing) as caught:
        mountfd.mount(MountSpec("tmpfs", "c"), point)
    assert caught.value.filename == str(point)
    assert sources(point) == []


def test_of_two_new_ones_nobody_can_tell_so_both_stay_and_it_is_said(point: Path) -> None:
    need_unique_ids()
    with watching(before_mounting(("theirs", point))), pytest.raises(KernelError) as caught:
        mountfd.mount(MountSpec("tmpfs", "c"), point)
    assert caught.value.errno == ESTALE
    assert str(mountfd.lookup(point).id) in (caught.value.hint or "")
    assert sources(point) == ["a", "theirs", "c"]


def test_one_that_came_and_went_is_no_matter(point: Path) -> None:
    with watching(before_mounting(("theirs", point), ("umount", point))):
        number = mountfd.mount(MountSpec("tmpfs", "c"), point)
    assert (mountfd.lookup(point).id, sources(point)) == (number, ["a", "c"])


def test_many_threads_mount_and_unmount_each_its_own(place: Path) -> None:
    need_unique_ids()
    point, wrong = fill(place / "p"), []

    def by_turns() -> None:
        try:
            for _ in range(3):
                number = mountfd.mount(MountSpec("tmpfs", "x"), point)
                assert number is not None
                while True:
                    try:
                        assert mountfd.unmount(id=number, wait=30) == 1
                        break
                    except mountfd.Gone as error:
                        if "not on top" not in str(error):
                            raise
        except BaseException as error:  # noqa: BLE001 (told by the test)
            wrong.append(repr(error))

    threads = [threading.Thread(target=by_turns) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert count(point) == 0
