"""docs/kernel-features.md: what each kernel can do, and what mountfd does instead; out of what guests told."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mountfd import Feature
from tests.matrix.machine import Report
from tests.matrix.trials import TRIALS

__all__ = ["PAGE", "column", "page", "version"]

PAGE = Path(__file__).parents[2] / "docs" / "kernel-features.md"

_HEAD = """\
# What each kernel can do

`bin/matrix` wrote this page: it booted each of these kernels and tried everything there. Nothing on it is concluded
from a version, and neither does mountfd: `mountfd doctor` finds the same for the machine it runs on.

{kernels}

"native" is the best way. A fallback gives the same, slower. "partly" tells what this kernel says, and None for the
rest. What would be weaker is refused, by an error that names what is missing. Where a tmpfs can't be idmapped (before
6.3) it was tried on ext4.
"""


def version(release: str) -> str:
    """Give the part of a release that people speak of: 6.1, or 7.3 of a release candidate's 7.3-amd64."""
    found = re.match(r"\d+\.\d+", release)
    assert found is not None, release
    return found[0]


def page(reports: Sequence[Report]) -> str:
    """Put reports, of the oldest kernel first, on one page."""
    kernels = "\n".join(f"- {version(told.kernel.release)}: `{told.kernel.release}`, {_from(told)}" for told in reports)
    columns = [column(told) for told in reports]
    versions = [version(told.kernel.release) for told in reports]
    pieces = [_HEAD.format(kernels=kernels)]
    for title, head, rows in _parts():
        pieces.append(f"\n## {title}\n\n")
        body = [[*words, *(answers.get(key, "?") for answers in columns), *end] for key, words, end in rows]
        pieces += (f"{line}\n" for line in _table([head[0], *versions, *head[1:]], body))
    return "".join(pieces)


def column(told: Report) -> dict[str, str]:
    """Give a report's answers, by the row's key."""
    answers = {feature["name"]: "yes" if feature["present"] else "no" for feature in told.doctor["features"]}
    answers |= {f"route of {verb}": str(route) for verb, route in told.doctor["routes"].items()}
    return answers | told.trials


def _parts() -> Iterator[tuple[str, list[str], list[tuple[str, list[str], list[str]]]]]:
    yield "What you get", ["what"], [(name, [name], []) for name in TRIALS]
    verbs = ("assemble", "mount", "replace", "namespace", "watch")
    yield "The route that each verb takes", ["verb"], [(f"route of {verb}", [f"`{verb}`"], []) for verb in verbs]
    yield (
        "Features of the kernel",
        ["feature", "what for", "without it"],
        [(item.name, [f"`{item.name}` (Linux {item.since})"], [item.use, item.otherwise]) for item in Feature],
    )


def _table(head: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join(' --- ' for _ in head)}|"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def _from(told: Report) -> str:
    suite = told.kernel.suite
    return f"Debian {suite}'s" if suite else "the machine's own on which this was written"
