"""`mountfd graph` as a program: what it draws is what the kernel does, and its page works in a browser."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mountfd import MountTable, lookup, mounts
from mountfd.cli import COMMANDS
from mountfd.model.graph import THROUGH, Graph, graph
from mountfd.model.info import FIELDS
from tests.support.mounting import MS_PRIVATE, MS_SHARED, MS_SLAVE, bind, change, tmpfs, umount
from tests.support.need import need, need_real_root
from tests.support.others import in_child
from tests.support.program import MOUNTFD as PROGRAM
from tests.support.program import Terminal, mountfd

MS_UNBINDABLE = 1 << 17


@contextlib.contextmanager
def neighbours(*kinds: str) -> Iterator[list[int]]:
    """Start processes in copies of this namespace, each made with a propagation, or by a shell's words after that."""
    with contextlib.ExitStack() as stack:
        pids = []
        for kind in kinds:
            word, _, after = kind.partition(" ")
            line = ["unshare", "--mount", "--propagation", word, "sh", "-c", f"{after or ':'}; echo; exec sleep 120"]
            process = stack.enter_context(subprocess.Popen(line, stdout=subprocess.PIPE))
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n"
            pids.append(process.pid)
        yield pids


@pytest.fixture
def place(scratch: Path) -> Iterator[Path]:
    """Make a shared mount with a peer, a receiver, and one that receives and passes on."""
    root = tmpfs(scratch / "w")
    change(root, MS_PRIVATE)
    shared = tmpfs(root / "shared")
    change(shared, MS_SHARED)
    bind(shared, root / "peer")
    change(bind(shared, root / "slave"), MS_SLAVE)
    both = bind(root / "slave", root / "both")
    change(both, MS_SHARED)
    change(tmpfs(root / "alone"), MS_UNBINDABLE)
    (shared / "dir").mkdir()
    yield root
    umount(root, 2)


def shown(*words: str, **more: Any) -> str:
    done = mountfd("graph", *words, **more)
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout


def listed(*words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shown("--json", *words))
    return found


def drawn(place: Path, *pids: int) -> Graph:
    tables = [mounts(place, fields=FIELDS), *(mounts(place, namespace=pid, fields=FIELDS) for pid in pids)]
    return graph((str(at), table) for at, table in enumerate(tables))


def test_it_is_a_command() -> None:
    assert "graph" in COMMANDS


# --- what the kernel says and does ---------------------------------------------------------------------------------
def test_groups_masters_and_members_are_the_kernel_s(place: Path) -> None:
    rows = MountTable.parse(Path("/proc/self/mountinfo").read_bytes()).below(str(place))
    found = listed("--under", str(place))
    groups = {row.peer_group for row in rows if row.peer_group} | {row.master for row in rows if row.master}
    assert {group["numbers"][0] for group in found["groups"]} == groups
    (frame,) = found["namespaces"]
    drawn_mounts = {(one["target"], one["peer_groups"][0], one["masters"][0]) for one in frame["mounts"]}
    assert drawn_mounts == {
        (row.point, row.peer_group or None, row.master or None) for row in rows if row.peer_group or row.master
    }
    assert frame["private"] == [2, 2]
    assert frame["unbindable"] == [1, 1]
    assert len(listed("--under", str(place), "--all")["namespaces"][0]["mounts"]) == len(rows)


def test_where_a_mount_is_said_to_appear_it_appears_and_nowhere_else(place: Path) -> None:
    with neighbours("unchanged", "slave", "private", f"slave mount --make-shared '{place}/peer'") as pids:
        tables = [
            (0, mounts(place, fields=FIELDS)),
            *((pid, mounts(place, namespace=pid, fields=FIELDS)) for pid in pids),
        ]
        # Under names that hold them apart nothing is alike, so each node is one mount.
        found = graph((str(pid), table) for pid, table in tables)
        names = {node.mount.id: node for node in found.nodes()}
        tried = 0
        for node in [node for node in found.frames[0].nodes if len(node.mounts) == 1 or node.frame.names[0] == "0"]:
            point = Path(str(node.mount.point)) / "dir"
            tmpfs(point)
            there = set()
            for pid, _ in tables:
                for mount in mounts(place, namespace=pid or os.getpid(), fields=FIELDS):
                    if str(mount.point).endswith("/dir"):
                        there.add((pid, str(mount.point)))
            umount(point)
            expected = {
                (int(name), f"{each.mount.point}/dir") for each in found.reach(node) for name in each.frame.names
            }
            here = (0, str(point))
            assert there - {here} == expected - {here}
            tried += 1
        assert tried == 4
        assert names


