"""What words do, by descriptor and by mount(2) alike."""

from __future__ import annotations

import stat
import threading
from errno import EINVAL, EROFS, ESTALE
from pathlib import Path
from typing import Any

import pytest

import mountfd
from mountfd import Attr, InvalidSpec, KernelError, MountSpec, param
from tests.support import private
from tests.support.inject import Watch, watching
from tests.support.layers import fill
from tests.support.mounting import MS_SHARED, change
from tests.support.need import need_real_root, need_unique_ids
from tests.support.others import NOBODY, in_child
from tests.support.specs import count, fs, fstype, in_user_namespace, put, source, tags, vfs


@pytest.fixture
def origin(place: Path) -> Path:
    """Give a private tmpfs with a file and a directory in it."""
    put("tmpfs", "origin", place / "origin", ["mode=755"])
    fill(place / "origin/sub", {"file": "f"})
    return place / "origin"


# --- attributes and propagation together ---------------------------------------------------------------------------
@pytest.mark.parametrize("propagation", ["", "private", "shared", "slave", "unbindable"])
@pytest.mark.parametrize("words", ["bind", "bind,rw", "bind,ro"])
def test_a_bind_gets_what_its_words_say(
    mount_route: str, place: Path, origin: Path, words: str, propagation: str
) -> None:
    if propagation == "slave":
        change(origin, MS_SHARED)
    point = put("", origin, place / "p", f"{words},{propagation}")
    assert vfs(point) == {"ro" if "ro" in words else "rw", "relatime"}
    expected = {"": set(), "private": set(), "shared": {"shared"}, "slave": {"master"}, "unbindable": {"unbindable"}}
    assert tags(point) == expected[propagation]
    assert count(point) == 1
    assert (point / "sub/file").read_text() == "f"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("", {"rw", "relatime"}),
        ("noexec", {"rw", "noexec", "relatime"}),
        ("exec", {"rw", "relatime"}),
        ("ro,nosuid,nodev,noexec", {"ro", "nosuid", "nodev", "noexec", "relatime"}),
        ("nosymfollow", {"rw", "nosymfollow", "relatime"}),
        ("noatime,nodiratime", {"rw", "noatime", "nodiratime"}),
        ("strictatime", {"rw"}),
        ("strictatime,relatime", {"rw", "relatime"}),
        ("defaults,rprivate", {"rw", "relatime"}),
        ("user", {"rw", "nosuid", "nodev", "noexec", "relatime"}),
        ("x-systemd.automount,X-mine=1,silent,noauto", {"rw", "relatime"}),
    ],
)
def test_a_new_filesystem_gets_what_its_words_say(mount_route: str, place: Path, words: str, shown: set[str]) -> None:
    point = put("tmpfs", "label", place / "p", words)
    assert vfs(point) == shown
    assert (fstype(point), source(point), count(point)) == ("tmpfs", "label", 1)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("ro", {"ro"}),
        ("sync", {"rw", "sync"}),
        ("dirsync", {"rw", "dirsync"}),
        ("lazytime", {"rw", "lazytime"}),
        ("size=128k,mode=700", {"rw", "size=128k", "mode=700"}),
        ("ro=vfs", {"rw"}),
        ("ro=fs", {"ro"}),
    ],
)
def test_flags_and_parameters_reach_the_filesystem(mount_route: str, place: Path, words: str, shown: set[str]) -> None:
    found = fs(put("tmpfs", "x", place / "p", words)) - {"inode64", "seclabel"}
    # In a user namespace the owner of its root is told too.
    assert {word for word in found if not word.startswith(("uid=", "gid="))} == shown


def test_ro_is_told_before_the_source_and_a_quoted_label_without_its_quotes(place: Path) -> None:
    told: list[object] = []

    def listen(_count: int, name: str, arguments: tuple[Any, ...]) -> int:
        told.extend([arguments[1:4]] if name == "fsconfig" and arguments[0] >= 0 else [])  # else it is a probe
        return 0

    with watching(Watch(listen)):
        put("tmpfs", "src", place / "p", ["size=1m", "ro"])
    flag, string, create = 0, 1, 6
    assert told == [(flag, b"ro", None), (string, b"source", b"src"), (string, b"size", b"1m"), (create, None, None)]
    told.clear()
    with watching(Watch(listen)), pytest.raises(KernelError, match="Invalid"):
        put("tmpfs", "src", place / "p", ['context="a:b:c:s0:c1,c2"', "nonsense"])
    assert (string, b"context", b"a:b:c:s0:c1,c2") in told


