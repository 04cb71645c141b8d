"""Several descriptions at once: all of them or nothing."""

from __future__ import annotations

import os
from errno import EBUSY, EINVAL, ENOSYS
from pathlib import Path

import pytest

import mountfd
from mountfd import InvalidSpec, KernelError, MountSpec
from mountfd.lowlevel import calls
from tests.support.inject import Watch, lacking, watching
from tests.support.layers import fill, layers
from tests.support.need import need_unique_ids
from tests.support.specs import count, fstype, put, tags


@pytest.fixture
def place(place: Path) -> Path:
    fill(place / "t")
    return place


def tmpfs(below: str = "", *words: str) -> MountSpec:
    return MountSpec("tmpfs", f"on /{below}", below, words)


FAILS = MountSpec("tmpfs", "x", options=["nonsense=1"])


def test_each_in_its_order_and_with_its_id(mount_route: str, place: Path) -> None:
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


def test_none(mount_route: str, place: Path) -> None:
    assert mountfd.mount_all([], place / "t") == []


def test_all_on_one_place(mount_route: str, place: Path) -> None:
    mountfd.mount_all([tmpfs(), tmpfs(), tmpfs()], place / "t")
    assert count(place / "t") == 3


def test_a_change_among_mounts(mount_route: str, place: Path) -> None:
    mountfd.mount_all(
        [tmpfs(), MountSpec("", "", options=["remount", "ro"]), MountSpec("", "", options="shared")], place / "t"
    )
    assert tags(place / "t") == {"shared"}
    with pytest.raises(OSError, match="Read-only"):
        (place / "t/x").touch()


@pytest.mark.parametrize("before", [0, 1, 2, 5])
def test_a_failure_takes_away_what_was_mounted(mount_route: str, place: Path, before: int) -> None:
    specs = [tmpfs()] + [tmpfs(f"d{number}", "X-mount.mkdir") for number in range(before)]
    table = Path("/proc/self/mountinfo").read_bytes()
    with pytest.raises(KernelError) as caught:
        mountfd.mount_all([*specs[: before + 1], FAILS, tmpfs("never")], place / "t")
    assert caught.value.errno == EINVAL
    assert Path("/proc/self/mountinfo").read_bytes() == table
    assert os.listdir(place / "t") == []


def test_directories_that_were_made_go_too_and_no_others(mount_route: str, place: Path) -> None:
    fill(place / "t/there")
    specs = [tmpfs("there/a/b", "X-mount.mkdir"), tmpfs("there/a/b/c/d", "X-mount.mkdir"), tmpfs("e", "X-mount.mkdir")]
    with pytest.raises(KernelError):
        mountfd.mount_all([*specs, FAILS], place / "t")
    assert os.listdir(place / "t") == ["there"]
    assert os.listdir(place / "t/there") == []


def test_what_is_not_understood_is_found_before_anything_is_done(mount_route: str, place: Path) -> None:
    with watching(Watch()) as seen, pytest.raises(InvalidSpec):
        mountfd.mount_all([tmpfs(), tmpfs("", "uidmap=0:1:1")], place / "t")
    assert seen.names == []


def test_what_stood_before_stays(mount_route: str, place: Path) -> None:
    put("tmpfs", "before", place / "t")
    with pytest.raises(KernelError):
        mountfd.mount_all([tmpfs(), FAILS], place / "t")
    assert count(place / "t") == 1
    assert mountfd.lookup(place / "t").source == "before"


def test_a_mount_that_somebody_uses_is_taken_away_all_the_same(mount_route: str, place: Path) -> None:
    held: list[int] = []

    def hold(_count: int, name: str, _arguments: object) -> int:
        if name in ("fsopen", "mount") and not held and mountfd.is_mount(place / "t"):
            held.append(os.open(place / "t", os.O_PATH))
        return 0

    with watching(Watch(hold)), pytest.raises(KernelError):
        mountfd.mount_all([tmpfs(), FAILS], place / "t")
    assert count(place / "t") == 0
    os.close(held.pop())


def test_failures_to_take_away_are_told_too(mount_route: str, place: Path) -> None:
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


def test_any_iterable_will_do(mount_route: str, place: Path) -> None:
    assert len(mountfd.mount_all(iter([tmpfs(), tmpfs()]), str(place / "t"))) == 2


def test_without_unique_ids_it_is_taken_away_by_its_path(mount_route: str, place: Path) -> None:
    with watching(lacking("statx", "statmount", "listmount", errno=ENOSYS)), pytest.raises(KernelError):
        mountfd.mount_all([tmpfs(), tmpfs("a/b", "X-mount.mkdir"), FAILS], place / "t")
    assert count(place / "t") == 0
    with watching(lacking("statx", "statmount", "listmount", errno=ENOSYS)):
        assert mountfd.mount_all([tmpfs()], place / "t") == [None]


