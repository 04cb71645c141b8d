"""run() as a library call: what it does to the process that calls it, and roots of the caller's own."""

from __future__ import annotations

import gc
import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import mountfd
from mountfd import IdMap, InvalidSpec, Layer, Mount, Overlay
from mountfd.errors import KernelError, Missing
from mountfd.model.command import Bind
from tests.support.need import need_idmapped_tmpfs, need_real_root
from tests.support.rootfs import small_root

need_real_root()


@pytest.fixture
def root(scratch: Path) -> Path:
    """A small root filesystem."""
    return small_root(scratch / "root")


def output(scratch: Path, script: str, **surroundings: object) -> str:
    """Run a script that writes into a directory of the host, and give what it wrote."""
    place = scratch / "output"
    place.mkdir(exist_ok=True)
    bind = Bind(str(place), "/output")
    assert mountfd.run(["/bin/sh", "-c", f"( {script} ) > /output/text 2>&1"], binds=[bind], **surroundings) == 0  # type: ignore[arg-type]
    return (place / "text").read_text().strip()


# --- the caller ----------------------------------------------------------------------------------------------------
def test_the_status_is_given() -> None:
    assert mountfd.run(["sh", "-c", "exit 3"]) == 3
    assert mountfd.run(["sh", "-c", "kill -KILL $$"]) == 137


def test_what_cant_be_executed_is_raised() -> None:
    with pytest.raises(Missing) as caught:
        mountfd.run(["no-such-program"])
    assert (caught.value.syscall, caught.value.filename) == ("execve", "no-such-program")
    with pytest.raises(KernelError) as other:
        mountfd.run(["/etc/passwd"])
    assert other.value.syscall == "execve"


def test_an_error_from_inside_carries_its_hint(scratch: Path) -> None:
    (scratch / "file").write_text("")
    with pytest.raises(KernelError, match="move_mount") as caught:
        mountfd.run(["true"], binds=[Bind(str(scratch / "file"), "/etc")])
    assert caught.value.hint is not None
    assert "directory" in caught.value.hint


def test_nothing_changes_for_the_caller() -> None:
    mask, umask = signal.pthread_sigmask(signal.SIG_BLOCK, []), os.umask(0o22)
    os.umask(umask)
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    place = os.getcwd(), os.environ.copy(), gc.isenabled()
    mountfd.run(["true"])
    with pytest.raises(Missing):
        mountfd.run(["no-such-program"])
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
    assert os.umask(umask) == umask
    assert [signal.getsignal(number) for number in signal.valid_signals()] == handlers
    assert (os.getcwd(), os.environ.copy(), gc.isenabled()) == place


def test_a_caller_with_many_threads() -> None:
    stop = threading.Event()
    statuses: list[int] = []

    def churn() -> None:
        while not stop.is_set():
            sorted(os.urandom(200))

    def call(number: int) -> None:
        statuses.append(mountfd.run(["sh", "-c", f"exit {number}"]))

    busy = [threading.Thread(target=churn) for _ in range(2)]
    calls = [threading.Thread(target=call, args=(number,)) for number in range(1, 6)]
    for thread in [*busy, *calls]:
        thread.start()
    for thread in calls:
        thread.join()
    stop.set()
    for thread in busy:
        thread.join()
    assert sorted(statuses) == [1, 2, 3, 4, 5]


def test_an_error_in_one_of_many_threads() -> None:
    raised: list[BaseException] = []

    def call() -> None:
        try:
            mountfd.run(["no-such-program"])
        except Missing as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert len(raised) == 1


def test_the_end_of_the_callers_own_child_is_not_swallowed() -> None:
    heard: list[int] = []
    previous = signal.signal(signal.SIGCHLD, lambda *_: heard.append(1))
    try:
        pid = os.fork()
        if pid == 0:
            time.sleep(0.05)
            os._exit(0)
        assert mountfd.run(["sleep", "0.3"]) == 0
        assert heard
        assert os.waitpid(pid, 0) == (pid, 0)
    finally:
        signal.signal(signal.SIGCHLD, previous)


def test_ignored_children_are_no_obstacle_but_in_a_thread() -> None:
    previous = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    raised: list[BaseException] = []

    def call() -> None:
        try:
            mountfd.run(["true"])
        except InvalidSpec as error:
            raised.append(error)

    try:
        assert mountfd.run(["sh", "-c", "exit 4"]) == 4
        assert signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    finally:
        signal.signal(signal.SIGCHLD, previous)
    assert len(raised) == 1


def test_a_callers_pipe_ends_when_the_caller_says_so() -> None:
    read, write = os.pipe()

    def close_soon() -> None:
        time.sleep(0.2)
        os.close(write)
        assert os.read(read, 1) == b""  # nobody inside keeps the other end open
        ended.append(time.monotonic())

    ended: list[float] = []
    thread = threading.Thread(target=close_soon)
    thread.start()
    mountfd.run(["sleep", "0.6"])
    returned = time.monotonic()
    thread.join()
    os.close(read)
    assert ended[0] < returned - 0.1


def test_a_note_that_raises_leaves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    from mountfd.verbs.run import outside

    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("mountfd.verbs.run.following.Vigil.wait", interrupted)
    assert outside
    with pytest.raises(KeyboardInterrupt):
        mountfd.run(["sleep", "1051"])


