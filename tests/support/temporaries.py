"""What tests of temporary mounts begin with, and what a killed process leaves of them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import mountfd
from mountfd import MountSpec
from mountfd.verbs.temporary import clearing, temporary_path
from tests.support.layers import fill, pair
from tests.support.mounting import MS_SHARED, change, tmpfs

TMPFS = MountSpec("tmpfs", "x", options=["mode=755"])


def furnish(place: Path) -> Path:
    """Make layers in a directory, and a place for temporary mounts."""
    fill(place / "a", {"own": "a", "both": "a"})
    fill(place / "b", {"deep": "b", "both": "b", "sub/file": "x"})
    fill(place / "tmp")
    return place


def overlay_of(place: Path, *more: str) -> MountSpec:
    """Describe an overlay over the layers."""
    upper, work = pair(place)
    words = [f"lowerdir={place}/a:{place}/b", f"upperdir={upper}", f"workdir={work}", *more]
    return MountSpec("overlay", "overlay", options=words)


def shared_tree(place: Path) -> Path:
    """Mount a shared tmpfs with another one below, which has one below; give its path."""
    source = tmpfs(place / "source")
    change(source, MS_SHARED)
    tmpfs(source / "child")
    tmpfs(source / "child/grandchild")
    (source / "child/file").touch()
    (source / "dir").mkdir()
    return source


def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for what is busy no longer than it takes to see that it is."""
    monkeypatch.setattr(clearing, "unmount", lambda *words, **more: mountfd.unmount(*words, **{"wait": 0.01, **more}))


def left(location: Path, *specs: MountSpec) -> Path:
    """Leave a temporary mount behind, as a kill does; give its path."""
    path = killed_in(location, *specs)
    assert mountfd.is_mount(path)
    return path


def killed_in(location: Path, *specs: MountSpec) -> Path:
    """Have a process killed in the block; give the path that it had."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with temporary_path(specs or [TMPFS], location=location) as path:
            os.write(writing, os.fsencode(path))
            os.kill(os.getpid(), signal.SIGKILL)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        path = os.fsdecode(pipe.read())
    os.waitpid(child, 0)
    assert path
    return Path(path)
