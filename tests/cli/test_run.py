"""`mountfd run` as a program: what its user sees, and what the host never sees."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.images import filesystem
from tests.support.need import need_real_root
from tests.support.program import MOUNTFD, VISIBLE, alive, eventually, mountfd, starting
from tests.support.rootfs import small_root

need_real_root()


def shell(script: str, *options: str, **more: object) -> str:
    """Run a script inside and give its output; nothing may be complained about."""
    done = mountfd("run", *options, "--", "sh", "-c", script, **more)  # type: ignore[arg-type]
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout.strip()


# --- the promise ---------------------------------------------------------------------------------------------------
def test_root_inside_somebody_outside_and_the_host_stays_whole() -> None:
    doc = set(os.listdir("/usr/share/doc"))
    out = shell("id -u; cat /proc/self/uid_map; touch /etc/x && rm -r /usr/share/doc; mount | wc -l").split("\n")
    assert out[0] == "0"
    assert out[1].split() == ["0", "1879048192", "65536"]
    assert int(out[2]) < 20
    assert doc == set(os.listdir("/usr/share/doc"))
    assert not os.path.exists("/etc/x")


def test_outside_the_command_is_nobody_known() -> None:
    with starting("run", "--", "sh", "-c", "echo ready; sleep 1031") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert eventually(lambda: alive("sleep\0" + "1031"))
        (pid,) = alive("sleep\0" + "1031")
        assert os.stat(f"/proc/{pid}").st_uid == 0x70000000


def test_files_are_owned_as_ever() -> None:
    for path in ("/", "/etc/shadow", "/usr/bin/env", "/root", "/var/mail"):
        seen = os.stat(path)
        assert shell(f"stat -c '%u %g %a' {path}") == f"{seen.st_uid} {seen.st_gid} {seen.st_mode & 0o7777:o}"


def test_every_namespace_is_its_own_except_the_network() -> None:
    kinds = ["user", "mnt", "pid", "ipc", "uts", "cgroup"]
    inside = shell("readlink " + " ".join(f"/proc/self/ns/{kind}" for kind in [*kinds, "net"])).split("\n")
    outside = [os.readlink(f"/proc/self/ns/{kind}") for kind in [*kinds, "net"]]
    assert not set(inside[:-1]) & set(outside[:-1])
    assert inside[-1] == outside[-1]


def test_devices_are_the_harmless_ones() -> None:
    names = "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert shell("ls /dev").split() == names.split()
    assert (
        shell("head -c 3 /dev/zero | od -An -tx1; echo gone > /dev/null; head -c1 /dev/urandom | wc -c")
        == "00 00 00\n1"
    )
    assert mountfd("run", "sh", "-c", "echo x > /dev/full").returncode != 0


def test_a_new_terminal_can_be_made() -> None:
    program = "import pty, os; m, s = pty.openpty(); print(os.ttyname(s))"
    assert shell(f"/usr/bin/python3 -I -c '{program}'") == "/dev/pts/0"


@pytest.mark.parametrize("kind", ["c", "b"])
def test_device_files_among_the_hosts_files_are_dead(kind: str, tmp_path: Path) -> None:
    # The inside's root owns what the host's root owns: /dev/sda by another name would be the host's disk.
    place = Path("/var/tmp", tmp_path.name)  # noqa: S108 (on the host's own root filesystem)
    place.mkdir()
    try:
        os.mknod(place / "device", 0o666 | (0o020000 if kind == "c" else 0o060000), os.makedev(1, 3))
        done = mountfd("run", "--", "sh", "-c", f"cat {place}/device")
        assert "Permission denied" in done.stderr
        bound = mountfd("run", "--bind", f"{place}:/mnt", "--", "sh", "-c", "cat /mnt/device")
        assert "Permission denied" in bound.stderr
    finally:
        (place / "device").unlink()
        place.rmdir()


def test_a_device_that_is_asked_for_is_there() -> None:
    assert shell("head -c 2 /mnt/zero | wc -c", "--bind", "/dev/zero:/mnt/zero") == "2"


def test_sys_is_read_only_and_tmp_is_fresh() -> None:
    assert "Read-only" in mountfd("run", "sh", "-c", "LC_ALL=C mkdir /sys/x").stderr
    assert shell("ls -A /tmp; ls -A /run; stat -c %a /tmp; touch /tmp/x") == "1777"


def test_the_resolver_can_be_read() -> None:
    assert shell("cat /etc/resolv.conf") == Path("/etc/resolv.conf").read_text().strip()


def test_the_hosts_table_is_never_joined() -> None:
    before = Path("/proc/self/mountinfo").read_text()
    assert "shared:" not in shell("cat /proc/self/mountinfo; mount -t tmpfs x /mnt")
    assert Path("/proc/self/mountinfo").read_text() == before


# --- statuses and words --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", 137)])
def test_the_status_is_the_commands(script: str, status: int) -> None:
    assert mountfd("run", "sh", "-c", script).returncode == status


def test_what_is_missing_is_127() -> None:
    done = mountfd("run", "--", "no-such-program")
    assert (done.returncode, done.stdout) == (127, "")
    assert done.stderr == "mountfd: execve: No such file or directory: 'no-such-program'\n"


def test_an_empty_word_is_a_program_that_is_missing() -> None:
    done = mountfd("run", "--", "")
    assert (done.returncode, done.stdout) == (127, "")
    assert done.stderr == "mountfd: the program's name is empty: there is no such program\n"


@pytest.mark.parametrize("program", ["/etc/passwd", "/etc", "/etc/passwd/x"])
def test_what_cant_be_executed_is_126(program: str) -> None:
    assert mountfd("run", "--", program).returncode == 126


@pytest.mark.parametrize(
    "words",
    [
        ["--nope", "true"],
        [],
        ["--layer"],
        ["--net", "bridge", "true"],
        ["--bind", "", "true"],
        ["--bind", "/nonexistent", "true"],
        ["--layer", "/nonexistent", "true"],
        ["--layer", "/etc/passwd", "true"],
        ["--upper", "/srv", "true"],
        ["--setenv", "X", "true"],
        ["--idmap", "x", "true"],
        ["--idmap", "1:100000:5", "true"],
        ["--chdir", "/nonexistent", "true"],
        ["--tmpfs", "/etc/passwd/x", "true"],
    ],
)
def test_a_failure_of_our_own_is_125(words: list[str]) -> None:
    done = mountfd("run", *words)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("mountfd: ")
    assert "Traceback" not in done.stderr


def test_what_is_missing_is_named() -> None:
    assert "'/nonexistent'" in mountfd("run", "--bind", "/nonexistent", "true").stderr
    assert "'/nonexistent'" in mountfd("run", "--layer", "/nonexistent", "true").stderr
    assert "'/nonexistent'" in mountfd("run", "--chdir", "/nonexistent", "true").stderr
    assert "not a directory" in mountfd("run", "--layer", "/etc/passwd", "true").stderr


def test_too_many_words_are_a_message_not_a_hang() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", _LIBRARY.format(call="mountfd.run(['true'], env={'A': 'x' * 300000})")],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Argument list too long" in done.stderr


_LIBRARY = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2] / 'src')!r}); import mountfd; {{call}}"


# --- surroundings --------------------------------------------------------------------------------------------------
def test_pipes_carry_both_ways() -> None:
    assert shell("tr a-z A-Z", text="hello") == "HELLO"


def test_standard_pipes_can_be_opened_anew() -> None:
    done = mountfd("run", "sh", "-c", "echo out > /dev/stdout; echo err > /dev/stderr; cat /dev/stdin", text="in")
    assert (done.stdout, done.stderr) == ("out\nin", "err\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_stay_closed(closed: str) -> None:
    script = f"exec {' '.join(MOUNTFD)} run -- sh -c 'ls /proc/self/fd >/tmp/list; exit 7' {closed}"
    assert subprocess.run(["sh", "-c", script], check=False, timeout=60).returncode == 7


def test_the_callers_descriptors_are_not_inside() -> None:
    read, write = os.pipe()
    try:
        done = subprocess.run(
            [*MOUNTFD, "run", "--", "ls", "/proc/self/fd"],
            check=True,
            pass_fds=(read, write),
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        os.close(read)
        os.close(write)
    assert done.stdout.split() == ["0", "1", "2", "3"]  # 3 is the directory that ls itself reads


def test_the_init_gives_nothing_away() -> None:
    done = mountfd("run", "sh", "-c", "LC_ALL=C ls /proc/1/fd /proc/1/root")
    assert (done.stdout, done.stderr.count("Permission denied")) == ("", 2)


def test_the_environment_arrives() -> None:
    out = shell("echo $SEEN-$MADE", "--setenv", "MADE=a=b", env={"SEEN": "yes"})
    assert out == "yes-a=b"


def test_the_directory_is_the_callers_where_there_is_one_of_its_name(tmp_path: Path) -> None:
    assert shell("pwd; echo $PWD", cwd=Path("/usr/lib"), env={"PWD": "/usr/lib"}) == "/usr/lib\n/usr/lib"
    assert shell("pwd", cwd=Path("/usr/lib"), env={"PWD": "/etc"}) == "/usr/lib"
    assert shell("pwd", cwd=tmp_path) == "/"
    assert shell("pwd", "--chdir", "/etc") == "/etc"


def test_the_umask_and_the_mask_are_the_callers() -> None:
    script = f"umask 077; exec {' '.join(MOUNTFD)} run --tmpfs /a/b -- sh -c 'umask; stat -c %a /a'"
    assert subprocess.run(["sh", "-c", script], check=True, capture_output=True, text=True).stdout == "0077\n755\n"
    show = ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]
    start = "import signal, os, sys; signal.pthread_sigmask(0, {1, 12}); signal.signal(3, signal.SIG_IGN); "
    line = [sys.executable, "-I", "-c", start + "os.execv(sys.argv[1], sys.argv[1:])"]
    seen = [
        subprocess.run([*line, *words], check=True, capture_output=True, text=True, timeout=60).stdout.split()
        for words in (["/bin/grep", *show[1:]], [*MOUNTFD, "run", "--", *show])
    ]
    blocked = [int(words[1], 16) for words in seen]
    ignored = [int(words[3], 16) & (1 << 2) for words in seen]
    assert blocked[0] == blocked[1]
    assert ignored[0] == ignored[1] != 0


def test_ignored_children_are_no_obstacle() -> None:
    start = "import signal, os, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    words = [sys.executable, "-I", "-c", start, *MOUNTFD, "run", "--", "sh", "-c", "exit 9"]
    assert subprocess.run(words, check=False, timeout=60).returncode == 9


def test_hostname() -> None:
    assert shell("hostname", "--hostname", "inside") == "inside"
    assert shell("hostname") == os.uname().nodename


def test_without_a_network_there_is_a_loopback_that_works() -> None:
    assert shell("cut -d: -f1 /proc/net/dev | tail -n +3; ls /sys/class/net", "--net", "none").split() == ["lo", "lo"]
    program = "import socket as s; l = s.create_server(('127.0.0.1', 0)); s.create_connection(l.getsockname())"
    assert shell(f'/usr/bin/python3 -I -c "{program}"; echo up', "--net", "none") == "up"


def test_without_a_pid_namespace_the_hosts_processes_are_seen() -> None:
    assert shell(f"test -d /proc/{os.getpid()} && echo seen", "--no-pid-ns") == "seen"
    assert mountfd("run", "--no-pid-ns", "sh", "-c", "kill -TERM $$").returncode == 143


# --- binds, tmpfs, layers ------------------------------------------------------------------------------------------
def test_binds_are_the_hosts_files(scratch: Path) -> None:
    (scratch / "a:b").mkdir()
    (scratch / "file").write_text("seen")
    bind = str(scratch).replace(":", r"\:") + r"/a\:b:/mnt/new/place"
    shell("echo kept > /mnt/new/place/x", "--bind", bind)
    assert (scratch / "a:b" / "x").read_text() == "kept\n"
    assert os.stat(scratch / "a:b" / "x").st_uid == 0
    assert shell("cat /etc/motto", "--bind", f"{scratch}/file:/etc/motto:ro") == "seen"


def test_a_read_only_bind_cant_be_written(scratch: Path) -> None:
    (scratch / "file").write_text("seen")
    for option, path in ((f"{scratch}:/mnt:ro", "/mnt/file"), (f"{scratch}/file:/mnt/f:ro", "/mnt/f")):
        done = mountfd(
            "run", "--bind", option, "--", "sh", "-c", f"LC_ALL=C; export LC_ALL; echo x > {path}; touch {path}"
        )
        assert done.stderr.count("Read-only") == 2
    assert (scratch / "file").read_text() == "seen"


def test_a_fresh_tmpfs() -> None:
    assert shell("ls -A /var/lib; touch /var/lib/x; stat -c %U /var/lib/x", "--tmpfs", "/var/lib") == "root"
    assert os.listdir("/var/lib")


def test_disks_and_files_mounted_below_are_there_copy_on_write(tmp_path: Path) -> None:
    place = Path("/var/tmp", tmp_path.name)  # noqa: S108 (on the host's own root filesystem)
    place.mkdir()
    (place / "disk").mkdir()
    (place / "file").write_text("covered")
    with filesystem("ext4") as disk:
        (disk / "on-disk").write_text("host")
        (disk / "one").write_text("bound")
        subprocess.run(["mount", "--bind", str(disk), str(place / "disk")], check=True)
        subprocess.run(["mount", "--bind", str(disk / "one"), str(place / "file")], check=True)
        try:
            script = "cat disk/on-disk file; echo changed > disk/on-disk; echo changed > file; touch disk/new; cat file"
            assert shell(f"cd {place}; {script}") == "hostboundchanged"
            assert sorted(os.listdir(disk)) == ["lost+found", "on-disk", "one"]
            assert [(disk / name).read_text() for name in ("on-disk", "one")] == ["host", "bound"]
        finally:
            subprocess.run(["umount", str(place / "disk"), str(place / "file")], check=True)
            (place / "file").unlink()
            (place / "disk").rmdir()
            place.rmdir()


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_changes_are_kept_under_the_ids_of_outside(kind: str, scratch: Path) -> None:
    if kind == "ext4":
        with filesystem("ext4") as disk:
            _keeps(disk)
    else:
        _keeps(scratch)


def _keeps(place: Path) -> None:
    upper, work = place / "upper", place / "work"
    upper.mkdir()
    work.mkdir()
    kept = ("--upper", str(upper), "--work", str(work), "--idmap", "0:200000:65536")
    shell("echo one > /etc/kept; chown 5:6 /etc/kept; rm /etc/hostname", *kept)
    found = os.stat(upper / "etc" / "kept")
    assert (found.st_uid, found.st_gid) == (200005, 200006)
    assert os.stat(upper).st_uid == 200000
    assert (
        shell("cat /etc/kept; stat -c '%u %g' /etc/kept; test -e /etc/hostname || echo gone", *kept) == "one\n5 6\ngone"
    )
    assert os.path.exists("/etc/hostname")


def test_an_upper_layer_in_use_is_refused(scratch: Path) -> None:
    for name in ("upper", "work"):
        (scratch / name).mkdir()
    kept = ("run", "--upper", str(scratch / "upper"), "--work", str(scratch / "work"))
    with starting(*kept, "--", "sh", "-c", "echo ready; sleep 1032") as process:
        assert process.stdout is not None
        process.stdout.readline()
        second = mountfd(*kept, "true")
        assert second.returncode == 125
        assert "busy" in second.stderr
    assert eventually(lambda: mountfd(*kept, "true").returncode == 0)


# --- ends ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT])
def test_signals_are_passed_on(number: signal.Signals) -> None:
    with starting("run", "--", "sh", "-c", "ulimit -c 0; echo ready; exec sleep 1033") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(20) == 128 + number


def test_the_command_may_handle_them_and_gets_them_once() -> None:
    script = "trap 'echo got' USR1; echo ready; for i in 1 2 3 4 5 6; do sleep 0.1; done"
    with starting("run", "--", "sh", "-c", script) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.read() == "got\n"


@pytest.mark.parametrize("options", [[], ["--no-pid-ns"], ["--idmap", "none"]])
def test_killing_us_kills_everything_inside(options: list[str]) -> None:
    script = "sleep 1034 & exec sleep 1034" if "--no-pid-ns" not in options else "exec sleep 1034"
    with starting("run", *options, "--", "sh", "-c", f"echo ready; {script}") as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert eventually(lambda: alive("sleep\0" + "1034"))
        process.kill()
        assert eventually(lambda: not alive("sleep\0" + "1034"))


@pytest.mark.parametrize("options", [[], ["--no-pid-ns"]])
def test_what_the_command_leaves_running_dies_with_it(options: list[str]) -> None:
    shell("sleep 1035 >/dev/null 2>&1 & setsid sleep 1035 >/dev/null 2>&1 & sleep 0.1", *options)
    assert eventually(lambda: not alive("sleep\0" + "1035"))


def test_the_keeper_has_no_handlers_of_ours() -> None:
    with starting("run", "--", "sh", "-c", "echo ready; sleep 1036") as process:
        assert process.stdout is not None
        process.stdout.readline()
        (keeper,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        words = dict(line.split(":\t") for line in Path(f"/proc/{keeper}/status").read_text().strip().split("\n"))
        assert int(words["SigCgt"], 16) == 0
        # The three, its line from the init, and the locks of the upper and work layers.
        assert len(os.listdir(f"/proc/{keeper}/fd")) <= 6


def test_orphans_are_reaped() -> None:
    script = "for i in 1 2 3; do (sleep 0.05 &) ; done; sleep 0.4; grep -l '^State:.Z' /proc/[0-9]*/status; true"
    assert shell(script) == ""


def test_a_command_that_kills_its_process_group_kills_only_itself() -> None:
    done = mountfd("run", "sh", "-c", "kill -TERM 0; sleep 5")
    assert done.returncode == 143


# --- inside another ------------------------------------------------------------------------------------------------
def test_inside_another_one_without_a_user_namespace() -> None:
    out = shell(
        f"{' '.join(MOUNTFD)} run --idmap none -- sh -c 'id -u; touch /etc/x && echo inner'; ls /etc/x 2>&1 || true",
        *VISIBLE,
    )
    assert out.startswith("0\ninner\n")
    assert "No such file" in out


def test_inside_another_one_as_it_is() -> None:
    inner = "id -u; cat /proc/self/uid_map; touch /etc/x && echo inner"
    out = shell(f"{' '.join(MOUNTFD)} run -- sh -c '{inner}'; ls /etc/x 2>&1 || true", *VISIBLE)
    assert out.startswith("0\n")
    assert out.split()[1:5] == ["0", "0", "65536", "inner"]
    assert "No such file" in out
    assert not os.path.exists("/etc/x")


def test_inside_another_one_an_idmap_tells_the_way_out() -> None:
    done = mountfd("run", *VISIBLE, *MOUNTFD, "run", "--idmap", "0:5:10", "true")
    assert done.returncode == 125
    assert done.stderr.startswith("mountfd: mount_setattr: Invalid argument")
    assert "leave out --idmap" in done.stderr
    assert "--idmap none" in done.stderr
    assert "Traceback" not in done.stderr


def test_where_proc_is_masked_root_still_gets_a_new_one() -> None:
    script = f"mount -t tmpfs none /proc/fs && exec {' '.join(MOUNTFD)} run test -e /proc/fs/ext4 -o -e /proc/fs/nfsd"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], check=False, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode in (0, 1), done.stderr) == (True, "")


def test_what_is_read_only_cannot_be_made_writable_inside(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("host's")
    bind = ["--bind", f"{tmp_path}:/mnt:ro"]
    for place in ("/mnt", "/sys", "/dev/null"):
        done = mountfd(
            "run", *bind, "--", "sh", "-c", f"mount -o remount,bind,rw {place}; umount {place}; echo x > /mnt/file"
        )
        assert done.returncode != 0
    assert (tmp_path / "file").read_text() == "host's"


def test_a_layers_modules_are_never_loaded(scratch: Path) -> None:
    root = small_root(scratch / "root")
    trap = "open('/proc/1/fd/../../../trapped', 'w'); raise SystemExit(0)"
    for folder in {path for path in sys.path if path.startswith("/usr/lib")}:
        place = Path(f"{root}{folder}")
        place.mkdir(parents=True, exist_ok=True)
        for name in ("pickle", "warnings", "traceback", "json", "fcntl"):
            (place / f"{name}.py").write_text(trap)
    done = mountfd("run", "--layer", str(root), "--", "/no/such/program")
    assert done.returncode == 127
    assert "'/no/such/program'" in done.stderr
