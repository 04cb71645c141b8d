"""`mountfd replace` as a program."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mountfd import Feature, Mount, has, is_mount, lookup, mounts
from mountfd.lowlevel import calls
from mountfd.verbs.replace.standing import Standing
from tests.kernel.test_holders import another
from tests.kernel.test_replace_namespaces import away, shown
from tests.support.layers import fill
from tests.support.mounting import MNT_DETACH, MS_PRIVATE, MS_REC, MS_SHARED, MS_SLAVE, change, tmpfs, umount
from tests.support.need import need, need_real_root
from tests.support.program import MOUNTFD, mountfd

need(has(Feature.MOVE_MOUNT_BENEATH) and has(Feature.STATMOUNT), "MOVE_MOUNT_BENEATH and statmount(2) (Linux 6.8)")

MS_UNBINDABLE = 1 << 17


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


def planned(home: Path, *words: str, target: str = "t", **more: Any) -> tuple[int, str]:
    """Have it planned, and give status and sentences; nothing may have changed."""
    before = mounts(fields=("id", "parent_id", "point", "attrs", "propagation"))
    done = mountfd("replace", "--dry-run", str(home / target), *words, **more)
    assert done.stderr == ""
    assert list(mounts(fields=("id", "parent_id", "point", "attrs", "propagation"))) == list(before)
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--bind", "{v2}/v"], "the new mount's root is a file"),
        (["--bind", "{v2}/sub"], "the new mount has no 'sub' of the right kind for the mount that stands there"),
        (["-t", "tmpfs"], "the new mount has no 'sub'"),
        (["-t", "tmpfs", "-o", "frob=1"], "Unknown parameter 'frob'"),
        (["--bind", "/not/there"], "No such file or directory: '/not/there'"),
        (["--bind", "{v2}", "--submounts", "refuse"], "/t/sub"),
        (["--bind", "{v2}", "--check", "/not/there"], "the check '/not/there' can't be run: No such file"),
        (["--bind", "{v2}", "--check-after", "/etc/passwd"], "the check '/etc/passwd' can't be run: Permission denied"),
    ],
)
def test_a_dry_run_finds_what_would_refuse_the_real_one(home: Path, words: list[str], why: str) -> None:
    words = [word.format(v2=home.parent / "v2") for word in words]
    status, said = planned(home, *words)
    assert status == 32
    refusal = said.partition("it would be refused: ")[2]
    assert why in refusal
    assert "would switch" not in said
    status, message = replaced(home, *words)
    assert (status, shows(home)) == (32, "v1")
    assert why.removesuffix("/t/sub").split(": No")[0] in message


def test_a_dry_run_of_what_could_not_be_kept_is_refused_too(home: Path) -> None:
    umount(home / "t/sub")
    change(home / "t", MS_UNBINDABLE)
    status, said = planned(home, "--bind", str(home.parent / "v2"))
    assert status == 32
    assert "it would be refused: " in said
    assert "it is unbindable, so no copy of it can be kept" in said
    assert replaced(home, "--bind", str(home.parent / "v2"))[0] == 32


def test_a_dry_run_names_the_checks_without_running_them(home: Path) -> None:
    note = home.parent / "note"
    check = program(home, f'touch "{note}"; exit 1')
    status, said = planned(home, "--bind", str(home.parent / "v2"), "--check", check, "--check-after", check)
    assert (status, note.exists()) == (0, False)
    assert f"before that the check '{check}' would be run" in said
    assert f"after that the check '{check}' would be run" in said
    assert "up to 2.5 s would be waited for" in planned(home, "--bind", str(home.parent / "v2"), "--wait", "2.5")[1]


def test_a_dry_run_says_whether_a_gap_is_allowed(home: Path) -> None:
    gap = {"MOUNTFD_ROUTE": "replace:gap"}
    status, said = planned(home, "--bind", str(home.parent / "v2"), env=gap)
    assert status == 32
    assert "there would be an instant without a mount" in said
    assert planned(home, "--bind", str(home.parent / "v2"), "--allow-gap", env=gap)[0] == 0


def test_a_dry_run_looks_into_each_namespace(home: Path) -> None:
    with another(away()) as one, another(away(MS_PRIVATE, lambda: umount(home / "t", MNT_DETACH))) as two:
        words = ["--namespace", str(one), "--bind", str(home.parent / "v2")]
        status, said = planned(home, *words)
        assert (status, said.count("in the mount namespace ")) == (0, 1)
        assert f"{home}/t/sub would come along" in said
        status, said = planned(home, *words, "--namespace", f"/proc/{two}/ns/mnt")
        assert (status, said.count("in the mount namespace ")) == (32, 2)
        assert "is no mount, so there is nothing to replace" in said


def test_a_dry_run_leaves_a_replacement_that_was_never_ended_to_the_real_one(home: Path) -> None:
    with Standing(home / "t") as standing, Mount.clone(home.parent / "v2") as new:
        standing.mark()
        new.attach(home / "t", beneath=True)
    status, said = planned(home, "--bind", str(home.parent / "v2"))
    assert status == 0
    assert "an earlier replacement was never ended: that would be done first" in said


def test_a_dry_run_as_root_of_a_user_namespace_sees_what_is_locked(home: Path) -> None:
    need_real_root()
    words = ["replace", "--dry-run", str(home / "t"), "--bind", str(home.parent / "v2"), "--submounts", "drop"]
    inside = ["unshare", "--user", "--map-root-user", "--mount"]
    done = mountfd(*words, before=inside)
    really = mountfd(*(word for word in words if word != "--dry-run"), before=inside)
    assert (done.returncode, done.stderr) == (really.returncode, "")
    assert ("it would be refused: " in done.stdout) == (really.returncode != 0)
    for hint in [line for line in really.stderr.splitlines() if "hint: " in line]:
        assert hint.strip() in done.stdout


@pytest.mark.parametrize("count", [1, 2])
def test_a_dry_run_counts_who_receives_it(home: Path, count: int) -> None:
    need_real_root()
    change(home, MS_SHARED | MS_REC)
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(another(away(MS_SLAVE)))
        _, said = planned(home, "--bind", str(home.parent / "v2"))
    words = "1 other mount namespace receives" if count == 1 else "2 other mount namespaces receive"
    assert f"{words} it, and would switch in the same instant" in said


@pytest.mark.parametrize(
    ("name", "shown_as"),
    [
        ("two\nlines", "two\\x0alines"),
        ("a\tb", "a\\x09b"),
        ("a\\x09b", "a\\x5cx09b"),
        ("\udcff\x1b[31m", "\\xff\\x1b[31m"),
    ],
)
def test_a_plan_is_a_line_a_sentence_whatever_the_names_are(home: Path, name: str, shown_as: str) -> None:
    point = tmpfs(home / name)
    for locale in ("C.UTF-8", "C"):
        status, said = planned(home, "-t", "tmpfs", target=name, env={"LC_ALL": locale})
        assert status == 0
        assert all(line.isprintable() for line in said.splitlines())
        assert said.startswith(f"{home}/{shown_as}: the tmpfs mount ")
    umount(point)


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
        (["--bind", "/not/there"], "No such file or directory"),
        (["--bind", "/etc/passwd"], "the new mount's root is a file"),
        (["--bind", "/etc", "--namespace", "/etc/passwd"], "is not a mount namespace"),
    ],
)
def test_what_cannot_be_done_leaves_the_old_one(home: Path, words: list[str], said: str) -> None:
    status, message = replaced(home, *words)
    assert (status, shows(home)) == (32, "v1")
    assert said in message.splitlines()[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say what TARGET is replaced by"),
        (["--dry-run"], "say what TARGET is replaced by"),
        (["--bind", "/etc", "-t", "tmpfs"], "say what TARGET is replaced by"),
        (["--bind", "/etc", "--upper", "/u"], "--upper belongs to --layer"),
        (["-t", "tmpfs", "--work", "/u"], "--work belongs to --layer"),
        (["--bind", "/etc", "--source", "/u"], "--source belongs to --types"),
        (["--bind", "/etc", "--wait", "x"], "is no number of seconds"),
        (["--bind", "/etc", "--wait", "nan", "--dry-run"], "is no number of seconds"),
        (["--bind", "/etc", "--submounts", "keep"], "carry, drop, refuse"),
        (["--bind", "/etc", "--namespace", "1", "--check", "true"], "it doesn't go with --namespace"),
        (["--layer", "/etc"], "for a single directory use --bind DIR"),
    ],
)
def test_words_that_mean_nothing_are_status_1(home: Path, words: list[str], said: str) -> None:
    status, message = replaced(home, *words)
    assert (status, shows(home)) == (1, "v1")
    assert said in message.splitlines()[0]


@pytest.mark.parametrize("words", [[], ["a", "b"], ["--frob", "x"]])
def test_wrong_words_are_status_1(words: list[str]) -> None:
    done = mountfd("replace", *words)
    assert (done.returncode, done.stdout) == (1, "")


def test_an_interruption_during_the_check_is_status_8_and_leaves_the_old_one(home: Path) -> None:
    check = program(home, "echo ready; exec sleep 60")
    words = ["replace", str(home / "t"), "--bind", str(home.parent / "v2"), "--check", check]
    with subprocess.Popen([*MOUNTFD, *words], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 8
    assert shows(home) == "v1"


def test_its_help_says_the_statuses() -> None:
    said = mountfd("replace", "--help").stdout
    assert all(words in said for words in ("0 done", "1 wrong words", "32 the old mount", "8 interrupted"))
