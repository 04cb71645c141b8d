"""Real filesystems on loop devices."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from tests.support.need import need, need_command, need_real_root

Kind = Literal["ext4", "xfs", "btrfs"]
ImageKind = Literal["ext4", "xfs", "btrfs", "squashfs", "erofs"]

# The smallest image, in MiB, that mkfs agrees to. The file is sparse.
SMALLEST: dict[ImageKind, int] = {"ext4": 8, "xfs": 300, "btrfs": 128}


@contextmanager
def filesystem(kind: Kind, size_mb: int = 64) -> Iterator[Path]:
    """Give the mount point of a new filesystem on a loop device; take it all away on the way out.

    Skips where this user or this kernel cannot. The size is raised to the smallest that this kind can have.
    A filesystem that is still busy on the way out raises, and is never emptied by force.
    """
    need_real_root()
    need(Path("/dev/loop-control").exists(), "loop devices")
    make = need_command(f"mkfs.{kind}")
    with ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix=f"{kind}-"))
        stack.callback(home.rmdir)
        image, point = home / "image", home / "mnt"
        image.touch()
        stack.callback(image.unlink)
        os.truncate(image, max(size_mb, SMALLEST[kind]) << 20)
        point.mkdir()
        stack.callback(point.rmdir)
        _run(make, "-q", str(image))
        device = _run("losetup", "--find", "--show", str(image))
        stack.callback(_run, "losetup", "--detach", device)
        _mount(kind, device, point)
        stack.callback(_run, "umount", str(point))
        yield point


def _mount(kind: Kind, device: str, point: Path) -> None:
    try:
        _run("mount", "-t", kind, device, str(point))
    except RuntimeError:
        # Asked only now, because mounting may be what loads the module.
        need(kind in Path("/proc/filesystems").read_text().split(), f"{kind} in this kernel")
        raise


def _run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


def image_file(kind: ImageKind, place: Path, content: Mapping[str, str] | None = None) -> Path:
    """Make a file `place/KIND.img` that holds a filesystem with these files: names to texts. Nothing is mounted.

    Skips without the program that makes it. The names are plain: xfs is told of them in a language without quotes.
    """
    content = {"file": "hello"} if content is None else content
    image, tree = place / f"{kind}.img", place / f"{kind}.tree"
    tree.mkdir()
    for name, text in content.items():
        (tree / name).write_text(text)
    if kind not in {"squashfs", "erofs"}:
        image.touch()
        os.truncate(image, SMALLEST[kind] << 20)
    if kind == "squashfs":
        _run(need_command("mksquashfs"), str(tree), str(image), "-quiet", "-no-progress", "-noappend")
    elif kind == "erofs":
        _run(need_command("mkfs.erofs"), "--quiet", str(image), str(tree))
    elif kind == "ext4":
        _run(need_command("mkfs.ext4"), "-q", "-F", "-d", str(tree), str(image))
    elif kind == "btrfs":
        _run(need_command("mkfs.btrfs"), "-q", "--rootdir", str(tree), str(image))
    else:
        prototype = place / "xfs.prototype"
        files = "".join(f"{name} ---644 0 0 {tree / name}\n" for name in content)
        prototype.write_text(f"/stand/diskboot\n0 0\nd--755 0 0\n{files}$\n")
        _run(need_command("mkfs.xfs"), "-q", "-p", str(prototype), str(image))
        prototype.unlink()
    for name in content:
        (tree / name).unlink()
    tree.rmdir()
    return image
