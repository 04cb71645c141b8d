from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from errno import ENOSYS, EPERM
from pathlib import Path
from typing import Any

import pytest

from mountfd import Feature
from mountfd.cli import exits
from mountfd.lowlevel import numbers
from mountfd.verbs.examine import examine
from mountfd.verbs.routes import forget
from tests.support import private, seccomp
from tests.support.need import need, need_command, need_real_root
from tests.support.others import in_child
from tests.support.program import MOUNTFD, VISIBLE, mountfd

need_real_root()


def test_every_feature_is_listed_with_what_takes_its_place() -> None:
    facts = json.loads(mountfd("doctor", "--json").stdout)
    assert [each["name"] for each in facts["features"]] == [feature.name for feature in Feature]
    assert {each["name"]: each["present"] for each in facts["features"]} == {f.name: f.present for f in Feature}
    assert all(each["since"] and each["use"] and each["otherwise"] for each in facts["features"])


def test_the_text_says_the_same() -> None:
    text = mountfd("doctor").stdout
    for feature in Feature:
        (line,) = [line for line in text.split("\n") if f" {feature.name} " in line]
        assert line.startswith("yes" if feature.present else "no ")
        assert feature.present or f"instead: {feature.otherwise}" in line
    for word in ("fs.mount-max", "user.max_user_namespaces", "mounts now", "CAP_SYS_ADMIN yes", "can be idmapped: "):
        assert word in text


def test_limits_are_numbers() -> None:
    limits = json.loads(mountfd("doctor", "--json").stdout)["limits"]
    assert all(value is None or value >= 0 for value in limits.values())
    assert limits["mounts now"] > 1


def test_what_can_be_idmapped_is_found_by_trying() -> None:
    found = json.loads(mountfd("doctor", "--json").stdout)["idmapped"]
    assert found["tmpfs"] is True
    assert found["proc"] is False


def test_the_route_is_the_forced_one() -> None:
    env = {"MOUNTFD_ROUTE": "assemble:string"}
    assert json.loads(mountfd("doctor", "--json", env=env).stdout)["routes"]["assemble"] == "string"
    assert "assemble: string" in mountfd("doctor", env=env).stdout
    done = mountfd("doctor", env={"MOUNTFD_ROUTE": "assemble:nonsense"})
    assert (done.returncode, "no route 'nonsense'" in done.stdout) == (0, True)


def test_nothing_is_changed() -> None:
    before = Path("/proc/self/mountinfo").read_text()
    mountfd("doctor")
    assert Path("/proc/self/mountinfo").read_text() == before


def test_it_works_for_anybody() -> None:
    anybody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    facts = json.loads(mountfd("doctor", "--json", before=anybody).stdout)
    assert facts["user"]["uid"] == 65534
    assert facts["user"]["CAP_SYS_ADMIN"] is False
    assert mountfd("doctor", before=anybody).returncode == 0


def test_it_works_inside() -> None:
    done = mountfd("run", *VISIBLE, *MOUNTFD, "doctor")
    assert (done.stderr, done.returncode) == ("", 0)
    assert "in a user namespace" in done.stdout


@pytest.fixture
def anybody() -> list[str]:
    user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    done = subprocess.run([*user, "unshare", "--user", "true"], check=False, capture_output=True)
    need(done.returncode == 0, "user namespaces for ordinary users")
    return user


def test_outside_each_verb_says_what_is_missing(anybody: list[str]) -> None:
    facts = json.loads(mountfd("doctor", "--json", before=anybody).stdout)
    for verb in ("assemble", "mount", "replace", "namespace"):
        assert facts["routes"][verb].startswith("none: ")
        assert "CAP_SYS_ADMIN" in facts["routes"][verb]
        assert not facts["inside"]["routes"][verb].startswith("none")
    assert facts["routes"]["watch"] == "polling"
    assert facts["features"][[each["name"] for each in facts["features"]].index("FANOTIFY_MOUNTS")]["present"] is False


def test_in_a_user_namespace_without_a_mount_namespace_it_says_so(anybody: list[str]) -> None:
    line = [*anybody, "unshare", "--user", "--map-root-user"]
    facts = json.loads(mountfd("doctor", "--json", before=line).stdout)
    assert "unshare --mount" in facts["routes"]["namespace"]


def examined_in_child(prepare: Callable[[], None], user: int | None = None) -> dict[str, Any]:
    def act() -> dict[str, Any]:
        prepare()
        forget()
        return examine()

    return in_child(act, user)


def test_a_route_whose_calls_a_filter_forbids_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    forbidden = {"fsopen": numbers.SYS_fsopen, "open_tree": numbers.SYS_open_tree}
    monkeypatch.setattr(seccomp, "NUMBERS", forbidden)
    routes = examined_in_child(lambda: seccomp.forbid(*forbidden, errno=EPERM))["routes"]
    for verb in ("assemble", "replace", "namespace"):
        assert routes[verb].startswith("none: ")
        assert "seccomp filter" in routes[verb]
    assert routes["mount"] == "string"


def test_a_call_that_a_filter_does_as_if_it_were_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "NUMBERS", {"open_tree": numbers.SYS_open_tree})
    routes = examined_in_child(lambda: seccomp.forbid("open_tree", errno=ENOSYS))["routes"]
    assert routes["namespace"].startswith("none: open_tree: ")


def test_who_has_changed_its_ids_has_an_inside_all_the_same(scratch: Path) -> None:
    """Such a process is closed to itself: there newuidmap(1) can map the own id."""
    need_command("newuidmap")
    passwd = scratch / "passwd"
    passwd.write_text(Path("/etc/passwd").read_text() + "mountfd-test:x:65533:65533::/:/bin/sh\n")
    subprocess.run(["mount", "--bind", passwd, "/etc/passwd"], check=True)
    try:
        inside = examined_in_child(lambda: None, 65533)["inside"]
    finally:
        private.detach(Path("/etc/passwd"))
    assert "refused" not in inside
    assert inside["user"]["uid"] == 0


def test_without_proc_it_says_so() -> None:
    script = 'mount -t tmpfs none /proc && exec "$@"'
    done = mountfd("doctor", before=["unshare", "--mount", "sh", "-c", script, "sh"])
    assert done.returncode == exits.FAILURE
    assert "there is no /proc" in done.stderr


@pytest.mark.parametrize("words", ["doctor", "doctor --json", "check --json /"])
def test_without_standard_output_nothing_is_said(words: str) -> None:
    line = f"exec {' '.join(MOUNTFD)} {words} >&-"
    done = subprocess.run(["sh", "-c", line], check=False, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
