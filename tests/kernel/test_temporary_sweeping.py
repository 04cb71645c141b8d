"""What the dead left of temporary mounts is swept, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from errno import ENOTCONN
from pathlib import Path

import pytest

import mountfd
from mountfd import Busy, Denied, MountSpec, NotDirectory
from mountfd.handles.loop import attached
from mountfd.verbs.temporary import Finding, seen, sweep, sweeping, temporary_path
from tests.support import guard
from tests.support.images import image_file
from tests.support.layers import fill
from tests.support.mounting import tmpfs
from tests.support.need import need, need_command, need_real_root
from tests.support.others import NOBODY, in_child
from tests.support.program import SCRIPT, alive, eventually
from tests.support.temporaries import TMPFS, furnish, left, overlay_of, patience

# A fork beside threads may end in a lock that one of them held, so this is a program.
KILLED = """
import os, signal, sys, mountfd
with mountfd.temporary_path(mountfd.MountSpec("tmpfs", "x"), location=sys.argv[1]):
    os.kill(os.getpid(), signal.SIGKILL)
"""
WITH_SOURCE = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1] / "src")}


@pytest.fixture
def place(place: Path) -> Path:
    """Give a directory with layers in it, and one for temporary mounts."""
    return furnish(place)


def test_what_the_dead_left_is_cleared(place: Path) -> None:
    first = left(place / "tmp", overlay_of(place), MountSpec("tmpfs", "x", "sub"))
    second = left(place / "tmp", MountSpec("bind", place / "a", options=["bind"]))
    found = {finding.path: (finding.mounts, finding.error) for finding in sweep(place / "tmp")}
    assert found == {str(first.parent): (2, None), str(second.parent): (1, None)}
    assert os.listdir(place / "tmp") == []
    assert (place / "a/own").read_text() == "a"
    assert sweep(place / "tmp") == []


def test_a_finding_says_what_it_is(place: Path) -> None:
    home = left(place / "tmp").parent
    (finding,) = sweep(place / "tmp")
    assert repr(finding) == f"<Finding {str(home)!r}: 1 mounts taken away>"
    assert repr(Finding("/x", 0, OSError("no"))) == "<Finding '/x': no>"


def test_a_directory_that_was_left_before_anything_was_mounted(place: Path) -> None:
    for depth in (1, 2):
        home = place / "tmp" / f"mountfd-mnt-00000000000{depth}"
        home.mkdir(0o700)
        if depth == 2:
            (home / "mnt").mkdir(0o700)
    assert [finding.mounts for finding in sweep(place / "tmp")] == [0, 0]
    assert os.listdir(place / "tmp") == []


def test_what_lives_is_untouched(place: Path) -> None:
    with temporary_path(TMPFS, location=place / "tmp") as ours:
        reading, writing = os.pipe()
        go_reading, go_writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(go_writing)
            with temporary_path(TMPFS, location=place / "tmp") as path:
                os.write(writing, os.fsencode(path))
                os.read(go_reading, 1)
            os._exit(0)
        theirs = os.fsdecode(os.read(reading, 4096))
        dead = left(place / "tmp")
        assert [finding.path for finding in sweep(place / "tmp")] == [str(dead.parent)]
        assert in_child(lambda: [finding.path for finding in sweep(place / "tmp")]) == []
        assert mountfd.is_mount(ours)
        assert mountfd.is_mount(theirs)
        for fd in (reading, writing, go_reading, go_writing):
            os.close(fd)
        assert os.waitpid(child, 0)[1] == 0
        assert not os.path.exists(theirs)
    assert os.listdir(place / "tmp") == []


def test_what_is_left_to_a_forked_child_lives_as_long_as_that(place: Path) -> None:
    # It has the lock too: what its parent had mounted may be what it works with.
    reading, writing = os.pipe()
    go_reading, go_writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go_writing)
        with temporary_path(TMPFS, location=place / "tmp") as path:
            if os.fork() == 0:
                os.read(go_reading, 1)
                os._exit(0)
            os.write(writing, os.fsencode(path))
            os.kill(os.getpid(), signal.SIGKILL)
    path = os.fsdecode(os.read(reading, 4096))
    os.waitpid(child, 0)
    assert sweep(place / "tmp") == []
    assert mountfd.is_mount(path)
    for fd in (reading, writing, go_reading, go_writing):
        os.close(fd)
    assert eventually(lambda: [finding.error for finding in sweep(place / "tmp")] == [None])


def test_other_names_are_untouched(place: Path) -> None:
    beside = fill(place / "tmp2")
    living = left(beside)
    look_alikes = ["mountfd-mnt-notes", "mountfd-mnt-", "mountfd-mnt-0123456789AB", "xmountfd-mnt-0123456789ab"]
    for name in (*look_alikes, "mountfd-mnt-0123456789abc", "other"):
        (place / "tmp" / name).mkdir(0o700)
        tmpfs(place / "tmp" / name / "mnt")
    before = sorted(os.listdir(place / "tmp"))
    assert sweep(place / "tmp") == []
    assert sorted(os.listdir(place / "tmp")) == before
    assert all(mountfd.is_mount(place / "tmp" / name / "mnt") for name in before)
    assert mountfd.is_mount(living)
    assert [finding.error for finding in sweep(beside)] == [None]


def test_what_merely_looks_alike_loses_nothing(place: Path) -> None:
    precious = tmpfs(place / "precious")
    (precious / "file").touch()
    homes = [place / "tmp" / f"mountfd-mnt-00000000000{digit}" for digit in range(6)]
    homes[0].symlink_to(precious)
    homes[1].touch()
    homes[2].mkdir(0o755)
    tmpfs(homes[2] / "mnt")
    homes[3].mkdir(0o700)
    (homes[3] / "diary").write_text("dear")
    homes[4].mkdir(0o700)
    (homes[4] / "mnt").symlink_to(precious)
    homes[5].mkdir(0o700)
    (homes[5] / "mnt").mkdir()
    (homes[5] / "mnt/file").write_text("x")
    findings = sweep(place / "tmp")
    assert [Path(finding.path) for finding in findings] == [homes[3], homes[4], homes[5]]
    assert not any(finding.is_cleared for finding in findings)
    assert (precious / "file").exists()
    assert mountfd.is_mount(precious)
    assert mountfd.is_mount(homes[2] / "mnt")
    assert (homes[3] / "diary").read_text() == "dear"
    assert (homes[5] / "mnt/file").read_text() == "x"
    assert all(os.path.lexists(home) for home in homes)


def test_other_users_are_let_alone(place: Path) -> None:
    need_real_root()
    (place / "tmp").chmod(0o1777)
    theirs, ours = (place / "tmp" / f"mountfd-mnt-00000000000{digit}" for digit in (1, 2))
    theirs.mkdir(0o700)
    os.chown(theirs, NOBODY, NOBODY)
    assert sweep(place / "tmp") == []
    ours.mkdir(0o700)
    found = in_child(lambda: [finding.path for finding in sweep(place / "tmp")], NOBODY)
    assert found == [str(theirs)]
    assert ours.exists()


def test_one_that_fails_does_not_keep_the_others(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patience(monkeypatch)
    paths = sorted(left(place / "tmp") for _ in range(3))
    with open(paths[1] / "open", "w"):
        findings = sweep(place / "tmp")
        assert [Path(finding.path) for finding in findings] == [path.parent for path in paths]
        assert [finding.is_cleared for finding in findings] == [True, False, True]
        assert isinstance(findings[1].error, Busy)
    assert [finding.is_cleared for finding in sweep(place / "tmp")] == [True]


def test_a_location_that_is_not_there_or_can_not_be_read(place: Path) -> None:
    assert sweep(place / "nowhere") == []
    (place / "file").touch()
    with pytest.raises(NotDirectory):
        sweep(place / "file")
    need_real_root()
    (place / "tmp").chmod(0o700)
    with pytest.raises(Denied):
        in_child(lambda: sweep(place / "tmp"), NOBODY)


def test_an_image_that_the_dead_left(place: Path) -> None:
    need_real_root()
    need(Path("/dev/loop-control").exists(), "loop devices")
    image = image_file("ext4", place)
    left(place / "tmp", MountSpec("ext4", image, options=["loop"]))
    assert len(attached(image)) == 1
    assert [finding.error for finding in sweep(place / "tmp")] == [None]
    assert any(not attached(image) for _ in guard.patiently())


def is_disconnected(path: Path | str) -> bool:
    try:
        os.statvfs(path)  # which is never answered out of a cache
    except OSError as error:
        return error.errno == ENOTCONN
    return False


def test_a_server_that_died_too(place: Path) -> None:
    need_command("squashfuse")
    need(Path("/dev/fuse").exists(), "FUSE")
    path = left(place / "tmp", MountSpec("fuse3.squashfuse", image_file("squashfs", place)))
    for pid in alive(str(path)):
        os.kill(int(pid), signal.SIGKILL)
    assert eventually(lambda: not alive(str(path)))
    assert eventually(lambda: is_disconnected(path))
    assert [finding.error for finding in sweep(place / "tmp")] == [None]


def test_sweeps_and_makers_at_once(place: Path) -> None:
    """Many come and go, and are swept by several all the time: what lives is never taken away."""
    location = place / "tmp"
    over = threading.Event()
    swept: list[Finding] = []

    def make(number: int) -> None:
        for _ in range(60):
            with temporary_path(TMPFS, location=location) as path:
                (Path(path) / "mine").write_text(str(number))
                os.sched_yield()
                assert (Path(path) / "mine").read_text() == str(number)

    def clear() -> None:
        while not over.is_set():
            swept.extend(sweep(location))

    with ThreadPoolExecutor() as pool:
        sweepers = [pool.submit(clear) for _ in range(2)]
        try:
            makers = [pool.submit(make, number) for number in range(4)]
            for _ in range(3):
                line = [sys.executable, "-c", KILLED, str(location)]
                assert subprocess.run(line, check=False, env=WITH_SOURCE).returncode == -signal.SIGKILL
            for maker in makers:
                maker.result()
        finally:
            over.set()
        for sweeper in sweepers:
            sweeper.result()
    swept.extend(sweep(location))
    assert [finding.error for finding in swept if finding.error] == []
    assert len([finding for finding in swept if finding.mounts]) == 3
    assert os.listdir(location) == []


def test_a_sweep_between_the_steps_of_a_maker(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory is made, and before it is locked a sweep takes it away: the maker makes another one."""
    location, make = place / "tmp", seen._make
    homes: list[str] = []

    def swept_at_once(directory: str) -> None:
        make(directory)
        if not directory.endswith("/mnt"):
            homes.append(directory)
            if len(homes) < 3:
                assert [finding.path for finding in sweep(location)] == [directory]

    monkeypatch.setattr(seen, "_make", swept_at_once)
    with temporary_path(TMPFS, location=location) as path:
        assert Path(path).parent == Path(homes[2])
    assert os.listdir(location) == []


def test_another_directory_of_that_name_is_not_cleared(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was looked at went before it was locked, and somebody made another one of its name."""
    home = place / "tmp/mountfd-mnt-0123456789ab"
    home.mkdir(0o700)

    def too_late(path: str) -> object:
        lock = seen.locked(path)
        home.rename(place / "tmp/placeholder")
        home.mkdir(0o700)
        return lock

    monkeypatch.setattr(sweeping, "locked", too_late)
    assert sweep(place / "tmp") == []
    assert home.exists()


def test_one_that_another_sweep_cleared_first_is_no_finding(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = place / "tmp/mountfd-mnt-0123456789ab"
    for step in ("before it is opened", "before it is locked"):
        home.mkdir(0o700)

        def late(path: str, step: str = step) -> object:
            if step == "before it is opened":
                home.rmdir()
            lock = seen.locked(path)
            if step == "before it is locked":
                home.rmdir()
            return lock

        monkeypatch.setattr(sweeping, "locked", late)
        assert sweep(place / "tmp") == []
