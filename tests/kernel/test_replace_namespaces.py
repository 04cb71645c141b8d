"""The same in mount namespaces that have copies of their own, and as root of a user namespace."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from errno import EINVAL
from pathlib import Path
from typing import TypeVar

import pytest

from mountfd import Denied, Feature, InvalidSpec, KernelError, Mount, MountNamespace, MountSpec, has, mounts
from mountfd.lowlevel import calls
from mountfd.verbs.enter import in_namespace
from mountfd.verbs.replace import Previous, replace
from mountfd.verbs.replace.everywhere import PartlyReplaced
from tests.kernel.test_holders import another
from tests.support.layers import content, fill
from tests.support.mounting import MNT_DETACH, MS_PRIVATE, MS_REC, MS_SHARED, MS_SLAVE, change, tmpfs, umount
from tests.support.need import need, need_real_root
from tests.support.others import NOBODY, in_child

need(has(Feature.MOVE_MOUNT_BENEATH) and has(Feature.STATMOUNT), "MOVE_MOUNT_BENEATH and statmount(2) (Linux 6.8)")

T = TypeVar("T")
PR_SET_DUMPABLE = 4
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x20000, 0x10000000, 0x20000000


@pytest.fixture
def home(scratch: Path) -> Iterator[Path]:
    """Give a target upon the base, and two versions."""
    place = fill(tmpfs(scratch / "home"), {"t/base": ""})
    for version in ("v1", "v2"):
        fill(scratch / version, {"v": version, "sub/base": ""})
    calls.mount(bytes(scratch / "v1"), bytes(place / "t"), None, 0x1000, None)
    yield place
    umount(place, MNT_DETACH)


def away(flags: int = MS_PRIVATE, then: Callable[[], object] = lambda: None) -> Callable[[], None]:
    """Make a function that goes to a mount namespace of its own."""

    def act() -> None:
        calls.unshare(CLONE_NEWNS)
        calls.mount(None, b"/", None, MS_REC | flags, None)
        then()

    return act


def shown(namespace: MountNamespace, home: Path) -> tuple[str, int]:
    """Tell what the target shows there, and how many mounts stand on it."""

    def look() -> str:
        return (home / "t/v").read_text()

    rows = mounts(namespace=namespace, fields=("point",))
    return in_namespace(namespace, look), sum(row.point == str(home / "t") for row in rows)


def test_each_namespace_is_switched_and_this_one_is_not(home: Path) -> None:
    told: list[tuple[int, int]] = []
    with ExitStack() as held:
        pids = [held.enter_context(another(away())) for _ in range(3)]
        namespaces = [held.enter_context(MountNamespace.of(pid)) for pid in pids]
        with replace(
            home / "t", home.parent / "v2", namespaces=namespaces, progress=lambda *way: told.append(way)
        ) as previous:
            assert isinstance(previous, Previous)
            assert previous.old_id
            assert content(previous)["v"] == "v1"
            every = (previous, *previous.others)
            assert [one.namespace for one in every] == [namespace.id for namespace in namespaces]
            assert [content(one)["v"] for one in every] == ["v1"] * 3
        assert all(one.closed for one in every)
        assert [shown(namespace, home) for namespace in namespaces] == [("v2", 1)] * 3
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert (home / "t/v").read_text() == "v1"


def test_mounts_below_come_along_there_too(home: Path) -> None:
    def below() -> None:
        fill(tmpfs(home / "t/sub"), {"kept": "kept"})
        tmpfs(home / "t/sub/nested")

    with another(away(then=below)) as pid, MountNamespace.of(pid) as namespace:
        replace(home / "t", home.parent / "v2", namespaces=[namespace]).close()
        assert shown(namespace, home) == ("v2", 1)
        assert in_namespace(namespace, (home / "t/sub/kept").read_text) == "kept"


def test_one_that_fails_is_told_and_the_others_are_switched(home: Path) -> None:
    with ExitStack() as held:
        bare = held.enter_context(another(away(then=lambda: umount(home / "t"))))
        pids = [held.enter_context(another(away())), bare, held.enter_context(another(away()))]
        namespaces = [held.enter_context(MountNamespace.of(pid)) for pid in pids]
        with pytest.raises(ExceptionGroup, match="replaced in 2 of 3") as caught:
            replace(home / "t", home.parent / "v2", namespaces=namespaces)
        (error,) = caught.value.exceptions
        assert isinstance(error, InvalidSpec)
        assert str(namespaces[1].id) in str(error.__notes__)
        assert [shown(namespaces[number], home) for number in (0, 2)] == [("v2", 1)] * 2
        put_back(caught.value, home, namespaces)
        assert [shown(namespaces[number], home) for number in (0, 2)] == [("v1", 1)] * 2


def put_back(error: BaseException, home: Path, namespaces: list[MountNamespace]) -> None:
    """Put back what stood before where it was replaced."""
    assert isinstance(error, PartlyReplaced)
    assert error.previous
    by_id = {namespace.id: namespace for namespace in namespaces}
    for previous in error.previous:
        with previous:
            replace(home / "t", previous, namespaces=[by_id[previous.namespace]]).close()


def test_a_check_that_raises_in_one_does_not_keep_the_others_from_it(home: Path) -> None:
    seen: list[int] = []

    def check(_new: Mount) -> bool:
        seen.append(1)
        if len(seen) == 2:
            raise ZeroDivisionError
        return True

    with ExitStack() as held:
        pids = [held.enter_context(another(away())) for _ in range(3)]
        namespaces = [held.enter_context(MountNamespace.of(pid)) for pid in pids]
        with pytest.raises(ExceptionGroup) as caught:
            replace(home / "t", home.parent / "v2", namespaces=namespaces, check=check)
        assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]
        assert [shown(namespace, home)[0] for namespace in namespaces] == ["v2", "v1", "v2"]
        put_back(caught.value, home, namespaces)
        assert [shown(namespace, home) for namespace in namespaces] == [("v1", 1)] * 3


@pytest.mark.parametrize("proc", ["none", "of another pid namespace", "not proc"])
def test_a_namespace_needs_no_proc(home: Path, proc: str) -> None:
    """A container's /proc is of its own pid namespace, where this process has no number."""

    def cover() -> None:
        if proc == "of another pid namespace":
            calls.unshare(CLONE_NEWPID)
            child = os.fork()
            if child == 0:
                calls.mount(b"proc", b"/proc", b"proc", 0, None)
                os._exit(0)
            os.waitpid(child, 0)
            return
        calls.mount(b"tmpfs", b"/proc", b"tmpfs", 0, None)
        if proc == "not proc":
            os.makedirs("/proc/self/fd")
            for number in range(100):
                os.symlink(home, f"/proc/self/fd/{number}")

    need_real_root()
    file = home / "file"
    file.write_text("base")
    calls.mount(bytes(home.parent / "v1/v"), bytes(file), None, 0x1000, None)
    with another(away(then=cover)) as pid, MountNamespace.of(pid) as namespace:
        replace(home / "t", home.parent / "v2", namespaces=[namespace]).close()
        replace(file, home.parent / "v2/v", namespaces=[namespace]).close()
        assert shown(namespace, home) == ("v2", 1)
        assert in_namespace(namespace, file.read_text) == "v2"


