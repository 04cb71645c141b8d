"""A list of mounts that is attached in one step, and lists that can't be."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

import mountfd
from mountfd import Feature, IdMap, InvalidSpec, MountNamespace, MountSpec, NotSupported, Overlay, detached
from tests.support.images import image_file
from tests.support.inject import Watch, watching
from tests.support.layers import content, fill, inside, layers, table
from tests.support.mounting import MS_SHARED, change, tmpfs
from tests.support.need import need, need_real_root
from tests.support.others import in_child
from tests.support.specs import count, fstype, in_user_namespace, tags

need(mountfd.has(Feature.MOUNT_INSIDE_DETACHED), "mounts inside detached mounts (Linux 6.15)")


@pytest.fixture
def place(place: Path) -> Path:
    fill(place / "t")
    return place


def container(place: Path) -> list[MountSpec]:
    one, two = layers(place, 2)
    for name in ("proc", "etc", "data"):
        fill(one / name)
    fill(place / "files", {"resolv.conf": "nameserver"})
    (one / "etc/resolv.conf").touch()
    return [
        MountSpec("overlay", "o", options=[f"lowerdir={one}:{two}"]),
        MountSpec("tmpfs", "x", "data", ["mode=700"]),
        MountSpec("tmpfs", "y", "data/below/that", ["X-mount.mkdir", "shared"]),
        MountSpec("bind", place / "files/resolv.conf", "etc/resolv.conf", ["ro"]),
    ]


class AtEachCall(Watch):
    """Count, at each call, the mounts that others can see."""

    def __init__(self, point: Path) -> None:
        """Take the place."""
        self.seen: set[int] = set()
        super().__init__(self._look)
        self._point = point

    def _look(self, _count: int, _name: str, _arguments: object) -> int:
        self.seen.add(count(self._point))
        return 0


def test_others_see_all_of_it_or_nothing(place: Path) -> None:
    with watching(AtEachCall(place / "t")) as look:
        ids = mountfd.mount_all(container(place), place / "t")
    assert isinstance(look, AtEachCall)
    assert look.seen == {0, 4}
    points = ["", "/data", "/data/below/that", "/etc/resolv.conf"]
    assert [mountfd.lookup(f"{place}/t{point}").id for point in points] == ids
    assert tags(place / "t/data/below/that") == {"shared"}
    assert (place / "t/etc/resolv.conf").read_text() == "nameserver"


def test_where_the_target_is_shared_they_propagate_as_they_were_told(place: Path) -> None:
    home = tmpfs(place / "home")
    change(home, MS_SHARED)
    fill(home / "t")
    specs = container(place)
    specs[1] = MountSpec("tmpfs", "x", "data", ["mode=700", "private"])
    mountfd.mount_all(specs, home / "t")
    assert tags(home / "t") == {"shared"}
    assert tags(home / "t/data") == set()


def test_a_failure_leaves_nothing_and_names_the_place_as_it_was_given(place: Path) -> None:
    before, specs = table(), container(place)
    with pytest.raises(mountfd.Missing) as caught:
        mountfd.mount_all([*specs, MountSpec("tmpfs", "z", "nowhere")], place / "t")
    assert "/proc/self/fd" not in str(caught.value)
    assert table() == before
    with pytest.raises(mountfd.MountfdError):
        mountfd.mount_all([*specs, MountSpec("tmpfs", "z", "etc", ["nonsense"])], place / "t")
    assert table() == before


def test_what_stands_on_a_bind_comes_one_after_the_other(place: Path) -> None:
    fill(place / "source/sub")
    specs = [
        MountSpec("tmpfs", "x"),
        MountSpec("bind", place / "source", "b", ["X-mount.mkdir"]),
        MountSpec("tmpfs", "y", "b/sub"),
    ]
    with watching(AtEachCall(place / "t")) as look:
        ids = mountfd.mount_all(specs, place / "t")
    assert isinstance(look, AtEachCall)
    assert {1, 2} <= look.seen
    assert [mountfd.lookup(f"{place}/t{point}").id for point in ("", "/b", "/b/sub")] == ids


@pytest.mark.parametrize("first", ["bind", "stack"])
def test_what_has_no_root_of_its_own_comes_one_after_the_other(place: Path, first: str) -> None:
    fill(place / "source/sub")
    specs = {
        "bind": [MountSpec("bind", place / "source"), MountSpec("tmpfs", "y", "sub")],
        "stack": [MountSpec("tmpfs", "x"), MountSpec("tmpfs", "y")],
    }[first]
    with watching(AtEachCall(place / "t")) as look:
        ids = mountfd.mount_all(specs, place / "t")
    assert isinstance(look, AtEachCall)
    assert 1 in look.seen
    assert len(set(ids)) == count(place / "t") == 2


def test_paths_do_not_lead_out_of_it(place: Path) -> None:
    one = fill(place / "one")
    (one / "out").symlink_to("/etc")
    (one / "up").symlink_to("../../..")
    fill(one / "etc")
    specs = [
        MountSpec("overlay", "o", options=[f"lowerdir={one}:{fill(place / 'two')}"]),
        MountSpec("tmpfs", "x", "out"),
        MountSpec("tmpfs", "y", "up/etc"),
    ]
    mountfd.mount_all(specs, place / "t")
    points = {mountfd.lookup(f"{place}/t/etc").source, mountfd.lookup("/etc").source}
    assert "y" in points
    assert count(place / "t") == 3
    assert not mountfd.is_mount("/etc")


def test_in_a_user_namespace(place: Path) -> None:
    need_real_root()

    def act() -> tuple[int, set[int]]:
        specs = [MountSpec("tmpfs", "x"), MountSpec("tmpfs", "y", "sub", ["X-mount.mkdir"])]
        with watching(AtEachCall(place / "t")) as look:
            mountfd.mount_all(specs, place / "t")
        assert isinstance(look, AtEachCall)
        return count(place / "t"), look.seen

    act()
    mountfd.unmount(place / "t", recursive=True)
    stand, seen = in_child(in_user_namespace(act))
    assert stand == 2
    assert seen <= {0, 2}


# --- one, detached -------------------------------------------------------------------------------------------------
def test_a_description_as_a_detached_mount(place: Path) -> None:
    before = table()
    with detached(MountSpec("tmpfs", "x", options=["mode=751", "nodev", "ro"])) as mount:
        assert inside(mount).stat().st_mode & 0o777 == 0o751
        assert table() == before
        mount.attach(place / "t")
    assert fstype(place / "t") == "tmpfs"


@pytest.mark.parametrize("kind", ["erofs", "squashfs", "ext4"])
def test_an_image_as_a_layer_with_a_loop_device_only_where_it_takes_one(place: Path, kind: str) -> None:
    need_real_root()
    with detached(MountSpec(kind, image_file(kind, place), options=["ro", "nodev"])) as image:  # type: ignore[arg-type]
        names = set(os.listdir(inside(image)))
        with mountfd.assemble(Overlay([image, fill(place / "base", {"own": "b"})])) as root:
            assert names | {"own"} == set(os.listdir(inside(root)))


def test_as_the_root_of_a_namespace_and_handed_over(place: Path) -> None:
    with detached(MountSpec("bind", fill(place / "root", {"file": "f"}), options=["ro"])) as mount:
        with MountNamespace.new(mount) as made:
            assert made.call(lambda: Path("/file").read_text()) == "f"
        here, there = socket.socketpair()
        with here, there:
            mountfd.send_mount(here, mount)
            with mountfd.receive_mount(there) as received:
                assert content(received) == {"file": "f"}


@pytest.mark.parametrize(
    "spec",
    [
        MountSpec("", "", options="remount,ro"),
        MountSpec("", "/x", options="move"),
        MountSpec("", "", options="private"),
        MountSpec("tmpfs", "x", "sub"),
        MountSpec("fuse3.x", "x"),
    ],
    ids=repr,
)
def test_what_is_no_new_mount_of_its_own(spec: MountSpec) -> None:
    with pytest.raises(InvalidSpec):
        detached(spec)


def test_by_mount_2_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", "mount:string")
    with pytest.raises(NotSupported):
        detached(MountSpec("tmpfs", "x"))
    with pytest.raises(InvalidSpec):
        detached(Overlay(["/a", "/b"]))  # type: ignore[arg-type]


def test_an_idmap_goes_with_it(place: Path) -> None:
    need_real_root()
    fill(place / "source", {"file": "f"})
    with detached(MountSpec("bind", place / "source", idmap=IdMap.parse("0:7:1"))) as mount:
        assert (inside(mount) / "file").stat().st_uid == 7
