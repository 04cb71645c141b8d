"""`mountfd-overlay`, started by mount.fuse3 as containerd has it, and by itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.layers import fill
from tests.support.need import need_command, need_real_root
from tests.support.program import MOUNTFD, SCRIPT
from tests.support.specs import cleared, count, fs, fstype, source, vfs

NAME = "mountfd-overlay"
STARTS = ("mount.fuse3", "itself")


@pytest.fixture(autouse=True)
def real_root() -> None:
    need_real_root()


@pytest.fixture
def place(scratch: Path) -> Iterator[Path]:
    """Give a directory with layers in it."""
    fill(scratch / "a", {"own": "a", "both": "a"})
    fill(scratch / "b", {"deep": "b", "both": "b"})
    for name in ("upper", "work", "point", "bin"):
        fill(scratch / name)
    (scratch / "bin" / NAME).symlink_to(SCRIPT)
    with cleared(scratch):
        yield scratch


def helper(
    place: Path, start: str, *options: str, label: str = "overlay", target: Path | None = None
) -> tuple[int, str]:
    """Start it with options; give its status and what it said on standard error."""
    point = str(place / "point" if target is None else target)
    if start == "mount.fuse3":
        argv = [need_command("mount.fuse3"), label, point, *options, "-t", NAME]
    else:
        argv = [str(place / "bin" / NAME), label, point, *options]
    env = {**os.environ, "PATH": f"{place}/bin:{os.environ['PATH']}"}
    done = subprocess.run(argv, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=env)
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize("start", STARTS)
def test_layers_and_a_pair_for_changes(place: Path, start: str) -> None:
    options = f"index=off,lowerdir={place}/a:{place}/b,upperdir={place}/upper,workdir={place}/work"
    assert helper(place, start, "-o", options, label="containerd's") == (0, "")
    point = place / "point"
    assert (fstype(point), source(point)) == ("overlay", "containerd's")
    assert ((point / "both").read_text(), (point / "deep").read_text()) == ("a", "b")
    (point / "new").write_text("kept")
    assert (place / "upper/new").read_text() == "kept"


@pytest.mark.parametrize("start", STARTS)
def test_each_option_by_itself_as_containerd_gives_them(place: Path, start: str) -> None:
    words = ["workdir=" + str(place / "work"), "upperdir=" + str(place / "upper"), f"lowerdir={place}/a:{place}/b"]
    options = [part for word in words for part in ("-o", word)]
    assert helper(place, start, *options, "-o", "nosuid", "-o", "noexec") == (0, "")
    assert {"nosuid", "noexec", "rw"} <= vfs(place / "point")


@pytest.mark.parametrize("start", STARTS)
def test_read_only(place: Path, start: str) -> None:
    pair = f"upperdir={place}/upper,workdir={place}/work"
    assert helper(place, start, "-o", f"ro,lowerdir={place}/a:{place}/b,{pair}") == (0, "")
    assert "ro" in vfs(place / "point") & fs(place / "point")
    with pytest.raises(OSError, match="Read-only"):
        (place / "point/new").touch()


@pytest.mark.parametrize("start", STARTS)
def test_words_that_the_helper_adds_are_understood(place: Path, start: str) -> None:
    assert helper(place, start, "-o", f"rw,dev,suid,lowerdir={place}/a:{place}/b") == (0, "")
    assert not {"nodev", "nosuid"} & vfs(place / "point")


@pytest.mark.parametrize("start", STARTS)
def test_an_idmap_with_commas(place: Path, start: str) -> None:
    maps = "uidmap=0:5000:1,1:7000:10,gidmap=0:6000:1,1:8000:10"
    assert helper(place, start, "-o", f"lowerdir={place}/a:{place}/b,{maps},nodev") == (0, "")
    seen = (place / "point/own").stat()
    assert (seen.st_uid, seen.st_gid) == (5000, 6000)
    assert "nodev" in vfs(place / "point")


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", ["a b", "com,ma", "col:on", "quo'te", 'quo"te', "dol$HOME", "semi;colon"])
def test_layers_of_any_name(place: Path, start: str, name: str) -> None:
    for layer in ("one", "two"):
        fill(place / layer / name, {layer: layer})
    written = name.replace(":", "\\:").replace(",", "\\,").replace('"', '\\"')
    point = fill(place / f"point {name}")
    assert helper(place, start, "-o", f"lowerdir={place}/one/{written}:{place}/two/{written}", target=point) == (0, "")
    assert {*os.listdir(point)} == {"one", "two"}


@pytest.mark.parametrize("start", STARTS)
def test_as_many_layers_as_take_more_than_a_page(place: Path, start: str) -> None:
    layers = [fill(place / "layers" / f"{'long' * 20}{number}", {f"f{number}": ""}) for number in range(100)]
    assert helper(place, start, "-o", "lowerdir=" + ":".join(map(str, layers))) == (0, "")
    assert len(os.listdir(place / "point")) == 100


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ("lowerdir=/nowhere/at/all:{place}/a", 32, "the layer '/nowhere/at/all' doesn't exist"),
        ("lowerdir={place}/a", 1, "overlayfs needs two layers"),
        ("lowerdir={place}/a:{place}/b,nonsense=1", 32, "nonsense"),
        ("lowerdir={place}/a:{place}/b,uidmap=0:1:1", 1, "uidmap= is given without gidmap="),
        ("lowerdir={place}/a:{place}/b,upperdir={place}/upper", 1, "work"),
        ("ro", 1, "lower"),
    ],
)
def test_what_is_wrong_is_told(place: Path, start: str, options: str, status: int, words: str) -> None:
    found, said = helper(place, start, "-o", options.format(place=place))
    assert found == status
    assert said.startswith("mountfd: ")
    assert words in said
    assert "Traceback" not in said
    assert count(place / "point") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "SOURCE is missing"),
        (["overlay"], "TARGET is missing"),
        (["a", "b", "c"], "'c' is one word too many"),
        (["--nonsense"], "no option '--nonsense'"),
    ],
)
def test_wrong_words(place: Path, words: list[str], message: str) -> None:
    done = subprocess.run([place / "bin" / NAME, *words], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr


def test_words_that_mount_8_gives_its_helpers(place: Path) -> None:
    words = ["-n", "-s", "-v", "-o", f"lowerdir={place}/a:{place}/b"]
    assert helper(place, "itself", *words) == (0, "")
    assert fstype(place / "point") == "overlay"


def test_help(place: Path) -> None:
    done = subprocess.run([place / "bin" / NAME, "--help"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "SOURCE TARGET" in done.stdout
    assert "usage: mountfd-overlay" in done.stdout


def test_the_trace_shows_each_call(place: Path) -> None:
    status, said = helper(place, "itself", "--trace", "-o", f"lowerdir={place}/a:{place}/b")
    assert status == 0
    assert "overlay" in said


def test_the_command_line_itself_is_not_taken_for_it(place: Path) -> None:
    done = subprocess.run([*MOUNTFD, "--version"], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("mountfd ")


def test_nobody_reads_what_it_says(place: Path) -> None:
    argv: list[str | Path] = [
        place / "bin" / NAME,
        "overlay",
        place / "point",
        "-o",
        f"lowerdir={place}/nowhere:{place}/a",
    ]
    lines: list[list[str | Path]] = [
        ["sh", "-c", 'exec "$@" >&- 2>&-', "sh"],
        ["sh", "-c", 'exec "$@" 2>/dev/full', "sh"],
    ]
    for line in lines:
        done = subprocess.run([*line, *argv], check=False, capture_output=True, text=True)
        assert done.returncode == 32
