"""Each call of a replacement fails in turn, and the process is killed at each: the old or the new one shows, whole."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from errno import EBUSY, EINTR, EINVAL, EMFILE, ENOENT, ENOMEM, EPERM, errorcode
from pathlib import Path

import pytest

from mountfd import Feature, KernelError, MountfdError, has, mounts
from mountfd.abi import features
from mountfd.lowlevel import calls
from mountfd.verbs.replace import replace
from tests.faults.stock import stock
from tests.support.inject import Watch, failing, killing, watching
from tests.support.layers import fill
from tests.support.mounting import MNT_DETACH, MS_SHARED, change, tmpfs, umount
from tests.support.need import need

need(has(Feature.MOVE_MOUNT_BENEATH) and has(Feature.STATMOUNT), "MOVE_MOUNT_BENEATH and statmount(2) (Linux 6.8)")

ERRNOS = pytest.mark.parametrize("errno", [ENOMEM, EPERM, EINVAL, EBUSY, ENOENT, EINTR, EMFILE], ids=errorcode.get)


@pytest.fixture(params=["private", "shared"])
def home(scratch: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Give a target with mounts below, one of them a stack, upon a private or a shared mount; and two versions."""
    place = fill(tmpfs(scratch / "home"), {"t/base": ""})
    if request.param == "shared":
        change(place, MS_SHARED)
    for version in ("v1", "v2"):
        fill(scratch / version, {"v": version, "sub/base": "", "second/base": ""})
    calls.mount(bytes(scratch / "v1"), bytes(place / "t"), None, 0x1000, None)
    fill(tmpfs(place / "t/sub"), {"kept": "kept"})
    fill(tmpfs(place / "t/sub/nested"))
    yield place
    umount(place, MNT_DETACH)


def act(home: Path, version: str) -> None:
    replace(home / "t", home.parent / version).close()


def shows(home: Path) -> str:
    kept = home / "t/sub/kept"
    return (home / "t/v").read_text() + (kept.read_text() if kept.exists() else "")


def points(home: Path) -> list[str]:
    """Give the places of all mounts there: each as often as something is stacked on it."""
    return sorted(row.point or "" for row in mounts(under=home, fields=("point",)))


@pytest.mark.parametrize("way", ["with mounts below", "before 6.15", "plain"])
@ERRNOS
def test_each_call_fails(home: Path, errno: int, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = "kept"
    if way == "plain":
        umount(home / "t/sub", MNT_DETACH)
        kept = ""
    if way == "before 6.15":
        found = dict.fromkeys(("MOUNT_INSIDE_DETACHED", "CLONE_DETACHED"), False)
        monkeypatch.setattr(features, "_found", {**features._found, **found})
        fill(tmpfs(home / "t/second"))
        fill(tmpfs(home / "t/second"))
    act(home, "v2")
    act(home, "v1")
    before, fds, number, refused, showing = points(home), stock()[0], 0, 0, "v1"
    while True:
        number += 1
        wanted = "v2" if showing == "v1" else "v1"
        done = False
        with watching(failing(number, errno)) as watch:
            try:
                act(home, wanted)
                done = True
            except MountfdError:
                refused += 1
        at = (number, watch.hit)
        assert shows(home) in ({wanted + kept} if done else {showing + kept, wanted + kept}), at
        assert points(home) == before, at
        assert stock()[0] == fds, at
        showing = shows(home)[:2]
        if watch.hit is None:
            break
    assert number > (16 if way == "plain" else 20)
    # A call that was interrupted is made again; of a few the answer isn't needed.
    assert refused == 0 if errno == EINTR else refused > (10 if way == "plain" else 15), (refused, number)


def test_where_the_old_one_cannot_be_taken_away_it_shows_and_the_next_one_ends_it(home: Path) -> None:
    before = points(home)
    with (
        watching(Watch(lambda _count, name, _arguments: EPERM if name == "umount2" else 0)) as watch,
        pytest.raises(KernelError),
    ):
        act(home, "v2")
    assert watch.names.count("umount2") == 2
    assert shows(home) == "v1kept"
    act(home, "v1")
    assert (shows(home), points(home)) == ("v1kept", before)


def killed_at(number: int, home: Path, version: str) -> None:
    child = os.fork()
    if child == 0:
        try:
            with watching(killing(number)):
                act(home, version)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("way", ["with mounts below", "plain"])
def test_killed_at_each_call(home: Path, way: str) -> None:
    kept = "kept"
    if way == "plain":
        umount(home / "t/sub", MNT_DETACH)
        kept = ""
    act(home, "v1")
    before = points(home)
    with watching(Watch()) as seen:
        act(home, "v2")
    showing, half = "v2", 0
    for number in range(1, len(seen.names) + 1):
        wanted = "v2" if showing == "v1" else "v1"
        killed_at(number, home, wanted)
        at = (number, seen.names[number - 1])
        assert shows(home) in {showing + kept, wanted + kept}, at
        half += points(home) != before
        act(home, wanted)
        assert (shows(home), points(home)) == (wanted + kept, before), at
        showing = wanted
    # Only between the tuck and the switch there is one mount more.
    assert 0 < half < 8


def test_an_interruption_at_each_call_leaves_no_more_than_a_kill(home: Path) -> None:
    """Ctrl-C raises wherever Python is."""
    act(home, "v1")
    before, fds, number, showing = points(home), stock()[0], 0, "v1"
    while True:
        number += 1
        wanted = "v2" if showing == "v1" else "v1"

        def decide(count: int, _name: str, _arguments: object, number: int = number) -> int:
            if count == number:
                signal.raise_signal(signal.SIGINT)
            return 0

        interrupted = False
        watch = Watch(decide)
        try:
            with watching(watch):
                act(home, wanted)
        except KeyboardInterrupt:
            interrupted = True
        assert shows(home) in {f"{showing}kept", f"{wanted}kept"}, number
        assert points(home) == before, number
        assert stock()[0] == fds, number
        showing = shows(home)[:2]
        if not interrupted:
            break
    assert number > 20
