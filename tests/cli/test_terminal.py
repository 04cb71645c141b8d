"""`mountfd run` at a real terminal."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator

from tests.support.need import need_real_root
from tests.support.program import MOUNTFD, PROMPT, Terminal, alive, at_terminal, eventually

need_real_root()
RUN = shlex.join([*MOUNTFD, "run", "--"])


def stopped(terminal: Terminal) -> None:
    """Wait for the outer shell to be back at its prompt: it would take for its own what is typed earlier."""
    terminal.until("Stopped")
    terminal.until(PROMPT)


@contextlib.contextmanager
def stopped_in_a_shell(script: str) -> Iterator[Terminal]:
    """Run a script until it says that it is ready, and press Ctrl-Z."""
    with at_terminal("bash", "--norc", "-i") as terminal:
        terminal.until(PROMPT)
        terminal.type(f"{RUN} sh -c {shlex.quote(script)}\n")
        terminal.until("ready\r\n")
        terminal.type("\x1a")
        stopped(terminal)
        yield terminal


@contextlib.contextmanager
def without_terminal(script: str) -> Iterator[subprocess.Popen[str]]:
    """Run a script as a process group of its own, and wait for its first line."""
    with subprocess.Popen(
        [*MOUNTFD, "run", "--", "sh", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=os.setpgrp,  # noqa: PLW1509 (no threads here)
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def state(pid: int | str) -> str:
    """Give the letter of a process's state."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return file.read().rpartition(")")[2].split()[0]


def test_the_terminal_is_one_inside() -> None:
    with at_terminal(
        *MOUNTFD, "run", "--", "sh", "-c", "test -t 0 && tty && echo typed > /dev/tty; exit 4"
    ) as terminal:
        terminal.until("/dev/console")
        terminal.until("typed")
        assert terminal.end() == 4


def test_what_is_typed_arrives() -> None:
    with at_terminal(*MOUNTFD, "run", "--", "sh", "-c", "read line; echo got $line") as terminal:
        terminal.type("hello\n")
        terminal.until("got hello")
        assert terminal.end() == 0


def test_an_interrupt_reaches_the_command_once() -> None:
    script = "trap 'echo caught' INT; echo ready; for i in 1 2 3 4 5; do sleep 0.1; done; echo done"
    with at_terminal(*MOUNTFD, "run", "--", "sh", "-c", script) as terminal:
        terminal.until("ready")
        terminal.type("\x03")
        assert terminal.until("done").count("caught") == 1
        assert terminal.end() == 0


def test_an_interrupt_ends_the_command_with_130() -> None:
    with at_terminal(*MOUNTFD, "run", "--", "sh", "-c", "echo ready; exec sleep 1041") as terminal:
        terminal.until("ready")
        terminal.type("\x03")
        assert terminal.end() == 130


def test_a_shell_inside_has_job_control() -> None:
    with at_terminal(*MOUNTFD, "run", "--", "sh", "-i") as terminal:
        terminal.type("echo rea''dy\n")
        assert "tty" not in terminal.until("ready")
        terminal.type("sh -c 'echo star''ted; exec sleep 1042'\n")
        terminal.until("started")
        terminal.type("\x1a")
        terminal.until("Stopped")
        terminal.type("kill -KILL %1\nfg\n")
        terminal.until("Killed")
        terminal.type("exit 5\n")
        assert terminal.end() == 5
        assert "group" not in terminal.rest()


def test_a_script_around_us_stops_and_goes_on_with_us() -> None:
    script = f"{RUN} sh -c 'echo rea\"\"dy; read line; echo got $line'; echo after"
    with at_terminal("bash", "--norc", "-i") as terminal:
        terminal.type(f"sh -c {shlex.quote(script)}\n")
        terminal.until("ready\r\n")
        terminal.type("\x1a")
        stopped(terminal)
        terminal.type("fg\n")
        terminal.until("read line")
        terminal.type("on\n")
        terminal.until("got on")
        terminal.until("after")
        terminal.type("exit\n")
        terminal.end()


def test_the_rest_of_a_pipeline_may_read_keys() -> None:
    with at_terminal("bash", "--norc", "-i") as terminal:
        terminal.type(f"{RUN} sh -c 'echo fir''st; sleep 0.3' | (read a; read b < /dev/tty; echo $a-$b)\n")
        time.sleep(0.5)
        terminal.type("key\n")
        terminal.until("first-key")
        terminal.type("exit\n")
        terminal.end()


def test_an_early_interrupt_is_not_lost() -> None:
    for delay in (0.01, 0.03, 0.05, 0.07, 0.1):
        with at_terminal(
            "sh", "-c", f"trap : INT; {RUN} sh -c 'echo ready; exec sleep 1044'; echo status=$?"
        ) as terminal:
            time.sleep(delay)
            terminal.type("\x03")
            time.sleep(0.1)
            terminal.type("\x03")
            terminal.until("status=")
            terminal.until("\n")


def test_bash_inside_has_job_control() -> None:
    with at_terminal(*MOUNTFD, "run", "--", "bash", "--norc", "-i") as terminal:
        terminal.type("echo rea''dy\n")
        assert "job control" not in terminal.until("ready")
        terminal.type("exit 6\n")
        assert terminal.end() == 6


