from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountfd import IdMap, InvalidSpec
from mountfd.model.idmap import Extent

LAST = 0xFFFFFFFE


@st.composite
def families(draw: st.DrawFn) -> tuple[Extent, ...]:
    """Up to six extents that overlap in neither column, in any order."""
    counts = draw(st.lists(st.integers(1, 70000), min_size=1, max_size=6))
    gaps = st.lists(st.integers(0, 90000), min_size=len(counts), max_size=len(counts))
    columns = []
    for gap in (draw(gaps), draw(gaps)):
        first, column = 0, []
        for room, count in zip(gap, counts, strict=True):
            column.append(first + room)
            first += room + count
        columns.append(column)
    order = draw(st.permutations(range(len(counts))))
    return tuple(Extent(columns[0][i], columns[1][i], counts[i]) for i in order)


idmaps = st.builds(IdMap, families(), st.none() | families())


@given(idmaps)
def test_text_and_pickle_give_the_same_map_again(idmap: IdMap) -> None:
    assert IdMap.parse(str(idmap)) == idmap
    assert pickle.loads(pickle.dumps(idmap)) == idmap
    assert hash(IdMap.parse(str(idmap))) == hash(idmap)


@given(idmaps, st.integers(0, 600000))
def test_from_host_undoes_to_host(idmap: IdMap, number: int) -> None:
    for kind in ("uid", "gid"):
        outside = idmap.to_host(number, kind)
        assert outside is None or idmap.from_host(outside, kind) == number


@given(idmaps, st.integers(0, 600000))
def test_the_inverse_maps_the_other_way(idmap: IdMap, number: int) -> None:
    inverse = idmap.inverse()
    assert inverse.inverse() == idmap
    assert inverse.to_host(number) == idmap.from_host(number)
    assert inverse.to_host(number, "gid") == idmap.from_host(number, "gid")


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(1, 4)), min_size=1, max_size=4))
def test_an_overlap_is_always_refused(numbers: list[tuple[int, int, int]]) -> None:
    overlaps = any(
        len(ids := [i for line in numbers for i in range(line[column], line[column] + line[2])]) != len(set(ids))
        for column in (0, 1)
    )
    extents = [Extent(*line) for line in numbers]
    if overlaps:
        with pytest.raises(InvalidSpec, match="overlap"):
            IdMap(extents)
    else:
        assert IdMap(extents).uid == tuple(extents)


@pytest.mark.parametrize(
    ("text", "uid", "gid"),
    [
        ("0:100000:65536", ["0:100000:65536"], ["0:100000:65536"]),
        ("0:1000:100,100:2000:200", ["0:1000:100", "100:2000:200"], ["0:1000:100", "100:2000:200"]),
        ("0:1:1 1:2:1", ["0:1:1", "1:2:1"], ["0:1:1", "1:2:1"]),
        ("u:1000:0:1 g:1001:1:2 5000:1000:2", ["1000:0:1", "5000:1000:2"], ["1001:1:2", "5000:1000:2"]),
        ("b:0:5:3,u:10:20:1", ["0:5:3", "10:20:1"], ["0:5:3"]),
    ],
)
def test_entries_are_read_as_containerd_and_mount_write_them(text: str, uid: list[str], gid: list[str]) -> None:
    idmap = IdMap.parse(text)
    assert [str(extent) for extent in idmap.uid] == uid
    assert [str(extent) for extent in idmap.gid] == gid


def test_a_pair_of_maps_is_one_for_users_and_one_for_groups() -> None:
    idmap = IdMap.parse("0:666:1000,1000:6666:64536", "0:888:1000,1000:8888:64536")
    assert idmap.root == (666, 888)
    assert (idmap.to_host(1000), idmap.to_host(1000, "gid")) == (6666, 8888)
    assert str(idmap) == "u:0:666:1000,u:1000:6666:64536,g:0:888:1000,g:1000:8888:64536"


def test_a_file_owned_on_disk_by_inside_is_seen_as_outside() -> None:
    idmap = IdMap.parse("1000:0:100,5000:2000:100,10000:3000:100")
    assert [idmap.to_host(number) for number in (1000, 5000, 10000, 0)] == [0, 2000, 3000, None]
    assert idmap.uid_map_text() == b"1000 0 100\n5000 2000 100\n10000 3000 100\n"
    assert idmap.gid_map_text() == idmap.uid_map_text()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("  ", "empty"),
        (",", "empty entry|is empty"),
        ("0:1:5,,7:8:1", "empty entry"),
        ("0:1", "three whole numbers"),
        ("0:1:2:3", "three whole numbers"),
        ("+0:1:1", "three whole numbers"),
        ("0:-1:100", "three whole numbers"),
        ("0x1:1:1", "three whole numbers"),
        ("1_0:1:1", "three whole numbers"),
        ("٣:1:1", "three whole numbers"),
        ("0:1:" + "9" * 5000, "three whole numbers"),
        ("x:0:1:1", "three whole numbers"),
        ("0:1:0", "at least 1"),
        ("4294967295:0:1", "inside id 4294967295 is above"),
        ("0:4294967295:1", "outside id 4294967295 is above"),
        ("0:1:4294967295", "outside id 4294967295 is above"),
        ("u:0:1:1", "maps uids but no gids"),
        ("g:0:1:1", "maps gids but no uids"),
        ("0:1:5,3:100:5", "0:1:5 and 3:100:5 overlap in their inside ids"),
        ("0:1:5,10:3:5", "0:1:5 and 10:3:5 overlap in their outside ids"),
    ],
)
def test_what_the_kernel_would_refuse_is_named(text: str, reason: str) -> None:
    with pytest.raises(InvalidSpec, match=reason) as caught:
        IdMap.parse(text)
    assert caught.value.part


def test_one_family_without_the_other_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="gidmap is empty"):
        IdMap.parse("0:1:1", "")
    with pytest.raises(InvalidSpec, match="uidmap is empty"):
        IdMap.parse("", "0:1:1")


def test_the_last_id_that_there_is_can_be_mapped() -> None:
    assert IdMap.parse(f"0:{LAST}:1").to_host(0) == LAST
    assert IdMap.parse(f"{LAST}:0:1").from_host(0) == LAST


def test_the_kernels_limits_are_known() -> None:
    assert len(IdMap([Extent(i * 2, i * 2, 1) for i in range(340)]).uid) == 340
    with pytest.raises(InvalidSpec, match="341 extents; the kernel takes 340"):
        IdMap([Extent(i, i, 1) for i in range(341)])
    with pytest.raises(InvalidSpec, match="bytes as text; the kernel takes 4095"):
        IdMap([Extent(10**9 + i, 10**9 + i, 1) for i in range(340)])


def test_root_is_the_first_mapped_id_where_zero_is_not_mapped() -> None:
    assert IdMap.parse("5:100:2").root == (100, 100)


def test_a_map_is_a_value() -> None:
    idmap = IdMap.parse("0:1:1")
    with pytest.raises(AttributeError, match="immutable"):
        idmap.uid = ()
    with pytest.raises(AttributeError, match="immutable"):
        idmap.uid[0].count = 7
    assert repr(idmap) == "IdMap.parse('0:1:1')"
    assert {idmap: 1}[IdMap.parse("b:0:1:1")] == 1
