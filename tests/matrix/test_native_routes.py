"""Where the kernel has it all, the best route is the one that is taken, and each other one gives the same.

Elsewhere than in a guest of a new kernel these skip.
"""

# ruff: noqa: D103 (a test's name says it)

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mountfd
from mountfd import Feature, Mount, MountNamespace, NotSupported, Overlay, Propagation, UserNamespace, has
from mountfd.lowlevel import calls, drop_caches, numbers
from tests.support.layers import SHIFTED, content, fill, inside, layers, pair
from tests.support.mounting import MNT_DETACH, MS_SHARED, change, tmpfs, umount
from tests.support.need import need, need_real_root
from tests.support.others import NOBODY, in_child

ASSEMBLE = ("descriptor", "path", "string")
NAMESPACE = ("open_tree", "template", "unshare")
REPLACE = ("beneath", "gap")


@pytest.fixture
def traced() -> Iterator[list[str]]:
    """Hear every call in words, after caches that would spare one are dropped."""
    drop_caches()
    lines: list[str] = []
    with mountfd.trace(lines.append):
        yield lines


def force(monkeypatch: pytest.MonkeyPatch, verb: str, route: str) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", f"{verb}:{route}")
    drop_caches()


def done(lines: list[str], *words: str) -> list[str]:
    """Give the calls that succeeded and have these words."""
    return [line for line in lines if all(word in line for word in words) and " = -1 " not in line]


def require(feature: Feature) -> None:
    need(has(feature), f"{feature.name} (Linux {feature.since})")


# --- what is called ------------------------------------------------------------------------------------------------
def test_layers_are_given_as_descriptors(scratch: Path, traced: list[str]) -> None:
    require(Feature.OVERLAY_LAYER_DETACHED)
    del traced[:]  # which heard the probe
    with mountfd.assemble(Overlay(layers(scratch, 3), *pair(scratch))):
        pass
    assert "# assemble: route descriptor, the best that this kernel can do" in traced
    assert len(done(traced, "fsconfig(", "SET_FD, 'lowerdir+'")) == 3
    assert not done(traced, "unshare(")


def test_a_namespace_is_made_by_one_call_for_a_private_copy(scratch: Path, traced: list[str]) -> None:
    require(Feature.OPEN_TREE_NAMESPACE)
    with Mount.clone(scratch) as root:
        del traced[:]
        with MountNamespace.new(root):
            pass
    assert "# namespace: route open_tree, the best that this kernel can do" in traced
    assert len(done(traced, "open_tree(", "NAMESPACE")) == 1
    assert not done(traced, "unshare(")
    assert not done(traced, "pivot_root(")


