"""Mounts made of descriptions, and what the table says of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import mountfd
from mountfd import MountSpec
from mountfd.lowlevel import calls
from tests.support.layers import line_of, table

T = TypeVar("T")
ROUTES = ("descriptor", "string")
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8


def put(kind: str, source: str | Path, target: Path, words: Iterable[str] | str = (), below: str = "") -> Path:
    """Mount a description of words on a directory that is made if need be."""
    target.mkdir(exist_ok=True)
    mountfd.mount(MountSpec(kind, source, below, words), target)
    return target / below


def vfs(point: Path) -> set[str]:
    """Give the options of the mount that stands uppermost on a point."""
    return set(os.fsdecode(line_of(escaped(point))[5]).split(","))


def fs(point: Path) -> set[str]:
    """Give the options of its filesystem."""
    return set(os.fsdecode(line_of(escaped(point))[-1]).split(","))


def fstype(point: Path) -> str:
    """Give the type of its filesystem."""
    return os.fsdecode(line_of(escaped(point))[-3])


def source(point: Path) -> str:
    """Give its source."""
    return os.fsdecode(line_of(escaped(point))[-2])


def tags(point: Path) -> set[str]:
    """Give its propagation: shared, master, unbindable; nothing for private."""
    words = line_of(escaped(point))[6:]
    return {os.fsdecode(word).partition(":")[0] for word in words[: words.index(b"-")]}


def count(point: Path) -> int:
    """Count the mounts that stand on a point, or anywhere below it."""
    raw = os.fsencode(escaped(point))
    return sum(line.split(b" ")[4] == raw or line.split(b" ")[4].startswith(raw + b"/") for line in table())


def escaped(point: Path) -> Path:
    """Write a path as the table does."""
    text = os.fspath(point).replace("\\", "\\134")
    return Path(text.replace(" ", "\\040").replace("\n", "\\012").replace("\t", "\\011"))


@contextmanager
def cleared(place: Path) -> Iterator[Path]:
    """Take away, at the end, every mount that stands below a directory."""
    try:
        yield place
    finally:
        clear(place)


def clear(place: Path) -> None:
    """Take away every mount that stands below a directory."""
    raw = os.fsencode(place) + b"/"
    # One at a time: what is taken away here may go from elsewhere too.
    while points := [line.split(b" ")[4] for line in table() if line.split(b" ")[4].startswith(raw)]:
        calls.umount2(_unescaped(points[-1]), MNT_DETACH | UMOUNT_NOFOLLOW)


def in_user_namespace(act: Callable[[], T]) -> Callable[[], T]:
    """Make a function that acts as root of a new user and mount namespace; what came along is locked there."""

    def acted() -> T:
        calls.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: who has changed its ids is closed to itself, too
        calls.unshare(CLONE_NEWUSER | CLONE_NEWNS)
        for name, text in (("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")):
            Path(f"/proc/self/{name}").write_text(text)
        return act()

    return acted


def _unescaped(raw: bytes) -> bytes:
    for code, byte in ((b"\\040", b" "), (b"\\012", b"\n"), (b"\\011", b"\t"), (b"\\134", b"\\")):
        raw = raw.replace(code, byte)
    return raw


def owner_of(path: Path) -> tuple[int, int]:
    """Give user and group."""
    return path.stat().st_uid, path.stat().st_gid
