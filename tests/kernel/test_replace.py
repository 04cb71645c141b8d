"""Another mount in place of one that stands: what it shows, what comes along, what the checks decide."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from errno import EINVAL, EPERM
from pathlib import Path

import pytest

from mountfd import (
    Busy,
    Feature,
    InvalidSpec,
    KernelError,
    Missing,
    Mount,
    MountfdError,
    MountSpec,
    Overlay,
    has,
    is_mount,
    lookup,
    mounts,
)
from mountfd.lowlevel import calls
from mountfd.verbs.replace import Previous, plan, replace
from tests.kernel.test_holders import another
from tests.support.inject import lacking, watching
from tests.support.layers import content, fill, inside, layers, pair
from tests.support.mounting import MNT_DETACH, MS_PRIVATE, MS_SHARED, bind, change, move, tmpfs, umount
from tests.support.need import need

need(has(Feature.MOVE_MOUNT_BENEATH) and has(Feature.STATMOUNT), "MOVE_MOUNT_BENEATH and statmount(2) (Linux 6.8)")

MS_UNBINDABLE = 1 << 17


class Stand:
    """A mount `t` that shows v=old, and directories `new` and `other` to replace it by."""

    def __init__(self, home: Path) -> None:
        """Make them."""
        self.home = home
        self.target = tmpfs(home / "t")
        for place, text in ((self.target, "old"), (home / "new", "new"), (home / "other", "other")):
            fill(place, {"v": text, "sub/base": text, "second/base": text, "deep/er/base": text, "file": text})

    def shows(self) -> str:
        """Read what it shows."""
        return (self.target / "v").read_text()

    def height(self) -> int:
        """Count the mounts that are stacked at the target."""
        return sum(row.point == str(self.target) for row in mounts(fields=("point",)))


@pytest.fixture(params=["private", "shared"])
def stand(scratch: Path, request: pytest.FixtureRequest) -> Iterator[Stand]:
    """Let it stand on a mount that is private, or shared."""
    home = tmpfs(scratch / "home")
    if request.param == "shared":
        change(home, MS_SHARED)
    yield Stand(home)
    umount(home, MNT_DETACH)


def table(below: Path) -> list[tuple[str, object]]:
    """Tell what stands below a directory."""
    rows = mounts(under=below, fields=("point", "dev"))
    return sorted((row.point or "", row.dev) for row in rows if row.point != str(below))


# --- what it shows ------------------------------------------------------------------------------------------------
def test_the_new_one_shows_and_the_previous_one_can_be_read_and_put_back(stand: Stand) -> None:
    before = lookup(stand.target).id
    with replace(stand.target, stand.home / "new") as previous:
        assert (stand.shows(), stand.height()) == ("new", 1)
        assert (previous.old_id, previous.carried, previous.gap) == (before, 0, False)
        assert isinstance(previous, Previous)
        assert content(previous)["v"] == "old"
        replace(stand.target, previous).close()
    assert (stand.shows(), stand.height()) == ("old", 1)


def test_the_old_mount_goes_at_once_when_nobody_uses_it(stand: Stand) -> None:
    before = lookup(stand.target).id
    replace(stand.target, stand.home / "new").close()
    with pytest.raises(MountfdError):
        lookup(id=before)


@pytest.mark.parametrize("kind", ["overlay", "spec", "mount", "bytes", "attached"])
def test_the_new_one_may_be_described_in_each_way(stand: Stand, kind: str) -> None:
    with ExitStack() as held:
        new: Mount | Overlay | MountSpec | bytes = bytes(stand.home / "new")
        if kind == "overlay":
            new = Overlay([stand.home / "new", stand.home / "other"])
        elif kind == "spec":
            new = MountSpec("bind", str(stand.home / "new"), options=["bind", "ro"])
        elif kind == "mount":
            new = held.enter_context(Mount.clone(stand.home / "new"))
        elif kind == "attached":
            new = held.enter_context(Mount.open(bind(stand.home / "new", stand.home / "elsewhere")))
        replace(stand.target, new).close()
        assert stand.shows() == "new"
        if kind == "mount":
            assert isinstance(new, Mount)
            assert content(new)["v"] == "new"
        if kind == "attached":
            assert is_mount(stand.home / "elsewhere")


def test_a_mount_can_be_replaced_by_itself_and_by_a_part_of_itself(stand: Stand) -> None:
    replace(stand.target, stand.target).close()
    assert (stand.shows(), stand.height()) == ("old", 1)
    fill(stand.target / "part", {"v": "part"})
    replace(stand.target, stand.target / "part").close()
    assert (stand.shows(), stand.height()) == ("part", 1)


def test_a_file_is_replaced_by_a_file(stand: Stand) -> None:
    target = stand.home / "mounted"
    target.touch()
    calls.mount(bytes(stand.home / "other/v"), bytes(target), None, 0x1000, None)
    with replace(target, stand.home / "new/v") as previous:
        assert (target.read_text(), inside_file(previous)) == ("new", "other")
    with pytest.raises(InvalidSpec, match="is a file, the new mount's root is a directory"):
        replace(target, stand.home / "new")
    with pytest.raises(InvalidSpec, match="is a directory, the new mount's root is a file"):
        replace(stand.target, stand.home / "new/v")
    assert (target.read_text(), stand.shows()) == ("new", "old")


def inside_file(mount: Mount) -> str:
    return Path(f"/proc/self/fd/{mount.fileno()}").read_text()


@pytest.mark.parametrize("name", ["with a space", "with\nnewline", "\udcff", "back\\slash", "-o"])
def test_any_name_will_do(stand: Stand, name: str) -> None:
    point = tmpfs(stand.home / name)
    fill(point, {"v": "old", "sub/x": ""})
    tmpfs(point / "sub")
    fill(stand.home / "new")
    replace(point, stand.home / "new").close()
    assert (point / "v").read_text() == "new"
    assert is_mount(point / "sub")


def test_the_target_may_be_relative_or_a_symlink(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(stand.home)
    replace("t", "new").close()
    assert stand.shows() == "new"
    (stand.home / "link").symlink_to("t")
    replace("./link/.", stand.home / "other").close()
    assert (stand.shows(), stand.height()) == ("other", 1)
    monkeypatch.chdir("/")


def test_who_is_in_the_old_one_by_its_working_directory_stays_there(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(stand.target)
    replace(stand.target, stand.home / "new").close()
    assert Path("v").read_text() == "old"
    monkeypatch.chdir("/")


def test_only_the_top_of_a_stack_is_replaced(stand: Stand) -> None:
    fill(tmpfs(stand.target), {"v": "upper"})
    assert stand.height() == 2
    with replace(stand.target, stand.home / "new") as previous:
        assert content(previous)["v"] == "upper"
    assert (stand.shows(), stand.height()) == ("new", 2)
    umount(stand.target)
    assert stand.shows() == "old"


# --- propagation --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("way", [MS_SHARED, MS_PRIVATE])
def test_it_is_shared_or_private_as_the_old_one_was(stand: Stand, way: int) -> None:
    change(stand.target, way)
    before = lookup(stand.target).propagation
    replace(stand.target, stand.home / "new").close()
    assert lookup(stand.target).propagation == before


def test_mounts_below_stay_shared_or_private(stand: Stand) -> None:
    change(tmpfs(stand.target / "sub"), MS_PRIVATE)
    change(tmpfs(stand.target / "second"), MS_SHARED)
    change(stand.target, MS_SHARED)
    before = [lookup(stand.target / name).propagation for name in ("sub", "second")]
    group = lookup(stand.target / "second").peer_group
    replace(stand.target, stand.home / "new").close()
    assert [lookup(stand.target / name).propagation for name in ("sub", "second")] == before
    assert lookup(stand.target / "second").peer_group == group


def test_what_comes_along_does_not_appear_in_what_the_new_one_was_cloned_from(stand: Stand) -> None:
    source = fill(tmpfs(stand.home / "source"), {"sub/x": "", "v": "new"})
    for place in (source, stand.target):
        change(place, MS_SHARED)
    tmpfs(stand.target / "sub")
    replace(stand.target, source).close()
    assert table(source) == []
    assert is_mount(stand.target / "sub")


# --- mounts below -------------------------------------------------------------------------------------------------
def test_mounts_below_come_along_and_are_the_same(stand: Stand) -> None:
    held = fill(tmpfs(stand.target / "sub"), {"kept": "kept"})
    fill(tmpfs(held / "nested") / "in", {"x": "x"})
    calls.mount(bytes(stand.home / "other/v"), bytes(stand.target / "file"), None, 0x1000, None)
    fill(tmpfs(stand.target / "second"), {"lower": ""})
    fill(tmpfs(stand.target / "second"), {"upper": ""})
    before, device = table(stand.target), os.stat(held).st_dev
    with open(held / "kept", "a") as file:
        with replace(stand.target, stand.home / "new") as previous:
            assert previous.carried == 4
        file.write(" and written")
    assert (stand.shows(), table(stand.target), os.stat(held).st_dev) == ("new", before, device)
    assert (held / "kept").read_text() == "kept and written"
    assert (stand.target / "file").read_text() == "other"
    assert os.listdir(stand.target / "second") == ["upper"]
    umount(stand.target / "second")
    assert os.listdir(stand.target / "second") == ["lower"]


def test_mounts_deeper_down_come_along_although_all_are_shared(stand: Stand) -> None:
    for place in (stand.target / "sub", stand.target / "sub/one", stand.target / "sub/one/two"):
        change(tmpfs(place), MS_SHARED)
    change(stand.target, MS_SHARED)
    before = table(stand.target)
    for name in ("new", "other"):
        replace(stand.target, stand.home / name).close()
        assert (stand.shows(), table(stand.target)) == (name, before)
    with pytest.raises(ZeroDivisionError):
        replace(stand.target, stand.home / "new", check_after=fail)
    assert (stand.shows(), table(stand.target)) == ("other", before)


def test_what_the_old_one_was_bound_from_keeps_its_mounts(stand: Stand) -> None:
    """Unmounting would travel to them, as mounting did; nobody else has a copy of the target, so it needn't travel."""
    source = fill(tmpfs(stand.home / "source"), {"sub/x": "", "v": "source"})
    change(source, MS_SHARED)
    umount(stand.target)
    bind(source, stand.target)
    fill(tmpfs(source / "sub"), {"kept": ""})
    before = table(source)
    assert [name for name, _ in table(stand.target)] == [f"{stand.target}/sub"]
    replace(stand.target, stand.home / "new").close()
    assert (stand.shows(), table(source)) == ("new", before)
    assert os.listdir(stand.target / "sub") == ["kept"]


