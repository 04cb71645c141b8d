"""Whether the command's root is laid out in a tiny namespace or in a copy of the host's, the command can't tell."""

from __future__ import annotations

from pathlib import Path

import pytest

import mountfd
from mountfd import Feature
from tests.support.need import need, need_real_root
from tests.support.program import VISIBLE
from tests.support.program import mountfd as program

SCRIPT = """
cut -d' ' -f5- /proc/self/mountinfo | sed 's/ - .*//; s/master:[0-9]* //; s/shared:[0-9]* //'
cat /proc/self/uid_map
mount -o remount,bind,rw /mnt 2>/dev/null; touch /mnt/x 2>/dev/null || echo locked
umount /mnt 2>/dev/null || echo stays
ls /
"""


@pytest.fixture(autouse=True)
def routes() -> None:
    need_real_root()
    need(mountfd.has(Feature.MOUNT_INSIDE_DETACHED), "mounts inside a detached tree (Linux 6.15)")


def test_both_ways_give_the_same(scratch: Path) -> None:
    (scratch / "shown").mkdir()
    (scratch / "shown").chmod(0o777)
    seen = {}
    for route in ("tiny", "copy"):
        done = program(
            *("run", *VISIBLE, "--bind", f"{scratch}/shown:/mnt:ro", "--", "sh", "-c", SCRIPT),
            env={"MOUNTFD_ROUTE": f"run:{route}"},
        )
        assert done.returncode == 0, done.stderr
        seen[route] = done.stdout
    assert "locked\n" in seen["tiny"]
    assert "stays\n" in seen["tiny"]
    assert seen["tiny"] == seen["copy"]


def test_from_the_second_command_on_no_table_is_copied(capfd: pytest.CaptureFixture[str]) -> None:
    notes: list[str] = []
    with mountfd.trace(notes.append):
        for _ in range(2):
            assert mountfd.run(["true"]) == 0
    told = [note for note in notes if "route" in note and "run:" in note]
    assert len(told) == 2
    assert "tiny" in told[1]
