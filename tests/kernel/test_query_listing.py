"""mounts lists this namespace, or what can be reached through a path."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mountfd
from mountfd import Feature, InvalidSpec, KernelError, Missing, MountTable, NotDirectory, lookup, mounts
from mountfd.lowlevel import calls
from tests.support.inject import lacking, watching
from tests.support.mounting import tmpfs
from tests.support.need import need, need_unique_ids
from tests.support.others import NOBODY, in_child
from tests.support.seccomp import forbid

WAYS = ("as it is", "by table", "by id", "no statmount", "no listmount", "filtered", "no statx", "nothing")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Answer by each route, and as if calls were missing or forbidden."""
    name: str = request.param
    routes = {"by table": "mountinfo", "by id": "listmount"}
    lacks = {"filtered": ("statmount", "listmount"), "nothing": ("statmount", "listmount", "statx")}
    need(name != "by id" or mountfd.has(Feature.LISTMOUNT), "LISTMOUNT (Linux 6.8)")
    if name in routes:
        monkeypatch.setenv("MOUNTFD_ROUTE", f"mounts:{routes[name]}")
    missing = lacks.get(name, (name[3:],) if name.startswith("no ") else ())
    with watching(lacking(*missing, errno=errno.EPERM if name == "filtered" else errno.ENOSYS)):
        yield


@pytest.fixture
def place(scratch: Path) -> Iterator[Path]:
    """Make a tree with a stack that hides mounts: `a/b/c`, and `a` covered by another that has `b/d`."""
    a = tmpfs(scratch / "a")
    tmpfs(tmpfs(a / "b") / "c")
    tmpfs(scratch / "a")
    (a / "b").mkdir()
    tmpfs(a / "b" / "d")
    (a / "b" / "plain").mkdir()
    tmpfs(scratch / "ab")
    (scratch / "file").touch()
    calls.mount(b"/dev/null", bytes(scratch / "file"), None, 0x1000, None)
    (scratch / "link").symlink_to("a/b")
    yield scratch
    for name in ("file", "ab", "a/b/d", "a", "a/b/c", "a/b", "a"):
        calls.umount2(bytes(scratch / name), 0)


def points(place: Path, table: MountTable) -> list[str]:
    return [os.path.relpath(mount.point or "?", place) for mount in table]


@pytest.mark.parametrize(
    ("under", "wanted"),
    [
        (".", {".", "a", "a/b", "a/b/c", "a/b/d", "ab", "file"}),
        ("a", {"a", "a/b", "a/b/c", "a/b/d"}),
        ("a/", {"a", "a/b", "a/b/c", "a/b/d"}),
        ("a/b", {"a/b/d"}),
        ("link", {"a/b/d"}),
        ("a/b/d", {"a/b/d"}),
        ("a/b/plain", set()),
        ("file", {"file"}),
        ("link/../../a", {"a", "a/b", "a/b/c", "a/b/d"}),
    ],
)
def test_under_a_path(way: None, place: Path, under: str, wanted: set[str]) -> None:
    assert set(points(place, mounts(under=place / under))) == wanted
    with contextlib.chdir(place):
        assert set(points(place, mounts(under=under))) == wanted


def test_under_a_mount_names_it_first_and_then_what_it_covers(way: None, place: Path) -> None:
    listed = mounts(under=place / "a")
    assert points(place, listed)[:2] == ["a", "a"]
    assert sorted(points(place, listed)[2:]) == ["a/b", "a/b/c", "a/b/d"]
    fd = os.open(place / "a", os.O_PATH)
    assert listed[0].id_old == lookup(fd=fd).id_old
    os.close(fd)


def test_the_own_namespace_by_name_gives_the_same_below_a_path(way: None, place: Path) -> None:
    with mountfd.MountNamespace.current() as own:
        for under in (".", "a", "a/b", "link", "a/b/plain"):
            wanted = sorted(mount.id_old or 0 for mount in mounts(under=place / under))
            listed = mounts(under=place / under, namespace=own, fields=("id_old",))
            assert sorted(mount.id_old or 0 for mount in listed) == wanted


def test_covered_mounts_are_in_the_whole_listing(way: None, place: Path) -> None:
    listed = mounts()
    stack = listed.stack(str(place / "a"))
    assert len(stack) == 2
    assert [listed.is_covered(mount) for mount in stack] == [False, True]
    assert {m.id_old for m in listed} == {
        int(line.split()[0]) for line in Path("/proc/self/mountinfo").read_bytes().split(b"\n") if line
    }


def test_unique_ids_come_when_asked_for(place: Path) -> None:
    need_unique_ids()
    listed = mounts(fields=("id", "parent_id", "point"))
    assert all(mount.id and mount.fstype is None for mount in listed)
    assert set(points(place, mounts(under=place / "a/b", fields=("id", "point")))) == {"a/b/d"}
    assert mounts(fields=["point"])[0].id is None


def test_only_filesystems_of_a_type(place: Path) -> None:
    assert {mount.fstype for mount in mounts(fstype="tmpfs")} == {"tmpfs"}
    assert points(place, mounts(under=place, fstype="devtmpfs")) == ["file"]
    assert len(mounts(fstype="nothing")) == 0


