from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from mountfd import Feature
from tests.support.need import need_real_root
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


@pytest.mark.parametrize("words", ["doctor", "doctor --json", "check --json /"])
def test_without_standard_output_nothing_is_said(words: str) -> None:
    line = f"exec {' '.join(MOUNTFD)} {words} >&-"
    done = subprocess.run(["sh", "-c", line], check=False, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
