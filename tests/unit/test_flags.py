"""Flag words are open sets, calls can be put into words, and a watcher sees, refuses and repeats them."""

from __future__ import annotations

import errno
import os
from ctypes import Structure, byref
from enum import IntFlag
from typing import TYPE_CHECKING

import pytest

from mountfd.abi import calls, flags
from mountfd.abi import numbers as n
from mountfd.abi.layouts import MntIdReq, MountAttr, OpenHow, StatxBuffer
from mountfd.abi.trace import say, trace
from mountfd.errors import Denied, Missing

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

WORDS = [getattr(flags, name) for name in flags.__all__]


class Injector:
    """Refuses calls of one name with each of the given errnos in turn, and writes down how all calls ended."""

    def __init__(self, name: str, *errnos: int) -> None:
        self.name = name
        self.errnos = list(errnos)
        self.seen: list[tuple[str, int]] = []

    def before(self, row: calls.Row, arguments: tuple[Any, ...]) -> int:  # noqa: ARG002 (the protocol's)
        return self.errnos.pop(0) if row.name == self.name and self.errnos else 0

    def after(self, row: calls.Row, arguments: tuple[Any, ...], result: int, errno: int) -> None:  # noqa: ARG002
        self.seen.append((row.name, errno))


@pytest.fixture
def no_watcher(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Take away whoever watches the calls, until the test's end."""
    monkeypatch.setattr(calls, "watcher", None)
    return monkeypatch


def words(name: str, *arguments: object, result: int = 0, errno: int = 0) -> str:
    """Put a call that nobody makes into words."""
    return say(calls.ROWS[name], arguments, result, errno)


# --- flag words ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("word", WORDS, ids=lambda word: word.__name__)
def test_a_bit_without_a_name_is_kept(word: type[IntFlag]) -> None:
    unknown = 1 << 62
    for member in word.__members__.values():
        answer = word(member | unknown)
        assert type(answer) is word
        assert int(answer) == member.value | unknown
        assert answer & member == member
        assert int(answer ^ member) == unknown


def test_all_words_are_public() -> None:
    defined = {name for name, value in vars(flags).items() if isinstance(value, type) and issubclass(value, IntFlag)}
    assert defined - {"IntFlag"} == set(flags.__all__)


# --- calls in words ------------------------------------------------------------------------------------------------
def test_flags_of_two_headers_in_one_word() -> None:
    asked = flags.OpenTree.CLONE | flags.OpenTree.CLOEXEC | n.AT_RECURSIVE
    line = words("open_tree", n.AT_FDCWD, b"/nonexistent", asked, result=-1, errno=errno.ENOENT)
    call, _, outcome = line.partition(" = ")
    assert call == "open_tree(AT_FDCWD, '/nonexistent', CLONE|AT_RECURSIVE|CLOEXEC)"
    assert outcome == "-1 ENOENT (No such file or directory)"


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ("fsopen('overlay', CLOEXEC) = 5", ("fsopen", b"overlay", 1, 5)),
        ("fsconfig(5, SET_STRING, 'source', 'x', 0) = 0", ("fsconfig", 5, 1, b"source", b"x", 0, 0)),
        ("fsconfig(5, CMD_CREATE, NULL, NULL, 0) = 0", ("fsconfig", 5, 6, None, None, 0, 0)),
        ("fsmount(5, CLOEXEC|NAMESPACE, RDONLY|NODEV) = 6", ("fsmount", 5, 3, 5, 6)),
        ("fsmount(5, 0, 0) = 6", ("fsmount", 5, 0, 0, 6)),
        (
            "move_mount(6, '', AT_FDCWD, '/mnt', F_EMPTY_PATH|BENEATH) = 0",
            ("move_mount", 6, b"", n.AT_FDCWD, b"/mnt", 0x204, 0),
        ),
        ("umount2('/mnt', DETACH|NOFOLLOW) = 0", ("umount2", b"/mnt", 10, 0)),
        ("umount2('/mnt', DETACH|0x100) = 0", ("umount2", b"/mnt", 0x102, 0)),
        (
            "mount(NULL, '/', NULL, REC|PRIVATE, NULL) = 0",
            ("mount", None, b"/", None, flags.MountFlag.REC | flags.MountFlag.PRIVATE, None, 0),
        ),
        (
            "fanotify_mark(4, ADD|MNTNS, MNT_ATTACH|MNT_DETACH, 5, NULL) = 0",
            ("fanotify_mark", 4, 0x111, 0x3000000, 5, None, 0),
        ),
        ("setns(4, NEWNS|NEWUSER) = 0", ("setns", 4, 0x10020000, 0)),
        ("ioctl(4, NS_GET_MNTNS_ID, ...) = 0", ("ioctl", 4, n.NS_GET_MNTNS_ID, byref(StatxBuffer()), 0)),
        (
            "statx(3, '', AT_EMPTY_PATH, MNT_ID_UNIQUE, ...) = 0",
            ("statx", 3, b"", n.AT_EMPTY_PATH, 0x4000, byref(StatxBuffer()), 0),
        ),
        (
            "statx(AT_FDCWD, '/', AT_SYMLINK_NOFOLLOW, BASIC_STATS|MNT_ID, NULL) = 0",
            ("statx", n.AT_FDCWD, b"/", n.AT_SYMLINK_NOFOLLOW, 0x17FF, None, 0),
        ),
        (
            "openat(AT_FDCWD, '/', O_DIRECTORY|O_CLOEXEC, 0) = 3",
            ("openat", n.AT_FDCWD, b"/", os.O_DIRECTORY | os.O_CLOEXEC, 0, 3),
        ),
    ],
    ids=lambda value: value.partition("(")[0] if isinstance(value, str) else "",
)
def test_names_instead_of_numbers(line: str, call: tuple[Any, ...]) -> None:
    name, *arguments, result = call
    assert words(name, *arguments, result=result) == line


