"""Layers as text: what separates them, what protects, and what becomes of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountfd import IdMap, InvalidSpec, Layer, Overlay, param
from mountfd.model.overlay_text import escape, overlay_of, unescape


def of(**words: str) -> Overlay:
    return overlay_of([param.String(key, value) for key, value in words.items()], None, None)


def lower(text: str) -> list[str]:
    return [layer.path for layer in of(lowerdir=text, upperdir="/u", workdir="/w").lower]


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("/a", ["/a"]),
        ("/a:/b", ["/a", "/b"]),
        (r"/a\:b:/c", ["/a:b", "/c"]),
        (r"/a\\:/b", ["/a\\", "/b"]),
        (r"/a\,b", ["/a,b"]),
        ("/a,b", ["/a,b"]),
        ("/with space:/new\nline", ["/with space", "/new\nline"]),
        ("/a\\", ["/a\\"]),
        ("relative:./two", ["relative", "./two"]),
        ("/\udcff", ["/\udcff"]),
    ],
)
def test_colons_separate_and_backslashes_protect(text: str, paths: list[str]) -> None:
    assert lower(text) == paths


def test_two_colons_begin_the_layers_of_data_alone() -> None:
    found = of(lowerdir="/a:/b::/c::/d").lower
    assert found == (Layer("/a"), Layer("/b"), Layer("/c", data_only=True), Layer("/d", data_only=True))


@pytest.mark.parametrize("text", [":/a", "/a:", "::/a", "/a::/b:/c", "/a:::/b"])
def test_what_is_no_list_of_layers(text: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        of(lowerdir=text)
    assert caught.value.part == "lowerdir"


def test_of_several_lists_the_last_one_counts() -> None:
    params = [param.String("lowerdir", "/a:/b"), param.String("lowerdir", "/c:/d")]
    assert [layer.path for layer in overlay_of(params, None, None).lower] == ["/c", "/d"]


def test_layers_one_by_one_are_raw() -> None:
    params = [
        param.String("lowerdir+", r"/a\:b"),
        param.String("lowerdir+", "/c:d,e"),
        param.String("datadir+", "/f"),
    ]
    found = overlay_of(params, None, None).lower
    assert found == (Layer(r"/a\:b"), Layer("/c:d,e"), Layer("/f", data_only=True))


def test_upper_and_work_know_the_backslash() -> None:
    overlay = of(lowerdir="/l", upperdir=r"/u\,1\:2\\3", workdir="/w,1:2")
    assert overlay.upper == Layer(r"/u,1:2\3")
    assert overlay.work == Layer("/w,1:2")


def test_the_rest_is_overlayfss_own() -> None:
    params = [param.Flag("userxattr"), param.String("lowerdir", "/a:/b"), param.String("xino", "off")]
    overlay = overlay_of(params, IdMap.parse("0:1:1"), "label")
    assert overlay.options == (param.Flag("userxattr"), param.String("xino", "off"))
    assert overlay.idmap == IdMap.parse("0:1:1")
    assert overlay.source == "label"


def test_bytes_are_paths_too() -> None:
    assert overlay_of([param.String("lowerdir", b"/a\xff:/b")], None, None).lower[0].raw == b"/a\xff"


@pytest.mark.parametrize("source", [None, "", "none", "é" * 200])
def test_a_label_that_says_nothing_or_is_too_long_is_left_out(source: str | None) -> None:
    assert overlay_of([param.String("lowerdir", "/a:/b")], None, source).source is None


@pytest.mark.parametrize("key", ["lowerdir", "lowerdir+", "datadir+", "upperdir", "workdir"])
@pytest.mark.parametrize("kind", [param.Flag, lambda key: param.String(key, "")])
def test_a_layer_without_a_path(key: str, kind: type[param.Flag]) -> None:
    with pytest.raises(InvalidSpec, match="needs a path") as caught:
        overlay_of([kind(key)], None, None)
    assert caught.value.part == key


PATHS = st.text(st.sampled_from("ab:\\, /\n\udcff"), min_size=1)


@given(st.lists(PATHS, min_size=1, max_size=5))
def test_escaped_paths_come_back_as_they_were(names: list[str]) -> None:
    paths = [f"/{number}{name}" for number, name in enumerate(names)]
    assert lower(":".join(escape(path) for path in paths)) == paths


@given(PATHS)
def test_unescape_undoes_escape(path: str) -> None:
    assert unescape(escape(path)) == path


def test_what_only_an_upper_layer_can_have_is_left_out_without_one() -> None:
    words = [param.String("index", "on"), param.Flag("volatile"), param.String("fsync", "volatile"), param.Flag("rw")]
    layers = [param.String("lowerdir", "/a:/b")]
    assert overlay_of([*words, *layers, param.String("xino", "off")], None, None).options == (
        param.String("xino", "off"),
    )
    upper = [param.String("upperdir", "/u"), param.String("workdir", "/w")]
    assert overlay_of([*words[:2], *layers, *upper], None, None).options == tuple(words[:2])
