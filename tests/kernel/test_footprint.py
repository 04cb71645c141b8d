"""What others can see of an assembly: one call, one line, and nothing before it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mountfd
from mountfd import Overlay
from tests.support.layers import SHIFTED, assembled, layers, table
from tests.support.need import need, need_command

pytestmark = pytest.mark.usefixtures("real_root")

SCRIPT = """
import os, sys
import mountfd
scratch = sys.argv[1]
idmap = mountfd.IdMap.parse("0:100000:65536")

def assemble():
    return mountfd.assemble(mountfd.Overlay([f"{scratch}/l{i}" for i in range(10)], idmap=idmap))

assemble().close()  # probes the kernel, once for each process
os.access("/begin-of-what-counts", os.F_OK)
with assemble() as root:
    root.attach(f"{scratch}/here")
os.access("/end-of-what-counts", os.F_OK)
"""


def test_only_one_call_attaches_anything(scratch: Path) -> None:
    need(mountfd.has(mountfd.Feature.OVERLAY_LAYER_DETACHED), "overlay layers given as descriptors (Linux 6.15)")
    strace = need_command("strace")
    layers(scratch, 10)
    (scratch / "here").mkdir()
    trace = scratch / "trace"
    source = Path(mountfd.__file__).parent.parent
    done = subprocess.run(
        [strace, "-f", "-o", str(trace), sys.executable, "-c", SCRIPT, str(scratch)],
        check=False,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(source), "PATH": "/usr/bin:/bin"},
    )
    need("ptrace" not in done.stderr.lower(), f"ptrace ({done.stderr.strip()})")
    assert done.returncode == 0, done.stderr
    try:
        text = trace.read_text(errors="replace").split("begin-of-what-counts")[1].split("end-of-what-counts")[0]
        made = re.findall(r"^(?:\d+ +)?(\w+)\(", text, flags=re.MULTILINE)
        counts = {name: made.count(name) for name in set(made)}
        assert counts.get("move_mount") == 1
        assert counts.get("fsconfig", 0) >= 11
        assert counts.get("open_tree") == 1
        assert counts.get("mount_setattr") == 1
        unwanted = {"mount", "umount2", "mkdir", "mkdirat", "rmdir", "unlink", "fork", "vfork", "execve", "unshare"}
        assert not unwanted & set(counts)
        lines = [line for line in table() if f" {scratch}/here ".encode() in line]
        assert len(lines) == 1
    finally:
        subprocess.run(["umount", str(scratch / "here")], check=True)


def test_table_gains_one_line(route: str, scratch: Path) -> None:
    lower, point = layers(scratch, 10), scratch / "here"
    point.mkdir()
    before = table()
    with assembled(Overlay(lower, idmap=SHIFTED)) as root:
        assert table() == before
        root.attach(point)
        after = table()
    assert [line for line in after if line in before] == before
    assert len(after) == len(before) + 1
    subprocess.run(["umount", str(point)], check=True)
    assert table() == before
