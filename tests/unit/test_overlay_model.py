"""An overlay is described whole and without contradiction, or not at all."""

from __future__ import annotations

import copy
import os
import pickle
import posixpath
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountfd.errors import InvalidSpec
from mountfd.model.idmap import IdMap
from mountfd.model.overlay import Layer, Overlay
from mountfd.model.param import Blob, Fd, Flag, Param, Path, String

IDMAP = IdMap.parse("0:100000:65536")
OTHER_IDMAP = IdMap.parse("0:200000:65536")
TWO = ["/l1", "/l2"]
PAIR: dict[str, Any] = {"upper": "/s/upper", "work": "/s/work"}


class Held:
    """Something with a descriptor, as a Mount is."""

    def fileno(self) -> int:
        return 3


def refused(*args: object, match: str, part: str, **kwargs: object) -> None:
    """Expect that an overlay is refused, in words that name the culprit."""
    with pytest.raises(InvalidSpec, match=match) as caught:
        Overlay(*args, **kwargs)  # type: ignore[arg-type]
    assert caught.value.part == part


# --- layers --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", ["/a/b", b"/a/b", PurePosixPath("/a/b")], ids=repr)
def test_a_path_is_kept_as_text_and_as_bytes(path: str | bytes) -> None:
    assert (Layer(path).path, Layer(path).raw) == ("/a/b", b"/a/b")


@given(st.binary(min_size=1).filter(lambda raw: b"\0" not in raw))
def test_every_path_of_the_kernel_is_a_path(raw: bytes) -> None:
    layer = Layer(raw)
    assert (layer.raw, layer.path) == (raw, os.fsdecode(raw))
    assert Layer(layer.path) == layer
    assert Overlay([layer.path], "/some/where/upper", "/some/where/work").lower[0].raw == raw


@pytest.mark.parametrize("path", ["", b"", "/a\0b", b"/a\0b", "/\ud800"], ids=ascii)
def test_an_impossible_path_is_no_layer(path: str | bytes) -> None:
    with pytest.raises(InvalidSpec, match="the layer ") as caught:
        Layer(path)
    assert caught.value.part == "layer"
    refused([path, "/b"], match="the layer ", part="layer")
    refused(["/a"], path, "/w", match="the layer ", part="layer")


@pytest.mark.parametrize("path", [None, 3, ["/a"], object()], ids=lambda path: type(path).__name__)
def test_a_layer_is_a_path_or_a_mount(path: object) -> None:
    with pytest.raises(InvalidSpec, match="must be a path, a Layer or a Mount"):
        Layer(path)  # type: ignore[arg-type]
    refused(["/a", path], match="must be a path, a Layer or a Mount", part="layer")


@pytest.mark.parametrize("path", ["/a", "../a", "a/../b", "a/.."])
def test_a_path_below_a_base_stays_below_it(path: str) -> None:
    with pytest.raises(InvalidSpec, match="has a base, so it must be relative") as caught:
        Layer(path, base=Held())
    assert caught.value.part == "layer"
    assert repr(path) in str(caught.value)


def test_a_path_below_a_base_may_have_dots_in_its_names() -> None:
    assert Layer("..a/b..", base=Held()).path == "..a/b.."


def test_without_a_base_a_path_may_be_anything() -> None:
    assert Overlay(["a", "../a", "/a/../b"]).lower[1].path == "../a"


def test_a_base_is_something_with_a_descriptor() -> None:
    with pytest.raises(InvalidSpec, match="must be a path, a Layer or a Mount, not '/mnt'") as caught:
        Layer("a", base="/mnt")  # type: ignore[arg-type]
    assert caught.value.part == "layer"


def test_an_idmap_is_no_text() -> None:
    with pytest.raises(InvalidSpec, match="must be an IdMap") as caught:
        Layer("/a", "0:1:1")  # type: ignore[arg-type]
    assert caught.value.part == "idmap"
    refused(TWO, idmap="0:1:1", match="must be an IdMap", part="idmap")


def test_layers_are_values() -> None:
    base = Held()
    assert Layer("a", IDMAP, base=base) == Layer(b"a", IDMAP, base=base)
    assert hash(Layer("a", IDMAP, base=base)) == hash(Layer("a", IDMAP, base=base))
    different = [Layer("a"), Layer("b"), Layer("a", IDMAP), Layer("a", data_only=True), Layer("a", base=base)]
    assert len({*different, Layer("a", base=Held())}) == len(different) + 1
    assert repr(Layer("a", data_only=True)) == "Layer('a', data_only=True)"


