from __future__ import annotations

import os
from errno import EINVAL, ELOOP
from pathlib import Path

import pytest

from mountfd import Denied, Feature, InvalidSpec, KernelError, Missing, Mount, NotSupported, has
from mountfd.abi import features
from tests.support import private
from tests.support.inject import lacking, watching
from tests.support.layers import fill, line_of, table
from tests.support.need import need, need_real_root
from tests.support.others import NOBODY, in_child


def test_attached_mount_stays_when_the_handle_is_closed(scratch: Path) -> None:
    point, source = fill(scratch / "point"), fill(scratch / "source", {"f": "f"})
    with Mount.clone(source) as mount:
        mount.attach(point)
    assert (point / "f").exists()
    assert private.unmounted(point)


def test_detached_mount_goes_with_its_handle(scratch: Path) -> None:
    before = table()
    with Mount.clone(scratch):
        assert table() == before
    assert table() == before


def test_relative_target(scratch: Path) -> None:
    fill(scratch / "point")
    fd = os.open(scratch, os.O_PATH)
    try:
        with Mount.clone(fill(scratch / "source", {"f": ""})) as mount:
            mount.attach("point", dir_fd=fd)
    finally:
        os.close(fd)
    assert private.unmounted(scratch / "point")


def test_target_by_descriptor(scratch: Path) -> None:
    point = fill(scratch / "point")
    fd = os.open(point, os.O_PATH)
    try:
        with Mount.clone(scratch) as mount:
            mount.attach_fd(fd)
    finally:
        os.close(fd)
    assert private.unmounted(point)


def test_missing_target(scratch: Path) -> None:
    with Mount.clone(scratch) as mount, pytest.raises(Missing) as caught:
        mount.attach(scratch / "gone")
    assert caught.value.filename == str(scratch / "gone")
    assert caught.value.syscall == "move_mount"


def test_symlink_as_target_is_not_followed(scratch: Path) -> None:
    fill(scratch / "point")
    (scratch / "link").symlink_to("point")
    before = table()
    with Mount.clone(scratch) as mount, pytest.raises(KernelError) as caught:
        mount.attach(scratch / "link")
    assert caught.value.errno == EINVAL
    assert "symbolic link" in str(caught.value.hint)
    assert table() == before


def test_file_and_directory_do_not_fit(scratch: Path) -> None:
    fill(scratch, {"f": "f", "g": "g"})
    point = fill(scratch / "point")
    with Mount.clone(scratch) as directory, Mount.clone(scratch / "f") as file:
        with pytest.raises(KernelError) as caught:
            directory.attach(scratch / "f")
        assert "root is a directory, the target is a file" in str(caught.value.hint)
        with pytest.raises(KernelError) as caught:
            file.attach(point)
        assert "root is a file, the target is a directory" in str(caught.value.hint)
        file.attach(scratch / "g")
    assert (scratch / "g").read_text() == "f"
    assert private.unmounted(scratch / "g")


@pytest.mark.parametrize("by", ["path", "descriptor"])
def test_beneath_on_a_kernel_that_cannot_is_named(scratch: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    monkeypatch.setattr(features, "_found", {**features._found, "MOVE_MOUNT_BENEATH": False})
    point = os.open(scratch, os.O_PATH)
    try:
        with (
            Mount.clone(scratch) as mount,
            watching(lacking("move_mount", errno=EINVAL)),
            pytest.raises(NotSupported) as caught,
        ):
            mount.attach(scratch, beneath=True) if by == "path" else mount.attach_fd(point, beneath=True)
    finally:
        os.close(point)
    assert caught.value.feature == "MOVE_MOUNT_BENEATH"


def test_beneath(scratch: Path) -> None:
    need(has(Feature.MOVE_MOUNT_BENEATH), "MOVE_MOUNT_BENEATH (Linux 6.5)")
    point = fill(scratch / "point")
    old, new = fill(scratch / "old", {"old": ""}), fill(scratch / "new", {"new": ""})
    with Mount.clone(old) as mount:
        mount.attach(point)
    with Mount.clone(new) as mount:
        mount.attach(point, beneath=True)
    assert os.listdir(point) == ["old"]
    assert private.unmounted(point)
    assert os.listdir(point) == ["new"]
    assert private.unmounted(point)


def test_beneath_nothing(scratch: Path) -> None:
    need(has(Feature.MOVE_MOUNT_BENEATH), "MOVE_MOUNT_BENEATH (Linux 6.5)")
    point = fill(scratch / "point")
    with Mount.clone(scratch) as mount, pytest.raises(KernelError) as caught:
        mount.attach(point, beneath=True)
    assert caught.value.errno == EINVAL
    assert "no mount stands there" in str(caught.value.hint)


def test_attaching_where_it_already_is(scratch: Path) -> None:
    point = fill(scratch / "point")
    with Mount.clone(scratch) as mount:
        mount.attach(point)
        with pytest.raises(KernelError) as caught:
            mount.attach(point)
        assert caught.value.errno in (ELOOP, EINVAL)
    assert private.unmounted(point)


def test_attached_mount_moves(scratch: Path) -> None:
    one, two = fill(scratch / "one"), fill(scratch / "two")
    with Mount.clone(scratch) as mount:
        mount.attach(one)
        mount.attach(two)
        assert line_of(two)
    assert private.unmounted(two)
    with pytest.raises(OSError, match="Invalid"):
        private.unmounted(one)


def test_target_with_a_nul_is_refused(scratch: Path) -> None:
    with Mount.clone(scratch) as mount:
        for target in (b"", b"a\0b"):
            with pytest.raises(InvalidSpec):
                mount.attach(target)


def test_without_privilege(scratch: Path) -> None:
    need_real_root()
    point = fill(scratch / "point")
    with Mount.clone(scratch) as mount, pytest.raises(Denied):
        in_child(lambda: mount.attach(point) and None, NOBODY)
