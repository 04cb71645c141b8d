from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from mountfd import Busy, IdMap, InvalidSpec, KernelError, Layer, Mount, Overlay, assemble, param
from tests.support import private
from tests.support.layers import SHIFTED, assembled, attached, content, fill, inside, layers, line_of, pair, place_on
from tests.support.need import need

pytestmark = pytest.mark.usefixtures("real_root")

KINDS = ["tmpfs", "ext4", "xfs", "btrfs"]
INSIDE = 100000


def write_as(user: int, path: Path) -> None:
    subprocess.run(["touch", str(path)], check=True, user=user, group=user, extra_groups=[], capture_output=True)


@pytest.mark.parametrize("kind", KINDS)
def test_idmapped_upper_keeps_ids_on_disk(route: str, scratch: Path, kind: str) -> None:
    with place_on(kind, scratch) as place:
        lower, (upper, work) = layers(place, 2), pair(place)
        overlay = Overlay(lower, Layer(upper, SHIFTED), work, idmap=SHIFTED)
        with assembled(overlay) as root, attached(root, scratch / "here") as point:
            assert b"rw" in line_of(point)[-1].split(b",")
            write_as(INSIDE, point / "new")
            write_as(INSIDE, point / "common")
            assert (point / "new").stat().st_uid == INSIDE
        assert (upper / "new").stat().st_uid == 0
        assert (upper / "new").stat().st_gid == 0
        assert (upper / "common").stat().st_uid == 0


@pytest.mark.parametrize("kind", KINDS)
def test_plain_upper_gets_host_ids(route: str, scratch: Path, kind: str) -> None:
    with place_on(kind, scratch) as place:
        lower, (upper, work) = layers(place, 2), pair(place)
        os.chown(upper, INSIDE, INSIDE)
        with assembled(Overlay(lower, upper, work, idmap=SHIFTED)) as root, attached(root, scratch / "here") as point:
            write_as(INSIDE, point / "new")
            write_as(INSIDE, point / "common")
            assert (point / "common").stat().st_uid == INSIDE
        assert (upper / "new").stat().st_uid == INSIDE
        assert (upper / "common").stat().st_uid == INSIDE
        assert (lower[0] / "common").stat().st_uid == 0


@pytest.mark.parametrize("gidmap", ["0:100000:65536", "0:0:65536", "7:0:1,0:100000:7"])
@pytest.mark.parametrize("uidmap", ["0:100000:65536", "0:0:65536", "0:100000:65536,65536:0:1"])
def test_idmapped_upper_is_writable_whichever_of_the_callers_ids_the_map_knows(
    route: str, scratch: Path, uidmap: str, gidmap: str
) -> None:
    lower, (upper, work) = layers(scratch, 1), pair(scratch)
    idmap = IdMap.parse(uidmap, gidmap)
    with assembled(Overlay(lower, Layer(upper, idmap), work, idmap=idmap)) as root:
        assert not os.fstatvfs(root.fileno()).f_flag & os.ST_RDONLY


def test_idmapped_base_makes_upper_idmapped(route: str, scratch: Path) -> None:
    lower, (upper, _work) = layers(scratch, 1), pair(scratch)
    with Mount.clone(scratch) as store:
        store.idmap(SHIFTED)
        overlay = Overlay(lower, Layer("upper", base=store), Layer("work", base=store), idmap=SHIFTED)
        with assembled(overlay) as root, attached(root, scratch / "here") as point:
            write_as(INSIDE, point / "new")
    assert (upper / "new").stat().st_uid == 0


def test_upper_idmapped_below_a_plain_base(route: str, scratch: Path) -> None:
    lower, (upper, _work) = layers(scratch, 1), pair(scratch)
    with Mount.clone(scratch) as store:
        overlay = Overlay(lower, Layer("upper", SHIFTED, base=store), Layer("work", base=store), idmap=SHIFTED)
        with assembled(overlay) as root, attached(root, scratch / "here") as point:
            write_as(INSIDE, point / "new")
    assert (upper / "new").stat().st_uid == 0


def test_upper_with_another_idmap_than_its_base_is_refused(scratch: Path) -> None:
    lower, _ = layers(scratch, 1), pair(scratch)
    with Mount.clone(scratch) as store:
        store.idmap(SHIFTED)
        other = IdMap.parse("0:5:1")
        with pytest.raises(InvalidSpec, match="its base is idmapped"):
            assemble(Overlay(lower, Layer("upper", other, base=store), Layer("work", base=store)))


# --- where upper and work may be -----------------------------------------------------------------------------------
def test_upper_and_work_through_symlinks_and_dots(route: str, scratch: Path) -> None:
    lower, (upper, work) = layers(scratch, 1), pair(scratch / "d/e")
    (scratch / "link").symlink_to(upper)
    with assembled(Overlay(lower, scratch / "link", f"{scratch}/link/../work/.")) as root:
        (inside(root) / "new").write_text("n")
    assert (upper / "new").exists()
    assert os.listdir(work) == ["work"]


