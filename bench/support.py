"""What the benchmarks share: a private place to mount in, interleaved rounds, medians, a table with targets.

A benchmark measures and says what it found. It never asserts: the exit status is 0 also where a target is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Sampler = Callable[[], Sequence[float]]

CHECKOUT = Path(__file__).resolve().parent.parent
_PRIVATE = "MOUNTFD_BENCH_PRIVATE"
_INTERRUPTED = 130
_FILES_IN_DIRECTORY = 100


# --- starting and ending ----------------------------------------------------------------------------------------
def options(what: str) -> argparse.Namespace:
    """Read the command line that every benchmark has."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--quick", action="store_true", help="few rounds: shows that it works, numbers are rough")
    return parser.parse_args()


def run(benchmark: Callable[[], None]) -> None:
    """Run a benchmark to its end, or until Ctrl-C or SIGTERM; either way everything is cleaned up first."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        benchmark()
    except KeyboardInterrupt:
        progress("interrupted")
        sys.exit(_INTERRUPTED)


def enter_private_namespace() -> None:
    """Begin again in a mount namespace that dies with this process; only root can."""
    if os.geteuid() != 0:
        sys.exit("this benchmark mounts filesystems: it has to be run by root")
    if os.environ.pop(_PRIVATE, None) is None:
        os.environ[_PRIVATE] = "1"
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv]
        os.execvp(command[0], command)  # noqa: S606 (the same program again)


@contextlib.contextmanager
def workshop() -> Iterator[Path]:
    """Give an empty directory; afterwards whatever is mounted right below it is taken away, and the directory too."""
    shop = Path(tempfile.mkdtemp(prefix="mountfd-bench-"))
    try:
        yield shop
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        progress("cleaning up")
        for path in shop.iterdir():
            if path.is_mount():
                command(["umount", "--lazy", path])
        shutil.rmtree(shop)


def progress(text: str) -> None:
    """Tell whoever waits what is going on."""
    sys.stderr.write(f"... {text}\n")
    sys.stderr.flush()


def say(text: str = "") -> None:
    """Write a line of the result."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say_machine() -> None:
    """Write where this was measured."""
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    python = f"{platform.python_implementation()} {platform.python_version()}"
    say(f"Linux {platform.release()}, {os.cpu_count()} CPUs, {python}, load {load}")


# --- things to measure on ---------------------------------------------------------------------------------------
def command(arguments: Sequence[str | Path]) -> str:
    """Run a program that has to succeed, and give what it wrote."""
    done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def compile_c(source: Path, program: Path) -> Path:
    """Compile a C program as a distribution would."""
    command(["gcc", "-O2", "-Wall", "-Wextra", "-o", program, source])
    return program


def mount_tmpfs(point: Path) -> Path:
    """Mount a new tmpfs."""
    point.mkdir()
    command(["mount", "-t", "tmpfs", "-o", "mode=755", "mountfd-bench", point])
    return point


def mount_ext4(point: Path) -> Path:
    """Mount a new ext4 image. Its file has no name any more and its loop device ends with the mount."""
    point.mkdir()
    image = point.with_suffix(".image")
    with image.open("wb") as file:
        file.truncate(1 << 30)
    command(["mkfs.ext4", "-q", "-F", "-N", "131072", "-E", "lazy_itable_init=0,lazy_journal_init=0", image])
    command(["mount", "-o", "loop", image, point])
    image.unlink()
    return point


def build_layers(place: Path, count: int) -> Path:
    """Make the directories of an overlay: layers of one file each, a writable pair and a target."""
    for number in range(count):
        layer = place / "layers" / str(number) / "fs"
        layer.mkdir(parents=True)
        (layer / f"file-{number}").touch()
    for name in ("writable/upper", "writable/work", "target"):
        (place / name).mkdir(parents=True)
    return place


def add_files(layer: Path, count: int) -> None:
    """Fill a layer with small files, a hundred to a directory."""
    for number in range(count):
        directory = layer / f"directory-{number // _FILES_IN_DIRECTORY}"
        if number % _FILES_IN_DIRECTORY == 0:
            directory.mkdir()
        (directory / f"small-{number}").write_bytes(b"x" * 100)


# --- measuring --------------------------------------------------------------------------------------------------
def interleave(rounds: int, samplers: Mapping[str, Sampler]) -> dict[str, float]:
    """Take turns, A B A B and so on, so that a noisy neighbour hits everyone alike; give each one's median."""
    samples: dict[str, list[float]] = {name: [] for name in samplers}
    for _ in range(rounds):
        for name, sampler in samplers.items():
            samples[name] += sampler()
    return {name: statistics.median(values) for name, values in samples.items()}


# --- showing ----------------------------------------------------------------------------------------------------
def at_most(ratio: float, limit: float | None, unit: str = " x") -> str:
    """Show a ratio that should be small, beside its target."""
    if limit is None:
        return f"{ratio:.2f}{unit}"
    return f"{ratio:.2f}{unit}  target <= {limit:g}{unit}: {'ok' if ratio <= limit else 'MISSED'}"


def at_least(ratio: float, limit: float | None, unit: str = " x") -> str:
    """Show a ratio that should be large, beside its target."""
    if limit is None:
        return f"{ratio:.0f}{unit}"
    return f"{ratio:.0f}{unit}  target >= {limit:g}{unit}: {'ok' if ratio >= limit else 'MISSED'}"


def say_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table: words to the left, numbers to the right, the last column as it is."""
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    say(f"\n{title}\n")
    for line in [head, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(line[1:-1], widths[1:-1], strict=True)]
        say("  ".join([line[0].ljust(widths[0]), *cells, line[-1]]).rstrip())
