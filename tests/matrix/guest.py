"""What runs inside a guest: the doctor, the probes and the tests; each fact is one JSON line on the second serial port.

Each part is a process of its own, so that what one of them breaks stays there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tty
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

import mountfd
from mountfd.verbs.examine import examine
from tests.matrix.selection import WANTS
from tests.support.program import MOUNTFD

PORT = "/dev/ttyS1"
_REFUSED = "refused for want of"
_LONGEST = 8000  # of a failure's text: an emulated serial port is slow


def tell(**fact: Any) -> None:
    """Write one fact to the host. Each time anew: a test may look at what descriptors are open."""
    line = json.dumps(fact).encode() + b"\n"
    port = os.open(PORT, os.O_WRONLY | os.O_NOCTTY)
    try:
        while line:
            line = line[os.write(port, line) :]
    finally:
        os.close(port)


class Teller:
    """A pytest plugin that tells each test's beginning and outcome as it happens."""

    def __init__(self) -> None:
        """Begin with nothing heard of the running test."""
        self.reports: list[pytest.TestReport] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Skip what wants more than this kernel has."""
        for item in items:
            for name, (feature, why) in WANTS.items():
                if item.nodeid.startswith(name) and not mountfd.has(mountfd.Feature[feature]):
                    item.add_marker(pytest.mark.skip(reason=f"missing: {feature} ({why})"))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Say how many there are."""
        tell(kind="collected", count=len(session.items))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Say which one begins: if the kernel hangs, that is the one."""
        self.reports = []
        tell(kind="begin", test=nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Tell apart a library that says which feature is missing, where it is, from one that fails."""
        report = yield
        if call.excinfo is not None and (feature := _missing(call.excinfo.value)):
            report.user_properties.append((_REFUSED, feature))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Hear of each part of a test."""
        self.reports.append(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Say how it ended, and why."""
        failed = [report for report in self.reports if report.failed]
        skipped = [report for report in self.reports if report.skipped]
        refused = [value for report in failed for name, value in report.user_properties if name == _REFUSED]
        outcome, text = "passed", ""
        if refused and len(failed) == 1:
            outcome, text = "refused", str(refused[0])
        elif failed:
            outcome = "failed"
            text = "\n".join(f"{report.longreprtext}\n{_printed(report)}".strip() for report in failed)[-_LONGEST:]
        elif skipped and isinstance(skipped[0].longrepr, tuple):
            outcome, text = "skipped", skipped[0].longrepr[2].removeprefix("Skipped: ")
        elif skipped:
            outcome, text = "failed", f"xfail and skips without a reason are not expected here: {skipped[0].longrepr}"
        seconds = sum(report.duration for report in self.reports)
        tell(kind="test", test=nodeid, outcome=outcome, text=text, seconds=round(seconds, 2))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Say of a file that can't be read, or that is skipped whole."""
        if report.failed:
            tell(kind="test", test=report.nodeid, outcome="failed", text=report.longreprtext, seconds=0)
        elif report.skipped and isinstance(report.longrepr, tuple):
            text = report.longrepr[2].removeprefix("Skipped: ")
            tell(kind="test", test=report.nodeid, outcome="skipped", text=text, seconds=0)


def _missing(error: BaseException) -> str:
    """Name the feature that an error says is missing; nothing when the kernel has it."""
    if not isinstance(error, mountfd.NotSupported) or error.feature is None:
        return ""
    if error.feature in mountfd.Feature.__members__:
        return "" if mountfd.has(mountfd.Feature[error.feature]) else error.feature
    if error.feature == "NS_GET_MNTNS_ID":
        return "" if _namespaces_have_ids() else error.feature
    is_idmap = error.feature == "idmapped mount of this filesystem"
    return "idmapped tmpfs (Linux 6.3)" if is_idmap and examine()["idmapped"]["tmpfs"] is False else ""  # type: ignore[index]


def _namespaces_have_ids() -> bool:
    with mountfd.MountNamespace.current() as own:
        try:
            return own.id > 0
        except mountfd.NotSupported:
            return False


def main(path: str) -> None:
    """Do the task that the host laid there."""
    tty.setraw(os.open(PORT, os.O_RDWR | os.O_NOCTTY))
    tell(kind="kernel", release=os.uname().release)
    task = json.loads(Path(path).read_text())
    done = subprocess.run([*MOUNTFD, "doctor", "--json"], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        tell(kind="doctor", facts=json.loads(done.stdout))
    else:
        tell(kind="problem", text=f"mountfd doctor ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    _relay([sys.executable, "-m", "tests.matrix.trials"])
    if task["tests"]:
        done = subprocess.run([sys.executable, "-m", "tests.matrix.guest", "--tests", path], text=True, check=False)
        if done.returncode not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
            tell(kind="problem", text=f"pytest ended with {done.returncode}; see the console")
    tell(kind="end")


def _relay(argv: list[str]) -> None:
    """Pass on what a program says, line by line: each is a fact."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            tell(**json.loads(line))
    if process.returncode:
        tell(kind="problem", text=f"{' '.join(argv)} ended with {process.returncode}; see the console")


def _test(path: str) -> int:
    task = json.loads(Path(path).read_text())
    # Where a test hangs, the console says on what.
    options = ["-q", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=240"]
    return int(pytest.main([*options, *task["tests"]], plugins=[Teller()]))


def _printed(report: pytest.TestReport) -> str:
    return "\n".join(f"--- {name}\n{text}" for name, text in report.sections)


if __name__ == "__main__":
    if sys.argv[1] == "--tests":
        sys.exit(_test(sys.argv[2]))
    main(sys.argv[1])
