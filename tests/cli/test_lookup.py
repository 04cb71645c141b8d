"""`mountfd lookup` as a program."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import mountfd as library
from tests.support.need import need
from tests.support.program import MOUNTFD, mountfd
from tests.support.standing import standing


@pytest.fixture
def place(scratch: Path) -> Iterator[Path]:
    with standing(scratch / "w") as found:
        yield found


def told(*words: str) -> dict[str, object]:
    done = mountfd("lookup", "--json", *words)
    assert (done.stderr, done.returncode) == ("", 0)
    found: list[dict[str, object]] = json.loads(done.stdout)["filesystems"]
    assert len(found) == 1
    return found[0]


def test_any_path_names_the_mount_that_it_lies_on(place: Path) -> None:
    assert told(f"{place}/source")["source"] == "base"
    assert told(f"{place}/twice")["source"] == "two"
    assert told(f"{place}/file")["fsroot"] == "/source/file"


def test_every_field_is_told_a_line_each(place: Path) -> None:
    lines = dict(line.split(maxsplit=1) for line in mountfd("lookup", f"{place}/alone").stdout.splitlines())
    assert lines["TARGET"] == f"{place}/alone"
    assert lines["PROPAGATION"] == "private,unbindable"
    assert lines["MASTER"] == "-"
    assert {"ID", "PARENT", "MAJ:MIN", "OPTIONS", "FSROOT", "UNIQ-ID"} <= set(lines)


def test_columns_make_it_a_row_for_scripts(place: Path) -> None:
    assert mountfd("lookup", "-no", "SOURCE,FSTYPE", f"{place}/alone").stdout == "x tmpfs\n"
    assert mountfd("lookup", "-rnoTARGET", f"{place}/a b").stdout == f"{place}/a\\x20b\n"


def test_both_kinds_of_id_find_it(place: Path) -> None:
    found = told(f"{place}/alone")
    assert told("--id", str(found["id"])) == found
    need(found["uniq-id"], "unique mount ids (Linux 6.8)")
    assert told("--id", str(found["uniq-id"])) == found


def test_an_inherited_descriptor_finds_it_and_a_detached_mount_too(place: Path) -> None:
    with library.Mount.clone(place / "a b") as detached:
        line = [*MOUNTFD, "lookup", "-no", "MAJ:MIN", "--fd", str(detached.fileno())]
        done = subprocess.run(line, check=True, capture_output=True, text=True, pass_fds=[detached.fileno()])
    info = library.lookup(place / "a b")
    assert info.dev is not None
    assert done.stdout.strip() == "{}:{}".format(*info.dev)


def test_a_symlink_is_followed_unless_told_not_to(place: Path) -> None:
    os.symlink(place / "alone", place / "link")
    assert told(f"{place}/link")["source"] == "x"
    assert told("--nofollow", f"{place}/link")["source"] == "base"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "one of PATH, --id and --fd"),
        (["/", "--id", "1"], "one of PATH, --id and --fd"),
        (["/not/there"], "No such file or directory: '/not/there'"),
        (["/etc/passwd/x"], "Not a directory"),
        ([""], "path"),
        (["--id", "9000000000000000000"], "no mount 9000000000000000000"),
        (["--id", "0"], "no mount 0"),
        (["--id", "-1"], "'-1' is not a number"),
        (["--id", "99999999999999999999999"], "99999999999999999999999"),
        (["--fd", "700"], "Bad file descriptor"),
        (["--fd", "x"], "'x' is not a number"),
        (["-o", "STATE,NOPE", "/"], "'NOPE'"),
    ],
)
def test_what_cannot_be_found_is_said_in_one_line_and_is_status_1(words: list[str], said: str) -> None:
    done = mountfd("lookup", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr.splitlines()[0]
