"""A guest, emulated in software: booted, listened to, and in every case ended."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.matrix.initrd import archive
from tests.matrix.kernels import Kernel
from tests.matrix.rootfs import make_image
from tests.support.need import need_command, need_real_root

__all__ = ["Report", "Result", "boot", "root_image"]

MEMORY_MB = 1024
# The longest silence of a guest: the slowest test, emulated on a busy machine.
SILENCE = 300.0
_PAUSE = 0.2
_KERNEL_LINE = "console=ttyS0 quiet panic=-1 rdinit=/init"
_CONSOLE_LINES = 60


@dataclass(frozen=True, slots=True)
class Result:
    """How one test ended; `text` is the failure or the reason.

    passed, failed or skipped; or refused, by the library, which names a feature that this kernel hasn't got.
    """

    test: str
    outcome: str
    text: str
    seconds: float


@dataclass(slots=True)
class Report:
    """What a guest told."""

    kernel: Kernel
    doctor: dict[str, Any] = field(default_factory=dict)
    trials: dict[str, str] = field(default_factory=dict)
    tests: list[Result] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    collected: int = 0
    ended: bool = False
    running: str = ""
    seconds: float = 0

    def hear(self, fact: dict[str, Any]) -> None:
        """Take up one line."""
        kind = fact.pop("kind")
        if kind == "doctor":
            self.doctor = fact["facts"]
        elif kind == "trial":
            self.trials[fact["name"]] = fact["answer"]
        elif kind == "collected":
            self.collected = fact["count"]
        elif kind == "begin":
            self.running = fact["test"]
        elif kind == "test":
            self.tests.append(Result(**fact))
            self.running = ""
        elif kind == "problem":
            self.problems.append(fact["text"])
        elif kind == "end":
            self.ended = True

    def of(self, outcome: str) -> list[Result]:
        """Give the tests that ended so."""
        return [result for result in self.tests if result.outcome == outcome]


@contextmanager
def root_image() -> Iterator[Path]:
    """Give the root filesystem's image for a few boots; it is on a disk, where that is."""
    need_real_root()
    need_command("qemu-system-x86_64")
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "mountfd")
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix="guest-") as place:
        yield make_image(Path(place))


def boot(
    kernel: Kernel,
    image: Path,
    tests: Sequence[str],
    *,
    limit: float,
    heard: Callable[[Report], object] = lambda _: None,
) -> Report:
    """Boot a kernel and let it run these tests (pytest's words; none: only what it can do), within a time in seconds.

    `heard` is called with what is known so far whenever there is more. What the guest writes to the image is dropped.
    """
    report = Report(kernel)
    begun = time.monotonic()
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=image.parent)))
        initrd, console, facts = place / "initrd", place / "console", place / "facts"
        initrd.write_bytes(archive(kernel, json.dumps({"tests": list(tests)})))
        console.touch()
        facts.touch()
        process = stack.enter_context(
            subprocess.Popen(
                _command(kernel, image, initrd, console, facts),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=os.environ | {"TMPDIR": str(place)},  # for what the guest writes to its disk
            )
        )
        stack.callback(process.kill)
        lines = _Lines(facts)
        quiet_since = begun
        while True:
            is_over = process.poll() is not None
            news = lines.read()
            for line in news:
                report.hear(json.loads(line))
            report.seconds = time.monotonic() - begun
            if news:
                quiet_since = time.monotonic()
                heard(report)
            if is_over or report.ended:
                break
            if report.seconds > limit or time.monotonic() - quiet_since > SILENCE:
                why = "took too long" if report.seconds > limit else f"said nothing for {SILENCE:.0f} s"
                report.problems.append(f"{why}{f', in {report.running}' if report.running else ''}")
                break
            time.sleep(_PAUSE)
        if not report.ended:
            report.problems.append(f"ended early; the end of its console:\n{_tail(console)}{_said(process)}")
    return report


class _Lines:
    """Whole lines of a file that grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def read(self) -> list[bytes]:
        with self._path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        whole, newline, _ = data.rpartition(b"\n")
        self._at += len(whole) + len(newline)
        return [line for line in whole.split(b"\n") if line.startswith(b"{")]


def _command(kernel: Kernel, image: Path, initrd: Path, console: Path, facts: Path) -> list[str]:
    return [
        # If this process is killed, so is the guest.
        *("setpriv", "--pdeathsig", "KILL"),
        *(str(shutil.which("qemu-system-x86_64")), "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"),
        *("-m", str(MEMORY_MB), "-nodefaults", "-display", "none", "-no-reboot"),
        *("-kernel", str(kernel.image), "-initrd", str(initrd), "-append", _KERNEL_LINE),
        *("-drive", f"file={image},if=none,id=root,format=raw,snapshot=on"),
        *("-device", "virtio-blk-pci,drive=root"),
        *("-serial", f"file:{console}", "-serial", f"file:{facts}"),
    ]


def _tail(console: Path) -> str:
    return "\n".join(console.read_text(errors="replace").replace("\r", "").splitlines()[-_CONSOLE_LINES:])


def _said(process: subprocess.Popen[bytes]) -> str:
    process.kill()
    said = process.communicate()[0].decode(errors="replace")
    return f"\nand QEMU said:\n{said}" if said else ""