def test_no_namespaces_is_a_mistake(home: Path) -> None:
    with pytest.raises(InvalidSpec, match="empty list"):
        replace(home / "t", home.parent / "v2", namespaces=[])


def test_a_namespace_that_has_a_mount_of_its_own_below_keeps_the_old_one(home: Path) -> None:
    """The kernel takes no mount away that somebody else's stands on; the new one waits beneath."""
    change(home, MS_SHARED)
    umount(home / "t")
    fill(tmpfs(home / "t"), {"v": "v1", "sub/base": ""})

    def below() -> None:
        change(home / "t", MS_PRIVATE)
        fill(tmpfs(home / "t/sub"), {"own": ""})

    with (
        another(away(MS_SLAVE, below)) as pid,
        another(away(MS_SLAVE)) as other,
        MountNamespace.of(pid) as namespace,
        MountNamespace.of(other) as receiving,
    ):
        replace(home / "t", home.parent / "v2").close()
        assert ((home / "t/v").read_text(), shown(receiving, home)) == ("v2", ("v2", 1))
        assert shown(namespace, home) == ("v1", 2)
        # There it is done on its own: its mount comes along, and what waited stays beneath.
        replace(home / "t", home.parent / "v1", namespaces=[namespace]).close()
        assert shown(namespace, home) == ("v1", 2)
        assert in_namespace(namespace, lambda: os.listdir(home / "t/sub")) == ["own"]


# --- user namespaces ----------------------------------------------------------------------------------------------
def enter(act: Callable[[], T]) -> Callable[[], T]:
    """Make a function that acts as root of a new user namespace; every mount that came along is locked there."""

    def acted() -> T:
        uid = os.getuid()
        calls.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # or the files of /proc aren't ours after a change of ids
        calls.unshare(CLONE_NEWUSER | CLONE_NEWNS)
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {uid} 1")):
            Path(f"/proc/self/{name}").write_text(text)
        return act()

    return acted


@pytest.mark.parametrize("user", [None, NOBODY])
def test_root_of_a_user_namespace_replaces_what_he_mounted(home: Path, user: int | None) -> None:
    need_real_root()
    os.chmod(home.parent, 0o755)  # noqa: S103 (others walk through)

    def act() -> tuple[str, str, int]:
        point = home / "t"
        fill(tmpfs(point), {"v": "own", "sub/base": ""})
        fill(tmpfs(point / "sub"), {"kept": "kept"})
        replace(point, home.parent / "v2").close()
        height = sum(row.point == str(point) for row in mounts(fields=("point",)))
        return (point / "v").read_text(), (point / "sub/kept").read_text(), height

    assert in_child(enter(act), user) == ("v2", "kept", 2)


def test_a_mount_that_came_along_is_locked_there_and_said_to_be(home: Path) -> None:
    need_real_root()

    def act() -> str:
        with pytest.raises(KernelError) as caught:
            replace(home / "t", MountSpec("tmpfs", "tmpfs"))
        return f"{caught.value.errno} {caught.value.hint} {(home / 't/v').read_text()}"

    # From Linux 7.1 on the lock is handed on to the new one.
    said = in_child(enter(act))
    assert said.startswith(str(EINVAL))
    assert "came from a more privileged namespace: it is locked" in said
    assert said.endswith("v1")


def test_an_ordinary_user_may_not(home: Path) -> None:
    need_real_root()
    os.chmod(home.parent, 0o755)  # noqa: S103 (others walk through)

    def act() -> None:
        replace(home / "t", home.parent / "v2").close()

    with pytest.raises(Denied):
        in_child(act, NOBODY)
    assert (home / "t/v").read_text() == "v1"
