"""Every refusal names what is missing: a capability, a namespace of one's own, a filter out of the way, /proc."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from errno import EPERM
from pathlib import Path
from typing import TypeVar

import pytest

from mountfd import (
    Attr,
    Denied,
    FsContext,
    Gone,
    IdMap,
    KernelError,
    Missing,
    Mount,
    MountNamespace,
    MountSpec,
    UserNamespace,
    mount,
    watch,
)
from mountfd.handles.refused import LOCKED, UNPRIVILEGED
from mountfd.lowlevel import calls, numbers
from mountfd.verbs.routes import forget
from tests.support import seccomp
from tests.support.inject import lacking, watching
from tests.support.mounting import umount
from tests.support.namespaces import in_user_namespace
from tests.support.need import need, need_real_root
from tests.support.others import NOBODY, in_child

need_real_root()
T = TypeVar("T")
CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWPID = 0x10000000, 0x20000, 0x40000000, 0x20000000
NUMBERS = {
    **{name: getattr(numbers, f"SYS_{name}") for name in ("fsopen", "fspick", "open_tree", "move_mount")},
    "mount_setattr": numbers.SYS_mount_setattr,
    **{
        "x86_64": {"mount": 165, "setns": 308, "pivot_root": 155},
        "aarch64": {"mount": 40, "setns": 268, "pivot_root": 41},
    }.get(os.uname().machine, {}),
}


@pytest.fixture(autouse=True)
def _namespaces_for_everybody() -> None:
    user = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    done = subprocess.run([*user, "unshare", "--user", "true"], check=False, capture_output=True)
    need(done.returncode == 0, "user namespaces for ordinary users")


def hint_of(act: Callable[[], object], user: int | None = None, kind: type[KernelError] = Denied) -> str:
    """Do what is refused in a child, and give the hint."""

    def acted() -> None:
        forget()
        act()

    with pytest.raises(kind) as caught:
        in_child(acted, user)
    assert caught.value.hint is not None
    return caught.value.hint


def tmpfs() -> Mount:
    with FsContext.open("tmpfs") as context:
        return context.create().mount()


def in_a_new(*flags: int) -> None:
    """Be root of a user namespace, with a mount namespace and others of its own."""
    in_user_namespace()
    for flag in flags:
        calls.unshare(flag)


# --- privilege -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "act",
    [lambda: FsContext.open("tmpfs"), lambda: FsContext.pick("/"), lambda: Mount.clone("/usr")],
    ids=["fsopen", "fspick", "open_tree"],
)
def test_who_may_not_mount_is_told_where_one_may(act: Callable[[], object]) -> None:
    assert hint_of(act, NOBODY) == UNPRIVILEGED


def test_a_mount_of_root_cannot_be_attached_or_changed_by_others(scratch: Path) -> None:
    with tmpfs() as made:
        assert hint_of(lambda: made.attach(scratch), NOBODY) == UNPRIVILEGED
        assert hint_of(lambda: made.set(Attr.RDONLY), NOBODY) == UNPRIVILEGED
        assert hint_of(lambda: Mount.clone_fd(made.fileno()), NOBODY) == UNPRIVILEGED


def test_in_a_mount_namespace_of_others_one_is_told_to_take_ones_own() -> None:
    def act() -> None:
        calls.unshare(CLONE_NEWUSER)
        FsContext.open("tmpfs")

    assert "unshare --mount" in hint_of(act)


def test_a_locked_attribute_is_named(scratch: Path) -> None:
    with tmpfs() as made:
        made.set(Attr.NOEXEC).attach(scratch)

    def act() -> None:
        in_user_namespace()
        with Mount.open(scratch) as here:
            here.set(clear=Attr.NOEXEC)

    assert hint_of(act) == LOCKED
    umount(scratch)


# --- filesystems in user namespaces --------------------------------------------------------------------------------
SHOWING = {
    "sysfs": ("net", "mountfd run --net none"),
    "proc": ("pid", "unshare --pid"),
    "mqueue": ("ipc", "unshare --ipc"),
}


@pytest.mark.parametrize("route", ["descriptor", "string"])
@pytest.mark.parametrize("fstype", SHOWING)
def test_a_filesystem_that_shows_a_namespace_takes_that_one(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, route: str, fstype: str
) -> None:
    kind, way = SHOWING[fstype]
    monkeypatch.setenv("MOUNTFD_ROUTE", f"mount:{route}")

    def act() -> None:
        in_user_namespace()
        mount(MountSpec(fstype, "x"), scratch)

    hint = hint_of(act)
    assert f"owns this {kind} namespace" in hint
    assert way in hint


@pytest.mark.parametrize("route", ["descriptor", "string"])
def test_what_a_new_sysfs_would_reveal_must_be_in_sight(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", f"mount:{route}")

    def act() -> None:
        calls.unshare(CLONE_NEWNS)
        calls.mount(b"tmpfs", b"/sys/kernel", b"tmpfs", 0, None)
        in_a_new(CLONE_NEWNET)
        mount(MountSpec("sysfs", "x"), scratch)

    assert "parts of it are covered" in hint_of(act)


@pytest.mark.parametrize("route", ["descriptor", "string"])
def test_a_filesystem_of_the_machine_alone_is_no_question_of_namespaces(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", f"mount:{route}")
    need("\text4\n" in Path("/proc/filesystems").read_text(), "ext4")
    os.mknod(scratch / "device", 0o60666, os.makedev(7, 0))

    def act() -> None:
        in_user_namespace()
        mount(MountSpec("ext4", str(scratch / "device")), scratch)

    assert "no user namespace mount ext4" in hint_of(act)


def test_the_context_itself_says_so() -> None:
    def act() -> None:
        in_user_namespace()
        with FsContext.open("proc") as context:
            context.create()

    assert "pid namespace" in hint_of(act)


# --- filters -------------------------------------------------------------------------------------------------------
def pivot() -> None:
    os.environ["MOUNTFD_ROUTE"] = "namespace:unshare"
    MountNamespace.new("/usr")


def by_mount(target: Path) -> None:
    os.environ["MOUNTFD_ROUTE"] = "mount:string"
    mount(MountSpec("tmpfs", "tmpfs"), target)


FILTERED: dict[str, Callable[[Path], object]] = {
    "fsopen": lambda _: FsContext.open("tmpfs"),
    "fspick": lambda _: FsContext.pick("/"),
    "open_tree": lambda _: Mount.clone("/usr"),
    "move_mount": lambda place: tmpfs().attach(place),
    "mount_setattr": lambda _: tmpfs().set(clear=Attr.NOEXEC),
    "mount": by_mount,
    "setns": lambda _: MountNamespace.current().call(os.getcwd),
    "pivot_root": lambda _: pivot(),
}


@pytest.mark.parametrize("name", FILTERED)
def test_a_filter_that_may_forbid_it_is_named(scratch: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    need(name in NUMBERS, f"the number of {name}(2) on this machine")
    monkeypatch.setattr(seccomp, "NUMBERS", NUMBERS)

    def act() -> None:
        seccomp.forbid(name, errno=EPERM)
        FILTERED[name](scratch)

    hint = hint_of(act)
    assert "seccomp filter" in hint
    assert f"{name}(2)" in hint


def test_a_command_in_a_namespace_tells_of_the_filter_too(monkeypatch: pytest.MonkeyPatch) -> None:
    need("setns" in NUMBERS, "the number of setns(2) on this machine")
    monkeypatch.setattr(seccomp, "NUMBERS", NUMBERS)

    def act() -> None:
        seccomp.forbid("setns", errno=EPERM)
        with MountNamespace.current() as here:
            here.run(["true"])

    assert "seccomp filter" in hint_of(act)


def test_an_idmap_that_a_filter_forbids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "NUMBERS", NUMBERS)

    def act() -> None:
        seccomp.forbid("mount_setattr", errno=EPERM)
        with tmpfs() as made:
            made.idmap(IdMap.parse("0:1:1"))

    assert "seccomp filter here forbids mount_setattr(2)" in hint_of(act)


def test_without_a_filter_a_security_module_is_named() -> None:
    def act() -> None:
        with watching(lacking("fsopen", errno=EPERM)):
            FsContext.open("tmpfs")

    need("Seccomp:\t0" in Path("/proc/self/status").read_text(), "a process without a seccomp filter")
    hint = hint_of(act)
    assert "AppArmor" in hint
    assert "seccomp" not in hint


def test_where_another_route_is_left_it_is_taken(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "NUMBERS", NUMBERS)

    def act() -> int:
        forget()
        seccomp.forbid("fsopen", errno=EPERM)
        with MountNamespace.new(scratch) as made:
            return len(made.mounts())

    assert in_child(act) == 1


# --- /proc ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def hiding() -> Iterator[None]:
    calls.mount(b"proc", b"/proc", b"proc", 0, b"hidepid=2")
    yield
    umount(Path("/proc"))


@pytest.mark.usefixtures("hiding")
@pytest.mark.parametrize("kind", [MountNamespace, UserNamespace])
def test_a_process_that_is_hidden_is_not_said_to_be_gone(kind: type[MountNamespace | UserNamespace]) -> None:
    hint = hint_of(lambda: kind.of(1), NOBODY)
    assert "process 1 is there" in hint
    assert "hidepid" in hint


@pytest.mark.parametrize("kind", [MountNamespace, UserNamespace])
@pytest.mark.parametrize("pid", [(1 << 22) + 1, 1 << 40])
def test_a_process_that_never_was_is_gone(kind: type[MountNamespace | UserNamespace], pid: int) -> None:
    with pytest.raises(Gone, match=str(pid)):
        kind.of(pid)


def test_a_process_that_has_ended_has_no_mount_namespace_any_more() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    try:
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        with pytest.raises(Gone, match=str(child)):
            MountNamespace.of(child)
    finally:
        os.waitpid(child, 0)


@pytest.mark.parametrize(
    "act",
    [
        lambda: MountNamespace.of(1),
        lambda: UserNamespace.of(1),
        lambda: UserNamespace.new(IdMap.parse("0:5:1")),
        MountNamespace.current,
        lambda: MountNamespace.new("/usr"),
        watch,
    ],
    ids=["mount namespace of", "user namespace of", "user namespace new", "current", "mount namespace new", "watch"],
)
def test_where_proc_is_missing_it_is_said(scratch: Path, act: Callable[[], object]) -> None:
    def acted() -> None:
        calls.unshare(CLONE_NEWNS)
        calls.mount(None, b"/", None, 0x4000 | 1 << 18, None)
        calls.mount(b"tmpfs", b"/proc", b"tmpfs", 0, None)
        act()

    assert "/proc" in hint_of(acted, kind=Missing)
