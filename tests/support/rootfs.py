"""A root filesystem small enough to be made for each test: a few of this machine's programs and their libraries."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

__all__ = ["small_root"]

PROGRAMS = ("sh", "cat", "id", "ls", "readlink", "rm", "stat", "touch")


def small_root(place: Path) -> Path:
    """Make a root filesystem in a directory that doesn't exist yet: /bin, libraries and an /etc, nothing else."""
    (place / "bin").mkdir(parents=True)
    (place / "etc").mkdir()
    for name in PROGRAMS:
        program = shutil.which(name, path="/usr/bin:/bin")
        assert program is not None
        shutil.copy(program, place / "bin" / name)
        listing = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
        for library in re.findall(r"(/\S+) \(0x", listing):
            copy = place / library.lstrip("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, copy)
    return place
