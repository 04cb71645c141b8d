"""MountSpec: a mount as a value, and the views of it that containerd takes."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest

import mountfd
from mountfd import Attr, IdMap, InvalidSpec, MountSpec, param
from mountfd.model.overlay_text import overlay_of

IDMAP = IdMap.parse("0:1:1")
MAPS = ["uidmap=0:1:1", "gidmap=0:1:1"]


# --- a value -------------------------------------------------------------------------------------------------------
SPECS = [
    MountSpec("", "/a"),
    MountSpec("bind", Path("/a"), Path("b"), ["rbind", "ro", *MAPS]),
    MountSpec("tmpfs", "none", options="size=1m,ro"),
    MountSpec("tmpfs", "none", options=[param.String("size", "1m"), param.Flag("ro")], attrs=Attr.NODEV, idmap=IDMAP),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.type)
def test_it_is_equal_to_its_copies(spec: MountSpec) -> None:
    names = {"MountSpec": MountSpec, "IdMap": IdMap, **vars(param)}
    for other in (pickle.loads(pickle.dumps(spec)), copy.deepcopy(spec), eval(repr(spec), names)):  # noqa: S307 (its own repr)
        assert other == spec
        assert hash(other) == hash(spec)
        assert repr(other) == repr(spec)


def test_different_parts_make_different_values() -> None:
    assert len(set(SPECS)) == len(SPECS)
    assert MountSpec("a", "b") != MountSpec("a", "c")
    assert MountSpec("a", "b") != ("a", "b")


@pytest.mark.parametrize("name", ["type", "options", "attrs", "else"])
def test_it_does_not_change(name: str) -> None:
    spec = MountSpec("tmpfs", "none")
    with pytest.raises(AttributeError):
        setattr(spec, name, "x")
    with pytest.raises(AttributeError):
        delattr(spec, name)


def test_the_callers_list_is_copied_and_stays_as_it_is() -> None:
    words = ["lowerdir=/a:/b", "volatile", *MAPS]
    spec = MountSpec("overlay", "overlay", options=words)
    for _ in range(2):
        spec.understood()
        spec.without_volatile()
        spec.without_idmap()
        spec.read_only()
        assert spec.is_read_only
    assert words == ["lowerdir=/a:/b", "volatile", *MAPS]
    words.append("ro")
    assert spec.options == ("lowerdir=/a:/b", "volatile", *MAPS)


def test_options_may_be_one_string_or_anything_that_gives_words() -> None:
    assert MountSpec("tmpfs", "x", options="ro,size=1m").options == ("ro", "size=1m")
    assert MountSpec("tmpfs", "x", options=(word for word in ["ro", "size=1m"])).options == ("ro", "size=1m")
    assert MountSpec("tmpfs", "x", options="").options == ()
    assert MountSpec("overlay", "x", options=r"lowerdir=/a\,b:/c,ro").options == (r"lowerdir=/a\,b:/c", "ro")


# --- what it refuses -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "options", "part"),
    [
        ((b"tmpfs", "x"), [], "type"),
        ((Path("tmpfs"), "x"), [], "type"),
        (("tmpfs", None), [], "source"),
        (("tmpfs", b"x"), [], "source"),
        (("tmpfs", "x", 1), [], "target"),
        (("tmp\0fs", "x"), [], "type"),
        (("tmpfs", "x\0"), [], "source"),
        (("tmpfs", "x", "a\0b"), [], "target"),
        (("tmpfs", "x"), ["ro", param.Flag("ro")], "options"),
        (("tmpfs", "x"), [param.Flag("ro"), "ro"], "options"),
        (("tmpfs", "x"), [b"ro"], "options"),
        (("tmpfs", "x"), b"ro", "options"),
        (("tmpfs", "x"), param.Flag("ro"), "options"),
        (("tmpfs", "x"), None, "options"),
        (("tmpfs", "x"), 'context="a', "options"),
    ],
)
def test_each_part_is_checked_and_named(arguments: tuple[str, str], options: list[str], part: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        MountSpec(*arguments, options=options)
    assert caught.value.part == part


@pytest.mark.parametrize(("part", "value"), [("attrs", "nodev"), ("attrs", None), ("idmap", "0:1:1"), ("idmap", 0)])
def test_typed_parts_are_of_their_type(part: str, value: object) -> None:
    with pytest.raises(InvalidSpec) as caught:
        MountSpec("tmpfs", "x", **{part: value})  # type: ignore[arg-type]  # on purpose
    assert caught.value.part == part


def test_attributes_and_an_idmap_without_any_option_count_too() -> None:
    options = MountSpec("tmpfs", "x", attrs=Attr.NODEV, idmap=IDMAP).understood()
    assert (options.attrs, options.idmap) == (Attr.NODEV, IDMAP)


def test_a_comma_in_an_upper_layer_cannot_become_a_word_of_lowerdir_plus() -> None:
    spec = MountSpec("overlay", "x", options=["lowerdir+=/a", r"upperdir=/u\,1", "workdir=/w"])
    with pytest.raises(InvalidSpec, match="comma") as caught:
        spec.read_only()
    assert caught.value.part == "upperdir"


@pytest.mark.parametrize("more", [{"attrs": Attr.NODEV}, {"idmap": IDMAP}])
def test_attributes_beside_words_are_refused(more: dict[str, object]) -> None:
    with pytest.raises(InvalidSpec, match="typed options"):
        MountSpec("tmpfs", "x", options=["ro"], **more)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["ro", "=x"], "=x"),
        (["uidmap=0:1:1"], "gidmap"),
        (["X-mount.mode=9"], "X-mount.mode"),
        (["X-containerd.a=b"], "X-containerd.a"),
        (["offset=x"], "offset"),
        (["a\0"], "a\0"),
    ],
)
def test_words_are_checked_when_it_is_used_and_named(words: list[str], part: str) -> None:
    spec = MountSpec("tmpfs", "x", options=words)
    with pytest.raises(InvalidSpec) as caught:
        spec.understood()
    assert caught.value.part == part


@pytest.mark.parametrize("function", [mountfd.mount, lambda odd, target: mountfd.mount_all([odd], target)])
def test_only_a_spec_can_be_mounted(function: object, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="MountSpec"):
        function(("tmpfs", "x"), tmp_path)  # type: ignore[operator]


# --- type and words together ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "words", "action"),
    [
        ("bind", [], "bind"),
        ("rbind", [], "rbind"),
        ("bind", ["rbind"], "rbind"),
        ("rbind", ["bind"], "rbind"),
        ("", ["bind"], "bind"),
        ("none", ["rbind"], "rbind"),
        ("bind", ["remount"], "remount"),
        ("tmpfs", ["bind"], "bind"),
        ("tmpfs", [], ""),
    ],
)
def test_type_and_words_say_together_what_to_do(kind: str, words: list[str], action: str) -> None:
    assert MountSpec(kind, "/a", options=words).understood().action == action


@pytest.mark.parametrize(
    ("kind", "filesystem"), [("format/mkdir/overlay", "overlay"), ("mkfs/erofs", "erofs"), ("a", "a")]
)
def test_what_stands_before_a_slash_is_containerds(kind: str, filesystem: str) -> None:
    assert MountSpec(kind, "x").filesystem == filesystem


def test_typed_options_are_taken_as_they_are() -> None:
    options = MountSpec("tmpfs", "x", options=[param.Flag("bind")], attrs=Attr.NODEV, idmap=IDMAP).understood()
    assert (options.params, options.attrs, options.idmap) == ([param.Flag("bind")], Attr.NODEV, IDMAP)
    assert options.action == ""


@pytest.mark.parametrize(
    "words",
    [
        [r"lowerdir=/a\,b:/c\:d", r"upperdir=/u\,1", "workdir=/w"],
        [r"lowerdir=/a\,b:/c\:d,upperdir=/u\,1,workdir=/w"],
        r"lowerdir=/a\,b:/c\:d,upperdir=/u\,1,workdir=/w",
    ],
)
def test_a_comma_in_a_layers_path_is_protected_by_a_backslash(words: list[str]) -> None:
    spec = MountSpec("overlay", "overlay", options=words)
    overlay = overlay_of(spec.understood().params, None, None)
    assert [layer.path for layer in overlay.lower] == ["/a,b", "/c:d"]
    assert overlay.upper is not None
    assert overlay.upper.path == "/u,1"


# --- read-only -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "words", "expected"),
    [
        ("erofs", ["loop"], True),
        ("erofs", ["rw"], True),
        ("mkfs/erofs", [], True),
        ("squashfs", [], True),
        ("overlay", [], True),
        ("overlay", ["lowerdir=/l"], True),
        ("overlay", ["lowerdir=/l", "upperdir=/u"], False),
        ("overlay", ["lowerdir=/l,upperdir=/u,workdir=/w"], False),
        ("overlay", ["lowerdir=/l", "upperdir=/u", "ro"], True),
        ("overlay", ["lowerdir=/l,upperdir=/u,ro"], True),
        ("overlay", ["lowerdir=/l", "upperdir=/u", "ro", "rw"], False),
        ("overlay", ["lowerdir=/l", "upperdir=/u", "rw", "ro"], True),
        ("overlay", ["lowerdir=/l", "upperdir=/u", "rro"], True),
        ("format/mkdir/overlay", ["lowerdir=/l"], True),
        ("format/mkdir/overlay", ["upperdir=/u"], False),
        ("bind", ["ro", "rbind"], True),
        ("bind", ["rbind"], False),
        ("bind", ["ro", "rw"], False),
        ("bind", ["rw", "ro"], True),
        ("bind", ["rbind", "rro"], True),
        ("tmpfs", [], False),
        ("tmpfs", ["ro=fs"], True),
        ("tmpfs", ["ro=vfs"], True),
        ("", ["ro"], True),
    ],
)
def test_whether_nothing_can_be_written(kind: str, words: list[str], expected: bool) -> None:
    assert MountSpec(kind, "/source", options=words).is_read_only is expected


@pytest.mark.parametrize(
    ("options", "attrs", "expected"),
    [
        ([param.Flag("ro")], 0, True),
        ([param.Flag("ro"), param.Flag("rw")], 0, False),
        ([], Attr.RDONLY, True),
        ([param.String("size", "1m")], Attr.NODEV, False),
    ],
)
def test_whether_nothing_can_be_written_with_typed_options(
    options: list[param.Param],
    attrs: int,
    expected: bool,
) -> None:
    assert MountSpec("tmpfs", "x", options=options, attrs=attrs).is_read_only is expected
    layers = [param.String("lowerdir", "/l"), param.String("upperdir", "/u"), param.String("workdir", "/w")]
    assert MountSpec("overlay", "x", options=[*layers, *options], attrs=attrs).is_read_only is expected


@pytest.mark.parametrize(
    ("kind", "words", "expected"),
    [
        (
            "overlay",
            ["index=off", "workdir=/4/work", "upperdir=/4/fs", "lowerdir=/1/fs"],
            ["index=off", "lowerdir=/4/fs:/1/fs"],
        ),
        ("overlay", ["index=on", "lowerdir=/2/fs"], ["index=on", "lowerdir=/2/fs"]),
        ("overlay", ["lowerdir=/l"], ["lowerdir=/l"]),
        ("overlay", ["rw", "lowerdir=/l"], ["rw", "lowerdir=/l"]),
        ("overlay", [*MAPS, "workdir=/w", "upperdir=/u", "lowerdir=/l"], ["lowerdir=/u:/l"]),
        ("overlay", ["upperdir=/u", "workdir=/w"], []),
        ("overlay", [r"lowerdir=/l\,1,upperdir=/u\,2:3\:4,workdir=/w"], [r"lowerdir=/u\,2\:3\:4:/l\,1"]),
        ("overlay", ["lowerdir=/l", "upperdir=/u", "workdir=/w", "volatile"], ["lowerdir=/u:/l"]),
        (
            "overlay",
            ["lowerdir+=/a", "lowerdir+=/b", "upperdir=/u", "workdir=/w"],
            ["lowerdir+=/u", "lowerdir+=/a", "lowerdir+=/b"],
        ),
        ("format/mkdir/overlay", ["lowerdir=/l", "upperdir=/u", "workdir=/w"], ["lowerdir=/u:/l"]),
        (
            "without",
            ["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/l"],
            ["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/l", "ro"],
        ),
        ("with-rw", ["a=v", "b=/v", "rw"], ["a=v", "b=/v", "ro"]),
        ("with-ro", ["a=v", "b=/v", "ro"], ["a=v", "b=/v", "ro"]),
        ("bind", ["rbind"], ["rbind", "ro"]),
        ("bind", [*MAPS, "rw", "rbind"], [*MAPS, "rbind", "ro"]),
        ("bind", ["rbind", "rrw", "rw=recursive", "rnodev"], ["rbind", "rnodev", "ro"]),
    ],
)
def test_a_view(kind: str, words: list[str], expected: list[str]) -> None:
    spec = MountSpec(kind, "/source", "below", options=words)
    view = spec.read_only()
    assert view == MountSpec(kind, "/source", "below", options=expected)
    assert spec.options == tuple(words)
    assert view.is_read_only
    assert view.read_only() == view


def test_a_view_of_typed_options_stays_typed() -> None:
    options = [
        param.String("lowerdir", b"/l,1\xff"),
        param.String("upperdir", "/u:1,2"),
        param.String("workdir", "/w"),
        param.Flag("userxattr"),
    ]
    spec = MountSpec("overlay", "x", options=options, attrs=Attr.NODEV, idmap=IDMAP)
    view = spec.read_only()
    assert view.attrs == Attr.NODEV
    overlay = overlay_of(view.understood().params, None, None)
    assert [layer.raw for layer in overlay.lower] == [b"/u:1,2", b"/l,1\xff"]
    assert overlay.options == (param.Flag("userxattr"),)
    assert view.is_read_only

    spec = MountSpec(
        "tmpfs", "x", options=[param.Flag("rw"), param.String("size", "1m")], attrs=Attr.NODEV, idmap=IDMAP
    )
    view = spec.read_only()
    assert view.options == (param.String("size", "1m"), param.Flag("ro"))
    assert (view.attrs, view.idmap) == (Attr.NODEV | Attr.RDONLY, IDMAP)


@pytest.mark.parametrize(
    ("kind", "words", "expected"),
    [
        (
            "overlay",
            ["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/l", "volatile"],
            ["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/l"],
        ),
        ("overlay", ["lowerdir=/l", "fsync=volatile"], ["lowerdir=/l"]),
        ("overlay", ["volatile", "index=off"], ["index=off"]),
        ("overlay", ["volatile", "fsync=volatile"], []),
        ("overlay", ["lowerdir=/a,volatile"], ["lowerdir=/a"]),
        ("overlay", ["index=off", "lowerdir=/l"], ["index=off", "lowerdir=/l"]),
        ("underlay", ["index=on", "lowerdir=/l", "volatile"], ["index=on", "lowerdir=/l", "volatile"]),
    ],
)
def test_without_volatile(kind: str, words: list[str], expected: list[str]) -> None:
    spec = MountSpec(kind, "x", options=words)
    assert spec.without_volatile() == MountSpec(kind, "x", options=expected)
    assert spec.options == tuple(words)


def test_without_volatile_of_typed_options() -> None:
    options = [param.String("lowerdir", "/l"), param.Flag("volatile"), param.String("fsync", "volatile")]
    spec = MountSpec("overlay", "x", options=options, attrs=Attr.NODEV, idmap=IDMAP)
    assert spec.without_volatile() == MountSpec("overlay", "x", options=options[:1], attrs=Attr.NODEV, idmap=IDMAP)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([*MAPS, "lowerdir=/a"], ["lowerdir=/a"]),
        (["rw", *MAPS], ["rw"]),
        (["uidmap=0:1:1", "rw", "gidmap=0:1:1", "x", "y"], ["rw", "x", "y"]),
        (["a=b", "uidmap=x"], ["a=b"]),
        (["rbind", *MAPS, "ridmap"], ["rbind"]),
        (["bind", "X-mount.idmap=0:1:1", "idmap"], ["bind"]),
        (["a", "b"], ["a", "b"]),
    ],
)
def test_without_idmap(words: list[str], expected: list[str]) -> None:
    spec = MountSpec("overlay", "x", options=words)
    assert spec.without_idmap() == MountSpec("overlay", "x", options=expected)
    assert spec.options == tuple(words)
    assert spec.without_idmap().understood().idmap is None


def test_without_idmap_of_typed_options() -> None:
    options = [param.String("lowerdir", "/l")]
    spec = MountSpec("overlay", "x", options=options, attrs=Attr.NODEV, idmap=IDMAP)
    assert spec.without_idmap() == MountSpec("overlay", "x", options=options, attrs=Attr.NODEV)
