"""Other namespaces, ordinary users, older kernels, filters: the right events, or a refusal by name."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import mountfd
from mountfd import Denied, InvalidSpec, LimitReached, MountNamespace, NotSupported
from tests.support.inject import Watch, failing, lacking
from tests.support.inject import watching as injecting
from tests.support.mounting import both_routes, tmpfs, umount, watching
from tests.support.need import need, need_command, need_real_root
from tests.support.others import NOBODY, in_child

CANNOT = (errno.ENOSYS, errno.EPERM)


class Elsewhere:
    """A shell in a mount namespace of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.pid = process, process.pid

    def do(self, command: str) -> None:
        """Have it done."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command} && echo done\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def end(self) -> None:
        """End the shell, and with it the namespace."""
        self.process.communicate()


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    command = [need_command("unshare"), "--mount", "--propagation", "private", "sh"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        there = Elsewhere(process)
        there.do("true")  # it is there now
        yield there
        there.end()


def told(events: list[mountfd.Event]) -> list[tuple[str, str | None]]:
    return [(event.kind, event.info.point if event.info else None) for event in events]


# --- other namespaces ----------------------------------------------------------------------------------------------
@both_routes
@pytest.mark.parametrize("how", ["pid", "path", "handle"])
def test_another_namespace(route: str, how: str, scratch: Path, elsewhere: Elsewhere) -> None:
    with contextlib.ExitStack() as stack:
        namespace: object = elsewhere.pid
        if how == "path":
            namespace = f"/proc/{elsewhere.pid}/ns/mnt"
        elif how == "handle":
            with MountNamespace.open(f"/proc/{elsewhere.pid}/ns/mnt") as handle:
                events = stack.enter_context(watching(route, namespace=handle, under=scratch))
        if how != "handle":
            events = stack.enter_context(watching(route, namespace=namespace, under=scratch))
        tmpfs(scratch / "here")
        point = scratch / "a b"
        elsewhere.do(f"mkdir {shlex.quote(str(point))} && mount -t tmpfs none {shlex.quote(str(point))}")
        assert told(events.read()) == [("attach", str(point))]
        elsewhere.do(f"umount {shlex.quote(str(point))}")
        assert told(events.read()) == [("detach", str(point))]
        umount(scratch / "here")


def test_a_namespace_that_ends_is_told_to_its_last_mount(scratch: Path, elsewhere: Elsewhere) -> None:
    standing = {mount.point for mount in mountfd.mounts()}
    with watching("fanotify", namespace=elsewhere.pid) as events:
        elsewhere.end()
        seen = list(events)  # the loop ends by itself
        assert seen[-1].kind == "end"
        assert {event.kind for event in seen[:-1]} == {"detach"}
        assert {event.info.point for event in seen if event.info} >= standing
        with pytest.raises(mountfd.Gone):
            events.read()


def test_polling_keeps_a_namespace(scratch: Path, elsewhere: Elsewhere) -> None:
    with watching("polling", namespace=elsewhere.pid) as events:
        elsewhere.end()
        assert events.read() == []


def test_a_process_that_ended_is_gone(elsewhere: Elsewhere) -> None:
    elsewhere.process.kill()
    os.waitid(os.P_PID, elsewhere.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
    with pytest.raises(mountfd.Gone):
        mountfd.watch(namespace=elsewhere.pid)


# --- ordinary users ------------------------------------------------------------------------------------------------
def test_an_ordinary_user_gets_the_polling_route(scratch: Path) -> None:
    need_real_root()

    def act() -> tuple[str, list[tuple[str, str | None]]]:
        with mountfd.watch(under=scratch) as events:
            os.write(ready[1], b"1")
            os.read(go[0], 1)
            return events.route, told(events.read())

    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(ready[0], 1)
        tmpfs(scratch / "a")
        os.write(go[1], b"1")
        os._exit(0)
    try:
        assert in_child(act, NOBODY) == ("polling", [("attach", str(scratch / "a"))])
    finally:
        os.waitpid(pid, 0)
        for fd in (*ready, *go):
            os.close(fd)
    umount(scratch / "a")


@pytest.mark.parametrize("namespace", ["pid", "handle"])
def test_an_ordinary_user_may_not_watch_root(namespace: str, elsewhere: Elsewhere) -> None:
    need_real_root()
    with MountNamespace.of(elsewhere.pid) as handle:
        handle.pid = None

        def act() -> None:
            with mountfd.watch(namespace=elsewhere.pid if namespace == "pid" else handle):
                pass

        with pytest.raises(Denied) as caught:
            in_child(act, NOBODY)
    assert caught.value.hint


def test_root_of_a_user_namespace_may_watch_its_own(scratch: Path) -> None:
    need(Path("/proc/sys/user/max_user_namespaces").read_text() != "0\n", "user namespaces")
    program = (
        "import mountfd, subprocess; events = mountfd.watch();"
        f"subprocess.run(['mount', '-t', 'tmpfs', 'none', {str(scratch)!r}], check=True);"
        "print(events.route, *[(e.kind, e.info.point) for e in events.read()]); events.close()"
    )
    command = [need_command("unshare"), "--user", "--map-root-user", "--mount", "python3", "-c", program]
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(mountfd.__file__))}
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    route = "fanotify" if mountfd.has(mountfd.Feature.FANOTIFY_MOUNTS) else "polling"
    assert done.stdout == f"{route} ('attach', {str(scratch)!r})\n"


# --- what the kernel lacks, or a filter forbids --------------------------------------------------------------------
@pytest.mark.parametrize("refusal", CANNOT, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["fanotify_init", "fanotify_mark", "statmount", "listmount"])
def test_without_a_call_the_table_is_polled(call: str, refusal: int, scratch: Path) -> None:
    with injecting(lacking(call, errno=refusal)), mountfd.watch(under=scratch) as events:
        assert events.route == "polling"
        tmpfs(scratch / "a")
        assert told(events.read()) == [("attach", str(scratch / "a"))]
        umount(scratch / "a")
        assert told(events.read()) == [("detach", str(scratch / "a"))]


@pytest.mark.parametrize("how", ["pid", "path"])
def test_another_namespace_without_any_of_the_calls(how: str, scratch: Path, elsewhere: Elsewhere) -> None:
    namespace = elsewhere.pid if how == "pid" else f"/proc/{elsewhere.pid}/ns/mnt"
    (scratch / "a").mkdir()
    missing = lacking("fanotify_init", "statmount", "listmount", errno=errno.ENOSYS)
    with injecting(missing), mountfd.watch(namespace=namespace, under=scratch) as events:
        elsewhere.do(f"mount -t tmpfs none {scratch}/a")
        assert told(events.read()) == [("attach", str(scratch / "a"))]


def test_a_handle_outlives_the_process_that_it_was_found_through(scratch: Path, elsewhere: Elsewhere) -> None:
    missing = lacking("fanotify_init", "statmount", "listmount", errno=errno.ENOSYS)
    with MountNamespace.of(elsewhere.pid) as namespace:
        elsewhere.end()
        with injecting(missing), mountfd.watch(namespace=namespace) as events:
            assert events.read() == []


def test_an_old_id_that_came_to_mean_another_mount(scratch: Path) -> None:
    with injecting(lacking("statmount", "fanotify_init", errno=errno.ENOSYS)), mountfd.watch(under=scratch) as events:
        first = tmpfs(scratch / "a")
        (attach,) = events.read()
        umount(first)
        (scratch / "d").mkdir()
        with mountfd.Mount.clone(scratch / "d") as clone:
            clone.attach(scratch / "a")
        assert told(events.read()) == [("detach", str(scratch / "a")), ("attach", str(scratch / "a"))]
        assert attach.id is None
        umount(scratch / "a")


def test_root_is_told_each_step() -> None:
    need(mountfd.has(mountfd.Feature.FANOTIFY_MOUNTS), "FAN_REPORT_MNT (Linux 6.15)")
    with mountfd.watch() as events:
        assert events.route == "fanotify"


def test_a_limit_of_watches_is_no_reason_to_poll() -> None:
    with injecting(lacking("fanotify_init", errno=errno.EMFILE)), pytest.raises(LimitReached) as caught:
        mountfd.watch()
    assert "user.max_fanotify" in str(caught.value.hint)


def test_a_forced_route_is_not_left(monkeypatch: pytest.MonkeyPatch) -> None:
    need(mountfd.has(mountfd.Feature.FANOTIFY_MOUNTS), "FAN_REPORT_MNT (Linux 6.15)")
    monkeypatch.setenv("MOUNTFD_ROUTE", "watch:fanotify")
    with injecting(lacking("fanotify_mark", errno=errno.EPERM)), pytest.raises(Denied) as caught:
        mountfd.watch()
    assert "CAP_SYS_ADMIN" in str(caught.value.hint)
    monkeypatch.setenv("MOUNTFD_ROUTE", "watch:smoke signals")
    with pytest.raises(InvalidSpec, match="polling"):
        mountfd.watch()


def test_polling_has_no_queue_to_make_unlimited() -> None:
    with pytest.raises(NotSupported), watching("polling", unlimited=True):
        pass


@both_routes
def test_whichever_call_fails_nothing_stays_open(route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard around each test looks for what stayed."""
    monkeypatch.setenv("MOUNTFD_ROUTE", f"watch:{route}")
    with injecting(Watch()) as counted, mountfd.watch(under="/") as events:
        events.fileno()
    for number in range(1, min(len(counted.names), 60) + 1):
        with injecting(failing(number, errno.EIO)), pytest.raises(mountfd.KernelError), mountfd.watch(under="/"):
            pass
