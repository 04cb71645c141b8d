from __future__ import annotations

import os
import resource
from collections.abc import Callable
from errno import EINVAL, ELOOP, ENOSYS
from pathlib import Path

import pytest

from mountfd import (
    Denied,
    FsContext,
    IdMap,
    InvalidSpec,
    KernelError,
    Layer,
    LimitReached,
    Missing,
    Mount,
    NotDirectory,
    NotSupported,
    Overlay,
    assemble,
    has,
)
from tests.support import private
from tests.support.inject import lacking, watching
from tests.support.layers import ASSEMBLE, SHIFTED, assembled, attached, content, fill, layers, pair
from tests.support.need import need_idmapped_tmpfs
from tests.support.others import NOBODY, in_child

pytestmark = pytest.mark.usefixtures("real_root")

IDMAPS = pytest.mark.parametrize("idmap", [None, SHIFTED], ids=["plain", "idmapped"])


@IDMAPS
@pytest.mark.parametrize("which", [0, 1, 2])
def test_missing_layer_is_named(route: str, scratch: Path, which: int, idmap: IdMap | None) -> None:
    lower = layers(scratch, 3)
    lower[which] = scratch / "gone"
    with pytest.raises(Missing) as caught:
        assemble(Overlay(lower, idmap=idmap))
    assert caught.value.filename == str(scratch / "gone")
    assert "doesn't exist" in str(caught.value.hint)


def test_missing_parent_of_all_layers_is_named_as_layer(route: str, scratch: Path) -> None:
    with pytest.raises(Missing) as caught:
        assemble(Overlay([scratch / "gone/a", scratch / "gone/b"]))
    assert caught.value.filename == str(scratch / "gone/a")


@IDMAPS
def test_layer_that_is_a_file_is_named(route: str, scratch: Path, idmap: IdMap | None) -> None:
    one, two = layers(scratch, 2)
    with pytest.raises(NotDirectory) as caught:
        assemble(Overlay([one, two / "own1"], idmap=idmap))
    assert caught.value.filename == str(two / "own1")
    assert "not a directory" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["upper", "work"])
@pytest.mark.parametrize("what", ["missing", "file"])
def test_bad_upper_or_work_is_named(route: str, scratch: Path, name: str, what: str) -> None:
    pair(scratch)
    (scratch / name).rmdir()
    if what == "file":
        (scratch / name).touch()
    with pytest.raises(Missing if what == "missing" else NotDirectory) as caught:
        assemble(Overlay(layers(scratch, 1), scratch / "upper", scratch / "work"))
    assert caught.value.filename == str(scratch / name)


@pytest.mark.parametrize("name", ["gone", "l0/own0"])
@IDMAPS
def test_bad_layer_below_a_base_is_named(route: str, scratch: Path, name: str, idmap: IdMap | None) -> None:
    layers(scratch, 2)
    with Mount.clone(scratch) as store:
        overlay = Overlay([Layer("l0", base=store), Layer(name, base=store)], idmap=idmap)
        with pytest.raises((Missing, NotDirectory)) as caught:
            assemble(overlay)
    assert caught.value.filename == name


@IDMAPS
def test_same_directory_twice_through_a_symlink_names_both(route: str, scratch: Path, idmap: IdMap | None) -> None:
    if idmap is not None:
        need_idmapped_tmpfs()
    one, two = layers(scratch, 2)
    (scratch / "link").symlink_to(one)
    with pytest.raises(KernelError) as caught:
        assemble(Overlay([one, two, scratch / "link"], idmap=idmap))
    assert caught.value.errno == ELOOP
    assert str(one) in str(caught.value.hint)
    assert str(scratch / "link") in str(caught.value.hint)
    assert "same directory" in str(caught.value.hint)


@IDMAPS
def test_nested_layers_are_named(route: str, scratch: Path, idmap: IdMap | None) -> None:
    if idmap is not None:
        need_idmapped_tmpfs()
    one, two = layers(scratch, 2)
    inner = fill(one / "a/b")
    with pytest.raises(KernelError) as caught:
        assemble(Overlay([one, two, inner], idmap=idmap))
    assert caught.value.errno == ELOOP
    assert f"{str(inner)!r} lies inside the layer {str(one)!r}" in str(caught.value.hint)


def test_layers_with_one_name_below_two_bases_are_not_taken_for_one(route: str, scratch: Path) -> None:
    with (
        Mount.clone(fill(scratch / "a", {"fs/a": "a"}).parent / "a") as a,
        Mount.clone(fill(scratch / "b", {"fs/b": "b"})) as b,
    ):
        with assembled(Overlay([Layer("fs", base=a), Layer("fs", base=b)])) as root:
            assert content(root) == {"a": "a", "b": "b"}
        with pytest.raises(KernelError) as caught:
            assemble(Overlay([Layer("fs", base=a), Layer("fs", base=b), scratch / "b/fs"]))
        assert caught.value.errno == ELOOP
        assert f"'fs' and {str(scratch / 'b/fs')!r}" in str(caught.value.hint)


