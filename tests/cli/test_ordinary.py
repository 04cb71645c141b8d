"""The command line for somebody who isn't root: outside, and inside a user namespace of one's own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from mountfd import Feature
from tests.support.need import need, need_command, need_real_root, no_user_namespaces
from tests.support.program import MOUNTFD, mountfd

need_real_root()
UID = 65534
ANYBODY = ["setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups"]
INSIDE = [*ANYBODY, "unshare", "--user", "--map-root-user", "--mount"]


@pytest.fixture(autouse=True)
def _namespaces_for_everybody() -> None:
    done = subprocess.run([*INSIDE, "true"], check=False, capture_output=True)
    need(done.returncode == 0, "user namespaces for ordinary users")


@pytest.fixture
def place(scratch: Path) -> Path:
    scratch.chmod(0o755)
    (scratch / "own").mkdir()
    os.chown(scratch / "own", UID, UID)
    return scratch / "own"


def test_run_makes_root_of_anybody() -> None:
    done = mountfd("run", "--", "id", "-u", before=ANYBODY)
    assert (done.returncode, done.stdout) == (0, "0\n")
    assert "no subordinate ids" in done.stderr


def test_run_with_subordinate_ids(scratch: Path) -> None:
    need_command("newuidmap")
    (scratch / "ids").write_text(f"{UID}:400000:65536\n")
    script = 'mount --bind "$0" /etc/subuid && mount --bind "$0" /etc/subgid && exec "$@"'
    before = ["unshare", "--mount", "sh", "-c", script, str(scratch / "ids"), *ANYBODY]
    done = mountfd("run", "--", "cat", "/proc/self/uid_map", before=before)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["0", str(UID), "1", "1", "400000", "65536"]


def test_list_inside_run() -> None:
    done = mountfd("run", "--", *MOUNTFD, "list", "--json", before=ANYBODY)
    if done.returncode == 127 or "No such file" in done.stderr:
        need(condition=False, feature="a checkout that is in sight of the command")
    assert done.returncode == 0
    assert "/" in [each["target"] for each in json.loads(done.stdout)["filesystems"]]


def test_mount_list_replace_and_umount_inside(place: Path) -> None:
    words = " ".join(MOUNTFD)
    script = f"""
        set -e
        cd {place}
        mkdir point first second
        echo 1 > first/which; echo 2 > second/which
        {words} mount --bind first point; cat point/which
        {words} replace {place}/point --bind {place}/second; cat point/which
        {words} list --under {place} -o TARGET
        {words} umount point; ls point | wc -l
    """
    done = subprocess.run([*INSIDE, "sh", "-c", script], check=False, capture_output=True, text=True, timeout=60)
    assert (done.stderr, done.returncode) == ("", 0)
    lines = done.stdout.split()
    assert lines[:2] == ["1", "2"]
    assert str(place / "point") in lines[2:]
    assert lines[-1] == "0"


def test_mount_outside_says_that_it_is_not_permitted(place: Path) -> None:
    for words in (["mount", "-t", "tmpfs", "x", str(place)], ["mount", "--bind", "/usr", str(place)]):
        done = mountfd(*words, before=ANYBODY)
        assert done.returncode == 1
        assert "Operation not permitted" in done.stderr
        assert "Traceback" not in done.stderr


def test_umount_outside_names_the_privilege(place: Path) -> None:
    done = mountfd("umount", "/proc", before=ANYBODY)
    assert done.returncode == 1
    assert "CAP_SYS_ADMIN" in done.stderr


def test_replace_outside_names_the_privilege(place: Path) -> None:
    done = mountfd("replace", "/proc", "--bind", str(place), before=ANYBODY)
    assert done.returncode in (1, 32)
    assert "CAP_SYS_ADMIN" in done.stderr


def test_doctor_tells_what_a_user_namespace_allows() -> None:
    facts = json.loads(mountfd("doctor", "--json", before=ANYBODY).stdout)
    here = {each["name"]: each["present"] for each in facts["features"]}
    assert here["OVERLAY"] is False
    assert facts["inside"]["user"]["uid"] == 0
    assert facts["inside"]["user"]["CAP_SYS_ADMIN"] is True
    assert facts["inside"]["features"]["OVERLAY"] is Feature.OVERLAY.present
    assert list(facts["inside"]["features"]) == list(here)
    assert facts["inside"]["routes"]["replace"] == json.loads(mountfd("doctor", "--json").stdout)["routes"]["replace"]


def test_doctor_puts_both_into_each_line() -> None:
    text = mountfd("doctor", before=ANYBODY).stdout
    (line,) = [line for line in text.split("\n") if " OVERLAY " in line]
    assert line.split()[:2] == ["no", "yes" if Feature.OVERLAY.present else "no"]
    assert "; inside: " in text


def test_doctor_of_root_has_one_column() -> None:
    assert json.loads(mountfd("doctor", "--json").stdout)["inside"] is None
    assert "inside" not in mountfd("doctor").stdout


def test_doctor_tells_where_user_namespaces_are_refused() -> None:
    with no_user_namespaces():
        done = mountfd("doctor", before=ANYBODY)
    assert done.returncode == 0
    assert "no user namespace of your own" in done.stdout


def test_doctor_names_the_route_by_fuse_and_what_it_lacks() -> None:
    env = {"MOUNTFD_ROUTE": "assemble:fuse"}
    assert "assemble: " in mountfd("doctor", env=env).stdout
    need_command("fuse-overlayfs")
    assert json.loads(mountfd("doctor", "--json", env=env).stdout)["routes"]["assemble"] == "fuse"
