from __future__ import annotations

import os
from errno import EINVAL
from pathlib import Path

import pytest

from mountfd import Attr, Busy, Denied, IdMap, KernelError, Mount, NotSupported, Propagation, UserNamespace
from tests.support import private
from tests.support.layers import SHIFTED, attached, fill, inside, line_of
from tests.support.need import need_idmapped_tmpfs

pytestmark = pytest.mark.usefixtures("real_root")


def words(mount: Mount, scratch: Path) -> set[str]:
    with attached(mount, scratch / "look") as point:
        return set(line_of(point)[5].decode().split(","))


def test_set_and_clear(scratch: Path) -> None:
    with Mount.clone(fill(scratch / "d")) as mount:
        mount.set(Attr.RDONLY | Attr.NODEV | Attr.NOEXEC)
        assert words(mount, scratch) == {"ro", "nodev", "noexec", "relatime"}
    with Mount.clone(scratch / "d") as mount:
        mount.set(Attr.RDONLY | Attr.NODEV).set(Attr.NOSUID, clear=Attr.NODEV)
        assert words(mount, scratch) == {"ro", "nosuid", "relatime"}


@pytest.mark.parametrize(
    ("attrs", "shown"),
    [
        (Attr.NOATIME, {"rw", "noatime"}),
        (Attr.STRICTATIME, {"rw"}),
        (Attr.NODIRATIME, {"rw", "nodiratime", "relatime"}),
        (Attr.NOATIME | Attr.RDONLY, {"ro", "noatime"}),
        (Attr.RELATIME, {"rw", "relatime"}),
    ],
)
def test_access_time_is_set_as_one_field(scratch: Path, attrs: Attr, shown: set[str]) -> None:
    with Mount.clone(fill(scratch / "d")) as mount:
        assert words(mount.set(attrs), scratch) == shown


def test_clearing_noatime_gives_relatime(scratch: Path) -> None:
    with Mount.clone(fill(scratch / "d")) as mount:
        assert words(mount.set(Attr.NOATIME).set(clear=Attr.NOATIME), scratch) == {"rw", "relatime"}


def test_recursive_change_is_all_or_nothing(scratch: Path) -> None:
    top, below = fill(scratch / "top"), fill(scratch / "top/below")
    private.mount_tmpfs(below)
    try:
        with Mount.clone(top, recursive=True) as tree:
            with (inside(tree) / "below/held").open("w"):
                with pytest.raises(Busy) as caught:
                    tree.set(Attr.RDONLY, recursive=True)
                assert "open for writing" in str(caught.value.hint)
                (inside(tree) / "still-writable").touch()
            tree.set(Attr.RDONLY, recursive=True)
            for name in ("no", "below/no"):
                with pytest.raises(OSError, match="Read-only"):
                    (inside(tree) / name).touch()
    finally:
        private.detach(below)


def test_propagation(scratch: Path) -> None:
    point = fill(scratch / "fs")
    private.mount_tmpfs(point)
    try:
        with Mount.open(point) as mount:
            for kind, shown in (
                (Propagation.SHARED, b"shared:"),
                (Propagation.SLAVE, b""),
                (Propagation.UNBINDABLE, b"unbindable"),
                (Propagation.PRIVATE, b""),
            ):
                mount.set(propagation=kind)
                optional = b" ".join(line_of(point)[6:-4])
                assert optional.startswith(shown)
                assert bool(optional) == bool(shown)
            with pytest.raises(KernelError) as caught:
                mount.set(propagation=Propagation.SHARED | Propagation.PRIVATE)
            assert caught.value.errno == EINVAL
    finally:
        private.detach(point)


def test_idmap(scratch: Path) -> None:
    fill(scratch / "d", {"f": ""})
    with Mount.clone(scratch / "d") as mount:
        assert mount.idmapped is None
        mount.idmap(SHIFTED)
        assert mount.idmapped == SHIFTED
        assert (inside(mount) / "f").stat().st_uid == 100000
        assert "idmapped" in words(mount, scratch)


