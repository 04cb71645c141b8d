"""The same by root of a user namespace, who owns nothing of the host's filesystems."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from mountfd import Denied, Overlay, assemble
from mountfd.lowlevel import calls
from tests.support import private
from tests.support.layers import SHIFTED, assembled, content, fill, inside, layers, pair
from tests.support.need import need_real_root
from tests.support.others import in_child

T = TypeVar("T")
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000


def enter(act: Callable[[], T]) -> Callable[[], T]:
    """Make a function that acts in a new user and mount namespace; every mount that came along is locked there."""

    def acted() -> T:
        calls.unshare(CLONE_NEWUSER | CLONE_NEWNS)
        for name, text in (("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")):
            Path(f"/proc/self/{name}").write_text(text)
        return act()

    return acted


def merged(overlay: Overlay) -> Callable[[], dict[str, str]]:
    def act() -> dict[str, str]:
        with assemble(overlay) as root:
            if overlay.upper is not None:
                (inside(root) / "new").write_text("n")
            return content(root)

    return act


def test_layers_whose_parent_has_a_locked_mount_below_it(route: str, scratch: Path) -> None:
    need_real_root()
    beside, overlay = fill(scratch / "beside"), Overlay(layers(scratch, 2))
    private.mount_tmpfs(beside)
    try:
        with assembled(overlay):
            pass
        assert in_child(enter(merged(overlay))) == {"common": "0", "own0": "0", "own1": "1"}
    finally:
        private.detach(beside)


def test_upper_layer(route: str, scratch: Path) -> None:
    need_real_root()
    overlay = Overlay(layers(scratch, 2), *pair(scratch))
    with assembled(overlay):
        pass
    assert in_child(enter(merged(overlay))) == {"common": "0", "own0": "0", "own1": "1", "new": "n"}
    assert (scratch / "upper/new").read_text() == "n"


def test_idmap_of_the_hosts_filesystem_is_denied(route: str, scratch: Path) -> None:
    need_real_root()
    overlay = Overlay(layers(scratch, 2), idmap=SHIFTED)
    with assembled(overlay):
        pass
    with pytest.raises(Denied) as caught:
        in_child(enter(merged(overlay)))
    assert caught.value.hint
    assert os.getuid() == 0
