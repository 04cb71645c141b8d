from __future__ import annotations

from pathlib import PurePath
from typing import Any

import pytest

from mountfd import IdMap, InvalidSpec, Layer, Overlay
from mountfd.model.param import Blob, Flag, Param, String

PAIR: dict[str, Any] = {"upper": "/u", "work": "/w"}


class Base:
    """Stands for a held mount: the model only asks for a descriptor."""

    def fileno(self) -> int:
        return 7


def refused(**parts: Any) -> InvalidSpec:
    with pytest.raises(InvalidSpec) as caught:
        Overlay(**parts)
    return caught.value


def test_layers_may_be_given_in_any_form() -> None:
    base = Base()
    overlay = Overlay(["/a", b"/b\xff", PurePath("/c"), Layer("d", base=base), base], **PAIR)
    assert [layer.path for layer in overlay.lower] == ["/a", "/b\udcff", "/c", "d", "."]
    assert [layer.raw for layer in overlay.lower[:2]] == [b"/a", b"/b\xff"]
    assert overlay.lower[4].base is base
    assert (overlay.upper, overlay.work) == (Layer("/u"), Layer("/w"))


def test_an_overlay_is_a_value_and_leaves_its_arguments_alone() -> None:
    lower, options = ["/a", "/b"], [Flag("userxattr")]
    overlay = Overlay(lower, options=options)
    assert (lower, options) == (["/a", "/b"], [Flag("userxattr")])
    assert overlay == Overlay(["/a", "/b"], options=[Flag("userxattr")])
    assert hash(overlay) == hash(Overlay(["/a", "/b"], options=[Flag("userxattr")]))
    assert overlay != Overlay(["/b", "/a"], options=[Flag("userxattr")])
    assert repr(overlay) == "Overlay([Layer('/a'), Layer('/b')], options=(Flag('userxattr'),))"
    with pytest.raises(AttributeError, match="immutable"):
        overlay.lower = ()


def test_without_an_upper_layer_it_is_read_only() -> None:
    assert Overlay(["/a", "/b"]).read_only
    assert not Overlay(["/a"], **PAIR).read_only


@pytest.mark.parametrize("lower", ["/a", b"/a", PurePath("/a"), Base()], ids=repr)
def test_lower_must_be_a_list(lower: object) -> None:
    assert "must be a list" in str(refused(lower=lower, **PAIR))


@pytest.mark.parametrize("layer", [5, None, ["/a"]], ids=repr)
def test_a_layer_must_be_a_path_or_a_mount(layer: object) -> None:
    assert "must be a path, a Layer or a Mount" in str(refused(lower=["/b", layer]))


@pytest.mark.parametrize("path", ["", b"", "/a\0b"], ids=repr)
def test_an_impossible_path_is_named(path: str) -> None:
    assert "empty or has a NUL" in str(refused(lower=["/b", path]))


@pytest.mark.parametrize("path", ["/a", "../a", "a/../b"])
def test_below_a_base_a_path_stays_below_it(path: str) -> None:
    with pytest.raises(InvalidSpec, match="must be relative"):
        Layer(path, base=Base())


def test_the_number_of_layers_has_both_ends() -> None:
    assert "at least one" in str(refused(lower=[], **PAIR))
    assert "'/a'" in str(refused(lower=["/a"]))
    assert "Mount.clone" in str(refused(lower=["/a"]))
    assert len(Overlay([f"/{i}" for i in range(500)]).lower) == 500
    assert "501 lower layers" in str(refused(lower=[f"/{i}" for i in range(501)]))


@pytest.mark.parametrize("again", ["/a/b", "/a//b", "/a/b/", "/a/./b", "//a/b"])
def test_the_same_layer_twice_is_named(again: str) -> None:
    error = refused(lower=["/a/b", "/c", again])
    assert repr(again) in str(error)
    assert error.part == "lower"


def test_layers_that_only_look_alike_are_different() -> None:
    one, other = Base(), Base()
    Overlay(["/a/b", "a/b", "/a/../b", "/a/.b", "/a/bc", Layer("b", base=one), Layer("b", base=other)])
    assert "twice" in str(refused(lower=[Layer("b", base=one), Layer("b", base=one)]))


