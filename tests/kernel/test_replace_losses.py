"""Nothing that was mounted is lost: neither here nor elsewhere, neither in a race nor after a kill."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from errno import ENOENT, EPERM
from pathlib import Path
from typing import Any

import pytest

from mountfd import Busy, Denied, Feature, Gone, InvalidSpec, KernelError, Mount, MountNamespace, has, lookup, mounts
from mountfd.lowlevel import calls
from mountfd.verbs.enter import in_namespace
from mountfd.verbs.replace import plan, replace
from tests.kernel.test_holders import another
from tests.kernel.test_replace import Stand, stand, table
from tests.kernel.test_replace_namespaces import away, enter, shown
from tests.support.inject import Watch, watching
from tests.support.layers import content, fill
from tests.support.mounting import MNT_DETACH, MS_PRIVATE, MS_REC, MS_SHARED, MS_SLAVE, bind, change, tmpfs, umount
from tests.support.need import need, need_real_root
from tests.support.others import in_child

need(has(Feature.MOVE_MOUNT_BENEATH) and has(Feature.STATMOUNT), "MOVE_MOUNT_BENEATH and statmount(2) (Linux 6.8)")

__all__ = ["stand"]

BENEATH = 0x200


def once(number: int, act: Callable[[], object]) -> Watch:
    """Do something before the call of that number; the calls that this makes aren't counted.

    It is done in the mount namespace that this one is: older kernels make some of the calls in a private one.
    """
    watch, is_busy, count = Watch(), False, 0
    home = os.stat("/proc/thread-self/ns/mnt").st_ino

    def decide(_count: int, name: str, _arguments: object) -> int:
        nonlocal is_busy, count
        if not is_busy:
            count += 1
            if count == number:
                is_busy, watch.hit = True, name
                if os.stat("/proc/thread-self/ns/mnt").st_ino == home:
                    act()
                else:
                    with MountNamespace.of(os.getpid()) as own:
                        in_namespace(own, act)
                is_busy = False
        return 0

    watch._decide = decide
    return watch


def put_beneath(source: Path, target: Path) -> None:
    with Mount.clone(source) as new:
        new.attach(target, beneath=True)


# --- races --------------------------------------------------------------------------------------------------------
class Tale:
    """What somebody else does meanwhile, how that is undone, and what must be seen unless an error is told."""

    def __init__(self, stand: Stand) -> None:
        """Know the place."""
        self.target, self.home = stand.target, stand.home
        self.sub, self.late = stand.target / "sub", stand.target / "second"

    def mounts(self) -> None:
        fill(tmpfs(self.late), {"late": "late"})

    def unmounts(self) -> None:
        umount(self.sub, MNT_DETACH)

    def tucks(self) -> None:
        put_beneath(self.home / "stranger", self.sub)

    def covers(self) -> None:
        fill(tmpfs(self.target), {"v": "cover"})

    def takes(self) -> None:
        umount(self.target, MNT_DETACH)


def build(stand: Stand, *, below: bool) -> None:
    while stand.height():
        umount(stand.target, MNT_DETACH)
    fill(tmpfs(stand.target), {"v": "old", "sub/base": "", "second/base": "", "deep/er/base": "", "file": ""})
    if below:
        fill(tmpfs(stand.target / "sub"), {"kept": "kept"})


@pytest.mark.parametrize(("event", "below"), [
    ("mounts", True), ("mounts", False), ("unmounts", True), ("tucks", True), ("covers", False), ("covers", True),
    ("takes", False), ("takes", True),
])  # fmt: skip
def test_what_others_do_at_any_moment_is_not_lost_without_a_word(stand: Stand, event: str, below: bool) -> None:
    fill(stand.home / "stranger", {"which": "stranger"})
    outcomes = set()
    number = 0
    while True:
        number += 1
        build(stand, below=below)
        watch = once(number, getattr(Tale(stand), event))
        outcome, previous = "done", {}
        with watching(watch):
            try:
                with replace(stand.target, stand.home / "new") as mount:
                    previous = content(mount)
            except (Busy, InvalidSpec, Gone) as error:
                outcome = type(error).__name__
        at = (number, watch.hit, outcome)
        if watch.hit is None:
            break
        outcomes.add(outcome)
        points = [row.point for row in mounts(under=stand.home, fields=("point",))]
        # Nobody can see what comes between the last look and the detach.
        last = watch.hit in {"mount_setattr", "statx", "umount2", "openat"} and number > len(watch.names) // 2
        if event == "mounts":
            assert last or (stand.target / "second/late").exists(), at
        if event in {"mounts", "tucks"} and below:
            assert (stand.target / "sub/kept").read_text() == "kept", at
        if event == "tucks":
            assert last or points.count(str(stand.target / "sub")) >= 2, at
        if event == "covers":
            told = outcome == "Busy" and watch.hit == "umount2"
            assert told or stand.shows() == "cover" or previous["v"] == "cover", at
        if event == "takes":
            assert outcome == "done" or stand.height() == 0, at
        if event == "unmounts":
            assert stand.shows() == ("new" if outcome == "done" else "old"), at
    assert "Busy" in outcomes or event not in {"tucks", "unmounts"}
    assert number > 12


def start(act: Callable[[], object], rounds: int) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            while rounds:
                try:
                    act()
                except Busy:
                    continue
                rounds -= 1
            status = 0
        finally:
            os._exit(status)
    return pid


def test_replacing_a_mount_and_one_below_it_at_once_undoes_neither(stand: Stand) -> None:
    """Each process ends with a version that nobody else writes: both show at the end."""
    for name in ("one", "two"):
        fill(stand.home / name, {"which": name, "inner": ""})
    bind(stand.home / "one", stand.target / "sub")
    home = stand.home
    inner: list[Callable[[], None]] = [
        lambda: replace(stand.target / "sub", home / "one").close(),
        lambda: replace(stand.target / "sub", home / "two").close(),
    ]

    def check_inner() -> None:
        for act, name in zip(inner, ("one", "two"), strict=True):
            act()
            assert (stand.target / "sub/which").read_text() == name

    def outer() -> None:
        for name in ("new", "other"):
            replace(stand.target, home / name).close()

    pids = [start(outer, 15), start(check_inner, 15)]
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0]
    assert (stand.shows(), (stand.target / "sub/which").read_text()) == ("other", "two")
    assert (stand.height(), len(table(stand.target))) == (1, 1)


def test_a_directory_that_is_seen_twice_is_locked_once(stand: Stand) -> None:
    """The target is bound from where it stands: the directory it stands in is also one within it."""
    umount(stand.target)
    change(stand.home, MS_PRIVATE)
    bind(stand.home, stand.target)
    fill(tmpfs(stand.target / "other"), {"kept": "kept"})
    fill(stand.home / "new/other")
    replace(stand.target, stand.home / "new").close()
    assert (stand.target / "other/kept").read_text() == "kept"


# --- between the two steps ----------------------------------------------------------------------------------------
@pytest.fixture
def bound(scratch: Path) -> Iterator[Path]:
    """Give a target `t` on a private mount, bound from the shared `src`: what stands on one stands on the other."""
    source = tmpfs(scratch / "src")
    change(source, MS_SHARED)
    fill(source / "sub")
    bind(source, scratch / "t")
    fill(tmpfs(scratch / "t/sub"), {"kept": "kept"})
    fill(scratch / "new", {"v": "new", "sub/x": "", "late/x": ""})
    fill(scratch / "newer", {"v": "newer", "sub/x": "", "late/x": ""})
    yield scratch
    umount(scratch / "t", MNT_DETACH)
    umount(source, MNT_DETACH)


def after_tuck(act: Callable[[], int], *names: str) -> Watch:
    """Act at each call of these names once the new mount has been tucked beneath."""
    tucked = False

    def decide(_count: int, name: str, arguments: tuple[Any, ...]) -> int:
        nonlocal tucked
        if name == "move_mount" and arguments[4] & BENEATH:
            tucked = True
            return 0
        return act() if tucked and name in names else 0

    return Watch(decide)


def kill() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def killed(target: Path, new: Path, name: str, **arguments: Any) -> None:
    """Have a replacement killed at the first call of that name after its first step."""
    child = os.fork()
    if child == 0:
        try:
            with watching(after_tuck(kill, name)):
                replace(target, new, **arguments)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def height(target: Path) -> int:
    return sum(row.point == str(target) for row in mounts(fields=("point",)))


@pytest.mark.parametrize("name", ["mount_setattr", "umount2"])
def test_ending_one_that_was_killed_takes_nothing_from_peers(bound: Path, name: str) -> None:
    target = bound / "t"
    killed(target, bound / "new", name)
    assert height(target) == 2
    replace(target, bound / "newer").close()
    assert ((target / "v").read_text(), height(target)) == ("newer", 1)
    assert [(place / "sub/kept").read_text() for place in (target, bound / "src")] == ["kept"] * 2


def test_where_the_old_one_cannot_be_kept_to_itself_it_stays(bound: Path) -> None:
    target = bound / "t"
    with watching(after_tuck(lambda: EPERM, "mount_setattr")), pytest.raises(Denied) as caught:
        replace(target, bound / "new")
    assert "the next replacement here ends this one first" in str(caught.value.hint)
    assert not (target / "v").exists()
    assert [(place / "sub/kept").read_text() for place in (target, bound / "src")] == ["kept"] * 2
    with watching(after_tuck(lambda: EPERM, "mount_setattr")), pytest.raises(Denied):
        replace(target, bound / "newer")
    replace(target, bound / "newer").close()
    assert ((target / "v").read_text(), height(target)) == ("newer", 1)
    assert [(place / "sub/kept").read_text() for place in (target, bound / "src")] == ["kept"] * 2


def test_what_was_mounted_upon_the_old_one_after_the_kill_is_not_lost(stand: Stand) -> None:
    for place in ("new", "other"):
        fill(stand.home / place / "late")
    fill(tmpfs(stand.target / "sub"), {"kept": "kept"})
    fill(stand.target / "late")
    killed(stand.target, stand.home / "new", "umount2")
    fill(tmpfs(stand.target / "late"), {"late": "late"})
    with pytest.raises(InvalidSpec, match=r"was killed half-way, .*/t/late"):
        replace(stand.target, stand.home / "other")
    assert (stand.shows(), (stand.target / "late/late").read_text()) == ("old", "late")
    umount(stand.target / "late")
    replace(stand.target, stand.home / "other").close()
    assert (stand.shows(), stand.height(), (stand.target / "sub/kept").read_text()) == ("other", 1, "kept")


def test_one_that_was_to_drop_mounts_is_ended_by_one_that_drops_them(stand: Stand) -> None:
    tmpfs(stand.target / "sub")
    killed(stand.target, stand.home / "new", "umount2", submounts="drop")
    with pytest.raises(InvalidSpec, match="or have submounts dropped"):
        replace(stand.target, stand.home / "other")
    assert is_there(stand.target / "sub")
    replace(stand.target, stand.home / "other", submounts="drop").close()
    assert (stand.shows(), stand.height(), table(stand.target)) == ("other", 1, [])


def is_there(point: Path) -> bool:
    return any(row.point == str(point) for row in mounts(fields=("point",)))


# --- the mark -----------------------------------------------------------------------------------------------------
TIMES = {"relatime": 0x200000, "noatime": 0x400, "noatime,nodiratime": 0x400 | 0x800, "strictatime": 1 << 24}


@pytest.mark.parametrize("times", TIMES)
def test_a_kill_before_the_first_step_changes_no_attribute_for_good(stand: Stand, times: str) -> None:
    calls.mount(None, bytes(stand.target), None, 0x20 | 0x1000 | TIMES[times], None)
    before = lookup(stand.target).attrs
    child = os.fork()
    if child == 0:

        def decide(_count: int, name: str, arguments: tuple[Any, ...]) -> int:
            return kill() if name == "move_mount" and arguments[4] & BENEATH else 0

        try:
            with watching(Watch(decide)):
                replace(stand.target, stand.home / "new")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    for which in ("check", "check_after"):
        with pytest.raises(Exception, match="check"):
            replace(stand.target, stand.home / "new", **{which: lambda _: False})  # type: ignore[arg-type]
        assert (stand.shows(), stand.height(), lookup(stand.target).attrs) == ("old", 1, before)


@pytest.mark.parametrize("times", TIMES)
def test_one_that_was_killed_between_the_steps_is_known_whatever_times_it_kept(stand: Stand, times: str) -> None:
    calls.mount(None, bytes(stand.target), None, 0x20 | 0x1000 | TIMES[times], None)
    killed(stand.target, stand.home / "new", "umount2")
    assert (stand.shows(), stand.height()) == ("old", 2)
    replace(stand.target, stand.home / "other").close()
    assert (stand.shows(), stand.height()) == ("other", 1)


# --- elsewhere ----------------------------------------------------------------------------------------------------
@pytest.fixture
def home(scratch: Path) -> Iterator[Path]:
    """Give a shared mount with a target, bound from v1, and a mount below it; v1 and v2 beside it."""
    place = tmpfs(scratch / "home")
    change(place, MS_SHARED)
    for version in ("v1", "v2"):
        fill(scratch / version, {"v": version, "sub/base": "", "own/base": ""})
    bind(scratch / "v1", place / "t")
    fill(tmpfs(place / "t/sub"), {"kept": "kept"})
    yield place
    umount(place, MNT_DETACH)


def kept_there(namespace: MountNamespace, home: Path) -> str:
    return in_namespace(namespace, (home / "t/sub/kept").read_text)


@pytest.mark.parametrize(
    ("submounts", "own"), [("carry", "own"), ("carry", "sub"), ("carry", "sub/in"), ("drop", "own")]
)
def test_a_receiver_with_a_mount_of_its_own_below_loses_nothing(home: Path, submounts: str, own: str) -> None:
    fill(home / "t/sub/in")
    with (
        another(away(MS_SLAVE, lambda: fill(tmpfs(home / "t" / own), {"mine": "", "kept": "kept"}))) as pid,
        MountNamespace.of(pid) as namespace,
    ):
        with pytest.raises(InvalidSpec, match=rf"/t/{own}' in the mount namespace {namespace.id} keeps the copy"):
            replace(home / "t", home.parent / "v2", submounts=submounts)  # type: ignore[arg-type]
        assert any("it would be refused" in line for line in plan(home / "t", submounts=submounts))
        assert ((home / "t/v").read_text(), shown(namespace, home)) == ("v1", ("v1", 1))
        assert kept_there(namespace, home) == "kept"
        in_namespace(namespace, lambda: umount(home / "t" / own))
        replace(home / "t", home.parent / "v2").close()
        assert ((home / "t/v").read_text(), shown(namespace, home)) == ("v2", ("v2", 1))
        assert kept_there(namespace, home) == "kept"


@pytest.mark.parametrize("which", ["here", "there"])
def test_a_receiver_whose_mounts_below_do_not_hear_of_ours_grows_no_stack(home: Path, which: str) -> None:
    """Where the target is private, unmounting what is below it travels nowhere: so its copy there would stay."""
    if which == "here":
        change(home / "t", MS_PRIVATE | MS_REC)
    then = (lambda: change(home / "t", MS_PRIVATE | MS_REC)) if which == "there" else (lambda: None)
    with another(away(MS_SLAVE, then)) as pid, MountNamespace.of(pid) as namespace:
        for _ in range(3):
            with pytest.raises(InvalidSpec, match=r"/t/sub' in the mount namespace .* keeps the copy"):
                replace(home / "t", home.parent / "v2")
        assert ((home / "t/v").read_text(), shown(namespace, home)) == ("v1", ("v1", 1))
        assert kept_there(namespace, home) == "kept"


def test_what_stands_where_the_target_was_bound_from_is_not_lost_either(home: Path) -> None:
    """To a copy elsewhere it must travel, and then it travels there, too: both can't be."""
    umount(home / "t", MNT_DETACH)
    source = fill(tmpfs(home.parent / "source"), {"v": "v1", "sub/x": "", "in/x": ""})
    change(source, MS_SHARED)
    bind(source, home / "t")
    fill(tmpfs(source / "sub"), {"kept": "kept"})
    with another(away(MS_SLAVE)) as pid, MountNamespace.of(pid) as namespace:
        with pytest.raises(
            InvalidSpec,
            match=r"source/sub'( in the mount namespace \d+)? would go together with '.*t/sub', .*make-rprivate",
        ):
            replace(home / "t", home.parent / "v2")
        assert any(line.startswith("it would be refused: ") for line in plan(home / "t"))
        assert shown(namespace, home) == ("v1", 1)
    assert [(place / "sub/kept").read_text() for place in (home / "t", source)] == ["kept"] * 2
    umount(source, MNT_DETACH)