def test_upper_and_work_at_the_top_of_their_mount(route: str, scratch: Path) -> None:
    point = fill(scratch / "fs")
    private.mount_tmpfs(point)
    lower, (upper, work) = layers(scratch, 1), pair(point)
    try:
        with assembled(Overlay(lower, upper, work)) as root:
            (inside(root) / "new").write_text("n")
        assert (upper / "new").exists()
    finally:
        private.detach(point)


def test_upper_and_work_with_slash_as_parent(route: str, scratch: Path) -> None:
    lower = layers(scratch, 1)
    for name in ("/mountfd-test-u", "/mountfd-test-w"):
        os.mkdir(name)
    try:
        try:
            root = assemble(Overlay(lower, "/mountfd-test-u", "/mountfd-test-w"))
        except KernelError as error:
            need(False, f"a root filesystem that is fit to be an upper layer ({error.hint})")
        with root:
            (inside(root) / "new").write_text("n")
        assert Path("/mountfd-test-u/new").exists()
    finally:
        for name in ("/mountfd-test-u", "/mountfd-test-w"):
            shutil.rmtree(name)


def test_a_mount_over_the_parent_of_upper_and_work_is_what_is_seen(route: str, scratch: Path) -> None:
    place, lower = fill(scratch / "p"), layers(scratch, 1)
    hidden, _ = pair(place)
    private.mount_tmpfs(place)
    upper, work = pair(place)
    try:
        with assembled(Overlay(lower, upper, work)) as root:
            (inside(root) / "new").write_text("n")
        assert (upper / "new").exists()
    finally:
        private.detach(place)
    assert not (hidden / "new").exists()


def test_upper_on_another_mount_than_work_is_refused(route: str, scratch: Path) -> None:
    lower, (upper, work) = layers(scratch, 1), pair(scratch)
    private.mount_tmpfs(work)
    try:
        with pytest.raises(KernelError) as caught:
            assemble(Overlay(lower, upper, work))
    finally:
        private.detach(work)
    assert "different mounts" in str(caught.value.hint)
    assert caught.value.filename == str(work)


@pytest.mark.parametrize("swapped", [False, True])
def test_work_inside_upper_through_a_symlink_is_refused(route: str, scratch: Path, swapped: bool) -> None:
    lower, outer = layers(scratch, 1), fill(scratch / "outer")
    fill(outer / "inner")
    (scratch / "link").symlink_to(outer / "inner")
    upper, work = (scratch / "link", outer) if swapped else (outer, scratch / "link")
    with pytest.raises(InvalidSpec, match="inside the other"):
        assemble(Overlay(lower, upper, work))
    (scratch / "same").symlink_to(outer)
    with pytest.raises(InvalidSpec, match="the same directory"):
        assemble(Overlay(lower, outer, scratch / "same"))


def test_upper_that_is_the_root_of_a_mount_is_refused(route: str, scratch: Path) -> None:
    lower, point = layers(scratch, 1), fill(scratch / "p")
    private.mount_tmpfs(point)
    try:
        with pytest.raises(InvalidSpec, match="inside the other"):
            assemble(Overlay(lower, f"{point}/..//{point.name}", fill(point / "work") / "."))
    finally:
        private.detach(point)


# --- one upper layer, one overlay ----------------------------------------------------------------------------------
def test_upper_and_work_of_a_live_overlay_are_busy(route: str, scratch: Path) -> None:
    lower, (upper, work), others = layers(scratch, 1), pair(scratch), pair(scratch / "others")
    with assembled(Overlay(lower, upper, work)):
        for pair_of in ((upper, work), (upper, others[1]), (others[0], work)):
            with pytest.raises(Busy) as caught:
                assemble(Overlay(lower, *pair_of))
            assert caught.value.filename in {str(upper), str(work)}
            assert str(caught.value.filename) in str(caught.value.hint)
    with assembled(Overlay(lower, upper, work)):
        pass


def test_upper_of_an_attached_overlay_stays_busy_when_the_handle_is_closed(route: str, scratch: Path) -> None:
    need(os.access("/dev/kmsg", os.R_OK), "the kernel's log")
    lower, (upper, work), point = layers(scratch, 1), pair(scratch), fill(scratch / "here")
    with assembled(Overlay(lower, upper, work)) as root:
        root.attach(point)
    try:
        for _ in range(2):
            with pytest.raises(Busy) as caught:
                assemble(Overlay(lower, upper, work))
            assert caught.value.filename == str(upper)
        (point / "new").write_text("n")
    finally:
        assert private.unmounted(point)
    with assembled(Overlay(lower, upper, work)) as root:
        assert content(root)["new"] == "n"


