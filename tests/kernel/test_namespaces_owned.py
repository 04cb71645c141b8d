"""An ordinary user in the mount namespaces of that user's own runs, which belong to another user namespace."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from mountfd import Denied, Missing, MountNamespace
from mountfd.lowlevel import calls, numbers
from tests.support.namespaces import bare_root, in_user_namespace
from tests.support.need import need, need_real_root
from tests.support.others import NOBODY, in_child

need_real_root()
T = TypeVar("T")


@pytest.fixture
def place(scratch: Path) -> Path:
    scratch.chmod(0o755)
    user = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    done = subprocess.run([*user, "unshare", "--user", "true"], check=False, capture_output=True)
    need(done.returncode == 0, "user namespaces for ordinary users")
    return bare_root(scratch / "root")


@pytest.fixture
def inhabitant(place: Path) -> Iterator[int]:
    """Let a process of the user live in a user namespace and a mount namespace of its own, with a root of its own."""
    told, telling = os.pipe()
    stay, leave = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(leave)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            in_user_namespace()
            calls.mount(os.fsencode(place), os.fsencode(place), None, 0x1000, None)
            os.chdir(place)
            calls.pivot_root(b".", b".")
            calls.umount2(b".", 2)
            os.write(telling, b"x")
            os.read(stay, 1)
        finally:
            os._exit(0)
    os.close(telling)
    os.close(stay)
    try:
        assert os.read(told, 1) == b"x"
        yield pid
    finally:
        os.close(told)
        os.close(leave)
        os.waitpid(pid, 0)


def as_user(act: Callable[[], T]) -> T:
    def acted() -> T:
        calls.prctl(numbers.PR_SET_DUMPABLE, 1, 0, 0, 0)
        return act()

    return in_child(acted, NOBODY)


def said(pid: int, *argv: str, **more: object) -> tuple[int, str]:
    """Run a command in a process's mount namespace as the user; give its status and what it wrote."""

    def act() -> tuple[int, str]:
        reading, writing = os.pipe()
        os.dup2(writing, 1)
        os.close(writing)
        with MountNamespace.of(pid) as namespace:
            status = namespace.run(list(argv), **more)  # type: ignore[arg-type]
        os.close(1)
        with os.fdopen(reading, "rb") as pipe:
            return status, pipe.read().decode()

    return as_user(act)


def test_a_command_runs_there(inhabitant: int) -> None:
    assert said(inhabitant, "ls", "/") == (0, "bin\nmnt\nproc\ntmp\n")


def test_it_is_root_of_that_user_namespace(inhabitant: int) -> None:
    script = "mount -t tmpfs none /mnt && touch /mnt/new && ls /mnt"
    assert said(inhabitant, "sh", "-c", script) == (0, "new\n")


def test_its_directory_status_and_environment(inhabitant: int) -> None:
    script = 'pwd; echo "$WORD"; exit 9'
    env = {"PATH": "/nowhere:/bin", "WORD": "two words"}
    assert said(inhabitant, "sh", "-c", script, cwd="/mnt", env=env) == (9, "/mnt\ntwo words\n")
    assert said(inhabitant, "sh", "-c", "kill -9 $$")[0] == 137


def test_what_cannot_be_executed(inhabitant: int) -> None:
    with pytest.raises(Missing) as caught:
        said(inhabitant, "/no such program")
    assert (caught.value.syscall, caught.value.filename) == ("execve", "/no such program")
    with pytest.raises(Missing) as caught:
        said(inhabitant, "true", cwd="/no such\nplace")
    assert (caught.value.syscall, caught.value.filename) == ("chdir", "/no such\nplace")