@pytest.mark.parametrize(
    ("upper", "work", "culprit", "part"),
    [
        ("/u", None, "without work", "work"),
        (None, "/w", "without upper", "upper"),
        ("/u", "/u", "same directory", "work"),
        ("/u", "/u/", "same directory", "work"),
        ("/u", "/u/w", "work '/u/w' lies inside upper '/u'", "work"),
        ("/w/u", "/w", "upper '/w/u' lies inside work '/w'", "upper"),
        (Layer("/u", data_only=True), "/w", "can't be data-only", "upper"),
        ("/u", Layer("/w", data_only=True), "can't be data-only", "work"),
        ("/u", Layer("/w", idmap=IdMap.parse("0:1:1")), "work has the idmap 0:1:1", "work"),
        (Layer("u", base=Base()), "/w", "different bases", "work"),
    ],
)
def test_upper_and_work_belong_together(upper: Any, work: Any, culprit: str, part: str) -> None:
    error = refused(lower=["/a"], upper=upper, work=work)
    assert culprit in str(error)
    assert error.part == part


def test_upper_and_work_whose_names_only_begin_alike_are_fine() -> None:
    Overlay(["/a"], upper="/u", work="/u-work")
    Overlay(["/a"], upper="/u", work="/u/../w")


def test_data_only_layers_go_last_and_not_alone() -> None:
    data = Layer("/d", data_only=True)
    Overlay(["/a", data], **PAIR)
    assert "'/d' is on top" in str(refused(lower=[data, "/a"], **PAIR))
    assert "'/b' comes below" in str(refused(lower=["/a", data, "/b"], **PAIR))


@pytest.mark.parametrize(
    ("option", "culprit"),
    [
        (String("lowerdir", "/a"), "use lower="),
        (String("lowerdir+", "/a"), "use lower="),
        (String("datadir+", "/a"), "data_only=True"),
        (String("upperdir", "/a"), "use upper="),
        (String("workdir", "/a"), "use work="),
        (String("source", "x"), "use source="),
        ("volatile", "write param.Flag('volatile')"),
        ("index=on", "write param.String('index', 'on')"),
        (Blob("index", b"on"), "Blob"),
        (7, "7"),
        (Flag("index"), "'index' needs a value: on, off"),
        (String("index", "yes"), "on, off, not 'yes'"),
        (String("index", b"yes"), "on, off, not 'yes'"),
        (String("redirect_dir", "maybe"), "on, off, follow, nofollow, not 'maybe'"),
        (String("volatile", "1"), "'volatile' takes no value"),
    ],
)
def test_an_option_that_cannot_be_is_named(option: Any, culprit: str) -> None:
    assert culprit in str(refused(lower=["/a"], options=[option], **PAIR))


@pytest.mark.parametrize(
    "options",
    [
        [Flag("userxattr"), String("redirect_dir", "on")],
        [Flag("userxattr"), String("metacopy", "on")],
        [Flag("userxattr"), String("verity", "require")],
        [String("metacopy", "on"), String("redirect_dir", "off")],
        [String("nfs_export", "on"), String("metacopy", "on")],
        [String("index", "off"), String("nfs_export", "on")],
        [String("verity", "require"), String("metacopy", "off")],
        [Flag("ro"), Flag("rw")],
        [Flag("override_creds"), Flag("nooverride_creds")],
        [Flag("volatile"), String("fsync", "strict")],
    ],
    ids=repr,
)
def test_options_that_contradict_each_other_are_both_named(options: list[Param]) -> None:
    text = str(refused(lower=["/a"], options=options, **PAIR))
    assert "contradict" in text
    assert all(option.key in text for option in options)


def test_an_option_given_twice_is_named() -> None:
    assert "'index' is given twice" in str(
        refused(lower=["/a"], options=[String("index", "on"), String("index", "on")], **PAIR)
    )


@pytest.mark.parametrize("option", [Flag("rw"), Flag("volatile"), String("fsync", "volatile"), String("index", "on")])
def test_what_needs_an_upper_layer_says_so(option: Param) -> None:
    error = refused(lower=["/a", "/b"], options=[option])
    assert "needs an upper layer" in str(error)
    assert error.part == option.key


def test_an_option_of_a_newer_kernel_passes() -> None:
    assert Overlay(["/a"], options=[String("future", "x"), Flag("later")], **PAIR).options[0].key == "future"


@pytest.mark.parametrize("source", ["", "x" * 256, "é" * 128, "a\0b", b"bytes", 3], ids=repr)
def test_a_label_has_limits(source: Any) -> None:
    assert refused(lower=["/a"], source=source, **PAIR).part == "source"
