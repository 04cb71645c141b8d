"""While one process mounts and unmounts as fast as it can, mounts that stood are in every listing.

The number of listings is MOUNTFD_CHURN_LISTINGS, 2,000 without it. A plain reader of mountinfo runs beside each.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mountfd
from mountfd import MountTable
from mountfd.lowlevel import calls

LISTINGS = int(os.environ.get("MOUNTFD_CHURN_LISTINGS", "2000"))
STANDING = 60


@pytest.fixture
def churn(scratch: Path) -> Iterator[set[str]]:
    """Let a process attach and detach three mounts in turns, between ones that stand; give the points of those."""
    source = bytes(scratch / "source")
    os.mkdir(source)
    standing = [scratch / f"standing-{number}" for number in range(STANDING)]
    going = [bytes(scratch / f"going-{number}") for number in range(3)]
    for point in [*map(bytes, standing), *going]:
        os.mkdir(point)
    pid = os.fork()
    if pid == 0:
        attach_and_detach(source, going)
    try:
        # These come while the others come and go, so that ids of both kinds lie among each other.
        for path in standing:
            calls.mount(source, bytes(path), None, 0x1000, None)
        yield {str(path) for path in standing}
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for point in [*map(bytes, standing), *going]:
            while mountfd.is_mount(point):
                calls.umount2(point, 2)


def attach_and_detach(source: bytes, going: list[bytes]) -> None:
    while True:
        for point in going:
            calls.mount(source, point, None, 0x1000, None)
        for point in going:
            calls.umount2(point, 2)


def by_mountinfo(place: Path) -> MountTable:
    return mountfd.mounts()


def by_names(place: Path) -> MountTable:
    return mountfd.mounts(fields=("point", "fstype"))


def by_ids(place: Path) -> MountTable:
    return mountfd.mounts(fields=("id", "point", "fstype"))


def below(place: Path) -> MountTable:
    return mountfd.mounts(under=place, fields=("id", "point", "fstype"))


def plain_reader() -> set[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        return {line.split(" ")[4] for line in table}


@pytest.mark.parametrize("route", [by_mountinfo, by_names, by_ids, below])
def test_what_stands_is_in_every_listing(
    churn: set[str], scratch: Path, route: Callable[[Path], MountTable], record_property: Callable[[str, object], None]
) -> None:
    seen: set[int] = set()
    plain_missed = 0
    for _ in range(LISTINGS):
        listed = {mount.point: mount for mount in route(scratch)}
        assert churn <= listed.keys()
        seen.add(sum("going" in (point or "") for point in listed))
        assert {mount.fstype for point, mount in listed.items() if str(scratch) in (point or "")} == {"tmpfs"}
        plain_missed += not churn <= plain_reader()
    record_property("listings in which a plain reader of mountinfo missed one", plain_missed)
    assert len(seen) > 1  # it did come and go meanwhile


def test_no_answer_mixes_two_mounts(churn: set[str], scratch: Path) -> None:
    points = sorted(churn)
    wanted = {point: mountfd.lookup(point).as_dict() for point in points}
    for number in range(LISTINGS):
        point = points[number % len(points)]
        assert mountfd.lookup(point).as_dict() == wanted[point]
        assert mountfd.is_mount(point)
        going = mountfd.lookup(scratch / "going-1", fields=("point", "root", "id"))
        assert (going.point, going.root) in {(str(scratch / "going-1"), "/source"), (str(scratch), "/")}