@pytest.mark.parametrize(
    ("structure", "line"),
    [
        (
            MountAttr(0x100003, 0x70, 1 << 18, 7),
            "{set=RDONLY|NOSUID|IDMAP, clear=ATIME_MASK, propagation=PRIVATE, userns_fd=7}",
        ),
        (MountAttr(), "{set=0, clear=0, propagation=0, userns_fd=0}"),
        (OpenHow(os.O_PATH | os.O_CLOEXEC, 0, 0x12), "{flags=O_CLOEXEC|O_PATH, resolve=NO_MAGICLINKS|IN_ROOT}"),
        (MntIdReq(24, 0, 0x80000001, 0x3), "{mnt_id=0x80000001, param=0x3}"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_structures_in_words(structure: Structure, line: str) -> None:
    row = calls.Row("call", "argument:pointer")
    assert say(row, (byref(structure),), 0, 0) == f"call({line}) = 0"
    assert say(row, (structure,), 0, 0) == f"call({line}) = 0"


def test_long_text_is_cut_short() -> None:
    line = words("umount2", b"x" * 1000, 0)
    assert line.endswith("xxx'..., 0) = 0")
    assert len(line) < 200


# --- watching ------------------------------------------------------------------------------------------------------
def test_trace_tells_what_happened(no_watcher: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines: list[str] = []
    with trace(lines.append):
        os.close(calls.openat(n.AT_FDCWD, b"/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, 0))
        calls.remark("a remark")
        with pytest.raises(Missing):
            calls.openat(n.AT_FDCWD, os.fsencode(tmp_path / "nonexistent"), os.O_PATH | os.O_CLOEXEC, 0)
    calls.remark("unheard")
    opened, remark, failed = lines
    assert opened.startswith("openat(AT_FDCWD, '/', O_DIRECTORY|O_CLOEXEC, 0) = ")
    assert remark == "# a remark"
    assert failed.endswith("/nonexistent', O_CLOEXEC|O_PATH, 0) = -1 ENOENT (No such file or directory)")
    assert calls.watcher is None


def test_an_injected_error_stands_for_the_call(no_watcher: pytest.MonkeyPatch, tmp_path: Path) -> None:
    watcher = Injector("mkdirat", errno.EPERM)
    no_watcher.setattr(calls, "watcher", watcher)
    place = os.fsencode(tmp_path / "made")
    with pytest.raises(Denied) as caught:
        calls.mkdirat(n.AT_FDCWD, place, 0o700)
    assert (caught.value.errno, caught.value.syscall) == (errno.EPERM, "mkdirat")
    assert caught.value.arguments == (n.AT_FDCWD, place, 0o700)
    assert caught.value.filename == os.fsdecode(place)
    assert not os.path.exists(place)

    calls.mkdirat(n.AT_FDCWD, place, 0o700)
    assert os.path.isdir(place)
    assert watcher.seen == [("mkdirat", errno.EPERM), ("mkdirat", 0)]


def test_an_interrupted_call_is_made_again(no_watcher: pytest.MonkeyPatch, tmp_path: Path) -> None:
    watcher = Injector("mkdirat", errno.EINTR)
    no_watcher.setattr(calls, "watcher", watcher)
    calls.mkdirat(n.AT_FDCWD, os.fsencode(tmp_path / "made"), 0o700)
    assert (tmp_path / "made").is_dir()
    assert watcher.seen == [("mkdirat", errno.EINTR), ("mkdirat", 0)]


def test_trace_shows_what_another_watcher_injects(no_watcher: pytest.MonkeyPatch, tmp_path: Path) -> None:
    watcher = Injector("mkdirat", errno.EACCES)
    no_watcher.setattr(calls, "watcher", watcher)
    lines: list[str] = []
    with trace(lines.append), pytest.raises(Denied):
        calls.mkdirat(n.AT_FDCWD, os.fsencode(tmp_path / "made"), 0o700)
    assert [line.partition(" = ")[2] for line in lines] == ["-1 EACCES (Permission denied)"]
    assert vars(calls)["watcher"] is watcher
    assert watcher.seen == [("mkdirat", errno.EACCES)]