@pytest.mark.parametrize("alarms", [1, 2])
def test_warning_about_somebody_elses_overlay(
    route: str, scratch: Path, monkeypatch: pytest.MonkeyPatch, alarms: int
) -> None:
    """The kernel's warning names no layer: once it is checked, twice in a row it is believed."""
    left = [True] * alarms
    monkeypatch.setattr("mountfd.verbs.assemble.tells_of_use", lambda _lines: bool(left) and left.pop())
    lower, (upper, work) = layers(scratch, 1), pair(scratch)
    if alarms == 1:
        with assembled(Overlay(lower, upper, work)) as root:
            (inside(root) / "new").write_text("n")
    else:
        with pytest.raises(Busy):
            assemble(Overlay(lower, upper, work))
    assert not left


def test_duplicate_handle_keeps_the_lock(route: str, scratch: Path) -> None:
    overlay = Overlay(layers(scratch, 1), *pair(scratch))
    root = assemble(overlay)
    again = root.dup()
    root.close()
    with again, pytest.raises(Busy):
        assemble(overlay)
    with assembled(overlay):
        pass


def test_released_descriptor_is_the_callers(route: str, scratch: Path) -> None:
    overlay = Overlay(layers(scratch, 1), *pair(scratch))
    fd = assemble(overlay).release()
    assert os.fstat(fd).st_nlink
    os.close(fd)
    with assembled(overlay):
        pass


def test_again_and_again(route: str, scratch: Path) -> None:
    overlay = Overlay(layers(scratch, 2), *pair(scratch), idmap=SHIFTED)
    for i in range(20):
        with assembled(overlay) as root:
            (inside(root) / f"new{i}").write_text("n")
    with assembled(overlay) as root:
        assert len(content(root)) == 23


def test_index_on_makes_the_kernel_say_busy(route: str, scratch: Path) -> None:
    lower, (upper, work), point = layers(scratch, 1), pair(scratch), fill(scratch / "here")
    overlay = Overlay(lower, upper, work, options=[param.String("index", "on")])
    with assembled(overlay) as root:
        root.attach(point)
    try:
        with pytest.raises(Busy) as caught:
            assemble(overlay)
        assert str(upper) in str(caught.value.hint)
        assert caught.value.filename == str(upper)
    finally:
        assert private.unmounted(point)


def test_volatile_leftover_is_explained(route: str, scratch: Path) -> None:
    lower, (upper, work) = layers(scratch, 1), pair(scratch)
    with assembled(Overlay(lower, upper, work, options=[param.Flag("volatile")])) as root:
        (inside(root) / "new").write_text("n")
    left = work / "work/incompat/volatile"
    assert left.is_dir()
    with pytest.raises(KernelError) as caught:
        assemble(Overlay(lower, upper, work))
    assert caught.value.errno == 22
    assert str(left) in str(caught.value.hint)
    with Mount.clone(scratch) as store:
        with pytest.raises(KernelError) as caught:
            assemble(Overlay(lower, Layer("upper", base=store), Layer("work", base=store)))
        assert "work/work/incompat/volatile" in str(caught.value.hint)
    shutil.rmtree(left)
    with assembled(Overlay(lower, upper, work)) as root:
        assert content(root)["new"] == "n"


def test_read_only_filesystem_as_upper_is_refused(route: str, scratch: Path) -> None:
    point = fill(scratch / "fs")
    private.mount_tmpfs(point)
    lower, (upper, work) = layers(scratch, 1), pair(point)
    subprocess.run(["mount", "-o", "remount,ro", str(point)], check=True)
    try:
        with pytest.raises(KernelError) as caught:
            assemble(Overlay(lower, upper, work))
    finally:
        private.detach(point)
    assert "read-only" in str(caught.value.hint)
    assert str(upper) in str(caught.value.hint)
    assert caught.value.filename == str(upper)


def test_read_only_mount_as_upper_is_refused(route: str, scratch: Path) -> None:
    lower, _ = layers(scratch, 1), pair(scratch)
    with Mount.clone(scratch) as clone:
        clone.set(1)
        with pytest.raises(KernelError) as caught:
            assemble(Overlay(lower, Layer("upper", base=clone), Layer("work", base=clone)))
    assert "read-only" in str(caught.value.hint)


def test_idmap_that_does_not_know_the_owner_of_work_is_refused_not_read_only(route: str, scratch: Path) -> None:
    lower, (upper, work) = layers(scratch, 1), pair(scratch)
    with pytest.raises(KernelError) as caught:
        assemble(Overlay(lower, Layer(upper, IdMap.parse("5:100000:10")), work))
    assert caught.value.hint


def test_ro_option_is_no_reason_to_refuse(route: str, scratch: Path) -> None:
    with assembled(Overlay(layers(scratch, 1), *pair(scratch), options=[param.Flag("ro")])) as root:
        assert os.fstatvfs(root.fileno()).f_flag & os.ST_RDONLY
