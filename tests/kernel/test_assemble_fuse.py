"""An overlay that fuse-overlayfs serves, where the kernel's own is refused."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from errno import ENODEV, EPERM, EROFS
from pathlib import Path
from typing import Any

import pytest

from mountfd import Attr, Busy, KernelError, Layer, Mount, NotSupported, Overlay, assemble, has, param, trace
from mountfd.lowlevel import calls
from mountfd.verbs.assemble import route
from mountfd.verbs.routes import forget
from tests.support import private
from tests.support.inject import Watch, watching
from tests.support.layers import ASSEMBLE, SHIFTED, attached, content, fill, inside, layers, line_of, pair, table
from tests.support.need import need, need_command, need_idmapped_tmpfs, need_real_root
from tests.support.others import NOBODY, in_child
from tests.support.program import eventually

need_command("fuse-overlayfs")
need(os.path.exists("/dev/fuse"), "/dev/fuse")
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
_CREATE = 6  # FSCONFIG_CMD_CREATE


@pytest.fixture(autouse=True)
def _by_fuse(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "chosen" not in request.node.name:
        monkeypatch.setenv("MOUNTFD_ROUTE", "assemble:fuse")


def serving() -> set[int]:
    """List the running programs that serve overlays."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"/usr/bin/fuse-overlayfs"):
                found.add(int(pid))
        except OSError:
            continue
    return found


@pytest.fixture
def before() -> set[int]:
    return serving()


def only(before: set[int]) -> int:
    (pid,) = serving() - before
    return pid


def test_layers_are_merged(scratch: Path) -> None:
    with assemble(Overlay(layers(scratch, 3))) as mount:
        assert content(mount) == {"common": "0", "own0": "0", "own1": "1", "own2": "2"}
        with pytest.raises(OSError, match="Read-only file system"):
            (inside(mount) / "new").touch()


def test_nothing_is_attached_and_nobody_is_our_child(scratch: Path, before: set[int]) -> None:
    lines = table()
    with assemble(Overlay(layers(scratch, 2), *pair(scratch))) as mount:
        assert table() == lines
        status = Path(f"/proc/{only(before)}/status").read_text()
        assert f"\nPPid:\t{os.getpid()}\n" not in status
        (inside(mount) / "new").write_text("n")
    assert (scratch / "upper/new").read_text() == "n"


def test_odd_names(scratch: Path) -> None:
    odd = os.fsdecode(b"a:b,c\\ \n\xff")
    places = [fill(scratch / odd / name) for name in ("one", "two", "upper", "work")]
    (places[0] / "f").write_text("1")
    (places[1] / "g").write_text("2")
    with assemble(Overlay(places[:2], places[2], places[3])) as mount:
        assert content(mount) == {"f": "1", "g": "2"}
        (inside(mount) / "f").write_text("changed")
    assert (places[2] / "f").read_text() == "changed"
    assert (places[0] / "f").read_text() == "1"


def test_layers_below_detached_mounts(scratch: Path) -> None:
    fill(scratch / "d/one", {"f": "1"})
    fill(scratch / "d/two", {"g": "2"})
    pair(scratch / "d")
    with Mount.clone(scratch / "d") as base:
        one, two, upper, work = (Layer(name, base=base) for name in ("one", "two", "upper", "work"))
        with assemble(Overlay([one, two], upper, work)) as mount:
            (inside(mount) / "new").write_text("n")
            assert content(mount) == {"f": "1", "g": "2", "new": "n"}
    assert (scratch / "d/upper/new").read_text() == "n"


def test_many_layers(scratch: Path) -> None:
    with assemble(Overlay(layers(scratch, 200))) as mount:
        assert len(content(mount)) == 201


def test_lower_layers_are_idmapped(scratch: Path) -> None:
    need_real_root()
    with assemble(Overlay(layers(scratch, 2), *pair(scratch), idmap=SHIFTED)) as mount:
        assert os.stat(inside(mount) / "own0").st_uid == 100000


