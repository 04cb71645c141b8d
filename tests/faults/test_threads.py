"""Many threads at once, in a process that is busy with its memory."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from mountfd import IdMap, Layer, Overlay, assemble
from tests.faults.stock import stock
from tests.support.layers import content, layers

pytestmark = pytest.mark.usefixtures("real_root")

THREADS = 32
# MOUNTFD_TEST_ASSEMBLIES=200 is the long form, which takes some minutes on a small machine.
ASSEMBLIES = int(os.environ.get("MOUNTFD_TEST_ASSEMBLIES", "20"))


def test_threads_assemble_while_others_allocate_memory(scratch: Path) -> None:
    lower = layers(scratch, 3)
    assemble(Overlay(lower)).close()
    before = stock()
    failures: list[BaseException] = []
    finished: list[int] = []
    done = threading.Event()

    def work(number: int) -> None:
        try:
            for i in range(ASSEMBLIES):
                own = IdMap.parse(f"0:{number * 1000 + i + 1}:65536")
                shared = IdMap.parse(f"0:{i + 1}:10")
                overlay = Overlay([Layer(lower[0], own), *lower[1:]], idmap=shared)
                with assemble(overlay) as root:
                    assert content(root)["own2"] == "2"
                    owners = [os.stat(f"own{n}", dir_fd=root.fileno()).st_uid for n in range(3)]
                    assert owners == [number * 1000 + i + 1, i + 1, i + 1]
                finished.append(number)
        except BaseException as error:  # noqa: BLE001 (shown below)
            failures.append(error)

    def churn() -> None:
        while not done.is_set():
            blocks = [bytearray(b"\xff" * size) for size in (512, 16384, 16400, 65536)]
            blocks.clear()
            done.wait(0)

    churners = [threading.Thread(target=churn) for _ in range(2)]
    workers = [threading.Thread(target=work, args=(i,)) for i in range(THREADS)]
    for thread in churners + workers:
        thread.start()
    for thread in workers:
        thread.join()
    done.set()
    for thread in churners:
        thread.join()
    assert failures == []
    assert len(finished) == THREADS * ASSEMBLIES
    assert stock()[:2] == before[:2]
