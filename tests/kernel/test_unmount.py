"""unmount takes away the mount on top at a place, and nothing else."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from errno import EBUSY, EINVAL, ENOSYS, EPERM, ESTALE
from pathlib import Path

import pytest

from mountfd import (
    Busy,
    Denied,
    Gone,
    InvalidSpec,
    KernelError,
    Missing,
    Mount,
    NotDirectory,
    NotSupported,
    is_mount,
    lookup,
    mounts,
)
from mountfd.lowlevel import calls
from mountfd.model.holder import Holder
from mountfd.verbs.unmount import fuse, unmount, unmount_all
from tests.support.inject import Watch, lacking, watching
from tests.support.mounting import MNT_DETACH, bind, tmpfs, umount
from tests.support.need import need_real_root, need_unique_ids
from tests.support.others import NOBODY, in_child

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
ODD = ["a b", "two\nlines", "back\\slash", "-R", "esc\x1b[31m", os.fsdecode(b"not\xff\xfeutf"), "tab\there"]


def stand(point: Path, times: int = 1) -> Path:
    """Mount tmpfs upon tmpfs."""
    for _ in range(times):
        tmpfs(point)
    return point


def locked(place: Path) -> None:
    """Go to a user namespace of one's own, where all that came along is locked."""
    uid, gid = os.getuid(), os.getgid()
    calls.unshare(CLONE_NEWUSER | CLONE_NEWNS)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        Path(f"/proc/self/{name}").write_text(text)


@pytest.fixture(params=["as it is", "without statmount", "without statx"])
def kernel(request: pytest.FixtureRequest) -> Iterator[Watch]:
    """Unmount as on older kernels, or behind filters."""
    lacks: dict[str, tuple[str, ...]] = {
        "as it is": (),
        "without statmount": ("statmount", "listmount"),
        "without statx": ("statmount", "listmount", "statx"),
    }
    with watching(lacking(*lacks[request.param], errno=ENOSYS)) as watch:
        yield watch


# --- what goes -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["plain", *ODD])
def test_the_mount_at_a_path_goes(kernel: Watch, scratch: Path, name: str) -> None:
    point = stand(scratch / name)
    assert unmount(point) == 1
    assert not is_mount(point)
    assert point.is_dir()