def test_upper_layer_whose_idmap_lacks_the_programs_ids_is_refused(scratch: Path) -> None:
    need_real_root()
    need_idmapped_tmpfs()
    upper, work = pair(scratch)
    with pytest.raises(NotSupported) as caught:
        assemble(Overlay(layers(scratch, 2), Layer(upper, SHIFTED), work, idmap=SHIFTED))
    assert "runs with the ids 0:0" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "option",
    [param.String("metacopy", "on"), param.String("redirect_dir", "on"), param.String("index", "on"),
     param.String("xino", "on"), param.String("verity", "on"), param.Flag("override_creds"), param.Flag("volatile"),
     param.Flag("unheard-of")],
)  # fmt: skip
def test_options_that_it_cannot_do_are_refused_by_name(scratch: Path, option: param.Flag | param.String) -> None:
    with pytest.raises(NotSupported) as caught:
        assemble(Overlay(layers(scratch, 2), *pair(scratch), options=[option]))
    assert option.key in (caught.value.feature or "")
    assert "fuse-overlayfs" in (caught.value.hint or "")


def test_data_only_layers_are_refused_by_name(scratch: Path) -> None:
    one, two = layers(scratch, 2)
    with pytest.raises(NotSupported) as caught:
        assemble(Overlay([one, Layer(two, data_only=True)]))
    assert str(two) in (caught.value.hint or "")


def test_upper_layer_that_a_volatile_overlay_left_is_refused(scratch: Path) -> None:
    upper, work = pair(scratch)
    fill(work / "work/incompat/volatile/dirty")
    with pytest.raises(KernelError) as caught:
        assemble(Overlay(layers(scratch, 2), upper, work))
    assert "volatile" in (caught.value.hint or "")