def test_a_mount_that_is_hidden_by_another_comes_along_hidden(stand: Stand) -> None:
    for place in (stand.target, stand.home / "new"):
        fill(place / "deep/er")
    fill(tmpfs(stand.target / "deep/er"), {"hidden": ""})
    fill(tmpfs(stand.target / "deep"), {"hiding": ""})
    before = table(stand.target)
    replace(stand.target, stand.home / "new").close()
    assert (os.listdir(stand.target / "deep"), table(stand.target)) == (["hiding"], before)
    umount(stand.target / "deep")
    assert os.listdir(stand.target / "deep/er") == ["hidden"]


def test_they_can_be_dropped_or_refused(stand: Stand) -> None:
    fill(tmpfs(stand.target / "sub"), {"kept": "kept"})
    with pytest.raises(InvalidSpec, match=r"mounts stand below .*/t/sub") as caught:
        replace(stand.target, stand.home / "new", submounts="refuse")
    assert caught.value.part == "submounts"
    assert stand.shows() == "old"
    with replace(stand.target, stand.home / "new", submounts="drop") as previous:
        assert (stand.shows(), table(stand.target)) == ("new", [])
        assert (inside(previous) / "sub/kept").read_text() == "kept"
        replace(stand.target, previous).close()
    assert (stand.target / "sub/kept").read_text() == "kept"
    with pytest.raises(InvalidSpec, match="carry, drop, refuse"):
        replace(stand.target, stand.home / "new", submounts="keep")  # type: ignore[arg-type]


