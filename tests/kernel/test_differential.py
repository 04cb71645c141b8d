"""Random trees of mounts, seen by findmnt(8) and mountpoint(1) and by this command line: the same, column by column.

MOUNTFD_SEEDS=17,4711 bin/test tests/kernel/test_differential.py    these trees alone
"""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from random import SystemRandom
from typing import Any

import pytest

from mountfd.cli import main
from tests.architecture.source import ROOT
from tests.support.forest import Forest
from tests.support.need import need_command

FIXED, FRESH = 70, 8
# The machine's own disk may be called /dev/root by the kernel; findmnt then guesses another name.
COLUMNS = "TARGET,SOURCE,FSTYPE,OPTIONS,VFS-OPTIONS,FS-OPTIONS,FSROOT,MAJ:MIN,ID,PARENT,PROPAGATION,OPT-FIELDS"
UTF8 = {**os.environ, "LC_ALL": "C.UTF-8"}


def seeds() -> list[int]:
    """Choose the trees: always the same ones, and a few that nobody has seen; or those that are asked for."""
    asked = os.environ.get("MOUNTFD_SEEDS")
    if asked:
        return [int(word) for word in asked.split(",")]
    return [*range(FIXED), *SystemRandom().sample(range(1000, 1 << 31), FRESH)]


@pytest.mark.parametrize("seed", seeds())
def test_a_random_tree_looks_as_findmnt_and_mountpoint_say(seed: int, scratch: Path) -> None:
    need_command("findmnt")
    place = scratch / "forest"
    place.mkdir()
    with Forest(place, seed) as forest:
        rows = _lists_agree(os.fsencode(place))
        for process in forest.processes:
            _namespaces_agree(process.pid)
        _lookups_agree(rows)
        _checks_agree(forest.paths(), rows)


def test_the_program_itself_says_what_its_function_says(scratch: Path) -> None:
    place = scratch / "forest"
    place.mkdir()
    with Forest(place, 7):
        for words in (["list", "--json"], ["list", "-r"], ["lookup", "--json", str(place)], ["check", str(place)]):
            line = [sys.executable, "-I", str(ROOT / "bin/mountfd"), *words]
            done = subprocess.run(line, check=False, capture_output=True, env=UTF8)
            assert (done.returncode, done.stdout) == _ours(*words)


# --- claims --------------------------------------------------------------------------------------------------------
def _lists_agree(place: bytes) -> list[dict[str, Any]]:
    """Compare lists of every shape; give findmnt's rows."""
    whole = _findmnt("-o", COLUMNS)
    assert _listed("-o", COLUMNS) == whole
    assert _listed("-o", f"{COLUMNS},UNIQ-ID", but="uniq-id") == whole  # by listmount(2) and statmount(2)
    assert _listed("-o", "TARGET,SOURCE,FSTYPE,OPTIONS") == _findmnt()
    for words in (["-l"], ["-t", "tmpfs"], ["-t", "notmpfs,ramfs"], ["--tree", "-t", "ramfs,overlay"]):
        assert _listed(*words, "-o", COLUMNS) == _findmnt(*words, "-o", COLUMNS), words
    path = os.fsdecode(place)
    for words in (["-R", path], [path], ["-l", "-R", path], ["-T", f"{path}/not there/at all"]):
        assert _listed(*words, "-o", COLUMNS) == _findmnt(*words, "-o", COLUMNS), words
    rows: list[dict[str, Any]] = _findmnt("-l", "-o", COLUMNS)["filesystems"]
    return rows


def _namespaces_agree(pid: int) -> None:
    theirs = _findmnt("-N", str(pid), "-o", COLUMNS)
    assert _listed("-N", str(pid), "-o", COLUMNS) == theirs
    assert _listed("--file", f"/proc/{pid}/mountinfo", "-o", COLUMNS) == theirs


def _lookups_agree(rows: list[dict[str, Any]]) -> None:
    """Compare each mount, by both of its ids; and by its path where that leads to it."""
    known = _listed("-l", "-o", "ID,UNIQ-ID,STATE")["filesystems"]
    facts = {row["id"]: row for row in known}
    for row in rows:
        unique = facts[row["id"]]["uniq-id"]
        assert _looked_up("--id", str(unique)) == row
        if facts[row["id"]]["state"] == "visible":
            assert _looked_up("--", row["target"]) == row
        elif os.path.lexists(row["target"]):
            assert _looked_up("--", row["target"])["id"] != row["id"]


def _checks_agree(paths: list[bytes], rows: list[dict[str, Any]]) -> None:
    """Compare each path. mountpoint(1) goes by the table's paths: it also says yes where only a hidden mount stands."""
    points = {row["id"]: os.fsencode(row["target"]) for row in rows}
    for path in {*paths, *points.values()}:
        ours = _ours("check", "--", os.fsdecode(path))
        done = subprocess.run(["mountpoint", "--", path], check=False, capture_output=True, env=UTF8)
        if ours[0] != 32 or path not in points.values():
            assert (done.returncode, done.stdout) == ours, path
        if ours[0] != 1:
            assert ours[0] == (0 if points[_mount_of(path)] == path else 32), path


def _mount_of(path: bytes) -> int:
    """Ask /proc for the id of the mount that a path leads to."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    finally:
        os.close(fd)
    return next(int(line.split()[1]) for line in lines if line.startswith("mnt_id:"))


# --- asking --------------------------------------------------------------------------------------------------------
def _ours(*words: str) -> tuple[int, bytes]:
    raw = io.BytesIO()
    with redirect_stdout(io.TextIOWrapper(raw, "utf-8", newline="\n")) as out, redirect_stderr(io.StringIO()):
        status = main(words)
        out.flush()
        return status, raw.getvalue()


def _listed(*words: str, but: str = "") -> dict[str, Any]:
    status, out = _ours("list", "--json", *words)
    return _read(status, out, but)


def _looked_up(*words: str) -> dict[str, Any]:
    status, out = _ours("lookup", "--json", "-o", COLUMNS, *words)
    found: dict[str, Any] = _read(status, out)["filesystems"][0]
    return found


def _findmnt(*words: str) -> dict[str, Any]:
    done = subprocess.run(["findmnt", "--json", *words], check=False, capture_output=True, env=UTF8)
    return _read(done.returncode, done.stdout)


def _read(status: int, out: bytes, but: str = "") -> dict[str, Any]:
    """Read a document. findmnt writes bytes that aren't UTF-8 as they are; ours come in base64 beside the text."""
    if status and not out:
        return {"filesystems": []}

    def whole(found: dict[str, Any]) -> dict[str, Any]:
        exact = {key.removesuffix("_b64"): value for key, value in found.items() if key.endswith("_b64")}
        decoded = {key: base64.b64decode(value).decode(errors="surrogateescape") for key, value in exact.items()}
        return {key: value for key, value in (found | decoded).items() if not key.endswith("_b64") and key != but}

    document: dict[str, Any] = json.loads(out.decode(errors="surrogateescape"), object_hook=whole)
    return document
