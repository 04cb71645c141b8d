"""Many threads and processes mount and unmount at one place: nobody takes away a mount that another one made."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from mountfd import Busy, Gone, is_mount, lookup
from mountfd.handles.mount import Mount
from mountfd.verbs.query.place import HERE, id_of
from mountfd.verbs.unmount import exact, unmount
from tests.support.inject import Watch, watching
from tests.support.mounting import tmpfs
from tests.support.need import need_unique_ids
from tests.support.others import in_child

THREADS = 200


def mount_one(source: Path, point: Path) -> int:
    """Put a mount of one's own on top of what stands there, and give its id, which no path was asked for."""
    with Mount.clone(source) as made:
        made.attach(point)
        return id_of(made.fileno(), b"", HERE)


def by_turns(source: Path, point: Path, times: int, wrong: list[str]) -> int:
    """Mount, and unmount by id what was mounted; count what was refused because another one was on top."""
    covered = 0
    for _ in range(times):
        number = mount_one(source, point)
        while True:
            try:
                count = unmount(id=number, wait=30)
            except Gone as error:
                if "not on top" not in str(error):
                    wrong.append(f"somebody took {number} away: {error}")
                    break
                covered += 1
            except Busy as error:
                wrong.append(str(error))
                break
            except OSError as error:
                wrong.append(f"{error} {getattr(error, 'hint', '')}")
                break
            else:
                if count != 1:
                    wrong.append(f"{number}: {count}")
                break
    return covered


def test_threads_at_one_stack(scratch: Path) -> None:
    need_unique_ids()
    source, point = tmpfs(scratch / "source"), tmpfs(scratch / "point")
    bottom = lookup(point).id
    wrong: list[str] = []
    threads = [threading.Thread(target=by_turns, args=(source, point, 3, wrong)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert lookup(point).id == bottom
    assert unmount(id=bottom) == 1
    assert unmount(source) == 1
    assert not is_mount(point)


def test_processes_at_one_stack(scratch: Path) -> None:
    need_unique_ids()
    source, point = tmpfs(scratch / "source"), tmpfs(scratch / "point")
    bottom = lookup(point).id
    pids = []
    for _ in range(6):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                wrong: list[str] = []
                by_turns(source, point, 100, wrong)
                os.write(2, "\n".join(wrong).encode())
                status = len(wrong) > 0
            finally:
                os._exit(status)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * 6
    assert lookup(point).id == bottom
    assert unmount(id=bottom) == 1
    assert unmount(source) == 1


def test_a_directory_that_is_locked_for_something_else_is_waited_for_and_no_obstacle(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_unique_ids()
    monkeypatch.setattr(exact, "_LOCK_SECONDS", 0.1)
    point = tmpfs(scratch / "point")
    fd = os.open(scratch, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with watching(Watch()) as watch:
            assert unmount(id=lookup(point).id) == 1
        assert watch.names.count("flock") > 3
    finally:
        os.close(fd)


@pytest.mark.parametrize("by_id", [True, False])
def test_one_of_many_at_one_mount_takes_it(scratch: Path, *, by_id: bool) -> None:
    if by_id:
        need_unique_ids()
    point = tmpfs(scratch / "point")
    number = lookup(point).id
    counts: list[int] = []
    start = threading.Barrier(20)

    def act() -> None:
        start.wait()
        try:
            counts.append(unmount(id=number, wait=20) if by_id else unmount(point, wait=20))
        except Gone:
            counts.append(0)

    threads = [threading.Thread(target=act) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counts) == [0] * 19 + [1]
    assert not is_mount(point)


def test_a_child_that_was_forked_meanwhile_can_unmount(scratch: Path) -> None:
    need_unique_ids()
    point = tmpfs(scratch / "point")
    number = lookup(point).id
    reached, go = threading.Event(), threading.Event()
    told: list[str] = []

    def decide(_number: int, name: str, _arguments: object) -> int:
        if name == "umount2" and threading.current_thread() is thread:
            reached.set()
            go.wait(20)
        return 0

    def act() -> None:
        try:
            unmount(id=number, wait=20)
        except Gone as error:
            told.append(str(error))

    thread = threading.Thread(target=act)
    with watching(Watch(decide)):
        thread.start()
        try:
            assert reached.wait(20)
            assert in_child(lambda: unmount(id=number, wait=20)) == 1
        finally:
            go.set()
            thread.join()
    assert told == [f"no mount {number} in this namespace any more"]
    assert not is_mount(point)


def test_threads_by_path_leave_nothing_and_each_takes_one(place: Path) -> None:
    source, point = tmpfs(place / "source"), tmpfs(place / "point")
    bottom = lookup(point).id_old
    wrong: list[str] = []

    def by_path() -> None:
        for _ in range(3):
            mount_one(source, point)
            try:
                if (count := unmount(point, wait=30)) != 1:
                    wrong.append(str(count))
            except (Busy, Gone, OSError) as error:
                wrong.append(repr(error))

    threads = [threading.Thread(target=by_path) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left = 0
    while lookup(point).id_old != bottom:
        left += unmount(point)
    assert left == len(wrong)  # each that failed said so, and each other took one
