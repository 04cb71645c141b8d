"""run in a user namespace, and for who is root without all of root's capabilities, or has them without being root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kernel.test_run_ordinary import ordinary
from tests.support.need import need_command, need_real_root
from tests.support.program import MOUNTFD, VISIBLE, mountfd

need_real_root()

LOOK = "id -u; cat /proc/self/uid_map; touch /etc/mountfd-inner /tmp/mountfd-inner"
OWN = ["0", "0", "0", "1"]
MAP_ALL = """
import ctypes, os, sys
ready, go = os.pipe(), os.pipe()
pid = os.fork()
if pid == 0:
    assert ctypes.CDLL(None).unshare(0x10000000 | 0x20000) == 0
    os.write(ready[1], b".")
    os.read(go[0], 1)
    os.execv(sys.argv[1], sys.argv[1:])
os.read(ready[0], 1)
for kind in "ug":
    with open(f"/proc/{pid}/{kind}id_map", "w") as file:
        file.write("0 0 4294967295")
os.write(go[1], b".")
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.fixture(autouse=True)
def _host_stays_whole() -> object:
    yield
    assert not os.path.exists("/etc/mountfd-inner")


def without(*names: str) -> list[str]:
    """The words that start a program as root without some capabilities."""
    gone = ",".join(f"-{name}" for name in names)
    return ["setpriv", "--bounding-set", gone, "--inh-caps", "-all"]


def with_ambient(*names: str) -> list[str]:
    """The words that start a program as somebody who has capabilities, and groups."""
    held = ",".join(f"+{name}" for name in names)
    ids = ["--reuid", "1002", "--regid", "1002", "--groups", "6,7"]
    return ["setpriv", *ids, "--inh-caps", held, "--ambient-caps", held]


# --- in a user namespace -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("flags", ["-Ur", "-Urm"])
@pytest.mark.parametrize("options", [[], ["--idmap", "0:0:1"]])
def test_in_a_user_namespace_of_one_id_it_is_that_one(flags: str, options: list[str]) -> None:
    done = mountfd("run", *options, "--", "sh", "-c", LOOK, before=["unshare", flags])
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, OWN, "")


def test_in_a_user_namespace_of_ones_own_without_a_user_namespace_more() -> None:
    done = mountfd("run", "--idmap", "none", "--", "sh", "-c", LOOK, before=["unshare", "-Urm"])
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, OWN, "")


def test_where_every_id_is_there_but_no_file_can_be_idmapped_ids_stay_as_they_are() -> None:
    done = mountfd("run", "--", "sh", "-c", LOOK, before=["/usr/bin/python3", "-I", "-c", MAP_ALL])
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["0", "0", "0", "4294967295"], "")


