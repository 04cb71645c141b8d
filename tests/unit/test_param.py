from __future__ import annotations

import pickle
from pathlib import PurePath
from typing import Any

import pytest

from mountfd import InvalidSpec
from mountfd.model.param import Blob, Fd, Flag, Param, Path, String

ONE_OF_EACH: list[Param] = [
    Flag("ro"),
    String("source", "/dev/loop0"),
    String("source", b"\xff"),
    Fd("source", 3),
    Path("source", "/dev/loop0"),
    Path("source", b"loop0", 4),
    Blob("data", b"\0\1"),
]


@pytest.mark.parametrize("param", ONE_OF_EACH, ids=repr)
def test_a_parameter_is_a_value(param: Param) -> None:
    again = pickle.loads(pickle.dumps(param))
    assert again == param
    assert hash(again) == hash(param)
    assert repr(again) == repr(param)
    with pytest.raises(AttributeError, match="immutable"):
        param.key = "other"
    with pytest.raises(AttributeError, match="immutable"):
        del param.key


def test_parameters_of_different_kinds_are_never_equal() -> None:
    assert Flag("a") != String("a", "")
    assert String("a", "b") != String("a", b"b")
    assert Path("a", "b") != String("a", "b")
    assert len({*ONE_OF_EACH}) == len(ONE_OF_EACH)


@pytest.mark.parametrize(
    ("kind", "arguments", "culprit"),
    [
        (Flag, ("",), "''"),
        (Flag, ("a\0b",), "NUL"),
        (Flag, ("k" * 256,), "255"),
        (Flag, (b"ro",), "str"),
        (String, ("size", 1), "'size'"),
        (String, ("size", None), "'size'"),
        (String, ("size", "1\0"), "'size'"),
        (String, ("size", b"1\0"), "'size'"),
        (String, ("size", PurePath("/x")), "'size'"),
        (Fd, ("source", "3"), "'source'"),
        (Fd, ("source", True), "'source'"),
        (Fd, ("source", -1), "'source'"),
        (Path, ("source", 3), "'source'"),
        (Path, ("source", "a\0b"), "'source'"),
        (Path, ("source", "a", "b"), "dir_fd"),
        (Blob, ("data", "text"), "'data'"),
    ],
)
def test_no_kind_is_coerced_into_another(kind: Any, arguments: tuple[object, ...], culprit: str) -> None:
    with pytest.raises(InvalidSpec, match=culprit) as caught:
        kind(*arguments)
    assert caught.value.part


def test_a_string_may_be_longer_than_fsconfig_takes() -> None:
    assert len(String("lowerdir", "x" * 5000).value) == 5000


def test_a_path_may_be_any_path() -> None:
    assert Path("source", PurePath("/a")).path == PurePath("/a")
