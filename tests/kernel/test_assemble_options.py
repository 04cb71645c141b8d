from __future__ import annotations

import os
from pathlib import Path

import pytest

from mountfd import InvalidSpec, KernelError, Overlay, assemble, param
from mountfd.lowlevel import calls
from tests.support import private
from tests.support.layers import assembled, attached, fill, layers, line_of, pair, super_options
from tests.support.need import need

pytestmark = pytest.mark.usefixtures("real_root")
LATE = {"verity=on": "6.6", "uuid=null": "6.7"}


def need_option(given: str, scratch: Path) -> None:
    """Skip where the kernel's overlay doesn't know an option that came late."""
    point = fill(scratch / "tried")
    one, two, upper, work = (fill(point / name) for name in ("one", "two", "upper", "work"))
    words = f"lowerdir={one}:{two},upperdir={upper},workdir={work},{given}"
    try:
        calls.mount(b"overlay", bytes(point), b"overlay", 0, words.encode())
    except KernelError:
        need(condition=False, feature=f"{given} of overlays (Linux {LATE[given]})")
    private.detach(point)


def option(text: str) -> param.Param:
    key, equals, value = text.partition("=")
    return param.String(key, value) if equals else param.Flag(key)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("redirect_dir=on", "redirect_dir=on"),
        ("redirect_dir=nofollow", "redirect_dir=nofollow"),
        ("index=on", "index=on"),
        ("metacopy=on", "metacopy=on"),
        ("userxattr", "userxattr"),
        ("volatile", "volatile"),
        ("verity=on", "verity=on"),
        ("uuid=null", "uuid=null"),
        ("default_permissions", "default_permissions"),
        ("ro", "ro"),
    ],
)
def test_option_reaches_the_superblock(route: str, scratch: Path, given: str, shown: str) -> None:
    if given in LATE:
        need_option(given, scratch)
    overlay = Overlay(layers(scratch, 2), *pair(scratch), options=[option(given)])
    with assembled(overlay) as root:
        found = set(super_options(root, scratch))
    if shown == "volatile":
        assert {"volatile", "fsync=volatile"} & found
    else:
        assert shown in found


def test_xino_over_two_filesystems(route: str, scratch: Path) -> None:
    point = fill(scratch / "fs")
    private.mount_tmpfs(point)
    lower = [*layers(scratch, 1), *layers(point, 1)]
    try:
        with assembled(Overlay(lower, options=[option("xino=on")])) as root:
            assert "xino=on" in super_options(root, scratch)
    finally:
        private.detach(point)


def test_nfs_export_with_index(route: str, scratch: Path) -> None:
    overlay = Overlay(layers(scratch, 2), *pair(scratch), options=[option("index=on"), option("nfs_export=on")])
    with assembled(overlay) as root:
        assert {"index=on", "nfs_export=on"} <= set(super_options(root, scratch))


def test_upper_layer_is_the_label(route: str, scratch: Path) -> None:
    upper, work = pair(scratch)
    with assembled(Overlay(layers(scratch, 1), upper, work)) as root, attached(root, scratch / "here") as point:
        assert line_of(point)[-2] == str(upper).encode()


def test_label_of_the_callers_choice(route: str, scratch: Path) -> None:
    label = "image:ünïcode, 100%"
    with (
        assembled(Overlay(layers(scratch, 2), source=label)) as root,
        attached(root, scratch / "here") as point,
    ):
        assert line_of(point)[-2].replace(b"\\040", b" ").decode() == label


def test_label_of_255_bytes(route: str, scratch: Path) -> None:
    with (
        assembled(Overlay(layers(scratch, 2), source="s" * 255)) as root,
        attached(root, scratch / "here") as point,
    ):
        assert line_of(point)[-2] == b"s" * 255


def test_unknown_option_is_refused_in_the_kernels_words(scratch: Path) -> None:
    with pytest.raises(KernelError) as caught:
        assemble(Overlay(layers(scratch, 2), options=[option("sparkle=on")]))
    assert any("sparkle" in line for line in caught.value.log)
    assert "sparkle" in str(caught.value.hint)


@pytest.mark.parametrize("forced", ["path", "string"])
def test_unknown_option_is_refused_on_the_other_routes(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, forced: str
) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", f"assemble:{forced}")
    with pytest.raises(KernelError):
        assemble(Overlay(layers(scratch, 2), options=[option("sparkle=on")]))


@pytest.mark.parametrize("value", ["a,upperdir=/etc", "a\\,b"])
def test_option_cannot_smuggle_another_into_the_string(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", "assemble:string")
    with pytest.raises(InvalidSpec):
        assemble(Overlay(layers(scratch, 2), options=[param.String("sparkle", value)]))


def test_string_of_options_that_the_kernel_would_cut_is_refused(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", "assemble:string")
    with pytest.raises(KernelError) as caught:
        assemble(Overlay(layers(scratch, 2), options=[param.String("sparkle", "x" * 4090)]))
    assert "4095" in str(caught.value.hint)


def test_reason_that_only_the_kernels_log_has(scratch: Path) -> None:
    try:
        log = calls.openat(-100, b"/dev/kmsg", 0, 0)
    except KernelError:
        pytest.skip("missing: the kernel's log")
    os.close(log)
    with (
        assembled(Overlay(layers(scratch / "a", 2))) as one,
        assembled(Overlay([one, *layers(scratch / "b", 1)])) as two,
        pytest.raises(KernelError) as caught,
    ):
        assemble(Overlay([two, *layers(scratch / "c", 1)]))
    assert any("stacking depth" in line for line in caught.value.log)
    assert any("stacking depth" in note for note in caught.value.__notes__)
