"""Id maps for who lacks CAP_SETUID and CAP_SETGID: the own id, and subordinate ones through newuidmap(1)."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from mountfd import Denied, IdMap, UserNamespace
from mountfd.handles.subordinate import subordinate_ranges
from mountfd.lowlevel import calls, numbers
from tests.support.mounting import MS_BIND, umount
from tests.support.namespaces import in_user_namespace
from tests.support.need import need, need_command, need_real_root, need_user_namespaces
from tests.support.others import in_child

need_real_root()
T = TypeVar("T")
UID = 65533
FIRST, COUNT = 400000, 65536
GIVEN = f"mountfd-test:{FIRST}:{COUNT}\n"
Give = Callable[[str, str], None]


@pytest.fixture(autouse=True)
def _namespaces_for_everybody() -> None:
    need_user_namespaces(UID)


@pytest.fixture
def give(scratch: Path) -> Iterator[Give]:
    """Give the user a name and subordinate ids: what /etc/subuid and /etc/subgid hold."""
    for name in ("newuidmap", "newgidmap"):
        need_command(name)
    scratch.chmod(0o755)
    files = [Path("/etc", name) for name in ("passwd", "subuid", "subgid")]
    for file in files:
        need(file.exists(), str(file))
        shutil.copy(file, scratch / file.name)
        cover(scratch / file.name, file)
    with (scratch / "passwd").open("a") as passwd:
        passwd.write(f"mountfd-test:x:{UID}:{UID}::/:/bin/sh\n")

    def write(uids: str, gids: str) -> None:
        (scratch / "subuid").write_text(uids)
        (scratch / "subgid").write_text(gids)

    yield write
    for file in files:
        umount(file)


def cover(source: Path, file: Path) -> None:
    """Put a file in place of another, in this process's own mount namespace."""
    calls.mount(os.fsencode(source), os.fsencode(file), None, MS_BIND, None)


def as_user(act: Callable[[], T]) -> T:
    """Do something as the ordinary user, in a process that is as new as if it had been started by one."""

    def acted() -> T:
        calls.prctl(numbers.PR_SET_DUMPABLE, 1, 0, 0, 0)
        return act()

    return in_child(acted, UID)


def maps(idmap: str) -> tuple[str, str]:
    """Make a user namespace, and read its maps through a process that enters it."""
    with UserNamespace.new(IdMap.parse(idmap)) as made:
        script = "cat /proc/self/uid_map /proc/self/gid_map"
        line = ["nsenter", f"--user=/proc/self/fd/{made.fileno()}", "--preserve-credentials", "sh", "-c", script]
        done = subprocess.run(line, check=True, capture_output=True, text=True, pass_fds=[made.fileno()])
    lines = [":".join(line.split()) for line in done.stdout.splitlines()]
    half = len(lines) // 2
    return ",".join(lines[:half]), ",".join(lines[half:])


def refused(act: Callable[[], object]) -> str:
    """Do what is denied as the user, and give the hint."""
    with pytest.raises(Denied) as caught:
        as_user(act)
    assert caught.value.hint is not None
    return caught.value.hint


def make(idmap: str) -> Callable[[], None]:
    return lambda: UserNamespace.new(IdMap.parse(idmap)).close()


@pytest.mark.parametrize(
    "idmap",
    [
        f"0:{FIRST}:{COUNT}",
        f"0:{UID}:1,1:{FIRST}:{COUNT}",
        f"0:{FIRST}:10,100:{FIRST + 100}:10",
        f"0:{FIRST}:1",
        f"0:{UID}:1",
    ],
)
def test_ids_of_ones_own_can_be_mapped(give: Give, idmap: str) -> None:
    give(GIVEN, GIVEN)
    assert as_user(lambda: maps(idmap)) == (idmap, idmap)


def test_the_file_may_name_the_user_by_number(give: Give) -> None:
    give(f"{UID}:{FIRST}:10\n", f"{UID}:{FIRST}:10\n")
    assert as_user(lambda: maps(f"0:{FIRST}:10"))[0] == f"0:{FIRST}:10"


def test_users_and_groups_go_each_its_own_way(give: Give) -> None:
    give(GIVEN, "")
    users = f"0:{FIRST}:{COUNT}"
    assert as_user(lambda: maps(f"u:{users},g:0:{UID}:1")) == (users, f"0:{UID}:1")


def test_with_subordinate_groups_setgroups_stays_allowed(give: Give) -> None:
    give(GIVEN, GIVEN)

    def allowed(idmap: str) -> str:
        with UserNamespace.new(IdMap.parse(idmap)) as made:
            line = ["nsenter", f"--user=/proc/self/fd/{made.fileno()}", "--preserve-credentials"]
            done = subprocess.run(
                [*line, "cat", "/proc/self/setgroups"], check=True, capture_output=True, text=True,
                pass_fds=[made.fileno()],
            )  # fmt: skip
            return done.stdout.strip()

    assert as_user(lambda: allowed(f"0:{FIRST}:{COUNT}")) == "allow"
    assert as_user(lambda: allowed(f"0:{UID}:1")) == "deny"


# --- refusals ------------------------------------------------------------------------------------------------------
def test_ids_of_somebody_else_are_refused_with_those_that_one_has(give: Give) -> None:
    give(GIVEN, GIVEN)
    hint = refused(make("0:500000:10"))
    assert "CAP_SETUID" in hint
    assert "newuidmap: uid range [0-10) -> [500000-500010) not allowed" in hint
    assert f"/etc/subuid gives this user {FIRST}:{COUNT}" in hint


