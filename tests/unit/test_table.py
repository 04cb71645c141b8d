"""A table finds mounts by all their names, knows stacks and trees, and tells what changed."""

from __future__ import annotations

import copy
import pickle

import pytest

from mountfd.errors import Gone
from mountfd.model.info import from_fields
from mountfd.model.table import MountTable

# What stands where: /mnt (2) holds x (3) and is covered by 4, which holds x (5), on which lies 6.
ROWS = """\
1 0 8:1 / / rw shared:1 - ext4 /dev/a rw
2 1 0:2 / /mnt rw shared:2 - tmpfs one rw
3 2 0:3 / /mnt/x rw - tmpfs one rw
4 2 0:4 / /mnt rw master:1 - fuse.sshfs two rw
5 4 0:5 / /mnt/x rw shared:2 - fuse.other two rw
6 5 0:6 / /mnt/x rw - tmpfs three rw
7 1 0:7 / /mnt-other rw - tmpfs three rw
8 9 0:8 / /alone rw - tmpfs three rw
"""


def table(rows: str = ROWS) -> MountTable:
    return MountTable.parse(rows.encode())


def ids(mounts: object) -> list[int | None]:
    return [mount.id_old for mount in mounts]  # type: ignore[attr-defined]


def without(number: int) -> str:
    return "".join(line for line in ROWS.splitlines(keepends=True) if not line.startswith(f"{number} "))


def test_each_name_finds_its_mounts() -> None:
    found = table()
    assert len(found) == 8
    assert ids([found.by_id(5), found[0]]) == [5, 1]
    assert ids(found.by_point("/mnt/x")) == [3, 5, 6]
    assert ids(found.by_peer_group(2)) == [2, 5]
    assert ids(found.by_source("two")) == [4, 5]
    assert ids(found.by_fstype("fuse")) == [4, 5]
    assert ids(found.by_fstype("fuse.sshfs")) == [4]
    assert found.by_point("/nothing") == found.by_peer_group(0) == found.by_source("") == []
    with pytest.raises(Gone):
        found.by_id(99)


def test_the_visible_mount_is_the_one_that_a_path_leads_to() -> None:
    found = table()
    wanted = {"/": 1, "/mnt": 4, "/mnt/": 4, "/mnt/x": 6, "/mnt/x/y/z": 6, "/mnt/y": 4, "/mnt-other": 7, "/alone": 1}
    assert {path: (found.visible(path) or found[0]).id_old for path in wanted} == wanted
    assert MountTable([]).visible("/") is None


def test_a_stack_begins_with_the_visible_one() -> None:
    found = table()
    assert ids(found.stack("/mnt")) == [4, 2]
    assert ids(found.stack("/mnt/x")) == [6, 5, 3]
    assert ids(found.stack("/alone")) == [8]
    assert found.stack("/mnt/y") == []
    assert [found.is_covered(mount) for mount in found] == [False, True, False, False, True, False, False, False]


def test_the_deepest_hidden_stack_is_not_the_visible_one() -> None:
    hidden = "".join(f"{n} {n - 1 if n > 30 else 3} 0:{n} / /mnt/x rw - tmpfs a rw\n" for n in range(30, 35))
    assert ids(table(ROWS + hidden).stack("/mnt/x"))[:2] == [6, 5]


def test_mounts_without_a_point_cover_nothing() -> None:
    one = from_fields({"id": 1, "parent_id": 0, "point": None})
    two = from_fields({"id": 2, "parent_id": 1, "point": None})
    found = MountTable([one, two])
    assert not found.is_covered(one)
    assert found.children(one) == [two]


def test_the_tree_is_walked_parents_first() -> None:
    found = table()
    assert ids(found.roots()) == [1, 8]
    assert ids(found.children(found.by_id(1))) == [2, 7]
    assert found.parent(found.by_id(1)) is None
    assert (found.parent(found.by_id(6)) or found[0]).id_old == 5
    assert [(depth, mount.id_old) for depth, mount in found.walk()] == [
        (0, 1), (1, 2), (2, 3), (2, 4), (3, 5), (4, 6), (1, 7), (0, 8),
    ]  # fmt: skip


