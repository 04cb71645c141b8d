from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import mountfd
from tests.support.mounting import both_routes, move, tmpfs, umount

PATIENCE = 60.0


@contextlib.contextmanager
def command(tmp_path: Path, *words: str, route: str = "", **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Start `mountfd watch`, and go on when it has begun to watch, which its trace says."""
    source = os.path.dirname(os.path.dirname(mountfd.__file__))
    env = {**os.environ, "PYTHONPATH": source, **environment}
    if route:
        env["MOUNTFD_ROUTE"] = f"watch:{route}"
    messages = tmp_path / "messages"
    argv = [sys.executable, "-m", "mountfd", "watch", "--trace", *words]
    with (
        messages.open("w") as stderr,
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=stderr, env=env, text=True) as process,
    ):
        end = time.monotonic() + PATIENCE
        while "what happens from now on is told" not in messages.read_text():
            assert process.poll() is None, messages.read_text()
            assert time.monotonic() < end
            time.sleep(0.01)
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@both_routes
def test_a_line_each_as_it_happens(route: str, scratch: Path, tmp_path: Path) -> None:
    with command(tmp_path, "--under", str(scratch), route=route) as process:
        number = mountfd.lookup(tmpfs(scratch / "a")).id
        assert line_of(process) == f"attach  {scratch}/a  tmpfs  #{number}\n"
        move(scratch / "a", scratch / "b")
        assert line_of(process) == f"move  {scratch}/b  tmpfs  #{number}  from {scratch}/a\n"
        umount(scratch / "b")
        assert line_of(process) == f"detach  {scratch}/b  tmpfs  #{number}\n"


def test_an_object_each(scratch: Path, tmp_path: Path) -> None:
    with command(tmp_path, "--json", "--under", str(scratch)) as process:
        info = mountfd.lookup(tmpfs(scratch / "a"))
        assert json.loads(line_of(process)) == {
            "event": "attach",
            "uniq-id": info.id,
            "uniq-parent": info.parent_id,
            "target": f"{scratch}/a",
            "source": "tmpfs",
            "fstype": "tmpfs",
        }
        move(scratch / "a", scratch / "b")
        assert json.loads(line_of(process))["from"] == f"{scratch}/a"
        umount(scratch / "b")


@pytest.mark.parametrize("locale", ["C.UTF-8", "POSIX"])
def test_an_odd_name_stays_one_line(locale: str, scratch: Path, tmp_path: Path) -> None:
    point = Path(os.fsdecode(os.fsencode(scratch) + b"/a\n\x1b[31m\\\xff\xc3\xa9"))
    with command(tmp_path, LC_ALL=locale, PYTHONCOERCECLOCALE="0", PYTHONUTF8="0") as process:
        number = mountfd.lookup(tmpfs(point)).id
        shown = "\\xc3\\xa9" if locale == "POSIX" else "é"
        assert line_of(process) == f"attach  {scratch}/a\\n\\x1b[31m\\\\\\xff{shown}  tmpfs  #{number}\n"
        umount(point)


def test_a_name_that_is_not_utf8_comes_as_bytes_too(scratch: Path, tmp_path: Path) -> None:
    point = Path(os.fsdecode(os.fsencode(scratch) + b"/\xff"))
    with command(tmp_path, "--json") as process:
        tmpfs(point)
        facts = json.loads(line_of(process))
        assert facts["target"] == f"{scratch}/\N{REPLACEMENT CHARACTER}"
        assert facts["target_b64"]
        umount(point)


def test_an_interrupt_is_the_usual_end(tmp_path: Path) -> None:
    with command(tmp_path) as process:
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=PATIENCE)[0] == ""
        assert process.returncode == 0
    assert "Traceback" not in (tmp_path / "messages").read_text()


@both_routes
def test_it_ends_when_nobody_reads_though_nothing_happens(route: str, tmp_path: Path) -> None:
    with command(tmp_path, route=route) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(PATIENCE) == 128 + signal.SIGPIPE
    assert "Traceback" not in (tmp_path / "messages").read_text()


def test_the_end_of_a_namespace_is_the_last_line(tmp_path: Path) -> None:
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; read -r _"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert line_of(other) == "\n"
        with command(tmp_path, "--namespace", str(other.pid), route="fanotify") as process:
            other.communicate("\n")
            lines = process.communicate(timeout=PATIENCE)[0].splitlines()
    assert process.returncode == 0
    assert lines[-1] == "end"
    assert {line.split()[0] for line in lines[:-1]} == {"detach"}


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--under", "/no/such/place"], 32),
        (["--namespace", "4194305"], 32),
        (["--namespace", "/dev/null"], 32),
        (["--no-such-option"], 1),
        (["operand"], 1),
    ],
)
def test_mistakes_are_told(words: list[str], status: int) -> None:
    source = os.path.dirname(os.path.dirname(mountfd.__file__))
    argv = [sys.executable, "-m", "mountfd", "watch", *words]
    env = {**os.environ, "PYTHONPATH": source}
    done = subprocess.run(argv, check=False, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("mountfd: ")
