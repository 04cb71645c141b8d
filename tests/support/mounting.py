"""Mounts made by bare calls, and watches by a forced route."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mountfd
from mountfd import Feature
from mountfd.lowlevel import calls
from mountfd.verbs.watch import Events
from tests.support.need import need

MS_BIND, MS_MOVE, MS_REC, MS_REMOUNT, MS_RDONLY = 0x1000, 0x2000, 0x4000, 0x20, 0x1
MS_SHARED, MS_PRIVATE, MS_SLAVE = 1 << 20, 1 << 18, 1 << 19
MNT_DETACH = 2

# Skipped before the test has mounted anything.
_fanotify = pytest.mark.skipif(not mountfd.has(Feature.FANOTIFY_MOUNTS), reason="missing: FAN_REPORT_MNT (Linux 6.15)")
both_routes = pytest.mark.parametrize("route", [pytest.param("fanotify", marks=_fanotify), "polling"])


def tmpfs(point: Path) -> Path:
    """Mount an empty tmpfs on a directory, which is made if need be."""
    point.mkdir(exist_ok=True)
    calls.mount(b"tmpfs", os.fsencode(point), b"tmpfs", 0, None)
    return point


def bind(source: Path, point: Path, flags: int = 0) -> Path:
    """Bind a directory to another."""
    point.mkdir(exist_ok=True)
    calls.mount(os.fsencode(source), os.fsencode(point), None, MS_BIND | flags, None)
    return point


def move(source: Path, point: Path) -> Path:
    """Move a mount."""
    point.mkdir(exist_ok=True)
    calls.mount(os.fsencode(source), os.fsencode(point), None, MS_MOVE, None)
    return point


def change(point: Path, flags: int) -> None:
    """Remount, or set the propagation."""
    calls.mount(None, os.fsencode(point), None, flags, None)


def umount(point: Path, flags: int = 0) -> None:
    """Unmount."""
    calls.umount2(os.fsencode(point), flags)


@contextlib.contextmanager
def watching(route: str, **arguments: Any) -> Iterator[Events]:
    """Watch by one route, or skip where it can't be had."""
    need(route != "fanotify" or mountfd.has(Feature.FANOTIFY_MOUNTS), "FAN_REPORT_MNT (Linux 6.15)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOUNTFD_ROUTE", f"watch:{route}")
        events = mountfd.watch(**arguments)
    with events:
        assert events.route == route
        yield events


@contextlib.contextmanager
def child(act: Callable[[], object]) -> Iterator[int]:
    """Run a function in a forked child meanwhile; it is waited for, and must not have failed."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    yield pid
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
