"""Roots of new mount namespaces that aren't as simple: covered by another mount, or sent by another process."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from mountfd import InvalidSpec, Mount, MountNamespace, receive_mount, send_mount
from mountfd.lowlevel import calls
from tests.support.layers import fill
from tests.support.mounting import bind, umount
from tests.support.namespaces import ROUTES, forced
from tests.support.need import need
from tests.support.others import in_child

CLONE_NEWNS = 0x20000
ways = pytest.mark.parametrize("way", ROUTES)


@ways
def test_a_covered_directory_is_refused_where_it_is_named_by_standing_in_it(
    way: str, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = fill(scratch / "one", {"file": "1"}), fill(scratch / "two", {"file": "2"})
    monkeypatch.chdir(one)
    bind(two, one)
    try:
        with forced(way), pytest.raises(InvalidSpec, match="covers it"):
            MountNamespace.new(".")
        with forced(way), MountNamespace.new(one) as made:
            assert made.call(lambda: Path("/file").read_text()) == "2"
    finally:
        umount(one)


@ways
def test_a_mount_with_another_on_its_root_is_refused(way: str, place: Path) -> None:
    with Mount.clone(fill(place / "one")) as below, Mount.clone(fill(place / "two")) as above:
        below.attach(fill(place / "point"))
        above.attach(place / "point")
        with forced(way), pytest.raises(InvalidSpec, match="covers it"):
            MountNamespace.new(below)


@ways
def test_a_received_mount_serves_once(way: str, scratch: Path) -> None:
    need(way != "open_tree", "a copy of a mount that was made in another namespace")
    fill(scratch / "root", {"file": "handed over"})
    MountNamespace.new(scratch / "root").close()
    here, there = socket.socketpair()

    def receive() -> tuple[str, int]:
        calls.unshare(CLONE_NEWNS)
        with forced(way), receive_mount(there) as mount, MountNamespace.new(mount) as made:
            return made.call(lambda: Path("/file").read_text()), len(made.mounts(("point",)))

    with here, there:
        with Mount.clone(scratch / "root") as mount:
            send_mount(here, mount)
        text, count = in_child(receive)
    assert text == "handed over"
    assert count == 1


def test_what_the_caller_had_open_and_inheritable_does_not_get_in(scratch: Path) -> None:
    root = fill(scratch / "root")
    for name in ("bin", "lib", "lib64", "usr", "proc"):
        if os.path.isdir(f"/{name}"):
            fill(root / name)
    with MountNamespace.new(root) as made:
        for name in os.listdir(root):
            with Mount.clone(f"/{name}", recursive=True) as mount:
                made.attach(mount, f"/{name}")
        way_out = os.open("/", os.O_PATH)
        try:
            os.set_inheritable(way_out, True)
            assert made.run(["/bin/sh", "-c", f"test -e /proc/self/fd/{way_out}"]) == 1
            assert made.run(["/bin/sh", "-c", f"test -e /proc/self/fd/{way_out}"], pass_fds=[way_out]) == 0
            os.set_inheritable(way_out, False)
            assert made.run(["/bin/sh", "-c", f"test -e /proc/self/fd/{way_out}"], pass_fds=[way_out]) == 0
        finally:
            os.close(way_out)