def test_an_unbindable_one_below_is_refused_by_name_and_nothing_changes(stand: Stand) -> None:
    tmpfs(stand.target / "second")
    change(tmpfs(stand.target / "sub"), MS_UNBINDABLE)
    before = table(stand.target)
    with pytest.raises(InvalidSpec, match="/t/sub' is unbindable"):
        replace(stand.target, stand.home / "new")
    assert (stand.shows(), table(stand.target), stand.height()) == ("old", before, 1)


def test_an_unbindable_target_is_refused(stand: Stand) -> None:
    change(stand.target, MS_UNBINDABLE)
    with pytest.raises(KernelError) as caught:
        replace(stand.target, stand.home / "new")
    assert "unbindable" in str(caught.value.hint)
    assert (stand.shows(), stand.height()) == ("old", 1)


@pytest.mark.parametrize("what", ["nothing", "a file"])
def test_a_new_root_without_their_place_is_refused_and_nothing_changes(stand: Stand, what: str) -> None:
    tmpfs(stand.target / "sub")
    tmpfs(stand.target / "deep/er")
    (stand.home / "new/deep/er/base").unlink()
    (stand.home / "new/deep/er").rmdir()
    if what == "a file":
        (stand.home / "new/deep/er").touch()
    before = table(stand.target)
    with Mount.clone(stand.home / "new") as new, pytest.raises(KernelError) as caught:
        replace(stand.target, new)
    if what == "nothing":
        assert isinstance(caught.value, Missing)
    assert caught.value.filename == "deep/er"
    assert (stand.shows(), table(stand.target), stand.height()) == ("old", before, 1)