@pytest.mark.parametrize("below", [1, 2])
def test_what_is_unmounted_in_the_last_moment_stays_unmounted(stand: Stand, below: int) -> None:
    for name in ("sub", "second")[:below]:
        fill(tmpfs(stand.target / name), {"kept": "kept"})
    with watching(Watch(after_first_step(lambda: umount(stand.target / "sub")))):
        replace(stand.target, stand.home / "new").close()
    assert (stand.shows(), len(table(stand.target))) == ("new", below - 1)


@pytest.mark.parametrize("below", [0, 1])
def test_what_is_mounted_in_the_last_moment_comes_along(stand: Stand, below: int) -> None:
    for name in ("sub",)[:below]:
        fill(tmpfs(stand.target / name), {"kept": "kept"})
    with watching(Watch(after_first_step(lambda: fill(tmpfs(stand.target / "second"), {"late": "late"})))):
        replace(stand.target, stand.home / "new").close()
    assert (stand.shows(), (stand.target / "second/late").read_text()) == ("new", "late")
    assert (stand.height(), len(table(stand.target))) == (1, below + 1)


@pytest.mark.parametrize("submounts", ["carry", "refuse"])
def test_what_is_mounted_in_the_last_moment_and_has_no_place_keeps_the_old_one(stand: Stand, submounts: str) -> None:
    fill(stand.target / "only")
    with (
        watching(Watch(after_first_step(lambda: fill(tmpfs(stand.target / "only"), {"late": "late"})))),
        pytest.raises(Busy) as caught,
    ):
        replace(stand.target, stand.home / "new", submounts=submounts)  # type: ignore[arg-type]
    assert "in the last moment, and can't come along" in str(caught.value.hint)
    assert (stand.shows(), (stand.target / "only/late").read_text()) == ("old", "late")
    with pytest.raises(InvalidSpec, match="was killed half-way"):
        replace(stand.target, stand.home / "other")
    umount(stand.target / "only")
    replace(stand.target, stand.home / "other").close()
    assert (stand.shows(), stand.height()) == ("other", 1)