@pytest.mark.parametrize(
    ("under", "kind"),
    [("missing", Missing), ("file/below", NotDirectory), ("", InvalidSpec), ("a\0", InvalidSpec)],
)
def test_a_path_that_leads_nowhere_is_named(way: None, place: Path, under: str, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        mounts(under=f"{place}/{under}" if under else "")
    assert not isinstance(caught.value, KernelError) or caught.value.filename == f"{place}/{under}"


@pytest.mark.parametrize("fields", ["point", ["no"], [None], [("id",)]], ids=str)
def test_fields_that_there_are_not_are_named(fields: list[str]) -> None:
    with pytest.raises(InvalidSpec) as caught:
        mounts(fields=fields)
    assert caught.value.part is not None


def test_a_route_that_there_is_not_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", "mounts:guessing")
    with pytest.raises(InvalidSpec):
        mounts()


@pytest.mark.parametrize("words", ["garbage", "mounts:", ":listmount", "mounts:listmount,garbage"])
def test_a_route_that_names_no_verb_is_refused(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", words)
    with pytest.raises(InvalidSpec, match="verb:route") as caught:
        mounts()
    assert caught.value.part == "MOUNTFD_ROUTE"


def test_a_mount_that_goes_while_it_is_listed_is_left_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need(mountfd.has(Feature.LISTMOUNT), "LISTMOUNT (Linux 6.8)")  # the table is read at once
    going = [True]

    def decide(_count: int, name: str, _arguments: object) -> int:
        if name == "statmount" and going:
            going.clear()
            calls.umount2(bytes(place / "ab"), 0)
        return 0

    from tests.support.inject import Watch

    with watching(Watch(decide)):
        listed = mounts(under=place)
    tmpfs(place / "ab")
    assert "ab" not in points(place, listed)
    assert "a/b/d" in points(place, listed)


def test_stable_reads_until_two_readings_agree_or_says_that_they_did_not(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = [b"1 0 0:1 / / rw - a a rw\n", b"1 0 0:1 / / rw - a a rw\n2 1 0:1 / /b rw - a a rw\n"]
    with watching(lacking("listmount", errno=errno.ENOSYS)), monkeypatch.context() as patch:
        patch.setattr(
            "mountfd.verbs.query.listing.read_table", lambda: readings.pop(0) if len(readings) > 1 else readings[0]
        )
        assert len(mounts(stable=True)) == 2
        counter = iter(range(1000))
        patch.setattr("mountfd.verbs.query.listing.read_table", lambda: b"%d 0 0:1 / / rw - a a rw\n" % next(counter))
        with pytest.raises(KernelError) as caught:
            mounts(stable=True)
        assert caught.value.errno == errno.EAGAIN
    assert len(mounts(stable=True)) == len(mounts())


# --- who asks ------------------------------------------------------------------------------------------------------
def test_an_ordinary_user_sees_the_same(place: Path) -> None:
    wanted = list(mounts())
    assert in_child(lambda: list(mounts()), NOBODY) == wanted
    below = list(mounts(under=place, fields=("id", "point")))
    assert in_child(lambda: list(mounts(under=place, fields=("id", "point"))), NOBODY) == below


def chrooted(place: Path, user: int | None, act: Callable[[], object], *, proc: bool) -> object:
    def within() -> object:
        calls.unshare(0x20000)
        if proc:
            calls.mount(b"proc", bytes(place / "proc"), b"proc", 0, None)
        calls.chroot(bytes(place))
        os.chdir("/")
        if user is not None:
            os.setresuid(user, user, user)
        return act()

    return in_child(within)


@pytest.mark.parametrize("user", [None, NOBODY])
@pytest.mark.parametrize("proc", [True, False])
@pytest.mark.parametrize("fields", [None, ("id", "point")])
def test_in_a_chroot_the_mounts_within_are_listed(
    scratch: Path, user: int | None, proc: bool, fields: tuple[str, ...] | None
) -> None:
    root = scratch / "root"
    for path in (root, root / "proc", root / "d"):
        path.mkdir()
    tmpfs(scratch / "outside")
    tmpfs(root / "d" / "inside")

    def act() -> list[list[str]]:
        tables = [mounts(fields=fields), mounts(under="/", fields=fields or ("id", "point")), mounts(under="/d/inside")]
        return [sorted(mount.point for mount in table if mount.is_reachable and mount.point) for table in tables]

    whole = ["/d/inside", "/proc"] if proc else ["/d/inside"]
    if proc or fields is None:
        assert chrooted(root, user, act, proc=proc) == [whole, whole, ["/d/inside"]] if proc else True
    calls.umount2(bytes(root / "d/inside"), 0)
    calls.umount2(bytes(scratch / "outside"), 0)


def test_in_a_user_namespace_all_is_as_outside(place: Path) -> None:
    wanted = sorted(mount.point or "" for mount in mounts())

    def within() -> tuple[list[str], list[str], bool]:
        calls.unshare(0x10000000 | 0x20000)
        table = [mount.point or "" for mount in mounts()]
        below = sorted(points(place, mounts(under=place / "a", fields=("id", "point"))))
        return sorted(table), below, mountfd.is_mount(place / "a")

    assert in_child(within, NOBODY) == (wanted, ["a", "a", "a/b", "a/b/c", "a/b/d"], True)


# --- a real filter -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM])
@pytest.mark.parametrize(
    "names",
    [("statmount",), ("listmount",), ("statx",), ("statmount", "listmount"), ("statmount", "listmount", "statx")],
)
def test_under_a_seccomp_filter_the_answers_are_right(place: Path, names: tuple[str, ...], code: int) -> None:
    def ask() -> tuple[object, ...]:
        info = lookup(place / "a")
        return (
            mountfd.is_mount(place / "a"),
            mountfd.is_mount(place / "a/b"),
            (info.id_old, info.point, info.options, info.attrs, info.source),
            sorted(points(place, mounts(under=place))),
            sorted(points(place, mounts(under=place / "a"))),
            sorted(mount.id_old or 0 for mount in mounts(fields=("id_old", "id"))),
        )

    def within() -> tuple[object, ...]:
        forbid(*names, errno=code)
        return ask()

    assert in_child(within) == ask()
