"""Directories as layers, and a look into the mounts that are made of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mountfd import Feature, IdMap, Mount, Overlay, assemble
from tests.support import private
from tests.support.images import Kind, filesystem

# The ways to assemble, and what each needs.
ASSEMBLE = {
    "descriptor": Feature.OVERLAY_LAYER_DETACHED,
    "path": Feature.OVERLAY_LAYER_APPEND,
    "string": Feature.OVERLAY,
}
# On disk 0 is seen as 100000.
SHIFTED = IdMap.parse("0:100000:65536")


def fill(place: Path, files: Mapping[str, str] | None = None) -> Path:
    """Make a directory with these files in it."""
    place.mkdir(parents=True, exist_ok=True)
    for name, text in (files or {}).items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place


def layers(below: Path, count: int) -> list[Path]:
    """Make layers, topmost first: each has a file of its own and one that all have."""
    return [fill(below / f"l{i}", {f"own{i}": str(i), "common": str(i)}) for i in range(count)]


def pair(below: Path) -> tuple[Path, Path]:
    """Make empty directories for upper and work."""
    return fill(below / "upper"), fill(below / "work")


def inside(mount: Mount) -> Path:
    """Give a path that leads into a mount, attached or not, for this process alone."""
    return Path(f"/proc/self/fd/{mount.fileno()}/.")


def content(mount: Mount) -> dict[str, str]:
    """Read every file at the top of a mount."""
    return {path.name: path.read_text() for path in inside(mount).iterdir() if path.is_file()}


@contextmanager
def attached(mount: Mount, point: Path) -> Iterator[Path]:
    """Attach a mount at a new directory, where other processes see it too."""
    point.mkdir(exist_ok=True)
    mount.attach(point)
    try:
        yield point
    finally:
        private.detach(point)


def line_of(point: Path) -> list[bytes]:
    """Give the words of the line of mountinfo that tells of a mount point."""
    found = [line.split(b" ") for line in table() if line.split(b" ")[4] == os.fsencode(point)]
    return found[-1]


def table() -> list[bytes]:
    """Read the lines of mountinfo."""
    return Path("/proc/self/mountinfo").read_bytes().split(b"\n")[:-1]


def super_options(mount: Mount, below: Path) -> list[str]:
    """Give the options of a mount's superblock as mountinfo shows them."""
    with attached(mount, below / "look") as point:
        return os.fsdecode(line_of(point)[-1]).split(",")


@contextmanager
def place_on(kind: Kind | str, scratch: Path) -> Iterator[Path]:
    """Give an empty directory on a filesystem of this kind; tmpfs is the scratch directory's own."""
    with ExitStack() as stack:
        if kind == "tmpfs":
            yield fill(scratch / "place")
        else:
            yield fill(stack.enter_context(filesystem(kind)) / "place")  # type: ignore[arg-type]  # a Kind, then


@contextmanager
def assembled(overlay: Overlay, attrs: int = 0) -> Iterator[Mount]:
    """Assemble, and close at the end."""
    with assemble(overlay, attrs) as mount:
        yield mount


@contextmanager
def working_directory(place: Path) -> Iterator[None]:
    """Work in a directory for a while."""
    with contextlib.chdir(place):
        yield