def test_stopping_and_going_on_under_a_shell() -> None:
    with at_terminal("bash", "--norc", "-i") as terminal:
        script = "echo rea''dy; read line; echo got $line; exit 3"
        terminal.type(f"{RUN} sh -c {shlex.quote(script)}\n")
        terminal.until("ready\r\n")
        terminal.type("\x1a")
        stopped(terminal)
        terminal.type("fg\n")
        terminal.until("read line")
        terminal.type("on\n")
        terminal.until("got on")
        terminal.type("echo status=$?\n")
        terminal.until("status=3")
        terminal.type("exit\n")
        terminal.end()


def test_a_command_that_stops_itself_stops_us_as_well() -> None:
    # As full-screen editors do: the terminal is raw, so Ctrl-Z is the editor's to act upon.
    with at_terminal("bash", "--norc", "-i") as terminal:
        terminal.type(f"{RUN} sh -c 'kill -TSTP 0; echo on; exit 3'\n")
        stopped(terminal)
        terminal.type("fg\n")
        terminal.until("on\r\n")
        terminal.type("echo status=$?\n")
        terminal.until("status=3")
        terminal.type("exit\n")
        terminal.end()


def test_a_command_may_ignore_being_stopped() -> None:
    script = "trap '' TSTP; echo ready; read line; echo got $line"
    with at_terminal(*MOUNTFD, "run", "--", "sh", "-c", script) as terminal:
        terminal.until("ready")
        terminal.type("\x1aon\n")
        terminal.until("got")
        assert terminal.end() == 0


def test_stopping_where_nobody_could_go_on_from_it_does_nothing() -> None:
    with at_terminal(*MOUNTFD, "run", "--", "sh", "-c", "echo ready; read line; echo got $line") as terminal:
        terminal.until("ready")
        terminal.type("\x1a")
        time.sleep(0.2)
        terminal.type("on\n")
        terminal.until("got on")
        assert terminal.end() == 0


def test_the_foreground_is_ours_again_after_a_shell_that_had_job_control() -> None:
    with at_terminal("sh", "-c", f"{RUN} bash --norc -i; read line; echo got $line") as terminal:
        terminal.type("echo rea''dy\n")
        terminal.until("ready\r\n")
        terminal.type("exit\n")
        terminal.until("exit\r\n")
        terminal.type("on\n")
        terminal.until("got on")
        assert terminal.end() == 0


def test_a_hangup_ends_it() -> None:
    with at_terminal(*MOUNTFD, "run", "--", "sh", "-c", "echo ready; exec sleep 1043") as terminal:
        terminal.until("ready")
        terminal.hang_up()
        assert terminal.end() == 129


def test_what_wants_the_terminal_in_the_background_gets_it_in_the_foreground() -> None:
    with stopped_in_a_shell("echo rea''dy; exec cat") as terminal:
        terminal.type("bg\n")
        time.sleep(0.5)  # the shell tells at this prompt or the next that it has stopped again
        terminal.type("\n")
        stopped(terminal)
        terminal.type("fg\n")
        terminal.until("exec cat")
        time.sleep(0.2)
        terminal.type("typed\n")
        terminal.until("typed\r\ntyped\r\n")
        terminal.type("\x04")
        terminal.until(PROMPT)
        terminal.type("exit\n")
        terminal.end()


def test_what_runs_in_the_background_hears_keys_in_the_foreground() -> None:
    with stopped_in_a_shell("echo rea''dy; exec sleep 1045") as terminal:
        terminal.type("bg\n")
        terminal.until(PROMPT)
        time.sleep(0.2)
        terminal.type("fg\n")  # which sends no signal to what runs
        terminal.until("exec sleep 1045")
        time.sleep(0.2)
        terminal.type("\x03")
        terminal.until(PROMPT)
        terminal.type("echo status=$?\n")
        terminal.until("status=130")
        terminal.type("exit\n")
        terminal.end()


def test_ending_in_the_background_leaves_the_terminal_to_the_shell() -> None:
    with stopped_in_a_shell("echo rea''dy; exec sleep 0.3") as terminal:
        terminal.type("bg\n")
        terminal.until(PROMPT)
        time.sleep(1)
        terminal.type("echo st''ill\n")
        terminal.until("still")
        terminal.type("exit 7\n")
        assert terminal.end() == 7


def test_a_hangup_ends_what_is_stopped() -> None:
    with stopped_in_a_shell("echo rea''dy; exec sleep 1046.5") as terminal:
        assert alive("1046.5")
        terminal.hang_up()
        assert eventually(lambda: not alive("1046.5"))


def test_a_stopped_command_hears_what_ends_it() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        with without_terminal("echo ready; kill -STOP $$; sleep 1047.5") as process:
            assert eventually(lambda: "T" in map(state, alive("1047.5")))
            process.send_signal(number)
            assert process.wait(10) == 128 + number


def test_stopping_and_going_on_without_a_terminal() -> None:
    with without_terminal("echo ready; sleep 0.5; exit 3") as process:
        process.send_signal(signal.SIGTSTP)
        assert eventually(lambda: state(process.pid) == "T")
        process.send_signal(signal.SIGCONT)
        assert process.wait(10) == 3