def after_first_step(act: Callable[[], object]) -> Callable[[int, str, tuple[Any, ...]], int]:
    """Act once, before the first call after the new mount was tucked beneath."""
    state = "before"

    def decide(_count: int, name: str, arguments: tuple[Any, ...]) -> int:
        nonlocal state
        if state == "tucked":
            state = "done"
            act()
        elif state == "before" and name == "move_mount" and arguments[4] & BENEATH:
            state = "tucked"
        return 0

    return decide


def test_a_receiver_of_a_receiver_is_seen_too(home: Path) -> None:
    def deeper() -> None:
        change(home, MS_SHARED)
        change(home / "t", MS_SHARED)
        calls.unshare(0x20000)
        calls.mount(None, b"/", None, MS_REC | MS_SLAVE, None)
        tmpfs(home / "t/own")

    with another(away(MS_SLAVE, deeper)) as pid, MountNamespace.of(pid) as namespace:
        with pytest.raises(InvalidSpec, match=rf"/t/own' in the mount namespace {namespace.id} keeps the copy"):
            replace(home / "t", home.parent / "v2")
        assert shown(namespace, home) == ("v1", 1)


def test_what_covers_the_whole_copy_is_no_obstacle(home: Path) -> None:
    with (
        another(away(MS_SLAVE, lambda: fill(tmpfs(home / "t"), {"v": "cover"}))) as pid,
        MountNamespace.of(pid) as namespace,
    ):
        replace(home / "t", home.parent / "v2").close()
        assert shown(namespace, home) == ("cover", 2)
        in_namespace(namespace, lambda: umount(home / "t"))
        assert (shown(namespace, home), kept_there(namespace, home)) == (("v2", 1), "kept")