def test_who_has_none_is_told_so(give: Give) -> None:
    give("", "")
    assert "/etc/subuid gives this user none" in refused(make(f"0:{FIRST}:10"))


def test_the_half_that_was_refused_is_named(give: Give) -> None:
    give(GIVEN, "")
    hint = refused(make(f"0:{FIRST}:10"))
    assert "CAP_SETGID" in hint
    assert "newgidmap: gid range" in hint


def test_no_new_privs_is_named(give: Give) -> None:
    give(GIVEN, GIVEN)

    def act() -> None:
        calls.prctl(numbers.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        make(f"0:{FIRST}:10")()

    assert "no_new_privs is set" in refused(act)


def test_a_lost_set_user_id_bit_is_named(give: Give, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give(GIVEN, GIVEN)
    (scratch / "bin").mkdir()
    shutil.copyfile(need_command("newuidmap"), scratch / "bin" / "newuidmap")
    (scratch / "bin" / "newuidmap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{scratch}/bin")
    assert "has lost its set-user-id bit" in refused(make(f"0:{FIRST}:10"))


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exit 3", "exit status 3"),
        ("echo no such luck >&2; exit 1", "no such luck"),
        ("exit 0", "newuidmap wrote nothing"),
        ("kill -9 $$", "exit status -9"),
        ("head -c 1000000 /dev/zero >&2; exit 1", "\\x00"),
    ],
)
def test_a_program_that_fails_is_believed_by_what_it_did(
    give: Give, scratch: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    give(GIVEN, GIVEN)
    (scratch / "bin").mkdir()
    (scratch / "bin" / "newuidmap").write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    (scratch / "bin" / "newuidmap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{scratch}/bin")
    hint = refused(make(f"0:{FIRST}:10"))
    assert words in hint.replace("\0", "\\x00")
    assert len(hint) < 10000


def test_the_programs_are_found_beside_an_odd_path(give: Give, monkeypatch: pytest.MonkeyPatch) -> None:
    give(GIVEN, GIVEN)
    monkeypatch.setenv("PATH", "/nonexistent")

    def act() -> bool:
        with UserNamespace.new(IdMap.parse(f"0:{FIRST}:10")) as made:
            return not made.closed

    assert as_user(act)


def test_where_they_are_not_installed_it_is_said(give: Give, scratch: Path) -> None:
    give(GIVEN, GIVEN)
    program = Path(need_command("newuidmap"))
    (scratch / "empty").touch()
    cover(scratch / "empty", program)
    try:
        assert "newuidmap(1), which maps those, is not installed" in refused(make(f"0:{FIRST}:10"))
    finally:
        umount(program)


def test_who_may_map_any_ids_is_told_which_there_are() -> None:
    def act() -> None:
        in_user_namespace()
        make("0:100000:10")()

    assert "doesn't exist in the user namespace that this process is in" in refused(act)


# --- surroundings --------------------------------------------------------------------------------------------------
def test_a_caller_who_ignores_its_children_gets_the_same(give: Give) -> None:
    give(GIVEN, GIVEN)

    def act() -> bool:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        with UserNamespace.new(IdMap.parse(f"0:{FIRST}:10")) as made:
            return not made.closed

    def denied() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        make("0:500000:10")()

    assert as_user(act)
    assert "not allowed" in refused(denied)


def test_no_child_and_no_descriptor_is_left(give: Give) -> None:
    give(GIVEN, GIVEN)

    def act() -> tuple[set[str], list[int]]:
        before = set(os.listdir("/proc/self/fd"))
        make(f"0:{FIRST}:10")()
        with pytest.raises(Denied):
            make("0:500000:10")()
        children = []
        with contextlib.suppress(ChildProcessError):
            children.append(os.waitpid(-1, os.WNOHANG)[0])
        return set(os.listdir("/proc/self/fd")) ^ before, children

    assert as_user(act) == (set(), [])


def test_without_standard_streams(give: Give) -> None:
    give(GIVEN, GIVEN)

    def act() -> str:
        for fd in (0, 1, 2):
            os.close(fd)
        make(f"0:{FIRST}:10")()
        try:
            make("0:500000:10")()
        except Denied as error:
            return error.hint or ""
        return "nothing was refused"

    assert "not allowed" in as_user(act)


@pytest.mark.parametrize("capabilities", ["-setuid,-setgid", "-setgid"])
def test_root_without_the_capabilities_is_like_anybody(capabilities: str) -> None:
    program = "from mountfd import IdMap, UserNamespace as U; U.new(IdMap.parse('0:0:1')).close(); print('made')"
    line = ["setpriv", "--bounding-set", capabilities, "--inh-caps", "-all", sys.executable, "-c", program]
    done = subprocess.run(line, check=False, capture_output=True, text=True)
    assert (done.stderr, done.stdout) == ("", "made\n")


def test_ranges_are_all_that_the_file_gives_the_user(give: Give) -> None:
    lines = [GIVEN, f"{UID}:700000:5\n", "other:1:1\n", "mountfd-test:x:5\n", "mountfd-test:9:0\n", "mountfd-test\n"]
    give("".join(lines), "")
    assert as_user(lambda: subordinate_ranges("uid")) == [(FIRST, COUNT), (700000, 5)]
    assert as_user(lambda: subordinate_ranges("gid")) == []
