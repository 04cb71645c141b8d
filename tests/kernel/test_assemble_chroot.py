"""Assembling where the caller's root is a directory, and no mount."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mountfd import Missing, Overlay, assemble
from tests.support.inject import Watch, watching
from tests.support.layers import content, fill
from tests.support.mounting import MS_REC, MS_SHARED, bind, change, umount
from tests.support.others import in_chroot

pytestmark = pytest.mark.usefixtures("real_root")


@pytest.fixture
def jail(scratch: Path) -> Path:
    """Give a root with layers in it, which is no mount."""
    jail = fill(scratch / "jail")
    fill(jail / "one", {"f": "1"})
    fill(jail / "two", {"f": "hidden", "g": "2"})
    for name in ("upper", "work", "proc"):
        (jail / name).mkdir()
    return jail


def assembled_from(place: str) -> dict[str, str]:
    with assemble(Overlay([f"{place}/one", f"{place}/two"], f"{place}/upper", f"{place}/work")) as mount:
        return content(mount)


def test_layers_are_found_where_the_caller_sees_them(route: str, jail: Path) -> None:
    assembled_from(str(jail))  # what is loaded when first asked for isn't in sight of the jail
    bind(Path("/proc"), jail / "proc", MS_REC)
    try:
        assert in_chroot(jail, lambda: assembled_from("")) == {"f": "1", "g": "2"}
    finally:
        umount(jail / "proc")


def test_nothing_that_is_attached_on_the_way_is_seen_by_others(
    scratch: Path, jail: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", "assemble:string")
    change(scratch, MS_SHARED)
    assembled_from(str(jail))
    bind(Path("/proc"), jail / "proc", MS_REC)
    outside = f"/proc/{os.getpid()}/mountinfo"

    def act() -> tuple[set[bytes], int]:
        seen: set[bytes] = set()

        def look(_count: int, _name: str, _arguments: object) -> int:
            with open(outside, "rb") as file:
                seen.add(file.read())
            return 0

        with watching(Watch(look)) as watch:
            assembled_from("")
        return seen, watch.names.count("mount")

    try:
        seen, mounted = in_chroot(jail, act)
        assert seen == {Path(outside).read_bytes()}
        assert mounted > 1
    finally:
        umount(jail / "proc")


def test_without_proc_it_is_said_what_is_missing(jail: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", "assemble:string")
    assembled_from(str(jail))
    with pytest.raises(Missing) as caught:
        in_chroot(jail, lambda: assembled_from(""))
    assert "/proc" in str(caught.value.hint)
