"""mounts lists other namespaces: by pid, file, handle and id, from outside or by going there."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

import mountfd
from mountfd import Denied, Gone, InvalidSpec, KernelError, Missing, MountNamespace, mounts
from mountfd.lowlevel import calls
from tests.support.inject import lacking, watching
from tests.support.mounting import tmpfs
from tests.support.need import need, need_real_root
from tests.support.others import NOBODY, in_child

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000


@pytest.fixture(params=["as it is", "by table", "no ids", "no statmount", "filtered"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ask from outside, and go there where that can't be done."""
    lacks = {"no ids": ("ioctl",), "no statmount": ("statmount",), "filtered": ("statmount", "listmount")}
    codes = {"no ids": errno.ENOTTY, "no statmount": errno.ENOSYS}
    if request.param == "by table":
        monkeypatch.setenv("MOUNTFD_ROUTE", "mounts:mountinfo")
    with watching(lacking(*lacks.get(request.param, ()), errno=codes.get(request.param, errno.EPERM))):
        yield


class Neighbour:
    """A process in a mount namespace of its own, with a tmpfs on `there` that nobody else has."""

    def __init__(self, place: Path, kind: str = "copy") -> None:
        """Start it, and wait until it is there."""
        (place / "there").mkdir(exist_ok=True)
        ready, self._ready = os.pipe()
        self._end, end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(end)
            calls.unshare(CLONE_NEWNS)
            tmpfs(place / "there")
            if kind != "copy":
                self._move(place / "there", kind)
            os.write(self._ready, b"x")
            os.read(self._end, 1)
            os._exit(0)
        os.close(self._ready)
        os.close(self._end)
        self._end = end
        assert os.read(ready, 1) == b"x"
        os.close(ready)

    @staticmethod
    def _move(root: Path, kind: str) -> None:
        os.chdir(root)
        if kind == "pivot":
            calls.pivot_root(b".", b".")
            calls.umount2(b".", 2)
        else:
            calls.chroot(b".")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._end)
        os.waitpid(self.pid, 0)


def has_there(table: mountfd.MountTable, place: Path) -> bool:
    return len(table.by_point(str(place / "there"))) == 1


def test_by_pid_file_and_handle(way: None, scratch: Path) -> None:
    with Neighbour(scratch) as other:
        path = f"/proc/{other.pid}/ns/mnt"
        with MountNamespace.of(other.pid) as handle, MountNamespace.from_fd(handle.fileno()) as again:
            for namespace in (other.pid, path, os.fsencode(path), Path(path), handle, again):
                table = mounts(namespace=namespace)
                assert has_there(table, scratch)
                assert len(table) == len(Path(f"/proc/{other.pid}/mountinfo").read_bytes().splitlines())
            assert not has_there(mounts(), scratch)
            below = mounts(namespace=handle, under=scratch)
            assert {str(scratch), str(scratch / "there")} <= {mount.point for mount in below}
            assert mounts(namespace=handle, under=scratch / "there")[0].fstype == "tmpfs"


def test_by_a_file_that_it_was_bound_to(way: None, scratch: Path) -> None:
    held = scratch / "held"
    held.touch()
    with Neighbour(scratch) as other:
        try:
            calls.mount(b"/proc/%d/ns/mnt" % other.pid, bytes(held), None, 0x1000, None)
        except KernelError as error:
            # Its number may be smaller than ours, since each CPU has a stock of them: then it would be a loop.
            need(error.errno != errno.EINVAL, "a mount namespace that may be bound here")
            raise
        assert has_there(mounts(namespace=held), scratch)
    assert has_there(mounts(namespace=held), scratch)  # nobody is in there any more
    calls.umount2(bytes(held), 0)


def test_the_own_namespace_by_name_is_the_own(way: None, scratch: Path) -> None:
    with MountNamespace.current() as own:
        assert {m.id_old for m in mounts(namespace=own)} == {m.id_old for m in mounts()}
    assert {m.id_old for m in mounts(namespace=os.getpid())} == {m.id_old for m in mounts()}


def test_a_namespace_of_one_mount(way: None, scratch: Path) -> None:
    with Neighbour(scratch, "pivot") as other:
        table = mounts(namespace=other.pid)
    assert [(mount.point, mount.fstype) for mount in table] == [("/", "tmpfs")]


def test_a_chrooted_process_stands_for_its_whole_namespace(way: None, scratch: Path) -> None:
    with Neighbour(scratch, "chroot") as other:
        assert has_there(mounts(namespace=other.pid), scratch)


def test_what_is_known_by_id_is_found_again(scratch: Path) -> None:
    with Neighbour(scratch) as other, MountNamespace.of(other.pid) as handle:
        number = handle.id
        with MountNamespace.by_id(number) as found:
            assert has_there(mounts(namespace=found), scratch)
        assert {mount.ns_id for mount in mounts(namespace=handle)} == {number}
    with pytest.raises(Gone):
        MountNamespace.by_id(number)


def test_all_namespaces_are_walked(scratch: Path) -> None:
    need_real_root()
    with Neighbour(scratch) as one, Neighbour(scratch) as two:
        numbers = set()
        for pid in (one.pid, two.pid, os.getpid()):
            with MountNamespace.of(pid) as namespace:
                numbers.add(namespace.id)
        table = mounts(namespace="all", fields=("point",))
        assert numbers <= {mount.ns_id for mount in table}
        assert len(table.by_point(str(scratch / "there"))) == 2