# --- overlays ------------------------------------------------------------------------------------------------------
def test_the_parts_are_layers_topmost_first() -> None:
    mount = Held()
    layer = Layer("12/fs", base=mount)
    overlay = Overlay([mount, "/srv/base", layer, PurePosixPath("/x")], b"/s/u", Layer("/s/w"), IDMAP)
    assert overlay.lower == (Layer(".", base=mount), Layer("/srv/base"), layer, Layer("/x"))
    assert overlay.lower[2] is layer
    assert (overlay.upper, overlay.work) == (Layer("/s/u"), Layer("/s/w"))
    assert (overlay.idmap, overlay.options, overlay.source) == (IDMAP, (), None)


def test_any_iterable_will_do_and_is_left_alone() -> None:
    lower, options = list(TWO), [Flag("ro")]
    overlay = Overlay(lower, options=options)
    assert Overlay(iter(TWO), options=(option for option in options)) == overlay
    assert lower == TWO
    assert options == [Flag("ro")]
    lower.append("/l3")
    options.append(Flag("volatile"))
    assert (len(overlay.lower), len(overlay.options)) == (2, 1)


def test_read_only_is_what_has_no_upper_layer() -> None:
    assert Overlay(TWO).read_only
    assert not Overlay(TWO, **PAIR).read_only
    assert not Overlay(TWO, **PAIR, options=[Flag("ro")]).read_only


def test_overlays_are_values() -> None:
    one = Overlay(TWO, **PAIR, idmap=IDMAP, options=[Flag("volatile")], source="label")
    for again in (eval(repr(one)), copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):  # noqa: S307
        assert again == one
        assert hash(again) == hash(one)
    for different in ({"lower": ["/l2", "/l1"]}, {"idmap": None}, {"options": ()}, {"source": "other"}):
        parts: dict[str, Any] = {"lower": TWO, **PAIR, "idmap": IDMAP, "options": one.options, "source": "label"}
        assert Overlay(**{**parts, **different}) != one


def test_nothing_changes_afterwards() -> None:
    value = Overlay(TWO)
    for name in (*Overlay.__slots__, "new"):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(value, name, None)
        with pytest.raises(AttributeError, match="immutable"):
            delattr(value, name)


@pytest.mark.parametrize(
    "lower",
    ["/a", b"/a", PurePosixPath("/a"), Layer("/a"), Held(), {"/a", "/b"}, frozenset(TWO), None, 5],
    ids=lambda lower: type(lower).__name__,
)
def test_lower_is_a_list(lower: object) -> None:
    refused(lower, **PAIR, match="lower must be a list", part="lower")


# --- how many ------------------------------------------------------------------------------------------------------
def test_there_is_a_lower_layer() -> None:
    refused([], **PAIR, match="at least one lower layer", part="lower")
    refused([], match="at least one lower layer", part="lower")


def test_one_directory_alone_needs_no_overlay() -> None:
    refused(["/only"], match=r"one lower layer \('/only'\) and no upper.*Mount\.clone", part="lower")
    assert Overlay(["/only"], **PAIR).regular == (Layer("/only"),)
    # A layer of data below it counts: the kernel takes those two.
    assert len(Overlay(["/only", Layer("/data", data_only=True)]).lower) == 2


def test_there_are_at_most_500_layers() -> None:
    paths: list[Any] = [f"/layers/{number}" for number in range(500)]
    assert len(Overlay(paths, **PAIR).lower) == 500
    refused([*paths, "/one"], match="501 lower layers: overlayfs takes 500", part="lower")
    refused([*paths, Layer("/d", data_only=True)], match="501 lower layers", part="lower")


# --- the same directory twice --------------------------------------------------------------------------------------
@pytest.mark.parametrize("again", ["/a/b", "/a//b", "//a/b", "/a/b/", "/a/./b", "/./a/b", "/a/b/."])
def test_a_lower_layer_is_given_once(again: str) -> None:
    refused(["/a/b", "/c", again], match=f"the layer '{again}' is given twice", part="lower")
    refused(["/a/b", Layer(again, data_only=True)], match="given twice", part="lower")
    refused(["/a/b", Layer(again, IDMAP)], match="given twice", part="lower")


