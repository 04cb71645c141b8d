"""What a user namespace of one's own allows without root, and how the rest is refused outside of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from errno import EPERM
from pathlib import Path
from typing import TypeVar

import pytest

from mountfd import (
    Denied,
    FsContext,
    IdMap,
    KernelError,
    Mount,
    MountNamespace,
    MountSpec,
    Overlay,
    assemble,
    features,
    holders,
    mount,
    mounts,
    param,
    replace,
    run,
    temporary,
    unmount,
    watch,
)
from mountfd.lowlevel import calls
from mountfd.verbs.routes import forget
from tests.support import private
from tests.support.layers import content, fill, inside, layers, pair
from tests.support.need import need, need_command, need_real_root, need_user_namespaces, need_user_xattrs
from tests.support.others import NOBODY, in_child

need_real_root()
T = TypeVar("T")
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
_PR_SET_DUMPABLE = 4


@pytest.fixture(autouse=True)
def _namespaces_for_everybody() -> None:
    need_user_namespaces(NOBODY)


@pytest.fixture
def place(scratch: Path) -> Path:
    """Give a directory that belongs to the ordinary user."""
    scratch.chmod(0o755)
    own = fill(scratch / "own")
    os.chown(own, NOBODY, NOBODY)
    return own


def as_anybody(act: Callable[[], T]) -> T:
    """Do something as an ordinary user, in a process that is as new as if it had been started by one."""

    def acted() -> T:
        calls.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
        forget()
        return act()

    return in_child(acted, NOBODY)


def as_owner(act: Callable[[], T]) -> T:
    """Do something as an ordinary user who is root of a user namespace of its own."""

    def acted() -> T:
        calls.unshare(CLONE_NEWUSER | CLONE_NEWNS)
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {NOBODY} 1"), ("gid_map", f"0 {NOBODY} 1")):
            Path(f"/proc/self/{name}").write_text(text)
        return act()

    return as_anybody(acted)


def tmpfs() -> Mount:
    with FsContext.open("tmpfs") as context:
        return context.create().mount()


# --- inside --------------------------------------------------------------------------------------------------------
def test_overlay_whose_directories_can_be_removed_and_made_again(place: Path) -> None:
    need_user_xattrs(place)

    def act() -> tuple[dict[str, str], list[str], list[str]]:
        lower = layers(place, 2)
        fill(lower[1] / "folder", {"old": "o"})
        upper, work = pair(place)
        with assemble(Overlay(lower, upper, work)) as root:
            (inside(root) / "new").write_text("n")
            (inside(root) / "folder/old").unlink()
            (inside(root) / "folder").rmdir()
            (inside(root) / "folder").mkdir()
            seen = content(root), os.listdir(inside(root) / "folder"), os.listxattr(upper / "folder")
        with assemble(Overlay([upper, *lower])) as again:
            assert os.listdir(inside(again) / "folder") == []
        return seen

    merged, listed, marks = as_owner(act)
    assert merged == {"common": "0", "own0": "0", "own1": "1", "new": "n"}
    assert (listed, marks) == ([], ["user.overlay.opaque"])


def test_options_that_speak_of_marks_are_left_alone(place: Path) -> None:
    lower = layers(place, 2)

    def refuses() -> bool:
        options = param.String("lowerdir", ":".join(map(str, lower))), param.String("metacopy", "on")
        with FsContext.open("overlay") as context:
            try:
                context.set(*options).create()
            except KernelError:
                return True
        return False

    def act() -> str | None:
        with pytest.raises(Denied) as caught:
            assemble(Overlay(lower, *pair(place), options=[param.String("metacopy", "on")]))
        return caught.value.hint

    need(as_owner(refuses), "an overlay that refuses marks which it can't keep (Linux 6.5)")
    assert "metacopy" in str(as_owner(act))


def test_root_of_the_machine_keeps_the_kernels_own_marks(scratch: Path) -> None:
    lower = layers(scratch, 2)
    fill(lower[1] / "folder")
    upper, work = pair(scratch)
    with assemble(Overlay(lower, upper, work)) as root:
        (inside(root) / "folder").rmdir()
        (inside(root) / "folder").mkdir()
    assert os.listxattr(upper / "folder") == ["trusted.overlay.opaque"]


def test_filesystems_and_binds(place: Path) -> None:
    def act() -> list[tuple[str | None, bool]]:
        here, there = fill(place / "here"), fill(place / "there", {"f": "1"})
        mount(MountSpec("tmpfs", "tmpfs", options=["size=64k"]), here)
        (here / "in").mkdir()
        mount(MountSpec("bind", str(there), options=["bind", "ro"]), here / "in")
        found = [(each.fstype, "ro" in str(each.attrs).lower()) for each in mounts(under=here)]
        assert (here / "in/f").read_text() == "1"
        unmount(here, recursive=True)
        assert list(mounts(under=here)) == []
        return found

    assert len(as_owner(act)) == 2


def test_replace(place: Path) -> None:
    def act() -> str:
        point = fill(place / "point")
        tmpfs().attach(point).close()
        (point / "which").write_text("old")
        new = tmpfs()
        (inside(new) / "which").write_text("new")
        replace(point, new).close()
        return (point / "which").read_text()

    assert as_owner(act) == "new"


def test_watch(place: Path) -> None:
    def act() -> str:
        point = fill(place / "point")
        with watch(under=place) as events:
            tmpfs().attach(point).close()
            event = next(iter(events))
            assert event.info is not None
            return f"{event.kind} {event.info.point}"

    assert as_owner(act) == f"attach {place}/point"


def test_holders(place: Path) -> None:
    def act() -> list[int | None]:
        point = fill(place / "point")
        tmpfs().attach(point).close()
        with open(point / "file", "w", encoding="utf-8"):
            return [getattr(each, "pid", None) == os.getpid() for each in holders(point)]

    assert True in as_owner(act)


def test_mount_namespaces(place: Path) -> None:
    def act() -> tuple[str, list[str]]:
        root = tmpfs()
        (inside(root) / "f").write_text("x")
        with root, MountNamespace.new(root) as namespace:
            return namespace.call(lambda: Path("/f").read_text()), [str(each.point) for each in namespace.mounts()]

    assert as_owner(act) == ("x", ["/"])


def test_temporary_mounts(place: Path) -> None:
    def act() -> bool:
        with temporary(MountSpec("tmpfs", "tmpfs")) as root:
            Path(f"/proc/self/fd/{root.fileno()}/f").write_text("x")
            return True

    assert as_owner(act)


def test_somebody_elses_files_cannot_be_idmapped(place: Path) -> None:
    def act() -> str | None:
        with Mount.clone(place) as clone, pytest.raises(Denied) as caught:
            clone.idmap(IdMap.parse("0:0:1"))
        return caught.value.hint

    assert "CAP_SYS_ADMIN" in (as_owner(act) or "")


def test_run_by_each_route(route: str) -> None:
    script = '[ "$(id -u)" = 0 ] && [ $$ -lt 10 ] && touch /mountfd-new && exit 7'
    assert as_anybody(lambda: run(["sh", "-c", script])) == 7
    assert not os.path.exists("/mountfd-new")


def test_run_after_looking_at_what_is_refused_outside() -> None:
    def act() -> int:
        found = features()
        assert not found["OVERLAY"]
        return run(["true"])

    assert as_anybody(act) == 0


def test_run_by_fuse_overlayfs(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_command("fuse-overlayfs")
    monkeypatch.setenv("MOUNTFD_ROUTE", "assemble:fuse")
    os.mknod(scratch / "fuse", 0o20666, os.stat("/dev/fuse").st_rdev)
    (scratch / "fuse").chmod(0o666)
    subprocess.run(["mount", "--bind", scratch / "fuse", "/dev/fuse"], check=True)
    try:
        script = "grep -q fuse.fuse-overlayfs /proc/self/mountinfo && touch /usr/mountfd-new && exit 7"
        assert as_anybody(lambda: run(["sh", "-c", script])) == 7
    finally:
        private.detach(Path("/dev/fuse"))
    assert not os.path.exists("/usr/mountfd-new")


# --- outside -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("act", "syscall"),
    [
        (lambda _: FsContext.open("tmpfs"), "fsopen"),
        (Mount.clone, "open_tree"),
        (lambda place: assemble(Overlay([place, "/usr"])), "open_tree"),
        (lambda _: unmount("/proc"), "umount2"),
        (lambda place: mount(MountSpec("tmpfs", "tmpfs"), place), "fsopen"),
    ],
)
def test_outside_the_call_is_denied(place: Path, act: Callable[[Path], object], syscall: str) -> None:
    with pytest.raises(Denied) as caught:
        as_anybody(lambda: str(act(place)))
    assert (caught.value.errno, caught.value.syscall) == (EPERM, syscall)


@pytest.mark.parametrize(
    "act",
    [lambda place: assemble(Overlay([place, "/usr"])), lambda _: unmount("/proc")],
    ids=["assemble", "unmount"],
)
def test_outside_the_missing_privilege_is_named(place: Path, act: Callable[[Path], object]) -> None:
    with pytest.raises(KernelError) as caught:
        as_anybody(lambda: str(act(place)))
    assert "CAP_SYS_ADMIN" in (caught.value.hint or "")
