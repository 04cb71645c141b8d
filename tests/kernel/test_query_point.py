"""is_mount says what stands at a path, by statx(2) and without it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import mountfd
from mountfd import Denied, InvalidSpec, KernelError, Missing, NotDirectory, is_mount
from mountfd.lowlevel import calls
from tests.support.inject import lacking, watching
from tests.support.mounting import bind, tmpfs
from tests.support.others import NOBODY, in_child


@pytest.fixture(params=["statx", "ENOSYS", "EPERM"])
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Answer by statx(2), then as if the kernel, and as if a filter, had none."""
    if request.param == "statx":
        yield
    else:
        with watching(lacking("statx", errno=getattr(errno, request.param))):
            yield


@pytest.fixture
def place(scratch: Path) -> Iterator[Path]:
    """Give a directory with a mount `tmpfs`, binds `directory` and `file`, and links to them."""
    (scratch / "source" / "inner").mkdir(parents=True)
    (scratch / "source" / "text").touch()
    tmpfs(scratch / "tmpfs")
    bind(scratch / "source", scratch / "directory")
    (scratch / "file").touch()
    calls.mount(bytes(scratch / "source/text"), bytes(scratch / "file"), None, 0x1000, None)
    for name in ("tmpfs", "directory", "file", "source"):
        (scratch / f"to-{name}").symlink_to(name)
    yield scratch
    for name in ("file", "directory", "tmpfs"):
        calls.umount2(bytes(scratch / name), 0)


@pytest.mark.parametrize("name", ["tmpfs", "directory", "file"])
def test_each_kind_of_mount_is_one(way: None, place: Path, name: str) -> None:
    assert is_mount(place / name)
    assert is_mount(os.fsencode(place / name))
    assert is_mount(f"{place}/to-{name}")
    assert not is_mount(f"{place}/to-{name}", follow=False)


@pytest.mark.parametrize("name", ["source", "source/inner", "source/text", "directory/inner", "directory/text"])
def test_what_only_lies_on_a_mount_is_none(way: None, place: Path, name: str) -> None:
    assert not is_mount(place / name)


def test_bind_mounts_of_a_part_can_be_left_out(way: None, place: Path) -> None:
    answers = {name: is_mount(place / name, bind=False) for name in ("tmpfs", "directory", "file", "source")}
    assert answers == {"tmpfs": True, "directory": False, "file": False, "source": False}


def test_a_relative_path_and_the_root(way: None, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place / "directory")
    assert is_mount(".")
    assert not is_mount("inner")
    assert is_mount("inner/..")
    assert is_mount("/")


def test_a_mount_whose_root_was_deleted_still_is_one(way: None, place: Path) -> None:
    inner = bind(place / "source/inner", place / "point")
    (place / "source/inner").rmdir()
    assert is_mount(inner)
    calls.umount2(bytes(inner), 0)


def test_the_root_of_a_chroot_on_a_plain_directory_is_none(way: None, place: Path) -> None:
    def within() -> list[bool]:
        calls.unshare(0x20000)
        bind(place / "source/inner", place / "source/other")
        (place / "source/proc").mkdir()
        calls.mount(b"proc", bytes(place / "source/proc"), b"proc", 0, None)
        calls.chroot(bytes(place / "source"))
        os.chdir("/")
        return [is_mount(path) for path in ("/", "/other", "/inner", "/proc")]

    assert in_child(within) == [False, True, False, True]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("missing", Missing), ("source/text/below", NotDirectory), ("x" * 256, KernelError), ("missing/..", Missing)],
)
def test_a_path_that_leads_nowhere_is_named(way: None, place: Path, name: str, kind: type[KernelError]) -> None:
    with pytest.raises(kind) as caught:
        is_mount(place / name)
    assert caught.value.filename == str(place / name)


@pytest.mark.parametrize("path", ["", b"", "a\0b"])
def test_no_path_is_refused(way: None, path: str | bytes) -> None:
    with pytest.raises(InvalidSpec):
        is_mount(path)


def test_an_ordinary_user_gets_the_same_answers(way: None, place: Path) -> None:
    (place / "closed").mkdir(mode=0o700)
    tmpfs(place / "closed/below")
    (place / "tmpfs").chmod(0o700)

    def within() -> list[bool]:
        return [is_mount(place / name) for name in ("tmpfs", "directory", "file", "source", "closed")]

    assert in_child(within, NOBODY) == [True, True, True, False, False]
    with pytest.raises(Denied):
        in_child(lambda: is_mount(place / "closed/below"), NOBODY)
    calls.umount2(bytes(place / "closed/below"), 0)


def test_it_is_one_call_that_asks_no_server_and_mounts_nothing(place: Path) -> None:
    asked: list[int] = []

    class Ear:
        def before(self, row: calls.Row, arguments: tuple[int, ...]) -> int:
            asked.append(arguments[2])
            assert row.name == "statx"
            return 0

        def after(self, *_: object) -> None: ...
        def note(self, _: str) -> None: ...

    with watching(Ear()):  # type: ignore[arg-type]
        is_mount(place)
    assert asked == [0x4000 | 0x800]  # AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT


def test_a_mount_of_another_namespace_cannot_be_told_a_bind(place: Path) -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        calls.unshare(0x20000)
        tmpfs(place / "there")
        calls.mount(None, bytes(place / "there"), None, 1 << 18, None)
        os.write(1, b"")
        (place / "there" / "ready").touch()
        os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    path = f"/proc/{pid}/root{place}/there"
    while not os.path.exists(f"{path}/ready"):
        os.sched_yield()
    try:
        assert is_mount(path)
        assert (mountfd.lookup(path).id is None) != mountfd.has(mountfd.Feature.STATX_MNT_ID_UNIQUE)
        with pytest.raises(mountfd.NotSupported) as caught:
            is_mount(path, bind=False)
        assert caught.value.hint
    finally:
        os.close(writing)
        os.waitpid(pid, 0)
