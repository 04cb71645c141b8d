"""Killed at each call of a mount: the mount stands whole, or nothing does."""

from __future__ import annotations

from pathlib import Path

import pytest

import mountfd
from mountfd import MountSpec
from tests.faults.stock import killed_at_each_call
from tests.support import guard
from tests.support.images import image_file
from tests.support.layers import fill, layers
from tests.support.need import need
from tests.support.specs import clear, count, owner_of, vfs

pytestmark = pytest.mark.usefixtures("real_root")


@pytest.fixture
def place(place: Path) -> Path:
    fill(place / "t")
    return place


def specs(place: Path) -> dict[str, MountSpec]:
    one, two = layers(place, 2)
    maps = ["uidmap=0:0:10", "gidmap=0:0:10"]
    fill(one / "sub")
    return {
        "bind": MountSpec("bind", one, options=["ro", "noexec", "nodev", *maps]),
        "part": MountSpec("bind", one, options=["nodev", "noexec", "X-mount.subdir=sub", "X-mount.owner=3", *maps]),
        "tmpfs": MountSpec("tmpfs", "x", options=["noexec", "nodev", "X-mount.owner=3", "X-mount.mode=700", *maps]),
        "long": MountSpec(
            "tmpfs", "x", options=["noexec", "nodev", f"mode={'700'.rjust(300, '0')}", "X-mount.owner=3"]
        ),
        "overlay": MountSpec("overlay", "o", options=["noexec", "nodev", f"lowerdir={one}:{two}"]),
        "ext4": MountSpec("ext4", image_file("ext4", place), options=["loop", "noexec", "nodev", "X-mount.owner=3"]),
    }


@pytest.mark.parametrize("name", ["bind", "part", "tmpfs", "long", "overlay", "ext4"])
def test_a_mount_is_whole_or_not_there(place: Path, name: str) -> None:
    spec, point = specs(place)[name], place / "t"
    mountfd.mount(spec, point)
    clear(place)
    calls, whole = 0, 0
    for _ in killed_at_each_call(lambda: mountfd.mount(spec, point), lambda: clear(place)):
        calls += 1
        if count(point):
            whole += 1
            assert {"noexec", "nodev"} <= vfs(point)
            assert "X-mount.owner=3" not in spec.options or owner_of(point)[0] == 3
            assert "uidmap=0:0:10" not in spec.options or "idmapped" in vfs(point)
            clear(place)
    assert whole < calls / 2
    assert any(not any(f" -> {place}/" in line for line in guard._loop_devices()) for _ in guard.patiently())


def lists(place: Path) -> dict[str, list[MountSpec]]:
    one, two = layers(place, 2)
    for name in ("data", "etc"):
        fill(one / name)
    overlay = f"lowerdir={one}:{two}"
    image = image_file("ext4", place)
    return {
        "overlay, loop, bind": [
            MountSpec("overlay", "o", options=[overlay]),
            MountSpec("ext4", image, "data", ["loop"]),
            MountSpec("bind", two, "etc", ["ro"]),
        ],
        "loop, overlay, bind": [
            MountSpec("ext4", image, options=["loop"]),
            MountSpec("overlay", "o", "o", ["X-mount.mkdir", overlay]),
            MountSpec("bind", two, "o/etc", ["ro"]),
        ],
    }


@pytest.mark.parametrize("name", ["overlay, loop, bind", "loop, overlay, bind"])
def test_a_list_is_whole_or_not_there(place: Path, name: str) -> None:
    need(mountfd.has(mountfd.Feature.MOUNT_INSIDE_DETACHED), "mounts inside detached mounts (Linux 6.15)")
    specs, point = lists(place)[name], place / "t"
    mountfd.mount_all(specs, point)
    clear(place)
    found = []
    for _ in killed_at_each_call(lambda: mountfd.mount_all(specs, point), lambda: clear(place)):
        found.append(count(point))
        clear(place)
    assert len(found) > 10
    assert set(found) <= {0, 3}
    assert any(not any(f" -> {place}/" in line for line in guard._loop_devices()) for _ in guard.patiently())
