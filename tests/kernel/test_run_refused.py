"""run where the kernel, or what stands around it, refuses what is needed: that is said, and no program is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountfd import Feature
from tests.kernel.test_run_ordinary import ordinary
from tests.support.need import need, need_command, need_real_root
from tests.support.program import MOUNTFD, VISIBLE, mountfd

need_real_root()

WITHOUT_OPENAT2 = f"""
import errno, os, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.support import seccomp
seccomp.NUMBERS["openat2"] = 437
seccomp.forbid("openat2", errno=errno.EPERM)
os.execv(sys.argv[1], sys.argv[1:])
"""
SANDBOX = [sys.executable, "-c", WITHOUT_OPENAT2]


def test_what_refuses_every_directory_is_raised_once_for_an_ordinary_user() -> None:
    done = ordinary("run", "--", "id", before=SANDBOX)
    assert done.returncode == 125
    assert "openat2: Operation not permitted" in done.stderr
    assert "hint: a seccomp filter" in done.stderr
    assert "left out" not in done.stderr
    assert "execve" not in done.stderr


def test_what_refuses_the_root_names_it() -> None:
    done = mountfd("run", "--", "id", before=SANDBOX)
    assert done.returncode == 125
    assert done.stderr.split("\n")[0] == "mountfd: openat2: Operation not permitted: '/'"
    assert "hint: a seccomp filter" in done.stderr
    assert "--idmap" not in done.stderr


def test_a_fuse_that_is_closed_is_raised_with_its_hint() -> None:
    need_command("fuse-overlayfs")
    need(Path("/etc/shadow").exists(), "/etc/shadow")
    done = ordinary(
        "run", "--", "id", wrap="mount --bind /etc/shadow /dev/fuse && ", before=["env", "MOUNTFD_ROUTE=assemble:fuse"]
    )
    assert done.returncode == 125
    assert "/dev/fuse" in done.stderr
    assert "hint: " in done.stderr
    assert "left out" not in done.stderr


@pytest.mark.parametrize("more", [[], ["--idmap", "0:5:10"]])
def test_a_run_in_a_run_never_ends_in_a_program_that_is_missing(more: list[str]) -> None:
    # The outer root is a tmpfs with overlays on it: what those refuse must not leave an empty root.
    inner = [*MOUNTFD, "run", *VISIBLE, *more, "--", *MOUNTFD, "run", "--", "id"]
    done = ordinary("run", *VISIBLE, "--", *inner, subordinate="65533:400000:65536\n")
    assert done.returncode == 125
    assert "hint: " in done.stderr
    assert "execve" not in done.stderr


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of the host's root."""
    made = Path("/mountfd-refused")
    made.mkdir(mode=0o700)
    yield made
    made.rmdir()


def test_a_directory_that_this_user_cant_read_is_there_and_closed(place: Path) -> None:
    done = ordinary("run", "--", "sh", "-c", f"ls -d {place} && ls {place}")
    assert done.returncode == 2
    assert done.stdout == f"{place}\n"
    assert "Permission denied" in done.stderr


def test_one_directory_that_cant_be_had_is_left_out_with_the_hint(place: Path) -> None:
    need(Feature.OVERLAY.present, "overlayfs")
    deep = f"""
        cd {place} && mount -t tmpfs none . && cd {place} && mkdir a b c &&
        mount -t overlay none -o lowerdir=a:b c && mount -t overlay none -o lowerdir=c:b {place} && cd / &&
    """
    done = ordinary("run", "--", "sh", "-c", "id -u", wrap=deep)
    assert (done.returncode, done.stdout) == (0, "0\n")
    (line,) = [line for line in done.stderr.split("\n") if "left out" in line]
    start = f"mountfd: {place} is left out: "
    assert line.startswith((f"{start}fsconfig: Invalid argument", f"{start}mount: Invalid argument"))
    assert "lies on an overlay" in line
