from __future__ import annotations

import os
import stat
import subprocess
from errno import EINVAL, ENOSYS
from pathlib import Path

import pytest

from mountfd import Attr, Feature, FsContext, IdMap, InvalidSpec, Layer, Mount, Overlay, assemble, has, param
from mountfd.abi import features
from mountfd.lowlevel import calls
from tests.support import private
from tests.support.inject import Watch, lacking, watching
from tests.support.layers import (
    SHIFTED,
    assembled,
    attached,
    content,
    fill,
    inside,
    layers,
    line_of,
    pair,
    place_on,
    table,
    working_directory,
)
from tests.support.mounting import bind, umount
from tests.support.need import need

pytestmark = pytest.mark.usefixtures("real_root")


def owner(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid


def test_first_layer_is_topmost(route: str, scratch: Path) -> None:
    with assembled(Overlay(layers(scratch, 3))) as root:
        assert content(root) == {"common": "0", "own0": "0", "own1": "1", "own2": "2"}


def test_whiteout_and_opaque_directory_hide_what_is_below(route: str, scratch: Path) -> None:
    top, below = fill(scratch / "top"), fill(scratch / "below", {"gone": "x", "kept": "y", "dir/hidden": "z"})
    os.mknod(top / "gone", stat.S_IFCHR, os.makedev(0, 0))
    fill(top / "dir", {"new": "n"})
    os.setxattr(top / "dir", "trusted.overlay.opaque", b"y")
    with assembled(Overlay([top, below])) as root:
        assert content(root) == {"kept": "y"}
        assert os.listdir(inside(root) / "dir") == ["new"]


def test_writes_and_deletions_land_in_the_upper_layer_alone(route: str, scratch: Path) -> None:
    lower, (upper, work) = layers(scratch, 2), pair(scratch)
    with assembled(Overlay(lower, upper, work)) as root:
        (inside(root) / "new").write_text("n")
        (inside(root) / "own1").unlink()
        (inside(root) / "common").write_text("changed")
    assert (upper / "new").read_text() == "n"
    assert stat.S_ISCHR((upper / "own1").lstat().st_mode)
    assert (upper / "common").read_text() == "changed"
    assert (lower[0] / "common").read_text() == "0"


def test_idmapped_layers_show_shifted_owners(route: str, scratch: Path) -> None:
    lower = layers(scratch, 2)
    os.chown(lower[1] / "own1", 5, 7)
    with assembled(Overlay(lower, idmap=SHIFTED)) as root:
        assert owner(inside(root) / "own0") == (100000, 100000)
        assert owner(inside(root) / "own1") == (100005, 100007)
    assert owner(lower[0] / "own0") == (0, 0)


def test_discontiguous_idmap_with_other_groups(route: str, scratch: Path) -> None:
    lower = layers(scratch, 2)
    os.chown(lower[0] / "own0", 101, 222)
    idmap = IdMap.parse("100:1000:1,101:2000:1,102:3000:1", "210:1100:10,220:2200:10,230:3300:10")
    with assembled(Overlay(lower, idmap=idmap)) as root:
        assert owner(inside(root) / "own0") == (2000, 2202)
        assert owner(inside(root) / "own1") == (65534, 65534)


def test_each_layer_may_have_an_idmap_of_its_own(route: str, scratch: Path) -> None:
    one, two, three, four = layers(scratch, 4)
    lower: list[Layer | Path] = [Layer(one, IdMap.parse("0:1000:1")), two, Layer(three, IdMap.parse("0:3000:1")), four]
    with assembled(Overlay(lower, idmap=SHIFTED)) as root:
        assert [owner(inside(root) / f"own{i}")[0] for i in range(4)] == [1000, 100000, 3000, 100000]
        assert content(root)["common"] == "0"


def test_more_idmaps_than_are_kept(scratch: Path) -> None:
    lower = [Layer(path, IdMap.parse(f"0:{1000 + i}:1")) for i, path in enumerate(layers(scratch, 70))]
    with assembled(Overlay(lower)) as root:
        assert [owner(inside(root) / f"own{i}")[0] for i in range(70)] == [1000 + i for i in range(70)]


@pytest.mark.parametrize("idmap", [None, SHIFTED])
def test_layers_on_different_mounts(route: str, scratch: Path, idmap: IdMap | None) -> None:
    points = [fill(scratch / name) for name in ("one", "two")]
    for point in points:
        private.mount_tmpfs(point)
    lower = [
        *layers(points[0], 1),
        fill(points[1] / "x", {"x": "x"}),
        fill(scratch / "three", {"three": "3"}),
        points[1],
    ]
    try:
        with assembled(Overlay(lower[:3], idmap=idmap)) as root:
            assert content(root) == {"common": "0", "own0": "0", "x": "x", "three": "3"}
            assert owner(inside(root) / "x")[0] == (0 if idmap is None else 100000)
    finally:
        for point in points:
            private.detach(point)


@pytest.mark.parametrize("idmap", [None, SHIFTED])
def test_a_mount_on_a_layer_is_what_is_seen(route: str, scratch: Path, idmap: IdMap | None) -> None:
    one, two = layers(scratch, 2)
    private.mount_tmpfs(two)
    (two / "above").write_text("a")
    try:
        with assembled(Overlay([one, two], idmap=idmap)) as root:
            assert content(root) == {"common": "0", "own0": "0", "above": "a"}
    finally:
        private.detach(two)


@pytest.mark.parametrize("idmap", [None, SHIFTED])
def test_a_mount_between_parent_and_layer_is_what_is_seen(route: str, scratch: Path, idmap: IdMap | None) -> None:
    one, middle = fill(scratch / "a/one", {"1": "1"}), fill(scratch / "a/middle")
    fill(middle / "two", {"hidden": "h"})
    private.mount_tmpfs(middle)
    fill(middle / "two", {"seen": "s"})
    try:
        with assembled(Overlay([one, middle / "two"], idmap=idmap)) as root:
            assert content(root) == {"1": "1", "seen": "s"}
    finally:
        private.detach(middle)


def test_a_mount_inside_of_a_layer_is_not_part_of_it(route: str, scratch: Path) -> None:
    one, two = fill(scratch / "one", {"d/hidden": "h"}), fill(scratch / "two")
    private.mount_tmpfs(one / "d")
    (one / "d" / "seen").write_text("s")
    try:
        with assembled(Overlay([one, two])) as root:
            assert os.listdir(inside(root) / "d") == ["hidden"]
    finally:
        private.detach(one / "d")


@pytest.mark.parametrize("idmap", [None, SHIFTED])
def test_layers_by_symlink_and_dots_and_relative(route: str, scratch: Path, idmap: IdMap | None) -> None:
    one, two, three, four = layers(scratch / "d", 4)
    (scratch / "link").symlink_to(two)
    (scratch / "parent").symlink_to(scratch / "d")
    (scratch / "b").symlink_to(scratch / "d/l0")  # so b/../l2 is d/l2, whatever the text alone says
    with working_directory(scratch):
        lower: list[str | Path] = [one, "link", "b/../l2", f"{scratch}/parent//./l3"]
        with assembled(Overlay(lower, idmap=idmap)) as root:
            assert content(root) == {"common": "0", "own0": "0", "own1": "1", "own2": "2", "own3": "3"}
    assert (three / "own2").exists()
    assert (four / "own3").exists()


def test_relative_layers_without_a_directory_of_their_own(route: str, scratch: Path) -> None:
    layers(scratch, 2)
    with working_directory(scratch), assembled(Overlay(["l0", "l1"], idmap=SHIFTED)) as root:
        assert content(root)["common"] == "0"


def test_layers_below_hidden_directories_share_a_clone(scratch: Path) -> None:
    lower = layers(scratch / ".local/share", 20)
    with watching(Watch()) as seen, assembled(Overlay(lower, idmap=SHIFTED)) as root:
        assert content(root)["own19"] == "19"
    assert seen.names.count("open_tree") == 1


def test_names_that_begin_alike_are_not_each_others_parents(route: str, scratch: Path) -> None:
    lower = [
        fill(scratch / "a/b", {"b": "b"}),
        fill(scratch / "a/bc", {"bc": "bc"}),
        fill(scratch / "ab", {"ab": "ab"}),
    ]
    with assembled(Overlay(lower, idmap=SHIFTED)) as root:
        assert content(root) == {"b": "b", "bc": "bc", "ab": "ab"}


def test_layers_at_the_top_of_the_tree(route: str, scratch: Path) -> None:
    one = layers(scratch, 1)[0]
    os.mkdir("/mountfd-test-layer")
    try:
        private.mount_tmpfs(Path("/mountfd-test-layer"))
        Path("/mountfd-test-layer/top").write_text("t")
        with assembled(Overlay(["/mountfd-test-layer", one])) as root:
            assert content(root) == {"top": "t", "common": "0", "own0": "0"}
        private.detach(Path("/mountfd-test-layer"))
    finally:
        os.rmdir("/mountfd-test-layer")


ODD_NAMES = [b"a:b", b"a,b", b"a\\b", b"a\nb", b"a b", b"a\tb", b"\xff\xfe", b"a=b#", b"\\:,\\\\", b"-o", b" ", b"a\rb"]


@pytest.mark.parametrize("name", ODD_NAMES, ids=repr)
@pytest.mark.parametrize("idmap", [None, SHIFTED], ids=["plain", "idmapped"])
def test_odd_bytes_in_names(route: str, scratch: Path, name: bytes, idmap: IdMap | None) -> None:
    where = os.path.join(os.fsencode(scratch), name)
    for part in (b"", b"/" + name, b"/x" + name, b"/u" + name, b"/w" + name):
        os.mkdir(where + part)
    Path(os.fsdecode(where + b"/" + name + b"/f")).write_text("f")
    overlay = Overlay(
        [where + b"/" + name, where + b"/x" + name], where + b"/u" + name, where + b"/w" + name, idmap=idmap
    )
    with assembled(overlay) as root:
        assert content(root) == {"f": "f"}
        (inside(root) / "new").write_text("n")
    assert os.listdir(where + b"/u" + name) == [b"new"]


@pytest.mark.parametrize("idmap", [None, SHIFTED], ids=["plain", "idmapped"])
def test_long_path_of_upper_and_work(route: str, scratch: Path, idmap: IdMap | None) -> None:
    deep = scratch / ("d" * 200) / ("e" * 200)
    lower = layers(deep, 100)
    upper, work = fill(deep / ("u,:" * 70)), fill(deep / ("w\\" * 100))
    with assembled(Overlay(lower, upper, work, idmap=idmap)) as root:
        (inside(root) / "new").write_text("n")
        assert content(root)["own99"] == "99"
    assert (upper / "new").read_text() == "n"


# --- mounts as layers ----------------------------------------------------------------------------------------------
def tmpfs() -> Mount:
    with FsContext.open("tmpfs") as context:
        return context.create().mount()


@pytest.mark.parametrize("idmap", [None, SHIFTED], ids=["plain", "idmapped"])
def test_detached_new_filesystem_as_layer(route: str, scratch: Path, idmap: IdMap | None) -> None:
    with tmpfs() as app:
        (inside(app) / "app").write_text("a")
        with assembled(Overlay([app, *layers(scratch, 2)], idmap=idmap)) as root:
            assert content(root)["app"] == "a"
            assert owner(inside(root) / "app")[0] == (0 if idmap is None else 100000)
        assert content(app) == {"app": "a"}


def test_image_as_layer(route: str, scratch: Path, temporary_directory: Path) -> None:
    with place_on("ext4", scratch) as place:
        fill(place, {"from-image": "i"})
        with Mount.clone(place) as image, assembled(Overlay([image, *layers(scratch, 1)], idmap=SHIFTED)) as root:
            assert content(root)["from-image"] == "i"
            assert owner(inside(root) / "from-image")[0] == 100000


def test_clone_and_attached_mount_as_layers(route: str, scratch: Path) -> None:
    one, two = layers(scratch, 2)
    private.mount_tmpfs(two)
    fill(two, {"attached": "a"})
    try:
        with (
            Mount.clone(one) as clone,
            Mount.open(two) as handle,
            assembled(Overlay([clone, handle], idmap=SHIFTED)) as root,
        ):
            assert content(root) == {"own0": "0", "common": "0", "attached": "a"}
    finally:
        private.detach(two)


@pytest.mark.parametrize("idmap", [None, SHIFTED], ids=["plain", "idmapped"])
def test_kept_clone_serves_one_assembly_after_the_other(route: str, scratch: Path, idmap: IdMap | None) -> None:
    layers(scratch, 3)
    with Mount.clone(scratch) as store:
        for _ in range(3):
            lower = [Layer(f"l{i}", base=store) for i in range(3)]
            with assembled(Overlay(lower, idmap=idmap)) as root:
                assert content(root)["common"] == "0"
                assert owner(inside(root) / "own2")[0] == (0 if idmap is None else 100000)


def test_kept_idmapped_clone_is_not_idmapped_again(route: str, scratch: Path) -> None:
    layers(scratch, 2)
    with Mount.clone(scratch) as store:
        store.idmap(SHIFTED)
        lower = [Layer(f"l{i}", base=store) for i in range(2)]
        for idmap in (None, SHIFTED, IdMap.parse("0:5:1")):
            with assembled(Overlay(lower, idmap=idmap)) as root:
                assert owner(inside(root) / "own1") == (100000, 100000)
        with pytest.raises(InvalidSpec, match="its base is idmapped"):
            assemble(Overlay([Layer("l0", IdMap.parse("0:5:1"), base=store), lower[1]]))


def test_duplicate_of_a_kept_idmapped_clone_is_known_to_be_idmapped(scratch: Path) -> None:
    layers(scratch, 2)
    with Mount.clone(scratch) as store, store.idmap(SHIFTED).dup() as again:
        lower = [Layer(f"l{i}", base=again) for i in range(2)]
        with assembled(Overlay(lower, idmap=SHIFTED)) as root:
            assert owner(inside(root) / "own1")[0] == 100000


@pytest.mark.parametrize("idmap", [None, SHIFTED], ids=["plain", "idmapped"])
def test_symlink_below_a_base_stays_below_it(route: str, scratch: Path, idmap: IdMap | None) -> None:
    fill(scratch / "store/etc", {"inside": "i"})
    fill(scratch / "store/other")
    (scratch / "store/link").symlink_to("/etc")
    with Mount.clone(scratch / "store") as store:
        lower = [Layer("link", base=store), Layer("other", base=store)]
        with assembled(Overlay(lower, idmap=idmap)) as root:
            assert content(root) == {"inside": "i"}


@pytest.mark.parametrize("idmap", [None, SHIFTED], ids=["plain", "idmapped"])
def test_mount_on_a_layer_of_an_attached_base_is_what_is_seen(route: str, scratch: Path, idmap: IdMap | None) -> None:
    layers(scratch, 2)
    private.mount_tmpfs(scratch / "l1")
    fill(scratch / "l1", {"above": "a"})
    try:
        with Mount.open(scratch) as store:
            lower = [Layer(f"l{i}", base=store) for i in range(2)]
            with assembled(Overlay(lower, idmap=idmap)) as root:
                assert content(root) == {"common": "0", "own0": "0", "above": "a"}
    finally:
        private.detach(scratch / "l1")


@pytest.mark.parametrize("idmap", [None, SHIFTED], ids=["plain", "idmapped"])
def test_mount_on_a_layer_of_a_recursive_clone_is_what_is_seen(route: str, scratch: Path, idmap: IdMap | None) -> None:
    layers(scratch, 2)
    private.mount_tmpfs(scratch / "l1")
    fill(scratch / "l1", {"above": "a"})
    try:
        store = Mount.clone(scratch, recursive=True)
    finally:
        private.detach(scratch / "l1")
    with store, assembled(Overlay([Layer(f"l{i}", base=store) for i in range(2)], idmap=idmap)) as root:
        assert content(root) == {"common": "0", "own0": "0", "above": "a"}


def test_upper_and_work_below_a_base(route: str, scratch: Path) -> None:
    lower, (upper, _work) = layers(scratch, 1), pair(scratch)
    with Mount.clone(scratch) as store:
        overlay = Overlay(lower, Layer("upper", base=store), Layer("work", base=store))
        with assembled(overlay) as root:
            (inside(root) / "new").write_text("n")
    assert (upper / "new").read_text() == "n"


@pytest.mark.parametrize("forced", ["path", "string"])
def test_kept_clone_on_a_kernel_that_cannot_copy_it(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, forced: str
) -> None:
    """Before 6.15 the caller's detached mount is borrowed, and detached again when the overlay is made."""
    need(forced == "string" or has(Feature.OVERLAY_LAYER_APPEND), "OVERLAY_LAYER_APPEND (Linux 6.8)")
    monkeypatch.setenv("MOUNTFD_ROUTE", f"assemble:{forced}")
    layers(scratch, 2)
    with Mount.clone(scratch) as store:
        number = store.fileno()
        refused: list[int] = []

        def decide(_count: int, name: str, arguments: tuple[object, ...]) -> int:
            if name == "open_tree" and arguments[0] == number and not refused:
                refused.append(number)
                return EINVAL
            return 0

        for _ in range(2):
            refused.clear()
            with watching(Watch(decide)), assembled(Overlay([Layer(f"l{i}", base=store) for i in range(2)])) as root:
                assert content(root)["own1"] == "1"
            assert refused
        assert store.fileno() == number
        assert not os.get_inheritable(number)
        with attached(store, scratch / "here") as point:
            assert (point / "l0/own0").read_text() == "0"


@pytest.mark.parametrize("single", [False, True], ids=["all", "one below a mount of its own"])
def test_kept_clone_is_idmapped_on_a_kernel_that_cannot_copy_it(
    route: str, scratch: Path, monkeypatch: pytest.MonkeyPatch, *, single: bool
) -> None:
    """Before 6.15 the caller's detached mount is attached where nobody sees it, for as long as it is cloned."""
    monkeypatch.setattr(features, "_found", {**features._found, "CLONE_DETACHED": False})
    layers(scratch, 2)
    if single:
        bind(scratch / "l1", scratch / "l1")
    before = Path("/proc/self/mountinfo").read_bytes()
    with Mount.clone(scratch, recursive=single) as store:
        number, refused = store.fileno(), [True]

        def decide(_count: int, name: str, _arguments: tuple[object, ...]) -> int:
            return EINVAL if name == "open_tree" and refused and refused.pop() else 0

        overlay = Overlay([Layer(f"l{i}", base=store) for i in range(2)], idmap=SHIFTED)
        for _ in range(2):
            refused[:] = [True]
            with watching(Watch(decide)), assembled(overlay) as root:
                assert content(root)["own1"] == "1"
                assert owner(inside(root) / "own0")[0] == 100000
            assert not refused
        assert (store.fileno(), os.get_inheritable(number)) == (number, False)
        assert Path("/proc/self/mountinfo").read_bytes() == before
    if single:
        umount(scratch / "l1")


# --- other kernels -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("missing", [("openat2",), ("listmount",), ("openat2", "listmount", "statmount")], ids="-".join)
def test_calls_that_older_kernels_lack(route: str, scratch: Path, missing: tuple[str, ...]) -> None:
    lower, (upper, work) = layers(scratch, 3), pair(scratch)
    with Mount.clone(scratch) as store, watching(lacking(*missing, errno=ENOSYS)):
        overlay = Overlay([*lower[:2], Layer("l2", base=store)], upper, work, idmap=SHIFTED)
        with assembled(overlay) as root:
            assert content(root)["own2"] == "2"
            assert owner(inside(root) / "own0")[0] == 100000


# --- how much is too much ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("idmap", [None, SHIFTED], ids=["plain", "idmapped"])
def test_500_layers(route: str, scratch: Path, idmap: IdMap | None) -> None:
    lower, (upper, work) = layers(scratch, 500), pair(scratch)
    with assembled(Overlay(lower, upper, work, idmap=idmap)) as root:
        found = content(root)
    assert len(found) == 501
    assert found["own499"] == "499"


def test_501_layers_are_refused(scratch: Path) -> None:
    with pytest.raises(InvalidSpec, match="500"):
        assemble(Overlay([f"/{i}" for i in range(501)]))


@pytest.mark.parametrize("way", ["paths", "base", "idmaps"])
def test_line_of_mountinfo_stays_short_with_400_long_names(scratch: Path, way: str) -> None:
    long = "n" * 200
    names = [f"{long}{i:03}" for i in range(400)]
    for i, name in enumerate(names):
        fill(scratch / name, {f"own{i}": ""})
    with Mount.clone(scratch) as store:
        lower = [
            Layer(name, base=store)
            if way == "base"
            else Layer(scratch / name, IdMap.parse(f"0:{i % 4 + 1}:1") if way == "idmaps" else None)
            for i, name in enumerate(names)
        ]
        with assembled(Overlay(lower, idmap=SHIFTED)) as root, attached(root, scratch / "here") as point:
            line = next(line for line in table() if line.split(b" ")[4] == os.fsencode(point))
            assert len(line) <= 32 * 1024
            assert line.count(b"lowerdir+=") == 400
            assert len(os.listdir(point)) == 400


@pytest.mark.parametrize("odd", [",", " ", "\\", "\n"])
def test_line_of_mountinfo_stays_short_with_names_that_are_escaped(scratch: Path, odd: str) -> None:
    lower = [fill(scratch / f"{odd * 60}{i}", {f"own{i}": ""}) for i in range(200)]
    with assembled(Overlay(lower)) as root, attached(root, scratch / "here") as point:
        assert len(b" ".join(line_of(point))) <= 32 * 1024
        assert len(os.listdir(point)) == 200


# --- data-only layers ----------------------------------------------------------------------------------------------
def test_data_only_layer_gives_content_and_no_names(route: str, scratch: Path) -> None:
    meta, other, data = (fill(scratch / name) for name in ("meta", "other", "data"))
    (data / "blob").write_text("content")
    (meta / "file").touch()
    os.truncate(meta / "file", len("content"))
    os.setxattr(meta / "file", "trusted.overlay.metacopy", b"")
    os.setxattr(meta / "file", "trusted.overlay.redirect", b"/blob")
    overlay = Overlay(
        [meta, other, Layer(data, data_only=True)],
        options=[param.String("metacopy", "on"), param.String("redirect_dir", "on")],
        idmap=SHIFTED,
    )
    with assembled(overlay) as root:
        assert content(root) == {"file": "content"}


def test_the_caller_may_let_go_of_everything_once_it_is_assembled(route: str, scratch: Path) -> None:
    point = fill(scratch / "fs")
    private.mount_tmpfs(point)
    lower = layers(point, 2)
    with assembled(Overlay(lower, idmap=SHIFTED)) as root:
        assert private.unmounted(point)
        assert content(root)["own1"] == "1"


def test_attributes_of_the_new_mount(route: str, scratch: Path) -> None:
    lower, (upper, work) = layers(scratch, 1), pair(scratch)
    attrs = Attr.NODEV | Attr.NOSUID | Attr.NOEXEC | Attr.NOATIME | Attr.NOSYMFOLLOW
    with assembled(Overlay(lower, upper, work), attrs) as root, attached(root, scratch / "here") as point:
        words = set(line_of(point)[5].decode().split(","))
        assert words == {"rw", "nodev", "nosuid", "noexec", "noatime", "nosymfollow"}
        (point / "new").write_text("n")


def test_read_only_mount_of_a_writable_overlay(route: str, scratch: Path) -> None:
    lower, (upper, work) = layers(scratch, 1), pair(scratch)
    with assembled(Overlay(lower, upper, work), Attr.RDONLY) as root, attached(root, scratch / "here") as point:
        line = line_of(point)
        assert line[5].split(b",")[0] == b"ro"
        assert line[-1].split(b",")[0] == b"rw"
        with pytest.raises(OSError, match="Read-only"):
            (point / "new").write_text("n")
        root.set(clear=Attr.RDONLY)
        (point / "new").write_text("n")


def test_result_is_closed_on_exec(route: str, scratch: Path) -> None:
    with assembled(Overlay(layers(scratch, 2))) as root:
        assert not os.get_inheritable(root.fileno())
        subprocess.run(["true"], check=True)


def test_nothing_is_attached(route: str, scratch: Path) -> None:
    before = table()
    with assembled(Overlay(layers(scratch, 2), idmap=SHIFTED)) as root:
        assert table() == before
        with attached(root, scratch / "here"):
            assert len(table()) == len(before) + 1
    assert calls.watcher is None
