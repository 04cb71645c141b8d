"""Several at once, some of them killed: the stack doesn't grow, and everybody gets a version or is told to wait."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountfd import Busy, Feature, has, mounts
from mountfd.lowlevel import calls
from mountfd.verbs.replace import replace
from tests.kernel.test_replace_readers import Readers, whole
from tests.support.layers import fill
from tests.support.mounting import MNT_DETACH, MS_SHARED, change, tmpfs, umount
from tests.support.need import need

need(has(Feature.MOVE_MOUNT_BENEATH) and has(Feature.STATMOUNT), "MOVE_MOUNT_BENEATH and statmount(2) (Linux 6.8)")


@pytest.fixture(params=["private", "shared"])
def home(scratch: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Give a target with a mount below, upon a private or a shared mount, and versions outside of it."""
    place = fill(tmpfs(scratch / "home"), {"t/base": ""})
    if request.param == "shared":
        change(place, MS_SHARED)
    for number in range(8):
        fill(scratch / f"v{number}", {"a": f"v{number}", "b": f"v{number}", "sub/base": ""})
    calls.mount(bytes(scratch / "v0"), bytes(place / "t"), None, 0x1000, None)
    fill(tmpfs(place / "t/sub"), {"kept": "kept"})
    yield place
    umount(place, MNT_DETACH)


def points(home: Path) -> list[str]:
    return sorted(row.point or "" for row in mounts(under=home, fields=("point",)))


def start(home: Path, number: int, rounds: int) -> int:
    """Start a process that replaces again and again; its status tells whether all ended well or in Busy."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            while rounds:
                rounds -= 1
                try:
                    replace(home / "t", home.parent / f"v{number}").close()
                except Busy:
                    continue
            status = 0
        except BaseException:  # noqa: BLE001 (shown in the test's output)
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)
    return pid


@pytest.mark.parametrize(("processes", "rounds"), [(2, 60), (8, 15)])
def test_many_processes(home: Path, processes: int, rounds: int) -> None:
    before = points(home)
    readers = Readers()
    readers.start(whole(home / "t"), namespace=True)
    readers.start((home / "t/sub/kept").read_text)
    pids = [start(home, number, rounds) for number in range(processes)]
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * processes
    assert points(home) == before
    versions, kept = (seen for _, seen in readers.stop())
    assert versions <= {f"v{number}" for number in range(8)}
    assert kept == {"kept"}


def test_threads(home: Path) -> None:
    before, failures = points(home), []

    def work(number: int) -> None:
        try:
            for _ in range(15):
                replace(home / "t", home.parent / f"v{number}").close()
        except BaseException as error:  # noqa: BLE001 (shown below)
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (failures, points(home)) == ([], before)


def test_some_are_killed_at_any_moment(home: Path) -> None:
    before, dice = points(home), random.Random(1)  # noqa: S311 (no secret)
    readers = Readers()
    readers.start(whole(home / "t"))
    steady = start(home, 0, 40)
    for number in range(60):
        pid = start(home, 1 + number % 7, -1)
        time.sleep(dice.random() / 100)  # whichever moment: all must do
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(os.waitpid(steady, 0)[1]) == 0
    replace(home / "t", home.parent / "v0").close()
    assert points(home) == before
    ((_, seen),) = readers.stop()
    assert seen <= {f"v{number}" for number in range(8)}
    assert (home / "t/sub/kept").read_text() == "kept"
