"""A bind of a directory of something shared is taken away without what stands at its source."""

from __future__ import annotations

from pathlib import Path

import pytest

import mountfd
from mountfd import KernelError, MountSpec
from tests.support.layers import fill
from tests.support.others import in_child
from tests.support.specs import count, in_user_namespace, put

FAILS = MountSpec("tmpfs", "x", options="nonsense=1")


@pytest.fixture
def shared(place: Path) -> Path:
    """Give a shared mount with another one in a directory of it."""
    source = put("tmpfs", "source", place / "source", "shared")
    put("tmpfs", "below", fill(source / "sub") / "child")
    return source


@pytest.mark.parametrize("word", ["", "X-mount.subdir=sub"])
def test_when_one_of_a_list_fails(mount_route: str, place: Path, shared: Path, word: str) -> None:
    (place / "t").mkdir()
    table = Path("/proc/self/mountinfo").read_bytes()
    origin = shared if word else shared / "sub"
    with pytest.raises(KernelError):
        mountfd.mount_all([MountSpec("bind", origin, options=["rbind", *filter(None, [word])]), FAILS], place / "t")
    assert Path("/proc/self/mountinfo").read_bytes() == table


def test_when_a_part_of_it_has_been_mounted(mount_route: str, place: Path, shared: Path) -> None:
    point = put("rbind", shared, place / "t", "X-mount.subdir=sub,rprivate")
    assert (count(point), count(shared)) == (2, 2)
    mountfd.unmount(point, recursive=True)
    assert count(shared) == 2


def test_a_part_in_a_user_namespace(mount_route: str, place: Path) -> None:
    fill(place / "source/sub", {"file": "f"}), fill(place / "t")

    def act() -> list[str]:
        put("tmpfs", "x", place / "t", "X-mount.mode=755")
        fill(place / "t/a/b")
        put("bind", place / "t", place / "t", "X-mount.subdir=a")
        found = [path.name for path in (place / "t").iterdir()]
        put("rbind", place, place / "t", "X-mount.subdir=source/sub,nodev")
        return [*found, *(path.name for path in (place / "t").iterdir())]

    act()  # so that all is imported
    mountfd.unmount_all(place / "t")
    assert in_child(in_user_namespace(act)) == ["b", "file"]
