"""An idmap says what it means, is what the kernel takes, and reads as containerd and mount(8) write it."""

from __future__ import annotations

import copy
import pickle
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mountfd.errors import InvalidSpec
from mountfd.model.idmap import Extent, IdMap

LAST_ID = 2**32 - 2
MAX_EXTENTS = 340
MAX_TEXT = 4095


def numbers(idmap: IdMap) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
    """Give both families as plain numbers."""
    uid, gid = ([(e.inside, e.outside, e.count) for e in family] for family in (idmap.uid, idmap.gid))
    return uid, gid


@st.composite
def families(draw: st.DrawFn) -> tuple[Extent, ...]:
    """Draw extents that overlap in neither column, in any order."""
    counts = draw(st.lists(st.integers(1, 70_000), min_size=1, max_size=8))
    columns = []
    for _ in range(2):
        # The extents in some order, each a gap behind the one before.
        starts, at = {}, 0
        for index in draw(st.permutations(range(len(counts)))):
            at += draw(st.integers(0, 400_000_000))
            starts[index] = at
            at += counts[index]
        columns.append(starts)
    return tuple(Extent(columns[0][i], columns[1][i], count) for i, count in enumerate(counts))


maps = st.one_of(st.builds(IdMap, families()), st.builds(IdMap, families(), families()))


# --- meaning -------------------------------------------------------------------------------------------------------
def test_inside_is_on_disk_and_outside_is_what_the_host_sees() -> None:
    idmap = IdMap.parse("1000:0:100,5000:2000:100,10000:3000:100")
    assert [idmap.to_host(id_) for id_ in (1000, 5000, 10000)] == [0, 2000, 3000]
    assert [idmap.from_host(id_, "gid") for id_ in (0, 2000, 3000)] == [1000, 5000, 10000]


def test_users_and_groups_are_mapped_apart() -> None:
    idmap = IdMap.parse("100:1000:1,101:2000:1,102:3000:1", "210:1100:10,220:2200:10,230:3300:10")
    assert [(idmap.to_host(u), idmap.to_host(g, "gid")) for u, g in ((100, 211), (101, 222), (102, 233))] == [
        (1000, 1101),
        (2000, 2202),
        (3000, 3303),
    ]


def test_an_id_outside_of_every_extent_is_not_mapped() -> None:
    idmap = IdMap.parse("0:100000:65536")
    assert [idmap.to_host(id_) for id_ in (-1, 0, 65535, 65536)] == [None, 100000, 165535, None]
    assert [idmap.from_host(id_) for id_ in (0, 99999, 100000, 165535, 165536)] == [None, None, 0, 65535, None]


def test_no_gid_means_the_same_as_uid() -> None:
    uid = [Extent(0, 100000, 65536)]
    assert IdMap(uid) == IdMap(uid, uid)
    assert hash(IdMap(uid)) == hash(IdMap(uid, uid))
    assert IdMap(uid).gid == tuple(uid)


def test_the_containers_root() -> None:
    assert IdMap.parse("0:33:100,100:333:65536", "0:66:100,100:666:65536").root == (33, 66)
    assert IdMap.parse("100:1000:10,0:5:1").root == (5, 5)
    # Nobody is id 0 here: the first id that there is stands in for it.
    assert IdMap.parse("100:1000:10", "7:70:1").root == (1000, 70)


def test_the_text_for_the_kernel_is_one_line_for_each_extent() -> None:
    idmap = IdMap.parse("0:100000:10,10:5:1", "0:7:1")
    assert idmap.uid_map_text() == b"0 100000 10\n10 5 1"
    assert idmap.gid_map_text() == b"0 7 1"


def test_only_uid_and_gid_are_kinds_of_ids() -> None:
    for look in (IdMap.parse("0:1:1").to_host, IdMap.parse("0:1:1").from_host):
        with pytest.raises(InvalidSpec, match="not 'root'") as caught:
            look(0, "root")  # type: ignore[arg-type]
        assert caught.value.part == "kind"


@given(maps, st.data())
def test_there_and_back_is_where_one_was(idmap: IdMap, data: st.DataObject) -> None:
    for kind, family in (("uid", idmap.uid), ("gid", idmap.gid)):
        extent = data.draw(st.sampled_from(family))
        inside = extent.inside + data.draw(st.integers(0, extent.count - 1))
        outside = idmap.to_host(inside, kind)  # type: ignore[arg-type]
        assert outside == extent.outside + inside - extent.inside
        assert idmap.from_host(outside, kind) == inside  # type: ignore[arg-type]


