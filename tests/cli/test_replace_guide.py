"""docs/replace.md: its snippets run as printed, and its pictures are those that are drawn."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mountfd import Feature, has
from tests.support.need import need, need_command, need_real_root
from tests.support.program import MOUNTFD

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs/replace.md"
# What stands above the guide's own ground is shown there by itself.
STORY = GUIDE.read_text().partition("## A service's overlay")[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_END = "trap 'kill $service $receiving 2>/dev/null' EXIT"

need_real_root()
need(has(Feature.MOVE_MOUNT_BENEATH) and has(Feature.STATMOUNT), "MOVE_MOUNT_BENEATH and statmount(2) (Linux 6.8)")
need(has(Feature.MOUNT_INSIDE_DETACHED), "overlays and trees put together detached (Linux 6.15)")
need(os.path.isdir("/srv"), "a directory /srv")


def snippets() -> tuple[list[str], list[str]]:
    """Give the guide's commands as a shell's lines, and what it prints after each."""
    lines: list[str] = []
    printed: list[str] = []
    for language, text in FENCE.findall(STORY):
        if language == "python":
            lines.append(f"{shlex.quote(sys.executable)} -c {shlex.quote(text)}")
        elif language == "console":
            commands = [line[2:] for line in text.splitlines() if re.match("# ", line)]
            lines += commands
            printed += [line for line in text.splitlines() if not line.startswith("# ")]
        else:
            printed += text.splitlines()
    return lines, printed


def unnumbered(lines: list[str]) -> list[str]:
    """Leave out what differs each time: ids, pids and peer groups, and how wide they make a column."""
    number = r"\d{6,}|(?<=process )\d+|(?<=pid )\d+|(?<=^[*])\d+"
    # How somebody uses it is holders' to say.
    return [re.sub(r"(\(sleep).*", r"\1", re.sub(r" +", " ", re.sub(number, "N", line))) for line in lines]


def test_its_snippets_run_as_printed(tmp_path: Path) -> None:
    lines, printed = snippets()
    assert len(lines) > 20
    (tmp_path / "mountfd").write_text(f'#!/bin/sh\nexec {shlex.join(MOUNTFD)} "$@"\n')
    (tmp_path / "mountfd").chmod(0o755)
    (tmp_path / "script").write_text("\n".join([_END, *lines, ""]))
    with (tmp_path / "said").open("w") as said:
        subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "bash", tmp_path / "script"],
            check=True,
            stdout=said,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")},
            timeout=120,
        )
    assert unnumbered((tmp_path / "said").read_text().splitlines()) == unnumbered(printed)


def test_what_it_begins_with_is_python_that_runs() -> None:
    beginning = GUIDE.read_text().partition("## What happens")[0]
    (text,) = [text for language, text in FENCE.findall(beginning) if language == "python"]
    ground = (
        "cd /srv && mkdir -p app/usr images/base images/app-1 images/app-2/bin && cp /bin/true images/app-2/bin/app"
        " && mount --bind images/app-1 app/usr"
        f" && {shlex.quote(sys.executable)} -c {shlex.quote(text)} && app/usr/bin/app"
    )
    subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", f"mount -t tmpfs try /srv && {ground}"],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        timeout=60,
    )


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Draw the pictures twice."""
    need_command("dot")
    places = [tmp_path_factory.mktemp("pictures") for _ in range(2)]
    for place in places:
        subprocess.run([sys.executable, ROOT / "docs/pictures/draw", place], check=True, timeout=120)
    return places


def test_its_pictures_are_those_that_are_drawn(drawn: list[Path]) -> None:
    names = {path.name for path in drawn[0].iterdir()}
    assert names == {path.name for path in (ROOT / "docs/pictures").glob("*.svg")}
    assert names == set(re.findall(r"\(pictures/(\w+\.svg)\)", GUIDE.read_text()))


def test_who_draws_them_again_gets_the_same(drawn: list[Path]) -> None:
    one, other = ({path.name: path.read_bytes() for path in place.iterdir()} for place in drawn)
    assert one == other
