from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountfd.model.grouping import common_parent, is_plain, shown_length, too_long

SNAPSHOTS = b"/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"
names = st.binary(min_size=1, max_size=6).filter(lambda name: not {0, 47} & set(name) and name not in (b".", b".."))
absolute = st.lists(names, min_size=1, max_size=4).map(lambda parts: b"/" + b"/".join(parts))
relative = st.lists(names, min_size=1, max_size=4).map(b"/".join)


@pytest.mark.parametrize(
    ("paths", "parent", "below"),
    [
        ([SNAPSHOTS + b"/37712/fs", SNAPSHOTS + b"/16590/fs"], SNAPSHOTS, [b"37712/fs", b"16590/fs"]),
        ([SNAPSHOTS + b"/79/fs", SNAPSHOTS + b"/7/fs"], SNAPSHOTS, [b"79/fs", b"7/fs"]),
        (
            [b"/completely/different/1", b"/totally/unrelated/2"],
            b"/",
            [b"completely/different/1", b"totally/unrelated/2"],
        ),
        ([b"/ab", b"/ac"], b"/", [b"ab", b"ac"]),
        ([b"ab", b"ac"], b".", [b"ab", b"ac"]),
        ([b"a/b", b"a/c"], b"a", [b"b", b"c"]),
        ([b"/a/b", b"/a/bc"], b"/a", [b"b", b"bc"]),
        ([b"/a/b", b"/a/b/c"], b"/a", [b"b", b"b/c"]),
        ([b"/a/b/c", b"/a/b"], b"/a", [b"b/c", b"b"]),
        ([b"/a/b", b"/a/b"], b"/a", [b"b", b"b"]),
        ([b"/a", b"/a/b"], b"/", [b"a", b"a/b"]),
        ([b"a", b"a/b"], b".", [b"a", b"a/b"]),
        ([b"/a/b"], b"/a", [b"b"]),
        ([b"/x/1", b"/x/2/3", b"/x/2/4"], b"/x", [b"1", b"2/3", b"2/4"]),
    ],
)
def test_common_parent(paths: list[bytes], parent: bytes, below: list[bytes]) -> None:
    assert common_parent(paths) == (parent, below)


@given(st.one_of(st.lists(absolute, min_size=1, max_size=6), st.lists(relative, min_size=1, max_size=6)))
def test_parent_and_names_lead_to_the_paths(paths: list[bytes]) -> None:
    parent, below = common_parent(paths)
    assert all(below)
    assert [os.path.normpath(os.path.join(parent, name)) for name in below] == paths
    assert (
        len({name.split(b"/")[0] for name in below}) > 1
        or len(set(paths)) == 1
        or min(paths) == os.path.commonpath(paths)
    )


@pytest.mark.parametrize(
    "path",
    [
        b"/a",
        b"/a/b",
        b"a",
        b"a/b",
        b"/.a",
        b"/a/.b/c",
        b"/a/..b",
        b"/a/b..",
        b"/a./b",
        b"...",
        b"/a/...",
        b".a",
        b"..a",
        b"a.",
    ],
)
def test_plain(path: bytes) -> None:
    assert is_plain([path])
    assert is_plain([b"/x", path, b"y"])


@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b".",
        b"..",
        b"",
        b"//a",
        b"a//b",
        b"a/",
        b"/a/",
        b"./a",
        b"../a",
        b"a/.",
        b"a/..",
        b"a/./b",
        b"/a/../b",
        b"/..",
        b"/.",
    ],
)
def test_not_plain(path: bytes) -> None:
    assert not is_plain([path])
    assert not is_plain([b"/x", path, b"y"])
    assert not is_plain([path, b"/x"])


@given(st.lists(st.lists(st.sampled_from([b"", b".", b"..", b"a", b".a"]), min_size=1).map(b"/".join), min_size=1))
def test_plain_means_that_each_component_is_a_name(paths: list[bytes]) -> None:
    odd = any(
        component in (b"", b".", b"..")
        for path in paths
        for component in (path[1:] if path.startswith(b"/") else path).split(b"/")
    )
    assert is_plain(paths) == (not odd)


@given(st.lists(st.binary(max_size=600), max_size=500))
def test_what_is_left_to_show_fits_a_line(all_names: list[bytes]) -> None:
    hidden = too_long(all_names)
    assert len(set(hidden)) == len(hidden)
    shown = [b"" if i in set(hidden) else name for i, name in enumerate(all_names)]
    assert sum(map(shown_length, shown)) <= 20 * 1024
    if hidden:
        kept = max((shown_length(name) for i, name in enumerate(all_names) if i not in set(hidden)), default=0)
        assert min(shown_length(all_names[i]) for i in hidden) >= kept


def test_short_names_are_all_shown() -> None:
    assert too_long([b"%d/fs" % i for i in range(500)]) == []
    assert too_long([]) == []


def test_only_as_many_as_needed_are_hidden() -> None:
    assert len(too_long([b"n" * 200] * 400)) == 322
    assert too_long([b"a", b"n" * 30000, b"b"]) == [1]
