"""The n-th call fails, for every n and every plausible errno: a proper error or a proper overlay, and nothing else."""

from __future__ import annotations

from errno import EBUSY, EINTR, EINVAL, EMFILE, ENOMEM, EPERM, errorcode
from pathlib import Path

import pytest

from mountfd import FsContext, IdMap, KernelError, Layer, Mount, Overlay, UserNamespace, assemble
from mountfd.abi import features
from mountfd.lowlevel import calls
from tests.faults.stock import act, describe, stock, undo
from tests.support.inject import Watch, failing, watching
from tests.support.layers import SHIFTED, content, layers, pair

pytestmark = pytest.mark.usefixtures("real_root")

ERRNOS = pytest.mark.parametrize("errno", [ENOMEM, EPERM, EINVAL, EBUSY, EINTR, EMFILE], ids=errorcode.get)


@ERRNOS
def test_assemble_and_attach(route: str, scratch: Path, errno: int) -> None:
    overlay, point = describe(scratch), scratch / "here"
    act(overlay, point)
    undo(point)
    before, number, refused = stock(), 0, 0
    while True:
        number += 1
        done = False
        with watching(failing(number, errno)) as watch:
            try:
                act(overlay, point)
                done = True
            except KernelError:
                refused += 1
        if done:
            undo(point)
        assert stock() == before, (number, watch.hit)
        if watch.hit is None:
            break
    assert number > 20
    # A call that was interrupted is made again; what only chooses between ways may fail without harm.
    assert refused == 0 if errno == EINTR else refused > number // 2


@ERRNOS
def test_assemble_while_the_kernel_is_probed(scratch: Path, monkeypatch: pytest.MonkeyPatch, errno: int) -> None:
    overlay, point = Overlay(layers(scratch, 2), *pair(scratch)), scratch / "here"
    point.mkdir()
    before, number = stock(), 0
    while True:
        number += 1
        monkeypatch.setattr(features, "_found", {})
        done = False
        with watching(failing(number, errno)) as watch:
            try:
                with assemble(overlay) as root:
                    done = content(root) == {"common": "0", "own0": "0", "own1": "1"}
            except KernelError:
                assert errno != EINTR
            else:
                assert done
        if errno in (ENOMEM, EMFILE, EINTR):
            found = dict(features._found)
            monkeypatch.setattr(features, "_found", {})
            assert all(features.features()[name] == present for name, present in found.items()), watch.hit
        assert stock() == before, (number, watch.hit)
        if watch.hit is None:
            break
    assert number > 20


@ERRNOS
def test_kept_clone(route: str, scratch: Path, errno: int) -> None:
    layers(scratch, 2)
    with Mount.clone(scratch) as store:
        overlay = Overlay([Layer(f"l{i}", base=store) for i in range(2)], idmap=SHIFTED)
        with assemble(overlay):
            pass
        before, number = stock(), 0
        while True:
            number += 1
            with watching(failing(number, errno)) as watch:
                try:
                    assemble(overlay).close()
                except KernelError:
                    assert errno != EINTR
            assert stock() == before, (number, watch.hit)
            with assemble(overlay) as root:
                assert content(root)["own1"] == "1"
            if watch.hit is None:
                break


@ERRNOS
def test_user_namespace(errno: int) -> None:
    idmap = IdMap.parse("0:5:1")
    with watching(Watch()) as seen:
        UserNamespace.new(idmap).close()
    calls_made = len(seen.names)
    before, number = stock(), 0
    while True:
        number += 1
        with watching(failing(number, errno)) as watch:
            # clone(2) is refused in a chroot, so it is tried once more from outside.
            again = errno == EPERM and seen.names[number - 1 : number] == ["clone"]
            if errno == EINTR or again or number > calls_made:
                UserNamespace.new(idmap).close()
            else:
                with pytest.raises(KernelError) as caught:
                    UserNamespace.new(idmap)
                assert caught.value.errno == errno
        assert stock() == before, (number, watch.hit)
        if watch.hit is None:
            break
    assert number > 6


def test_interrupted_call_is_made_again() -> None:
    def forever(number: int) -> int:
        return EINTR if number < 50 else 0

    with (
        watching(Watch(lambda count, _name, _arguments: forever(count))) as seen,
        FsContext.open("tmpfs"),
    ):
        pass
    assert seen.names == ["fsopen"] * 50
    assert calls.watcher is None
