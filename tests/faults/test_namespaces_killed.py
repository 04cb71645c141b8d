"""Whoever is killed at whichever call: no mount, no process and no file stays."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import mountfd
from mountfd import Gone, Mount, MountfdError, MountNamespace, UserNamespace
from mountfd.lowlevel import calls, drop_caches
from mountfd.verbs.handing import lock_mount
from tests.faults.stock import killed_at_each_call, stock
from tests.faults.test_killed import no_process_lives_on, orphanage
from tests.support.inject import Watch, watching
from tests.support.layers import SHIFTED
from tests.support.namespaces import ROUTES, bare_root, forced
from tests.support.need import need
from tests.support.program import eventually

__all__ = ["orphanage"]


def showing(place: Path) -> int:
    """Count the mount namespaces of the machine that a filesystem is mounted in."""
    status, found = place.stat(), 0
    device = os.major(status.st_dev), os.minor(status.st_dev)
    with MountNamespace.current() as own:
        for namespace in own.others():
            with namespace, contextlib.suppress(Gone):
                found += any(mount.dev == device for mount in mountfd.mounts(namespace=namespace, fields=("dev",)))
    return found


def nothing_lives_on(act: Callable[[], None], place: Path, *, least: int) -> None:
    act()
    assert eventually(lambda: showing(place) == 1)
    calls = 0
    # 1: it was the process that crosses, which counts on by itself, and this one said so.
    for name in killed_at_each_call(act, otherwise=(1,)):
        calls += 1
        assert no_process_lives_on(), (calls, name)
        # A busy machine drops what a process had some time after it tells of its end.
        assert eventually(lambda: showing(place) == 1), (calls, name)
    assert calls > least


@pytest.mark.parametrize("route", ROUTES)
def test_while_one_is_made_and_a_command_runs(route: str, scratch: Path, orphanage: None) -> None:
    root = bare_root(scratch / "root")

    def act() -> None:
        drop_caches()
        with MountNamespace.new(root) as made:
            assert made.run(["/bin/true"]) == 0

    with forced(route):
        nothing_lives_on(act, scratch, least=6)


@pytest.mark.usefixtures("real_root")
def test_while_one_is_made_for_another_user_namespace(scratch: Path, orphanage: None) -> None:
    with UserNamespace.new(SHIFTED) as owner:

        def act() -> None:
            drop_caches()
            MountNamespace.new(scratch, owner=owner).close()

        nothing_lives_on(act, scratch, least=15)


@pytest.mark.usefixtures("real_root")
@pytest.mark.parametrize("name", ["openat", "setns", "unshare", "open_tree"])
def test_the_child_that_crosses_is_killed(scratch: Path, name: str) -> None:
    need(mountfd.has(mountfd.Feature.CLONE_DETACHED), "clones of detached mounts (Linux 6.15)")
    parent = os.getpid()

    def decide(_count: int, called: str, _arguments: tuple[object, ...]) -> int:
        if called == name and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    with UserNamespace.new(SHIFTED) as owner, Mount.clone(scratch) as mount:
        lock_mount(mount, owner).close()
        before = stock()
        with watching(Watch(decide)), pytest.raises(MountfdError, match="was killed"):
            lock_mount(mount, owner)
        assert stock() == before


@pytest.mark.usefixtures("real_root")
def test_an_exception_of_a_handler_while_the_child_crosses(scratch: Path) -> None:
    class Alarm(Exception):
        pass

    def ring(*_: object) -> None:
        raise Alarm

    parent = os.getpid()

    def decide(_count: int, called: str, _arguments: tuple[object, ...]) -> int:
        if called == "unshare" and os.getpid() != parent:
            os.kill(parent, signal.SIGALRM)
        return 0

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with UserNamespace.new(SHIFTED) as owner:
            MountNamespace.new(scratch, owner=owner).close()
            held = stock()
            with watching(Watch(decide)), pytest.raises(Alarm):
                MountNamespace.new(scratch, owner=owner)
            assert stock() == held
    finally:
        signal.signal(signal.SIGALRM, before)
    assert calls.watcher is None
