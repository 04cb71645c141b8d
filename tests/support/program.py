"""The command line as its users start it: a process of its own, with pipes or a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

__all__ = [
    "MOUNTFD",
    "PROMPT",
    "SCRIPT",
    "VISIBLE",
    "Terminal",
    "alive",
    "at_terminal",
    "eventually",
    "mountfd",
    "starting",
]

SCRIPT = Path(__file__).parents[2] / "bin" / "mountfd"
MOUNTFD = [sys.executable, "-I", str(SCRIPT)]
# `run` has a /tmp of its own; a checkout may lie in the host's.
VISIBLE = ["--bind", f"{SCRIPT.parents[1]}:{SCRIPT.parents[1]}:ro"]
PROMPT = "PROMPT> "
_PATIENCE = 20.0


def mountfd(
    *words: str,
    env: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
    text: str = "",
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end. `before` are the words of a program that starts it, `text` its input."""
    return subprocess.run(
        [*before, *MOUNTFD, *words],
        check=False,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        input=text,
        env=None if env is None else {**os.environ, **env},
        cwd=cwd,
        timeout=60,
    )


@contextlib.contextmanager
def starting(*words: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command line with its output in a pipe; kill it on the way out if it still lives."""
    with subprocess.Popen([*MOUNTFD, *words], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def eventually(condition: object) -> bool:
    """Wait for a function to say yes."""
    assert callable(condition)
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def alive(mark: str) -> list[str]:
    """List the processes, zombies aside, that have a word in their command line."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if mark.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() and int(pid) != os.getpid():
                found.append(pid)
    return found


class Terminal:
    """A terminal whose session leader is a shell with job control, or any other program."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start the program as the leader of a session on a new terminal."""
        self.master, slave = pty.openpty()
        self.seen = b""
        self.process = subprocess.Popen(
            argv,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 (no threads here)
            env={**os.environ, "PS1": PROMPT, "ENV": "", "TERM": "dumb", **(env or {})},
        )
        os.close(slave)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.master, text.encode())

    def until(self, text: str) -> str:
        """Read until the program has shown a text; give what came up to there and forget it."""
        deadline = time.monotonic() + _PATIENCE
        while text.encode() not in self.seen:
            left = deadline - time.monotonic()
            if left < 0 or not select.select([self.master], [], [], left)[0]:
                raise AssertionError(f"{text!r} never came, but {self.seen!r}")
            try:
                self.seen += os.read(self.master, 4096)
            except OSError:  # EIO: every process has closed the terminal
                raise AssertionError(f"{text!r} never came, but {self.seen!r} and the end") from None
        before, found, self.seen = self.seen.partition(text.encode())
        return (before + found).decode(errors="replace")

    def rest(self) -> str:
        """Read what was written and not looked at, to the end."""
        while True:
            try:
                piece = os.read(self.master, 4096)
            except OSError:  # EIO: every process has closed the terminal
                return self.seen.decode(errors="replace")
            self.seen += piece

    def end(self) -> int:
        """Wait for the program's end and give its status."""
        return self.process.wait(_PATIENCE)

    def hang_up(self) -> None:
        """Close our end of the terminal."""
        if self.master >= 0:
            os.close(self.master)
        self.master = -1

    def close(self) -> None:
        """Hang up, and kill who doesn't mind."""
        self.hang_up()
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextlib.contextmanager
def at_terminal(*argv: str) -> Iterator[Terminal]:
    """Give a program at a terminal of its own; hang up on the way out."""
    terminal = Terminal(argv)
    try:
        yield terminal
    finally:
        terminal.close()
