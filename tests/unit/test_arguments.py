from __future__ import annotations

import pytest

from mountfd.cli.arguments import Arguments, Option, Spec, UsageError, parse

SPEC = Spec(
    "sample",
    "Do something.",
    "SOURCE [TARGET]",
    [
        Option("-t --type", "a type", metavar="TYPE"),
        Option("--layer", "a layer", metavar="DIR", many=True),
        Option("-m --make-it", "a switch"),
    ],
)
RUNS = Spec("sample", "Run something.", "CMD...", [Option("--layer", "a layer", metavar="DIR", many=True)])


def read(*words: str) -> Arguments:
    return parse(SPEC, words)


def test_options_and_operands_may_be_mixed() -> None:
    found = read("a", "-t", "ext4", "b", "-m")
    assert found.operands == ["a", "b"]
    assert found.text("type") == "ext4"
    assert found.on("make_it")


def test_a_value_may_follow_an_equals_sign_and_be_empty() -> None:
    assert read("--type=ext4=x", "a").text("type") == "ext4=x"
    assert read("--type=", "a").text("type") == ""
    assert read("--type", "", "a").text("type") == ""


def test_a_value_may_look_like_an_option() -> None:
    assert read("--type", "--layer", "a").text("type") == "--layer"


def test_what_may_come_often_is_kept_in_order() -> None:
    assert read("--layer", "x", "a", "--layer=y").texts("layer") == ["x", "y"]
    assert read("a").texts("layer") == []


def test_two_dashes_end_the_options() -> None:
    assert read("--", "-t", "--").operands == ["-t", "--"]


def test_one_dash_is_an_operand() -> None:
    assert read("-").operands == ["-"]


def test_a_command_line_is_taken_as_it_is() -> None:
    found = parse(RUNS, ["--layer", "x", "sh", "-c", "--layer", "--", "y"])
    assert found.operands == ["sh", "-c", "--layer", "--", "y"]
    assert parse(RUNS, ["--", "sh", "--", "x"]).operands == ["sh", "--", "x"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--nope", "a"], "'--nope'"),
        (["-x", "a"], "'-x'"),
        (["--type"], "TYPE"),
        (["-m=1", "a"], "no option"),
        (["--make-it=1", "a"], "takes no value"),
        (["-t", "x", "-t", "y", "a"], "twice"),
        ([], "SOURCE is missing"),
        (["a", "b", "c"], "'c'"),
    ],
)
def test_mistakes_are_named(words: list[str], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        read(*words)


def test_help_needs_no_operands() -> None:
    assert read("--help").on("help")
    assert read("-h").on("help")


def test_help_tells_every_option() -> None:
    text = SPEC.help_text()
    for word in ("-t, --type TYPE", "--layer DIR", "-m, --make-it", "--trace", "-h, --help", "usage: mountfd sample"):
        assert word in text