@pytest.mark.parametrize("name", ["none", ""])
def test_a_source_that_says_nothing_is_no_remount(mount_route: str, place: Path, name: str) -> None:
    point = put("tmpfs", name, place / "p")
    assert (fstype(point), count(point)) == ("tmpfs", 1)


def test_typed_options_do_the_same(mount_route: str, place: Path) -> None:
    point = place / "p"
    point.mkdir()
    mountfd.mount(
        MountSpec("tmpfs", "x", options=[param.String("size", "128k")], attrs=Attr.NODEV | Attr.NOATIME), point
    )
    assert vfs(point) == {"rw", "nodev", "noatime"}
    assert "size=128k" in fs(point)
    mountfd.mount(MountSpec("tmpfs", "x", attrs=Attr.RDONLY), point)
    assert vfs(point) == {"ro", "relatime"}


@pytest.mark.parametrize("words", [["size=10M", "X-containerd.custom=v", "mode=0755"], ["=x"], ["uidmap=0:1:1"]])
def test_what_is_not_understood_mounts_nothing(mount_route: str, place: Path, words: list[str]) -> None:
    with pytest.raises(InvalidSpec):
        put("tmpfs", "x", place / "p", words)
    assert count(place / "p") == 0


def test_a_parameter_that_the_filesystem_refuses_mounts_nothing(mount_route: str, place: Path) -> None:
    with pytest.raises(KernelError) as caught:
        put("tmpfs", "x", place / "p", "nonsense=1")
    assert caught.value.errno == EINVAL
    assert mount_route == "string" or "nonsense" in "".join(caught.value.log)
    assert count(place / "p") == 0


def test_neither_type_nor_source_nor_word(place: Path) -> None:
    with pytest.raises(InvalidSpec):
        put("", "", place / "p", "size=1m")
    with pytest.raises(InvalidSpec, match="no mount"):
        put("", "", place / "p")


# --- bind ----------------------------------------------------------------------------------------------------------
def test_a_read_only_bind_cannot_be_written_and_its_source_can(mount_route: str, place: Path, origin: Path) -> None:
    point = put("bind", origin, place / "p", ["ro"])
    with pytest.raises(OSError, match="Read-only") as caught:
        (point / "new").write_text("n")
    assert caught.value.errno == EROFS
    (origin / "new").write_text("n")
    assert (point / "new").read_text() == "n"


def test_a_file_is_bound_to_a_file(mount_route: str, place: Path, origin: Path) -> None:
    (place / "file").touch()
    mountfd.mount(MountSpec("bind", origin / "sub/file", options=["ro"]), place / "file")
    assert (place / "file").read_text() == "f"


def test_bind_takes_the_top_and_rbind_the_whole_tree(mount_route: str, place: Path, origin: Path) -> None:
    put("tmpfs", "below", origin / "sub")
    assert count(put("bind", origin, place / "one")) == 1
    assert count(put("rbind", origin, place / "two")) == 2
    assert count(put("bind", origin, place / "three", ["rbind", "rw"])) == 2


@pytest.mark.parametrize(
    ("words", "named"),
    [(["noexek"], "noexek"), (["uid=1000"], "uid=1000"), (["ro,noexec"], "ro"), (["loop"], "loop")],
)
def test_a_bind_refuses_what_only_a_filesystem_could_take(
    mount_route: str, place: Path, origin: Path, words: list[str], named: str
) -> None:
    with pytest.raises(InvalidSpec) as caught:
        put("bind", origin, place / "p", words)
    assert repr(named) in str(caught.value)
    assert count(place / "p") == 0


def test_a_typed_bind_is_read_only_by_its_parameter(mount_route: str, place: Path, origin: Path) -> None:
    (place / "p").mkdir()
    mountfd.mount(MountSpec("bind", origin, options=[param.Flag("ro")]), place / "p")
    assert "ro" in vfs(place / "p")
    with pytest.raises(InvalidSpec, match="size=1m"):
        mountfd.mount(MountSpec("bind", origin, options=[param.String("size", "1m")]), place / "p")


def test_what_is_missing_is_named(mount_route: str, place: Path, origin: Path) -> None:
    with pytest.raises(mountfd.Missing) as caught:
        put("bind", place / "nowhere", place / "p")
    assert caught.value.filename == str(place / "nowhere")
    assert "source" in str(caught.value.hint)
    with pytest.raises(mountfd.Missing) as caught:
        mountfd.mount(MountSpec("bind", origin), place / "nowhere")
    assert caught.value.filename == str(place / "nowhere")
    assert "the target" in str(caught.value.hint)
    assert "X-mount.mkdir" in str(caught.value.hint)


