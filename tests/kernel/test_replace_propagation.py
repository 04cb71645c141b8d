"""Mounts that come along hear of others, and are heard, as before, as far as the kernel lets them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mountfd import Feature, Propagation, has, is_mount, lookup, mounts
from mountfd.abi import features
from mountfd.verbs.replace import replace
from tests.kernel.test_replace import Stand, stand
from tests.support.layers import fill
from tests.support.mounting import MS_PRIVATE, MS_SHARED, MS_SLAVE, bind, change, tmpfs, umount
from tests.support.need import need

need(has(Feature.MOVE_MOUNT_BENEATH) and has(Feature.STATMOUNT), "MOVE_MOUNT_BENEATH and statmount(2) (Linux 6.8)")

__all__ = ["stand"]

Kind = tuple[bool, int | None, int | None]


def kind(point: Path) -> Kind:
    """Say whether the topmost mount there is shared, its group and its master."""
    row = lookup(point)
    return bool((row.propagation or 0) & Propagation.SHARED), row.peer_group, row.master


def kinds(point: Path) -> list[Kind]:
    """Say that of all that are stacked there, the lowest first."""
    rows = {row.id: row for row in mounts(under=point.parent) if row.point == str(point)}
    stack = [row for row in rows.values() if row.parent_id not in rows]
    while upper := [row for row in rows.values() if row.parent_id == stack[-1].id]:
        stack += upper
    return [(bool((row.propagation or 0) & Propagation.SHARED), row.peer_group, row.master) for row in stack]


def source(stand: Stand, name: str) -> Path:
    """Make a shared mount outside of the target."""
    place = tmpfs(stand.home / name)
    change(place, MS_SHARED)
    fill(place / "in")
    return place


def slave(stand: Stand, name: str, point: Path) -> Path:
    """Mount a slave of a shared mount that is made for it; it bears files as its master does."""
    bind(source(stand, name), point)
    change(point, MS_SLAVE)
    return point


@pytest.fixture(params=["this kernel", "before 6.15"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be mounted inside a detached mount, or do."""
    if request.param != "this kernel":
        found = dict.fromkeys(("MOUNT_INSIDE_DETACHED", "CLONE_DETACHED"), False)
        monkeypatch.setattr(features, "_found", {**features._found, **found})


def receives(stand: Stand, name: str, point: Path) -> bool:
    """Say whether what is mounted on the source is mounted there too, and then not any more."""
    tmpfs(stand.home / name / "in")
    seen = is_mount(point / "in")
    umount(stand.home / name / "in")
    return seen and not is_mount(point / "in")


def test_a_slave_stays_one_and_a_private_one_private(stand: Stand, kernel: None) -> None:
    change(tmpfs(stand.target / "sub"), MS_PRIVATE)
    slave(stand, "master", stand.target / "second")
    before = [kind(stand.target / name) for name in ("sub", "second")]
    assert [shared for shared, *_ in before] == [False, False]
    assert before[1][2]
    for version in ("new", "other"):
        replace(stand.target, stand.home / version).close()
        assert [kind(stand.target / name) for name in ("sub", "second")] == before
        assert receives(stand, "master", stand.target / "second")


def test_so_do_nested_ones(stand: Stand, kernel: None) -> None:
    sub = tmpfs(stand.target / "sub")
    change(sub, MS_PRIVATE)
    change(tmpfs(fill(sub / "private")), MS_PRIVATE)
    slave(stand, "master", fill(sub / "slave"))
    change(tmpfs(fill(sub / "shared")), MS_SHARED)
    names = ("sub", "sub/private", "sub/slave")
    before, shared = [kind(stand.target / name) for name in names], kind(sub / "shared")
    for version in ("new", "other"):
        replace(stand.target, stand.home / version).close()
        assert [kind(stand.target / name) for name in names] == before
        assert receives(stand, "master", sub / "slave")
        assert kind(sub / "shared")[0] == shared[0]
        if not lookup(stand.home).peer_group:
            assert kind(sub / "shared") == shared


def test_slaves_in_a_stack_stay_slaves_of_the_same(stand: Stand, kernel: None) -> None:
    slave(stand, "lower", stand.target / "sub")
    slave(stand, "upper", stand.target / "sub")
    before = kinds(stand.target / "sub")
    assert all(master for _, _, master in before)
    for version in ("new", "other"):
        replace(stand.target, stand.home / version).close()
        if lookup(stand.home).peer_group and not has(Feature.CLONE_DETACHED):
            # What lies hidden in a tree that was put together elsewhere can't be reached.
            assert kinds(stand.target / "sub")[1] == before[1]
            break
        assert kinds(stand.target / "sub") == before
        assert receives(stand, "upper", stand.target / "sub")


def test_the_topmost_of_a_stack_stays_in_its_group_and_the_lower_hears_of_its_own(stand: Stand, kernel: None) -> None:
    if lookup(stand.home).peer_group:
        change(stand.home, MS_PRIVATE)
    for name in ("lower", "upper"):
        bind(source(stand, name), stand.target / "sub")
    fill(stand.target / "sub/deep")
    change(tmpfs(stand.target / "sub/deep"), MS_SHARED)
    (_, lower, _), upper = kinds(stand.target / "sub")
    deep = kind(stand.target / "sub/deep")
    replace(stand.target, stand.home / "new").close()
    (is_shared, _, master), top = kinds(stand.target / "sub")
    assert (is_shared, master, top) == (True, lower, upper)
    assert kind(stand.target / "sub/deep") == deep
    assert receives(stand, "upper", stand.target / "sub")
