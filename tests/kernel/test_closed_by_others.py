"""A process that closes every descriptor, as daemons do when they begin, whoever opened it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mountfd import IdMap, Layer, Mount, MountNamespace, Overlay, UserNamespace, assemble
from mountfd.lowlevel import drop_caches
from tests.support.layers import content, layers, pair
from tests.support.others import in_child

pytestmark = pytest.mark.usefixtures("real_root")


def descriptors() -> set[int]:
    """List what is open, but for the listing's own."""
    return {int(name) for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")}


def use(scratch: Path, lower: list[Path]) -> dict[str, str]:
    """Use all that is kept: a user namespace, a tiny mount namespace, the kernel's log."""
    with Mount.clone(scratch) as mount:
        mount.idmap(IdMap.parse("0:5:1"))
    MountNamespace.new(scratch).close()
    with assemble(Overlay([lower[0], Layer(lower[1], IdMap.parse("0:6:1"))], *pair(scratch))) as root:
        return content(root)


@pytest.mark.parametrize("taken", [False, True], ids=["and no more", "and opens others"])
def test_what_was_kept_is_made_anew_and_no_strangers_file_is_taken_for_it(scratch: Path, taken: bool) -> None:
    lower = layers(scratch, 2)
    (scratch / "stranger").write_text("s")

    def act() -> tuple[dict[str, str], list[str]]:
        drop_caches()
        before = descriptors()
        use(scratch, lower)
        kept = descriptors() - before
        assert len(kept) >= 3
        for fd in kept:
            os.close(fd)
        strangers: list[int] = []
        while taken and len(strangers) < len(kept):
            strangers.append(os.open(scratch / "stranger", os.O_RDONLY))
        found = use(scratch, lower)
        drop_caches()
        return found, [os.read(fd, 9).decode() for fd in strangers]

    found, read = in_child(act)
    assert found == {"common": "0", "own0": "0", "own1": "1"}
    assert read == ["s"] * len(read)
    assert bool(read) == taken


def test_a_user_namespace_of_ones_own_is_no_affair_of_the_cache() -> None:
    with UserNamespace.new(IdMap.parse("0:5:1")) as namespace:
        drop_caches()
        assert os.fstat(namespace.fileno())