def test_locked_attributes_and_trees_are_explained(mount_route: str, place: Path, origin: Path) -> None:
    need_real_root()
    put("tmpfs", "below", origin / "sub", ["nosuid"])

    def act() -> list[tuple[str, str]]:
        told = []
        for start, words in ((origin, ""), (origin / "sub", "suid")):
            with pytest.raises(KernelError) as caught:
                put("bind", start, place / "p", words)
            told.append((str(caught.value.filename), str(caught.value.hint)))
        return told

    tree, flag = in_child(in_user_namespace(act))
    assert tree[0] == str(origin)
    assert "rbind" in tree[1]
    assert "locked" in flag[1]


def test_a_type_that_begins_with_no(mount_route: str, place: Path) -> None:
    with pytest.raises(mountfd.NotSupported):
        put("nosuchfs", "none", place / "p")


def test_text_that_no_name_can_be(place: Path) -> None:
    for given in (("tmpfs", "x\ud800", ""), ("tmpfs", "x", "size=1\ud800"), ("tm\ud800", "x", "")):
        with pytest.raises(InvalidSpec):
            mountfd.mount(MountSpec(given[0], given[1], options=given[2]), place / "p")


def test_a_source_that_fsconfig_cannot_carry_is_mounted_the_same(mount_route: str, place: Path) -> None:
    point = put("tmpfs", "s" * 300, place / "p", "ro=vfs,nodev")
    assert vfs(point) == {"ro", "nodev", "relatime"}
    assert "rw" in fs(point)
    point = put("tmpfs", "s" * 300, place / "q", "ro=fs")
    assert ("rw" in vfs(point), "ro" in fs(point)) == (True, True)
    with pytest.raises(KernelError) as caught:
        put("tmpfs", "s" * 300, place / "r", "nonsense=1")
    assert caught.value.filename != "m"


# --- others at the same place --------------------------------------------------------------------------------------
def test_threads_that_mount_at_one_place_each_get_their_own(mount_route: str, place: Path) -> None:
    need_unique_ids()
    point, threads = fill(place / "p"), []
    numbers: dict[str, int | None] = {}

    def act(name: str) -> None:
        numbers[name] = mountfd.mount(MountSpec("tmpfs", name, options="nodev"), point)

    for number in range(8):
        threads.append(threading.Thread(target=act, args=(f"t{number}",)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert {name: mountfd.lookup(id=number).source for name, number in numbers.items()} == {n: n for n in numbers}
    assert len(numbers) == count(point) == 8


def test_what_others_mount_upon_it_keeps_its_attributes_and_stays(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_unique_ids()
    monkeypatch.setenv("MOUNTFD_ROUTE", "mount:string")
    origin = put("tmpfs", "origin", place / "origin")
    point = fill(place / "p")
    beaten = False

    def beat(_count: int, name: str, arguments: tuple[object, ...]) -> int:
        nonlocal beaten
        if not beaten and name == "openat" and arguments[1] == bytes(point) and count(point):
            beaten = True
            private.mount_tmpfs(point)
        return 0

    with watching(Watch(beat)), pytest.raises(KernelError) as caught:
        put("bind", origin, point, "ro")
    assert caught.value.errno == ESTALE
    assert vfs(point) == {"rw", "relatime"}
    assert count(point) == 2


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["rbind", "ro"], ("ro", "rw")),
        (["rbind", "rro"], ("ro", "ro")),
        (["rbind", "ro", "rro"], ("ro", "ro")),
        (["rbind", "ro=recursive"], ("ro", "ro")),
        (["rbind", "rro", "rrw"], ("rw", "rw")),
    ],
)
def test_how_deep_read_only_goes(
    mount_route: str, place: Path, origin: Path, words: list[str], shown: tuple[str, str]
) -> None:
    put("tmpfs", "below", origin / "sub")
    point = put("", origin, place / "p", words)
    assert shown[0] in vfs(point)
    assert shown[1] in vfs(point / "sub")
    assert "rw" in vfs(origin)
    assert "rw" in vfs(origin / "sub")


def test_other_recursive_attributes(mount_route: str, place: Path, origin: Path) -> None:
    put("tmpfs", "below", origin / "sub", "nosuid,noatime")
    point = put("rbind", origin, place / "p", ["rnodev", "rnoexec", "rsuid", "ratime", "nosymfollow"])
    assert vfs(point) == {"rw", "nodev", "noexec", "nosymfollow", "relatime"}
    assert vfs(point / "sub") == {"rw", "nodev", "noexec", "relatime"}


