"""lookup tells of one mount: by path, descriptor or id; attached, detached, lazily unmounted or gone."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import socket
import threading
from pathlib import Path

import pytest

import mountfd
from mountfd import Attr, Feature, Gone, InvalidSpec, KernelError, Missing, Mount, MountInfo, NotDirectory, lookup
from mountfd.lowlevel import calls
from mountfd.model.info import FIELDS
from tests.support.inject import lacking, watching
from tests.support.mounting import bind, tmpfs
from tests.support.others import NOBODY, in_child


def test_a_path_a_descriptor_a_handle_and_an_id_tell_the_same(scratch: Path) -> None:
    info = lookup(scratch)
    (scratch / "file").touch()
    fd = os.open(scratch / "file", os.O_RDONLY)
    with Mount.open(scratch) as handle:
        answers = [lookup(scratch / "file"), lookup(fd=fd), lookup(fd=handle), lookup(id=info.id)]
    os.close(fd)
    assert answers == [info] * 4
    assert (info.point, info.fstype, info.source, info.root) == (str(scratch), "tmpfs", "tmpfs", "/")


def test_only_what_is_asked_for_is_told(scratch: Path) -> None:
    info = lookup(scratch, fields=("point", "fstype"))
    told = {name for name, value in info.as_dict().items() if value is not None}
    assert {"point", "fstype"} <= told
    assert told.isdisjoint({"source", "root", "options", "ns_id", "dev", "uid_map"})


def test_a_symlink_is_followed_or_not(scratch: Path) -> None:
    point = tmpfs(scratch / "point")
    (scratch / "link").symlink_to("point")
    assert lookup(scratch / "link").point == str(point)
    assert lookup(scratch / "link", follow=False).point == str(scratch)
    calls.umount2(bytes(point), 0)


@pytest.mark.parametrize("missing", [(), ("statmount",), ("statmount", "statx"), ("statmount", "listmount", "statx")])
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM])
def test_without_the_calls_the_table_answers(scratch: Path, missing: tuple[str, ...], code: int) -> None:
    point = tmpfs(scratch / "point")
    wanted = lookup(point)
    fd = os.open(point, os.O_PATH)
    with watching(lacking(*missing, errno=code)):
        answers = [lookup(point), lookup(fd=fd)]
        if missing:
            with pytest.raises(KernelError) as caught:
                lookup(id=wanted.id)
            assert caught.value.errno == code
            assert "filter" in (caught.value.hint or "")
    os.close(fd)
    kept = [name for name in FIELDS if name not in {"parent_id", "ns_id", "uid_map", "gid_map"}]
    for info in answers:
        shown = info.as_dict(kept)
        assert shown == wanted.as_dict(kept) | {"id": wanted.id if "statx" not in missing else None}
    calls.umount2(bytes(point), 0)


def test_a_covered_mount_is_told_by_its_descriptor(scratch: Path) -> None:
    below = tmpfs(scratch / "point")
    fd = os.open(below, os.O_PATH)
    tmpfs(scratch / "point")
    top, covered = lookup(below), lookup(fd=fd)
    assert top.parent_id == covered.id
    assert top.point == covered.point == str(below)
    os.close(fd)
    for _ in range(2):
        calls.umount2(bytes(below), 0)


def check_without_a_point(info: MountInfo, attrs: Attr) -> None:
    assert info.id is not None
    assert info.point is None
    assert not info.is_reachable
    assert info.attrs is not None
    assert info.attrs & attrs == attrs
    if not mountfd.has(Feature.STATMOUNT_BY_FD):
        assert info.fstype is info.options is info.source is None


def test_a_detached_mount_is_told_by_its_descriptor(scratch: Path) -> None:
    with Mount.clone(scratch) as mount:
        mount.set(Attr.NOSUID | Attr.NOSYMFOLLOW)
        info = lookup(fd=mount)
        check_without_a_point(info, Attr.NOSUID | Attr.NOSYMFOLLOW)
        assert info.id_old != lookup(scratch).id_old
        assert info.dev == lookup(scratch).dev
        with pytest.raises(Gone):
            lookup(id=info.id)


def test_a_lazily_unmounted_mount_is_told_by_its_descriptor(scratch: Path) -> None:
    point = tmpfs(scratch / "point")
    before = lookup(point)
    fd = os.open(point, os.O_PATH)
    calls.umount2(bytes(point), 2)
    info = lookup(fd=fd)
    check_without_a_point(info, Attr(0))
    assert (info.id, info.dev) == (before.id, before.dev)
    os.close(fd)
    with pytest.raises(Gone):
        lookup(id=before.id)


def test_a_descriptor_of_no_filesystem_lies_on_a_mount_of_the_kernels_own() -> None:
    with socket.socket() as one:
        info = lookup(fd=one)
    assert info.point is None
    assert info.id is not None


@pytest.mark.parametrize("missing", [(), ("statx", "statmount")])
def test_a_closed_descriptor_is_an_error_of_the_family(missing: tuple[str, ...]) -> None:
    fd = os.open("/", os.O_PATH)
    os.close(fd)
    with watching(lacking(*missing, errno=errno.ENOSYS)), pytest.raises(KernelError) as caught:
        lookup(fd=fd)
    assert caught.value.errno == errno.EBADF
    handle = Mount.open("/")
    handle.close()
    with pytest.raises(InvalidSpec):
        lookup(fd=handle)


@pytest.mark.parametrize("arguments", [
    {}, {"path": "/", "id": 1}, {"path": ""}, {"path": "a\0"}, {"fd": -1}, {"fd": 2**31}, {"fd": 2**32}, {"fd": True},
    {"id": 0}, {"id": 20}, {"id": -1}, {"id": 2**64 - 1}, {"id": 2**64 + 2**31}, {"id": "1"},
    {"path": "/", "fields": "id"}, {"path": "/", "fields": ["no"]},
], ids=str)  # fmt: skip
def test_what_makes_no_sense_is_refused_before_any_call(arguments: dict[str, object]) -> None:
    with pytest.raises(InvalidSpec):
        lookup(**arguments)  # type: ignore[arg-type]


def test_what_is_gone_is_named(scratch: Path) -> None:
    (scratch / "file").touch()
    for name, kind in (("missing", Missing), ("file/below", NotDirectory)):
        with pytest.raises(kind) as caught:
            lookup(scratch / name)
        assert caught.value.filename == str(scratch / name)
    with pytest.raises(Gone):
        lookup(id=2**63)


def test_a_record_travels(scratch: Path) -> None:
    info = lookup(scratch)
    assert pickle.loads(pickle.dumps(info)) == copy.copy(info) == info
    assert hash(pickle.loads(pickle.dumps(info))) == hash(info)
    with pytest.raises(AttributeError):
        info.nothing  # noqa: B018


def test_an_ordinary_user_is_told_the_same(scratch: Path) -> None:
    wanted = lookup(scratch)
    assert in_child(lambda: lookup(scratch), NOBODY) == wanted
    assert in_child(lambda: lookup(id=wanted.id), NOBODY) == wanted


@pytest.mark.parametrize("user", [None, NOBODY])
def test_in_a_chroot_the_own_root_is_told_as_far_as_it_may_be(scratch: Path, user: int | None) -> None:
    (scratch / "root").mkdir()
    wanted, outer = lookup(scratch), lookup("/")

    def within() -> tuple[MountInfo, object]:
        calls.chroot(bytes(scratch / "root"))
        os.chdir("/")
        if user is not None:
            os.setresuid(user, user, user)
        try:
            return lookup("/"), lookup(id=outer.id)
        except KernelError as error:
            return lookup("/"), (type(error), error.hint)

    root, other = in_child(within)
    assert root.id == wanted.id
    assert root.point is None
    if user is None:
        assert root.fstype == "tmpfs"
        assert isinstance(other, MountInfo)
        assert other.point is None
    else:
        assert other == (
            mountfd.Denied,
            "the mount is out of your root's reach, or a seccomp filter forbids statmount(2)",
        )


def test_threads_never_get_each_others_mounts(scratch: Path) -> None:
    points = [bind(tmpfs(scratch / f"t{number}"), scratch / f"b{number}") for number in range(8)]
    wanted = [lookup(point).as_dict() for point in points]
    wrong: list[object] = []

    def ask(number: int) -> None:
        for _ in range(400):
            right = lookup(points[number]).as_dict() == wanted[number] and mountfd.is_mount(points[number])
            wrong.extend([] if right else [number])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    for number in range(8):
        for name in (f"b{number}", f"t{number}"):
            calls.umount2(bytes(scratch / name), 0)


def test_a_signal_handler_may_ask_in_between(scratch: Path) -> None:
    import signal

    point = tmpfs(scratch / "point")
    here, there = lookup(scratch).as_dict(), lookup(point).as_dict()
    heard: list[bool] = []

    def handler(_number: int, _frame: object) -> None:
        heard.append(lookup(point).as_dict() == there)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        while len(heard) < 100:
            assert lookup(scratch).as_dict() == here
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert all(heard)
    calls.umount2(bytes(point), 0)