def shared_with_children(place: Path) -> Path:
    """Mount a shared tree of three, one upon the other, and give its top."""
    source = put("tmpfs", "source", place / "source", ["shared"])
    put("tmpfs", "child", source / "child")
    put("tmpfs", "grandchild", source / "child/grandchild")
    return source


def shared_target(place: Path) -> tuple[Path, Path]:
    """Mount a shared target and a peer of it; give both."""
    target = put("tmpfs", "target", place / "target", ["shared"])
    (target / "d").mkdir()
    return target, put("bind", target, place / "peer")


def test_what_stands_at_the_source_of_an_rbind_stays_there(mount_route: str, place: Path) -> None:
    source = shared_with_children(place)
    table = Path("/proc/self/mountinfo").read_bytes()
    with pytest.raises(KernelError) as caught:
        mountfd.mount_all([MountSpec("bind", source, options="rbind"), FAILS], place / "t")
    assert Path("/proc/self/mountinfo").read_bytes() == table
    assert not any("copies" in note for note in getattr(caught.value, "__notes__", []))


def test_it_stays_there_too_where_some_of_it_are_covered(mount_route: str, place: Path) -> None:
    source = shared_with_children(place)
    put("tmpfs", "covering", source / "child")
    put("tmpfs", "more", source / "child/more")
    with pytest.raises(KernelError) as caught:
        mountfd.mount_all([MountSpec("bind", source, options="rbind"), FAILS], place / "t")
    assert caught.value.errno == EINVAL
    assert (count(source), count(place / "t")) == (5, 0)


def test_copies_that_stay_for_that_are_told(mount_route: str, place: Path) -> None:
    source = shared_with_children(place)
    target, peer = shared_target(place)
    with pytest.raises(KernelError) as caught:
        mountfd.mount_all([MountSpec("bind", source, options="rbind"), FAILS], target / "d")
    assert count(source) == 3
    assert count(target) == 1
    assert any("copies" in note for note in caught.value.__notes__) == (count(peer) > 1)


def test_copies_of_what_has_no_peer_elsewhere_go_too(mount_route: str, place: Path) -> None:
    need_unique_ids()  # those that are used again say nothing of age, so a copy can't be told from an original
    target, peer = shared_target(place)
    source = put("tmpfs", "source", place / "source", ["private"])
    put("tmpfs", "child", source / "child", ["shared"])
    specs = [MountSpec("bind", source, options="rbind"), tmpfs("child/new", "X-mount.mkdir"), FAILS]
    with pytest.raises(KernelError):
        mountfd.mount_all(specs, target / "d")
    assert (count(source), count(target), count(peer)) == (2, 1, 1)


def test_a_bind_of_itself_loses_nothing(mount_route: str, place: Path) -> None:
    source = shared_with_children(place)
    with pytest.raises(KernelError):
        mountfd.mount_all([MountSpec("bind", source, options="rbind"), FAILS], source)
    assert count(source) == 3


def test_a_bind_of_itself_loses_nothing_without_unique_ids_either(mount_route: str, place: Path) -> None:
    source = shared_with_children(place)
    with watching(lacking("statx", "statmount", "listmount", errno=ENOSYS)), pytest.raises(KernelError):
        mountfd.mount_all([MountSpec("bind", source, options="rbind"), FAILS], source)
    assert count(source) == 3


def test_one_that_is_taken_back_takes_nothing_from_its_source(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", "mount:descriptor")
    source = shared_with_children(place)
    refused: list[int] = []

    def refuse(_count: int, name: str, _arguments: object) -> int:
        if name == "mount_setattr" and not refused:
            refused.append(count(place / "t"))
            return EINVAL
        return 0

    with watching(Watch(refuse)), pytest.raises(KernelError):
        mountfd.mount(MountSpec("bind", source, options="rbind,slave"), place / "t")
    assert refused == [3]
    assert (count(source), count(place / "t")) == (3, 0)


def test_a_move_is_refused_since_it_can_not_be_taken_back(mount_route: str, place: Path) -> None:
    moved = put("tmpfs", "moved", place / "moved")
    with watching(Watch()) as seen, pytest.raises(InvalidSpec, match="move"):
        mountfd.mount_all([MountSpec("", moved, options="move"), FAILS], place / "t")
    assert seen.names == []
    assert mountfd.is_mount(moved)


@pytest.mark.parametrize("missing", [(), ("statx", "statmount", "listmount")], ids=["now", "without ids"])
def test_an_exception_right_after_a_mount_leaves_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", "mount:descriptor")

    class Interrupting(Watch):
        def after(self, row: calls.Row, *_more: object) -> None:
            if row.name == "move_mount":
                raise KeyboardInterrupt

    older = Interrupting(lambda _count, name, _arguments: ENOSYS * (name in missing))
    with watching(older), pytest.raises(KeyboardInterrupt):
        mountfd.mount_all([tmpfs(), tmpfs()], place / "t")
    assert count(place / "t") == 0
    with watching(older), pytest.raises(KeyboardInterrupt):
        mountfd.mount(tmpfs(), place / "t")
    assert count(place / "t") == 0
