"""The newest kernel and an old one, emulated: what differs between kernels is tried on them, and told on a page.

`bin/matrix` does it with every kernel and nearly every test.
"""

# ruff: noqa: D103 (a test's name says it)

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mountfd import Feature
from tests.matrix.kernels import NEWEST, OLDEST_WHOLE, kernel_of
from tests.matrix.machine import Report, boot, root_image
from tests.matrix.selection import BRIEF, LEFT_OUT, WHOLE, words
from tests.matrix.table import PAGE, column, version
from tests.matrix.trials import BROKEN, NATIVE, TRIALS

LIMIT = 600.0

# Where a kernel has every feature and yet isn't asked in the best way, and why.
NOT_NATIVE = {
    # statmount(2) by descriptor answers ENOENT for a mount that was never in a namespace and stands alone.
    "lookup(fd=) of a detached mount",
}


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    with root_image() as path:
        yield path


@pytest.fixture(scope="module", params=[NEWEST, OLDEST_WHOLE])
def told(request: pytest.FixtureRequest, image: Path) -> Report:
    """Boot one of them, once for all the tests here."""
    return boot(kernel_of(request.param), image, words(*BRIEF), limit=LIMIT)


def test_no_test_fails_there(told: Report) -> None:
    assert told.problems == []
    failures = [f"=== {result.test}\n{result.text}" for result in told.of("failed")]
    if failures:
        pytest.fail(f"on Linux {told.kernel.release}:\n" + "\n".join(failures), pytrace=False)
    assert len(told.of("passed")) > 100
    # A file that is skipped whole is told of, and not collected.
    assert len([result for result in told.tests if "::" in result.test]) == told.collected


def test_what_users_care_about_is_native_a_fallback_or_refused_and_never_broken(told: Report) -> None:
    assert list(told.trials) == list(TRIALS)
    assert {name: answer for name, answer in told.trials.items() if answer.startswith(BROKEN)} == {}
    if all(feature["present"] for feature in told.doctor["features"]):
        assert {name for name, answer in told.trials.items() if answer != NATIVE} == NOT_NATIVE


def test_the_page_says_what_is_found_there(told: Report) -> None:
    rows = _page()
    name = version(told.kernel.release)
    if name not in rows["what"]:
        pytest.fail(f"{PAGE.name} knows nothing of Linux {name}: run bin/matrix --features")
    at = rows["what"].index(name)
    answers = column(told)
    assert {key: rows[key][at] for key in answers} == answers


def test_the_page_has_every_feature_and_every_trial() -> None:
    assert {*TRIALS, *(feature.name for feature in Feature)} <= set(_page())


def test_what_is_left_out_exists() -> None:
    root = PAGE.parents[1]
    assert [name for name in (*LEFT_OUT, *BRIEF, *WHOLE) if not (root / name.partition("::")[0]).exists()] == []


def _page() -> dict[str, list[str]]:
    """Read the page's tables: the first cell, a verb's as its route's key, to the others."""
    rows = {}
    for line in PAGE.read_text().splitlines():
        if line.startswith("| "):
            first, *rest = (cell.strip().replace("\\|", "|") for cell in line.strip("|").split(" | "))
            key = first.split(" (Linux ")[0]
            rows[f"route of {key.strip('`')}" if key.islower() and key.startswith("`") else key.strip("`")] = rest
    return rows