# What is not named stays as the source has it, as with mount_setattr(2); mount(2) would clear all of it.
HOST = [
    ("ro,noexec,nosymfollow,nodiratime", "bind", {"ro", "noexec", "nosymfollow", "nodiratime", "relatime"}),
    ("ro,noexec,nosymfollow,nodiratime", "bind,dev", {"ro", "noexec", "nosymfollow", "nodiratime", "relatime"}),
    ("ro", "bind,nosuid,nodev,rprivate", {"ro", "nosuid", "nodev", "relatime"}),
    ("ro", "bind,rw,nosuid,nodev,rprivate", {"rw", "nosuid", "nodev", "relatime"}),
    ("nosuid,nodev,noexec,noatime", "bind,dev,suid,exec,atime", {"rw", "relatime"}),
    ("nosuid,nodev,noexec,noatime", "bind,dev,suid,exec", {"rw", "noatime"}),
    ("rw,nodev,nosuid,noexec,noatime", "bind,ro", {"ro", "nodev", "nosuid", "noexec", "noatime"}),
    ("rw,nodev,nosymfollow", "bind,ro,symfollow", {"ro", "nodev", "relatime"}),
    ("rw,nodev,nosymfollow", "bind,rw", {"rw", "nodev", "nosymfollow", "relatime"}),
    ("nodev,nosuid,noatime", "bind,ro,exec", {"ro", "nodev", "nosuid", "noatime"}),
    ("strictatime", "bind,nodev", {"rw", "nodev"}),
    ("noatime", "bind,norelatime", {"rw", "noatime"}),
    ("noatime", "bind,strictatime", {"rw"}),
]


@pytest.mark.parametrize(("of_source", "words", "shown"), HOST)
def test_attributes_that_are_not_named_stay(
    mount_route: str, place: Path, of_source: str, words: str, shown: set[str]
) -> None:
    origin = put("tmpfs", "x", place / "origin", of_source.replace("ro", "ro=vfs"))
    assert vfs(put("", origin, place / "p", words)) == shown
    assert vfs(origin) == {*of_source.split(",")} - {"strictatime"} | vfs(origin) & {"rw", "relatime"}


# In a user namespace what the source has is locked: naming it away is refused, where mount(2) would be too.
INSIDE = [
    ("ro,noexec,nosymfollow,nodiratime", "bind", {"ro", "noexec", "nosymfollow", "nodiratime", "relatime"}),
    ("ro,noexec,nosymfollow,nodiratime", "bind,dev", {"ro", "noexec", "nosymfollow", "nodiratime", "relatime"}),
    ("ro", "bind,nosuid,nodev,rprivate", {"ro", "nosuid", "nodev", "relatime"}),
    ("ro", "bind,rw,nosuid,nodev,rprivate", None),
    ("nosuid,nodev,noexec,noatime", "bind,dev,suid,exec,atime", None),
    ("rw,nodev,nosuid,noexec,noatime", "bind,ro", {"ro", "nodev", "nosuid", "noexec", "noatime"}),
    ("rw,nodev,nosymfollow", "bind,ro,symfollow", {"ro", "nodev", "relatime"}),
    ("rw,nodev,nosymfollow", "bind,rw", {"rw", "nodev", "nosymfollow", "relatime"}),
    ("nodev,nosuid,noatime", "bind,ro,exec", {"ro", "nodev", "nosuid", "noatime"}),
]


@pytest.mark.parametrize(("of_source", "words", "shown"), INSIDE)
def test_attributes_in_a_user_namespace(
    mount_route: str, place: Path, of_source: str, words: str, shown: set[str] | None
) -> None:
    need_real_root()
    origin = put("tmpfs", "x", place / "origin", of_source.replace("ro", "ro=vfs"))

    def act() -> tuple[set[str] | None, int]:
        try:
            point = put("", origin, place / "p", words)
        except mountfd.Denied:
            return None, count(place / "p")
        return vfs(point), count(point)

    assert in_child(in_user_namespace(act)) == (shown, 0 if shown is None else 1)


# --- what mount does around it -------------------------------------------------------------------------------------
def test_owner_group_and_mode_one_after_the_other(mount_route: str, place: Path) -> None:
    need_real_root()
    root = put("tmpfs", "x", place / "fs", ["mode=755"])
    steps = [
        ("", "drwxr-xr-x", 0, 0),
        ("X-mount.owner=1", "drwxr-xr-x", 1, 0),
        ("X-mount.group=2", "drwxr-xr-x", 1, 2),
        ("X-mount.owner=132,X-mount.mode=1234", "d-w--wxr-T", 132, 2),
        ("X-mount.mode=4321,X-mount.group=123", "d-ws-w---x", 132, 123),
        ("X-mount.owner=1,X-mount.group=321", "d-ws-w---x", 1, 321),
        ("X-mount.owner=root,X-mount.group=root", "d-ws-w---x", 0, 0),
    ]
    for words, mode, uid, gid in steps:
        point = put("bind", root, place / "p", words)
        found = point.stat()
        assert (stat.filemode(found.st_mode), found.st_uid, found.st_gid) == (mode, uid, gid)
        private.detach(point)


