"""unmount(recursive=True) takes everything at and below a place, in the one order that works."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from errno import EINVAL, ENOSYS
from pathlib import Path

import pytest

from mountfd import Busy, Denied, Gone, KernelError, Missing, Mount, is_mount, lookup
from mountfd.lowlevel import calls
from mountfd.model.info import MountInfo, from_fields
from mountfd.verbs.unmount import unmount, unmount_all
from mountfd.verbs.unmount.tree import in_order
from tests.support.forest import Forest
from tests.support.inject import Watch, lacking, watching
from tests.support.mounting import MS_SHARED, bind, change, tmpfs
from tests.support.need import need_unique_ids
from tests.support.others import in_child

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000


@pytest.fixture(params=["as it is", "without statmount", "without statx"])
def kernel(request: pytest.FixtureRequest) -> Iterator[Watch]:
    """Unmount as on older kernels, or behind filters."""
    lacks: dict[str, tuple[str, ...]] = {
        "as it is": (),
        "without statmount": ("statmount", "listmount"),
        "without statx": ("statmount", "listmount", "statx"),
    }
    with watching(lacking(*lacks[request.param], errno=ENOSYS)) as watch:
        yield watch


def standing(place: Path) -> list[str]:
    """Read what stands at and below a place from the table, hidden ones too."""
    lines = Path("/proc/self/mountinfo").read_bytes().split(b"\n")[:-1]
    points = [line.split(b" ")[4] for line in lines]
    return sorted(os.fsdecode(point) for point in points if (point + b"/").startswith(bytes(place) + b"/"))


def test_the_boundary_is_the_directory_not_its_name(kernel: Watch, scratch: Path) -> None:
    place = scratch / "dir"
    for name in ("dir-other", "dir/subdir1", "dir/subdir1/subsub", "dir/subdir2/subsub"):
        (scratch / name).mkdir(parents=True, exist_ok=True)
        tmpfs(scratch / name)
    assert unmount(place, recursive=True) == 3
    assert standing(place) == []
    assert unmount(scratch / "dir-other") == 1


def test_stacks_are_taken_whole(kernel: Watch, scratch: Path) -> None:
    place = tmpfs(tmpfs(tmpfs(scratch / "place")))
    tmpfs(tmpfs(place / "child"))
    tmpfs(tmpfs(place / "child" / "grandchild"))
    assert unmount(place, recursive=True) == 7
    assert standing(place) == []
    assert unmount(place, recursive=True) == 0


def test_two_binds_one_within_the_other(kernel: Watch, scratch: Path) -> None:
    for name in ("A", "A/foo", "B", "T"):
        (scratch / name).mkdir()
    (scratch / "B" / "bar").write_text("of B")
    bind(scratch / "A", scratch / "T", 0x4000)
    bind(scratch / "B", scratch / "T" / "foo", 0x4000)
    assert unmount(scratch / "T", recursive=True) == 2
    assert standing(scratch / "T") == []


def test_a_path_that_is_not_there_is_nothing(kernel: Watch, scratch: Path) -> None:
    assert unmount(scratch / "nothing", recursive=True) == 0
    assert unmount(scratch / "nothing" / "more", recursive=True, lazy=True) == 0


def test_hidden_mounts_are_told_with_what_hides_them_and_go_after_it(kernel: Watch, scratch: Path) -> None:
    (scratch / "P" / "sub1" / "sub2" / "sub3").mkdir(parents=True)
    for name in ("sub1/sub2/sub3", "sub1/sub2", "sub1"):
        tmpfs(scratch / "P" / name)
    for name in ("sub1/sub2", "sub1/sub2/sub3"):
        for choice in ({}, {"recursive": True}):
            with pytest.raises(Missing) as caught:
                unmount(scratch / "P" / name, **choice)
            assert f"hidden by the tmpfs on '{scratch}/P/sub1'" in str(caught.value.hint)
    with pytest.raises(Missing, match="No such file"):
        unmount_all(scratch / "P" / "sub1" / "sub2")
    assert len(standing(scratch / "P")) == 3
    assert unmount(scratch / "P", recursive=True) == 3
    assert standing(scratch / "P") == []


def test_a_shape_in_which_every_mount_appears_elsewhere_too(scratch: Path) -> None:
    place = tmpfs(scratch / "T")
    change(place, MS_SHARED)
    for name in ("mntB", "bindB", "bindC"):
        (place / name).mkdir()
    tmpfs(place / "mntB")
    for name in ("mntC", "mntD"):
        (place / "mntB" / name).mkdir()
    change(place / "mntB", MS_SHARED)
    bind(place / "mntB", place / "bindB")
    tmpfs(place / "mntB" / "mntC")
    tmpfs(place / "mntB" / "mntD")
    bind(place / "mntB" / "mntC", place / "bindC")
    bind(place, place)
    assert len(standing(place)) > 8
    assert 0 < unmount(place, recursive=True) <= 20
    assert standing(place) == []


def test_what_goes_by_propagation_is_no_error(scratch: Path) -> None:
    place = tmpfs(scratch / "place")
    change(place, MS_SHARED)
    for name in ("a", "b"):
        (place / name).mkdir()
    (place / "a" / "x").mkdir()
    tmpfs(place / "a")
    (place / "a" / "x").mkdir()
    change(place / "a", MS_SHARED)
    bind(place / "a", place / "b")
    tmpfs(place / "a" / "x")
    assert is_mount(place / "b" / "x")
    count = len(standing(place))
    assert unmount(place, recursive=True) < count
    assert standing(place) == []


def test_a_plain_directory_may_be_the_target_lazily_too(scratch: Path) -> None:
    place = scratch / "plain"
    place.mkdir()
    (place / "c").mkdir()
    for name in ("a", "a/deep", "b", "c/deep"):
        tmpfs(place / name)
    tmpfs(place / "c")  # hides the one below
    with (place / "a" / "deep" / "file").open("w"):
        assert unmount(place, recursive=True, lazy=True) == 5
    assert standing(place) == []


def test_lazily_the_top_goes_with_all_that_stands_on_it(scratch: Path) -> None:
    place = tmpfs(tmpfs(scratch / "place"))
    tmpfs(tmpfs(place / "a") / "b")
    with (place / "a" / "b" / "file").open("w"):
        with watching(Watch()) as watch:
            assert unmount(place, recursive=True, lazy=True) == 3
        assert watch.names.count("umount2") == 1
    assert standing(place) == [str(place)]
    assert unmount(place) == 1


def test_without_unique_ids_too(scratch: Path) -> None:
    place = tmpfs(scratch / "place")
    tmpfs(tmpfs(place / "a") / "b")
    (scratch / "place" / "outer" / "inner").mkdir(parents=True)
    tmpfs(scratch / "place" / "outer" / "inner")
    tmpfs(scratch / "place" / "outer")  # hides it
    with watching(lacking("statx", "statmount", "listmount", errno=ENOSYS)):
        assert unmount(place, recursive=True, lazy=True) == 5
        assert standing(place) == []
        tmpfs(place)
        (place / "outer" / "inner").mkdir(parents=True)
        tmpfs(place / "outer" / "inner")
        with (tmpfs(place / "outer") / "file").open("w"), pytest.raises(Busy) as caught:
            unmount(place, recursive=True, wait=0)
        assert caught.value.filename == str(place / "outer")
        assert unmount(place, recursive=True) == 3


def test_by_id_and_by_handle_only_what_stands_on_that_one(scratch: Path) -> None:
    need_unique_ids()
    place = tmpfs(scratch / "place")
    lower = lookup(place).id
    number = lookup(tmpfs(place)).id
    tmpfs(place / "child")
    assert unmount(id=number, recursive=True) == 2
    assert lookup(place).id == lower
    tmpfs(place)
    tmpfs(place / "child")
    assert unmount(Mount.open(place), recursive=True) == 2
    assert lookup(place).id == lower
    with pytest.raises(Gone):
        unmount(id=number, recursive=True)
    assert unmount(place) == 1


def test_one_that_is_busy_stays_with_what_it_stands_on_and_the_rest_goes(kernel: Watch, scratch: Path) -> None:
    place = tmpfs(scratch / "place")
    for name in ("a", "b", "c", "a/deep", "b/deep"):
        tmpfs(place / name)
    with (place / "b" / "deep" / "file").open("w"), pytest.raises(Busy) as caught:
        unmount(place, recursive=True, wait=0)
    assert caught.value.filename == f"{place}/b/deep"
    assert "3 others were unmounted" in caught.value.__notes__
    assert standing(place) == [str(place), f"{place}/b", f"{place}/b/deep"]
    assert unmount(place, recursive=True) == 3


def test_every_one_that_fails_is_told(scratch: Path) -> None:
    place = tmpfs(scratch / "place")
    for name in ("a", "b", "c"):
        tmpfs(place / name)
    files = [(place / name / "file").open("w") for name in ("a", "c")]
    with pytest.raises(ExceptionGroup, match=r"2 mounts stay and 1 are gone") as caught:
        unmount(place, recursive=True, wait=0)
    errors = caught.value.exceptions
    assert all(isinstance(error, Busy) and error.holders for error in errors)
    assert {error.filename for error in errors if isinstance(error, Busy)} == {f"{place}/a", f"{place}/c"}
    for file in files:
        file.close()
    assert unmount(place, recursive=True) == 3


def test_one_wait_is_for_all_of_it(scratch: Path) -> None:
    place = tmpfs(scratch / "place")
    for name in ("a", "b"):
        tmpfs(place / name)
    files = [(place / name / "file").open("w") for name in ("a", "b")]
    with watching(Watch()) as watch, pytest.raises(ExceptionGroup):
        unmount(place, recursive=True, wait=0.2)
    tries = watch.names.count("umount2")
    with watching(Watch()) as watch, pytest.raises(Busy):
        unmount(place / "a", wait=0.2)
    assert tries <= watch.names.count("umount2") + 4
    for file in files:
        file.close()
    assert unmount(place, recursive=True) == 3


def test_what_a_busy_one_hides_is_left_alone(scratch: Path) -> None:
    (scratch / "P" / "outer" / "inner").mkdir(parents=True)
    tmpfs(scratch / "P" / "outer" / "inner")
    tmpfs(scratch / "P" / "outer")
    with (scratch / "P" / "outer" / "file").open("w"), pytest.raises(Busy) as caught:
        unmount(scratch / "P", recursive=True, wait=0)
    assert caught.value.filename == f"{scratch}/P/outer"
    assert unmount(scratch / "P", recursive=True) == 2


def test_a_symlink_is_followed_unless_that_is_not_wanted(scratch: Path) -> None:
    tmpfs(tmpfs(scratch / "place") / "child")
    (scratch / "link").symlink_to("place")
    with pytest.raises(KernelError) as caught:
        unmount(scratch / "link", recursive=True, follow=False)
    assert caught.value.errno == EINVAL
    assert unmount(scratch / "link", recursive=True) == 2


def test_what_comes_meanwhile_goes_too(scratch: Path) -> None:
    place = tmpfs(scratch / "place")
    tmpfs(place / "child")
    come: list[Path] = []

    def decide(_number: int, name: str, arguments: tuple[object, ...]) -> int:
        if name == "umount2" and len(come) < 3:
            come.append(place / str(len(come)))
            come[-1].mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "late", come[-1]], check=True)
        if name == "umount2" and len(come) == 3:
            come.append(place)
            subprocess.run(["mount", "-t", "tmpfs", "late", place], check=True)
        return 0

    with watching(Watch(decide)):
        assert unmount(place, recursive=True) == 6
    assert standing(place) == []


def test_deep_trees_and_odd_names(scratch: Path) -> None:
    place = scratch / "deep"
    place.mkdir()
    names = [b"a b", b"two\nlines", b"back\\slash", b"not\xff", b"-R", b"tab\t"] * 4
    at = bytes(place)
    for name in names:
        at += b"/" + name
        os.mkdir(at)
        calls.mount(b"odd", at, b"tmpfs", 0, None)
    for _ in range(1200):
        calls.mount(at, at, None, 0x1000, None)
    assert unmount(place, recursive=True) == len(names) + 1200
    assert standing(place) == []


def test_nothing_is_deleted(scratch: Path) -> None:
    place = scratch / "kept"
    (place / "inside").mkdir(parents=True)
    (place / "inside" / "file").write_text("kept")
    bind(place, place)
    bind(place / "inside", place / "inside")
    for lazy in (False, True):
        assert unmount(place, recursive=True, lazy=lazy) == 2
        assert (place / "inside" / "file").read_text() == "kept"
        bind(place, place)
        bind(place / "inside", place / "inside")
    assert unmount(place, recursive=True) == 2


def test_locked_ones_stay_and_are_told(scratch: Path) -> None:
    place = tmpfs(scratch / "place")
    tmpfs(place / "child")

    def act() -> str:
        calls.unshare(CLONE_NEWUSER | CLONE_NEWNS)
        tmpfs(place / "child")
        with pytest.raises(Denied) as caught:
            unmount(place, recursive=True)
        return f"{caught.value.filename} {caught.value.hint} {caught.value.__notes__}"

    said = in_child(act)
    assert said.startswith(f"{place}/child this mount is locked")
    assert "1 others were unmounted" in said
    assert unmount(place, recursive=True) == 2


@pytest.mark.parametrize("seed", range(12))
def test_whatever_stands_there_goes(scratch: Path, seed: int) -> None:
    place = scratch / "forest"
    place.mkdir()
    with Forest(place, seed):
        assert len(standing(place)) > 1
        unmount(place, recursive=True)
        assert standing(place) == []
        assert standing(scratch) == [str(scratch)]


def test_threads_at_one_tree_do_not_stand_in_each_others_way(scratch: Path) -> None:
    place = tmpfs(scratch / "place")
    for number in range(40):
        tmpfs(place / str(number))
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(unmount(place, recursive=True))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) >= 41
    assert len(counts) == 8
    assert standing(place) == []


def test_the_order_is_children_first_and_hiders_first() -> None:
    def row(number: int, parent: int, point: str) -> MountInfo:
        return from_fields({"id": number, "parent_id": parent, "point": point})

    rows = [row(1, 0, "/p"), row(2, 1, "/p/a/b"), row(3, 2, "/p/a/b/c"), row(4, 1, "/p/a"), row(5, 4, "/p/a/b")]
    assert [each.id for each in in_order(rows)] == [5, 4, 3, 2, 1]
