"""What watch tells of each thing that can happen to a mount, on both routes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import mountfd
from mountfd import Event, Gone, InvalidSpec, Missing, Mount, NotDirectory
from tests.support.mounting import (
    MNT_DETACH,
    MS_BIND,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    MS_SHARED,
    MS_SLAVE,
    bind,
    both_routes,
    change,
    move,
    tmpfs,
    umount,
    watching,
)
from tests.support.need import need

pytestmark = both_routes


def told(events: list[Event], scratch: Path) -> list[tuple[str, ...]]:
    """Give kinds and points, those of moves with where it was."""

    def short(info: mountfd.MountInfo | None) -> str:
        return "?" if info is None or info.point is None else os.path.relpath(info.point, scratch)

    return [
        (event.kind, short(event.info), *([short(event.previous)] if event.kind == "move" else [])) for event in events
    ]


def test_attach_and_detach(route: str, scratch: Path) -> None:
    with watching(route) as events:
        tmpfs(scratch / "a")
        (attach,) = events.read()
        known = mountfd.lookup(scratch / "a")
        assert (attach.kind, attach.id, attach.info, attach.previous) == ("attach", known.id, known, None)
        umount(scratch / "a")
        (detach,) = events.read()
        assert (detach.kind, detach.id, detach.info) == ("detach", known.id, known)
        assert events.read() == []


def test_what_stood_before_is_known_when_it_goes(route: str, scratch: Path) -> None:
    tmpfs(scratch / "a")
    with watching(route) as events:
        assert events.read() == []
        umount(scratch / "a")
        assert told(events.read(), scratch) == [("detach", "a")]


def test_a_bind_is_an_attach(route: str, scratch: Path) -> None:
    with watching(route) as events:
        bind(scratch / "a" if (scratch / "a").exists() else scratch, scratch / "b")
        (event,) = events.read()
        assert told([event], scratch) == [("attach", "b")]
        assert event.info is not None
        assert event.info.fstype == "tmpfs"
        umount(scratch / "b")


def test_a_move_is_one_event_and_takes_along_what_stands_on_it(route: str, scratch: Path) -> None:
    tmpfs(scratch / "a")
    tmpfs(scratch / "a" / "child")
    with watching(route) as events:
        move(scratch / "a", scratch / "b")
        assert told(events.read(), scratch) == [("move", "b", "a")]
        umount(scratch / "b" / "child")
        assert told(events.read(), scratch) == [("detach", "b/child")]
    umount(scratch / "b")


def test_a_lazy_umount_detaches_each_mount_of_the_tree(route: str, scratch: Path) -> None:
    for name in ("a", "a/b", "a/b/c", "a/d"):
        tmpfs(scratch / name)
    with watching(route) as events:
        umount(scratch / "a", MNT_DETACH)
        assert sorted(told(events.read(), scratch)) == [("detach", name) for name in ("a", "a/b", "a/b/c", "a/d")]


def test_each_copy_that_propagation_makes_is_told(route: str, scratch: Path) -> None:
    change(tmpfs(scratch / "a"), MS_SHARED)
    bind(scratch / "a", scratch / "peer")
    change(bind(scratch / "a", scratch / "slave"), MS_SLAVE)
    with watching(route) as events:
        tmpfs(scratch / "a" / "x")
        assert sorted(told(events.read(), scratch)) == [("attach", f"{name}/x") for name in ("a", "peer", "slave")]
        umount(scratch / "peer" / "x")
        assert sorted(told(events.read(), scratch)) == [("detach", f"{name}/x") for name in ("a", "peer", "slave")]
    for name in ("a", "peer", "slave"):
        umount(scratch / name)


def test_a_mount_beneath_is_an_attach_and_the_top_has_not_moved(route: str, scratch: Path) -> None:
    need(mountfd.has(mountfd.Feature.MOVE_MOUNT_BENEATH), "MOVE_MOUNT_BENEATH (Linux 6.5)")
    tmpfs(scratch / "a")
    top = mountfd.lookup(scratch / "a").id
    with watching(route) as events, mountfd.FsContext.open("tmpfs") as context:
        with context.create().mount() as new:
            new.attach(scratch / "a", beneath=True)
        (event,) = events.read()
        assert (told([event], scratch), event.id != top) == ([("attach", "a")], True)
        umount(scratch / "a")
        assert [(event.kind, event.id) for event in events.read()] == [("detach", top)]
    umount(scratch / "a")


def test_what_is_no_event(route: str, scratch: Path) -> None:
    tmpfs(scratch / "a")
    with watching(route) as events:
        change(scratch / "a", MS_REMOUNT | MS_BIND | MS_RDONLY)
        change(scratch / "a", MS_REMOUNT)
        change(scratch / "a", MS_SHARED)
        change(scratch / "a", MS_PRIVATE | MS_REC)
        with Mount.clone(scratch / "a"), mountfd.FsContext.open("tmpfs") as context:
            context.create().mount().close()
        assert events.read() == []
    umount(scratch / "a")


def test_a_mount_that_is_gone_before_it_is_asked_about(route: str, scratch: Path) -> None:
    with watching(route) as events, watching(route, under=scratch) as under:
        umount(tmpfs(scratch / "a"))
        seen = events.read()
        # One route tells the steps, the other that nothing is different.
        expected = [("attach", "?"), ("detach", "?")] if route == "fanotify" else []
        assert told(seen, scratch) == expected
        assert len({event.id for event in seen}) == len(expected) / 2
        assert under.read() == []


# --- under ---------------------------------------------------------------------------------------------------------
def test_under_leaves_out_the_rest(route: str, scratch: Path) -> None:
    (scratch / "in").mkdir()
    with watching(route, under=scratch / "in") as events:
        tmpfs(scratch / "inside")  # begins with the same letters
        tmpfs(scratch / "in")
        tmpfs(scratch / "in" / "a")
        assert told(events.read(), scratch) == [("attach", "in"), ("attach", "in/a")]
        umount(scratch / "inside")
        umount(scratch / "in", MNT_DETACH)
        assert sorted(told(events.read(), scratch)) == [("detach", "in"), ("detach", "in/a")]


def test_under_sees_what_crosses_its_border(route: str, scratch: Path) -> None:
    (scratch / "in").mkdir()
    tmpfs(scratch / "a")
    tmpfs(scratch / "a" / "child")
    with watching(route, under=scratch / "in") as events:
        move(scratch / "a", scratch / "in" / "a")
        assert told(events.read(), scratch) == [("move", "in/a", "a"), ("move", "in/a/child", "a/child")]
        move(scratch / "in" / "a", scratch / "in" / "b")
        assert told(events.read(), scratch) == [("move", "in/b", "in/a")]
        move(scratch / "in" / "b", scratch / "out")
        assert told(events.read(), scratch) == [("move", "out", "in/b"), ("move", "out/child", "in/b/child")]
        umount(scratch / "out", MNT_DETACH)
        assert events.read() == []


def test_under_is_resolved_when_the_watch_begins(route: str, scratch: Path) -> None:
    (scratch / "in").mkdir()
    (scratch / "link").symlink_to("in")
    with watching(route, under=scratch / "link") as events:
        (scratch / "link").unlink()
        tmpfs(scratch / "in" / "a")
        assert told(events.read(), scratch) == [("attach", "in/a")]
        umount(scratch / "in" / "a")


def test_under_the_root_is_everything(route: str, scratch: Path) -> None:
    with watching(route, under="/") as events:
        tmpfs(scratch / "a")
        assert told(events.read(), scratch) == [("attach", "a")]
        umount(scratch / "a")


def test_names_may_hold_anything(route: str, scratch: Path) -> None:
    point = Path(os.fsdecode(os.fsencode(scratch) + b"/a b\n\\040\xff\r"))
    point.mkdir()
    with watching(route, under=point) as events:
        tmpfs(point)
        (event,) = events.read()
        assert event.info is not None
        assert event.info.point == str(point)
        umount(point)


# --- bad input -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"under": "/no/such/place"}, Missing),
        ({"under": "/dev/null/x"}, NotDirectory),
        ({"under": ""}, InvalidSpec),
        ({"under": "relative", "namespace": "/proc/self/ns/mnt"}, InvalidSpec),
        ({"namespace": 2**22 + 1}, Gone),
        ({"namespace": "/no/such/place"}, Missing),
        ({"namespace": "/dev/null"}, InvalidSpec),
        ({"namespace": "/proc/self/ns/net"}, InvalidSpec),
        ({"namespace": "all"}, InvalidSpec),
        ({"namespace": 1.5}, InvalidSpec),
        ({"namespace": True}, InvalidSpec),
    ],
)
def test_bad_input_is_refused(route: str, arguments: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error), watching(route, **arguments):
        pass


def test_a_closed_watch_says_so(route: str) -> None:
    with watching(route) as events:
        pass
    events.close()
    assert events.closed
    for use in (events.read, events.fileno, lambda: iter(events)):
        with pytest.raises(InvalidSpec, match="closed"):
            use()
    assert next(events, None) is None
