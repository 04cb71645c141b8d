"""The two routes tell the same of the same mount, field by field."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import pytest

import mountfd
from mountfd import Attr, Feature, IdMap, Mount, MountInfo, MountTable, Overlay, Propagation, param
from mountfd.lowlevel import calls
from mountfd.model.idmap import Extent
from mountfd.model.info import FIELDS
from tests.support.forest import Forest
from tests.support.images import SMALLEST, Kind, filesystem
from tests.support.mounting import MS_SHARED, MS_SLAVE, bind, change, tmpfs
from tests.support.need import need, need_real_root
from tests.support.others import in_child

need(mountfd.has(Feature.LISTMOUNT), "LISTMOUNT (Linux 6.8): there is one route alone")
ONLY_STATMOUNT = {"id", "parent_id", "ns_id", "uid_map", "gid_map"}
CLONE_NEWNS, MS_UNBINDABLE = 0x20000, 1 << 17
BOTH = tuple(name for name in FIELDS if name not in ONLY_STATMOUNT)


def by(route: str, monkeypatch: pytest.MonkeyPatch, under: Path | None = None) -> dict[int, MountInfo]:
    monkeypatch.setenv("MOUNTFD_ROUTE", f"mounts:{route}")
    return {mount.id_old or 0: mount for mount in mountfd.mounts(under=under)}


def check_names(read: list[MountInfo]) -> None:
    """Compare /proc/self/mounts, which is read when names alone are asked for."""
    names = ("point", "fstype", "subtype", "source")
    named = [mount.as_dict() for mount in mountfd.mounts(fields=names)]
    assert named == [dict.fromkeys(FIELDS) | mount.as_dict(names) for mount in read]


def agree(monkeypatch: pytest.MonkeyPatch) -> list[MountInfo]:
    """Compare every field of every mount of this namespace, and give the mounts."""
    asked, read = by("listmount", monkeypatch), by("mountinfo", monkeypatch)
    assert asked.keys() == read.keys()
    for number, mount in asked.items():
        assert mount.as_dict(BOTH) == read[number].as_dict(BOTH)
        assert all(getattr(read[number], name) is None for name in ONLY_STATMOUNT)
    check_names(list(read.values()))
    return list(asked.values())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_of_a_random_forest(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Forest(tmp_path, seed):
        found = [mount for mount in agree(monkeypatch) if (mount.point or "").startswith(str(tmp_path))]
    assert len(found) > 3


ATTRS = (
    *(Attr.RDONLY, Attr.NOSUID, Attr.NODEV, Attr.NOEXEC, Attr.NOATIME, Attr.STRICTATIME, Attr.NODIRATIME),
    *(Attr.NOSYMFOLLOW, Attr.NOATIME | Attr.NODIRATIME | Attr.RDONLY, Attr.STRICTATIME | Attr.NODIRATIME, Attr(0)),
)


@pytest.mark.parametrize("attrs", ATTRS, ids=str)
def test_of_a_mount_with_attributes(attrs: Attr, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = scratch / "point"
    point.mkdir()
    with Mount.clone(scratch) as mount:
        mount.set(attrs, clear=Attr.ATIME_MASK)
        mount.attach(point)
    agree(monkeypatch)
    assert mountfd.lookup(point).attrs == attrs
    calls.umount2(bytes(point), 0)


def test_of_superblock_flags(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = scratch / "point"
    point.mkdir()
    for flags in (1, 16, 128, 1 << 25, 1 | 16 | 128 | 1 << 25):  # ro, sync, dirsync, lazytime
        calls.mount(b"none", bytes(point), b"tmpfs", flags, b"size=1m")
        agree(monkeypatch)
        assert mountfd.lookup(point).sb_flags == flags
        assert (mountfd.lookup(point).options or "").startswith("size=1024k")
        calls.umount2(bytes(point), 0)


def test_of_a_chain_of_propagation(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = tmpfs(scratch / "one")
    change(one, MS_SHARED)
    two = bind(one, scratch / "two")
    change(two, MS_SLAVE)
    change(two, MS_SHARED)
    three, four = bind(two, scratch / "three"), bind(one, scratch / "four")
    change(three, MS_SLAVE)
    change(four, MS_UNBINDABLE)
    agree(monkeypatch)
    assert mountfd.lookup(two).propagation == Propagation.SHARED | Propagation.SLAVE
    assert mountfd.lookup(two).master == mountfd.lookup(one).peer_group
    assert mountfd.lookup(three).master == mountfd.lookup(two).peer_group
    assert mountfd.lookup(four).propagation == Propagation.UNBINDABLE
    for point in (four, three, two, one):
        calls.umount2(bytes(point), 0)


def test_of_a_master_that_is_out_of_sight(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = scratch / "inside"
    inside.mkdir()

    def within() -> None:
        calls.unshare(CLONE_NEWNS)
        (inside / "proc").mkdir()
        calls.mount(b"proc", bytes(inside / "proc"), b"proc", 0, None)
        one = tmpfs(inside / "one")
        change(one, MS_SHARED)
        middle = bind(one, scratch / "middle")
        change(middle, MS_SLAVE)
        change(middle, MS_SHARED)
        change(bind(middle, inside / "last"), MS_SLAVE)
        calls.chroot(bytes(inside))
        os.chdir("/")
        agree(monkeypatch)
        assert mountfd.lookup("/one").peer_group
        assert mountfd.lookup("/last").propagate_from == mountfd.lookup("/one").peer_group
        assert mountfd.lookup("/last").master != mountfd.lookup("/one").peer_group

    in_child(within)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_of_a_disk(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with filesystem(kind, SMALLEST[kind]) as point:
        agree(monkeypatch)
        assert mountfd.lookup(point).fstype == kind


def test_of_500_layers_whose_options_fill_many_buffers(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [scratch / f"{'l' * 60}-{number}" for number in range(500)]
    point = scratch / "point"
    for path in (*layers, point):
        path.mkdir()
    with mountfd.assemble(Overlay(lower=layers)) as root:
        root.attach(point)
    agree(monkeypatch)
    assert (mountfd.lookup(point).options or "").count("lowerdir+=") == 500
    calls.umount2(bytes(point), 0)


def test_of_options_with_every_kind_of_byte(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [b"a b", b"tab\there", b"new\nline", b"back\\slash", b"\\040", b"cr\rhere", b"\xff", b"com,ma"]
    for name in names:
        (scratch / os.fsdecode(name)).mkdir()
    point = scratch / "point"
    point.mkdir()
    with mountfd.FsContext.open("overlay") as context:
        for name in names:
            context.set(param.String("lowerdir+", os.fsdecode(bytes(scratch) + b"/" + name)))
        with context.create().mount() as mount:
            mount.attach(point)
    agree(monkeypatch)
    for name in names:
        assert os.fsdecode(name) in (mountfd.lookup(point).options or "")
    calls.umount2(bytes(point), 0)


def test_of_fuse_with_a_subtype(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = scratch / "point"
    point.mkdir()
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = b"fd=%d,rootmode=40000,user_id=0,group_id=0" % fd
    calls.mount(b"so urce", bytes(point), b"fuse.my.fs", 0, options)
    agree(monkeypatch)
    info = mountfd.lookup(point)
    assert (info.fstype, info.subtype, info.source) == ("fuse", "my.fs", "so urce")
    calls.umount2(bytes(point), 2)
    os.close(fd)


def test_of_an_empty_source(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = scratch / "point"
    point.mkdir()
    calls.mount(b"", bytes(point), b"tmpfs", 0, None)
    agree(monkeypatch)
    assert mountfd.lookup(point).source == ""
    calls.umount2(bytes(point), 0)


def test_of_a_root_that_was_deleted(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = bind(scratch / "..", scratch / "point")
    calls.umount2(bytes(point), 0)
    (scratch / "gone").mkdir()
    bind(scratch / "gone", point)
    (scratch / "gone").rmdir()
    agree(monkeypatch)
    assert mountfd.lookup(point).root == "/gone//deleted"
    calls.umount2(bytes(point), 0)


def test_of_an_idmap_only_statmount_tells(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_real_root()
    need(mountfd.lookup("/").uid_map is not None, "idmaps told by statmount(2) (Linux 6.15)")
    point = scratch / "point"
    point.mkdir()
    with Mount.clone(scratch) as mount:
        mount.idmap(IdMap.parse("u:0:100000:10 u:20:300000:5 g:0:200000:7"))
        mount.attach(point)
    agree(monkeypatch)
    info = mountfd.lookup(point)
    assert Attr.IDMAP in (info.attrs or Attr(0))
    assert info.uid_map == (Extent(0, 100000, 10), Extent(20, 300000, 5))
    assert info.gid_map == (Extent(0, 200000, 7),)
    assert mountfd.lookup(scratch).uid_map == ()
    calls.umount2(bytes(point), 0)


def test_a_kernel_whose_statmount_knows_less_is_helped_by_the_table(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = mountfd.lookup(scratch)
    genuine = calls.statmount

    def statmount_of_linux_6_12(pointer: object, buffer: object, size: int, flags: int) -> int:
        pointer._obj.param &= 0xFF  # type: ignore[attr-defined]
        return genuine(pointer, buffer, size, flags)

    monkeypatch.setattr(calls, "statmount", statmount_of_linux_6_12)
    assert mountfd.lookup(scratch).as_dict(BOTH) == wanted.as_dict(BOTH)
    listed = mountfd.mounts(under=scratch, fields=("id", *BOTH))
    assert [mount.as_dict(BOTH) for mount in listed] == [wanted.as_dict(BOTH)]
    assert mountfd.lookup(scratch, fields=("point",)).source is None


def test_a_recorded_table_says_what_the_live_one_does() -> None:
    live = {mount.id_old: mount for mount in mountfd.mounts()}
    recorded = MountTable.parse(Path("/proc/self/mountinfo").read_bytes())
    assert {mount.id_old: mount for mount in recorded} == live
