"""The n-th call fails, for every n and every plausible errno: a proper error or a proper namespace, nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from errno import EBUSY, EINTR, EINVAL, EMFILE, ENOMEM, EPERM, errorcode
from pathlib import Path

import pytest

import mountfd
from mountfd import KernelError, Mount, MountfdError, MountNamespace, Propagation, UserNamespace
from mountfd.lowlevel import drop_caches
from mountfd.verbs.handing import lock_mount
from tests.faults.stock import stock
from tests.support.inject import Watch, failing, watching
from tests.support.layers import SHIFTED
from tests.support.mounting import umount
from tests.support.namespaces import ROUTES, bare_root, forced, points
from tests.support.need import need

Act = Callable[[], None]
ERRNOS = pytest.mark.parametrize("errno", [ENOMEM, EPERM, EINVAL, EBUSY, EINTR, EMFILE], ids=errorcode.get)


def each_call_fails(act: Act, errno: int, *, least: int, undo: Act = lambda: None) -> None:
    """Do something with its first call failing, with its second, and so on; look at what is left each time."""
    act()
    undo()
    before, number = stock(), 0
    while True:
        number += 1
        with watching(failing(number, errno)) as watch:
            try:
                act()
            except MountfdError:
                assert errno != EINTR  # an interrupted call is made again
        undo()
        assert stock() == before, (number, watch.hit)
        if watch.hit is None:
            break
    assert number > least


@ERRNOS
@pytest.mark.parametrize("route", ROUTES)
def test_made(route: str, scratch: Path, errno: int) -> None:
    root = bare_root(scratch / "root")

    def act() -> None:
        drop_caches()
        with MountNamespace.new(root, propagation=Propagation.SHARED) as made:
            assert made.call(lambda: Path("/bin/sh").exists())

    with forced(route):
        each_call_fails(act, errno, least=4 if route == "open_tree" else 12)


@ERRNOS
def test_run(scratch: Path, errno: int) -> None:
    with MountNamespace.new(bare_root(scratch / "root")) as made:

        def act() -> None:
            assert made.run(["/bin/sh", "-c", "exit 3"]) == 3

        each_call_fails(act, errno, least=3)


@ERRNOS
def test_attached(scratch: Path, errno: int) -> None:
    with MountNamespace.new(bare_root(scratch / "root")) as made:

        def act() -> None:
            with Mount.clone(scratch) as mount:
                made.attach(mount, "/mnt")

        def undo() -> None:
            if points(made) != ["/"]:
                made.call(lambda: umount(Path("/mnt")))

        each_call_fails(act, errno, least=4, undo=undo)


@ERRNOS
def test_kept(scratch: Path, errno: int) -> None:
    kept = scratch / "kept"

    def undo() -> None:
        if mountfd.is_mount(scratch) and kept.exists():
            umount(kept)
            kept.unlink()

    with MountNamespace.new(scratch) as made:
        each_call_fails(lambda: made.keep(kept), errno, least=2, undo=undo)


@pytest.mark.usefixtures("real_root")
@ERRNOS
def test_crossed(scratch: Path, errno: int) -> None:
    """Also the child's calls fail: it is forked with the watcher, and counts on."""
    with UserNamespace.new(SHIFTED) as owner:

        def act() -> None:
            drop_caches()
            with MountNamespace.new(scratch, owner=owner) as made:
                assert points(made) == ["/"]
            with Mount.clone(scratch) as mount, lock_mount(mount, owner) as locked:
                assert locked.id != mount.id

        each_call_fails(act, errno, least=20)


@pytest.mark.usefixtures("real_root")
@ERRNOS
@pytest.mark.parametrize("name", ["openat", "setns", "unshare", "open_tree"])
def test_each_of_the_childs_calls(scratch: Path, name: str, errno: int) -> None:
    """What fails in the child alone is raised here, in words, with its number and its name."""
    need(mountfd.has(mountfd.Feature.CLONE_DETACHED), "clones of detached mounts (Linux 6.15)")
    parent = os.getpid()

    def decide(_count: int, called: str, _arguments: tuple[object, ...]) -> int:
        return errno if called == name and os.getpid() != parent and errno != EINTR else 0

    with UserNamespace.new(SHIFTED) as owner, Mount.clone(scratch) as mount:
        lock_mount(mount, owner).close()
        before = stock()
        with watching(Watch(decide)):
            if errno == EINTR:
                lock_mount(mount, owner).close()
            else:
                with pytest.raises(KernelError) as caught:
                    lock_mount(mount, owner)
                assert (caught.value.errno, caught.value.syscall) == (errno, name)
        assert stock() == before
