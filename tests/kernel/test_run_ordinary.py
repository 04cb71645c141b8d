"""`mountfd run` for somebody who isn't root: with and without subordinate ids."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.need import need, need_command, need_real_root
from tests.support.program import MOUNTFD
from tests.support.rootfs import small_root

need_real_root()

UID = 65533


def ordinary(*words: str, subordinate: str | None = None, wrap: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line as a user without privilege; `subordinate` is what /etc/subuid and /etc/subgid hold."""
    files = (
        "mount --bind $1/ids /etc/subuid && mount --bind $1/ids /etc/subgid && mount --bind $1/passwd /etc/passwd && "
    )
    script = (files if subordinate is not None else "") + "shift; " + wrap + 'exec "$@"'
    listing = Path(os.environ["TMPDIR"], "subordinate")
    listing.mkdir()
    (listing / "ids").write_text(subordinate or "")
    # newuidmap(1) serves nobody without a name.
    (listing / "passwd").write_text(Path("/etc/passwd").read_text() + f"mountfd-test:x:{UID}:{UID}::/:/bin/sh\n")
    user = ["setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups"]
    try:
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, "sh", str(listing), *user, *MOUNTFD, *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "TMPDIR": os.environ["TMPDIR"]},
        )
    finally:
        shutil.rmtree(listing)


@pytest.fixture(autouse=True)
def _namespaces_for_everybody() -> None:
    user = ["setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups"]
    done = subprocess.run([*user, "unshare", "--user", "true"], check=False, capture_output=True)
    need(done.returncode == 0, "user namespaces for ordinary users")


def test_root_inside_with_only_ones_own_id() -> None:
    done = ordinary("run", "--", "sh", "-c", "id -u; cat /proc/self/uid_map; touch /etc/x 2>/dev/null; mount | wc -l")
    assert done.returncode == 0
    lines = done.stdout.split("\n")
    assert lines[0] == "0"
    assert lines[1].split() == ["0", str(UID), "1"]
    assert "no subordinate ids" in done.stderr
    assert f"only files of uid {UID}" in done.stderr
    assert not os.path.exists("/etc/x")


def test_subordinate_ids_are_used() -> None:
    need_command("newuidmap")
    done = ordinary(
        "run", "--", "sh", "-c", "cat /proc/self/uid_map /proc/self/gid_map; chown 5 /tmp && echo fine",
        subordinate=f"{UID}:400000:65536\n",
    )  # fmt: skip
    assert "subordinate" not in done.stderr
    words = done.stdout.split()
    assert words == ["0", str(UID), "1", "1", "400000", "65536"] * 2 + ["fine"]
    assert done.returncode == 0


def test_subordinate_ids_that_are_refused_are_told() -> None:
    need_command("newuidmap")
    user = f"{UID}:400000:65536\n"
    done = ordinary("run", "--", "id", "-u", subordinate=user, wrap="mount -o remount,bind,nosuid / && ")
    assert (done.returncode, done.stdout) == (0, "0\n")
    assert "no subordinate ids (newgidmap: " in done.stderr


def test_own_files_can_be_changed_in_the_copy(scratch: Path) -> None:
    place = Path("/home/mountfd-ordinary")
    place.mkdir()
    try:
        (place / "mine").write_text("before")
        os.chown(place / "mine", UID, UID)
        os.chown(place, UID, UID)
        script = f"cd {place}; echo after > mine; touch new; rm -f none; cat mine; stat -c %u mine"
        done = ordinary("run", "--", "sh", "-c", script)
        assert done.stdout == "after\n0\n"
        assert (place / "mine").read_text() == "before"
        assert os.listdir(place) == ["mine"]
    finally:
        (place / "mine").unlink()
        place.rmdir()


def test_files_in_the_root_directory_are_not_the_hosts_own() -> None:
    path = Path("/mountfd-ordinary-file")
    path.write_text("before")
    os.chown(path, UID, UID)
    try:
        done = ordinary("run", "--", "sh", "-c", f"cat {path}; echo after > {path}; cat {path}")
        assert done.stdout.startswith("before")
        assert path.read_text() == "before"
    finally:
        path.unlink()


def test_layers(scratch: Path) -> None:
    root = small_root(scratch / "root")
    subprocess.run(["chown", "-R", f"{UID}:{UID}", str(root)], check=True)
    for parent in (scratch, scratch.parent):
        parent.chmod(0o755)
    done = ordinary(
        "run", "--layer", str(root), "--net", "none", "--", "/bin/sh", "-c", "id -u; echo x > /etc/x; cat /etc/x"
    )
    assert done.stdout == "0\nx\n"
    assert done.returncode == 0
    assert os.listdir(root / "etc") == []


def test_what_only_root_can_have_is_told() -> None:
    for words in (["--idmap", "none"], ["--idmap", "0:100000:65536"]):
        done = ordinary("run", *words, "true")
        assert done.returncode == 125
        assert "only root" in done.stderr


def test_changes_to_the_hosts_root_cant_be_kept(scratch: Path) -> None:
    for name in ("upper", "work"):
        (scratch / name).mkdir()
        os.chown(scratch / name, UID, UID)
    scratch.chmod(0o755)
    done = ordinary("run", "--upper", str(scratch / "upper"), "--work", str(scratch / "work"), "true")
    assert done.returncode == 125
    assert "--layer" in done.stderr


def test_signals_and_statuses() -> None:
    assert ordinary("run", "--", "sh", "-c", "kill -TERM $$").returncode == 143
    assert ordinary("run", "--", "no-such-program").returncode == 127
    assert ordinary("run", "--", "sh", "-c", "LC_ALL=C ls /proc/1/fd").returncode == 2


def test_where_user_namespaces_are_off_it_is_told() -> None:
    sysctl = Path("/proc/sys/user/max_user_namespaces")
    before = sysctl.read_text()
    try:
        sysctl.write_text("0")
    except PermissionError:
        need(condition=False, feature="CAP_SYS_RESOURCE")
    try:
        done = ordinary("run", "true")
    finally:
        sysctl.write_text(before)
    assert done.returncode == 125
    assert "user.max_" in done.stderr