@pytest.mark.parametrize(("one", "again"), [("a", "./a"), ("a/b", "a//b"), (".", "./"), ("./a", "a/")])
def test_so_is_a_relative_one(one: str, again: str) -> None:
    base = Held()
    refused([one, again], match="given twice", part="lower")
    refused([Layer(one, base=base), Layer(again, base=base)], match="given twice", part="lower")


def test_a_mount_is_given_once() -> None:
    mount = Held()
    refused([mount, mount], match="given twice", part="lower")


def test_the_same_name_in_two_places_is_two_layers() -> None:
    one, other = Held(), Held()
    assert len(Overlay([one, other]).lower) == 2
    assert len(Overlay([Layer("a", base=one), Layer("a", base=other), "a", "/a"]).lower) == 4


def test_dots_that_only_the_kernel_can_follow_are_left_to_it() -> None:
    assert len(Overlay(["/a", "/b/../a"]).lower) == 2


@given(st.lists(st.text(alphabet="ab./", min_size=1, max_size=5), min_size=2, max_size=5))
def test_only_the_same_directory_is_the_same(paths: list[str]) -> None:
    def plain(path: str) -> str:
        # normpath also takes `..` apart, which these leave alone, and keeps two leading slashes.
        return posixpath.normpath("/" * path.startswith("/") + path.lstrip("/").replace("..", "up") or "/")

    twice = len({plain(path) for path in paths}) < len(paths)
    if twice:
        refused(paths, match="given twice", part="lower")
    else:
        assert [layer.path for layer in Overlay(paths).lower] == paths


# --- upper and work ------------------------------------------------------------------------------------------------
def test_upper_and_work_go_together() -> None:
    refused(TWO, upper="/u", match="upper '/u' is given without work", part="work")
    refused(TWO, work="/w", match="work '/w' is given without upper", part="upper")


@pytest.mark.parametrize(("upper", "work"), [("/s/u", "/s/u"), ("/s/u", "/s//u"), ("/s/u/", "/s/./u"), ("u", "./u")])
def test_upper_and_work_are_two_directories(upper: str, work: str) -> None:
    refused(TWO, upper, work, match="are the same directory", part="work")


@pytest.mark.parametrize(
    ("outer", "inner"), [("/s", "/s/w"), ("/s/", "/s//w/x"), ("/", "/w"), ("s", "s/w"), (".", "w"), ("s/.", "./s/w")]
)
def test_neither_of_upper_and_work_lies_inside_the_other(outer: str, inner: str) -> None:
    refused(TWO, outer, inner, match=f"work '{inner}' lies inside upper '{outer}'", part="work")
    refused(TWO, inner, outer, match=f"upper '{inner}' lies inside work '{outer}'", part="upper")


def test_work_does_not_lie_inside_a_mount_that_is_upper() -> None:
    mount = Held()
    refused(TWO, mount, Layer("w", base=mount), match=r"work 'w' lies inside upper '\.'", part="work")


@pytest.mark.parametrize(("upper", "work"), [("/s/a", "/s/ab"), ("/s/u", "/s/u/../w"), ("/s/u", "s/u/w")])
def test_what_only_looks_like_inside_is_fine(upper: str, work: str) -> None:
    assert Overlay(TWO, upper, work).work == Layer(work)


def test_upper_and_work_have_one_base() -> None:
    one, other = Held(), Held()
    for upper, work in (
        (Layer("u", base=one), Layer("w", base=other)),
        (Layer("u", base=one), Layer("w")),
        (Layer("/u"), Layer("w", base=one)),
    ):
        refused(TWO, upper, work, match="upper and work have different bases", part="work")
    assert Overlay(TWO, Layer("u", base=one), Layer("w", base=one)).upper == Layer("u", base=one)


def test_upper_and_work_take_changes() -> None:
    data = Layer("/d", data_only=True)
    refused(TWO, data, "/w", match="upper '/d' can't be data-only", part="upper")
    refused(TWO, "/u", data, match="work '/d' can't be data-only", part="work")


def test_work_has_the_idmap_of_upper() -> None:
    upper = Layer("/s/u", IDMAP)
    refused(TWO, upper, Layer("/s/w", OTHER_IDMAP), match=f"work has the idmap {OTHER_IDMAP}", part="work")
    refused(TWO, "/s/u", Layer("/s/w", IDMAP), match=f"work has the idmap {IDMAP}, upper has None", part="work")
    assert Overlay(TWO, upper, "/s/w").work == Layer("/s/w")
    assert Overlay(TWO, upper, Layer("/s/w", IdMap(IDMAP.uid))).upper == upper


