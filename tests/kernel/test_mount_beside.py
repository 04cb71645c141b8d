"""The same words given to mount(8) and to this library: the table says the same of both, or better of ours."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mountfd
from mountfd import InvalidSpec, KernelError, MountSpec
from mountfd.lowlevel import calls
from tests.support.layers import fill, layers, line_of
from tests.support.need import need_command, need_real_root
from tests.support.others import in_child
from tests.support.specs import MNT_DETACH, cleared, count, in_user_namespace, put

Told = tuple[str, ...]

OPTIONS = [
    "",
    "defaults",
    *("ro", "rw", "ro,rw", "rw,ro", "nosuid", "nodev", "noexec", "nosuid,nodev,noexec", "nosuid,suid", "ro,nodev,exec"),
    *("noatime", "relatime", "strictatime", "nodiratime", "noatime,nodiratime", "noatime,atime", "strictatime,nodev"),
    *("strictatime,relatime", "relatime,noatime", "noatime,strictatime", "norelatime", "noatime,nostrictatime"),
    *("nosymfollow", "nosymfollow,ro", "sync", "dirsync", "lazytime", "ro,sync,lazytime", "sync,async"),
    *("private", "shared", "unbindable", "rshared", "ro,private", "private,unbindable", "shared,slave", "noexec,slave"),
    *(
        "x-systemd.automount,X-mine=1",
        "noauto,nofail,_netdev",
        "user",
        "users",
        "owner",
        "group",
        "user,exec",
        "silent",
    ),
    *("nonsense", "nonsense=1", "ro,nonsense"),
]
OWN = {
    "tmpfs": ["size=1m", "size=1m,mode=700,nodev", "mode=0700", "nr_inodes=10", "size=1m,size=2m", "size="],
    "proc": ["hidepid=2", "hidepid=invisible,ro", "gid=5", "subset=pid"],
    "overlay": ["xino=off", "index=on", "userxattr", "volatile", "redirect_dir=nofollow,ro"],
    "bind": [],
    "rbind": [],
}

# What is told differently on purpose, and why.
IMPROVED = {
    # mount(8) joins the two, and the kernel then takes the stronger; here the last word counts.
    "anywhere": {"strictatime,relatime"},
    # mount(8) 2.38 leaves the word out; here it is done.
    "bind on the host": {"strictatime"},
    # mount(8) takes what a bind can't do, and drops it; here it is refused.
    "bind": {"nonsense", "nonsense=1", "ro,nonsense"},
    # Access times are locked in a user namespace. mount(8) leaves the mount without them; here that is Denied.
    "bind in a user namespace": {
        *("noatime", "strictatime", "nodiratime", "noatime,nodiratime", "strictatime,nodev", "relatime,noatime"),
        *("noatime,strictatime", "noatime,nostrictatime"),
    },
}


@pytest.fixture
def place(scratch: Path) -> Iterator[Path]:
    need_command("mount")
    with cleared(scratch):
        fill(scratch / "p")
        yield scratch


def told(point: Path) -> Told:
    """Give what the table says of the mount on a point and of those below it, but for ids; and take it away."""
    if not count(point):
        return ("nothing",)
    line = line_of(point)
    dash = line.index(b"-")
    words = [line[3], b",".join(sorted(line[5].split(b","))), *(tag.partition(b":")[0] for tag in line[6:dash])]
    words += [line[dash + 1], line[dash + 2], b",".join(sorted(filter(_is_own, line[dash + 3].split(b","))))]
    words.append(b"%d mounts" % count(point))
    while count(point):
        calls.umount2(os.fsencode(point), MNT_DETACH)
    return tuple(map(os.fsdecode, words))


def _is_own(word: bytes) -> bool:
    """Leave out overlayfs's layers, which are names or descriptors, and what it says of the upper layer's first use."""
    return not word.startswith((b"lowerdir", b"upperdir=", b"workdir=", b"uuid="))


def theirs(kind: str, origin: str, options: str, point: Path) -> Told:
    words = ",".join(filter(None, [kind if "bind" in kind else "", options]))
    line = ["mount", "-t", "none" if "bind" in kind else kind, "-o", words or "defaults", origin, str(point)]
    subprocess.run(line, check=False, capture_output=True)
    return told(point)


def ours(kind: str, origin: str, options: str, point: Path) -> Told:
    try:
        mountfd.mount(MountSpec(kind, origin, options=options), point)
    except (InvalidSpec, KernelError):
        assert count(point) == 0
    return told(point)


def differences(
    kind: str, origin: str, given: Callable[[], str], options: list[str], point: Path
) -> dict[str, tuple[Told, Told]]:
    found = {}
    for words in options:
        of_mount = theirs(kind, origin, ",".join(filter(None, [given(), words])), point)
        pair = of_mount, ours(kind, origin, ",".join(filter(None, [given(), words])), point)
        if pair[0] != pair[1]:
            found[words] = pair
    return found


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        *((kind, "host") for kind in ("bind", "rbind", "tmpfs", "proc", "overlay")),
        *((kind, "user namespace") for kind in ("bind", "rbind", "tmpfs", "overlay")),
    ],
)
def test_the_same_words_do_the_same(mount_route: str, place: Path, kind: str, where: str) -> None:
    origin = "label"
    lower = ":".join(map(str, layers(place, 2)))

    def given() -> str:
        if kind != "overlay":
            return ""
        own = Path(tempfile.mkdtemp(dir=place))
        return f"lowerdir={lower},upperdir={fill(own / 'u')},workdir={fill(own / 'w')}"

    if "bind" in kind:
        origin = str(put("tmpfs", "origin", place / "origin"))
    if kind == "rbind":
        put("tmpfs", "below", place / "origin/sub")
    need_real_root()

    def act() -> dict[str, tuple[Told, Told]]:
        return differences(kind, origin, given, OPTIONS + OWN[kind], place / "p")

    found = act() if where == "host" else in_child(in_user_namespace(act))
    expected = set(IMPROVED["anywhere"])
    if "bind" in kind:
        expected = IMPROVED["bind in a user namespace"] if where != "host" else expected | IMPROVED["bind on the host"]
        expected = expected | IMPROVED["bind"]
    unmarked = {words: (of_mount, _without_marks(of_ours)) for words, (of_mount, of_ours) in found.items()}
    # In a user namespace assemble adds `userxattr`, without which no directory of a lower layer can be removed.
    marked = kind == "overlay" and where != "host" and mount_route == "descriptor"
    rest = {words: pair for words, pair in (unmarked if marked else found).items() if pair[0] != pair[1]}
    assert {words: pair for words, pair in rest.items() if words not in expected} == {}


def _without_marks(line: Told) -> Told:
    return tuple(word.replace(",userxattr", "") for word in line)


@pytest.mark.parametrize("words", ["nodev", "ro", "rw", "noexec,nodev", "nosuid", "ro,suid", "private", "sync"])
def test_a_bind_keeps_what_its_words_do_not_name_where_mount_loses_it(
    mount_route: str, place: Path, words: str
) -> None:
    origin = str(put("tmpfs", "origin", place / "origin", "nosuid,noexec,noatime"))
    of_mount, of_ours = theirs("bind", origin, words, place / "p")[1], ours("bind", origin, words, place / "p")[1]
    kept = {"nosuid", "noexec"} - ({"nosuid"} if words.endswith("suid") else set())
    assert set(of_ours.split(",")) - kept == set(of_mount.split(",")) - kept
    assert kept <= set(of_ours.split(","))
