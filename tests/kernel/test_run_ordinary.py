"""`mountfd run` for somebody who isn't root: with and without subordinate ids."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.need import need, need_command, need_real_root, no_user_namespaces
from tests.support.program import MOUNTFD
from tests.support.rootfs import small_root

need_real_root()

UID = 65533


def ordinary(  # noqa: PLR0913 (a user has many sides)
    *words: str,
    subordinate: str | None = None,
    groups: str | None = None,
    wrap: str = "",
    before: Sequence[str] = (),
    path: str = "/usr/bin:/bin",
    named: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user without privilege.

    Arguments: subordinate, what /etc/subuid holds, and /etc/subgid unless `groups` says otherwise; wrap, shell code
    before the change of user; before, the words of a program that starts it, after that change.
    """
    files = (
        "mount --bind $1/ids /etc/subuid && mount --bind $1/gids /etc/subgid && mount --bind $1/passwd /etc/passwd && "
    )
    script = (files if subordinate is not None else "") + "shift; " + wrap + 'exec "$@"'
    listing = Path(os.environ["TMPDIR"], "subordinate")
    listing.mkdir()
    (listing / "ids").write_text(subordinate or "")
    (listing / "gids").write_text((subordinate or "") if groups is None else groups)
    # newuidmap(1) serves nobody without a name.
    name = f"mountfd-test:x:{UID}:{UID}::/:/bin/sh\n" if named else ""
    (listing / "passwd").write_text(Path("/etc/passwd").read_text() + name)
    user = ["setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups"]
    try:
        return subprocess.run(
            [
                "/usr/bin/unshare",
                "--mount",
                "/bin/sh",
                "-c",
                script,
                "sh",
                str(listing),
                *user,
                *before,
                *MOUNTFD,
                *words,
            ],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
            cwd="/",
            env={"PATH": path, "TMPDIR": os.environ["TMPDIR"]},
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
    assert "subordinate ids can't be used (newgidmap: " in done.stderr
    assert "no subordinate ids" not in done.stderr


def test_where_no_program_gains_a_privilege_that_is_told() -> None:
    need_command("newuidmap")
    user = f"{UID}:400000:65536\n"
    done = ordinary("run", "--", "id", "-u", subordinate=user, before=["setpriv", "--no-new-privs"])
    assert (done.returncode, done.stdout) == (0, "0\n")
    assert "subordinate ids can't be used (newgidmap: " in done.stderr
    assert "no_new_privs" in done.stderr


def test_the_programs_are_found_where_the_path_leads_nowhere() -> None:
    need_command("newuidmap")
    done = ordinary(
        "run", "--", "/bin/cat", "/proc/self/uid_map",
        subordinate=f"{UID}:400000:65536\n", before=["env", "PATH=/nowhere"],
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["0", str(UID), "1", "1", "400000", "65536"]


# --- what is half possible -----------------------------------------------------------------------------------------
def test_a_refused_user_map_begins_again_with_the_own_id(scratch: Path) -> None:
    need_command("newgidmap")
    scratch.chmod(0o755)
    fake = scratch / "newuidmap"
    fake.write_text("#!/bin/sh\nexit 3\n")
    fake.chmod(0o755)
    done = ordinary(
        "run", "--", "sh", "-c", "id -u; cat /proc/self/uid_map /proc/self/gid_map",
        subordinate=f"{UID}:400000:65536\n", path=f"{scratch}:/usr/bin:/bin",
    )  # fmt: skip
    assert (done.returncode, done.stdout.split()) == (0, ["0", *["0", str(UID), "1"] * 2])
    assert done.stderr.count("subordinate ids") == 1
    assert "exit status 3" in done.stderr


def test_a_user_without_a_name_has_the_own_id() -> None:
    need_command("newuidmap")
    done = ordinary("run", "--", "id", "-u", subordinate=f"{UID}:400000:65536\n", named=False)
    assert (done.returncode, done.stdout) == (0, "0\n")
    assert "subordinate ids can't be used" in done.stderr


@pytest.mark.parametrize(
    ("ranges", "wanted"),
    [
        (f"{UID - 3}:10", [(1, UID - 3, 3), (4, UID + 1, 6)]),
        ("4294967290:65536", [(1, 4294967290, 5)]),
        ("300000:99999999999999", [(1, 300000, 4294967295 - 300000)]),
        (f"{'9' * 30}:5", []),
    ],
)
def test_odd_ranges_are_used_as_far_as_they_are_ids(ranges: str, wanted: list[tuple[int, int, int]]) -> None:
    need_command("newuidmap")
    done = ordinary(
        "run", "--", "cat", "/proc/self/uid_map", subordinate=f"{UID}:{ranges}\n", groups=f"{UID}:300000:10\n"
    )
    assert done.returncode == 0
    extents = [tuple(map(int, line.split())) for line in done.stdout.strip().split("\n")]
    if "can't be used" in done.stderr:  # the programs on this machine don't take them
        wanted = []
    assert extents == [(0, UID, 1), *wanted]


def test_all_ranges_are_used() -> None:
    need_command("newuidmap")
    ranges = f"{UID}:400000:10\nsomebody:1:1\nmountfd-test:500000:10\n{UID}:500005:10\n"
    done = ordinary("run", "--", "cat", "/proc/self/uid_map", subordinate=ranges)
    assert (done.returncode, done.stderr) == (0, "")
    extents = [tuple(map(int, line.split())) for line in done.stdout.strip().split("\n")]
    assert extents == [(0, UID, 1), (1, 400000, 10), (11, 500000, 10), (21, 500010, 5)]


@pytest.mark.parametrize("first", [100000, 4000000000])
def test_more_ranges_than_the_kernel_takes_are_used_as_far_as_it_does(first: int) -> None:
    need_command("newuidmap")
    ranges = "".join(f"{UID}:{first + 10 * i}:2\n" for i in range(500))
    done = ordinary("run", "--", "cat", "/proc/self/uid_map", subordinate=ranges)
    assert (done.returncode, done.stderr) == (0, "")
    assert 200 < done.stdout.count("\n") <= 340


# --- an idmap of one's own -----------------------------------------------------------------------------------------
def test_an_idmap_of_subordinate_ids() -> None:
    need_command("newuidmap")
    done = ordinary(
        "run", "--idmap", "0:400000:1000", "--", "sh", "-c", "id -u; cat /proc/self/uid_map; touch /tmp/x; id -G",
        subordinate=f"{UID}:400000:65536\n",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["0", "0", "400000", "1000", "0"]


def test_an_idmap_of_the_own_id_alone_needs_no_program() -> None:
    done = ordinary("run", "--idmap", f"0:{UID}:1", "--", "cat", "/proc/self/uid_map", path="/bin")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["0", str(UID), "1"]


def test_an_idmap_of_other_ids_is_refused_with_the_reason() -> None:
    need_command("newuidmap")
    done = ordinary("run", "--idmap", "0:700000:10", "true", subordinate=f"{UID}:400000:65536\n")
    assert done.returncode == 125
    assert "one's own id and one's subordinate ids" in done.stderr
    assert "700000" in done.stderr


# --- layers --------------------------------------------------------------------------------------------------------
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


def test_what_nobody_asked_for_is_left_out_where_it_has_no_place(scratch: Path) -> None:
    need(os.path.exists("/etc/resolv.conf"), "/etc/resolv.conf")
    root = small_root(scratch / "root")
    (root / "etc" / "resolv.conf").unlink(missing_ok=True)
    for parent in (scratch, scratch.parent):
        parent.chmod(0o755)
    done = ordinary("run", "--layer", str(root), "--", "/bin/sh", "-c", "id -u")
    assert (done.returncode, done.stdout) == (0, "0\n")
    assert "/etc/resolv.conf is left out: open: " in done.stderr


def test_what_was_asked_for_and_has_no_place_says_whose_it_is(scratch: Path) -> None:
    root = small_root(scratch / "root")
    for parent in (scratch, scratch.parent):
        parent.chmod(0o755)
    done = ordinary("run", "--layer", str(root), "--bind", "/etc/passwd:/etc/made/here", "--", "/bin/sh", "-c", "id -u")
    assert done.returncode == 125
    assert "mkdir: Permission denied: '/etc/made/here'" in done.stderr
    assert "'/etc' isn't this user's" in done.stderr


def test_a_layer_that_cant_be_read_is_named(scratch: Path) -> None:
    root = small_root(scratch / "root")
    for parent in (scratch, scratch.parent):
        parent.chmod(0o755)
    root.chmod(0o700)
    done = ordinary("run", "--layer", str(root), "--", "/bin/sh", "-c", "id -u")
    assert done.returncode == 125
    assert f"'{root}'" in done.stderr
    assert f"uid {UID}" in done.stderr
    assert "0700" in done.stderr


def test_what_only_root_can_have_is_told() -> None:
    done = ordinary("run", "--idmap", "none", "true")
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
    with no_user_namespaces():
        done = ordinary("run", "true")
    assert done.returncode == 125
    assert "user.max_" in done.stderr
