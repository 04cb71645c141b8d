"""One assembly, and a stock of what this process has: the same before and after each failure."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import mountfd
from mountfd import IdMap, Layer, Overlay
from mountfd.lowlevel import drop_caches
from tests.support import private
from tests.support.inject import Watch, killing, watching
from tests.support.layers import SHIFTED, content, layers, pair

EVERYTHING = {"common": "0", "own0": "0", "own1": "1", "own2": "2"}


def describe(scratch: Path) -> Overlay:
    """Describe an overlay that takes every way: a shared clone, another idmap, a symlink, an idmapped upper layer."""
    one, two, three = layers(scratch, 3)
    (scratch / "link").symlink_to(two)
    upper, work = pair(scratch)
    (scratch / "here").mkdir()
    return Overlay(
        [one, scratch / "link", Layer(three, IdMap.parse("0:5:1"))], Layer(upper, SHIFTED), work, idmap=SHIFTED
    )


def act(overlay: Overlay, point: Path) -> None:
    """Assemble and attach."""
    drop_caches()
    with mountfd.assemble(overlay) as root:
        root.attach(point)


def undo(point: Path) -> None:
    """Look at what was attached, and take it away again."""
    with mountfd.Mount.open(point) as root:
        assert content(root) == EVERYTHING
    assert private.unmounted(point)


def stock() -> tuple[list[str], bytes, set[str]]:
    """Give descriptors, mounts and child processes."""
    drop_caches()
    gc.collect(0)
    fds = sorted(os.listdir("/proc/self/fd"))
    children = set()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError):  # a thread that has ended meanwhile
            children.update(Path(f"/proc/self/task/{task}/children").read_text().split())
    return fds, Path("/proc/self/mountinfo").read_bytes(), children


def killed_at_each_call(
    act: Callable[[], object], undo: Callable[[], object] = lambda: None, *, otherwise: tuple[int, ...] = ()
) -> Iterator[str]:
    """Kill a child of this process at each call of what it does, in turn; give the call's name after each.

    Arguments: act; undo, takes away what one that wasn't killed has done; otherwise, the statuses that a child may end
    with as well, because a process of its own was killed. Nothing may be kept in this process by it.
    """
    with watching(Watch()) as seen:
        act()
    undo()
    before = stock()
    for number, name in enumerate(seen.names, 1):
        child = os.fork()
        if child == 0:
            try:
                with watching(killing(number)):
                    act()
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (-signal.SIGKILL, *otherwise), name
        yield name
        assert stock() == before, name
