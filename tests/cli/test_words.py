"""What the command line says, to whom, and when it is quiet."""

from __future__ import annotations

import subprocess

import pytest

import mountfd as library
from mountfd.cli import COMMANDS
from tests.support.need import need_real_root
from tests.support.program import MOUNTFD, mountfd

need_real_root()


def test_without_words_the_usage_is_on_standard_error() -> None:
    done = mountfd()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("usage: mountfd COMMAND")


@pytest.mark.parametrize("word", ["nonsense", "--nonsense", "--trace", "", "../run", "run.py", "exits", "arguments"])
def test_unknown_commands_are_a_mistake(word: str) -> None:
    done = mountfd(word)
    assert (done.returncode, done.stdout) == (1, "")
    assert "usage: mountfd COMMAND" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_options_are_a_mistake(command: str) -> None:
    done = mountfd(command, "--nonsense")
    assert (done.returncode, done.stdout) == (125 if command == "run" else 1, "")
    assert f"mountfd: {command}: there is no option '--nonsense'" in done.stderr
    assert f"usage: mountfd {command}" in done.stderr


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_on_standard_output(command: str, option: str) -> None:
    done = mountfd(*filter(None, [command, option]))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: mountfd {command or 'COMMAND'} ")
    assert max(map(len, done.stdout.split("\n"))) <= 120


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(option: str) -> None:
    assert mountfd(option).stdout == f"mountfd {library.__version__}\n"


def test_the_package_can_be_run() -> None:
    words = [*MOUNTFD[:1], "-m", "mountfd", "--version"]
    assert (
        subprocess.run(words, check=True, capture_output=True, text=True).stdout == f"mountfd {library.__version__}\n"
    )


@pytest.mark.parametrize("words", [["--trace", "run", "true"], ["run", "--trace", "true"]])
def test_a_trace_shows_each_call_on_standard_error(words: list[str]) -> None:
    done = mountfd(*words)
    assert (done.returncode, done.stdout) == (0, "")
    lines = done.stderr.split("\n")
    for call in (
        "fsopen('overlay', CLOEXEC) = ",
        "move_mount(",
        "unshare(NEWNS|",
        "pivot_root('.', '.') = 0",
        "# assemble: ",
    ):
        assert [line for line in lines if line.startswith(call)], call


@pytest.mark.parametrize("words", ["doctor", "--help", "run --help", "doctor --json"])
def test_a_reader_who_leaves_is_no_reason_to_complain(words: str) -> None:
    script = f"{{ {' '.join(MOUNTFD)} {words}; echo $? >&2; }} | true"
    done = subprocess.run(["bash", "-c", f"sleep 0; {script}"], check=True, capture_output=True, text=True)
    assert done.stderr in ("0\n", "141\n")


def test_a_full_disk_is_told() -> None:
    script = f"exec {' '.join(MOUNTFD)} doctor > /dev/full"
    done = subprocess.run(["sh", "-c", script], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (32, "mountfd: No space left on device\n")


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "POSIX"])
def test_messages_stay_one_line_whatever_is_in_them(locale: str) -> None:
    odd = "/no\nsuch\x1b[31m/\udcff\udcc3\u2028é"
    for words in (["run", "--", odd], ["run", "--layer", odd, "true"], ["run", "--bind", odd, "true"], [odd]):
        done = mountfd(*words, env={"LC_ALL": locale})
        first, *rest = done.stderr.rstrip("\n").split("\n")
        assert first.startswith("mountfd: ")
        assert "\x1b" not in done.stderr
        assert "Traceback" not in done.stderr
        assert all(line.startswith(("  ", "usage", "", "Linux")) for line in rest)


def test_a_command_line_of_odd_bytes_arrives_as_it_is() -> None:
    odd = "a\udcff\n\tb"
    for locale in ("C", "C.UTF-8"):
        done = mountfd(
            "run", "--setenv", f"X={odd}", "--", "sh", "-c", 'printf %s "$1$X"', "sh", odd, env={"LC_ALL": locale}
        )
        assert (done.stdout, done.stderr) == (odd + odd, "")