@given(maps)
def test_the_inverse_undoes(idmap: IdMap) -> None:
    inverse = idmap.inverse()
    assert inverse.inverse() == idmap
    assert all(inverse.to_host(extent.outside) == extent.inside for extent in idmap.uid)
    assert all(inverse.to_host(extent.outside, "gid") == extent.inside for extent in idmap.gid)


# --- values --------------------------------------------------------------------------------------------------------
@given(maps)
def test_what_is_written_reads_the_same(idmap: IdMap) -> None:
    assert IdMap.parse(str(idmap)) == idmap
    assert eval(repr(idmap), {"IdMap": IdMap}) == idmap  # noqa: S307 (its own repr)


@given(maps)
def test_an_idmap_survives_pickling_and_copying(idmap: IdMap) -> None:
    for again in (pickle.loads(pickle.dumps(idmap)), copy.copy(idmap), copy.deepcopy(idmap)):
        assert again == idmap
        assert hash(again) == hash(idmap)


def test_users_and_groups_that_agree_are_written_as_containerd_does() -> None:
    assert str(IdMap.parse("0:1:2,5:6:7", "0:1:2,5:6:7")) == "0:1:2,5:6:7"
    assert "u:" in str(IdMap.parse("0:1:2", "0:1:3"))


def test_an_idmap_never_changes() -> None:
    extent = Extent(0, 1, 2)
    given_list = [extent]
    idmap = IdMap(given_list)
    given_list.append(Extent(10, 11, 12))
    assert idmap.uid == (extent,)
    for value, name in ((idmap, "uid"), (idmap, "gid"), (extent, "count"), (extent, "new")):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(value, name, 5)
        with pytest.raises(AttributeError, match="immutable"):
            delattr(value, name)


def test_extents_are_values() -> None:
    assert len({Extent(0, 1, 2), Extent(0, 1, 2), Extent(0, 1, 3)}) == 2
    assert repr(Extent(0, 1, 2)) == "Extent(0, 1, 2)"
    assert str(Extent(0, 1, 2)) == "0:1:2"
    assert pickle.loads(pickle.dumps(Extent(0, 1, 2))) == Extent(0, 1, 2)
    assert Extent(0, 1, 2) != (0, 1, 2)


# --- reading -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "uid", "gid"),
    [
        ("0:100000:65536", [(0, 100000, 65536)], [(0, 100000, 65536)]),
        ("b:0:100000:65536", [(0, 100000, 65536)], [(0, 100000, 65536)]),
        ("0:1:2,5:6:7", [(0, 1, 2), (5, 6, 7)], [(0, 1, 2), (5, 6, 7)]),
        ("0:1:2 5:6:7", [(0, 1, 2), (5, 6, 7)], [(0, 1, 2), (5, 6, 7)]),
        (" 0:1:2,  5:6:7 ", [(0, 1, 2), (5, 6, 7)], [(0, 1, 2), (5, 6, 7)]),
        ("u:1000:0:1 g:1001:1:2 5000:1000:2", [(1000, 0, 1), (5000, 1000, 2)], [(1001, 1, 2), (5000, 1000, 2)]),
        ("u:0:1:2,g:3:4:5", [(0, 1, 2)], [(3, 4, 5)]),
        ("007:08:01", [(7, 8, 1)], [(7, 8, 1)]),
        ("0:0:4294967295", [(0, 0, 4294967295)], [(0, 0, 4294967295)]),
    ],
)
def test_one_text_for_both(text: str, uid: list[tuple[int, int, int]], gid: list[tuple[int, int, int]]) -> None:
    assert numbers(IdMap.parse(text)) == (uid, gid)


def test_a_pair_of_texts() -> None:
    idmap = IdMap.parse("0:666:1000,1000:6666:64536", "0:888:1000,1000:8888:64536")
    assert numbers(idmap) == ([(0, 666, 1000), (1000, 6666, 64536)], [(0, 888, 1000), (1000, 8888, 64536)])


