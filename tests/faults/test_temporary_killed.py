"""A process is killed at each call of `temporary_path`: the next sweep clears what it left, all of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountfd import MountSpec
from mountfd.handles.loop import attached
from mountfd.lowlevel import drop_caches
from mountfd.verbs.temporary import sweep, temporary_path
from tests.support import guard
from tests.support.images import image_file
from tests.support.inject import Watch, killing, watching
from tests.support.layers import fill, pair, table
from tests.support.need import need
from tests.support.specs import cleared

pytestmark = pytest.mark.usefixtures("real_root")


@pytest.fixture
def place(scratch: Path) -> Iterator[Path]:
    """Give a directory with an image, layers and a place for temporary mounts."""
    need(Path("/dev/loop-control").exists(), "loop devices")
    image_file("ext4", scratch)
    fill(scratch / "a", {"own": "a"})
    fill(scratch / "b", {"deep": "b"})
    pair(scratch)
    fill(scratch / "tmp")
    with cleared(scratch):
        yield scratch


def act(place: Path) -> None:
    """Mount an image, an overlay upon it, and a bind in that; write into it."""
    words = [f"lowerdir={place}/a:{place}/b", f"upperdir={place}/upper", f"workdir={place}/work"]
    specs = [
        MountSpec("ext4", place / "ext4.img", options=["loop"]),
        MountSpec("overlay", "overlay", "overlay", [*words, "X-mount.mkdir"]),
        MountSpec("bind", place / "b", "overlay/deeper", ["bind", "X-mount.mkdir"]),
    ]
    drop_caches()
    with temporary_path(specs, location=place / "tmp") as path:
        assert Path(path, "overlay/deeper/deep").read_text() == "b"


def killed(place: Path, watch: Watch) -> int:
    """Do it in a child that is watched; give its status."""
    child = os.fork()
    if child == 0:
        try:
            with watching(watch):
                act(place)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def is_off(image: Path) -> bool:
    return any(not attached(image) for _ in guard.patiently())


def test_killed_at_each_call(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    location, image = place / "tmp", place / "ext4.img"
    with watching(Watch()):
        act(place)  # what is probed once is probed now
    with watching(Watch()) as seen:
        act(place)
    before = table()
    cleared_mounts: set[int] = set()
    for number in range(1, len(seen.names) + 1):
        what = number, seen.names[number - 1]
        assert killed(place, killing(number)) == -signal.SIGKILL, what
        homes = os.listdir(location)
        assert len(homes) <= 1, what
        findings = sweep(location)
        assert [finding.path for finding in findings] == [str(location / home) for home in homes], what
        assert [finding.error for finding in findings if finding.error] == [], what
        cleared_mounts.update(finding.mounts for finding in findings)
        assert os.listdir(location) == [], what
        assert table() == before, what
        assert is_off(image), what
    assert cleared_mounts == {0, 1, 2, 3}
    act(place)


def test_killed_in_the_block(place: Path) -> None:
    before = table()
    child = os.fork()
    if child == 0:
        specs = [MountSpec("ext4", place / "ext4.img", options=["loop"])]
        with temporary_path(specs, location=place / "tmp") as path:
            Path(path, "new").write_text("kept")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(attached(place / "ext4.img")) == 1
    (finding,) = sweep(place / "tmp")
    assert (finding.mounts, finding.error) == (1, None)
    assert table() == before
    assert is_off(place / "ext4.img")
    with temporary_path(MountSpec("", place / "ext4.img"), location=place / "tmp") as path:
        assert Path(path, "new").read_text() == "kept"


def test_a_sweep_that_is_killed_at_each_call_is_done_by_the_next(place: Path) -> None:
    location, number = place / "tmp", 0
    while True:
        number += 1
        child = os.fork()
        if child == 0:
            with temporary_path(MountSpec("ext4", place / "ext4.img"), location=location):
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        child = os.fork()
        if child == 0:
            try:
                with watching(killing(number)):
                    sweep(location)
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert [finding.error for finding in sweep(location) if finding.error] == []
        assert os.listdir(location) == []
        assert is_off(place / "ext4.img")
        if status != -signal.SIGKILL:
            break
    assert number > 5