def test_text_bytes_and_paths_from_here_are_paths(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here", b"here", Path("here"), "./here/../here"):
        stand(scratch / "here")
        monkeypatch.chdir(scratch)
        assert unmount(name) == 1
        monkeypatch.undo()


def test_a_plain_directory_or_file_is_no_mount_and_no_error(kernel: Watch, scratch: Path) -> None:
    (scratch / "file").touch()
    (scratch / "empty").mkdir()
    for name in ("file", "empty"):
        assert unmount(scratch / name) == 0
        assert unmount_all(scratch / name) == 0
        assert unmount(scratch / name, lazy=True) == 0


def test_a_mounted_file_goes(scratch: Path) -> None:
    for name in ("one", "other"):
        (scratch / name).write_text(name)
    calls.mount(bytes(scratch / "one"), bytes(scratch / "other"), None, 0x1000, None)
    assert unmount(scratch / "other") == 1
    assert (scratch / "other").read_text() == "other"


def test_of_a_stack_the_top_goes(kernel: Watch, scratch: Path) -> None:
    point = stand(scratch / "stack", 3)
    (point / "third").touch()
    assert unmount(point) == 1
    assert is_mount(point)
    assert not (point / "third").exists()
    assert unmount_all(point) == 2


def test_unmount_all_takes_the_whole_stack(kernel: Watch, scratch: Path) -> None:
    point = stand(scratch / "stack", 4)
    assert unmount_all(point) == 4
    assert not is_mount(point)
    assert unmount_all(stand(point, 3), lazy=True) == 3


def test_an_overlaid_bind_hides_and_shows_the_file(scratch: Path) -> None:
    for name in ("A", "A/foo", "B", "T"):
        (scratch / name).mkdir()
    (scratch / "B" / "bar").write_text("of B")
    bind(scratch / "A", scratch / "T", 0x4000)
    bind(scratch / "B", scratch / "T" / "foo", 0x4000)
    assert (scratch / "T" / "foo" / "bar").read_text() == "of B"
    assert [unmount(scratch / "T" / "foo"), unmount(scratch / "T")] == [1, 1]
    assert not is_mount(scratch / "T")
    assert (scratch / "B" / "bar").read_text() == "of B"


def test_a_missing_path_is_an_error_for_one_and_none_for_all(kernel: Watch, scratch: Path) -> None:
    with pytest.raises(Missing) as caught:
        unmount(scratch / "nothing")
    assert caught.value.filename == str(scratch / "nothing")
    assert caught.value.hint is None
    assert unmount_all(scratch / "nothing") == 0


def test_an_empty_path_is_an_error_for_one_and_none_for_all() -> None:
    with pytest.raises(InvalidSpec, match="empty"):
        unmount("")
    assert [unmount_all(""), unmount_all(b""), unmount("", recursive=True)] == [0, 0, 0]


def test_below_a_file_there_is_nothing(scratch: Path) -> None:
    (scratch / "file").touch()
    for act in (unmount, unmount_all):
        with pytest.raises(NotDirectory):
            act(scratch / "file" / "below")


@pytest.mark.parametrize(
    "wrong", [{"wait": -1}, {"wait": float("nan")}, {"wait": "1"}, {"target": True}, {"id": 7}, {}]
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with watching(Watch()) as watch, pytest.raises(InvalidSpec):
        unmount(**({} if "target" in wrong or "id" in wrong or not wrong else {"target": "/nothing"}), **wrong)  # type: ignore[arg-type]
    assert "umount2" not in watch.names


# --- symlinks ------------------------------------------------------------------------------------------------------
def test_a_final_symlink_is_followed_unless_that_is_not_wanted(kernel: Watch, scratch: Path) -> None:
    point, link = stand(scratch / "point"), scratch / "link"
    link.symlink_to(point)
    with pytest.raises(KernelError) as caught:
        unmount(link, follow=False)
    assert caught.value.errno == EINVAL
    assert "symbolic link" in str(caught.value.hint)
    assert is_mount(point)
    assert unmount(link) == 1
    assert unmount(stand(point), follow=False) == 1
    assert link.is_symlink()


# --- the root ------------------------------------------------------------------------------------------------------
def test_the_own_root_stays_by_whatever_name(kernel: Watch, scratch: Path) -> None:
    (scratch / "link").symlink_to("/")
    root = os.open("/", os.O_PATH)
    try:
        for name in ("/", "//", "/..", "/.", "/proc/../", scratch / "link", f"/proc/self/fd/{root}", root):
            for choice in (
                {},
                {"lazy": True},
                {"recursive": True},
                {"recursive": True, "lazy": True},
                {"force": True},
            ):
                with pytest.raises(InvalidSpec, match="root of this process"):
                    unmount(name, **choice)
            with pytest.raises(InvalidSpec, match="root of this process"):
                unmount_all(name)
        assert "umount2" not in kernel.names
    finally:
        os.close(root)


@pytest.mark.parametrize("choice", [{}, {"lazy": True}, {"recursive": True}, {"force": True}])
def test_the_own_root_stays_by_its_id(choice: dict[str, bool]) -> None:
    need_unique_ids()
    number = lookup("/").id
    with watching(Watch()) as watch, pytest.raises(InvalidSpec, match="root of this process"):
        unmount(id=number, **choice)
    assert "umount2" not in watch.names


def test_the_root_of_one_who_changed_his_root_stays_too(scratch: Path) -> None:
    point = stand(scratch / "point")
    (point / "proc").mkdir()
    (point / "deep").mkdir()

    def act() -> list[str]:
        fd = os.open(point, os.O_PATH)
        bind(Path("/proc"), point / "proc", 0x4000)
        os.chroot(point / "deep")
        said = []
        for target in ("/", fd):
            try:
                said.append(str(unmount(target)))
            except InvalidSpec as error:
                said.append(str(error))
        return said

    said = in_child(act)
    assert said[0] == "0"  # a directory on it, and no mount
    assert "root of this process" in said[1]
    assert unmount(point, recursive=True) >= 1


def test_another_mount_of_the_root_filesystem_is_not_the_root(scratch: Path) -> None:
    need_real_root()
    assert unmount(bind(Path("/"), scratch / "again")) == 1


# --- descriptors and handles ---------------------------------------------------------------------------------------
def test_a_handle_is_closed_first(kernel: Watch, scratch: Path) -> None:
    point = stand(scratch / "point")
    handle = Mount.open(point)
    assert unmount(handle) == 1
    assert handle.closed
    assert not is_mount(point)


def test_a_plain_descriptor_stays_and_is_blamed(scratch: Path) -> None:
    point = stand(scratch / "point")
    fd = os.open(point, os.O_PATH)
    try:
        with pytest.raises(Busy) as caught:
            unmount(fd, wait=0)
        assert f"descriptor {fd}" in str(caught.value.hint)
        assert os.path.sameopenfile(fd, fd)
        assert unmount(fd, lazy=True) == 1
        with pytest.raises(Gone):
            unmount(fd)
    finally:
        os.close(fd)
    assert not is_mount(point)


def test_a_descriptor_of_no_mounts_root_is_no_mount(scratch: Path) -> None:
    (scratch / "below").mkdir()
    fd = os.open(scratch / "below", os.O_PATH)
    try:
        assert unmount(fd) == 0
    finally:
        os.close(fd)
    assert is_mount(scratch)


def test_a_detached_mount_stands_nowhere(scratch: Path) -> None:
    with Mount.clone(scratch) as detached:
        with pytest.raises(Gone, match="doesn't stand"):
            unmount(detached)
        assert not detached.closed


def test_a_handle_names_the_mount_itself_never_what_covers_it(scratch: Path) -> None:
    point = stand(scratch / "point")
    handle = Mount.open(point)
    stand(point)
    with pytest.raises(Gone, match="not on top"):
        unmount(handle)
    handle.close()
    assert len(mounts(under=point)) == 2
    assert unmount_all(point) == 2


def test_a_closed_handle_is_refused(scratch: Path) -> None:
    handle = Mount.open(scratch)
    handle.close()
    with pytest.raises(InvalidSpec, match="closed"):
        unmount(handle)


# --- ids -----------------------------------------------------------------------------------------------------------
def test_by_id_wherever_it_stands(scratch: Path) -> None:
    need_unique_ids()
    number = lookup(stand(scratch / "here")).id
    (scratch / "there").mkdir()
    calls.mount(bytes(scratch / "here"), bytes(scratch / "there"), None, 0x2000, None)
    assert unmount(id=number) == 1
    assert not is_mount(scratch / "there")
    with pytest.raises(Gone):
        unmount(id=number)


@pytest.mark.parametrize(
    "choice", [{}, {"lazy": True}, {"force": True}, {"recursive": True}, {"recursive": True, "lazy": True}]
)
def test_by_id_never_another_one(scratch: Path, choice: dict[str, bool]) -> None:
    need_unique_ids()
    point = stand(scratch / "stack")
    lower = lookup(point).id
    upper = lookup(stand(point)).id
    for target in (None, point):
        with pytest.raises(Gone, match=f"mount {lower} is not on top .*: mount {upper} is"):
            unmount(target, id=lower, **choice)
    assert len(mounts(under=point)) == 2
    assert unmount(point, id=upper, **choice) == 1
    assert lookup(point).id == lower
    with pytest.raises(Gone, match="no mount"):
        unmount(point, id=upper, **choice)
    assert unmount(id=lower, **choice) == 1


def test_by_id_a_hidden_one_is_told_with_its_hider(scratch: Path) -> None:
    need_unique_ids()
    (scratch / "outer").mkdir()
    inner = lookup(stand(scratch / "outer" / "inner")).id
    stand(scratch / "outer")
    with pytest.raises(Gone, match=r"hidden by the tmpfs on '.*/outer'"):
        unmount(id=inner)
    assert unmount(scratch / "outer") == 1
    assert unmount(id=inner) == 1


def test_by_id_an_open_file_makes_it_busy(scratch: Path) -> None:
    need_unique_ids()
    point = stand(scratch / "point")
    with (point / "file").open("w"), pytest.raises(Busy) as caught:
        unmount(id=lookup(point).id, wait=0)
    assert [holder.fd is not None for holder in caught.value.holders if isinstance(holder, Holder) and holder.is_own]
    assert unmount(id=lookup(point).id) == 1


@pytest.mark.parametrize("moment", [1, 2])
def test_what_comes_on_top_at_the_last_moment_is_not_taken(scratch: Path, moment: int) -> None:
    need_unique_ids()
    point = stand(scratch / "point")
    number = lookup(point).id
    count = 0

    def decide(_number: int, name: str, _arguments: object) -> int:
        nonlocal count
        count += name == "umount2"
        if name == "umount2" and count == moment:
            subprocess.run(["mount", "-t", "tmpfs", "foreign", point], check=True)
        return 0

    with watching(Watch(decide)), pytest.raises(Gone, match="not on top"):
        unmount(id=number)
    assert lookup(point).source == "foreign"
    umount(point)
    assert lookup(point).id == number
    assert unmount(id=number) == 1


def test_lazily_that_is_only_told(scratch: Path) -> None:
    need_unique_ids()
    point = stand(scratch / "point")
    number = lookup(point).id

    def decide(_number: int, name: str, _arguments: object) -> int:
        if name == "umount2":
            subprocess.run(["mount", "-t", "tmpfs", "foreign", point], check=True)
        return 0

    with watching(Watch(decide)), pytest.raises(KernelError) as caught:
        unmount(id=number, lazy=True)
    assert caught.value.errno == ESTALE
    assert "came on top" in str(caught.value.hint)
    assert unmount(id=number, lazy=True) == 1


def test_one_that_is_marked_already_by_another_is_no_shortcut(scratch: Path) -> None:
    need_unique_ids()
    point = stand(scratch / "point")
    number = lookup(point).id
    stand(point)
    with pytest.raises(KernelError):
        calls.umount2(bytes(point), 4)
    with pytest.raises(Gone):
        unmount(id=number)
    assert unmount_all(point) == 2


def test_by_id_needs_unique_ids(scratch: Path) -> None:
    number = lookup(scratch).id or 1 << 33
    with watching(lacking("statmount", errno=ENOSYS)), pytest.raises(NotSupported):
        unmount(id=number)


# --- busy ----------------------------------------------------------------------------------------------------------
def test_busy_tells_who(scratch: Path) -> None:
    point = stand(scratch / "point")
    with (point / "file").open("w"), pytest.raises(Busy) as caught:
        unmount(point, wait=0)
    error = caught.value
    assert (error.errno, error.syscall, error.filename) == (EBUSY, "umount2", str(point))
    own = [holder for holder in error.holders if isinstance(holder, Holder) and holder.pid == os.getpid()]
    assert [holder.path for holder in own] == [str(point / "file")]
    assert all(isinstance(holder, Holder) and holder.blocks is not False for holder in error.holders)
    assert f"{point}/file" in str(error.hint)
    assert pickle.loads(pickle.dumps(error)).holders == error.holders
    umount(point)


def test_of_many_holders_three_are_put_into_words(scratch: Path) -> None:
    point = stand(scratch / "point")
    files = [(point / str(number)).open("w") for number in range(5)]
    with pytest.raises(Busy) as caught:
        unmount(point, wait=0)
    assert str(caught.value.hint).count(" open as descriptor ") == 3
    assert "and 2 more" in str(caught.value.hint)
    assert len([one for one in caught.value.holders if isinstance(one, Holder) and one.blocks]) == 5
    for file in files:
        file.close()
    umount(point)


def test_a_mount_on_it_makes_it_busy_and_the_hint_says_how_to_go_on(scratch: Path) -> None:
    point = stand(scratch / "point")
    stand(point / "child")
    number = lookup(point).id
    for target in ({"target": point}, {"id": number} if number else {"target": point}):
        with pytest.raises(Busy) as caught:
            unmount(**target, wait=0)
        assert f"at {point}/child" in str(caught.value.hint)
        assert "recursive=True" in str(caught.value.hint)
    assert unmount(point, recursive=True) == 2


def test_busy_stays_busy_though_its_holders_can_not_be_found(scratch: Path) -> None:
    point = stand(scratch / "point")
    seen: list[str] = []

    def decide(_number: int, name: str, _arguments: object) -> int:
        seen.append(name)
        return EPERM if name == "openat" else 0

    with (point / "file").open("w"), watching(Watch(decide)), pytest.raises(Busy) as caught:
        unmount(point, wait=0)
    assert "can't be found out" in str(caught.value.hint)
    assert caught.value.holders == ()
    umount(point)


@pytest.mark.parametrize("named", ["by path", "by id", "in a tree"])
def test_busy_then_free(scratch: Path, named: str) -> None:
    if named == "by id":
        need_unique_ids()
    point = stand(scratch / "point")
    number = lookup(point).id
    file = (point / "file").open("w")
    tried = threading.Event()

    def decide(_number: int, name: str, _arguments: object) -> int:
        if name == "umount2":
            tried.set()
        return 0

    def free() -> None:
        tried.wait(20)
        file.close()

    thread = threading.Thread(target=free)
    thread.start()
    with watching(Watch(decide)):
        if named == "by id":
            assert unmount(id=number, wait=20) == 1
        else:
            assert unmount(point, wait=20, recursive=named == "in a tree") == 1
    thread.join()


def test_it_is_tried_until_the_time_is_up_and_not_longer_between(scratch: Path) -> None:
    point = stand(scratch / "point")
    with (point / "file").open("w"), watching(Watch()) as watch, pytest.raises(Busy):
        unmount(point, wait=0)
    assert watch.names.count("umount2") == 1
    begun = time.monotonic()
    with (point / "file").open("w"), watching(Watch()) as watch, pytest.raises(Busy):
        unmount(point, wait=0.3)
    assert time.monotonic() - begun >= 0.3
    assert watch.names.count("umount2") > 3
    umount(point)


def test_while_it_is_busy_nobody_else_is_taken_for_it(scratch: Path) -> None:
    point = stand(scratch / "point", 2)
    file = (point / "file").open("w")
    count = 0

    def decide(_number: int, name: str, _arguments: object) -> int:
        nonlocal count
        count += name == "umount2"
        if name == "umount2" and count == 2:
            file.close()
            subprocess.run(["umount", point], check=True)
            return EBUSY
        return 0

    with watching(Watch(decide)), pytest.raises(Gone, match="covered stays"):
        unmount(point, wait=20)
    assert unmount_all(point) == 1


def test_lazily_it_goes_although_it_is_busy(scratch: Path) -> None:
    point = stand(scratch / "point")
    stand(point / "child")
    with (point / "file").open("w") as file:
        assert unmount(point, lazy=True) == 1
        assert not is_mount(point)
        file.write("still there")


# --- who may not ---------------------------------------------------------------------------------------------------
def test_a_mount_from_a_more_privileged_namespace_is_locked(scratch: Path) -> None:
    point = stand(scratch / "point")
    number = lookup(point).id

    def act() -> tuple[list[str | None], int]:
        locked(scratch)
        hints: list[str | None] = []
        for target, choice in ((point, {}), (point, {"lazy": True}), (point, {"recursive": True})):
            try:
                unmount(target, **choice)
                hints.append("it went")
            except Denied as error:
                hints.append(error.hint)
        try:
            unmount(point, id=lookup(point).id)
        except Denied as error:
            hints.append(error.hint)
        try:
            unmount_all(point)
        except Denied as error:
            hints.append(error.hint)
        stand(scratch / "own")
        return hints, unmount(scratch / "own")

    hints, own = in_child(act)
    assert len(hints) == 5
    assert all("locked" in str(hint) for hint in hints), hints
    assert own == 1
    assert unmount(point, id=number) == 1


def test_an_ordinary_user_is_denied(scratch: Path) -> None:
    need_real_root()
    point = stand(scratch / "point")
    assert fuse  # loaded here: the user may not be able to read it

    def act() -> str:
        with pytest.raises(Denied) as caught:
            unmount(point)
        return str(caught.value.hint)

    assert "CAP_SYS_ADMIN" in in_child(act, NOBODY)
    assert unmount(point) == 1


def test_a_descriptor_of_another_namespaces_mount_is_told(scratch: Path) -> None:
    point = stand(scratch / "point")
    fd = os.open(point, os.O_PATH)

    def act() -> None:
        calls.unshare(CLONE_NEWNS)
        with pytest.raises(Gone, match="doesn't stand in this mount namespace"):
            unmount(fd)
        with pytest.raises(KernelError) as caught:
            unmount(f"/proc/self/fd/{fd}")
        assert "another mount namespace" in str(caught.value.hint)

    in_child(act)
    os.close(fd)
    umount(point, MNT_DETACH)


# --- what it costs -------------------------------------------------------------------------------------------------
def test_the_straight_way_reads_no_table(scratch: Path) -> None:
    need_unique_ids()
    point = stand(scratch / "point")
    with watching(Watch()) as watch:
        assert unmount(point) == 1
    assert watch.names == ["statx", "statx", "statmount", "umount2"]
    number = lookup(stand(scratch / "point")).id
    with watching(Watch()) as watch:
        assert unmount(id=number) == 1
    assert watch.names.count("umount2") == 2
    assert watch.names.count("openat") == 1, "the directory, to take turns with other processes"


def test_subprocess_and_holders_are_not_loaded_for_it(scratch: Path) -> None:
    program = "import sys; import mountfd.verbs.unmount; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    loaded = done.stdout.split()
    assert (
        not {"subprocess", "typing", "dataclasses", "mountfd.verbs.holders"}.intersection(loaded) or sys.flags.dev_mode
    )


# --- others, meanwhile ---------------------------------------------------------------------------------------------
def test_what_goes_between_the_look_and_the_call_is_no_matter_the_next_is_meant(scratch: Path) -> None:
    point = stand(scratch / "point", 2)
    gone: list[bool] = []

    def decide(_number: int, name: str, _arguments: object) -> int:
        if name == "umount2" and not gone:
            gone.append(True)
            umount(point)
        return 0

    with watching(Watch(decide)):
        assert unmount(point) == 1
    assert not is_mount(point)


def test_a_whole_stack_goes_whoever_takes_a_part_of_it(scratch: Path) -> None:
    point = stand(scratch / "point", 3)
    held = (point / "file").open("w")
    count = 0

    def decide(_number: int, name: str, _arguments: object) -> int:
        nonlocal count
        count += name == "umount2"
        if name == "umount2" and count == 2:
            held.close()
            umount(point)
            return EBUSY
        return 0

    with watching(Watch(decide)):
        assert unmount_all(point, wait=30) == 2
    assert not is_mount(point)
