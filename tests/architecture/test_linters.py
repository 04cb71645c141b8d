"""The linters are tests like any other, so that one command judges all."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.architecture.source import ROOT


@pytest.mark.parametrize("command", ["ruff check", "ruff format --check", "mypy"])
def test_linter_is_content(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command.split()], check=False, capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode != 0:
        pytest.fail(done.stdout + done.stderr, pytrace=False)
