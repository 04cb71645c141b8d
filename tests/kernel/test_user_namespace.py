from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from mountfd import Denied, Gone, IdMap, KernelError, UserNamespace
from mountfd.handles.namespace import shared_user_namespace
from mountfd.lowlevel import calls, drop_caches, numbers
from tests.support.inject import Watch, watching
from tests.support.others import NOBODY, in_child

pytestmark = pytest.mark.usefixtures("real_root")


def identity(namespace: UserNamespace) -> str:
    return os.readlink(f"/proc/self/fd/{namespace.fileno()}")


def test_new_namespace_is_another_one() -> None:
    with UserNamespace.new(IdMap.parse("0:100000:65536")) as made:
        assert identity(made).startswith("user:")
        assert identity(made) != os.readlink("/proc/self/ns/user")
        assert not os.get_inheritable(made.fileno())


def test_namespace_of_a_process() -> None:
    with UserNamespace.of(os.getpid()) as own:
        assert identity(own) == os.readlink("/proc/self/ns/user")


def test_namespace_of_no_process() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(Gone, match=str(child)):
        UserNamespace.of(child)


def test_largest_map_that_the_kernel_takes() -> None:
    with UserNamespace.new(IdMap.parse(",".join(f"{i}:{i + 1000}:1" for i in range(0, 680, 2)))) as made:
        assert identity(made)


def test_same_map_is_made_once_and_kept() -> None:
    drop_caches()
    one, two = IdMap.parse("0:100000:10"), IdMap.parse("0:100000:10")
    assert shared_user_namespace(one) is shared_user_namespace(two)
    assert shared_user_namespace(IdMap.parse("0:100001:10")) is not shared_user_namespace(one)


def test_few_are_kept_and_one_in_use_stays_open() -> None:
    drop_caches()
    before = len(os.listdir("/proc/self/fd"))
    used = shared_user_namespace(IdMap.parse("0:1:1"))
    for i in range(2, 102):
        shared_user_namespace(IdMap.parse(f"0:{i}:1"))
    assert len(os.listdir("/proc/self/fd")) == before + 17
    assert identity(used)
    drop_caches()
    assert identity(used)
    del used
    assert len(os.listdir("/proc/self/fd")) == before


def test_signal_mask_is_as_before() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    UserNamespace.new(IdMap.parse("0:5:1")).close()
    with pytest.raises(KernelError):
        in_child(lambda: UserNamespace.new(IdMap.parse("0:5:2")).close(), NOBODY)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_signals_while_making_one_lose_nothing() -> None:
    heard = []
    before = signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for i in range(200):
            UserNamespace.new(IdMap.parse(f"0:{i}:1")).close()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert heard


def test_handler_that_raises_leaves_nothing() -> None:
    class Alarm(Exception):
        pass

    def ring(*_: object) -> None:
        raise Alarm

    def ringing_at(number: int) -> Watch:
        def decide(count: int, _name: str, _arguments: tuple[object, ...]) -> int:
            if count == number:
                os.kill(os.getpid(), signal.SIGALRM)
            return 0

        return Watch(decide)

    idmap = IdMap.parse("0:5:1")
    with watching(Watch()) as seen:
        UserNamespace.new(idmap).close()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    before = signal.signal(signal.SIGALRM, ring)
    fds = sorted(os.listdir("/proc/self/fd"))
    try:
        for number in range(1, len(seen.names) + 1):
            with watching(ringing_at(number)), pytest.raises(Alarm):
                UserNamespace.new(idmap)
            assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
            assert sorted(os.listdir("/proc/self/fd")) == fds
    finally:
        signal.signal(signal.SIGALRM, before)


def test_ordinary_user_maps_only_itself() -> None:
    link = in_child(lambda: _made(f"0:{NOBODY}:1"), NOBODY)
    assert link.startswith("user:")
    with pytest.raises(Denied) as caught:
        in_child(lambda: _made("0:100000:10"), NOBODY)
    assert "CAP_SETUID" in str(caught.value.hint)


def _made(idmap: str) -> str:
    # A process that has changed its ids is closed to itself, too, until it says otherwise.
    calls.prctl(numbers.PR_SET_DUMPABLE, 1, 0, 0, 0)
    with UserNamespace.new(IdMap.parse(idmap)) as made:
        return identity(made)


def test_children_of_others_are_left_alone() -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(7)
    try:
        UserNamespace.new(IdMap.parse("0:5:1")).close()
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
    finally:
        os.close(reading)
        os.close(writing)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_32_threads_while_others_allocate_memory() -> None:
    """A child shares this process's memory: it must never meet a stack that is used for something else."""
    failures: list[BaseException] = []
    done = threading.Event()

    def make(number: int) -> None:
        try:
            for i in range(20):
                UserNamespace.new(IdMap.parse(f"0:{number * 1000 + i}:1")).close()
        except BaseException as error:  # noqa: BLE001 (shown below)
            failures.append(error)

    def allocate() -> None:
        while not done.is_set():
            for block in [bytearray(b"\xff" * size) for size in (512, 16384, 16400, 1 << 20)]:
                block[0] = 1

    workers = [threading.Thread(target=make, args=(i,)) for i in range(32)]
    churners = [threading.Thread(target=allocate) for _ in range(4)]
    for thread in churners + workers:
        thread.start()
    for thread in workers:
        thread.join()
    done.set()
    for thread in churners:
        thread.join()
    assert failures == []


def test_many_threads_share_the_cache(scratch: Path) -> None:
    drop_caches()
    failures: list[BaseException] = []

    def use(number: int) -> None:
        try:
            for i in range(100):
                assert identity(shared_user_namespace(IdMap.parse(f"0:{(number * 7 + i) % 100 + 1}:1")))
                if i % 25 == number % 25:
                    drop_caches()
        except BaseException as error:  # noqa: BLE001 (shown below)
            failures.append(error)

    threads = [threading.Thread(target=use, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