def test_the_environment_is_the_whole_one(scratch: Path) -> None:
    need_idmapped_tmpfs()
    assert (
        output(scratch, "cat /proc/self/environ | tr '\\0' '\\n' | grep -v ^PWD=", env={"ONLY": "this"}) == "ONLY=this"
    )


# --- roots ---------------------------------------------------------------------------------------------------------
def test_layers_are_all_there_is(root: Path, scratch: Path) -> None:
    out = output(scratch, "ls /; id -u; echo new > /etc/new; cat /etc/new", layers=[str(root)], net="none")
    assert {"bin", "dev", "etc", "proc", "sys", "tmp"} <= set(out.split())
    assert out.endswith("0\nnew")
    assert sorted(os.listdir(root / "etc")) == []
    assert not (root / "proc").exists()


def test_upper_layers_come_first(root: Path, scratch: Path) -> None:
    (root / "etc" / "who").write_text("lower")
    top = scratch / "top"
    (top / "etc").mkdir(parents=True)
    (top / "etc" / "who").write_text("top")
    assert output(scratch, "cat /etc/who", layers=[str(top), str(root)]) == "top"


@pytest.fixture
def victim() -> Iterator[Path]:
    """A directory of the host that a hostile layer aims at."""
    place = Path(tempfile.mkdtemp(prefix="mountfd-victim-", dir="/var/tmp"))
    yield place
    place.rmdir()


@pytest.mark.parametrize("name", ["dev", "proc", "sys", "tmp", "etc/resolv.conf", "output"])
@pytest.mark.parametrize(
    "target", ["{}", "../../../../../../../..{}", "/nowhere/at/all", "/proc/1/root{}", "/proc/1/cwd{}"]
)
def test_symlinks_in_a_layer_lead_nowhere_outside(
    root: Path, scratch: Path, victim: Path, name: str, target: str
) -> None:
    need_idmapped_tmpfs()
    (root / name).symlink_to(target.format(victim))
    before = Path("/proc/self/mountinfo").read_text()
    if name in ("dev", "proc", "sys"):
        with pytest.raises(KernelError, match="symbolic links"):
            output(scratch, "true", layers=[str(root)])
    elif "proc" in target:
        status_or_error(root, scratch)
    else:
        assert output(scratch, "echo x > /dev/null; touch /tmp/x; echo fine", layers=[str(root)]) == "fine"
    assert os.listdir(victim) == []
    assert Path("/proc/self/mountinfo").read_text() == before
    assert os.path.islink(root / name)


def status_or_error(root: Path, scratch: Path) -> None:
    try:
        mountfd.run(["/bin/sh", "-c", "touch /tmp/x"], layers=[str(root)], binds=[Bind(str(scratch), "/output")])
    except KernelError as error:
        assert error.filename is not None  # noqa: PT017


def test_something_over_proc_is_the_callers_choice() -> None:
    assert mountfd.run(["sh", "-c", "test ! -e /proc/self"], tmpfs=["/proc"]) == 0


def test_a_symlink_to_itself_is_an_error(root: Path) -> None:
    (root / "dev").symlink_to("dev")
    with pytest.raises(KernelError):
        mountfd.run(["/bin/sh"], layers=[str(root)])


def test_a_file_where_a_directory_must_be_is_an_error(root: Path) -> None:
    (root / "proc").write_text("")
    with pytest.raises(KernelError) as caught:
        mountfd.run(["/bin/sh"], layers=[str(root)])
    assert caught.value.hint is not None


def test_device_files_in_a_layer_are_dead(root: Path, scratch: Path) -> None:
    os.mknod(root / "zero", 0o666 | 0o020000, os.makedev(1, 5))
    assert "Permission denied" in output(scratch, "LC_ALL=C cat /zero; true", layers=[str(root)])


def test_layers_below_a_kept_mount(root: Path, scratch: Path) -> None:
    with Mount.clone(str(root.parent)) as base:
        assert output(scratch, "echo fine", layers=[Layer("root", base=base)]) == "fine"


def test_a_root_of_the_callers_own(root: Path, scratch: Path) -> None:
    idmap = IdMap.parse("0:300000:65536")
    for name in ("upper", "work"):
        (scratch / name).mkdir()
    os.chown(scratch / "upper", 300000, 300000)
    mount = mountfd.assemble(
        Overlay(lower=[str(root)], upper=str(scratch / "upper"), work=str(scratch / "work"), idmap=idmap)
    )
    assert output(scratch, "id -u; touch /made", root=mount, idmap=idmap) == "0"
    assert mount.closed
    assert os.stat(scratch / "upper" / "made").st_uid == 300000


def test_a_root_is_closed_also_when_it_fails(root: Path) -> None:
    mount = Mount.clone(str(root))
    with pytest.raises(KernelError):
        mountfd.run(["/bin/sh"], root=mount, binds=[Bind("/nonexistent")])
    assert mount.closed


def test_every_route_makes_the_same_root(route: str, scratch: Path) -> None:
    need_idmapped_tmpfs()
    there = Path(json.__file__).parent
    script = f"id -u; touch /etc/x; rm -r {there}; ls {there} 2>/dev/null || echo gone"
    assert output(scratch, script) == "0\ngone"
    assert there.is_dir()


def test_without_a_user_namespace(scratch: Path) -> None:
    out = output(scratch, "readlink /proc/self/ns/user; touch /etc/x; stat -c %u /etc/x", idmap=None)
    assert out == os.readlink("/proc/self/ns/user") + "\n0"
    assert not os.path.exists("/etc/x")