@pytest.mark.parametrize(
    "entry",
    [
        "0:-1:100",
        "-1:1000:100",
        "0:1000:-1",
        "+1:0:1",
        "1_0:0:1",
        "0x1:0:1",
        "1.0:0:1",
        "\N{ARABIC-INDIC DIGIT ONE}:0:1",
        "\N{SUPERSCRIPT TWO}:0:1",
        "0:0",
        "0:0:1:1",
        "0:0:",
        "::",
        "x:0:0:1",
        "ug:0:0:1",
        "u:0:0",
        "0\t:0:1",
        "0:0:1\n",
        "0:0:" + "9" * 5000,
    ],
    ids=ascii,
)
def test_an_entry_is_three_numbers_of_ascii_digits(entry: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        IdMap.parse(entry)
    assert repr(entry) in str(caught.value)
    with pytest.raises(InvalidSpec) as caught:
        IdMap.parse(f"7:7:1,{entry}", "0:0:1")
    assert repr(entry) in str(caught.value)


@pytest.mark.parametrize("text", ["0:0:1,,1:1:1", ",0:0:1", "0:0:1,", "0:0:1, ,1:1:1", ","])
def test_a_comma_has_an_entry_on_either_side(text: str) -> None:
    with pytest.raises(InvalidSpec, match="empty entry"):
        IdMap.parse(text)


@pytest.mark.parametrize("blank", ["", " "])
def test_one_of_a_pair_is_missing(blank: str) -> None:
    for uidmap, gidmap, missing in ((blank, "0:0:1", "uidmap"), ("0:0:1", blank, "gidmap")):
        with pytest.raises(InvalidSpec, match=f"{missing} is empty") as caught:
            IdMap.parse(uidmap, gidmap)
        assert caught.value.part == missing
    with pytest.raises(InvalidSpec, match="is empty"):
        IdMap.parse(blank)


@pytest.mark.parametrize(("text", "missing"), [("u:0:0:1", "gid"), ("g:0:0:1 g:5:5:1", "uid")])
def test_letters_that_leave_one_family_out(text: str, missing: str) -> None:
    with pytest.raises(InvalidSpec, match=f"but no {missing}s") as caught:
        IdMap.parse(text)
    assert caught.value.part == missing


def test_letters_have_no_place_in_a_pair() -> None:
    with pytest.raises(InvalidSpec, match="'u:0:0:1'"):
        IdMap.parse("u:0:0:1", "0:0:1")


@pytest.mark.parametrize("text", [b"0:0:1", None, 0, ["0:0:1"]], ids=repr)
def test_only_text_is_read(text: object) -> None:
    with pytest.raises(InvalidSpec, match="uidmap must be text"):
        IdMap.parse(text)  # type: ignore[arg-type]


@given(st.text(alphabet="0123456789:,ugb +-_x", max_size=30))
@settings(max_examples=500)
def test_no_text_fails_in_another_way(text: str) -> None:
    try:
        idmap = IdMap.parse(text)
    except InvalidSpec as error:
        assert error.part  # noqa: PT017 (either outcome is fine)
    else:
        assert IdMap.parse(str(idmap)) == idmap


# --- what the kernel takes -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("inside", "outside", "count", "reason"),
    [
        (0, 0, 0, "count must be at least 1"),
        (LAST_ID + 1, 0, 1, "last inside id 4294967295 is above 4294967294"),
        (0, LAST_ID + 1, 1, "last outside id 4294967295 is above"),
        (0, LAST_ID, 2, "last outside id 4294967295 is above"),
        (1, 0, LAST_ID + 1, "last inside id 4294967295 is above"),
        (0, 0, LAST_ID + 2, "last inside id 4294967295 is above"),
        (-1, 0, 1, "whole numbers from 0 on"),
        (True, 0, 1, "whole numbers"),
        (0, 1.0, 1, "whole numbers"),
        (0, 0, "1", "whole numbers"),
    ],
)
def test_an_extent_maps_only_ids_that_there_are(inside: int, outside: int, count: int, reason: str) -> None:
    with pytest.raises(InvalidSpec, match=reason) as caught:
        Extent(inside, outside, count)
    assert f"{inside}:{outside}:{count}" in str(caught.value)
    assert caught.value.part == f"{inside}:{outside}:{count}"


