from __future__ import annotations

import os
from errno import EINVAL, EOPNOTSUPP
from pathlib import Path

import pytest

from mountfd import Attr, Busy, Feature, FsContext, InvalidSpec, KernelError, Mount, NotSupported, has, param
from mountfd.abi import numbers as n
from mountfd.lowlevel import calls
from tests.support import private
from tests.support.inject import Watch, watching
from tests.support.layers import attached, fill, inside, line_of
from tests.support.need import need


def test_parameters_reach_the_filesystem(scratch: Path) -> None:
    with FsContext.open("tmpfs") as context:
        context.set(param.String("size", "64k"), param.String("mode", "701"), param.String("source", "label")).create()
        with context.mount(Attr.NODEV) as mount, attached(mount, scratch / "here") as point:
            assert point.stat().st_mode & 0o777 == 0o701
            assert b"nodev" in line_of(point)[5]
            assert line_of(point)[-2] == b"label"
            assert b"size=64k" in line_of(point)[-1]


def test_refusal_is_in_the_kernels_words() -> None:
    with FsContext.open("tmpfs") as context, pytest.raises(KernelError) as caught:
        context.set(param.String("size", "large"))
    assert caught.value.errno == EINVAL
    assert any("size" in line for line in caught.value.log)
    assert any("size" in note for note in caught.value.__notes__)
    assert "size" in str(caught.value.hint)


@pytest.mark.parametrize(
    "bad", [param.Flag("sparkle"), param.String("size", "large"), param.String("size", "1" * 256)], ids=repr
)
def test_nothing_is_made_without_a_parameter_that_was_refused(bad: param.Param) -> None:
    with FsContext.open("tmpfs") as context:
        with pytest.raises((KernelError, InvalidSpec)):
            context.set(bad)
        with pytest.raises(InvalidSpec, match="begin again"):
            context.create()
        with pytest.raises(InvalidSpec, match="begin again"):
            context.set(param.String("size", "64k"))
        with pytest.raises(InvalidSpec, match="begin again"):
            context.reconfigure()
        with pytest.raises(KernelError):
            context.mount()


@pytest.mark.parametrize("length", [255, 256])
def test_string_of_255_bytes_is_the_longest(length: int) -> None:
    with FsContext.open("tmpfs") as context:
        if length == 255:
            context.set(param.String("source", "s" * length)).create()
        else:
            with pytest.raises(InvalidSpec, match="256 bytes"):
                context.set(param.String("source", "s" * length))


def test_one_context_gives_one_mount() -> None:
    need(has(Feature.CLONE_DETACHED), "clones of detached mounts (Linux 6.15)")
    with FsContext.open("tmpfs") as context, context.create().mount() as mount:
        with pytest.raises(Busy):
            context.mount()
        with Mount.clone_fd(mount.fileno()) as second:
            assert second.id != mount.id


def test_mount_before_create() -> None:
    with FsContext.open("tmpfs") as context, pytest.raises(KernelError) as caught:
        context.mount()
    assert caught.value.errno == EINVAL


def test_second_create_is_busy() -> None:
    with FsContext.open("tmpfs") as context, pytest.raises(Busy):
        context.create().create()


def test_reconfigure_a_live_filesystem(scratch: Path) -> None:
    point = fill(scratch / "fs")
    private.mount_tmpfs(point)
    try:
        with FsContext.pick(point) as context:
            context.set(param.Flag("ro")).reconfigure()
        assert b"ro" in line_of(point)[-1].split(b",")
        with FsContext.pick(point) as context:
            context.set(param.Flag("rw"), param.String("size", "128k")).reconfigure()
        assert b"rw" in line_of(point)[-1].split(b",")
        assert b"size=128k" in line_of(point)[-1]
        (point / "f").touch()
    finally:
        private.detach(point)


def test_pick_wants_the_root_of_a_mount(scratch: Path) -> None:
    with pytest.raises(KernelError) as caught:
        FsContext.pick(fill(scratch / "d"))
    assert caught.value.errno == EINVAL


def test_exclusive_create_refuses_to_share(real_root: None) -> None:
    need(has_exclusive_create(), "FSCONFIG_CMD_CREATE_EXCL (Linux 6.6)")
    with FsContext.open("sysfs") as context, pytest.raises(Busy):
        context.create(exclusive=True)


def test_exclusive_create_that_the_kernel_lacks_is_named() -> None:
    older = Watch(lambda _, name, words: EOPNOTSUPP * (name == "fsconfig" and words[1] == n.FSCONFIG_CMD_CREATE_EXCL))
    with FsContext.open("tmpfs") as context, watching(older), pytest.raises(NotSupported) as caught:
        context.create(exclusive=True)
    assert caught.value.feature == "FSCONFIG_CMD_CREATE_EXCL"
    assert "Linux 6.6" in (caught.value.hint or "")


def has_exclusive_create() -> bool:
    with FsContext.open("tmpfs") as context:
        try:
            calls.fsconfig_create_excl(context.fileno())
        except KernelError:
            return False
    return True


def test_log_is_read_in_order_and_once() -> None:
    with FsContext.open("tmpfs") as context:
        assert context.log() == []
        for bad in ("one", "two"):
            with pytest.raises(KernelError):
                calls.fsconfig_set_flag(context.fileno(), bad.encode())
        first, second = context.log()
        assert "one" in first
        assert "two" in second
        assert context.log() == []


def test_parameter_by_descriptor(scratch: Path) -> None:
    need(has(Feature.OVERLAY_LAYER_DETACHED), "overlay layers given as descriptors (Linux 6.15)")
    fill(scratch / "a", {"a": ""})
    fill(scratch / "b", {"b": ""})
    fds = [os.open(scratch / name, os.O_PATH) for name in "ab"]
    try:
        with FsContext.open("overlay") as context:
            context.set(*(param.Fd("lowerdir+", fd) for fd in fds)).create()
            with context.mount() as mount:
                assert sorted(os.listdir(inside(mount))) == ["a", "b"]
    finally:
        for fd in fds:
            os.close(fd)


def test_kind_that_the_filesystem_does_not_take(scratch: Path) -> None:
    need(has(Feature.OVERLAY_LAYER_APPEND), "OVERLAY_LAYER_APPEND (Linux 6.8)")
    with FsContext.open("overlay") as context, pytest.raises(KernelError) as caught:
        context.set(param.Path("lowerdir+", scratch))
    assert caught.value.errno == EINVAL
    with FsContext.open("tmpfs") as context, pytest.raises(KernelError):
        context.set(param.Blob("size", b"\0\1"))


def test_what_is_no_parameter() -> None:
    with FsContext.open("tmpfs") as context, pytest.raises((InvalidSpec, AttributeError)):
        context.set("size=1k")  # type: ignore[arg-type]  # that is the point