def test_what_stands_below_the_new_one_comes_too(stand: Stand) -> None:
    fill(tmpfs(stand.home / "new/sub"), {"own": ""})
    tmpfs(stand.target / "second")
    with Mount.clone(stand.home / "new", recursive=True) as new:
        replace(stand.target, new).close()
    assert os.listdir(stand.target / "sub") == ["own"]
    assert is_mount(stand.target / "second")
    assert not is_mount(stand.home / "new/second")


# --- who uses the old one -----------------------------------------------------------------------------------------
def test_who_holds_the_old_one_keeps_it_is_named_and_it_goes_with_him(stand: Stand) -> None:
    lower, (upper, work) = layers(stand.home, 2), pair(stand.home)
    replace(stand.target, Overlay(lower, upper, work)).close()
    (stand.target / "written").write_text("w")
    with another(lambda: os.open(stand.target / "written", os.O_RDONLY)) as pid:
        with replace(stand.target, stand.home / "new") as previous:
            assert stand.shows() == "new"
            assert [holder.pid for holder in previous.holders()] == [pid]
            assert Path(f"/proc/{pid}/fd").is_dir()
        with pytest.raises(Busy):
            replace(stand.target, Overlay(lower, upper, work))
        assert stand.shows() == "new"
    replace(stand.target, Overlay(lower, upper, work)).close()
    assert (stand.target / "written").read_text() == "w"


def test_an_overlay_over_the_upper_layer_of_the_one_that_stands_is_refused(stand: Stand) -> None:
    lower, (upper, work) = layers(stand.home, 2), pair(stand.home)
    replace(stand.target, Overlay(lower, upper, work)).close()
    before = lookup(stand.target).id
    with pytest.raises(Busy) as caught:
        replace(stand.target, Overlay(lower[1:], upper, work))
    assert any("an upper layer of its own" in note for note in caught.value.__notes__)
    assert lookup(stand.target).id == before


def test_it_waits_for_who_uses_the_old_one_as_long_as_told(stand: Stand) -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.chdir(stand.target)
        os.write(writing, b"x")
        os.close(writing)
        while stand.home.joinpath("stay").exists():
            pass
        os._exit(0)
    os.close(writing)
    assert os.read(reading, 1) == b"x"
    os.close(reading)
    replace(stand.target, stand.home / "new", wait=0.05).close()
    assert stand.shows() == "new"
    os.waitpid(pid, 0)


# --- checks -------------------------------------------------------------------------------------------------------
def test_the_check_sees_the_whole_new_mount_and_nobody_else_does(stand: Stand) -> None:
    fill(tmpfs(stand.target / "sub"), {"kept": "kept"})
    seen: list[str] = []

    def check(new: Mount) -> bool:
        seen.append((inside(new) / "v").read_text() + (inside(new) / "sub/kept").read_text())
        seen.append(stand.shows())
        return True

    replace(stand.target, stand.home / "new", check=check).close()
    assert (seen, stand.shows()) == (["newkept", "old"], "new")


