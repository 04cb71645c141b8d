"""`mountfd check` as a program, beside mountpoint(1)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.source import PACKAGE
from tests.support.need import need_command
from tests.support.program import MOUNTFD, Terminal, mountfd
from tests.support.standing import standing


@pytest.fixture
def place(scratch: Path) -> Iterator[Path]:
    with standing(scratch / "w") as found:
        yield found


@pytest.mark.parametrize(
    "path", ["", "/twice", "/a b", "/file", "/source", "/source/file", "/link", "/nothing", "/file/x"]
)
@pytest.mark.parametrize("options", [[], ["-q"], ["--nofollow"]])
def test_it_says_and_exits_as_mountpoint_does(place: Path, path: str, options: list[str]) -> None:
    os.symlink(place / "alone", place / "link")
    line = [need_command("mountpoint"), *options, f"{place}{path}"]
    theirs = subprocess.run(line, check=False, capture_output=True, text=True)
    ours = mountfd("check", *options, f"{place}{path}")
    assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout)
    assert bool(ours.stderr) == bool(theirs.stderr)


def test_a_mount_below_a_covered_one_is_none(place: Path) -> None:
    assert mountfd("check", f"{place}/under/deep").returncode == 1
    assert mountfd("check", f"{place}/twice/inside").returncode == 1


def test_bind_mounts_of_a_part_can_be_left_out(place: Path) -> None:
    assert mountfd("check", "--no-bind", f"{place}/file").returncode == 32
    assert mountfd("check", "--no-bind", f"{place}/alone").returncode == 0


def test_json_says_the_same(place: Path) -> None:
    done = mountfd("check", "--json", f"{place}/source")
    assert (json.loads(done.stdout), done.returncode) == ({"path": f"{place}/source", "mountpoint": False}, 32)


def test_a_path_that_is_not_utf8_comes_through_and_json_has_its_bytes(place: Path) -> None:
    odd = f"{place}/\udcff"
    os.mkdir(odd)
    assert mountfd("check", odd).stdout == f"{odd} is not a mountpoint\n"
    assert json.loads(mountfd("check", "-J", odd).stdout)["path_b64"]


def test_at_a_terminal_a_name_cannot_write_to_it(place: Path) -> None:
    os.mkdir(f"{place}/\x1b[31m")
    terminal = Terminal([*MOUNTFD, "check", f"{place}/\x1b[31m"])
    try:
        assert "\x1b" not in terminal.rest()
        assert terminal.end() == 32
    finally:
        terminal.close()


@pytest.mark.parametrize("words", [[], ["/", "/"], ["-x", "/"], ["--color=always", "/"], [""]])
def test_wrong_words_are_status_1(words: list[str]) -> None:
    done = mountfd("check", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("mountfd: ")


def test_nothing_heavy_is_loaded_for_it() -> None:
    heavy = {"argparse", "dataclasses", "json", "logging", "pathlib", "re", "rich", "subprocess", "typing"}
    program = (
        f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); from mountfd.cli import main; main(['check', '/'])"
    )
    # -S: site and the .pth files of other packages load what they like.
    line = [sys.executable, "-I", "-S", "-c", f"{program}; print(*{heavy} & sys.modules.keys())"]
    done = subprocess.run(line, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["/ is a mountpoint", ""]
