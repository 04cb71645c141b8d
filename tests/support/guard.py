"""What a test could leave behind: taken before it, compared after it."""

from __future__ import annotations

import gc
import glob
import importlib
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

Snapshot = dict[str, set[str]]

# A killed process, a joined thread and a loop device go a moment after the call that ends them has returned.
PATIENCE = 2.0


def snapshot(below: Path) -> Snapshot:
    """Take stock of this process. Loop devices count when their file lies below that directory."""
    drop_garbage()
    stock = {kind: look() for kind, look in _LOOKS.items()}
    stock["loop device"] = {line for line in _loop_devices() if f" -> {below}/" in line}
    return stock


def left_behind(before: Snapshot, below: Path) -> list[str]:
    """Give a line for each thing that came or went since then, after having waited for what is on its way."""
    for _ in patiently():
        lines = _difference(before, snapshot(below))
        if not lines:
            break
    return lines


def drop_garbage() -> None:
    """Let go of what is only waiting to be freed, or kept on purpose."""
    _forget_failure()
    gc.collect()
    if "mountfd" in sys.modules:
        importlib.import_module("mountfd.lowlevel").drop_caches()


def patiently() -> Iterator[None]:
    """Try again and again, until patience is at an end; the first try is at once."""
    deadline = time.monotonic() + PATIENCE
    yield
    while time.monotonic() < deadline:
        time.sleep(0.01)
        yield


def _difference(before: Snapshot, after: Snapshot) -> list[str]:
    lines = []
    for kind in before:
        lines += [f"left behind: {kind} {thing}" for thing in sorted(after[kind] - before[kind])]
        if kind != "thread":  # one that was seen before may have been just about to end
            lines += [f"taken away: {kind} {thing}" for thing in sorted(before[kind] - after[kind])]
    return lines


def _forget_failure() -> None:
    """Free the frames of a test that failed: they hold its descriptors, and need not be told off for it."""
    traces = {"last_exc", "last_type", "last_value", "last_traceback"}.intersection(vars(sys))
    if traces:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            for name in traces:
                delattr(sys, name)
            gc.collect()


def _descriptors() -> set[str]:
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{number} -> {os.readlink(f'/proc/self/fd/{number}')}")
        except FileNotFoundError:
            continue  # the one that listdir itself had open
    return found


def _mounts() -> set[str]:
    return set(os.fsdecode(Path("/proc/self/mountinfo").read_bytes()).split("\n"))


def _loop_devices() -> set[str]:
    found = set()
    for path in glob.glob("/sys/block/loop*/loop/backing_file"):
        try:
            found.add(f"{path.split('/')[3]} -> {os.fsdecode(Path(path).read_bytes()).rstrip()}")
        except OSError:
            continue  # it was detached between the two calls
    return found


def _children() -> set[str]:
    found = set()
    for task in os.listdir("/proc/self/task"):
        try:
            for pid in Path(f"/proc/self/task/{task}/children").read_text().split():
                found.add(f"{pid} {_name_of(pid)}")
        except FileNotFoundError:
            continue  # that thread has ended meanwhile
    return found


def _threads() -> set[str]:
    names = {str(thread.native_id): thread.name for thread in threading.enumerate()}
    return {f"{task} {names.get(task, '(not started by Python)')}" for task in os.listdir("/proc/self/task")}


def _place() -> set[str]:
    return {os.readlink(f"/proc/self/{link}") for link in ("ns/mnt", "ns/user", "cwd", "root")}


def _name_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().rstrip()
    except OSError:
        return "(gone)"


_LOOKS: dict[str, Callable[[], set[str]]] = {
    "descriptor": _descriptors,
    "mount": _mounts,
    "child process": _children,
    "thread": _threads,
    "namespace or directory": _place,
}