@pytest.mark.parametrize("answer", [None, 0, "", [], False])
def test_a_check_that_answers_nothing_true_refuses(stand: Stand, answer: object) -> None:
    for question in ("check", "check_after"):
        with pytest.raises(MountfdError, match="check"):
            replace(stand.target, stand.home / "new", **{question: lambda _: answer})  # type: ignore[arg-type]
        assert (stand.shows(), stand.height()) == ("old", 1)


def refuse(_new: Mount) -> bool:
    return False


def fail(_new: Mount) -> bool:
    raise ZeroDivisionError


def interrupt(_new: Mount) -> bool:
    raise KeyboardInterrupt


@pytest.mark.parametrize("which", ["check", "check_after"])
@pytest.mark.parametrize(
    ("check", "error"), [(refuse, MountfdError), (fail, ZeroDivisionError), (interrupt, KeyboardInterrupt)]
)
def test_a_check_that_refuses_or_fails_leaves_what_was(
    stand: Stand, which: str, check: Callable[[Mount], bool], error: type[BaseException]
) -> None:
    fill(tmpfs(stand.target / "sub"), {"kept": "kept"})
    before, device = table(stand.target), os.stat(stand.target).st_dev
    with pytest.raises(error):
        replace(stand.target, stand.home / "new", **{which: check})  # type: ignore[arg-type]
    assert (stand.shows(), table(stand.target), stand.height()) == ("old", before, 1)
    assert (stand.target / "sub/kept").read_text() == "kept"
    assert os.stat(stand.target).st_dev == device


def test_putting_back_takes_away_what_came_with_the_new_one(stand: Stand) -> None:
    fill(tmpfs(stand.target / "sub"), {"kept": "kept"})
    fill(tmpfs(stand.home / "new/sub"), {"own": "", "below": ""})
    fill(stand.home / "new", {"only/here": ""})
    tmpfs(stand.home / "new/only")
    before = table(stand.target)
    with Mount.clone(stand.home / "new", recursive=True) as new, pytest.raises(MountfdError):
        replace(stand.target, new, check_after=refuse)
    assert (stand.shows(), table(stand.target)) == ("old", before)
    assert (stand.target / "sub/kept").read_text() == "kept"


def test_what_was_mounted_during_the_check_afterwards_stays_where_it_has_a_place(stand: Stand) -> None:
    fill(stand.home / "new", {"only/here": ""})

    def check(_new: Mount) -> bool:
        fill(tmpfs(stand.target / "second"), {"fresh": ""})
        tmpfs(stand.target / "only")
        return False

    with pytest.raises(MountfdError, match="before is back"):
        replace(stand.target, stand.home / "new", check_after=check)
    assert stand.shows() == "old"
    assert os.listdir(stand.target / "second") == ["fresh"]


def test_what_somebody_else_put_there_during_the_check_is_not_taken_away(stand: Stand) -> None:
    def check(_new: Mount) -> bool:
        replace(stand.target, stand.home / "other").close()
        return False

    with pytest.raises(InvalidSpec, match="changed meanwhile") as caught:
        replace(stand.target, stand.home / "new", check_after=check)
    assert "could not be put back" in str(caught.value.__notes__)
    assert stand.shows() == "other"


def test_what_was_mounted_upon_the_old_one_during_the_check_is_not_taken_away(stand: Stand) -> None:
    def check(_new: Mount) -> bool:
        fill(tmpfs(stand.target), {"v": "upper"})
        return True

    with pytest.raises(MountfdError):
        replace(stand.target, stand.home / "new", check=check)
    assert stand.shows() == "upper"
    umount(stand.target)
    assert (stand.shows(), stand.height()) == ("old", 1)


def test_a_process_that_the_check_starts_does_not_keep_others_waiting(stand: Stand) -> None:
    started: list[int] = []

    def check(_new: Mount) -> bool:
        pid = os.fork()
        if pid == 0:
            os.read(reading, 1)
            os._exit(0)
        started.append(pid)
        return True

    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    try:
        replace(stand.target, stand.home / "new", check=check).close()
        replace(stand.target, stand.home / "other").close()
    finally:
        os.write(writing, b"x")
        os.waitpid(started[0], 0)
        os.close(reading)
        os.close(writing)
    assert stand.shows() == "other"


