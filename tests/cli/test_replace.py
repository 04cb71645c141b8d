"""`mountfd replace` as a program."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountfd import Feature, has, is_mount, lookup
from mountfd.lowlevel import calls
from tests.kernel.test_holders import another
from tests.kernel.test_replace_namespaces import away, shown
from tests.support.layers import fill
from tests.support.mounting import MNT_DETACH, tmpfs, umount
from tests.support.need import need
from tests.support.program import mountfd

need(has(Feature.MOVE_MOUNT_BENEATH) and has(Feature.STATMOUNT), "MOVE_MOUNT_BENEATH and statmount(2) (Linux 6.8)")


@pytest.fixture
def home(scratch: Path) -> Iterator[Path]:
    """Give a target that shows v1, with a mount below, and another version."""
    place = fill(tmpfs(scratch / "a home"), {"t/base": ""})
    for version in ("v1", "v2"):
        fill(scratch / version, {"v": version, "sub/base": ""})
    calls.mount(bytes(scratch / "v1"), bytes(place / "t"), None, 0x1000, None)
    fill(tmpfs(place / "t/sub"), {"kept": "kept"})
    yield place
    umount(place, MNT_DETACH)


def shows(home: Path) -> str:
    return (home / "t/v").read_text()


def program(home: Path, text: str) -> str:
    """Write a shell program."""
    path = home.parent / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def replaced(home: Path, *words: str) -> tuple[int, str]:
    done = mountfd("replace", str(home / "t"), *words)
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_by_a_directory(home: Path) -> None:
    assert replaced(home, "--bind", str(home.parent / "v2")) == (0, "")
    assert shows(home) == "v2"
    assert (home / "t/sub/kept").read_text() == "kept"


def test_by_a_directory_with_options(home: Path) -> None:
    assert replaced(home, "--bind", str(home.parent / "v2"), "-o", "ro,noexec") == (0, "")
    assert shows(home) == "v2"
    with pytest.raises(OSError, match="Read-only"):
        (home / "t/v").write_text("x")


def test_by_an_overlay(home: Path) -> None:
    fill(home.parent / "upper")
    fill(home.parent / "work")
    words = ["--layer", home.parent / "v2", "--layer", home.parent / "v1"]
    words += ["--upper", home.parent / "upper", "--work", home.parent / "work"]
    assert replaced(home, *map(str, words)) == (0, "")
    assert (shows(home), lookup(home / "t").fstype) == ("v2", "overlay")
    (home / "t/new").touch()
    assert (home.parent / "upper/new").exists()


def test_by_a_filesystem(home: Path) -> None:
    words = ["-t", "tmpfs", "--source", "label", "-o", "size=1m,nodev", "--submounts", "drop"]
    assert replaced(home, *words) == (0, "")
    found = lookup(home / "t")
    assert (found.fstype, found.source, os.listdir(home / "t")) == ("tmpfs", "label", [])
    assert "size=1024k" in (found.options or "")


def test_a_dry_run_says_what_would_happen_and_changes_nothing(home: Path) -> None:
    before = lookup(home / "t").id
    done = mountfd("replace", "--dry-run", "--bind", str(home.parent / "v2"), str(home / "t"))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"mount {before} " in done.stdout
    assert f"{home}/t/sub would come along" in done.stdout
    assert (lookup(home / "t").id, shows(home)) == (before, "v1")


@pytest.mark.parametrize("when", ["--check", "--check-after"])
def test_a_check_gets_the_new_root_and_decides(home: Path, when: str) -> None:
    note = home.parent / "note"
    check = program(home, f'cat "$1/v" "$MOUNTFD_ROOT/sub/kept" "{home}/t/v" > "{note}"')
    assert replaced(home, "--bind", str(home.parent / "v2"), when, check) == (0, "")
    assert shows(home) == "v2"
    assert note.read_text() == ("v2keptv1" if when == "--check" else "v2keptv2")
    status, said = replaced(home, "--bind", str(home.parent / "v1"), when, program(home, "exit 3"))
    assert (status, shows(home)) == (32, "v2")
    assert "ended with status 3" in said
    assert (home / "t/sub/kept").read_text() == "kept"
    status, said = replaced(home, "--bind", str(home.parent / "v1"), when, "/not/there")
    assert (status, shows(home)) == (32, "v2")
    assert "'/not/there' can't be run" in said


def test_mounts_below_may_be_refused_or_dropped(home: Path) -> None:
    status, said = replaced(home, "--bind", str(home.parent / "v2"), "--submounts", "refuse")
    assert (status, shows(home)) == (32, "v1")
    assert "/t/sub" in said
    assert replaced(home, "--bind", str(home.parent / "v2"), "--submounts", "drop") == (0, "")
    assert not is_mount(home / "t/sub")


def test_holders_of_the_old_one_are_named_when_asked(home: Path) -> None:
    with another(lambda: os.open(home / "t/v", os.O_RDONLY)) as pid:
        status, said = replaced(home, "--bind", str(home.parent / "v2"), "-v")
    assert status == 0
    assert "mounts below that came along: 1" in said
    assert f"process {pid} " in said


def test_in_other_namespaces(home: Path) -> None:
    from mountfd import MountNamespace

    with another(away()) as one, another(away()) as two:
        words = ["--namespace", str(one), "--namespace", f"/proc/{two}/ns/mnt"]
        assert replaced(home, "--bind", str(home.parent / "v2"), *words) == (0, "")
        for pid in (one, two):
            with MountNamespace.of(pid) as namespace:
                assert shown(namespace, home) == ("v2", 1)
    assert shows(home) == "v1"


def test_with_a_gap_where_it_is_allowed_and_said(home: Path) -> None:
    words = ["replace", str(home / "t"), "--bind", str(home.parent / "v2")]
    done = mountfd(*words, env={"MOUNTFD_ROUTE": "replace:gap"})
    assert (done.returncode, shows(home)) == (32, "v1")
    done = mountfd(*words, "--allow-gap", env={"MOUNTFD_ROUTE": "replace:gap"})
    assert (done.returncode, shows(home)) == (0, "v2")
    assert "there was an instant without a mount" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say what TARGET is replaced by"),
        (["--bind", "/etc", "-t", "tmpfs"], "say what TARGET is replaced by"),
        (["--bind", "/etc", "--upper", "/u"], "--upper belongs to --layer"),
        (["-t", "tmpfs", "--work", "/u"], "--work belongs to --layer"),
        (["--bind", "/etc", "--source", "/u"], "--source belongs to --types"),
        (["--bind", "/not/there"], "No such file or directory"),
        (["--bind", "/etc", "--wait", "x"], "is no number of seconds"),
        (["--bind", "/etc", "--submounts", "keep"], "carry, drop, refuse"),
        (["--bind", "/etc", "--namespace", "/etc/passwd"], "is not a mount namespace"),
        (["--dry-run"], "say what TARGET is replaced by"),
    ],
)
def test_what_cannot_be_done_leaves_the_old_one(home: Path, words: list[str], said: str) -> None:
    status, message = replaced(home, *words)
    assert (status, shows(home)) == (32, "v1")
    assert said in message.splitlines()[0]


@pytest.mark.parametrize("words", [[], ["a", "b"], ["--frob", "x"]])
def test_wrong_words_are_status_1(words: list[str]) -> None:
    done = mountfd("replace", *words)
    assert (done.returncode, done.stdout) == (1, "")