def test_a_receiver_in_a_user_namespace_switches_although_all_is_locked_there(home: Path) -> None:
    need_real_root()
    os.chmod(home.parent, 0o755)  # noqa: S103 (others walk through)
    with (
        another(enter(lambda: calls.mount(None, b"/", None, MS_REC | MS_SLAVE, None))) as pid,
        MountNamespace.of(pid) as namespace,
    ):
        for version in ("v2", "v1"):
            replace(home / "t", home.parent / version).close()
            assert (shown(namespace, home), kept_there(namespace, home)) == ((version, 1), "kept")


@pytest.mark.parametrize("side", ["peer", "begun"])
def test_one_that_was_killed_in_a_peer_namespace_is_ended_from_here(home: Path, side: str) -> None:
    def half() -> None:
        with watching(after_tuck(lambda: EPERM, "umount2")), pytest.raises(KernelError):
            replace(home / "t", home.parent / "v2")

    if side == "begun":
        half()
    with another(away(MS_SHARED, half if side == "peer" else lambda: None)) as pid, MountNamespace.of(pid) as namespace:
        if side == "peer":
            assert ((home / "t/v").read_text(), height(home / "t"), shown(namespace, home)) == ("v1", 2, ("v1", 2))
            replace(home / "t", home.parent / "v1").close()
        else:
            in_namespace(namespace, lambda: replace(home / "t", home.parent / "v1").close())
        assert ((home / "t/v").read_text(), height(home / "t"), shown(namespace, home)) == ("v1", 1, ("v1", 1))
        assert kept_there(namespace, home) == (home / "t/sub/kept").read_text() == "kept"