def test_a_walk_that_is_broken_off_closes_what_it_holds(scratch: Path) -> None:
    with MountNamespace.current() as own, Neighbour(scratch):
        walk = own.others()
        next(walk).close()
        walk.close()  # type: ignore[attr-defined]


def test_a_thread_that_has_left_its_process_sees_its_own(scratch: Path) -> None:
    from mountfd.verbs.enter import in_private_namespace

    (scratch / "point").mkdir()

    def act() -> tuple[bool, ...]:
        tmpfs(scratch / "point")
        table, asked = mounts(), mounts(fields=("id", "point"))
        return mountfd.is_mount(scratch / "point"), *(bool(t.by_point(str(scratch / "point"))) for t in (table, asked))

    assert in_private_namespace(act) == (True, True, True)
    assert not mountfd.is_mount(scratch / "point")


# --- refusals ------------------------------------------------------------------------------------------------------
def test_a_process_that_is_gone_or_a_zombie(scratch: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(Gone):
            mounts(namespace=process.pid)
    with pytest.raises(Gone):
        mounts(namespace=process.pid)


@pytest.mark.parametrize("namespace", [0, -1, True, 1.5, ["x"], "", "a\0b"], ids=str)
def test_what_can_be_no_namespace(namespace: object) -> None:
    with pytest.raises(InvalidSpec):
        mounts(namespace=namespace)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["/proc/self/ns/net", "/etc/passwd", "/", "/dev/null", "fifo"])
def test_a_file_that_is_no_mount_namespace(name: str, scratch: Path) -> None:
    os.mkfifo(scratch / "fifo")
    with pytest.raises(InvalidSpec) as caught:
        mounts(namespace=scratch / name)
    assert caught.value.part == "namespace"


def test_a_descriptor_that_is_no_mount_namespace(scratch: Path) -> None:
    with open("/proc/self/ns/net", "rb") as file, pytest.raises(InvalidSpec):
        MountNamespace.from_fd(file.fileno())
    with pytest.raises(KernelError) as caught:
        MountNamespace.from_fd(999)
    assert caught.value.errno == errno.EBADF


def test_a_file_that_is_missing_and_a_closed_handle(scratch: Path) -> None:
    with pytest.raises(Missing):
        mounts(namespace=scratch / "missing")
    handle = MountNamespace.current()
    handle.close()
    with pytest.raises(InvalidSpec):
        mounts(namespace=handle)


def test_a_path_in_another_namespace_is_meant_from_here(way: None, scratch: Path) -> None:
    (scratch / "link").symlink_to("there")
    (scratch / "plain").mkdir()
    with Neighbour(scratch) as other, contextlib.chdir(scratch):
        for under in ("there", "link", "./there/", scratch / "link", scratch / "there"):
            (found,) = mounts(namespace=other.pid, under=under, fields=("fstype",))
            assert (found.fstype, found.point) == ("tmpfs", str(scratch / "there"))
        assert len(mounts(namespace=other.pid, under="plain")) == 0
        (scratch / "plain").rmdir()
        for under in ("plain", scratch / "missing"):
            with pytest.raises(Missing) as caught:
                mounts(namespace=other.pid, under=under)
            assert caught.value.filename == str(under)


def test_a_path_that_is_only_in_the_other_namespace_is_found_there(way: None, scratch: Path) -> None:
    with Neighbour(scratch) as other:
        tmpfs(scratch)
        try:
            assert not (scratch / "there").exists()
            assert len(mounts(namespace=other.pid, under=f"{scratch}/x/..//there")) == 1
        finally:
            calls.umount2(bytes(scratch), 0)


def test_a_path_on_another_namespaces_mount_is_refused_by_name(way: None, scratch: Path) -> None:
    with Neighbour(scratch) as other, pytest.raises(Missing) as caught:
        mounts(under=f"/proc/{other.pid}/root{scratch}/there")
    assert "another namespace" in (caught.value.hint or "")


def test_another_users_process_is_denied_with_a_hint(scratch: Path) -> None:
    need_real_root()
    with Neighbour(scratch) as other, pytest.raises(Denied) as caught:
        in_child(lambda: mounts(namespace=other.pid), NOBODY)
    assert "another user" in (caught.value.hint or "")


def test_another_users_namespace_is_denied_with_a_hint_though_it_is_held(scratch: Path) -> None:
    need_real_root()
    with Neighbour(scratch) as other, MountNamespace.of(other.pid) as handle:
        with pytest.raises(Denied) as caught:
            in_child(lambda: mounts(namespace=handle), NOBODY)
        assert "CAP_SYS_ADMIN" in (caught.value.hint or "")
        with pytest.raises(KernelError) as caught_all:
            in_child(lambda: mounts(namespace="all"), NOBODY)
        assert isinstance(caught_all.value, Denied)


def test_an_ordinary_user_may_look_into_what_his_user_namespace_owns(scratch: Path) -> None:
    need(Path("/proc/sys/user/max_user_namespaces").read_text() != "0\n", "user namespaces")

    def within() -> int:
        calls.unshare(CLONE_NEWUSER | CLONE_NEWNS)
        with MountNamespace.current() as first:
            calls.unshare(CLONE_NEWNS)
            return len(mounts(namespace=first)) - len(mounts())

    assert in_child(within, NOBODY) == 0


def test_an_ordinary_users_own_process_answers_for_a_namespace_he_may_not_enter(scratch: Path) -> None:
    def within() -> int:
        with watching(lacking("statmount", "listmount", errno=errno.EPERM)):
            return len(mounts(namespace=os.getppid() if os.geteuid() == 0 else os.getpid())) - len(mounts())

    assert in_child(within, NOBODY) == 0