# --- what can't be replaced ---------------------------------------------------------------------------------------
def test_what_is_no_mount_and_the_own_root_are_refused(stand: Stand) -> None:
    with pytest.raises(InvalidSpec, match="is no mount, so there is nothing to replace"):
        replace(stand.home / "new", stand.home / "other")
    with pytest.raises(InvalidSpec, match="is the root of this process"):
        replace("/", stand.home / "other")
    with pytest.raises(Missing):
        replace(stand.home / "gone", stand.home / "other")
    with pytest.raises(Missing):
        replace(stand.target, stand.home / "gone")
    with pytest.raises(InvalidSpec, match="not by 7"):
        replace(stand.target, 7)  # type: ignore[arg-type]
    assert stand.shows() == "old"


@pytest.mark.parametrize("shape", ["of itself", "of what is around it", "upon what is around it"])
def test_what_would_come_back_to_it_is_refused(scratch: Path, shape: str) -> None:
    home = fill(tmpfs(scratch / "w"), {"v": "base"})
    change(home, MS_SHARED)
    (home / "e/b").mkdir(parents=True)
    (home / "peer").mkdir()
    source, target = {
        "of itself": (home / "peer", home / "peer"),
        "of what is around it": (home, home / "peer"),
        "upon what is around it": (home / "e", home / "e/b"),
    }[shape]
    bind(source, target)
    before = table(scratch)
    with pytest.raises(InvalidSpec, match="would come back to it"):
        replace(target, fill(scratch / "new"))
    assert table(scratch) == before
    assert any("would come back" in line for line in plan(target))
    umount(home, MNT_DETACH)


def test_a_bind_of_a_part_of_the_same_filesystem_is_none_of_these(scratch: Path) -> None:
    home = fill(tmpfs(scratch / "w"), {"v": "base"})
    change(home, MS_SHARED)
    target = bind(fill(home / "v1", {"v": "old"}), home / "t")
    with replace(target, fill(home / "v2", {"v": "new"})):
        assert (target / "v").read_text() == "new"
    umount(home, MNT_DETACH)


def test_a_private_one_on_a_shared_one_is_replaced_for_those_who_received_it(scratch: Path) -> None:
    home = tmpfs(scratch / "w")
    change(home, MS_SHARED)
    peer = bind(home, scratch / "peer")
    target = fill(tmpfs(home / "t"), {"v": "old"})
    change(target, MS_PRIVATE)
    before = table(scratch)
    for number in range(3):
        with replace(target, fill(scratch / f"new{number}", {"v": str(number)})):
            assert [(place / "t/v").read_text() for place in (home, peer)] == [str(number)] * 2
        assert not lookup(target).peer_group
    assert len(table(scratch)) == len(before)
    umount(peer, MNT_DETACH)
    umount(home, MNT_DETACH)


def test_a_replacement_during_a_check_is_noticed(stand: Stand) -> None:
    fill(stand.target / "later")
    with pytest.raises(Busy) as caught:
        replace(stand.target, stand.home / "new", check=lambda _: bool(tmpfs(stand.target / "later")))
    assert "came or went meanwhile: try again" in str(caught.value.hint)
    assert stand.shows() == "old"
    umount(stand.target / "later")


def test_what_was_moved_upon_a_newer_one_is_no_half_replacement(scratch: Path) -> None:
    live = fill(tmpfs(scratch / "x"), {"v": "live"})
    calls.mount(None, bytes(live), None, 0x20 | 0x1000 | 0x400 | 0x800, None)  # noatime, nodiratime
    fill(tmpfs(scratch / "t"), {"v": "under"})
    move(live, scratch / "t")
    with pytest.raises(MountfdError):
        replace(scratch / "t", fill(scratch / "new"), check=lambda _: False)
    assert (scratch / "t/v").read_text() == "live"
    umount(scratch / "t")
    umount(scratch / "t")


