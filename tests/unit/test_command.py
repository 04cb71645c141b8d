from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountfd import IdMap, InvalidSpec, run
from mountfd.model.command import DEFAULT_IDMAP, Bind, Command

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


def test_a_bind_shows_the_source_at_its_own_place() -> None:
    bind = Bind.parse("/srv/data")
    assert (bind.source, bind.target, bind.read_only) == ("/srv/data", "/srv/data", False)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("/a:/b", ("/a", "/b", False)),
        ("/a:/b:ro", ("/a", "/b", True)),
        ("/a:/b:rw", ("/a", "/b", False)),
        ("/a::ro", ("/a", "/a", True)),
        (r"/a\:b:/c\\d", ("/a:b", "/c\\d", False)),
        (r"/a\b", (r"/a\b", r"/a\b", False)),
        ("/a\\", ("/a\\", "/a\\", False)),
    ],
)
def test_binds_are_read(text: str, parts: tuple[str, str, bool]) -> None:
    bind = Bind.parse(text)
    assert (bind.source, bind.target, bind.read_only) == parts


@pytest.mark.parametrize("text", ["", ":/b", "/a:b", "/a:/b:rx", "/a:/b:ro:x", "/a\0", "/a:/b\0"])
def test_binds_that_say_nothing_are_refused(text: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        Bind.parse(text)
    assert caught.value.part == "bind"


@given(WORDS, WORDS)
def test_any_path_can_be_written_as_a_bind(source: str, target: str) -> None:
    def escaped(path: str) -> str:
        return path.replace("\\", "\\\\").replace(":", "\\:")

    bind = Bind.parse(f"{escaped('/' + source)}:{escaped('/' + target)}:ro")
    assert (bind.source, bind.target, bind.read_only) == ("/" + source, "/" + target, True)


def test_a_relative_source_is_meant_from_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Bind.parse("x").target == str(tmp_path / "x")
    # Not normalized: a symlink before `..` leads elsewhere.
    assert Bind.parse("x/../y").source == str(tmp_path) + "/x/../y"


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ({"argv": []}, "argv"),
        ({"argv": "ls"}, "argv"),
        ({"argv": ["a\0b"]}, "argv"),
        ({"upper": "/u"}, "upper"),
        ({"work": "/w"}, "upper"),
        ({"upper": "", "work": ""}, "upper"),
        ({"net": "bridge"}, "net"),
        ({"hostname": ""}, "hostname"),
        ({"hostname": "x" * 65}, "hostname"),
        ({"chdir": "here"}, "chdir"),
        ({"tmpfs": ["here"]}, "tmpfs"),
        ({"tmpfs": ["/a\0"]}, "tmpfs"),
        ({"env": {"A=B": "c"}}, "env"),
        ({"env": {"": "c"}}, "env"),
        ({"env": {"A": "\0"}}, "env"),
        ({"idmap": IdMap.parse("1:100000:10")}, "idmap"),
        ({"idmap": "0:0:1"}, "idmap"),
        ({"argv": [""]}, "program"),
        ({"argv": [b"ls"]}, "argv"),
        ({"argv": ["a\ud800"]}, "argv"),
        ({"argv": 5}, "argv"),
        ({"env": {"A": 1}}, "env"),
        ({"env": {b"A": "1"}}, "env"),
        ({"env": {"A": "\ud800"}}, "env"),
        ({"env": ["A=1"]}, "env"),
        ({"hostname": "a\0b"}, "hostname"),
        ({"hostname": 5}, "hostname"),
        ({"layers": "/a"}, "layers"),
        ({"layers": [None]}, "layers"),
        ({"binds": ["/a"]}, "binds"),
        ({"binds": Bind("/a")}, "binds"),
        ({"tmpfs": "/a"}, "tmpfs"),
        ({"tmpfs": [5]}, "tmpfs"),
        ({"tmpfs": ["/"]}, "tmpfs"),
        ({"tmpfs": ["/./.."]}, "tmpfs"),
        ({"upper": 1, "work": 2}, "upper"),
        ({"chdir": 5}, "chdir"),
    ],
)
def test_what_contradicts_itself_is_refused(wrong: dict[str, object], part: str) -> None:
    arguments = {"argv": ["true"], **wrong}
    with pytest.raises(InvalidSpec) as caught:
        Command(arguments.pop("argv"), **arguments)  # type: ignore[arg-type]
    assert caught.value.part == part


@pytest.mark.parametrize(("source", "target"), [("/", None), ("/a", "/"), ("/a", "//."), (5, "/a"), ("/a", 5)])
def test_a_bind_is_of_a_path_and_not_at_the_root(source: str, target: str | None) -> None:
    with pytest.raises(InvalidSpec) as caught:
        Bind(source, target)
    assert caught.value.part == "bind"


def test_bytes_that_are_no_utf8_are_words_too() -> None:
    assert Command(["a\udc80"], env={"A": "\udc80"}).argv == ["a\udc80"]


def test_a_root_that_is_no_mount_is_refused() -> None:
    with pytest.raises(InvalidSpec) as caught:
        run(["true"], root="/")  # type: ignore[arg-type]
    assert caught.value.part == "root"


def test_the_environment_is_the_callers_unless_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEEN", "yes")
    assert Command(["true"]).env["SEEN"] == "yes"
    assert Command(["true"], env={"A": "b"}).env == {"A": "b"}


def test_changing_a_commands_environment_leaves_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEEN", "yes")
    Command(["true"]).env["SEEN"] = "no"
    assert os.environ["SEEN"] == "yes"


def test_root_is_nobody_outside_by_default() -> None:
    assert DEFAULT_IDMAP.to_host(0, "uid") not in (None, 0)
    assert Command(["true"]).idmap == DEFAULT_IDMAP
