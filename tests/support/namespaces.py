"""Mount namespaces as tests want them: made by each route, looked into, compared."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import mountfd
from mountfd import Feature
from mountfd.lowlevel import calls
from tests.support.need import need

__all__ = ["ROUTES", "bare_root", "forced", "in_user_namespace", "points"]

ROUTES = ("open_tree", "template", "unshare")
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_REC_PRIVATE = 0x4000 | 1 << 18


@contextmanager
def forced(route: str) -> Iterator[str]:
    """Force a route of MountNamespace.new, or skip where the kernel hasn't got it."""
    need(route != "open_tree" or mountfd.has(Feature.OPEN_TREE_NAMESPACE), "OPEN_TREE_NAMESPACE (Linux 7.0)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOUNTFD_ROUTE", f"namespace:{route}")
        yield route


def bare_root(place: Path) -> Path:
    """Make a directory with a static shell in it, places for mounts, and nothing else."""
    busybox = shutil.which("busybox", path="/usr/bin:/bin")
    need(busybox, "busybox(1)")
    for name in ("bin", "mnt", "proc", "tmp"):
        (place / name).mkdir(parents=True)
    shutil.copy(str(busybox), place / "bin" / "busybox")
    for name in ("sh", "cat", "ls", "pwd", "env", "true", "sleep", "touch", "mount", "umount"):
        (place / "bin" / name).symlink_to("busybox")
    return place


def points(namespace: mountfd.MountNamespace) -> list[str | None]:
    """List where mounts stand in it."""
    return [mount.point for mount in namespace.mounts(fields=("point",))]


def in_user_namespace() -> None:
    """Bring this process, whoever it is, into a user and a mount namespace of its own, as their root."""
    uid, gid = os.geteuid(), os.getegid()
    calls.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: who has changed its ids is closed to itself, too
    calls.unshare(CLONE_NEWUSER | CLONE_NEWNS)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        Path(f"/proc/self/{name}").write_text(text)
    calls.mount(None, b"/", None, MS_REC_PRIVATE, None)
