"""A small tree of mounts of every kind that the pictures tell apart."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

SCRIPT = r"""
set -e
cd "$0"
mkdir twice under under/deep slave alone source 'a b'
touch source/file file
mount -t tmpfs -o size=1m one twice
mkdir twice/inside
mount -t tmpfs inner twice/inside
mount -t tmpfs two twice
mount -t tmpfs shade under/deep
mount -t tmpfs over under
mount -t tmpfs peers 'a b'
mount --make-shared 'a b'
mount --bind 'a b' slave
mount --make-slave slave
mount -t tmpfs x alone
mount --make-unbindable alone
mount --bind source/file file
"""


@contextlib.contextmanager
def standing(place: Path) -> Iterator[Path]:
    """Mount it on a directory that is made, and take all of it away."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "base", place], check=True)
    try:
        subprocess.run(["sh", "-c", SCRIPT, place], check=True)
        yield place
    finally:
        subprocess.run(["umount", "--lazy", os.fspath(place)], check=True)