def test_a_child_may_come_before_its_parent() -> None:
    found = table("".join(reversed(ROWS.splitlines(keepends=True))))
    assert sorted(number or 0 for number in ids(mount for _, mount in found.walk())) == list(range(1, 9))
    assert ids(found.stack("/mnt/x")) == [6, 5, 3]


@pytest.mark.parametrize(
    "rows",
    [
        "1 2 0:1 / /a rw - a a rw\n2 1 0:2 / /b rw - a a rw\n",
        "1 1 0:1 / / rw - a a rw\n2 1 0:2 / /b rw - a a rw\n",
        "1 0 0:1 / / rw - a a rw\n2 1 0:2 / /b rw - a a rw\n2 1 0:3 / /c rw - b b rw\n3 2 0:4 / /b/d rw - a a rw\n",
        "1 2 0:1 / /a rw - a a rw\n2 3 0:2 / /b rw - a a rw\n3 1 0:2 / /c rw - a a rw\n4 1 0:1 / /d rw - a a rw\n",
    ],
    ids=["each on the other", "on itself", "an id that was reused", "in a circle"],
)
def test_a_torn_listing_is_walked_once_through(rows: str) -> None:
    found = table(rows)
    walked = [mount for _, mount in found.walk()]
    assert sorted(map(id, walked)) == sorted(map(id, found))
    for mount in found:
        found.stack(mount.point or "")
        found.is_covered(mount)


def test_an_old_id_names_the_mount_that_has_it_now() -> None:
    found = table("5 1 0:1 / /a rw - a a rw\n5 1 0:2 / /b rw - a a rw\n")
    assert found.by_id(5).point == "/b"


@pytest.mark.parametrize(
    ("path", "wanted"),
    [("/", [1, 2, 3, 4, 5, 6, 7, 8]), ("/mnt", [2, 3, 4, 5, 6]), ("/mnt/", [2, 3, 4, 5, 6]), ("/mnt/x", [3, 5, 6])],
)
def test_below_a_path_no_other_begins_likewise(path: str, wanted: list[int]) -> None:
    assert ids(table().below(path)) == wanted


def test_without_ids_there_is_no_tree_and_no_wrong_one() -> None:
    found = MountTable([from_fields({"point": "/"}), from_fields({"point": "/a"})])
    assert [depth for depth, _ in found.walk()] == [0, 0]
    assert found.children(found[0]) == []
    assert found.parent(found[1]) is None


# --- differences ---------------------------------------------------------------------------------------------------
def changes(after: str, before: str = ROWS) -> list[tuple[str, int | None]]:
    return [(one.kind, (one.after or one.before or table()[0]).id_old) for one in table(before).diff(table(after))]


def test_nothing_changed() -> None:
    assert changes(ROWS) == []


def test_what_came_went_moved_and_changed() -> None:
    assert changes(without(6)) == [("detach", 6)]
    assert changes(ROWS, without(6)) == [("attach", 6)]
    assert changes(ROWS.replace("/alone", "/moved")) == [("move", 8)]
    assert changes(ROWS.replace("7 1 0:7", "7 2 0:7")) == [("move", 7)]
    assert changes(ROWS.replace("/mnt-other rw", "/mnt-other ro")) == [("change", 7)]


def test_another_filesystem_under_a_reused_id_is_another_mount() -> None:
    assert changes(ROWS.replace("7 1 0:7", "7 1 0:70")) == [("detach", 7), ("attach", 7)]


def test_unique_ids_decide_where_there_are_any() -> None:
    one, two = (from_fields({"id": number, "id_old": 7, "point": "/a"}) for number in (100, 101))
    assert [change.kind for change in MountTable([one]).diff(MountTable([two]))] == ["detach", "attach"]
    moved = from_fields({"id": 100, "id_old": 8, "point": "/b"})
    assert [change.kind for change in MountTable([one]).diff(MountTable([moved]))] == ["move"]
    read = from_fields({"id_old": 7, "point": "/a"})
    assert [change.kind for change in MountTable([one]).diff(MountTable([read]))] == ["change"]


def test_a_table_travels() -> None:
    found = table()
    for other in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        assert list(other) == list(found)
        assert ids(other.stack("/mnt/x")) == [6, 5, 3]
