"""`mountfd list` as a program: what findmnt's users expect, and what people see."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.architecture.source import ROOT
from tests.support.need import need_real_root
from tests.support.program import MOUNTFD, Terminal, mountfd
from tests.support.standing import standing


@pytest.fixture
def place(scratch: Path) -> Iterator[Path]:
    with standing(scratch / "w") as found:
        yield found


def shown(*words: str, status: int = 0, **more: Any) -> str:
    """Run it, complaining about any complaint."""
    done = mountfd("list", *words, **more)
    assert (done.stderr, done.returncode) == ("", status)
    return done.stdout


def listed(*words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(shown("--json", *words))["filesystems"]
    return found


def every(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*found, *(each for one in found for each in every(one.get("children", [])))]


def at_terminal(*words: str, **env: str) -> list[str]:
    """Run it at a terminal and give the lines that it wrote there."""
    terminal = Terminal([*MOUNTFD, "list", *words], env={"TERM": "xterm", "COLUMNS": "100", "LC_ALL": "C.UTF-8", **env})
    try:
        text = terminal.rest()
        assert terminal.end() == 0
    finally:
        terminal.close()
    return text.replace("\r\n", "\n").splitlines()


def plain(lines: list[str]) -> list[str]:
    return [re.sub(r"\x1b\[[\d;]*m", "", line).rstrip() for line in lines]


# --- which mounts --------------------------------------------------------------------------------------------------
def test_a_mount_point_names_its_whole_stack_and_a_source_its_mounts(place: Path) -> None:
    assert shown("-no", "SOURCE", f"{place}/twice").split() == ["one", "two"]
    assert shown("-no", "TARGET", "shade").strip() == f"{place}/under/deep"


def test_submounts_come_along_with_r(place: Path) -> None:
    assert len(every(listed("-R", str(place)))) == 10
    first, *rest = listed("-lR", f"{place}/twice")
    assert (first["source"], sorted(one["source"] for one in rest)) == ("one", ["inner", "two"])
    # In the order of these ids, which the kernel uses again: whoever came later may be the first.
    assert rest == sorted(rest, key=lambda one: one["id"])


def test_under_takes_a_mount_or_a_plain_directory(place: Path) -> None:
    assert shown("-no", "SOURCE", "--under", f"{place}/twice").split() == ["two", "one", "inner"]
    assert shown("-no", "TARGET", "--under", f"{place}/under").split() == [f"{place}/under"]
    assert "inner" not in shown("--under", f"{place}/a b")


def test_target_asks_for_the_mount_that_a_path_lies_on(place: Path) -> None:
    assert shown("-no", "SOURCE", "-T", f"{place}/source/file").split() == ["base"]


def test_types_may_be_several_and_turned_round(place: Path) -> None:
    assert {one["fstype"] for one in every(listed("-t", "tmpfs,proc"))} == {"tmpfs", "proc"}
    assert "tmpfs" not in {one["fstype"] for one in every(listed("-t", "notmpfs"))}


def test_another_namespace_is_named_by_a_pid_or_a_file(place: Path) -> None:
    line = ["unshare", "--mount", "sh", "-c", f"umount -l '{place}/a b'; echo; exec sleep 60"]
    with subprocess.Popen(line, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            other.stdout.readline()
            for name in (str(other.pid), f"/proc/{other.pid}/ns/mnt"):
                there = {one["target"] for one in every(listed("--namespace", name))}
                assert f"{place}/slave" in there
                assert f"{place}/a b" not in there
        finally:
            other.kill()


def test_all_namespaces_are_listed_side_by_side(place: Path) -> None:
    need_real_root()
    line = ["unshare", "--mount", "sh", "-c", "echo; exec sleep 60"]
    with subprocess.Popen(line, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            other.stdout.readline()
            found = every(listed("--namespace", "all"))
            assert len({one["ns"] for one in found if one["target"] == f"{place}/slave"}) == 2
        finally:
            other.kill()


def test_a_recorded_table_is_read_from_a_file_or_standard_input(tmp_path: Path) -> None:
    table = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:5 / /a\\040b rw,noexec - tmpfs t rw\n"
    (tmp_path / "mountinfo").write_text(table)
    for found in (shown("-rn", "--file", str(tmp_path / "mountinfo")), shown("-rn", "-F", "-", text=table)):
        assert found == "/ /dev/sda1 ext4 rw\n/a\\x20b t tmpfs rw,noexec\n"
    assert shown("-no", "SOURCE", "--file", str(tmp_path / "mountinfo"), "/a b").strip() == "t"


# --- shapes --------------------------------------------------------------------------------------------------------
def test_a_pipe_gets_plain_columns_and_a_tree_where_it_asks(place: Path) -> None:
    flat = shown("-R", str(place)).splitlines()
    assert flat[0].split() == ["TARGET", "SOURCE", "FSTYPE", "OPTIONS"]
    assert all(line.startswith(str(place)) for line in flat[1:])
    assert f"├─{place}/a b" in shown("--tree", "-R", str(place))
    assert f"|-{place}/a b" in shown("--tree", "-aR", str(place))


def test_columns_are_the_asked_ones_and_short_options_may_be_joined(place: Path) -> None:
    assert shown("-no", "SOURCE,FSTYPE", f"{place}/alone") == "x tmpfs\n"
    assert shown("-noSOURCE", f"{place}/alone") == "x\n"
    assert shown("-n", "--output=propagation", f"{place}/alone") == "private,unbindable\n"
    assert shown("-o", "+ID", f"{place}/alone").split("\n")[0].split()[-2:] == ["OPTIONS", "ID"]


def test_a_locale_without_utf8_gets_ascii(place: Path) -> None:
    os.mkdir(place / "ü")
    subprocess.run(["mount", "-t", "tmpfs", "x", place / "ü"], check=True)
    assert "ü" in shown("--tree", env={"LC_ALL": "C.UTF-8"})
    for locale in ("C", "POSIX"):
        assert shown("--tree", env={"LC_ALL": locale}).isascii()
        assert shown("--json", env={"LC_ALL": locale}).isascii()


def test_nothing_found_is_status_1_and_json_still_a_document() -> None:
    assert shown("-t", "xyzfs", status=1) == ""
    assert json.loads(shown("--json", "-t", "xyzfs", status=1)) == {"filesystems": []}


def test_a_reader_who_leaves_is_no_error() -> None:
    with subprocess.Popen([*MOUNTFD, "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 128 + signal.SIGPIPE


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "NOPE"], "'NOPE'"),
        (["--color", "pink"], "'pink'"),
        (["-x"], "'-x'"),
        (["a", "b"], "'b' is one word too many"),
        (["--under", "/not/there"], "No such file or directory: '/not/there'"),
        (["-T", "/not/there"], "No such file or directory: '/not/there'"),
        (["--file", "/not/there"], "No such file or directory: '/not/there'"),
        (["--file", "/etc/passwd"], "line 1 is not a line of mountinfo"),
        (["--namespace", "4194304"], "no process 4194304"),
        (["--namespace", "/etc/passwd"], "'/etc/passwd' is not a mount namespace"),
        (["--file", "-", "--namespace", "1"], "exclude each other"),
        (["-R"], "-R needs a PATH"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line_and_is_status_1(words: list[str], said: str) -> None:
    done = mountfd("list", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("mountfd: ")
    assert said in done.stderr.splitlines()[0]


# --- JSON ----------------------------------------------------------------------------------------------------------
def test_json_has_findmnt_s_keys_first_and_some_more(place: Path) -> None:
    slave = next(one for one in every(listed()) if one["target"] == f"{place}/slave")
    peers = next(one for one in every(listed()) if one["target"] == f"{place}/a b")
    assert list(slave)[:4] == ["target", "source", "fstype", "options"]
    assert slave["master"] == peers["peer_group"] > 0
    assert (slave["peer_group"], slave["propagation"], peers["propagation"]) == (None, "private,slave", "shared")
    assert type(slave["id"]) is int


def test_json_says_what_is_covered_and_hidden(place: Path) -> None:
    states = {one["source"]: one["state"] for one in every(listed("-R", str(place)))}
    assert (states["one"], states["two"], states["inner"], states["shade"]) == (
        "covered",
        "visible",
        "hidden",
        "hidden",
    )


def test_json_is_what_the_published_schema_says(place: Path) -> None:
    odd = os.fsencode(place) + b"/not\xffutf8"
    os.mkdir(odd)
    subprocess.run(["mount", "-t", "tmpfs", b"\xfe", odd], check=True)
    names = "TARGET,SOURCE,FSTYPE,OPTIONS,VFS-OPTIONS,FS-OPTIONS,FSROOT,MAJ:MIN,ID,PARENT,UNIQ-ID,UNIQ-PARENT,"
    names += "PROPAGATION,OPT-FIELDS,PEER-GROUP,MASTER,STATE,SUBTYPE,IDMAP,NS"
    schema = json.loads((ROOT / "docs/schema/list.schema.json").read_text())
    mount = schema["$defs"]["mount"]["properties"]
    seen: set[str] = set()
    for document in (shown("--json"), shown("--json", "-o", names), mountfd("lookup", "--json", "/").stdout):
        found = json.loads(document)
        assert list(found) == schema["required"]
        for one in every(found["filesystems"]):
            seen |= set(one)
            for key, value in one.items():
                _fits(value, mount[key])
    assert seen >= set(mount) - {"options_b64", "fs-options_b64", "fsroot_b64"}


def _fits(value: object, rule: dict[str, Any]) -> None:
    """Judge by the few words of JSON Schema that the published file uses."""
    assert not rule.keys() - {"type", "enum", "description", "items"}
    kinds = {str: "string", int: "integer", type(None): "null", list: "array"}
    assert kinds[type(value)] in rule["type"]
    assert value in rule.get("enum", [value])


# --- people --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("drawn_by", ["rich", "hand"])
def test_at_a_terminal_a_stack_is_one_entry_and_peers_are_numbered(place: Path, drawn_by: str, tmp_path: Path) -> None:
    env = {"COLUMNS": "120"}
    words = [*MOUNTFD]
    if drawn_by == "hand":
        words = [MOUNTFD[0], "-I", "-c", "import sys; sys.modules['rich'] = None; sys.argv[0] = sys.argv.pop(1)"]
        words[3] += "; exec(compile(open(sys.argv[0]).read(), sys.argv[0], 'exec'), {'__file__': sys.argv[0]})"
        words.append(MOUNTFD[-1])
    terminal = Terminal([*words, "list", "-R", str(place)], env={"TERM": "xterm", "LC_ALL": "C.UTF-8", **env})
    try:
        lines = terminal.rest().splitlines()
        assert terminal.end() == 0
    finally:
        terminal.close()
    assert any("\x1b[" in line for line in lines)
    text = plain(lines)
    twice = next(at for at, line in enumerate(text) if " twice " in line)
    assert "▲ covers 1" in text[twice]
    assert "╎ beneath" in text[twice + 1]
    assert "▽ covered" in text[twice + 1]
    assert "inside" in text[twice + 2]
    assert "◌ hidden" in text[twice + 2]
    group = re.search(r"●\d+", next(line for line in text if "a b" in line))
    assert group is not None
    assert f"◀─ {group[0]}" in next(line for line in text if "slave" in line)
    assert "⊘ unbindable" in next(line for line in text if "alone" in line)


def test_a_line_never_runs_over_the_terminal_s_edge(place: Path) -> None:
    for width in ("40", "100"):
        assert max(map(len, plain(at_terminal(COLUMNS=width)))) <= int(width)
        assert max(map(len, at_terminal("-o", "TARGET,OPTIONS", COLUMNS=width))) <= int(width)


def test_colour_is_the_reader_s_choice(place: Path) -> None:
    def colourful(lines: list[str] | str) -> bool:
        return "\x1b[" in "".join(lines)

    assert colourful(at_terminal())
    assert not colourful(at_terminal(NO_COLOR="1"))
    assert not colourful(at_terminal(TERM="dumb"))
    assert not colourful(at_terminal("--color=never", FORCE_COLOR="1"))
    assert colourful(at_terminal("--color=always", NO_COLOR="1", TERM="dumb"))
    assert not colourful(shown())
    assert colourful(shown(env={"FORCE_COLOR": "1"}))
    assert not colourful(shown(env={"FORCE_COLOR": "1", "NO_COLOR": "1"}))
    assert colourful(shown("--color", "always"))


def test_at_a_terminal_without_utf8_the_picture_is_ascii(place: Path) -> None:
    lines = at_terminal(LC_ALL="POSIX")
    assert any("beneath" in line for line in lines)
    assert all(line.isascii() for line in lines)


def test_rich_is_not_loaded_for_a_pipe() -> None:
    program = "import sys; from mountfd.cli import main; main(['list']); print('rich' in sys.modules, file=sys.stderr)"
    done = subprocess.run([MOUNTFD[0], "-c", program], check=True, capture_output=True, text=True)
    assert done.stderr == "False\n"