def test_the_template_is_a_filesystem_with_a_namespace_of_its_own(
    scratch: Path, traced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    require(Feature.FSMOUNT_NAMESPACE)
    force(monkeypatch, "namespace", "template")
    with MountNamespace.new(scratch) as made:
        assert [row.point for row in made.mounts()] == ["/"]
    assert done(traced, "fsmount(", "NAMESPACE")


@pytest.mark.parametrize("lazily", [False, True], ids=["detached tree", "lazily unmounted"])
def test_a_mount_in_no_table_is_told_by_its_descriptor(scratch: Path, traced: list[str], *, lazily: bool) -> None:
    require(Feature.STATMOUNT_BY_FD)
    tmpfs(scratch / "top")
    tmpfs(fill(scratch / "top/sub"))
    if lazily:
        fd = os.open(scratch / "top", os.O_PATH)
        umount(scratch / "top", MNT_DETACH)
    else:
        with Mount.clone(scratch / "top", recursive=True) as tree:
            fd = tree.release()
    try:
        info = mountfd.lookup(fd=fd)
    finally:
        os.close(fd)
        if not lazily:
            umount(scratch / "top", MNT_DETACH)
    assert (info.fstype, info.source, info.root) == ("tmpfs", "tmpfs", "/")
    assert info.options is not None
    assert info.propagation is not None
    assert done(traced, "statmount(")


def test_events_come_from_fanotify(scratch: Path, traced: list[str]) -> None:
    require(Feature.FANOTIFY_MOUNTS)
    with mountfd.watch() as events:
        tmpfs(scratch / "new")
        event = next(iter(events))
    umount(scratch / "new")
    assert (event.kind, events.route) == ("attach", "fanotify")
    assert done(traced, "fanotify_mark(")


def test_a_live_mount_is_replaced_from_beneath(scratch: Path, traced: list[str]) -> None:
    require(Feature.MOVE_MOUNT_BENEATH)
    require(Feature.STATMOUNT)
    target = tmpfs(scratch / "target")
    with mountfd.replace(target, fill(scratch / "new", {"v": "new"})) as previous:
        assert not previous.gap
    assert (target / "v").read_text() == "new"
    assert done(traced, "move_mount(", "BENEATH")
    umount(target)


def test_what_a_socket_advertises_is_read_by_others(scratch: Path) -> None:
    path, protocols = scratch / "socket", {"rfc5424": "1", "varlink": "org.example"}
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        if not has(Feature.SOCKET_XATTR):
            with pytest.raises(NotSupported) as caught:
                mountfd.advertise(path, protocols)
            assert caught.value.feature == "SOCKET_XATTR"
            assert mountfd.advertised(path) == {}
            return
        mountfd.advertise(path, protocols)
        path.chmod(0o666)
        assert in_child(lambda: mountfd.advertised(path), user=NOBODY) == protocols


# --- each route gives the same -------------------------------------------------------------------------------------
def possible(verb: str, names: tuple[str, ...], best: Callable[[], str]) -> tuple[str, ...]:
    """Leave out the routes that are better than the best that this kernel has; with one left there's no comparison."""
    left = names[names.index(best()) :]
    need(len(left) > 1, f"a second route of {verb}")
    return left


def test_assemble_gives_the_same_by_each_route(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_real_root()
    from mountfd.verbs.assemble import route

    found = {}
    for name in possible("assemble", ASSEMBLE, route):
        force(monkeypatch, "assemble", name)
        home = fill(scratch / name)
        overlay = Overlay(layers(home, 3), *pair(home), idmap=SHIFTED if _tmpfs_can_be_idmapped() else None)
        with mountfd.assemble(overlay, mountfd.Attr.NODEV) as mount:
            (inside(mount) / "own1").unlink()
            (inside(mount) / "new").touch()
            owner = (inside(mount) / "own0").stat().st_uid
            point = fill(home / "point")
            mount.attach(point)
            info = mountfd.lookup(point, fields=("fstype", "attrs", "propagation", "source", "root"))
            found[name] = (content(mount), owner, sorted(os.listdir(home / "upper")), _said(info, home))
            umount(point, MNT_DETACH)
    assert len({repr(answer) for answer in found.values()}) == 1, found


@pytest.mark.parametrize("propagation", [Propagation.PRIVATE, Propagation.SHARED, Propagation.SLAVE], ids=str)
@pytest.mark.parametrize("other_owner", [False, True], ids=["own", "other"])
def test_a_namespace_is_the_same_by_each_route(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, propagation: Propagation, *, other_owner: bool
) -> None:
    from mountfd.verbs.namespaces.making import route

    if other_owner:
        need_real_root()
    top = tmpfs(scratch / "top")
    change(top, MS_SHARED)
    fill(tmpfs(fill(top / "sub")), {"file": "text"})
    found = {}
    with UserNamespace.new(SHIFTED) if other_owner else UserNamespace.of(os.getpid()) as user:
        for name in possible("namespace", NAMESPACE, route):
            force(monkeypatch, "namespace", name)
            owner = user if other_owner else None
            with MountNamespace.new(top, propagation=propagation, owner=owner) as made:
                rows = [(row.point, row.fstype, row.attrs, row.propagation) for row in made.mounts()]
                seen = made.call(lambda: Path("/sub/file").read_text())
                found[name] = (rows, seen, _owner(made))
    umount(top, MNT_DETACH)
    assert len({repr(answer) for answer in found.values()}) == 1, found
    rows, seen, _ = next(iter(found.values()))
    assert ([row[0] for row in rows], seen) == (["/", "/sub"], "text")


@pytest.mark.parametrize("shared", [False, True], ids=["private", "shared"])
def test_replace_gives_the_same_by_each_route(scratch: Path, monkeypatch: pytest.MonkeyPatch, *, shared: bool) -> None:
    require(Feature.STATMOUNT)
    from mountfd.verbs.replace import route

    found = {}
    for name in possible("replace", REPLACE, route):
        force(monkeypatch, "replace", name)
        home = tmpfs(scratch / name)
        if shared:
            change(home, MS_SHARED)
        target = tmpfs(home / "target")
        fill(tmpfs(fill(target / "sub")), {"kept": "kept"})
        new = fill(home / "new", {"v": "new"})
        fill(new / "sub")
        with mountfd.replace(target, new, allow_gap=name == "gap") as previous:
            assert previous.gap == (name == "gap")
            carried = previous.carried
        rows = mountfd.mounts(under=target)
        shown = [(str(row.point).removeprefix(str(home)), row.fstype, row.attrs, row.propagation) for row in rows]
        found[name] = (carried, shown, (target / "sub/kept").read_text())
        umount(home, MNT_DETACH)
    assert len({repr(answer) for answer in found.values()}) == 1, found


def _tmpfs_can_be_idmapped() -> bool:
    from mountfd.verbs.examine import examine

    kinds = examine()["idmapped"]
    assert isinstance(kinds, dict)
    return kinds["tmpfs"] is True


def _said(info: mountfd.MountInfo, home: Path) -> tuple[object, ...]:
    return info.fstype, info.attrs, info.propagation, str(info.source).removeprefix(str(home)), info.root


def _owner(made: MountNamespace) -> str:
    fd = calls.ioctl_fd(made.fileno(), numbers.NS_GET_USERNS, 0)
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