def test_namespaces_alike_are_one_frame_and_slaves_and_private_ones_others(place: Path) -> None:
    with neighbours("unchanged", "unchanged", "slave", "private") as pids:
        words = [word for pid in pids for word in ("--namespace", str(pid))]
        frames = listed("--namespace", "self", *words, "--under", str(place))["namespaces"]
    assert [len(frame["names"]) for frame in frames] == [3, 1, 1]
    assert frames[0]["names"] == ["this namespace", f"pid {pids[0]} sleep", f"pid {pids[1]} sleep"]
    assert {bool(one["masters"][0]) for one in frames[1]["mounts"]} == {True}
    assert (frames[2]["mounts"], frames[2]["private"]) == ([], [6, 6])


def test_a_master_whose_members_are_all_elsewhere_is_out_of_sight(place: Path) -> None:
    with neighbours("slave") as (pid,):
        number = mounts(place / "shared", fields=FIELDS)[0].peer_group
        groups = listed("--namespace", str(pid), "--under", f"{place}/shared")["groups"]
        assert [(group["numbers"], group["peers"]) for group in groups] == [([number], [])]
        assert f"●{number}  out of sight, 1 receives" in shown(
            "--namespace", str(pid), "--under", f"{place}/shared", env={"LC_ALL": "C.UTF-8"}
        )


def test_a_master_out_of_the_root_s_reach_is_passed_through(scratch: Path) -> None:
    need(mountfd_has_ids(), "statmount(2) (Linux 6.8)")
    root = tmpfs(scratch / "root")
    change(root, MS_PRIVATE)
    first = tmpfs(root / "first")
    change(first, MS_SHARED)
    middle = bind(first, scratch / "middle")
    change(middle, MS_SLAVE)
    change(middle, MS_SHARED)
    change(bind(middle, root / "last"), MS_SLAVE)
    numbers = [int(lookup(place, fields=["peer_group"]).peer_group or 0) for place in (first, middle)]

    def seen() -> list[tuple[str, list[str]]]:
        os.chroot(root)
        found = graph([("here", mounts(fields=FIELDS))])
        steps = [(edge.kind, str(edge.start), str(edge.end)) for edge in found.edges() if edge.kind == THROUGH]
        reached = [str(each.mount.point) for each in found.reach(next(iter(found.nodes())))]
        return [*((kind, [start, end]) for kind, start, end in steps), ("reach", reached)]

    (kind, (start, end)), (_, reached) = in_child(seen)
    assert (kind, reached) == (THROUGH, ["/last"])
    assert start.startswith(f"<Group {numbers[0]}:")
    assert end.startswith(f"<Group {numbers[1]}: 0 members")
    for point in (root, middle):
        umount(point, 2)


def mountfd_has_ids() -> bool:
    return lookup("/", fields=["id"]).id is not None


def test_all_namespaces_are_named_by_a_process_in_each_and_shown_once(place: Path) -> None:
    need_real_root()
    with neighbours("slave") as (pid,):
        names, _ = partly("--namespace", str(pid), "--namespace", "self")
    assert names.count("this namespace") == 1
    assert names.count(f"pid {pid} sleep") == 1
    assert len(set(names)) == len(names)


def test_in_a_pid_namespace_all_are_those_of_the_processes_there() -> None:
    need_real_root()
    names, said = partly(before=("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"))
    assert names == ["this namespace"]
    assert said == (
        "mountfd: mount namespaces can't be listed here: shown are those of processes that may be looked into\n"
    )


def partly(*words: str, before: tuple[str, ...] = ()) -> tuple[list[str], str]:
    """Ask for all namespaces, also from where they can't be listed; give the names of those shown, and what is said."""
    done = mountfd("graph", "--namespace", "all", "--json", *words, before=before)
    assert done.returncode == 0
    return [name for frame in json.loads(done.stdout)["namespaces"] for name in frame["names"]], done.stderr


