"""Nothing is lost without a word, however fast mounts come and go."""

from __future__ import annotations

import fcntl
import os
import termios
from array import array
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

import mountfd
from mountfd import Event
from mountfd.lowlevel import calls
from tests.support.mounting import bind, both_routes, child, tmpfs, umount, watching
from tests.support.need import need, need_real_root

PAIRS = int(os.environ.get("MOUNTFD_FLOOD", "20000"))
QUEUE = 16384  # fs.fanotify.max_queued_events as the kernel ships it
LAST = "the last one"


def standing() -> set[int]:
    return {mount.id for mount in mountfd.mounts(fields=("id",)) if mount.id is not None}


def applied(state: set[int], events: Iterable[Event]) -> set[int]:
    """Do to a set of ids what the events say; each must fit the state that it comes upon."""
    state = set(state)
    for event in events:
        if event.kind == "attach":
            assert event.id is not None
            assert event.id not in state
            state.add(event.id)
        elif event.kind == "detach":
            assert event.id in state
            state.remove(event.id)
    return state


def flood(point: Path, last: Path, pairs: int = PAIRS) -> None:
    """Attach and detach as fast as one process can; then attach what says that it is over."""
    raw = os.fsencode(point)
    for _ in range(pairs):
        calls.mount(raw, raw, None, 0x1000, None)
        calls.umount2(raw, 0)
    calls.mount(raw, os.fsencode(last), None, 0x1000, None)


def until_the_last(events: Iterable[Event]) -> list[Event]:
    seen = []
    for event in events:
        seen.append(event)
        if event.kind == "attach" and event.info is not None and (event.info.point or "").endswith(LAST):
            return seen
    raise AssertionError("the watch ended")


@pytest.fixture
def places(scratch: Path) -> tuple[Path, Path]:
    point, last = scratch / "point", scratch / LAST
    point.mkdir()
    last.mkdir()
    return point, last


@both_routes
def test_a_flood_is_accounted_for(route: str, places: tuple[Path, Path]) -> None:
    before = standing()
    with watching(route) as events:
        with child(lambda: flood(*places)):
            seen = until_the_last(events)
        seen += events.read()
    assert applied(before, seen) == standing()
    kinds = Counter(event.kind for event in seen)
    if route == "fanotify" and not kinds["overflow"]:
        assert kinds == {"attach": PAIRS + 1, "detach": PAIRS}
    umount(places[1])


@pytest.mark.skipif(os.geteuid() != 0, reason="missing: root, whose queue can be without a limit")
def test_an_unlimited_queue_keeps_every_step(places: tuple[Path, Path]) -> None:
    need_real_root()
    pairs = QUEUE // 2 + 500
    before = standing()
    with watching("fanotify", unlimited=True) as events:
        flood(*places, pairs)
        seen = events.read()
        assert Counter(event.kind for event in seen) == {"attach": pairs + 1, "detach": pairs}
        assert events.read() == []
    assert applied(before, seen) == standing()
    umount(places[1])


def test_an_overflow_is_told_and_then_the_difference(places: tuple[Path, Path]) -> None:
    point, last = places
    need(int(Path("/proc/sys/fs/fanotify/max_queued_events").read_text()) == QUEUE, "the queue's usual length")
    tmpfs(gone := point.parent / "gone")
    before = standing()
    with watching("fanotify") as events:
        flood(point, last, QUEUE // 2 + 10)  # the last one is dropped, and so is what follows
        umount(gone)
        stays = tmpfs(point.parent / "stays")
        seen = events.read()
        assert applied(before, seen) == standing()
        tail = [(event.kind, event.info.point if event.info else None) for event in seen[QUEUE:]]
        # An attach without its detach may be known from before the overflow.
        assert tail[0] == ("overflow", None)
        assert ("detach", str(gone)) in tail
        assert tail[-2:] == [("attach", str(last)), ("attach", str(stays))]
        assert events.read() == []
        umount(stays)
        assert [(event.kind, event.id) for event in events.read()] == [("detach", seen[-1].id)]
    umount(last)


def test_an_overflow_while_the_flood_goes_on(places: tuple[Path, Path]) -> None:
    """Begin to read when the queue has run over: from then on notices are queued behind what says so."""
    before = standing()
    reading, writing = os.pipe()

    def two_floods() -> None:
        flood(*places, QUEUE)
        umount(places[1])
        os.write(writing, b"1")
        flood(*places)

    with watching("fanotify") as events, child(two_floods):
        os.read(reading, 1)
        seen = until_the_last(events)
        # Its own attach may have been told by the comparison; then its notices still come.
        seen += events.read()
    os.close(reading)
    os.close(writing)
    assert "overflow" in {event.kind for event in seen}
    assert applied(before, seen) == standing()
    umount(places[1])


def test_an_attach_behind_an_overflow_whose_detach_was_dropped(places: tuple[Path, Path]) -> None:
    """Make room behind the overflow while it is unread, fill it with attaches, and have their detaches dropped."""
    point, last = places
    before = standing()

    def queued() -> int:
        answer = array("i", [0])
        fcntl.ioctl(events.fileno(), termios.FIONREAD, answer)
        return answer[0] // 24

    with watching("fanotify") as events:
        flood(point, last, QUEUE)
        umount(last)
        assert queued() > QUEUE // 2
        os.read(events.fileno(), 80 * 1000)  # attaches with their detaches
        while queued() < QUEUE - 4:
            umount(bind(point, point))
        short_lived = [tmpfs(point.parent / f"short-lived {number}") for number in range(8)]
        for place in short_lived:
            umount(place)
        seen = [*events.read(), *events.read()]
        assert "overflow" in {event.kind for event in seen}
        assert applied(before, seen) == standing() == before