def test_a_root_of_the_callers_own_in_a_user_namespace() -> None:
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2] / "src")!r})
import mountfd
usr = mountfd.Mount.clone("/", recursive=True)
raise SystemExit(mountfd.run(["sh", "-c", "id -u; cat /proc/self/uid_map"], root=usr))
"""
    words = ["unshare", "-Urm", "/usr/bin/python3", "-I", "-c", script]
    done = mountfd("run", "--idmap", "none", *VISIBLE, "--", *words)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, OWN, "")


@pytest.mark.parametrize("subordinate", [None, "65533:400000:65536\n"])
def test_a_run_in_a_run_of_an_ordinary_user(subordinate: str | None) -> None:
    if subordinate is not None:
        need_command("newuidmap")
    script = "id -u; cat /proc/self/uid_map; touch /tmp/mountfd-inner; ls -d /usr /etc /var"
    done = ordinary("run", *VISIBLE, "--", *MOUNTFD, "run", "--", "sh", "-c", script, subordinate=subordinate)
    more = ["1", "1", "65536"] if subordinate else []
    assert (done.returncode, done.stdout.split()) == (0, [*OWN, *more, "/etc", "/usr", "/var"])
    assert done.stderr.count("mountfd: ") == (0 if subordinate else 1)


def test_changes_of_an_inner_run_are_discarded() -> None:
    need_command("newuidmap")
    inner = f"{' '.join(MOUNTFD)} run -- sh -c 'rm /opt/mine; touch /opt/inner; ls /opt'"
    script = f"mkdir -p /opt; touch /opt/mine; {inner}; ls /opt"
    place = Path("/opt/mountfd-ordinary")
    place.mkdir(parents=True)
    os.chown(place, 65533, 65533)
    try:
        script = script.replace("/opt", str(place))
        done = ordinary("run", *VISIBLE, "--", "sh", "-c", script, subordinate="65533:400000:65536\n")
        assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["inner", "mine"], "")
        assert os.listdir(place) == []
    finally:
        place.rmdir()


def test_a_third_level_is_refused_in_words() -> None:
    done = mountfd("run", *VISIBLE, "--", *MOUNTFD, "run", *VISIBLE, "--", *MOUNTFD, "run", "true")
    assert done.returncode == 125
    assert "Invalid argument" in done.stderr
    assert "lies on an overlay" in done.stderr
    assert "left out" not in done.stderr
    other = ordinary("run", *VISIBLE, "--", *MOUNTFD, "run", *VISIBLE, "--", *MOUNTFD, "run", "true")
    assert other.returncode == 125
    assert "lies on an overlay" in other.stderr


def test_a_read_only_bind_stays_so_in_an_inner_run(scratch: Path) -> None:
    (scratch / "file").write_text("host's")
    script = "mount -o remount,bind,rw /mnt; umount /mnt; echo x > /mnt/file"
    done = mountfd("run", "--bind", f"{scratch}:/mnt:ro", "--", "sh", "-c", script, before=["unshare", "-Urm"])
    assert done.returncode != 0
    assert (scratch / "file").read_text() == "host's"


# --- capabilities --------------------------------------------------------------------------------------------------
def test_root_that_may_not_mount_gets_a_user_namespace() -> None:
    done = mountfd("run", "--", "sh", "-c", LOOK, before=without("sys_admin"))
    assert (done.returncode, done.stdout.split()) == (0, ["0", "0", "0", "4294967295"])
    assert "without CAP_SYS_ADMIN" in done.stderr


def test_root_that_may_not_mount_may_still_choose_ids() -> None:
    done = mountfd("run", "--idmap", "0:700000:10", "--", "cat", "/proc/self/uid_map", before=without("sys_admin"))
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["0", "700000", "10"], "")


def test_root_that_may_not_mount_cant_do_without_a_user_namespace() -> None:
    done = mountfd("run", "--idmap", "none", "true", before=without("sys_admin"))
    assert done.returncode == 125
    assert "only root with CAP_SYS_ADMIN" in done.stderr


@pytest.mark.parametrize("gone", [("sys_admin", "setfcap"), ("all",)])
def test_root_without_the_capability_to_map_itself_is_told_so(gone: tuple[str, ...]) -> None:
    done = mountfd("run", "true", before=without(*gone))
    assert done.returncode == 125
    assert "CAP_SETFCAP" in done.stderr
    assert "mountfd run" not in done.stderr  # the way out isn't what was just tried


def test_who_has_the_capabilities_needs_no_uid_0() -> None:
    held = ("sys_admin", "setuid", "setgid", "chown", "sys_chroot", "dac_override", "fowner")
    script = f"{LOOK}; grep Groups: /proc/self/status"
    done = mountfd("run", "--", "sh", "-c", script, before=with_ambient(*held))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["0", "0", str(0x70000000), "65536", "Groups:"]


def test_who_has_too_few_of_them_gets_what_ordinary_users_get() -> None:
    done = mountfd("run", "--", "sh", "-c", "id -u; cat /proc/self/uid_map", before=with_ambient("sys_admin", "setuid"))
    assert (done.returncode, done.stdout.split()) == (0, ["0", "0", "1002", "1"])
    assert "subordinate ids" in done.stderr
