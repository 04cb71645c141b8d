"""Thousands of namespaces made and dropped: nothing is left, and no memory grows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mountfd
from mountfd import Feature
from tests.support.need import namespaces_can_be_walked

# MOUNTFD_TEST_NAMESPACES=10000 is the long form; bench/namespace does as many.
NAMESPACES = int(os.environ.get("MOUNTFD_TEST_NAMESPACES", "5000"))

SCRIPT = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from mountfd import MountNamespace
from mountfd.lowlevel import drop_caches

def stock():
    drop_caches()
    tasks, fds = os.listdir("/proc/self/task"), os.listdir("/proc/self/fd")
    return len(tasks), len(fds), Path("/proc/self/mountinfo").read_bytes()

def resident():
    return int(Path("/proc/self/smaps_rollup").read_text().split("Rss:")[1].split()[0])

place, count, can_walk = sys.argv[2], int(sys.argv[3]), sys.argv[4] == "True"
MountNamespace.new(place).close()
before, memory, ids = stock(), 0, []
for number in range(count):
    with MountNamespace.new(place) as made:
        ids += [made.id] if can_walk else []
    if number + 1 == count // 5:
        memory = resident()
    del ids[:-100]
grown = resident() - memory

def alive():
    if not can_walk:
        return
    with MountNamespace.current() as own:
        for namespace in own.others():
            with namespace:
                yield namespace.id

# A busy machine drops threads and namespaces some time after their end.
deadline = time.monotonic() + 20
while (stock() != before or set(ids) & set(alive())) and time.monotonic() < deadline:
    time.sleep(0.01)
assert stock() == before
assert grown < 512, f"{grown} KiB more"
assert not set(ids) & set(alive())
print("fine")
"""


def test_thousands_leave_nothing(scratch: Path) -> None:
    source = str(Path(mountfd.__file__).parent.parent)
    line = [sys.executable, "-I", "-c", SCRIPT, source, str(scratch), str(NAMESPACES), str(namespaces_can_be_walked())]
    done = subprocess.run(line, check=False, capture_output=True, text=True)
    assert (done.stderr, done.stdout) == ("", "fine\n")


def test_the_template_does_without_the_hosts_table_however_often(scratch: Path) -> None:
    """What a route costs is in the calls it makes, and those don't change with the number of namespaces."""
    from tests.support.inject import Watch, watching
    from tests.support.namespaces import forced

    route = "open_tree" if mountfd.has(Feature.OPEN_TREE_NAMESPACE) else "template"
    with forced(route):
        mountfd.MountNamespace.new(scratch).close()
        made = []
        for _ in range(3):
            with watching(Watch()) as watch:
                mountfd.MountNamespace.new(scratch).close()
            made.append([name for name in watch.names if name != "ioctl"])
    assert made[1] == made[2]
    assert len(made[2]) < 40
