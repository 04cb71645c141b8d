"""Skip a test by naming what is missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def need(condition: object, feature: str) -> None:
    """Skip the running test (or, at the top of a file, the whole file) unless the condition holds."""
    if not condition:
        pytest.skip(f"missing: {feature}", allow_module_level=True)


def need_command(name: str) -> str:
    """Give the path of a program, or skip."""
    path = shutil.which(name)
    need(path, f"{name}(1)")
    return str(path)


def need_real_root() -> None:
    """Skip unless this is root of the whole machine, not only of a user namespace."""
    everyone = Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]
    need(os.geteuid() == 0 and everyone, "root outside of any user namespace")