def test_upper_may_lie_inside_a_lower_layer() -> None:
    assert Overlay(["/"], **PAIR).lower == (Layer("/"),)


# --- data-only layers ----------------------------------------------------------------------------------------------
def test_data_only_layers_are_told_apart() -> None:
    data = [Layer("/d1", data_only=True), Layer("/d2", data_only=True)]
    overlay = Overlay([*TWO, *data], **PAIR)
    assert overlay.regular == (Layer("/l1"), Layer("/l2"))
    assert overlay.data_only == tuple(data)


def test_data_only_layers_come_last() -> None:
    data = Layer("/d", data_only=True)
    refused(["/l1", data, "/l2"], match="the layer '/l2' comes below a data-only layer", part="lower")
    refused([data, "/l1"], match="the data-only layer '/d' is on top", part="lower")
    refused([data], **PAIR, match="the data-only layer '/d' is on top", part="lower")


# --- options -------------------------------------------------------------------------------------------------------
WORDS = {
    "redirect_dir": {"on", "off", "follow", "nofollow"},
    "index": {"on", "off"},
    "xino": {"on", "off", "auto"},
    "metacopy": {"on", "off"},
    "nfs_export": {"on", "off"},
    "uuid": {"on", "off", "null", "auto"},
    "verity": {"on", "off", "require"},
    "fsync": {"volatile", "auto", "strict"},
}
FLAGS = ["userxattr", "volatile", "default_permissions", "override_creds", "nooverride_creds", "ro", "rw"]


def option(text: str) -> Param:
    """Make a parameter of an option as it is written in words."""
    key, equals, value = text.partition("=")
    return String(key, value) if equals else Flag(key)


def options(text: str) -> list[Param]:
    """Make parameters of several options."""
    return [option(word) for word in text.split()]


@pytest.mark.parametrize("text", [*FLAGS, *(f"{key}={value}" for key, values in WORDS.items() for value in values)])
def test_every_option_of_the_kernel_is_known(text: str) -> None:
    assert Overlay(TWO, **PAIR, options=options(text)).options == (option(text),)
    key, equals, value = text.partition("=")
    if equals:
        assert Overlay(TWO, **PAIR, options=[String(key, value.encode())]).options[0].key == key


@pytest.mark.parametrize("key", WORDS)
def test_a_value_is_one_that_the_kernel_knows(key: str) -> None:
    for value in ("maybe", "", "ON", b"maybe"):
        refused(TWO, **PAIR, options=[String(key, value)], match=f"{key} is one of", part=key)
    refused(TWO, **PAIR, options=[Flag(key)], match=f"the option '{key}' needs a value", part=key)


@pytest.mark.parametrize("key", FLAGS)
def test_a_flag_has_no_value(key: str) -> None:
    refused(TWO, **PAIR, options=[String(key, "on")], match=rf"takes no value: use param\.Flag\('{key}'\)", part=key)


@pytest.mark.parametrize("text", ["new_option", "new_option=anything", "nouserxattr"])
def test_what_a_newer_kernel_may_know_passes(text: str) -> None:
    assert Overlay(TWO, options=options(text)).options == (option(text),)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("lowerdir", "lower="),
        ("lowerdir+", "lower="),
        ("datadir+", "data_only=True"),
        ("upperdir", "upper="),
        ("workdir", "work="),
        ("source", "source="),
    ],
)
def test_layers_and_source_are_no_options(key: str, hint: str) -> None:
    for given_option in (String(key, "/x"), Flag(key)):
        refused(TWO, options=[given_option], match=f"use .*{hint}", part=key)


@pytest.mark.parametrize(
    ("word", "hint"),
    [("volatile", r"param\.Flag\('volatile'\)"), ("index=on", r"param\.String\('index', 'on'\)")],
)
def test_words_are_no_options(word: str, hint: str) -> None:
    refused(TWO, options=[word], match=hint, part=word)
    refused(TWO, options=word, match="options must be a list", part="options")


