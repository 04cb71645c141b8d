"""What is installed is whole."""

from __future__ import annotations

import subprocess
import sys
from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.architecture.source import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel, with the backend that is installed: without network."""
    place = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--wheel-dir", str(place)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True)
    return next(place.glob("*.whl"))


def test_types_travel_with_the_package(wheel: Path) -> None:
    assert "mountfd/py.typed" in ZipFile(wheel).namelist()


def test_nothing_but_the_package_is_installed(wheel: Path) -> None:
    tops = {name.partition("/")[0].partition("-")[0] for name in ZipFile(wheel).namelist()}
    assert tops == {"mountfd"}


def test_the_page_of_a_graph_travels_with_the_package(wheel: Path) -> None:
    assert {f"mountfd/view/graph.{suffix}" for suffix in ("css", "html", "js")} <= set(ZipFile(wheel).namelist())


def test_the_commands_are_installed(wheel: Path) -> None:
    lines = _meta(wheel, "entry_points.txt").splitlines()
    assert "mountfd = mountfd.cli:program" in lines
    assert "mountfd-overlay = mountfd.cli.overlay_helper:program" in lines


def test_nothing_is_needed_at_run_time(wheel: Path) -> None:
    needs = _metadata(wheel).get_all("Requires-Dist", [])
    assert [need for need in needs if "extra ==" not in need] == []


def test_the_licence_is_said_and_included(wheel: Path) -> None:
    assert _metadata(wheel)["License-Expression"] == "MIT"
    assert "MIT License" in _meta(wheel, "licenses/LICENSE")


def _metadata(wheel: Path) -> Message:
    return Parser().parsestr(_meta(wheel, "METADATA"))


def _meta(wheel: Path, name: str) -> str:
    with ZipFile(wheel) as archive:
        (path,) = (path for path in archive.namelist() if path.endswith(f".dist-info/{name}"))
        return archive.read(path).decode()
