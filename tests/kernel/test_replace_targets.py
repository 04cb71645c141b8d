"""Whatever a target is called, whoever serves it and whoever may look into it: it is replaced, or put back, whole."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from errno import EINVAL, ENOENT, ENOMEM, EPERM
from pathlib import Path

import pytest

from mountfd import Feature, InvalidSpec, KernelError, Mount, MountfdError, has
from mountfd.lowlevel import calls
from mountfd.verbs.replace import replace
from tests.kernel.test_holders import another
from tests.kernel.test_ordinary_users import as_owner, place
from tests.kernel.test_replace import Stand, stand, table
from tests.support.inject import Watch, watching
from tests.support.layers import fill
from tests.support.mounting import MNT_DETACH, MS_SHARED, MS_SLAVE, bind, change, tmpfs, umount
from tests.support.need import need, need_real_root, need_user_namespaces
from tests.support.others import NOBODY, in_child

need(has(Feature.MOVE_MOUNT_BENEATH) and has(Feature.STATMOUNT), "MOVE_MOUNT_BENEATH and statmount(2) (Linux 6.8)")
need_real_root()

__all__ = ["place", "stand"]


# --- who serves it, and who may look into it ----------------------------------------------------------------------
@pytest.mark.parametrize("server", ["silent", "dead"])
def test_the_old_filesystem_is_not_asked(scratch: Path, server: str) -> None:
    home = tmpfs(scratch / "home")
    target, new = fill(home / "t"), fill(scratch / "new", {"v": "new"})
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = b"fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other" % fd
    calls.mount(b"nobody", bytes(target), b"fuse", 0, options)
    if server == "dead":
        os.close(fd)

    def act() -> None:
        signal.alarm(20)  # it would wait for ever
        replace(target, new).close()

    in_child(act)
    assert (target / "v").read_text() == "new"
    if server == "silent":
        os.close(fd)
    umount(home, MNT_DETACH)


def test_others_are_kept_waiting_where_the_old_root_may_not_be_searched(place: Path) -> None:
    need_user_namespaces(NOBODY)
    versions = [fill(place / name) for name in ("v1", "v2")]
    target = fill(place / "parent/t")
    for each in (target, target.parent):
        os.chown(each, NOBODY, NOBODY)
    for version in versions:
        version.chmod(0o700)

    def act() -> list[str]:
        with Mount.clone(versions[0]) as first:
            first.attach(target)
        with watching(Watch()) as watch:
            replace(target, versions[1]).close()
        return watch.names

    assert as_owner(act).count("flock") == 2


# --- how it is named ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("way", [".", "descriptor", "link"])
def test_what_a_check_refuses_afterwards_goes_whatever_name_led_there(
    stand: Stand, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(stand.target)
    (stand.home / "link").symlink_to(stand.target)
    fd = os.open(stand.target, os.O_PATH)
    names = {".": ".", "descriptor": f"/proc/self/fd/{fd}", "link": str(stand.home / "link")}
    with pytest.raises(MountfdError, match="is back"):
        replace(names[way], stand.home / "new", check_after=lambda _: False)
    assert (stand.shows(), stand.height()) == ("old", 1)
    os.close(fd)


def test_a_name_that_leads_to_what_was_replaced_is_told_so(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(stand.target)
    replace(stand.target, stand.home / "new").close()
    with pytest.raises(InvalidSpec, match="was unmounted, or stands in another mount namespace"):
        replace(".", stand.home / "other")
    with Mount.open(stand.target) as old:
        replace(stand.target, stand.home / "other").close()
        with pytest.raises(KernelError) as caught:
            replace(stand.target, old)
    assert "it can't be attached again" in str(caught.value.hint)
    assert (stand.shows(), stand.height()) == ("other", 1)


# --- what is killed or fails --------------------------------------------------------------------------------------
def test_one_that_ends_another_does_not_wait_for_itself(scratch: Path) -> None:
    """A mount below stands in the directory in which the target itself stands."""
    home = fill(tmpfs(scratch / "home"), {"t/base": "", "sub/base": ""})
    target = home / "t"
    calls.mount(bytes(home), bytes(target), None, 0x1000, None)
    tmpfs(target / "sub")

    def decide(_count: int, name: str, _arguments: object) -> int:
        if name == "umount2":
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    child = os.fork()
    if child == 0:
        with watching(Watch(decide)):
            replace(target, home)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    replace(target, home).close()
    assert [point for point, _ in table(target)] == [str(target / "sub")]
    umount(home, MNT_DETACH)


@pytest.mark.parametrize("errno", [ENOENT, EINVAL])
@pytest.mark.parametrize("name", ["openat2", "move_mount"])
def test_one_failure_on_the_way_back_leaves_no_mount_behind(stand: Stand, name: str, errno: int) -> None:
    fill(tmpfs(stand.target / "sub"), {"kept": "kept"})
    is_back, failed = False, 0

    def refuse(_: object) -> bool:
        nonlocal is_back
        is_back = True
        return False

    def decide(_count: int, called: str, _arguments: object) -> int:
        nonlocal failed
        if not is_back or called != name or failed:
            return 0
        failed += 1
        return errno

    need(has(Feature.MOUNT_INSIDE_DETACHED), "MOUNT_INSIDE_DETACHED (Linux 6.15)")
    with watching(Watch(decide)), pytest.raises(MountfdError, match="is back"):
        replace(stand.target, stand.home / "new", check_after=refuse)
    assert failed
    assert (stand.shows(), (stand.target / "sub/kept").read_text()) == ("old", "kept")


def test_whom_a_mount_heard_of_may_go_with_the_old_one(scratch: Path) -> None:
    """The only other member of its group is its own copy, in a namespace that switches, too."""
    home = fill(tmpfs(scratch / "home"), {"t/base": ""})
    change(home, MS_SHARED)
    versions = [fill(scratch / name, {"v": name, "sub/base": ""}) for name in ("v1", "v2")]
    bind(versions[0], home / "t")
    fill(tmpfs(home / "t/sub"), {"kept": "kept"})
    with another(lambda: calls.unshare(0x20000)):
        change(home / "t/sub", MS_SLAVE)
        replace(home / "t", versions[1]).close()
    assert [(home / "t" / name).read_text() for name in ("v", "sub/kept")] == ["v2", "kept"]
    umount(home, MNT_DETACH)


# --- with a gap ---------------------------------------------------------------------------------------------------
@pytest.fixture
def _gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", "replace:gap")


@pytest.mark.usefixtures("_gap")
@pytest.mark.parametrize("errno", [ENOMEM, EPERM, EINVAL])
def test_where_the_last_look_fails_something_stands_there_nevertheless(stand: Stand, errno: int) -> None:
    is_detached = failed = False

    def decide(_count: int, name: str, _arguments: object) -> int:
        nonlocal is_detached, failed
        is_failing = is_detached and not failed
        failed = failed or is_detached
        is_detached = is_detached or name == "umount2"
        return errno if is_failing else 0

    with watching(Watch(decide)), suppress(MountfdError):
        replace(stand.target, stand.home / "new", allow_gap=True).close()
    assert failed
    assert (stand.shows() in {"old", "new"}, stand.height()) == (True, 1)


@pytest.mark.usefixtures("_gap")
def test_an_interruption_leaves_no_gap_either(stand: Stand) -> None:
    class Interrupting(Watch):
        def after(self, row: calls.Row, _arguments: object, _result: int, _errno: int) -> None:
            if row.name == "umount2":
                signal.raise_signal(signal.SIGINT)

    idle = threading.Event()
    bystander = threading.Thread(target=idle.wait)  # who takes the signal for a thread that blocks it
    bystander.start()
    try:
        with watching(Interrupting()), suppress(KeyboardInterrupt):
            replace(stand.target, stand.home / "new", allow_gap=True).close()
    finally:
        idle.set()
        bystander.join()
    assert (stand.shows() in {"old", "new"}, stand.height()) == (True, 1)
