"""MOUNTFD_ROUTE: what it understands, and that nothing in it is taken in vain."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mountfd import InvalidSpec, mounts
from mountfd.abi.routes import VERBS, forced
from mountfd.handles.loop_setup import _status_is_forced
from mountfd.verbs import assemble, mount, replace, watch
from mountfd.verbs.namespaces import making
from tests.support.program import mountfd

ROOT = Path(__file__).parents[2]


def documented() -> dict[str, list[str]]:
    table = (ROOT / "docs/cli.md").read_text().partition("\n## Routes")[2].partition("| --- |")[2].partition("\n## ")[0]
    return {verb: routes.split(", ") for verb, routes in re.findall(r"^\| (\w+) \| (\w+, .*) \|$", table, re.MULTILINE)}


def test_the_first_word_for_a_verb_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", "mount:string, replace:gap,mount:descriptor")
    assert [forced(verb) for verb in ("mount", "replace", "watch")] == ["string", "gap", None]
    monkeypatch.setenv("MOUNTFD_ROUTE", "")
    assert forced("mount") is None


@pytest.mark.parametrize("verb", ["foo", "Mount", "umount"])
def test_a_verb_that_has_no_routes_is_refused_by_name_whoever_asks(monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", f"mount:string,{verb}:string")
    with pytest.raises(InvalidSpec, match=f"nothing called '{verb}' has routes; what has: assemble, ") as caught:
        forced("mount")
    assert caught.value.part == "MOUNTFD_ROUTE"


def test_a_command_says_it_too() -> None:
    done = mountfd("run", "true", env={"MOUNTFD_ROUTE": "foo:string"})
    assert (done.returncode, done.stdout) == (125, "")
    assert "nothing called 'foo' has routes" in done.stderr


def test_who_asks_is_known_and_written_down() -> None:
    asked = set()
    for path in (ROOT / "src/mountfd").rglob("*.py"):
        asked |= set(re.findall(r'\b(?:forced|choose)\("(\w+)"', path.read_text()))
    assert asked == set(VERBS) == set(documented())


def _run() -> None:
    done = mountfd("run", "true")
    raise InvalidSpec(done.stderr)


ASKED: dict[str, Callable[[], object]] = {
    "assemble": assemble.route,
    "loop": _status_is_forced,
    "mount": mount.route,
    "mounts": mounts,
    "namespace": making.route,
    "replace": replace.route,
    "run": _run,
    "watch": watch.route,
}


@pytest.mark.parametrize("verb", VERBS)
def test_routes_that_there_are_not_are_refused_and_those_that_there_are_written_down(
    monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", f"{verb}:nonsense")
    with pytest.raises(InvalidSpec, match="nonsense") as caught:
        ASKED[verb]()
    words = re.findall(r"\w+", re.sub(r"MOUNTFD_ROUTE|nonsense|routes?\b", " ", str(caught.value)))
    assert [word for word in words if word in documented()[verb] and word != verb] == documented()[verb]
