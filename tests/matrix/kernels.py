"""Kernels to boot: Debian's, of its suites from the oldest that is still served to the one of tomorrow."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tests.support.debian import depends, unpacked
from tests.support.need import need

__all__ = ["NEWEST", "OLDEST_WHOLE", "SUITES", "Kernel", "kernel_of"]

# What they hold moves on; today 5.10, 6.1, 6.12, 7.2 and a release candidate of 7.3.
SUITES = ("bullseye", "bookworm", "trixie", "sid", "experimental")
NEWEST = "sid"
OLDEST_WHOLE = "bookworm"  # before 5.12 the library is of little use

_PARTS = ("linux-image-", "linux-binary-", "linux-modules-")


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel to boot, and the folders below which its modules lie."""

    suite: str
    release: str
    image: Path
    modules: tuple[Path, ...]


def kernel_of(suite: str) -> Kernel:
    """Fetch the kernel that a suite has today, or skip where there is no network and none was fetched before."""
    need(os.uname().machine == "x86_64", "a machine of x86_64")
    roots = [unpacked(name, suite) for name in depends("linux-image-amd64", suite, *_PARTS)]
    images = [path for root in roots for path in root.rglob("vmlinuz*") if path.is_file()]
    modules = [path for root in roots for path in root.glob("**/lib/modules/*") if (path / "kernel").is_dir()]
    if not images or not modules:
        raise RuntimeError(f"{suite}: no kernel, or no modules, in {', '.join(map(str, roots))}")
    return Kernel(suite, modules[0].name, images[0], tuple(modules))
