"""`mountfd who` as a program: both questions apart, for people and for programs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mountfd import lookup
from mountfd.lowlevel import calls
from tests.kernel.test_holders import another, is_busy, map_alone
from tests.kernel.test_holders_elsewhere import loop_on
from tests.support.mounting import MNT_DETACH, tmpfs, umount
from tests.support.need import need_command, need_real_root
from tests.support.program import MOUNTFD, at_terminal, mountfd

CLONE_NEWNS = 0x20000


@pytest.fixture
def place(scratch: Path) -> Iterator[Path]:
    """Give a tmpfs that everybody may look into, with a file."""
    point = tmpfs(scratch / "held here")
    point.chmod(0o755)
    (point / "file").write_bytes(b"x")
    yield point
    umount(point, MNT_DETACH)


def told(*words: str) -> dict[str, Any]:
    done = mountfd("who", "--json", *words)
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if found["busy"] or found["alive"] else 1)
    return found


def test_everybody_who_holds_it_is_named_and_both_questions_are_apart(place: Path, scratch: Path) -> None:
    need_real_root()
    (scratch / "merged").mkdir()
    with ExitStack() as stack:
        opened = stack.enter_context(another(lambda: os.open(place / "file", os.O_RDONLY)))
        inside = stack.enter_context(another(lambda: os.chdir(place)))
        mapped = stack.enter_context(another(lambda: map_alone(bytes(place / "file"))))
        away = stack.enter_context(another(lambda: calls.unshare(CLONE_NEWNS)))
        bound = stack.enter_context(socket.socket(socket.AF_UNIX))
        bound.bind(str(place / "socket"))
        device = stack.enter_context(loop_on(place / "image"))
        child = tmpfs(place / "child")
        stack.callback(umount, child, MNT_DETACH)
        calls.mount(b"overlay", bytes(scratch / "merged"), b"overlay", 0, f"lowerdir={place}:/etc".encode())
        stack.callback(umount, scratch / "merged")
        found = told(str(place))
        shown = mountfd("who", str(place)).stdout.splitlines()
        assert is_busy(place)
    assert (found["target"], found["id"]) == (str(place), lookup(place).id)
    busy = {(each["kind"], each.get("pid")) for each in found["busy"]}
    own = ("socket", os.getpid())
    assert busy == {("file", opened), ("cwd", inside), ("map", mapped), ("mount", None), ("loop", None), own}
    assert [each["device"] for each in found["busy"] if each["kind"] == "loop"] == [device]
    assert {(each["kind"], each.get("pid")) for each in found["alive"]} == {("copy", away), ("overlay", None)}
    headings = [line.partition(":")[0] for line in shown if not line.startswith(" ")]
    assert headings[:2] == ["busy", "alive"]
    assert f"  file     process {opened} (" in "\n".join(shown)
    assert f"another mount stands on it, at {child}" in "\n".join(shown)


def test_nobody_is_said_and_is_status_1(place: Path) -> None:
    done = mountfd("who", str(place))
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[0] == "nobody that can be seen holds it"
    found = told(str(place))
    assert (found["busy"], found["alive"]) == ([], [])


def test_an_overlay_made_by_mountfd_is_told_of_its_layers_and_not_of_others(place: Path, scratch: Path) -> None:
    for name in ("usr", "etc"):
        (place / name).mkdir()
    point = scratch / "merged"
    point.mkdir()
    done = mountfd("mount", "-t", "overlay", "-o", f"lowerdir={place}/usr:{place}/etc", "overlay", str(point))
    assert done.stderr == ""
    try:
        here, root = told(str(place)), told("/")
    finally:
        umount(point)
    assert str(point) in {each.get("point") for each in [*here["alive"], *here["unknown"]] if each["kind"] == "overlay"}
    assert str(point) not in {each.get("point") for each in root["alive"]}


def test_quiet_says_it_by_the_status_alone(place: Path) -> None:
    done = mountfd("who", "-q", str(place))
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    with another(lambda: os.open(place, os.O_PATH)):
        done = mountfd("who", "-q", str(place))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_who_pins_a_lazily_unmounted_one_is_found_by_id(place: Path) -> None:
    number = str(lookup(place).id)
    with another(lambda: os.open(place / "file", os.O_RDONLY)) as pid:
        assert [each["pid"] for each in told("--id", number)["busy"]] == [pid]
        umount(place, MNT_DETACH)
        found = told("--id", number)
        assert (found["busy"], [each["pid"] for each in found["alive"]]) == ([], [pid])
    assert mountfd("who", "-q", "--id", number).returncode == 1
    tmpfs(place)


def test_an_ordinary_user_reads_what_he_cannot_see(place: Path) -> None:
    need_real_root()
    user = [need_command("setpriv"), "--reuid", "65533", "--regid", "65533", "--clear-groups"]
    with another(lambda: os.open(place, os.O_PATH)) as pid:
        done = mountfd("who", str(place), before=user)
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.splitlines()[0] == "nobody that can be seen holds it"
        (line,) = [line for line in done.stdout.splitlines() if "processes of other users can't be looked into" in line]
        assert str(pid) in line.partition("into: ")[2].split(", ")
        assert "other mount namespaces can't be looked into" in done.stdout


def test_at_a_terminal_a_name_cannot_write_to_it(place: Path) -> None:
    name = place / "\x1b[31m"
    name.touch()
    with another(lambda: os.open(name, os.O_RDONLY)), at_terminal(*MOUNTFD, "who", str(place)) as terminal:
        assert "\x1b" not in terminal.rest()
        assert terminal.end() == 0


@pytest.mark.parametrize("way", [[], ["--json"]])
def test_in_an_ascii_locale_it_can_be_said_too(place: Path, way: list[str]) -> None:
    name = place / "ä\udcff"
    name.touch()
    with another(lambda: os.open(name, os.O_RDONLY)):
        done = mountfd("who", *way, str(place), env={"LC_ALL": "C"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 32, "either TARGET or --id"),
        (["/", "--id", "1"], 32, "either TARGET or --id"),
        (["/not/there"], 32, "No such file or directory: '/not/there'"),
        (["--id", "7"], 32, "7 is not a unique mount id"),
        (["--id", "x"], 32, "'x' is not a number"),
        ([""], 32, "path"),
        (["-x"], 1, "there is no option '-x'"),
        (["/", "/"], 1, "one word too many"),
    ],
)
def test_what_cannot_be_found_out_is_an_error_in_one_line(words: list[str], status: int, said: str) -> None:
    done = mountfd("who", *words)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr.splitlines()[0]


def test_a_reader_that_goes_away_is_no_error(place: Path) -> None:
    line = " ".join(MOUNTFD)
    done = subprocess.run(["sh", "-c", f"{line} who / | true"], check=False, capture_output=True, text=True)
    assert done.stderr == ""