# --- what can't be told -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("errno", [EPERM, ENOENT])
def test_where_it_cannot_be_told_who_receives_nothing_is_changed(home: Path, errno: int) -> None:
    count = 0

    def decide(_count: int, name: str, _arguments: object) -> int:
        nonlocal count
        count += name == "statmount"
        return errno if name == "statmount" and count == 2 else 0

    with watching(Watch(decide)), pytest.raises(KernelError) as caught:
        replace(home / "t", home.parent / "v2")
    assert "who receives what happens there can't be told" in str(caught.value.hint)
    assert ((home / "t/v").read_text(), height(home / "t")) == ("v1", 1)


@pytest.mark.parametrize("own", [False, True])
def test_in_a_chroot_on_a_directory_receivers_switch_or_keep_all(home: Path, own: bool) -> None:
    """There the mount that the target stands on has no path."""
    need_real_root()
    jail = fill(home / "jail", {"v2/v": "v2", "v2/sub/x": "", "proc/x": "", "t/x": ""})
    bind(home.parent / "v1", jail / "t")
    fill(tmpfs(jail / "t/sub"), {"kept": "kept"})
    calls.mount(b"proc", bytes(jail / "proc"), b"proc", 0, None)

    def act() -> str:
        os.chroot(jail)
        os.chdir("/")
        try:
            replace("/t", "/v2").close()
        except InvalidSpec as error:
            return str(error)
        return Path("/t/v").read_text()

    with (
        another(away(MS_SLAVE, lambda: tmpfs(jail / "t/own") if own else None)) as pid,
        MountNamespace.of(pid) as namespace,
    ):
        said = in_child(act)
        assert ("jail/t/own'" in said and "keeps the copy" in said) if own else said == "v2", said
        assert shown(namespace, home / "jail") == ("v1" if own else "v2", 1)
        assert kept_there(namespace, home / "jail") == "kept"


