"""The guard around each test sees what is left behind."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.support import guard, images, private


@contextmanager
def _descriptor(place: Path) -> Iterator[str]:
    fd = os.open(place, os.O_PATH)
    yield f"left behind: descriptor {fd} -> {place}"
    os.close(fd)


@contextmanager
def _mount(place: Path) -> Iterator[str]:
    private.mount_tmpfs(place)
    yield f" {place} rw"
    assert private.unmounted(place)


@contextmanager
def _loop_device(place: Path) -> Iterator[str]:
    with images.filesystem("ext4"):
        yield "left behind: loop device loop"


@contextmanager
def _child(place: Path) -> Iterator[str]:
    with subprocess.Popen(["sleep", "60"]) as child:
        # Not its name: the kernel closes the pipe that tells of the new program before it renames the process.
        yield f"left behind: child process {child.pid} "
        child.kill()


@contextmanager
def _thread(place: Path) -> Iterator[str]:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="idler")
    thread.start()
    yield f"left behind: thread {thread.native_id} idler"
    end.set()
    thread.join()


@contextmanager
def _directory(place: Path) -> Iterator[str]:
    before = Path.cwd()
    os.chdir(place)
    yield f"left behind: namespace or directory {place}"
    os.chdir(before)


@pytest.mark.parametrize("leak", [_descriptor, _mount, _loop_device, _child, _thread, _directory])
def test_guard_sees(
    leak: Callable[[Path], AbstractContextManager[str]],
    scratch: Path,
    temporary_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard, "PATIENCE", 0)
    before = guard.snapshot(temporary_directory)
    with leak(scratch) as expected:
        lines = guard.left_behind(before, temporary_directory)
    assert [line for line in lines if expected in line]


def test_guard_sees_what_was_taken_away(
    tmp_path: Path, temporary_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "PATIENCE", 0)
    fd = os.open(tmp_path, os.O_PATH)
    before = guard.snapshot(temporary_directory)
    os.close(fd)
    assert guard.left_behind(before, temporary_directory) == [f"taken away: descriptor {fd} -> {tmp_path}"]
