"""A command in a mount namespace: its root, words, directory and environment; its status; what disturbs it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from mountfd import Denied, InvalidSpec, KernelError, LimitReached, Missing, MountfdError, MountNamespace, NotDirectory
from mountfd.lowlevel import calls
from tests.support.inject import Watch, failing, watching
from tests.support.namespaces import bare_root
from tests.support.others import in_child


@pytest.fixture
def namespace(scratch: Path) -> Iterator[MountNamespace]:
    with MountNamespace.new(bare_root(scratch / "root")) as made:
        yield made


def said(namespace: MountNamespace, script: str, **more: object) -> str:
    """Run a shell there, in a child whose standard output is a pipe; give what it wrote."""
    reading, writing = os.pipe()

    def body() -> int:
        os.dup2(writing, 1)
        return namespace.run(["/bin/sh", "-c", script], **more)  # type: ignore[arg-type]

    try:
        assert in_child(body) == 0
    finally:
        os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        return pipe.read().decode(errors="surrogateescape")


@pytest.mark.parametrize("status", [0, 1, 125, 126, 127, 255])
def test_its_status(namespace: MountNamespace, status: int) -> None:
    assert namespace.run(["/bin/sh", "-c", f"exit {status}"]) == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE])
def test_128_and_the_signal_that_ended_it(namespace: MountNamespace, number: int) -> None:
    assert namespace.run(["/bin/sh", "-c", f"kill -{int(number)} $$"]) == 128 + number


def test_its_root_is_the_namespaces(namespace: MountNamespace) -> None:
    assert said(namespace, "ls /; pwd") == "bin\nmnt\nproc\ntmp\n/\n"


def test_its_directory_is_inside(namespace: MountNamespace) -> None:
    assert said(namespace, "pwd", cwd="/mnt") == "/mnt\n"
    assert said(namespace, "pwd", cwd="mnt/../proc") == "/proc\n"


def test_words_are_given_as_they_are(namespace: MountNamespace) -> None:
    words = ["/bin/sh", "-c", 'test "$1" = "$0" && test -n "$1"', "a b\n\udcff*", "a b\n\udcff*"]
    assert namespace.run(words) == 0
    assert namespace.run([os.fsencode(word) for word in words]) == 0  # type: ignore[misc]


def test_its_environment(namespace: MountNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "of the caller")
    assert said(namespace, "echo $MINE") == "of the caller\n"
    assert said(namespace, "echo $MINE$OTHER", env={"OTHER": "given"}) == "given\n"


def test_a_program_without_a_slash_is_looked_for_along_the_path_it_gets(
    namespace: MountNamespace, scratch: Path
) -> None:
    assert namespace.run(["true"], env={"PATH": "/nowhere:/bin"}) == 0
    (scratch / "root" / "mnt" / "true").mkdir()  # no program, and no reason to look no further
    assert namespace.run(["true"], env={"PATH": "/mnt:/bin"}) == 0
    with pytest.raises(Missing):
        namespace.run(["true"], env={"PATH": "/proc"})
    with pytest.raises(Denied):
        namespace.run(["true"], env={"PATH": "/mnt"})


def test_a_program_of_the_hosts_is_out_of_reach(namespace: MountNamespace, scratch: Path) -> None:
    outside = scratch / "outside"
    outside.write_bytes((scratch / "root/bin/busybox").read_bytes())
    outside.chmod(0o755)
    with pytest.raises(Missing) as caught:
        namespace.run([str(outside)])
    assert (caught.value.syscall, caught.value.filename) == ("execve", str(outside))


@pytest.mark.parametrize(
    ("argv", "kind"),
    [(["/bin/none"], Missing), (["none"], Missing), (["/bin"], Denied), (["/bin/sh/x"], KernelError)],
)
def test_what_cannot_be_executed(namespace: MountNamespace, argv: list[str], kind: type[KernelError]) -> None:
    with pytest.raises(kind) as caught:
        namespace.run(argv)
    assert (caught.value.syscall, caught.value.filename) == ("execve", argv[0])


def test_a_text_without_an_interpreter_is_no_program(namespace: MountNamespace, scratch: Path) -> None:
    script = scratch / "root" / "script"
    script.write_text("true\n")
    script.chmod(0o755)
    with pytest.raises(KernelError, match="Exec format error"):
        namespace.run(["/script"])
    script.write_text("#!/bin/none\n")
    with pytest.raises(Missing):
        namespace.run(["/script"])
    script.write_text("#!/bin/sh\nexit 9\n")
    assert namespace.run(["/script"]) == 9


@pytest.mark.parametrize(("cwd", "kind"), [("/none", Missing), ("/bin/busybox", NotDirectory)])
def test_a_directory_that_cannot_be_entered(namespace: MountNamespace, cwd: str, kind: type[KernelError]) -> None:
    with pytest.raises(kind) as caught:
        namespace.run(["/bin/true"], cwd=cwd)
    assert (caught.value.syscall, caught.value.filename) == ("chdir", cwd)


@pytest.mark.parametrize("argv", [[], [""], "true", b"true", ["/bin/true", "a\0b"]])
def test_what_can_be_no_command(namespace: MountNamespace, argv: Sequence[str]) -> None:
    with pytest.raises(InvalidSpec) as caught:
        namespace.run(argv)
    assert caught.value.part == "argv"


def test_a_closed_namespace(namespace: MountNamespace) -> None:
    namespace.close()
    with pytest.raises(InvalidSpec, match="closed"):
        namespace.run(["/bin/true"])


def test_it_inherits_no_descriptor_but_the_standard_ones(namespace: MountNamespace, scratch: Path) -> None:
    fd = os.open(scratch, os.O_RDONLY)
    try:
        script = f"! true 2>/dev/null <&{fd} && ! true 2>/dev/null <&{namespace.fileno()}"
        assert namespace.run(["/bin/sh", "-c", script]) == 0
    finally:
        os.close(fd)


def signals_of(namespace: MountNamespace, kind: str) -> set[int]:
    """List the signals that are blocked (SigBlk) or ignored (SigIgn) for a command."""
    namespace.call(_mount_proc)
    (line,) = (line for line in said(namespace, "cat /proc/self/status").splitlines() if line.startswith(kind))
    bits = int(line.split()[1], 16)
    return {number for number in range(1, 65) if bits >> (number - 1) & 1}


def _mount_proc() -> None:
    if not os.path.exists("/proc/self"):
        calls.mount(b"proc", b"/proc", b"proc", 0, None)


def test_what_python_ignores_the_command_does_not(namespace: MountNamespace) -> None:
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN
    assert not signals_of(namespace, "SigIgn") & {signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD}


def test_signals_are_blocked_as_they_were(namespace: MountNamespace) -> None:
    assert signals_of(namespace, "SigBlk") == set()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        assert signals_of(namespace, "SigBlk") == {signal.SIGUSR1}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_our_signal_mask_is_as_before(namespace: MountNamespace) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    namespace.run(["/bin/true"])
    with pytest.raises(Missing):
        namespace.run(["/bin/none"])
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_many_at_once(namespace: MountNamespace) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(10):
                assert namespace.run(["/bin/sh", "-c", f"exit {number}"]) == number
        except BaseException as error:  # noqa: BLE001 (shown below)
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.fixture
def reaper() -> Iterator[list[int]]:
    """Handle SIGCHLD as many a program does: wait for whoever has ended."""
    found: list[int] = []

    def reap(*_: object) -> None:
        try:
            while (pid := os.waitpid(-1, os.WNOHANG)[0]) > 0:
                found.append(pid)
        except ChildProcessError:
            pass

    before = signal.signal(signal.SIGCHLD, reap)
    yield found
    signal.signal(signal.SIGCHLD, before)


def test_a_handler_that_waits_for_everybody_takes_no_status(namespace: MountNamespace, reaper: list[int]) -> None:
    idle = threading.Event()
    bystander = threading.Thread(target=idle.wait)  # who has SIGCHLD not held back
    bystander.start()
    try:
        assert {namespace.run(["/bin/sh", "-c", "exit 5"]) for _ in range(50)} == {5}
    finally:
        idle.set()
        bystander.join()


def test_a_handler_hears_of_other_children_afterwards(namespace: MountNamespace, reaper: list[int]) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert namespace.run(["/bin/sleep", "0.2"]) == 0
    assert child in reaper


def test_ignored_children_have_a_status_all_the_same(namespace: MountNamespace) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert namespace.run(["/bin/sh", "-c", "exit 5"]) == 5
        assert signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN
        raised: list[BaseException] = []

        def elsewhere() -> None:
            try:
                namespace.run(["/bin/true"])
            except InvalidSpec as error:
                raised.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert len(raised) == 1
    finally:
        signal.signal(signal.SIGCHLD, before)


class Alarm(Exception):
    pass


def ring(*_: object) -> None:
    raise Alarm


def interrupted(act: Callable[[], object], after: float) -> None:
    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, after)
        with pytest.raises(Alarm):
            act()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_exception_of_a_handler_ends_the_command(namespace: MountNamespace) -> None:
    interrupted(lambda: namespace.run(["/bin/sleep", "20"]), 0.1)  # the guard looks for the child


def test_an_exception_at_each_call_leaves_nothing(namespace: MountNamespace) -> None:
    def ringing_at(number: int) -> Watch:
        def decide(count: int, _name: str, _arguments: tuple[object, ...]) -> int:
            if count == number:
                os.kill(os.getpid(), signal.SIGALRM)
            return 0

        return Watch(decide)

    with watching(Watch()) as seen:
        namespace.run(["/bin/true"])
    before = signal.signal(signal.SIGALRM, ring)
    try:
        for number in range(1, len(seen.names) + 1):
            with watching(ringing_at(number)), pytest.raises(Alarm):
                namespace.run(["/bin/sleep", "20"])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert seen.names == ["unshare", "setns", "pidfd_open"]


def test_a_command_that_cannot_be_held_is_ended(namespace: MountNamespace) -> None:
    with watching(failing(3, 24)) as watch, pytest.raises(LimitReached):
        namespace.run(["/bin/sleep", "20"])
    assert watch.hit == "pidfd_open"


def test_somebody_else_who_waited_for_it_is_named(namespace: MountNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.waitid

    def late(kind: int, fd: int, options: int) -> object:
        real(kind, fd, options)
        return real(kind, fd, options)

    monkeypatch.setattr(os, "waitid", late)
    with pytest.raises(MountfdError, match="somebody else"):
        namespace.run(["/bin/true"])