def test_idmap_of_a_user_namespace(scratch: Path) -> None:
    fill(scratch / "d", {"f": ""})
    with Mount.clone(scratch / "d") as mount, UserNamespace.new(IdMap.parse("0:7:1")) as namespace:
        mount.idmap(namespace)
        assert mount.idmapped is namespace
        assert (inside(mount) / "f").stat().st_uid == 7


def test_second_idmap_is_denied(scratch: Path) -> None:
    with Mount.clone(scratch) as mount:
        mount.idmap(SHIFTED)
        with pytest.raises(Denied) as caught:
            mount.idmap(IdMap.parse("0:5:1"))
        assert "idmapped already" in str(caught.value.hint)
        assert mount.idmapped == SHIFTED


def test_attached_mount_is_not_idmapped(scratch: Path) -> None:
    need_idmapped_tmpfs()
    with Mount.open(scratch) as mount, pytest.raises(KernelError) as caught:
        mount.idmap(SHIFTED)
    assert not isinstance(caught.value, NotSupported)
    assert "attached already" in str(caught.value.hint)


@pytest.mark.parametrize("place", ["/proc", "/sys"])
def test_filesystem_that_cannot_be_idmapped(place: str) -> None:
    with Mount.clone(place) as mount, pytest.raises(NotSupported) as caught:
        mount.idmap(SHIFTED)
    assert caught.value.errno == EINVAL
    assert "can't be idmapped" in str(caught.value.hint)


def test_recursive_idmap_is_all_or_nothing(scratch: Path) -> None:
    top, below = fill(scratch / "top", {"f": ""}), fill(scratch / "top/below")
    with Mount.clone("/proc") as proc:
        proc.attach(below)
    try:
        with Mount.clone(top, recursive=True) as tree:
            with pytest.raises(NotSupported):
                tree.idmap(SHIFTED, recursive=True)
            assert (inside(tree) / "f").stat().st_uid == 0
            tree.idmap(SHIFTED)
            assert (inside(tree) / "f").stat().st_uid == 100000
    finally:
        private.detach(below)


def test_idmap_while_a_file_is_open_for_writing(scratch: Path) -> None:
    with Mount.clone(fill(scratch / "d")) as mount:
        with (inside(mount) / "f").open("w"), pytest.raises(Busy) as caught:
            mount.idmap(SHIFTED)
        assert "open for writing" in str(caught.value.hint)
        mount.idmap(SHIFTED)


def test_ids_are_unique_and_stay(scratch: Path) -> None:
    with Mount.clone(scratch) as one, Mount.clone(scratch) as two:
        assert one.id != two.id
        before = one.id
        with attached(one, scratch / "here"):
            assert one.id == before


def test_closed_handle_says_so(scratch: Path) -> None:
    mount = Mount.clone(scratch)
    mount.close()
    mount.close()
    assert mount.closed
    with pytest.raises(ValueError, match="closed"):
        mount.set(Attr.RDONLY)


def test_forgotten_handle_is_closed_and_reported(scratch: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.warns(ResourceWarning, match="unclosed"):
        Mount.clone(scratch).fileno()
    assert os.listdir("/proc/self/fd") == before


def test_clone_follows_symlinks_when_asked_to(scratch: Path) -> None:
    fill(scratch / "d", {"f": "f"})
    (scratch / "link").symlink_to("d")
    with Mount.clone(scratch / "link") as mount:
        assert os.listdir(inside(mount)) == ["f"]
    with Mount.clone(scratch / "link", follow=False) as mount:
        assert os.readlink("", dir_fd=mount.fileno()) == "d"


def test_clone_below_a_descriptor(scratch: Path) -> None:
    fill(scratch / "d", {"f": "f"})
    fd = os.open(scratch, os.O_PATH)
    try:
        with Mount.clone("d", dir_fd=fd) as mount:
            assert os.listdir(inside(mount)) == ["f"]
    finally:
        os.close(fd)
