"""Idmaps said in words: on disk, as seen."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import mountfd
from mountfd import IdMap, InvalidSpec, MountSpec, NotSupported, UserNamespace
from mountfd.lowlevel import OwnedFd, drop_caches
from tests.support.layers import fill
from tests.support.others import in_child
from tests.support.specs import count, in_user_namespace, put, vfs

pytestmark = pytest.mark.usefixtures("real_root")

THREE = "1000:0:100,5000:2000:100,10000:3000:100"


def owned(path: Path, uid: int, gid: int | None = None) -> Path:
    path.touch()
    os.chown(path, uid, uid if gid is None else gid)
    return path


def owner(path: Path) -> tuple[int, int]:
    return path.stat().st_uid, path.stat().st_gid


def maps(uid: str, gid: str | None = None) -> list[str]:
    return [f"uidmap={uid}", f"gidmap={uid if gid is None else gid}"]


@pytest.fixture
def owners(place: Path) -> Path:
    """Give a directory with a file of each of three owners, and a directory of the first."""
    tree = fill(place / "tree")
    for number, uid in enumerate((1000, 5000, 10000)):
        owned(tree / str(number), uid)
    fill(tree / "write")
    os.chown(tree / "write", 1000, 1000)
    return tree


# --- one mount -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("style", ["containerd", "mount", "typed"])
def test_the_first_number_is_on_disk_and_the_second_is_seen(place: Path, owners: Path, style: str) -> None:
    point = fill(place / "p")
    if style == "typed":
        mountfd.mount(MountSpec("bind", owners, idmap=IdMap.parse(THREE)), point)
    else:
        put(
            "bind",
            owners,
            point,
            maps(THREE) if style == "containerd" else [f"X-mount.idmap={THREE.replace(',', ' ')}"],
        )
    assert [owner(point / str(number)) for number in range(3)] == [(0, 0), (2000, 2000), (3000, 3000)]
    (point / "write/new").touch()
    assert owner(owners / "write/new") == (1000, 1000)
    assert count(point) == 1


def test_a_read_only_idmapped_bind_is_both(place: Path, owners: Path) -> None:
    point = put("bind", owners, place / "p", ["ro", *maps(THREE)])
    assert vfs(point) == {"ro", "relatime", "idmapped"}
    assert owner(point / "1") == (2000, 2000)
    with pytest.raises(OSError, match="Read-only"):
        (point / "write/new").touch()


def test_ranges_with_gaps(place: Path) -> None:
    tree = fill(place / "tree")
    for uid, gid in ((100, 211), (101, 222), (102, 233), (103, 240)):
        owned(tree / str(uid), uid, gid)
    words = maps("100:1000:1,101:2000:1,102:3000:1", "210:1100:10,220:2200:10,230:3300:10")
    point = put("bind", tree, place / "p", words)
    found = [owner(point / name) for name in ("100", "101", "102", "103")]
    assert found == [(1000, 1101), (2000, 2202), (3000, 3303), (65534, 65534)]


def test_a_new_filesystem_is_idmapped_too(place: Path) -> None:
    point = put("tmpfs", "x", place / "p", [*maps("0:5:10"), "X-mount.owner=7", "X-mount.group=8", "mode=700"])
    assert owner(point) == (7, 8)
    assert "idmapped" in vfs(point)


def test_the_map_of_a_namespace_that_stands(place: Path) -> None:
    owned(fill(place / "tree") / "file", 0)
    with UserNamespace.new(IdMap.parse("0:100000:65536")) as namespace:
        point = put("bind", place / "tree", place / "p", [f"X-mount.idmap=/proc/self/fd/{namespace.fileno()}"])
    assert owner(point / "file") == (100000, 100000)


def test_what_is_seen_in_a_user_namespace(place: Path) -> None:
    owned(fill(place / "tree") / "file", 0)
    point = put("bind", place / "tree", place / "p", maps("0:100000:65536"))
    assert owner(point / "file") == (100000, 100000)
    assert in_child(in_user_namespace(lambda: owner(point / "file"))) == (65534, 65534)


# --- how far it goes -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "below"),
    [
        (["rbind"], 101000),
        (["rbind", "ridmap"], 101000),
        (["rbind", "idmap"], 100),
        (["rbind", "ridmap", "idmap"], 100),
    ],
)
def test_how_far_an_idmap_goes(place: Path, words: list[str], below: int) -> None:
    tree = fill(place / "tree/sub").parent
    put("tmpfs", "x", tree / "sub")
    owned(tree / "file", 100)
    owned(tree / "sub/file", 100)
    point = put("", tree, place / "p", [*words, *maps("0:0:1,100:101000:3")])
    assert owner(point / "file") == (101000, 101000)
    assert owner(point / "sub/file") == (below, below)
    assert owner(tree / "file") == (100, 100)


def test_a_mount_below_that_cannot_be_idmapped_refuses_the_whole(place: Path) -> None:
    tree = fill(place / "tree/sub").parent
    put("proc", "proc", tree / "sub")
    with pytest.raises(NotSupported) as caught:
        put("rbind", tree, place / "p", maps("0:5:1"))
    assert caught.value.hint
    assert count(place / "p") == 0
    assert count(put("rbind", tree, place / "p", [*maps("0:5:1"), "idmap"])) == 2


# --- what is refused -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "words",
    [
        ["uidmap=0:1000:100"],
        ["gidmap=0:1000:100"],
        ["idmap"],
        ["ridmap"],
        maps("100:1000:100", "0:-1:100"),
        maps("-1:1000:100"),
        maps("0:1000:-1"),
        maps("0:1000:10,5:2000:10"),
        ["X-mount.idmap=nonsense"],
    ],
)
def test_what_is_no_idmap_mounts_nothing(place: Path, owners: Path, words: list[str]) -> None:
    with pytest.raises(InvalidSpec):
        put("bind", owners, place / "p", words)
    assert count(place / "p") == 0


def test_a_filesystem_that_cannot_be_idmapped(place: Path) -> None:
    with pytest.raises(NotSupported):
        put("proc", "proc", place / "p", maps("0:5:1"))
    with pytest.raises(InvalidSpec, match="numbers"):
        put("overlay", "x", place / "p", [f"lowerdir={place}:/", "X-mount.idmap=/proc/self/ns/user"])
    assert count(place / "p") == 0


def test_a_namespace_that_is_none(place: Path, owners: Path) -> None:
    for path, error in (("/nowhere", mountfd.Missing), ("/proc/self/ns/mnt", mountfd.KernelError)):
        with pytest.raises(error):
            put("bind", owners, place / "p", [f"X-mount.idmap={path}"])
    assert count(place / "p") == 0


def test_root_of_a_user_namespace_may_not_idmap_what_is_the_hosts(place: Path, owners: Path) -> None:
    with pytest.raises(mountfd.Denied) as caught:
        in_child(in_user_namespace(lambda: put("bind", owners, place / "p", maps("0:0:1"))))
    assert caught.value.hint


# --- many ----------------------------------------------------------------------------------------------------------
@contextmanager
def room_for(descriptors: int) -> Iterator[None]:
    """Leave this process so many free descriptors, with all that are open below the limit."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = set(map(int, os.listdir("/proc/self/fd")))
    end = max(taken) + 1 + descriptors
    with ExitStack() as stack:
        fillers = [stack.enter_context(OwnedFd(os.dup(0))) for number in range(end) if number not in taken]
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, (end, limits[1]))
        for _ in range(descriptors):
            fillers.pop().close()
        yield


def maps_apart(owners: Path, count: int) -> list[MountSpec]:
    """Describe mounts, each with an idmap of its own."""
    return [
        MountSpec("bind", owners, f"m{number}", ["X-mount.mkdir", *maps(f"1000:{number}:100")])
        for number in range(count)
    ]


def test_many_mounts_take_few_descriptors(place: Path, owners: Path) -> None:
    drop_caches()
    (place / "p").mkdir()
    with room_for(40):
        mountfd.mount_all(maps_apart(owners, 60), place / "p")
    assert count(place / "p") == 60
    assert owner(place / "p/m59/0") == (59, 59)


def test_user_namespaces_that_are_kept_give_way_to_what_needs_descriptors(place: Path, owners: Path) -> None:
    (place / "p").mkdir()
    mountfd.mount_all(maps_apart(owners, 8), place / "p")
    spec = MountSpec("bind", owners, "one more", ["X-mount.mkdir", *maps("1000:99:100")])
    with room_for(4):
        mountfd.mount(spec, place / "p")
    assert owner(place / "p/one more/0") == (99, 99)
