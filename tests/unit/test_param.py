"""Parameters are values of five kinds, none of which turns into another."""

from __future__ import annotations

import copy
import pickle
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountfd.errors import InvalidSpec
from mountfd.model.param import Blob, Fd, Flag, Param, Path, String

ONE_OF_EACH = [
    Flag("ro"),
    String("source", "/dev/sda1"),
    String("source", b"/dev/sda1"),
    Fd("lowerdir+", 7),
    Path("source", "/dev/sda1"),
    Path("source", b"sda1", 5),
    Blob("key", b"\0\1\2"),
]
each = pytest.mark.parametrize("param", ONE_OF_EACH, ids=repr)

keys = st.text(min_size=1, max_size=60).filter(lambda key: "\0" not in key and key.isprintable())


# --- values --------------------------------------------------------------------------------------------------------
@each
def test_a_parameter_shows_how_it_is_made(param: Param) -> None:
    kinds = {kind.__name__: kind for kind in (Flag, String, Fd, Path, Blob)}
    assert eval(repr(param), kinds) == param  # noqa: S307 (its own repr)


@each
def test_a_parameter_survives_pickling_and_copying(param: Param) -> None:
    for again in (pickle.loads(pickle.dumps(param)), copy.copy(param), copy.deepcopy(param)):
        assert again == param
        assert type(again) is type(param)
        assert hash(again) == hash(param)


@each
def test_a_parameter_never_changes(param: Param) -> None:
    names = [name for kind in type(param).__mro__ for name in vars(kind).get("__slots__", ())]
    assert "key" in names
    for name in [*names, "new"]:
        with pytest.raises(AttributeError, match="immutable"):
            setattr(param, name, "other")
        with pytest.raises(AttributeError, match="immutable"):
            delattr(param, name)


def test_parameters_differ_by_kind_key_and_value() -> None:
    assert len({*ONE_OF_EACH, *map(copy.copy, ONE_OF_EACH)}) == len(ONE_OF_EACH)
    assert Flag("a") != Flag("b")
    assert String("a", "1") != String("a", "2")
    assert Flag("a") != "a"
    assert Fd("a", 1) != Path("a", "1")


@pytest.mark.parametrize("kind", [Flag, String, Fd, Path, Blob])
def test_the_kinds_are_final(kind: type[Param]) -> None:
    with pytest.raises(TypeError, match=f"{kind.__name__} can't be subclassed"):
        type("Other", (kind,), {})


@given(keys, st.text().filter(lambda text: "\0" not in text))
def test_any_text_is_kept_as_it_is(key: str, value: str) -> None:
    param = String(key, value)
    assert (param.key, param.value) == (key, value)


# --- keys ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("key", ["", "a\0b", "k" * 256, "\N{EURO SIGN}" * 86, None, 1, b"ro"], ids=ascii)
def test_a_key_has_1_to_255_bytes_of_text(key: object) -> None:
    for make in (lambda: Flag(key), lambda: String(key, "x"), lambda: Fd(key, 1), lambda: Blob(key, b"")):  # type: ignore[arg-type]
        with pytest.raises(InvalidSpec, match="key") as caught:
            make()
        assert caught.value.part == "key"


def test_the_longest_key_is_fine() -> None:
    assert Flag("k" * 255).key == "k" * 255


# --- values of the wrong kind --------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", [1, True, None, 1.5, bytearray(b"x"), PurePosixPath("/x")], ids=repr)
def test_a_string_takes_only_text(value: object) -> None:
    with pytest.raises(InvalidSpec, match=r"the value of 'size' must be str or bytes, not ") as caught:
        String("size", value)  # type: ignore[arg-type]
    assert caught.value.part == "size"


@pytest.mark.parametrize("value", ["a\0b", b"a\0b"])
def test_a_string_holds_no_nul(value: str | bytes) -> None:
    with pytest.raises(InvalidSpec, match="'size' has a NUL"):
        String("size", value)


def test_a_long_string_is_a_value_like_any_other() -> None:
    # fsconfig(2) carries 255 bytes, mount(2) more: who hands it over looks at that.
    assert String("lowerdir", "/a:" * 1000).value == "/a:" * 1000


@pytest.mark.parametrize("fd", [True, False, None, "3", 3.0, -1, 2**31], ids=repr)
def test_a_descriptor_is_a_number_and_no_bool(fd: object) -> None:
    with pytest.raises(InvalidSpec, match="the fd of 'lowerdir\\+'"):
        Fd("lowerdir+", fd)  # type: ignore[arg-type]
    if fd is not None:
        with pytest.raises(InvalidSpec, match="the dir_fd of 'source'"):
            Path("source", "x", fd)  # type: ignore[arg-type]


def test_a_path_is_kept_as_it_is() -> None:
    assert Path("source", PurePosixPath("/a/b")) == Path("source", PurePosixPath("/a/b"))
    assert Path("source", b"/a/\xff").path == b"/a/\xff"
    assert Path("source", "a", 0).dir_fd == 0


@pytest.mark.parametrize("path", ["", b"", "a\0b", b"a\0b", None, 3], ids=repr)
def test_a_path_is_a_path(path: object) -> None:
    with pytest.raises(InvalidSpec, match="'source'") as caught:
        Path("source", path)  # type: ignore[arg-type]
    assert caught.value.part == "source"


@pytest.mark.parametrize(
    "data", ["text", bytearray(b"x"), memoryview(b"x"), None, 3], ids=lambda data: type(data).__name__
)
def test_a_blob_is_bytes(data: object) -> None:
    with pytest.raises(InvalidSpec, match="the data of 'key' must be bytes"):
        Blob("key", data)  # type: ignore[arg-type]
