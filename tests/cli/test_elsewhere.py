"""-N of `mountfd mount` and `mountfd umount`: work in another mount namespace, by nothing that lies there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import mountfd
from mountfd import MountNamespace
from tests.support.images import image_file
from tests.support.layers import fill
from tests.support.mounting import tmpfs, umount
from tests.support.need import need, need_command, need_real_root
from tests.support.program import mountfd as program
from tests.support.specs import cleared, count

need_real_root()


@pytest.fixture
def place(scratch: Path) -> Iterator[Path]:
    fill(scratch / "point")
    fill(scratch / "source", {"file": "hello"})
    with cleared(scratch):
        yield scratch


@contextmanager
def process() -> Iterator[int]:
    """Start somebody who lives in a copy of this namespace, in which nothing travels."""
    line = [need_command("unshare"), "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 600"]
    with subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            other.stdout.readline()
            yield other.pid
        finally:
            other.kill()


@contextmanager
def bare(place: Path, *, proc: bool = True) -> Iterator[tuple[str, MountNamespace]]:
    """Make a namespace whose root has directories and nothing else: no Python, no library; give a path to it too."""
    root = tmpfs(place / "bare")
    for name in ("proc", "point", "source/deep", "dev", "tmp", "l0", "l1", "upper", "work"):
        fill(root / name)
    (root / "source/file").write_text("there")
    with MountNamespace.new(root) as made:
        if proc:
            made.call(lambda: mountfd.mount(mountfd.MountSpec("proc", "proc"), "/proc"))
        yield f"/proc/{os.getpid()}/fd/{made.fileno()}", made
    umount(root)


def points(namespace: MountNamespace) -> list[str]:
    return [str(row.point) for row in namespace.mounts(fields=("point",))]


def test_in_the_namespace_of_a_process(place: Path) -> None:
    point = place / "point"
    with process() as pid, MountNamespace.of(pid) as there:
        for word in (f"{pid}", f"/proc/{pid}/ns/mnt"):
            done = program("mount", "-N", word, "-t", "tmpfs", "-o", "size=1m", "label", str(point))
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
            assert (str(point) in points(there), count(point)) == (True, 0)
            listed = program("mount", "--namespace", word, "-t", "tmpfs").stdout
            assert f"{point} " in listed
            assert program("umount", "-N", word, str(point)).returncode == 0
            assert str(point) not in points(there)
        done = program("umount", "-N", str(pid), str(point))
        assert (done.returncode, done.stderr) == (32, f"mountfd: {point}: not mounted\n")


# Each of these takes a way of its own through the program; in a root without Python none could load anything.
LINES = [
    "-t tmpfs -o size=1m,nosuid,X-mount.mode=711 x /point",
    "--bind -o ro /source /point",
    "--rbind /source /point --make-rslave",
    "-o bind,X-mount.subdir=deep /source /point",
    "-t tmpfs -m x /new/deep",
    "--bind --idmap 0:1000:1 /source /point",
    "-t tmpfs -o X-mount.owner=daemon,X-mount.group=daemon x /point",
    "--layer /l0 --layer /l1 --upper /upper --work /work /point",
    "--fake -t tmpfs x /point",
    "--onlyonce -t tmpfs x /point",
]
FAILING = [
    ("-t nosuchtype x /point", 32),
    ("-t tmpfs -o nonsense=1 x /point", 32),
    ("-t tmpfs x /nowhere", 32),
    ("--bind /nowhere /point", 32),
    ("-t ext4 /source/file /point", 32),
    ("/source/file /point", 32),
    ("--layer /nowhere --layer /l0 /point", 32),
    ("-o remount,ro /point", 32),
    ("-t tmpfs -o X-mount.owner=nosuchuser x /point", 1),
    ("-L nosuchlabel /point", 1),
]


@pytest.mark.parametrize("route", ["descriptor", "string"])
def test_where_no_file_of_ours_is(place: Path, route: str) -> None:
    env = {"MOUNTFD_ROUTE": f"mount:{route}", "XDG_RUNTIME_DIR": ""}
    with bare(place) as (word, there):
        before = points(there)
        for line in LINES:
            words = line.split()
            done = program("mount", "-N", word, *words, env=env)
            if route == "string" and "--idmap" in words:
                assert (done.returncode, "mount_setattr(2)" in done.stderr) == (32, True)
                continue
            assert (done.returncode, done.stderr) == (0, ""), line
            target = words[words.index("/point")] if "/point" in words else "/new/deep"
            assert (target in points(there)) == ("--fake" not in words), line
            done = program("umount", "-N", word, target, env=env)
            assert done.returncode == (32 if "--fake" in words else 0), done.stderr
            assert points(there) == before, line
        for line, status in FAILING:
            done = program("mount", "-N", word, *line.split(), env=env)
            assert (done.returncode, done.stderr.startswith("mountfd: ")) == (status, True), (line, done.stderr)
            assert "Traceback" not in done.stderr, line
            assert points(there) == before, line


def test_names_are_looked_up_here(place: Path) -> None:
    import pwd

    with bare(place) as (word, there):
        fill(place / "bare/etc", {"passwd": "daemon:x:4711:4711::/:/bin/sh\n"})
        done = program("mount", "-N", word, "-t", "tmpfs", "-o", "X-mount.owner=daemon", "x", "/point")
        assert (done.returncode, done.stderr) == (0, "")
        assert there.call(lambda: os.stat("/point").st_uid) == pwd.getpwnam("daemon").pw_uid


def test_what_keeps_a_mount_busy_there_is_named(place: Path) -> None:
    point = place / "point"
    with process() as pid, MountNamespace.of(pid) as there:
        there.call(lambda: mountfd.mount(mountfd.MountSpec("tmpfs", "x"), point))
        held = there.call(lambda: os.open(point, os.O_RDONLY | os.O_DIRECTORY))
        done = program("umount", "--wait", "0", "-N", str(pid), str(point))
        os.close(held)
        assert done.returncode == 32
        assert f"process {os.getpid()} (" in done.stderr
        assert program("umount", "-R", "-N", str(pid), str(point)).returncode == 0


def test_an_image(place: Path) -> None:
    need(Path("/dev/loop-control").exists(), "loop devices")
    image, point = image_file("ext4", place), place / "point"
    with process() as pid, MountNamespace.of(pid) as there:
        done = program("mount", "-N", str(pid), str(image), str(point))
        assert (done.returncode, done.stderr) == (0, "")
        assert there.call((point / "file").read_text) == "hello"
        assert program("umount", "-N", str(pid), str(image)).returncode == 0
        assert str(point) not in points(there)


def test_no_such_namespace_is_status_2_as_with_mount_8(place: Path) -> None:
    for word in ("4194304999", "/etc/passwd", "/nowhere", str(place), "0", ""):
        for line in (["mount", "-t", "tmpfs", "x", str(place / "point")], ["umount", str(place / "point")]):
            done = program(*line, "-N", word)
            assert (done.returncode, done.stderr.startswith("mountfd: ")) == (2, True), (word, done.stderr)
    assert count(place / "point") == 0


def test_programs_of_fuse_are_not_started_there(place: Path) -> None:
    done = program("mount", "-N", "1", "-t", "fuse.nothing", "x", str(place / "point"))
    assert (done.returncode, "nsenter(1)" in done.stderr) == (1, True)