@pytest.mark.parametrize("inside", [(), ("--mount",)])
def test_in_a_user_namespace_all_are_those_that_may_be_seen_and_others_are_said_to_be_missing(
    inside: tuple[str, ...],
) -> None:
    need_real_root()
    script = 'coproc unshare --mount sh -c "echo; exec sleep 120"; read -r -u "${COPROC[0]}"; "$@"; kill "$COPROC_PID"'
    user = ("unshare", "--user", "--map-root-user", *inside)
    names, said = partly(before=(*user, "bash", "-c", script, "bash"))
    assert names[0] == "this namespace"
    assert [name.split()[2:] for name in names[1:]] == [["sleep"]]
    assert re.fullmatch(r"mountfd: mount namespaces can't be listed here: .*, which \d+ may not: pid 1 .*\n", said)


def test_an_ordinary_user_sees_his_own(place: Path) -> None:
    need_real_root()
    user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    names, said = partly(before=user)
    assert names == ["this namespace"]
    assert "may not: pid 1 " in said
    assert "mounts" in shown("--namespace", "self", before=user)


def test_all_namespaces_below_a_place_that_is_nowhere_is_an_error(place: Path) -> None:
    for before in ((), ("unshare", "--user", "--map-root-user")):
        done = mountfd("graph", "--namespace", "all", "--under", f"{place}/nowhere", before=before)
        assert (done.returncode, done.stdout) == (32, "")
        assert "No such file or directory" in done.stderr


# --- words ---------------------------------------------------------------------------------------------------------
def test_text_is_plain_in_a_pipe_coloured_on_a_terminal_and_ascii_where_the_locale_is(place: Path) -> None:
    plain = shown("--under", str(place), env={"LC_ALL": "C.UTF-8"})
    assert "\x1b" not in plain
    assert re.search(rf"^  └─▶  {place}/slave +tmpfs +tmpfs +this namespace$", plain, re.MULTILINE)
    assert shown("--under", str(place), env={"LC_ALL": "C"}).isascii()
    assert shown("--ascii", "--under", str(place)).isascii()
    terminal = Terminal(
        [*PROGRAM, "graph", "--under", str(place)], env={"TERM": "xterm", "LC_ALL": "C.UTF-8", "COLUMNS": "60"}
    )
    try:
        lines = terminal.rest().splitlines()
        assert terminal.end() == 0
    finally:
        terminal.close()
    assert any("\x1b[" in line for line in lines)
    assert max(len(re.sub(r"\x1b\[\d*m", "", line)) for line in lines) <= 60


def test_a_file_gets_the_whole_document_and_standard_output_nothing(place: Path, tmp_path: Path) -> None:
    for form in ("text", "dot", "json"):
        words = ["--under", str(place), "--format", form]
        assert shown(*words, "--output", str(tmp_path / form), env={"LC_ALL": "C"}) == ""
        assert (tmp_path / form).read_text() == shown(*words, env={"LC_ALL": "C.UTF-8"})


@pytest.mark.parametrize(
    ("words", "said", "status"),
    [
        (["--format", "png"], "'png'", 1),
        (["--json", "--format", "dot"], "exclude each other", 1),
        (["--color", "pink"], "'pink'", 1),
        (["--file", "-", "--namespace", "1"], "exclude each other", 1),
        (["--file", "/etc/passwd"], "line 1 is not a line of mountinfo", 1),
        (["--namespace", "/etc/passwd"], "'/etc/passwd' is not a mount namespace", 1),
        (["--namespace", "4194304"], "no process 4194304", 32),
        (["--under", "/not/there"], "No such file or directory: '/not/there'", 32),
        (["--output", "/not/there/x"], "No such file or directory: '/not/there/x'", 32),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(words: list[str], said: str, status: int) -> None:
    done = mountfd("graph", *words)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("mountfd: ")
    assert said in done.stderr.splitlines()[0]


@pytest.mark.parametrize("form", ["svg", "html"])
def test_without_graphviz_its_package_is_named(form: str, tmp_path: Path) -> None:
    done = mountfd("graph", "--format", form, env={"PATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (32, "")
    assert "Graphviz" in done.stderr
    assert "install the package graphviz" in done.stderr


def test_what_graphviz_says_when_it_fails_is_passed_on(tmp_path: Path) -> None:
    (tmp_path / "dot").write_text("#!/bin/sh\necho no way >&2\nexit 3\n")
    (tmp_path / "dot").chmod(0o755)
    done = mountfd("graph", "--format", "svg", env={"PATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (32, "")
    assert "dot(1) failed with status 3: no way" in done.stderr