@pytest.mark.parametrize("given_option", [Fd("x", 3), Path("x", "/x"), Blob("x", b""), 5, None], ids=repr)
def test_options_are_flags_and_strings(given_option: object) -> None:
    refused(TWO, options=[given_option], match=r"options are param\.Flag or param\.String", part="options")


def test_options_are_a_list() -> None:
    refused(TWO, options=Flag("ro"), match="options must be a list", part="options")
    refused(TWO, options=None, match="options must be a list", part="options")


def test_a_key_is_one_key() -> None:
    refused(TWO, options=[Flag("index=on")], match=r"param\.String\('index', 'on'\)", part="index=on")
    refused(TWO, options=[Flag("ro,upperdir=/x")], match="one parameter for each option", part="ro,upperdir=/x")
    refused(TWO, options=[String("xino=on,index", "on")], match="holds more than a key", part="xino=on,index")


@pytest.mark.parametrize(
    "text", ["index=on index=on", "index=on index=off", "volatile volatile", "new=1 new=2", "new new=1"]
)
def test_an_option_is_given_once(text: str) -> None:
    refused(TWO, **PAIR, options=options(text), match="given twice", part=options(text)[0].key)


# --- contradictions ------------------------------------------------------------------------------------------------
ALWAYS = [
    "userxattr redirect_dir=on",
    "userxattr redirect_dir=follow",
    "userxattr metacopy=on",
    "metacopy=on redirect_dir=nofollow",
    "metacopy=on nfs_export=on",
    "nfs_export=on index=off",
    "override_creds nooverride_creds",
]
WITH_UPPER = [
    "metacopy=on redirect_dir=off",
    "metacopy=on redirect_dir=follow",
    "ro rw",
    "volatile fsync=strict",
    "volatile fsync=auto",
]


@pytest.mark.parametrize("text", ALWAYS + WITH_UPPER)
def test_contradictions_are_named(text: str) -> None:
    one, other = text.split()
    for words in (text, f"{other} {one}", f"{one} default_permissions {other}"):
        refused(
            TWO,
            **PAIR,
            options=options(words),
            match=f"the options '{one}' and '{other}' contradict each other",
            part=option(one).key,
        )


@pytest.mark.parametrize("text", ALWAYS)
def test_some_contradict_each_other_without_an_upper_layer_too(text: str) -> None:
    refused(TWO, options=options(text), match="contradict each other", part=option(text.split(maxsplit=1)[0]).key)


@pytest.mark.parametrize(
    "text",
    [
        "metacopy=on redirect_dir=on index=on xino=on uuid=on",
        "userxattr redirect_dir=nofollow metacopy=off",
        "nfs_export=on index=on metacopy=off",
        "volatile fsync=volatile",
        "ro volatile",
        # Both since Linux 6.16, for data-only layers whose content is checked.
        "userxattr verity=require",
        "metacopy=off verity=require",
        # Means `nofollow` or `follow`, as the kernel is configured.
        "userxattr redirect_dir=off",
    ],
)
def test_what_some_kernel_takes_is_no_contradiction(text: str) -> None:
    assert Overlay(TWO, **PAIR, options=options(text)).options == tuple(options(text))


@pytest.mark.parametrize("text", ["rw", "volatile", "fsync=volatile", "index=on"])
def test_what_concerns_changes_needs_an_upper_layer(text: str) -> None:
    refused(TWO, options=options(text), match=f"the option '{text}' needs an upper layer", part=option(text).key)


@pytest.mark.parametrize(
    "text",
    [
        "ro",
        "nfs_export=on redirect_dir=nofollow",
        "index=off",
        "metacopy=on redirect_dir=off",
        "userxattr",
        "fsync=auto",
    ],
)
def test_what_concerns_reading_does_not(text: str) -> None:
    assert Overlay(TWO, options=options(text)).read_only


# --- source --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "source", ["overlay", "a label, with: anything\n", "x" * 255, "\N{EURO SIGN}" * 85, "\udcff"], ids=ascii
)
def test_a_source_is_any_label(source: str) -> None:
    assert Overlay(TWO, source=source).source == source


@pytest.mark.parametrize("source", ["", "a\0b", "x" * 256, "\N{EURO SIGN}" * 86, "\ud800", b"label", 5], ids=ascii)
def test_a_source_fits_into_fsconfig(source: object) -> None:
    refused(TWO, source=source, match="source .* (must be text of 1 to 255 bytes|has characters that)", part="source")
