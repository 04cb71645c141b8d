"""Waiting for mount events: loops, threads, event loops; the recipes of docs/watch.md."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import mountfd
from mountfd import Event
from mountfd.verbs.watch import Events
from tests.support.mounting import both_routes, child, tmpfs, umount, watching

pytestmark = both_routes


def test_a_loop_waits_for_what_happens(route: str, scratch: Path) -> None:
    with watching(route, under=scratch) as events, child(lambda: tmpfs(scratch / "a")):
        for event in events:
            assert event.kind == "attach"
            break
    umount(scratch / "a")


def test_select_and_poll_see_it_as_readable_until_it_is_read(route: str, scratch: Path) -> None:
    with watching(route, under=scratch) as events:
        assert readable(events) == [False] * 3
        tmpfs(scratch / "a")
        until_readable(events)
        assert readable(events) == readable(events) == [True] * 3
        assert len(events.read()) == 1
        assert readable(events) == [False] * 3
        umount(scratch / "a")
        until_readable(events)
        assert len(events.read()) == 1


def readable(events: Events) -> list[bool]:
    """Ask select(2), poll(2), and an epoll(7) that meets it only now."""
    poll = select.poll()
    poll.register(events, select.POLLIN)
    with select.epoll() as epoll:
        epoll.register(events, select.EPOLLIN)
        return [bool(select.select([events], [], [], 0)[0]), bool(poll.poll(0)), bool(epoll.poll(0))]


def until_readable(events: Events) -> None:
    assert select.select([events], [], [], 60)[0]


def test_a_change_before_the_descriptor_is_asked_for_is_not_lost(route: str, scratch: Path) -> None:
    with watching(route, under=scratch) as events:
        tmpfs(scratch / "a")
        until_readable(events)
        umount(scratch / "a")
        events.read()


def test_epoll_is_told_again_and_again(route: str, scratch: Path) -> None:
    with watching(route, under=scratch) as events, select.epoll() as epoll:
        epoll.register(events, select.EPOLLIN | select.EPOLLONESHOT)  # as trio does
        for kind in ["attach", "detach"] * 50:
            if kind == "attach":
                tmpfs(scratch / "a")
            else:
                umount(scratch / "a")
            assert epoll.poll(60)
            assert [event.kind for event in events.read()] == [kind]
            epoll.modify(events, select.EPOLLIN | select.EPOLLONESHOT)


# --- the recipes ---------------------------------------------------------------------------------------------------
def recipe(heading: str, name: str) -> Any:
    """Give a function of docs/watch.md."""
    text = (Path(__file__).parents[2] / "docs" / "watch.md").read_text()
    block = text.partition(f"### {heading}\n")[2].partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(block, names)  # noqa: S102 (the documentation's own)
    return names[name]


def test_select_recipe(route: str, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", f"watch:{route}")
    with contextlib.closing(recipe("select, poll, epoll", "changes")(0, under=scratch)) as changes:
        assert next(changes) == []
        tmpfs(scratch / "a")
        assert [event.kind for event in next(filter(None, changes))] == ["attach"]
        umount(scratch / "a")
        assert [event.kind for event in next(filter(None, changes))] == ["detach"]


def test_asyncio_recipe(route: str, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", f"watch:{route}")

    async def main() -> list[str]:
        async with contextlib.aclosing(recipe("asyncio", "mount_events")(under=scratch)) as stream:
            waiting = asyncio.create_task(anext(stream))
            await asyncio.sleep(0)  # it waits now
            tmpfs(scratch / "a")
            kinds = [(await waiting).kind]
            umount(scratch / "a")
            return [*kinds, (await anext(stream)).kind]

    assert asyncio.run(main()) == ["attach", "detach"]


def test_trio_recipe(route: str, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trio: Any = pytest.importorskip("trio", reason="missing: trio")
    all_wait: Any = pytest.importorskip("trio.testing").wait_all_tasks_blocked
    monkeypatch.setenv("MOUNTFD_ROUTE", f"watch:{route}")
    kinds: list[str] = []

    async def collect() -> None:
        async with contextlib.aclosing(recipe("trio", "mount_events")(under=scratch)) as stream:
            async for event in stream:
                kinds.append(event.kind)
                if event.kind == "detach":
                    return
                umount(scratch / "a")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect)
            await all_wait()
            tmpfs(scratch / "a")

    trio.run(main)
    assert kinds == ["attach", "detach"]


# --- threads and signals -------------------------------------------------------------------------------------------
def test_closing_in_another_thread_ends_the_loops(route: str, scratch: Path) -> None:
    with watching(route, under=scratch) as events:
        seen: list[Event] = []
        threads = [threading.Thread(target=lambda: seen.extend(events)) for _ in range(3)]
        for thread in threads:
            thread.start()
        tmpfs(scratch / "a")  # whoever waits is woken, and waits again
        umount(scratch / "a")
        events.close()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()


def test_each_event_is_given_to_one_thread(route: str, scratch: Path) -> None:
    with watching(route, under=scratch) as events:
        seen: list[Event] = []
        threads = [threading.Thread(target=lambda: seen.append(next(events))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for name in "abcd":
            tmpfs(scratch / name)
        for thread in threads:
            thread.join(60)
    assert sorted(str(event.info and event.info.point) for event in seen) == [str(scratch / name) for name in "abcd"]
    for name in "abcd":
        umount(scratch / name)


def test_a_loop_goes_on_when_another_thread_asks_for_the_descriptor(route: str, scratch: Path) -> None:
    with watching(route, under=scratch) as events:
        seen: list[Event] = []
        thread = threading.Thread(target=lambda: seen.append(next(events)))
        thread.start()
        events.fileno()
        tmpfs(scratch / "a")
        thread.join(60)
    assert [event.kind for event in seen] == ["attach"]
    umount(scratch / "a")


def test_a_signal_can_end_the_wait(route: str) -> None:
    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        with watching(route) as events, pytest.raises(InterruptedError):
            next(events)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert events.closed


def test_a_forgotten_watch_is_closed_with_a_warning(route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with watching(route) as first:
        first.fileno()
    monkeypatch.setenv("MOUNTFD_ROUTE", f"watch:{route}")
    events = mountfd.watch()
    events.fileno()
    with pytest.warns(ResourceWarning, match=r"unclosed mountfd\.watch"):
        del events


def test_an_open_watch_does_not_keep_the_interpreter(route: str) -> None:
    program = "import mountfd; events = mountfd.watch(); print(events.fileno() > 2)"
    environment = {**os.environ, "MOUNTFD_ROUTE": f"watch:{route}"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "True\n"
