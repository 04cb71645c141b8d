"""Nobody who reads through the path meanwhile meets anything but one of the versions, whole, in any namespace."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mountfd import Feature, has
from mountfd.lowlevel import calls
from mountfd.verbs.replace import replace
from tests.support.layers import fill
from tests.support.mounting import MNT_DETACH, MS_REC, MS_SHARED, MS_SLAVE, change, tmpfs, umount
from tests.support.need import need

need(has(Feature.MOVE_MOUNT_BENEATH) and has(Feature.STATMOUNT), "MOVE_MOUNT_BENEATH and statmount(2) (Linux 6.8)")

CLONE_NEWNS = 0x20000
NAMESPACES = 20
REPLACEMENTS = 60


class Readers:
    """Processes that do one thing over and over until told to stop; each says what it saw."""

    def __init__(self) -> None:
        """Begin with none."""
        self._stop, self._stopping = os.pipe()
        self._ready, self._told = os.pipe()
        self._results: list[tuple[int, int]] = []

    def start(self, look: Callable[[], str], *, namespace: bool = False) -> None:
        """Start one, in a mount namespace of its own that receives what happens here, or in this one."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                if namespace:
                    calls.unshare(CLONE_NEWNS)
                    calls.mount(None, b"/", None, MS_REC | MS_SLAVE, None)
                os.close(self._stopping)
                os.set_blocking(self._stop, False)
                os.write(writing, self._loop(look).encode())
                status = 0
            except BaseException:  # noqa: BLE001 (told to the test)
                os.write(writing, traceback.format_exc().encode())
            finally:
                os._exit(status)
        os.close(writing)
        self._results.append((pid, reading))
        assert os.read(self._ready, 1) == b"x"

    def _loop(self, look: Callable[[], str]) -> str:
        look()
        os.write(self._told, b"x")
        count, seen = 0, set()
        while True:
            seen.add(look())
            count += 1
            if count % 16 == 0:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._stop, 1)
                    return f"{count} {','.join(sorted(seen))}"

    def stop(self) -> list[tuple[int, set[str]]]:
        """End them; give how often each looked, and what it saw."""
        os.close(self._stopping)
        found = []
        for pid, reading in self._results:
            with os.fdopen(reading) as pipe:
                text = pipe.read()
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, text
            count, _, seen = text.partition(" ")
            found.append((int(count), set(seen.split(","))))
        for fd in (self._stop, self._ready, self._told):
            os.close(fd)
        self._results = []
        return found


@pytest.fixture
def home(scratch: Path) -> Iterator[Path]:
    """Give a shared mount with two versions, and a target where the first stands upon the base."""
    place = fill(tmpfs(scratch / "home"), {"t/base": ""})
    change(place, MS_SHARED)
    for version in ("v1", "v2"):
        fill(scratch / version, {"a": version, "b": version, "sub/base": "", "second/base": "", "file": "base"})
    calls.mount(bytes(scratch / "v1"), bytes(place / "t"), None, 0x1000, None)
    yield place
    umount(place, MNT_DETACH)


def whole(target: Path) -> Callable[[], str]:
    """Make a function that reads two files of the one directory that a path led to, which must agree."""

    def look() -> str:
        directory = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
        try:
            texts = set()
            for name in ("a", "b"):
                file = os.open(name, os.O_RDONLY, dir_fd=directory)
                texts.add(os.read(file, 10).decode())
                os.close(file)
        finally:
            os.close(directory)
        (text,) = texts
        return text

    return look


def test_readers_in_many_namespaces_see_one_version_or_the_other(home: Path) -> None:
    readers = Readers()
    for _ in range(NAMESPACES):
        readers.start(whole(home / "t"), namespace=True)
    for number in range(REPLACEMENTS):
        replace(home / "t", home.parent / f"v{2 - number % 2}").close()
    found = readers.stop()
    assert len(found) == NAMESPACES
    assert all(count >= 16 and seen <= {"v1", "v2"} for count, seen in found)
    assert set().union(*(seen for _, seen in found)) == {"v1", "v2"}


def test_by_hand_readers_do_see_the_base(home: Path) -> None:
    """So the readers of the test before would have seen it."""

    def look() -> str:
        return "base" if os.access(home / "t/base", os.F_OK) else "version"

    readers = Readers()
    readers.start(look, namespace=True)
    for _ in range(400):
        umount(home / "t", MNT_DETACH)
        calls.mount(bytes(home.parent / "v1"), bytes(home / "t"), None, 0x1000, None)
    ((_, seen),) = readers.stop()
    assert "base" in seen


@pytest.mark.parametrize("namespace", [False, True])
def test_mounts_below_are_reachable_all_the_time(home: Path, namespace: bool) -> None:
    target = home / "t"
    fill(tmpfs(target / "sub"), {"kept": "kept"})
    fill(tmpfs(target / "sub/nested"), {"deep": "deep"})
    calls.mount(bytes(home.parent / "v2/a"), bytes(target / "file"), None, 0x1000, None)
    for text in ("lower", "upper"):
        fill(tmpfs(target / "second"), {"which": text})
    device = os.stat(target / "sub").st_dev

    def look() -> str:
        paths = ("sub/kept", "sub/nested/deep", "file", "second/which")
        return "+".join((target / path).read_text() for path in paths) + f"@{os.stat(target / 'sub').st_dev}"

    readers = Readers()
    for _ in range(3):
        readers.start(look, namespace=namespace)
    with open(target / "sub/kept") as file:
        for number in range(20):
            replace(target, home.parent / f"v{2 - number % 2}").close()
        assert os.fstat(file.fileno()).st_dev == device
    found = readers.stop()
    assert [seen for _, seen in found] == [{f"kept+deep+v2+upper@{device}"}] * 3