def test_upper_without_work_is_refused_before_any_call(scratch: Path) -> None:
    with pytest.raises(InvalidSpec, match="work"):
        Overlay(layers(scratch, 1), upper=scratch)


@pytest.mark.parametrize("place", ["/proc/self", "/sys/kernel"])
def test_filesystem_that_cannot_be_idmapped(route: str, scratch: Path, place: str) -> None:
    need_idmapped_tmpfs()  # else the layer before is named
    with pytest.raises(NotSupported) as caught:
        assemble(Overlay([*layers(scratch, 1), place], idmap=SHIFTED))
    assert caught.value.filename == place
    assert "can't be idmapped" in str(caught.value.hint)
    assert caught.value.feature


def test_overlay_on_overlay_on_overlay(route: str, scratch: Path) -> None:
    with (
        assembled(Overlay(layers(scratch / "a", 2))) as one,
        assembled(Overlay([one, *layers(scratch / "b", 1)])) as two,
        pytest.raises(KernelError) as caught,
    ):
        assemble(Overlay([two, *layers(scratch / "c", 1)]))
    assert caught.value.errno == EINVAL
    assert "two deep" in str(caught.value.hint)


def test_unbindable_mount_is_explained(route: str, scratch: Path) -> None:
    point = fill(scratch / "fs")
    private.mount_tmpfs(point)
    lower = layers(point, 2)
    try:
        with Mount.open(point) as mount:
            mount.set(propagation=1 << 17)
        with pytest.raises(KernelError) as caught:
            assemble(Overlay(lower))
    finally:
        private.detach(point)
    assert caught.value.errno == EINVAL
    assert "unbindable" in str(caught.value.hint)


def test_without_privilege(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overlay = Overlay(layers(scratch, 2), idmap=SHIFTED)
    plain = Overlay(layers(scratch, 2), *pair(scratch))
    for route in filter(lambda name: has(ASSEMBLE[name]), ASSEMBLE):
        monkeypatch.setenv("MOUNTFD_ROUTE", f"assemble:{route}")
        with assembled(overlay), assembled(plain):
            pass  # what it imports is now here for a user who may not read it
        for each in (overlay, plain):
            with pytest.raises(Denied) as caught:
                in_child(assemble_and_close(each), NOBODY)
            assert "CAP_SYS_ADMIN" in str(caught.value.hint)


def assemble_and_close(overlay: Overlay) -> Callable[[], None]:
    return lambda: assemble(overlay).close()


def test_layer_that_may_not_be_reached(scratch: Path) -> None:
    one, two = layers(scratch / "closed", 2)
    (scratch / "closed").chmod(0o700)
    with pytest.raises(Denied) as caught:
        in_child(lambda: assemble(Overlay([one, two])).close(), NOBODY)
    assert caught.value.filename == str(one)


def test_filesystem_that_this_kernel_lacks() -> None:
    with pytest.raises(NotSupported) as caught:
        FsContext.open("nosuchfs")
    assert "nosuchfs" in str(caught.value.feature)


def test_too_few_descriptors(route: str, scratch: Path) -> None:
    overlay = Overlay([Layer(path, IdMap.parse(f"0:{i + 1}:1")) for i, path in enumerate(layers(scratch, 5))])
    with assembled(overlay):
        pass
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    try:
        for more in range(1, 4):
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, hard))
            with pytest.raises(LimitReached) as caught:
                assemble(overlay)
            assert "RLIMIT_NOFILE" in str(caught.value.hint)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_forced_route_that_does_not_exist(monkeypatch: pytest.MonkeyPatch, scratch: Path) -> None:
    monkeypatch.setenv("MOUNTFD_ROUTE", "assemble:magic")
    with pytest.raises(InvalidSpec, match="descriptor, path, string"):
        assemble(Overlay(layers(scratch, 2)))


def test_failure_leaves_the_layers_alone(route: str, scratch: Path) -> None:
    one, two = layers(scratch, 2)
    with pytest.raises(Missing):
        assemble(Overlay([one, two, scratch / "gone"], *pair(scratch), idmap=SHIFTED))
    assert sorted(os.listdir(one)) == ["common", "own0"]
    assert os.listdir(scratch / "work") == []


def test_call_that_the_kernel_lacks_is_named(scratch: Path) -> None:
    with watching(lacking("fsopen", errno=ENOSYS)), pytest.raises(NotSupported) as caught:
        assemble(Overlay(layers(scratch, 2)))
    assert caught.value.feature == "fsopen(2)"


def test_attached_copy_of_a_result_outlives_it(route: str, scratch: Path) -> None:
    with assembled(Overlay(layers(scratch, 2))) as root, attached(root, scratch / "here") as point:
        root.close()
        assert (point / "own1").read_text() == "1"
