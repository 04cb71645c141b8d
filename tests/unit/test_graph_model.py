from __future__ import annotations

from mountfd.model.graph import COVER, PEER, SLAVE, THROUGH, Graph, Group, Node, graph
from mountfd.model.table import MountTable


def table(*rows: str) -> MountTable:
    """Record mounts given as "id parent point", and mountinfo's optional fields."""
    lines = []
    for row in rows:
        number, parent, point, *more = row.split()
        lines.append(f"{number} {parent} 0:7 / {point} rw {' '.join([*more, '-'])} tmpfs t rw\n")
    return MountTable.parse("".join(lines).encode())


def of(*tables: MountTable, everything: bool = False) -> Graph:
    return graph([(f"ns {at}", one) for at, one in enumerate(tables)], everything=everything)


def edges(found: Graph) -> list[tuple[str, str, str]]:
    def name(end: Node | Group) -> str:
        return f"g{end.number}" if isinstance(end, Group) else end.key

    return [(edge.kind, name(edge.start), name(edge.end)) for edge in found.edges()]


def keys(nodes: list[Node]) -> list[str]:
    return [node.key for node in nodes]


def test_peers_are_joined_to_their_group_and_it_leads_to_what_receives() -> None:
    found = of(table("1 0 / shared:1", "2 1 /a shared:1", "3 1 /b master:1", "4 1 /c shared:9 master:1"))
    assert edges(found) == [
        (PEER, "m1", "g1"),
        (PEER, "m2", "g1"),
        (SLAVE, "g1", "m3"),
        (SLAVE, "g1", "m4"),
        (PEER, "m4", "g9"),
    ]


def test_private_mounts_are_counted_and_shown_where_all_are_asked_for() -> None:
    mounts = table("1 0 / shared:1", "2 1 /a", "3 1 /b unbindable", "4 1 /c")
    frame = of(mounts).frames[0]
    assert (keys(frame.nodes), frame.private, frame.unbindable) == (["m1"], (3, 3), (1, 1))
    frame = of(mounts, everything=True).frames[0]
    assert (keys(frame.nodes), frame.private, frame.unbindable) == (["m1", "m2", "m3", "m4"], (0, 0), (0, 0))


def test_a_private_mount_in_a_stack_with_a_shared_one_is_shown_since_one_hides_the_other() -> None:
    found = of(table("1 0 /", "2 1 /a", "3 2 /a shared:5", "4 3 /a", "5 3 /a/b", "6 1 /z"))
    assert keys(found.frames[0].nodes) == ["m2", "m3", "m4"]
    assert [node.is_covered for node in found.nodes()] == [True, True, False]
    assert [edge for edge in edges(found) if edge[0] == COVER] == [(COVER, "m3", "m2"), (COVER, "m4", "m3")]


def test_nodes_are_in_the_order_of_their_paths_by_component() -> None:
    found = of(table("1 0 / shared:1", "2 1 /a.b shared:2", "3 1 /a shared:3", "4 3 /a/z shared:4"))
    assert [node.mount.point for node in found.nodes()] == ["/", "/a", "/a/z", "/a.b"]


def test_namespaces_with_the_same_peers_are_one_frame() -> None:
    copies = [table(f"{at} 0 / shared:1", f"{at + 1} {at} /b master:2") for at in range(10, 300, 10)]
    found = of(table("1 0 / shared:1", "2 1 /a shared:2"), *copies)
    assert [len(frame.names) for frame in found.frames] == [1, 29]
    assert [len(node.mounts) for node in found.frames[1].nodes] == [29, 29]
    assert [(group.number, group.size) for group in found.groups] == [(1, 30), (2, 1)]
    assert [edge.count for edge in found.edges()] == [1, 29, 1, 29]


def test_namespaces_alike_may_have_groups_of_their_own_as_long_as_nobody_else_names_them() -> None:
    def copy(at: int, group: int) -> MountTable:
        return table(f"{at} 0 / shared:{group} master:1", f"{at + 1} {at} /x shared:{group}")

    host = table("1 0 / shared:1")
    found = of(host, copy(10, 7), copy(20, 8))
    assert [len(frame.names) for frame in found.frames] == [1, 2]
    assert [(group.numbers, group.size) for group in found.groups] == [((1,), 1), ((7, 8), 2)]
    other = of(host, copy(10, 7), copy(20, 8), table("30 0 / master:8"))
    assert [len(frame.names) for frame in other.frames] == [1, 1, 1, 1]


def test_namespaces_that_differ_in_anything_shown_are_not_alike() -> None:
    base = "1 0 / shared:1"
    for one, other in (
        ("2 1 /a shared:2", "12 11 /b shared:3"),
        ("2 1 /a shared:2", "12 11 /a master:1"),
        ("2 1 /a shared:1", "12 11 /a shared:3"),
    ):
        assert len(of(table(base, one), table("11 0 / shared:1", other)).frames) == 2, one


def test_namespaces_that_differ_in_folded_private_mounts_alone_are_alike_and_the_counts_say_so() -> None:
    found = of(table("1 0 / shared:1", "2 1 /a"), table("11 0 / shared:1", "12 11 /b", "13 11 /c unbindable"))
    assert [(frame.private, frame.unbindable) for frame in found.frames] == [((1, 2), (0, 1))]


def test_a_master_out_of_sight_is_a_group_without_members_reached_through_one_that_is_seen() -> None:
    found = of(table("1 0 / shared:1", "2 1 /a master:5 propagate_from:1"))
    assert edges(found) == [(PEER, "m1", "g1"), (THROUGH, "g1", "g5"), (SLAVE, "g5", "m2")]
    assert keys(found.reach(next(found.nodes()))) == ["m2"]


def test_a_mount_reaches_its_peers_and_all_that_receives_from_them_however_far() -> None:
    found = of(
        table("1 0 / shared:1", "2 1 /a shared:1", "3 1 /b master:1", "4 1 /c shared:2 master:1", "5 1 /d master:2"),
        table("11 0 / shared:1"),
    )
    reached = {node.key: keys(found.reach(node)) for node in found.nodes()}
    assert reached["m1"] == ["m2", "m3", "m4", "m5", "m11"]
    assert reached["m11"] == ["m1", "m2", "m3", "m4", "m5"]
    assert reached["m4"] == ["m5"]
    assert reached["m3"] == reached["m5"] == []


def test_a_node_for_peers_in_many_namespaces_reaches_itself_but_not_where_each_has_its_own_group() -> None:
    found = of(table("1 0 / shared:1"), table("11 0 / shared:1"))
    assert [keys(found.reach(node)) for node in found.nodes()] == [["m1"]]
    found = of(table("1 0 / shared:1"), table("11 0 / shared:2"))
    assert [keys(found.reach(node)) for node in found.nodes()] == [[]]


def test_a_table_that_names_an_id_twice_or_a_circle_is_drawn_all_the_same() -> None:
    found = of(table("1 2 /a shared:1", "2 1 /a shared:1", "2 1 /b shared:1", "4 4 /a shared:4 master:4"))
    assert len({node.key for node in found.nodes()}) == 4
    assert [keys(found.reach(node)) for node in found.nodes()]


def test_nothing_is_an_empty_graph() -> None:
    assert (list(of().nodes()), list(of(table()).nodes())) == ([], [])