@pytest.mark.parametrize("kernels", ASSEMBLE)
def test_an_upper_layer_of_this_route_is_none_for_the_kernel_which_would_show_what_was_deleted(
    scratch: Path, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(has(ASSEMBLE[kernels]), f"the route {kernels}")
    lower, (upper, work) = fill(scratch / "lower", {"gone/secret": "s", "kept": "k"}), pair(scratch)
    overlay = Overlay([lower], upper, work)
    for round_ in ("first", "again"):  # each start of the program empties the place where the mark is
        with assemble(overlay) as mount:
            if round_ == "first":
                (inside(mount) / "gone/secret").unlink()
                (inside(mount) / "gone").rmdir()
                (inside(mount) / "gone").mkdir()
            assert os.listdir(inside(mount) / "gone") == []
        with monkeypatch.context() as patch:
            patch.setenv("MOUNTFD_ROUTE", f"assemble:{kernels}")
            assert eventually(lambda: not isinstance(refusal_of(overlay), Busy))
            refused = refusal_of(overlay)
        assert "fuse-overlayfs" in (refused.hint or "")
        assert str(work / "work/incompat/fuse-overlayfs") in (refused.hint or "")


def refusal_of(overlay: Overlay) -> KernelError:
    with pytest.raises(KernelError) as caught, assemble(overlay):
        pass
    return caught.value


def test_an_upper_layer_of_the_kernels_is_taken_over(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overlay = Overlay([fill(scratch / "lower", {"gone/secret": "s", "kept": "k"})], *pair(scratch))
    with monkeypatch.context() as patch:
        patch.setenv("MOUNTFD_ROUTE", "assemble:string")
        with assemble(overlay) as mount:
            (inside(mount) / "kept").unlink()
            (inside(mount) / "gone/secret").unlink()
            (inside(mount) / "gone").rmdir()
            (inside(mount) / "gone").mkdir()
    with assemble(overlay) as mount:
        assert os.listdir(inside(mount)) == ["gone"]
        assert os.listdir(inside(mount) / "gone") == []


def test_colon_in_the_name_of_the_upper_layer_is_refused(scratch: Path) -> None:
    fill(scratch / "u")
    with pytest.raises(NotSupported) as caught:
        assemble(Overlay(layers(scratch, 2), fill(scratch / "u:x"), fill(scratch / "w")))
    assert "colon" in (caught.value.hint or "")
    assert os.listdir(scratch / "u") == []


def test_read_only_upper_layer_is_refused(scratch: Path) -> None:
    with Mount.clone(fill(scratch / "d")) as base:
        pair(scratch / "d")
        base.set(Attr.RDONLY)
        with pytest.raises(KernelError) as caught:
            assemble(Overlay(layers(scratch, 2), Layer("upper", base=base), Layer("work", base=base)))
    assert caught.value.errno == EROFS


def test_attributes_are_those_asked_for(scratch: Path) -> None:
    with assemble(Overlay(layers(scratch, 2), *pair(scratch)), Attr.NOSUID) as mount, attached(mount, scratch / "m"):
        words = line_of(scratch / "m")
        assert words[5] == b"rw,nosuid,relatime"
        assert words[-3:-1] == [b"fuse.fuse-overlayfs", os.fsencode(scratch / "upper")]


def test_everybody_may_look_inside(scratch: Path) -> None:
    scratch.chmod(0o755)
    with assemble(Overlay(layers(scratch, 2))) as mount, attached(mount, scratch / "m") as point:
        assert in_child((point / "own0").read_bytes, NOBODY) == b"0"


def test_it_lives_as_long_as_it_is_attached(scratch: Path, before: set[int]) -> None:
    with assemble(Overlay(layers(scratch, 2))) as mount:
        pid = only(before)
        with attached(mount, scratch / "m") as point:
            mount.close()
            assert (point / "own1").read_text() == "1"
    assert eventually(lambda: pid not in serving())


def test_it_ends_with_the_mount(scratch: Path, before: set[int]) -> None:
    with assemble(Overlay(layers(scratch, 2))):
        pid = only(before)
    assert eventually(lambda: pid not in serving())


def test_it_holds_no_descriptor_of_ours_and_no_mount_of_the_host(scratch: Path, before: set[int]) -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    try:
        with assemble(Overlay(layers(scratch, 2), *pair(scratch))):
            os.close(writing)
            writing = -1
            assert os.read(reading, 1) == b""
            points = {line.split()[4] for line in Path(f"/proc/{only(before)}/mountinfo").read_text().splitlines()}
            assert not {point for point in points if point.count("/") > 1 and not point.startswith("/proc/")}
            (scratch / "other").mkdir()
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)


def test_killed_before_it_is_attached_it_leaves_nothing(scratch: Path, before: set[int]) -> None:
    overlay = Overlay(layers(scratch, 2), *pair(scratch))
    pid = os.fork()
    if pid == 0:
        try:
            mount = assemble(overlay)
            os.kill(os.getpid(), signal.SIGKILL)
            mount.close()
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    assert eventually(lambda: serving() <= before)
    assert [line for line in table() if b"fuse-overlayfs" in line] == []


def test_killed_at_any_call_it_leaves_nothing(scratch: Path, before: set[int]) -> None:
    overlay = Overlay(layers(scratch, 2), *pair(scratch))
    seen = Watch()
    with watching(seen):
        assemble(overlay).close()
    first = seen.names.index("fsmount")
    for number in range(first, len(seen.names) + 1, 3):
        pid = os.fork()
        if pid == 0:
            try:
                with watching(_killing(number)):
                    assemble(overlay).close()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
    assert eventually(lambda: serving() <= before)


def _killing(number: int) -> Watch:
    def decide(count: int, _name: str, _arguments: tuple[Any, ...]) -> int:
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    return Watch(decide)


def test_upper_layer_in_use_is_refused_also_after_the_handle_is_closed(scratch: Path) -> None:
    overlay = Overlay(layers(scratch, 2), *pair(scratch))
    with assemble(overlay) as mount, attached(mount, scratch / "m"):
        mount.close()
        with pytest.raises(Busy) as caught:
            assemble(overlay)
        assert caught.value.filename == str(scratch / "upper")
    assemble(overlay).close()


def test_upper_layer_that_the_kernels_overlay_uses_is_refused(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overlay = Overlay(layers(scratch, 2), *pair(scratch))
    monkeypatch.delenv("MOUNTFD_ROUTE")
    need(route() == "descriptor", "OVERLAY_LAYER_DETACHED (Linux 6.15)")
    with assemble(overlay) as mount, attached(mount, scratch / "m"):
        mount.close()
        monkeypatch.setenv("MOUNTFD_ROUTE", "assemble:fuse")
        with pytest.raises(Busy):
            assemble(overlay)


def test_what_the_program_says_is_told(scratch: Path) -> None:
    upper, work = pair(scratch)
    fill(work / "work" / "in")
    (work / "work").rename(work / "x")
    (work / "work").write_text("a file where a directory is wanted")
    with pytest.raises(KernelError) as caught:
        assemble(Overlay(layers(scratch, 2), upper, work))
    assert caught.value.syscall == "fuse-overlayfs"
    assert any("workdir" in line for line in caught.value.log)


def test_missing_program_is_named_with_its_package(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mountfd.verbs.assemble.by_fuse._PROGRAM", "fuse-overlayfs-not-here")
    with pytest.raises(NotSupported) as caught:
        assemble(Overlay(layers(scratch, 2)))
    assert "Debian's package" in (caught.value.hint or "")


def test_reaped_by_somebody_else_it_works_all_the_same(scratch: Path) -> None:
    former = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with assemble(Overlay(layers(scratch, 2))) as mount:
            assert (inside(mount) / "own0").read_text() == "0"
    finally:
        signal.signal(signal.SIGCHLD, former)


def test_from_a_chroot(scratch: Path) -> None:
    private.mount_tmpfs(fill(scratch / "root"))
    overlay = Overlay(["/layers/one", "/layers/two"])

    def act() -> dict[str, str]:
        calls.unshare(CLONE_NEWNS)
        root = scratch / "root"
        for name in ("usr", "lib", "lib64", "bin", "proc", "dev"):
            (root / name).mkdir()
            if os.path.exists(f"/{name}"):
                Mount.clone(f"/{name}", recursive=True).attach(root / name).close()
        fill(root / "layers/one", {"f": "1"})
        fill(root / "layers/two", {"g": "2"})
        subprocess.run(["true"], check=True)  # loads what it takes while it is in sight
        os.chroot(root)
        os.chdir("/")
        with assemble(overlay) as mount:
            return content(mount)

    try:
        assert in_child(act) == {"f": "1", "g": "2"}
    finally:
        private.detach(scratch / "root")


# --- chosen --------------------------------------------------------------------------------------------------------
class Refusing(Watch):
    """Refuse overlays, as a kernel without user namespaces' overlay or a security module does."""

    def __init__(self, errno: int, at: str) -> None:
        """Take the errno, and the call that shall get it."""
        super().__init__(self._refuse)
        self._errno, self._at, self._contexts = errno, at, set[int]()

    def _refuse(self, _count: int, name: str, arguments: tuple[Any, ...]) -> int:
        opens = name == "fsopen" and arguments[0] == b"overlay"
        creates = name == "fsconfig" and arguments[0] in self._contexts and arguments[1] == _CREATE
        return self._errno if name == self._at and (opens or creates) else 0

    def after(self, row: calls.Row, arguments: tuple[Any, ...], result: int, errno: int) -> None:  # noqa: ARG002
        """Remember which contexts are overlays."""
        if row.name == "fsopen" and result >= 0:
            (self._contexts.add if arguments[0] == b"overlay" else self._contexts.discard)(result)


def in_user_namespace(act: Callable[[], str]) -> str:
    def acted() -> str:
        calls.unshare(CLONE_NEWUSER | CLONE_NEWNS)
        for name, text in (("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")):
            Path(f"/proc/self/{name}").write_text(text)
        forget()
        return act()

    return in_child(acted)


def test_chosen_in_a_user_namespace_where_the_kernel_refuses(scratch: Path) -> None:
    need_real_root()
    overlay = Overlay(layers(scratch, 2), *pair(scratch))

    def act() -> str:
        with watching(Refusing(EPERM, "fsconfig")):
            name = route()
            with assemble(overlay) as mount:
                (inside(mount) / "new").write_text("n")
                return f"{name} {sorted(content(mount))}"

    assert in_user_namespace(act) == "fuse ['common', 'new', 'own0', 'own1']"
    assert (scratch / "upper/new").read_text() == "n"


def test_chosen_on_a_kernel_without_overlays(scratch: Path) -> None:
    def act() -> str:
        forget()
        with watching(Refusing(ENODEV, "fsopen")):
            return route()

    assert in_child(act) == "fuse"


def test_not_chosen_where_the_kernel_does_it() -> None:
    assert in_user_namespace(route) != "fuse"


def test_chosen_for_nobody_who_may_mount_nothing() -> None:
    def act() -> str:
        forget()
        return route()

    assert in_child(act, NOBODY) == "string"


def test_the_route_is_told(scratch: Path) -> None:
    told: list[str] = []
    with trace(told.append):
        assemble(Overlay(layers(scratch, 2))).close()
    assert any("route fuse" in line for line in told)
