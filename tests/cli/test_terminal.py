"""`mountfd run` at a real terminal."""

from __future__ import annotations

import shlex
import time

from tests.support.need import need_real_root
from tests.support.program import MOUNTFD, PROMPT, Terminal, at_terminal

need_real_root()
RUN = shlex.join([*MOUNTFD, "run", "--"])


def stopped(terminal: Terminal) -> None:
    """Wait for the outer shell to be back at its prompt: it would take for its own what is typed earlier."""
    terminal.until("Stopped")
    terminal.until(PROMPT)


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
