"""run where the caller's root isn't the root of its mount namespace."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountfd import Mount
from tests.support.need import need_real_root
from tests.support.program import MOUNTFD, VISIBLE, mountfd

need_real_root()


@pytest.fixture
def chroot(scratch: Path) -> Iterator[list[str]]:
    """The words that start a program in a chroot that looks like the host."""
    root = scratch / "root"
    root.mkdir()
    with Mount.clone("/", recursive=True) as host:
        host.attach(root)
    yield ["chroot", str(root)]
    subprocess.run(["umount", "--recursive", str(root)], check=True)


def test_a_chroot_is_no_hindrance(chroot: list[str]) -> None:
    done = mountfd("run", "--", "sh", "-c", "id -u; cat /proc/self/uid_map; touch /etc/made-inside", before=chroot)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["0", "0", "1879048192", "65536"]
    assert not Path("/etc/made-inside").exists()


def test_root_without_a_user_namespace_works_in_a_chroot_too(chroot: list[str]) -> None:
    done = mountfd("run", "--idmap", "none", "--", "sh", "-c", "id -u; ls -d /etc", before=chroot)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["0", "/etc"], "")


def test_an_ordinary_user_in_a_chroot_is_told_why_not(chroot: list[str]) -> None:
    words = [*chroot, "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    done = mountfd("run", "--", "true", before=words)
    assert done.returncode == 125
    assert "user namespaces are not for ordinary users here" in done.stderr


def test_an_identity_map_needs_no_idmapped_root() -> None:
    command = f"{' '.join(MOUNTFD)} run --idmap 0:0:65536 -- sh -c 'id -u; cat /proc/self/uid_map'"
    done = mountfd("run", *VISIBLE, "--idmap", "none", "--", "sh", "-c", command)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["0", "0", "0", "65536"]