def test_it_has_no_descriptor_of_the_callers(inhabitant: int) -> None:
    def act() -> str:
        with MountNamespace.of(inhabitant) as namespace:
            reading, writing = os.pipe()
            os.dup2(os.open("/", os.O_RDONLY), 9)
            os.dup2(writing, 1)
            assert namespace.run(["sh", "-c", "(: <&9) || echo closed"]) == 0
            os.close(1)
            os.close(writing)
            with os.fdopen(reading) as pipe:
                return pipe.read()

    assert as_user(act) == "closed\n"


def test_it_keeps_the_signals_that_the_caller_had_blocked(inhabitant: int) -> None:
    def act() -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        with MountNamespace.of(inhabitant) as namespace:
            return namespace.run(["sh", "-c", "kill -USR1 $$; exit 3"])

    assert as_user(act) == 3


def test_nothing_is_left_behind(inhabitant: int) -> None:
    def act() -> tuple[set[str], int]:
        before = set(os.listdir("/proc/self/fd"))
        with MountNamespace.of(inhabitant) as namespace:
            namespace.run(["true"])
            with pytest.raises(Missing):
                namespace.run(["/no such program"])
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        return set(os.listdir("/proc/self/fd")) ^ before, threading.active_count()

    assert as_user(act) == (set(), 1)


def test_an_exception_of_a_handler_kills_it(inhabitant: int) -> None:
    class Alarm(Exception):
        pass

    def ring(*_: object) -> None:
        raise Alarm

    def act() -> bool:
        signal.signal(signal.SIGALRM, ring)
        reading, writing = os.pipe()
        os.set_inheritable(writing, True)
        os.dup2(writing, 1)
        os.close(writing)

        def interrupt() -> None:
            os.read(reading, 1)
            os.kill(os.getpid(), signal.SIGALRM)

        threading.Thread(target=interrupt).start()
        with MountNamespace.of(inhabitant) as namespace, pytest.raises(Alarm):
            namespace.run(["sh", "-c", "echo; sleep 1000"])
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        return True

    assert as_user(act)


def test_among_other_threads(inhabitant: int) -> None:
    def act() -> list[int]:
        statuses: list[int] = []

        def use(status: int) -> None:
            with MountNamespace.of(inhabitant) as namespace:
                statuses.append(namespace.run(["sh", "-c", f"exit {status}"]))

        threads = [threading.Thread(target=use, args=(status,)) for status in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(statuses)

    assert as_user(act) == list(range(8))


def test_a_thread_cannot_go_there_and_what_can_is_named(inhabitant: int) -> None:
    def act() -> None:
        with MountNamespace.of(inhabitant) as namespace:
            namespace.call(os.getcwd)

    with pytest.raises(Denied) as caught:
        as_user(act)
    assert caught.value.syscall == "setns"
    assert "MountNamespace.run" in (caught.value.hint or "")
    assert "nsenter" in (caught.value.hint or "")


@pytest.mark.parametrize("how", ["call", "run"])
def test_ones_own_takes_privilege(place: Path, how: str) -> None:
    def act() -> None:
        with MountNamespace.current() as own:
            own.run(["true"]) if how == "run" else own.call(os.getcwd)

    with pytest.raises(Denied) as caught:
        as_user(act)
    assert "CAP_SYS_CHROOT" in (caught.value.hint or "")


@pytest.mark.parametrize("how", ["call", "run"])
def test_that_of_an_outer_user_namespace_is_out_of_reach(place: Path, how: str) -> None:
    def act() -> None:
        with MountNamespace.current() as outer:
            in_user_namespace()
            outer.run(["true"]) if how == "run" else outer.call(os.getcwd)

    with pytest.raises(Denied) as caught:
        as_user(act)
    assert "outside of this process's" in (caught.value.hint or "")


def test_somebody_elses_user_namespace_is_refused_in_words(inhabitant: int) -> None:
    namespace = MountNamespace.of(inhabitant)

    def act() -> None:
        with namespace:
            namespace.run(["true"])

    with namespace, pytest.raises(Denied) as caught:
        in_child(act, NOBODY - 1)
    assert "only who made a user namespace" in (caught.value.hint or "")
