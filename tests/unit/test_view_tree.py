from __future__ import annotations

from mountfd.model.table import MountTable
from mountfd.view.tree import Node, nest, prune, walk


def table(*rows: str) -> MountTable:
    """Record mounts given as "id parent point"."""
    lines = []
    for row in rows:
        number, parent, point = row.split()
        lines.append(f"{number} {parent} 0:{number} / {point} rw - tmpfs s{number} rw\n")
    return MountTable.parse("".join(lines).encode())


def shape(roots: list[Node]) -> list[tuple[int, int | None]]:
    return [(len(more), node.mount.id_old) for more, node in walk(roots)]


def states(*rows: str) -> dict[int | None, str | None]:
    return {node.mount.id_old: node.state for _, node in walk(nest(table(*rows)))}


def test_children_come_below_their_parent_in_the_order_of_their_ids() -> None:
    assert shape(nest(table("9 1 /b", "1 0 /", "5 1 /a", "7 9 /b/c"))) == [(0, 1), (1, 5), (1, 9), (2, 7)]


def test_a_mount_whose_parent_is_not_there_is_a_root() -> None:
    assert shape(nest(table("1 0 /", "5 77 /a"))) == [(0, 1), (0, 5)]


def test_mounts_that_stand_on_each_other_are_shown_once_each() -> None:
    assert sorted(shape(nest(table("1 0 /", "5 6 /a", "6 5 /a", "7 7 /b")))) == [(0, 1), (0, 5), (0, 7), (1, 6)]


def test_a_very_deep_stack_is_no_problem() -> None:
    rows = ["1 0 /", *(f"{number} {number - 1} /" for number in range(2, 3000))]
    assert len(shape(nest(table(*rows)))) == 2999


def test_of_a_stack_the_last_is_visible_and_the_others_are_covered() -> None:
    assert states("1 0 /", "2 1 /a", "3 2 /a", "4 3 /a") == {1: "visible", 2: "covered", 3: "covered", 4: "visible"}


def test_a_mount_on_a_covered_one_is_hidden() -> None:
    found = states("1 0 /", "2 1 /a", "3 2 /a", "4 2 /a/b", "5 4 /a/b")
    assert (found[2], found[3], found[4], found[5]) == ("covered", "visible", "hidden", "hidden")


def test_a_mount_is_hidden_by_one_further_up_on_its_path_on_the_same_parent() -> None:
    found = states("1 0 /", "2 1 /a/b/c", "3 1 /a", "4 1 /ab", "5 2 /a/b/c/d")
    assert found == {1: "visible", 2: "hidden", 3: "visible", 4: "visible", 5: "hidden"}


def test_a_covered_root_is_a_stack_too() -> None:
    assert states("1 0 /", "2 1 /", "3 2 /x") == {1: "covered", 2: "visible", 3: "visible"}


def test_what_stands_on_a_mount_that_is_left_out_moves_up() -> None:
    roots = nest(table("1 0 /", "2 1 /a", "3 2 /a/b", "4 3 /a/b/c", "5 1 /z"))
    assert shape(prune(roots, lambda node: node.mount.id_old != 2)) == [(0, 1), (1, 3), (2, 4), (1, 5)]
    assert shape(prune(roots, lambda node: node.mount.id_old in (3, 5))) == [(0, 3), (0, 5)]


def test_walking_tells_at_each_level_whether_more_is_to_come() -> None:
    found = {node.mount.id_old: more for more, node in walk(nest(table("1 0 /", "2 1 /a", "3 2 /a/b", "4 1 /z")))}
    assert found == {1: (), 2: (True,), 3: (True, False), 4: (False,)}
