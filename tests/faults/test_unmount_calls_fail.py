"""The n-th call of an unmount fails, for every n: a proper error or the right mounts gone, and never another one."""

from __future__ import annotations

import os
from collections.abc import Callable
from errno import EACCES, EAGAIN, EBUSY, EINTR, EINVAL, EIO, ENOENT, ENOMEM, EPERM, errorcode
from pathlib import Path

import pytest

from mountfd import KernelError, MountfdError, is_mount, lookup, mounts
from mountfd.verbs.unmount import unmount, unmount_all
from tests.support.inject import Watch, failing, watching
from tests.support.mounting import tmpfs
from tests.support.need import need_unique_ids

ERRNOS = [ENOMEM, EPERM, EINVAL, EBUSY, EINTR, EAGAIN, ENOENT, EACCES, EIO]
Act = Callable[[Path], int]


def _by_fd(point: Path) -> int:
    fd = os.open(point, os.O_PATH)
    try:
        return unmount(fd, lazy=True)
    finally:
        os.close(fd)


ACTS: dict[str, Act] = {
    "path": lambda point: unmount(point, wait=0),
    "id": lambda point: unmount(id=lookup(point).id, wait=0),
    "lazy id": lambda point: unmount(id=lookup(point).id, lazy=True, wait=0),
    "descriptor": _by_fd,
    "all": lambda point: unmount_all(point, wait=0),
    "tree": lambda point: unmount(point, recursive=True, wait=0),
    "lazy tree": lambda point: unmount(point, recursive=True, lazy=True, wait=0),
}


@pytest.mark.parametrize("name", ACTS)
@pytest.mark.parametrize("errno", ERRNOS, ids=errorcode.get)
def test_each_call_fails(scratch: Path, name: str, errno: int) -> None:
    if name.endswith("id"):
        need_unique_ids()
    base, point = scratch / "base", scratch / "base" / "point"
    tmpfs(base)
    neighbour = lookup(tmpfs(base / "neighbour")).id
    whole = name in ("all", "tree")
    number = 0
    while True:
        number += 1
        while not point.exists() or not is_mount(point) or len(mounts(under=point)) < 3:
            tmpfs(point)
        before = len(mounts(under=point))
        with watching(failing(number, errno)) as watch:
            try:
                count = ACTS[name](point)
            except (MountfdError, ExceptionGroup):
                count = -1
        after = len(mounts(under=point)) if is_mount(point) else 0
        if count > 0:
            assert before - after == count, (number, watch.hit)
        elif count == 0:
            assert errno in (EINVAL, ENOENT), (number, watch.hit, "nothing done and nothing said")
        assert before - after <= (3 if whole else 1), (number, watch.hit)
        assert lookup(base / "neighbour").id == neighbour
        if watch.hit is None:
            assert count == (3 if whole else 1)
            break
    assert number >= 4
    assert unmount(base, recursive=True) >= 2


@pytest.mark.parametrize("errno", [ENOMEM, EIO, EACCES, EPERM, EBUSY], ids=errorcode.get)
def test_each_unmount_of_a_tree_fails_in_turn(scratch: Path, errno: int) -> None:
    place = scratch / "place"
    number, told = 0, errno
    while True:
        tmpfs(place)
        for name in ("a", "a/deep", "b"):
            tmpfs(place / name)
        number += 1
        count = 0

        def decide(_number: int, name: str, _arguments: object, fails: int = number) -> int:
            nonlocal count
            count += name == "umount2"
            return errno if name == "umount2" and count == fails else 0

        with watching(Watch(decide)) as watch:
            try:
                done = unmount(place, recursive=True, wait=0)
            except KernelError as error:
                told = error.errno
                assert is_mount(place), "what carries one that stays must stay"
                done = 4 - len(mounts(under=place))
                assert watch.hit == "umount2"
                left = unmount(place, recursive=True)
                assert (left, told) == (4 - done, errno)
            else:
                assert watch.hit is None
        if watch.hit is None:
            break
    assert number == 5