def test_the_last_id_can_be_mapped() -> None:
    assert IdMap([Extent(LAST_ID, LAST_ID, 1)]).to_host(LAST_ID) == LAST_ID
    assert IdMap([Extent(0, 0, LAST_ID + 1)]).to_host(LAST_ID) == LAST_ID
    assert IdMap([Extent(0, 0, LAST_ID + 1)]).to_host(LAST_ID + 1) is None


@pytest.mark.parametrize(
    ("text", "one", "other", "column"),
    [("0:100:10,9:500:10", "0:100:10", "9:500:10", "inside"), ("0:100:10,50:109:1", "0:100:10", "50:109:1", "outside")],
)
def test_extents_that_overlap_are_both_named(text: str, one: str, other: str, column: str) -> None:
    for uidmap, gidmap, family in ((text, "0:0:1", "uid"), ("0:0:1", text, "gid")):
        with pytest.raises(InvalidSpec, match=f"the {family} extents {one} and {other} overlap in their {column} ids"):
            IdMap.parse(uidmap, gidmap)


def test_extents_may_touch() -> None:
    assert IdMap.parse("0:100:10,10:110:10").to_host(10) == 110


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 8)), min_size=1, max_size=6))
@settings(max_examples=500)
def test_overlaps_are_refused_and_nothing_else(triples: list[tuple[int, int, int]]) -> None:
    def overlap(column: int) -> bool:
        ids = [first + step for triple in triples for first in [triple[column]] for step in range(triple[2])]
        return len(ids) != len(set(ids))

    extents = [Extent(*triple) for triple in triples]
    if overlap(0) or overlap(1):
        with pytest.raises(InvalidSpec, match="overlap"):
            IdMap(extents)
    else:
        assert numbers(IdMap(extents))[0] == triples


def test_there_are_at_most_340_extents() -> None:
    extents = [Extent(id_, id_, 1) for id_ in range(MAX_EXTENTS + 1)]
    assert len(IdMap(extents[:-1]).uid) == MAX_EXTENTS
    with pytest.raises(InvalidSpec, match="the uid map has 341 extents; the kernel takes 340"):
        IdMap(extents)
    with pytest.raises(InvalidSpec, match="the gid map has 341 extents"):
        IdMap(extents[:1], extents)


def map_of_size(size: int) -> list[Extent]:
    """Make extents whose text has exactly that many bytes, a few more or less than 4095."""
    extents = [Extent(id_, id_, 1) for id_ in range(4_000_000_000, 4_000_000_170)]
    digits = size - sum(len(f"{extent.inside} {extent.outside} 1\n") for extent in extents) - len(" 1000 1")
    return [*extents, Extent(10 ** (digits - 1), 1000, 1)]


def test_the_text_has_at_most_4095_bytes() -> None:
    for size in range(MAX_TEXT - 3, MAX_TEXT + 1):
        assert len(IdMap(map_of_size(size)).uid_map_text()) == size
    with pytest.raises(InvalidSpec, match="the uid map takes 4096 bytes as text; the kernel takes 4095") as caught:
        IdMap(map_of_size(MAX_TEXT + 1))
    assert caught.value.part == "uid"


@pytest.mark.parametrize("uid", [[], (), iter(())], ids=["list", "tuple", "iterator"])
def test_a_family_has_an_extent(uid: list[Extent]) -> None:
    with pytest.raises(InvalidSpec, match="the uid map has no extent"):
        IdMap(uid)
    with pytest.raises(InvalidSpec, match="the gid map has no extent"):
        IdMap([Extent(0, 0, 1)], [])


@pytest.mark.parametrize("uid", ["0:0:1", b"0:0:1", Extent(0, 0, 1), None, 5, [(0, 0, 1)], ["0:0:1"]], ids=repr)
def test_a_family_is_a_list_of_extents(uid: object) -> None:
    with pytest.raises(InvalidSpec, match="Extent") as caught:
        IdMap(uid)  # type: ignore[arg-type]
    assert caught.value.part == "uid"


@given(families())
def test_the_text_says_what_the_extents_say(family: tuple[Extent, ...]) -> None:
    lines = IdMap(family).uid_map_text().split(b"\n")
    assert [tuple(map(int, line.split())) for line in lines] == [(e.inside, e.outside, e.count) for e in family]
    ends = sorted((e.inside, e.inside + e.count) for e in family)
    assert all(one[1] <= other[0] for one, other in pairwise(ends))
