"""The guest's root filesystem: an ext4 image with this machine's Python, some of its programs, and the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.support.need import need_command

__all__ = ["CHECKOUT", "make_image"]

CHECKOUT = Path(__file__).parents[2]
_SIZE = "512M"

# What is not on this machine is not in the guest either, and its tests are skipped there as here.
_PROGRAMS = (
    *("sh", "bash", "busybox", "basename", "cat", "chmod", "chown", "chroot", "cp", "cut", "dd", "df", "dirname"),
    *("echo", "env", "expr", "false", "fallocate", "find", "flock", "grep", "head", "id", "kill", "ldd", "ln", "ls"),
    *("mkdir", "mkfifo", "mknod", "mktemp", "mv", "nsenter", "printf", "ps", "pwd", "readlink", "realpath", "rm"),
    *("rmdir", "script", "sed", "seq", "setpriv", "setsid", "sleep", "sort", "stat", "stty", "sync", "tail", "tar"),
    *("tee", "test", "timeout", "touch", "tr", "true", "truncate", "uname", "wc", "whoami", "xargs"),
    *("mount", "umount", "findmnt", "mountpoint", "losetup", "blkid", "blockdev", "unshare", "lsblk"),
    *("mkswap", "swapon", "swapoff", "capsh", "getcap", "setcap", "getfattr", "setfattr", "strace", "bwrap"),
    *("newuidmap", "newgidmap", "fusermount3", "fusermount", "mount.fuse3", "mount.fuse", "fuse-overlayfs"),
    *("squashfuse", "mksquashfs", "mkfs.erofs", "mke2fs", "mkfs.ext2", "mkfs.ext3", "mkfs.ext4", "mkfs.xfs"),
    *("mkfs.btrfs", "mkfs.vfat"),
)
# Of the standard library and of what the development tools install: what a test run doesn't load.
_STDLIB_WITHOUT = ("test", "idlelib", "lib2to3", "tkinter", "turtledemo", "ensurepip", "site-packages", "config-*")
_PACKAGES = (
    *("_pytest", "pytest", "pytest-*", "pluggy*", "iniconfig*", "packaging*", "pygments", "pygments-*", "py.py"),
    *("hypothesis*", "_hypothesis*", "sortedcontainers*", "rich", "rich-*", "markdown_it*", "mdurl*", "_mountfd.pth"),
)
_CONFIGURATION = (
    *("passwd", "group", "subuid", "subgid", "shells", "login.defs", "mke2fs.conf", "fuse.conf", "nsswitch.conf"),
    *("ld.so.conf", "ld.so.conf.d", "localtime", "xattr.conf"),
)
_FOLDERS = ("dev", "mnt", "proc", "root", "run", "srv", "sys", "tmp", "home", "media", "opt", "var/tmp", "var/lib")

_INIT = """\
#!/usr/bin/busybox sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb
ln -sf /proc/self/fd /dev/fd; ln -sf /proc/self/mounts /etc/mtab
mkdir -p /run/mount /run/lock; chmod 1777 /tmp /var/tmp /dev/shm
ip link set lo up 2>/dev/null
echo 3 > /proc/sys/kernel/printk
cd {checkout}
{python} -m tests.matrix.guest /task.json
sync
poweroff -f
"""


def make_image(place: Path) -> Path:
    """Make the image `place/root.img`; it holds nothing of one kernel, so all can boot from it."""
    make = need_command("mke2fs")
    tree = place / "root"
    for name in _FOLDERS:
        (tree / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (tree / "usr" / name).mkdir(parents=True)
        (tree / name).symlink_to(f"usr/{name}")
    _add_configuration(tree)
    programs = [Path(found) for name in _PROGRAMS if (found := shutil.which(name, path=_path()))]
    for program in programs:
        _add_program(program, tree)
    _add_python(tree)
    python = _interpreter()
    extensions = Path(sysconfig.get_path("stdlib"), "lib-dynload").glob("*.so")
    for library in _libraries([*programs, python, *extensions]):
        _add_file(library, tree)
    _add_checkout(tree)
    init = tree / "guest-init"
    init.write_text(_INIT.format(checkout=CHECKOUT, python=CHECKOUT / ".venv/bin/python"))
    init.chmod(0o755)
    image = place / "root.img"
    command = [make, "-q", "-t", "ext4", "-O", "^has_journal", "-d", str(tree), str(image), _SIZE]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=300)
    shutil.rmtree(tree)
    return image


def _path() -> str:
    return "/usr/sbin:/usr/bin:/sbin:/bin"


def _interpreter() -> Path:
    return Path(os.path.realpath(sys.executable))


def _add_configuration(tree: Path) -> None:
    (tree / "etc").mkdir()
    for name in _CONFIGURATION:
        source = Path("/etc", name)
        if source.is_dir():
            shutil.copytree(source, tree / "etc" / name)
        elif source.exists():
            shutil.copy(source, tree / "etc" / name)
    (tree / "etc" / "hostname").write_text("guest\n")
    (tree / "etc" / "fstab").touch()
    locale = Path("/usr/lib/locale/C.utf8")
    if locale.is_dir():
        shutil.copytree(locale, tree / locale.relative_to("/"), symlinks=True)


def _add_program(program: Path, tree: Path) -> None:
    """Put a program, and where its name is a link also the link, into the merged /usr."""
    real = Path(os.path.realpath(program))
    _add_file(real, tree)
    name = tree / "usr" / program.parent.name / program.name
    if not name.exists():
        target = Path("/usr", *real.parts[-2:]) if real.parent.name in {"bin", "sbin"} else real
        name.symlink_to(target)


def _add_file(source: Path, tree: Path) -> None:
    inside = source if source.parts[1] == "usr" else Path("/usr", *source.parts[1:])
    copy = tree / inside.relative_to("/")
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, copy)
        status = source.stat()
        os.chown(copy, status.st_uid, status.st_gid)
        copy.chmod(status.st_mode)  # also newuidmap's set-user-id bit


def _add_python(tree: Path) -> None:
    python = _interpreter()
    _add_file(python, tree)
    for name in {"python3", python.name} - {python.name}:
        (tree / "usr/bin" / name).symlink_to(python.name)
    stdlib = Path(sysconfig.get_path("stdlib"))
    ignore = shutil.ignore_patterns(*_STDLIB_WITHOUT)
    shutil.copytree(stdlib, tree / stdlib.relative_to("/"), symlinks=True, ignore=ignore)


def _add_checkout(tree: Path) -> None:
    """Lay it at the same path, since .venv and what was compiled name it."""
    copy = tree / CHECKOUT.relative_to("/")
    copy.mkdir(parents=True)
    for name in ("src", "tests", "bin", "bench", "docs"):
        if (CHECKOUT / name).is_dir():
            shutil.copytree(CHECKOUT / name, copy / name, symlinks=True)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy2(CHECKOUT / name, copy / name)
    (copy / ".venv/bin").mkdir(parents=True)
    shutil.copy2(CHECKOUT / ".venv/pyvenv.cfg", copy / ".venv")
    for name in ("python", "python3"):
        (copy / ".venv/bin" / name).symlink_to(_interpreter())
    packages = Path(sysconfig.get_path("purelib"))
    for pattern in _PACKAGES:
        for source in packages.glob(pattern):
            into = copy / packages.relative_to(CHECKOUT) / source.name
            into.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, into, symlinks=True)
            else:
                shutil.copy2(source, into)


def _libraries(programs: Iterable[Path]) -> Iterator[Path]:
    """Name the libraries of programs and extensions, and the loader, by their real files and by the names asked for."""
    done = subprocess.run(["ldd", *map(str, programs)], check=False, capture_output=True, text=True, timeout=60)
    found = set(re.findall(r"(/\S+) \(0x", done.stdout))
    # Loaded by name when a thread ends early.
    found.update(str(path) for path in Path("/lib").glob("*-linux-gnu/libgcc_s.so.1"))
    for name in sorted(found):
        yield Path(name)