def test_an_unbindable_mount_further_down_is_refused_too(stand: Stand) -> None:
    sub = tmpfs(fill(stand.target / "sub"))
    deep = tmpfs(fill(sub / "deep"))
    change(deep, 1 << 17)
    with pytest.raises(InvalidSpec, match="unbindable"):
        replace(stand.target, stand.home / "new")
    umount(deep)
    umount(sub)


def test_the_bare_call_has_its_own_hint(stand: Stand) -> None:
    with Mount.clone(stand.home / "new") as new, pytest.raises(KernelError) as caught:
        new.attach(stand.home / "other", beneath=True)
    assert "no mount stands there" in str(caught.value.hint)


# --- what was begun and never ended -------------------------------------------------------------------------------
def test_one_that_was_killed_half_way_is_ended_by_the_next(stand: Stand) -> None:
    with watching(lacking("umount2", errno=EPERM)), pytest.raises(KernelError):
        replace(stand.target, stand.home / "new")
    assert (stand.shows(), stand.height()) == ("old", 2)
    assert any("never ended" in line for line in plan(stand.target))
    with replace(stand.target, stand.home / "other") as previous:
        assert content(previous)["v"] == "new"
    assert (stand.shows(), stand.height()) == ("other", 1)


def test_one_that_was_older_than_what_it_replaced_is_ended_too(stand: Stand) -> None:
    with Mount.clone(stand.home / "new") as new:
        replace(stand.target, stand.home / "other").close()
        with watching(lacking("umount2", errno=EPERM)), pytest.raises(KernelError):
            replace(stand.target, new)
    assert (stand.shows(), stand.height()) == ("other", 2)
    replace(stand.target, stand.home / "other").close()
    assert (stand.shows(), stand.height()) == ("other", 1)


def test_a_refusal_leaves_no_mark(stand: Stand) -> None:
    before = lookup(stand.target).attrs
    with watching(lacking("move_mount", errno=EINVAL)), pytest.raises(KernelError):
        replace(stand.target, stand.home / "new")
    assert lookup(stand.target).attrs == before
    replace(stand.target, stand.home / "new").close()
    assert lookup(stand.target).attrs == before


# --- the plan -----------------------------------------------------------------------------------------------------
def test_the_plan_says_what_would_happen_and_changes_nothing(stand: Stand) -> None:
    tmpfs(stand.target / "sub")
    change(tmpfs(stand.target / "second"), MS_UNBINDABLE)
    before, number = table(stand.target), lookup(stand.target).id
    said = "\n".join(plan(stand.target))
    assert f"the tmpfs mount {number}" in said
    assert f"{stand.target}/sub would come along" in said
    assert f"{stand.target}/second is unbindable" in said
    assert "at no instant without a mount" in said
    assert "would be refused" in "\n".join(plan(stand.target, submounts="refuse"))
    assert "would go with it" in "\n".join(plan(stand.target, submounts="drop"))
    assert (table(stand.target), lookup(stand.target).id) == (before, number)
    with pytest.raises(InvalidSpec):
        plan(stand.home / "new")


def test_a_chroot_is_no_obstacle(stand: Stand) -> None:
    root = stand.home / "jail"
    fill(bind(Path("/"), root, 0x4000))
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from mountfd.verbs.replace import replace;"
        "replace(sys.argv[2], sys.argv[3]).close(); print(open(sys.argv[2] + '/v').read())"
    )
    source = Path(calls.__file__).parents[2]
    line: list[str | Path] = [
        "chroot",
        root,
        "/usr/bin/python3",
        "-c",
        program,
        source,
        stand.target,
        stand.home / "new",
    ]
    done = subprocess.run(line, check=False, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("new\n", "")
    assert stand.height() == 1


def test_what_was_moved_upon_a_newer_mount_is_no_replacement_begun(stand: Stand) -> None:
    older = fill(tmpfs(stand.home / "older"), {"v": "older"})
    umount(stand.target)
    change(stand.home, MS_PRIVATE)
    fill(tmpfs(stand.target), {"v": "lower"})
    move(older, stand.target)
    with replace(stand.target, stand.home / "new") as previous:
        assert content(previous)["v"] == "older"
    assert stand.height() == 2
    umount(stand.target)
    assert stand.shows() == "lower"