def test_many_namespaces_that_replace_for_themselves_at_once_grow_no_stack(home: Path) -> None:
    """A receiver that replaced its own copy bears mounts that don't go with ours: it keeps these, and we are told."""

    def go(flags: int, number: int) -> None:
        calls.unshare(0x20000)
        calls.mount(None, b"/", None, MS_REC | flags, None)
        rounds = 0
        while rounds < 8:
            try:
                replace(home / "t", home.parent / f"v{1 + (number + rounds) % 2}").close()
            except Busy:
                continue
            except InvalidSpec as error:
                if "keeps the copy" not in str(error) and "would go together" not in str(error):
                    raise
            rounds += 1
        rows = [row.point for row in mounts(fields=("point",))]
        assert (home / "t/sub/kept").read_text() == "kept"
        assert rows.count(str(home / "t/sub")) == 1
        os.write(writing, b"%d" % rows.count(str(home / "t")))
        os.read(end, 1)

    reading, writing = os.pipe()
    end, ending = os.pipe()
    pids = []
    for number, flags in enumerate((MS_SHARED, MS_SHARED, MS_SLAVE, MS_SLAVE, MS_SLAVE)):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(ending)
                os.close(reading)
                go(flags, number)
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    os.close(writing)
    heights = b""
    while len(heights) < len(pids) and (more := os.read(reading, 8)):
        heights += more
    os.close(ending)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * 5
    os.close(reading)
    os.close(end)
    assert heights == b"1" * 5
