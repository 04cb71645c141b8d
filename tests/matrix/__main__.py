"""`bin/matrix`: boots every kernel, runs nearly every test there, and writes docs/kernel-features.md."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mountfd.verbs.examine import examine
from tests.matrix.kernels import SUITES, Kernel, kernel_of
from tests.matrix.machine import Report, boot, root_image
from tests.matrix.selection import LEFT_OUT, WHOLE, words
from tests.matrix.table import PAGE, page, version

LIMIT = 3 * 60 * 60.0


def main() -> int:
    """Do it; 0 when every kernel could be had and no test failed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that it tidies up
    arguments = _parser().parse_args()
    places = [] if arguments.features else words(*(arguments.tests or WHOLE))
    reports, is_fine = [], True
    with root_image() as image:
        for suite in arguments.kernel or SUITES:
            try:
                kernel = kernel_of(suite)
            except pytest.skip.Exception as reason:
                _say(f"{suite}: left out; {reason}")
                is_fine = False
                continue
            _say(f"{suite}: Linux {kernel.release}")
            told = boot(kernel, image, places, limit=LIMIT, heard=_progress())
            is_fine &= _judge(told)
            reports.append(told)
    if arguments.kernel or arguments.tests:
        return 0 if is_fine else 1  # a part is no page
    if is_fine or arguments.features:
        _write(reports)
    return 0 if is_fine else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bin/matrix", description=__doc__)
    parser.add_argument("tests", nargs="*", help="files or tests, instead of nearly all")
    parser.add_argument("--kernel", action="append", choices=SUITES, help="only that suite's kernel; repeatable")
    parser.add_argument("--features", action="store_true", help="no tests, only what each kernel can do: the page")
    return parser


def _progress() -> Callable[[Report], None]:
    """Make a function that keeps a line on a terminal up to date, elsewhere writes one now and then; names failures."""
    every, next_at = (1, 1) if sys.stderr.isatty() else (100, 100)
    named: set[str] = set()

    def show(told: Report) -> None:
        nonlocal next_at
        for result in told.of("failed"):
            if result.test not in named:
                named.add(result.test)
                sys.stderr.write(f"\r{result.test} failed\n")
        if told.collected and len(told.tests) >= next_at:
            next_at = len(told.tests) + every
            line = f"  {told.seconds:5.0f} s  {len(told.tests)}/{told.collected}  {len(told.of('failed'))} failed"
            end = "\r" if every == 1 else "\n"
            sys.stderr.write((f"{line}  {told.running[-60:]:<60}" if every == 1 else line) + end)
            sys.stderr.flush()

    return show


def _judge(told: Report) -> bool:
    """Say how it went; whether all is well."""
    for result in told.of("failed"):
        _say(f"FAILED on {told.kernel.release}: {result.test}\n{result.text}\n")
    for problem in told.problems:
        _say(f"PROBLEM on {told.kernel.release}: {problem}")
    for outcome in ("refused", "skipped"):
        reasons: dict[str, int] = {}
        for result in told.of(outcome):
            reasons[result.text] = reasons.get(result.text, 0) + 1
        for reason, count in sorted(reasons.items()):
            _say(f"  {outcome} {count}: {reason}")
    counts = ", ".join(f"{len(told.of(word))} {word}" for word in ("passed", "failed", "refused", "skipped"))
    _say(f"  {told.kernel.release}: {counts}, in {told.seconds:.0f} s")
    return not told.problems and not told.of("failed")


def _write(reports: list[Report]) -> None:
    known = {version(told.kernel.release) for told in reports}
    own = _own()
    if version(own.kernel.release) not in known:
        reports.append(own)
    reports.sort(key=lambda told: [int(part) for part in version(told.kernel.release).split(".")])
    PAGE.write_text(page(reports))
    for name, reason in LEFT_OUT.items():
        _say(f"not run there: {name} ({reason})")
    sys.stdout.write(PAGE.read_text())
    _say(f"written to {PAGE}")


def _own() -> Report:
    """Ask the same of this machine's own kernel."""
    told = Report(Kernel("", os.uname().release, Path(), ()))
    told.doctor = examine()
    trials = subprocess.run([sys.executable, "-m", "tests.matrix.trials"], check=True, stdout=subprocess.PIPE)
    for line in trials.stdout.splitlines():
        told.hear(json.loads(line))
    return told


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
