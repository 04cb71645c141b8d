"""The ledger: what two listings or a notice mean, without a kernel."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mountfd.model.event import Event, Ledger
from mountfd.model.info import MountInfo, from_fields

States = dict[int, tuple[int, str]]


def mount(number: int, point: str | None, parent: int = 1, **fields: object) -> MountInfo:
    return from_fields({"id": number, "parent_id": parent, "point": point, "fstype": "tmpfs", **fields})


def old(number: int, point: str, parent: int = 1, **fields: object) -> MountInfo:
    return from_fields({"id_old": number, "parent_id_old": parent, "point": point, "fstype": "tmpfs", **fields})


def told(events: list[Event]) -> list[tuple[str, int | None]]:
    return [(event.kind, event.id) for event in events]


ROOT = mount(1, "/", 0)


def test_a_child_goes_along_with_its_parent() -> None:
    ledger = Ledger([ROOT, mount(2, "/a"), mount(3, "/a/b", 2)])
    assert told(ledger.compare([ROOT, mount(2, "/x/a"), mount(3, "/x/a/b", 2)])) == [("move", 2)]


def test_a_child_that_moved_beside_its_parent_is_told() -> None:
    ledger = Ledger([ROOT, mount(2, "/a"), mount(3, "/a/b", 2)])
    assert told(ledger.compare([ROOT, mount(2, "/x"), mount(3, "/x/c", 2)])) == [("move", 2), ("move", 3)]


def test_an_unreachable_mount_has_no_place_to_move_from() -> None:
    ledger = Ledger([ROOT, mount(2, None)])
    assert told(ledger.compare([ROOT, mount(2, None)])) == []
    assert told(Ledger([], "/a").attached(3, mount(3, None))) == []


def test_a_notice_that_a_comparison_has_told_already_is_silent() -> None:
    ledger = Ledger([ROOT, mount(2, "/a")])
    assert told(ledger.compare([ROOT, mount(3, "/b")])) == [("detach", 2), ("attach", 3)]
    assert ledger.detached(2) == ledger.attached(3, mount(3, "/b")) == ledger.moved(2, None, []) == []
    assert told(ledger.detached(3)) == [("detach", 3)]


def test_a_notice_before_any_comparison_is_always_told() -> None:
    ledger = Ledger([ROOT, mount(2, "/a")])
    assert told([*ledger.attached(2, mount(2, "/a")), *ledger.detached(9)]) == [("attach", 2), ("detach", 9)]


def test_an_old_id_is_another_mount_when_anything_that_never_changes_did() -> None:
    before = old(2, "/a", dev=(0, 40))
    assert told(Ledger([before]).compare([old(2, "/a", dev=(0, 40))])) == []
    assert told(Ledger([before]).compare([old(2, "/a", dev=(0, 41))])) == [("detach", None), ("attach", None)]
    assert told(Ledger([before]).compare([old(2, "/b", dev=(0, 40))])) == [("move", None)]


points = st.sampled_from(["/", "/in", "/in/a", "/in/a/b", "/inside", "/out", "/out/a"])
states: st.SearchStrategy[States] = st.dictionaries(st.integers(1, 9), st.tuples(st.integers(1, 9), points))


@given(st.lists(states, min_size=2, max_size=5), st.sampled_from([None, "/", "/in", "/in/a"]))
def test_events_applied_to_what_stood_give_what_stands(listings: list[States], under: str | None) -> None:
    def listing(state: States) -> list[MountInfo]:
        return [mount(number, point, parent) for number, (parent, point) in state.items()]

    def seen(state: States) -> set[int]:
        return {n for n, (_, p) in state.items() if under in (None, "/", p) or p.startswith(f"{under}/")}

    ledger = Ledger(listing(listings[0]), under)
    standing = seen(listings[0])
    for state in listings[1:]:
        for event in ledger.compare(listing(state)):
            assert event.id is not None
            if event.kind == "move":
                inside = event.id in seen(state)
                standing = standing | {event.id} if inside else standing - {event.id}
            else:
                assert (event.id in standing) is (event.kind == "detach")
                standing = standing ^ {event.id}
        assert standing == seen(state)


def test_an_event_shows_what_it_is_about() -> None:
    assert repr(Event("attach", 2, mount(2, "/a"))) == "<mountfd.Event attach 2 '/a'>"
    assert repr(Event("overflow")) == "<mountfd.Event overflow>"