@pytest.mark.parametrize("name", ["no-such-name", "-1", "4294967295", "9" * 5000, "\u00b2", "\u0663"])
@pytest.mark.parametrize("key", ["X-mount.owner", "X-mount.group"])
def test_an_owner_that_nobody_is(mount_route: str, place: Path, key: str, name: str) -> None:
    word = f"{key}={name}"
    with pytest.raises(InvalidSpec) as caught:
        put("tmpfs", "x", place / "p", word)
    assert caught.value.part == word.partition("=")[0]
    assert count(place / "p") == 0


@pytest.mark.parametrize("word", ["ro", "rro"])
def test_an_owner_of_a_bind_that_becomes_read_only(mount_route: str, place: Path, origin: Path, word: str) -> None:
    need_real_root()
    point = put("bind", origin, place / "p", f"{word},X-mount.owner=7,X-mount.group=8,X-mount.mode=711")
    assert "ro" in vfs(point)
    found = point.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (7, 8, 0o711)


def test_an_owner_of_a_new_mount_that_becomes_read_only(mount_route: str, place: Path) -> None:
    need_real_root()
    point = put("tmpfs", "x", place / "p", "ro=vfs,X-mount.owner=7")
    assert ("ro" in vfs(point), "rw" in fs(point), point.stat().st_uid) == (True, True, 7)


def test_an_owner_of_a_read_only_filesystem_is_an_error_and_leaves_nothing(mount_route: str, place: Path) -> None:
    for word in ("owner=1", "group=1", "mode=700"):
        with pytest.raises(KernelError, match="Read-only") as caught:
            put("tmpfs", "x", place / "p", f"ro,X-mount.{word}")
        assert "ro=vfs" in str(caught.value.hint)
        assert count(place / "p") == 0


def test_the_root_can_be_a_directory_of_the_filesystem(mount_route: str, place: Path, origin: Path) -> None:
    point = put("bind", origin, place / "p", "X-mount.subdir=sub")
    assert (point / "file").read_text() == "f"
    with pytest.raises(mountfd.Missing):
        put("bind", origin, place / "q", "X-mount.subdir=nowhere")
    assert count(place / "q") == 0


def test_a_subdirectory_does_not_lead_out_of_its_filesystem(mount_route: str, place: Path, origin: Path) -> None:
    (origin / "out").symlink_to("../../../../etc")
    with pytest.raises(mountfd.Missing):
        put("bind", origin, place / "p", "X-mount.subdir=out")
    (origin / "in").symlink_to("/sub")
    assert (put("bind", origin, place / "p", "X-mount.subdir=in") / "file").exists()


def test_the_unique_id_is_given(mount_route: str, place: Path) -> None:
    (place / "p").mkdir()
    number = mountfd.mount(MountSpec("tmpfs", "x"), place / "p")
    assert number == mountfd.lookup(place / "p").id


def test_beneath_goes_below_what_stands(place: Path) -> None:
    point = put("tmpfs", "top", place / "p")
    mountfd.mount(MountSpec("tmpfs", "new"), point, beneath=True)
    assert count(point) == 2
    assert mountfd.lookup(point).source == "top"
    private.detach(point)
    assert mountfd.lookup(point).source == "new"


def test_beneath_takes_the_descriptor_route(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = put("tmpfs", "top", place / "p")
    monkeypatch.setenv("MOUNTFD_ROUTE", "mount:string")
    with pytest.raises((InvalidSpec, mountfd.NotSupported)):
        mountfd.mount(MountSpec("tmpfs", "new"), point, beneath=True)
    assert count(point) == 1


def test_an_ordinary_user_is_denied_and_told_so(mount_route: str, place: Path) -> None:
    need_real_root()
    point = fill(place / "p")

    def act() -> None:
        mountfd.mount(MountSpec("tmpfs", "x"), point)

    act()  # so that all is imported: the other user may not be able to read it
    private.detach(point)
    with pytest.raises(mountfd.Denied):
        in_child(act, user=NOBODY)
    assert count(point) == 0
