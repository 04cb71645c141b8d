"""The process is killed at each call: its mount namespace is as before, and no process of it lives on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountfd.lowlevel import calls, numbers
from tests.faults.stock import act, describe, stock, undo
from tests.support import guard
from tests.support.inject import Watch, killing, watching

pytestmark = pytest.mark.usefixtures("real_root")

PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNS = 0x20000
MS_REC_PRIVATE = 0x4000 | 1 << 18


@pytest.fixture
def orphanage() -> Iterator[None]:
    """Let this process be the parent of orphans among its descendants."""
    calls.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    calls.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def mounts_in(namespace: int) -> int:
    """Count the mounts of a namespace."""
    answer = fcntl.ioctl(namespace, numbers.NS_MNT_GET_INFO, struct.pack("IIQ", 16, 0, 0))
    return int(struct.unpack("IIQ", answer)[1])


def no_process_lives_on() -> bool:
    """Bury the dead; say whether that were all."""
    for _ in guard.patiently():
        try:
            while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | numbers.WALL) is not None:
                pass
        except ChildProcessError:
            return True
    return False


def test_killed_at_each_call(route: str, scratch: Path, orphanage: None) -> None:
    overlay, point = describe(scratch), scratch / "here"
    with watching(Watch()) as seen:
        act(overlay, point)
    undo(point)
    before = stock()
    for number in range(1, len(seen.names) + 1):
        go_reading, go_writing = os.pipe()
        there_reading, there_writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(go_writing)
            os.close(there_reading)
            calls.unshare(CLONE_NEWNS)
            calls.mount(None, b"/", None, MS_REC_PRIVATE, None)
            os.write(there_writing, b"x")
            os.read(go_reading, 1)
            try:
                with watching(killing(number)):
                    act(overlay, point)
            finally:
                os._exit(1)
        os.close(go_reading)
        os.close(there_writing)
        assert os.read(there_reading, 1) == b"x"
        namespace = os.open(f"/proc/{child}/ns/mnt", os.O_RDONLY)
        mounts = mounts_in(namespace)
        os.write(go_writing, b"x")
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        after = mounts_in(namespace)
        for fd in (namespace, go_writing, there_reading):
            os.close(fd)
        assert status == -signal.SIGKILL, (number, seen.names[number - 1])
        # move_mount is the last step that could be killed before it is taken.
        assert after == mounts, (number, seen.names[number - 1])
        assert no_process_lives_on(), (number, seen.names[number - 1])
        assert stock() == before
    act(overlay, point)
    undo(point)


def test_killed_by_somebody_else_at_any_moment(scratch: Path, orphanage: None) -> None:
    overlay = describe(scratch)
    before = stock()
    for moment in range(40):
        child = os.fork()
        if child == 0:
            while True:
                with contextlib.suppress(OSError):
                    act(overlay, scratch / "gone")
        time.sleep(moment / 2000)  # whichever: all must do
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert no_process_lives_on()
        assert stock() == before
