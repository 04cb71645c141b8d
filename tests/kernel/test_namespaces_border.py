"""What crosses the border to another user namespace can't be looked into, or held up, by whoever is root there."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mountfd import Mount, MountfdError, MountNamespace, UserNamespace, lock_mount
from mountfd.lowlevel import calls
from tests.support.inject import Watch, watching
from tests.support.layers import SHIFTED
from tests.support.need import need_real_root

need_real_root()
CLONE_NEWUSER = 0x10000000
_PIDFD_OPEN, _PIDFD_GETFD = 434, 438


def take_from(pid: int, owner: int, descriptor: int) -> bool:
    """Say whether root of a user namespace, in a process of its own, can take a descriptor of another process."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            calls.setns(owner, CLONE_NEWUSER)
            os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            found = libc.syscall(_PIDFD_GETFD, libc.syscall(_PIDFD_OPEN, pid, 0), descriptor, 0)
            status = 0 if found >= 0 else 2
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 2)
    return status == 0


class Meeting(Watch):
    """Stop, in the child alone, before the call that comes when it has crossed, until the attack is over."""

    def __init__(self, until: str) -> None:
        """Take the name of the call."""
        super().__init__()
        self.parent, self.until = os.getpid(), until
        self.told, self.telling = os.pipe()
        self.stay, self.leave = os.pipe()
        self.crossings = 0

    def before(self, row: calls.Row, _arguments: tuple[Any, ...]) -> int:
        """Tell that it is there."""
        if os.getpid() != self.parent:
            self.crossings += row.name == "setns"
            if row.name == self.until and self.crossings == 2:
                os.write(self.telling, b"%d" % os.getpid())
                os.read(self.stay, 1)
        return 0

    def call_off(self) -> None:
        """Have nobody wait any longer for one that never came."""
        os.close(self.telling)

    def close(self) -> None:
        """Close the other pipes."""
        for fd in (self.told, self.stay, self.leave):
            os.close(fd)


@contextmanager
def secret(scratch: Path) -> Iterator[int]:
    """Hold a file that nobody else may read."""
    (scratch / "secret").write_text("s")
    (scratch / "secret").chmod(0o600)
    fd = os.open(scratch / "secret", os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.mark.parametrize("verb", ["new", "lock_mount"])
def test_root_inside_takes_nothing_from_the_process_that_crosses(scratch: Path, verb: str) -> None:
    def act() -> None:
        if verb == "new":
            MountNamespace.new(scratch, owner=owner).close()
        else:
            with Mount.clone(scratch) as mount:  # before Linux 6.15 one that is detached serves once
                lock_mount(mount, owner).close()

    taken: list[bool] = []
    meeting = Meeting("unshare")

    def attack() -> None:
        met = os.read(meeting.told, 20)
        if not met:
            return
        try:
            taken.append(take_from(int(met), owner.fileno(), fd))
        finally:
            os.write(meeting.leave, b"x")

    with UserNamespace.new(SHIFTED) as owner, secret(scratch) as fd:
        act()
        thread = threading.Thread(target=attack)
        thread.start()
        try:
            with watching(meeting):
                act()
        finally:
            meeting.call_off()
            thread.join()
            meeting.close()
    assert taken == [False]


def test_one_that_is_stopped_there_is_an_error_and_no_hanging(scratch: Path) -> None:
    parent = os.getpid()

    def decide(_count: int, name: str, _arguments: tuple[object, ...]) -> int:
        if os.getpid() != parent and name == "unshare":
            os.kill(os.getpid(), signal.SIGSTOP)
        return 0

    with UserNamespace.new(SHIFTED) as owner, Mount.clone(scratch) as first, Mount.clone(scratch) as mount:
        lock_mount(first, owner).close()
        with watching(Watch(decide)), pytest.raises(MountfdError, match="was killed"):
            lock_mount(mount, owner)
