"""Temporary mounts at a path: there in the block alone, whatever ends it."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mountfd
from mountfd import Busy, InvalidSpec, Missing, MountSpec, NotDirectory
from mountfd.verbs.temporary import sweep, temporary_path
from tests.support.images import image_file
from tests.support.layers import fill
from tests.support.mounting import bind, tmpfs
from tests.support.need import need, need_command
from tests.support.others import in_child
from tests.support.program import alive, eventually
from tests.support.specs import count, fstype
from tests.support.temporaries import TMPFS, furnish, overlay_of, patience


@pytest.fixture
def place(place: Path) -> Path:
    """Give a directory with layers in it, and one for temporary mounts."""
    return furnish(place)


def test_the_path_is_there_in_the_block_alone(place: Path) -> None:
    with temporary_path(overlay_of(place), location=place / "tmp") as path:
        home = Path(path).parent
        assert home.parent == place / "tmp"
        assert home.stat().st_mode & 0o7777 == 0o700
        assert (Path(path) / "both").read_text() == "a"
        assert in_child(lambda: fstype(Path(path))) == "overlay"
        (Path(path) / "new").write_text("kept")
    assert os.listdir(place / "tmp") == []
    assert count(place / "tmp") == 0
    assert (place / "upper/new").read_text() == "kept"


def test_a_location_that_is_not_there_is_made_for_its_owner_alone_and_stays(place: Path) -> None:
    location = place / "tmp/new here"
    with temporary_path(TMPFS, location=location) as path:
        assert Path(path).parent.parent == location
        assert location.stat().st_mode & 0o7777 == 0o700
    assert os.listdir(location) == []
    assert sweep(location) == []


def test_only_the_last_part_of_a_location_is_made(place: Path) -> None:
    with pytest.raises(Missing), temporary_path(TMPFS, location=place / "not/there"):
        pytest.fail("never here")
    assert not (place / "not").exists()


def test_a_location_is_made_by_many_at_once(place: Path) -> None:
    location = place / "tmp/new"
    ready, errors = threading.Barrier(4), []

    def one() -> None:
        try:
            ready.wait()
            with temporary_path(TMPFS, location=location) as path:
                assert mountfd.is_mount(path)
        except BaseException as error:  # noqa: BLE001 (looked at below)
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert os.listdir(location) == []


def test_a_default_location_that_is_not_there_is_not_made(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place / "run"))
    with pytest.raises(Missing), temporary_path(TMPFS):
        pytest.fail("never here")
    assert not (place / "run").exists()


def test_a_list_at_a_path(place: Path) -> None:
    specs = [
        overlay_of(place),
        MountSpec("tmpfs", "x", "sub"),
        MountSpec("tmpfs", "y", ""),
        MountSpec("", "", options="remount,ro"),
    ]
    with temporary_path(iter(specs), location=place / "tmp") as path:
        assert count(Path(path)) == 3
        assert os.listdir(path) == []
    assert os.listdir(place / "tmp") == []


def test_all_of_a_list_or_nothing(place: Path) -> None:
    specs = [TMPFS, MountSpec("tmpfs", "x", "sub", ["X-mount.mkdir"]), MountSpec("tmpfs", "x", "nowhere")]
    with pytest.raises(Missing), temporary_path(specs, location=place / "tmp"):
        pytest.fail("never here")
    assert os.listdir(place / "tmp") == []
    assert count(place / "tmp") == 0


def test_what_is_mounted_there_meanwhile_goes_too(place: Path) -> None:
    with temporary_path(TMPFS, location=place / "tmp") as path:
        tmpfs(Path(path) / "more")
        tmpfs(Path(path) / "more/deep")
        bind(place / "a", Path(path))
    assert os.listdir(place / "tmp") == []
    assert (place / "a/own").read_text() == "a"


def test_a_bind_is_never_emptied(place: Path) -> None:
    for location in (place / "tmp", place / "a"):
        with temporary_path(MountSpec("bind", place / "a", options=["rbind"]), location=location) as path:
            assert (Path(path) / "own").exists()
    assert {*os.listdir(place / "a")} == {"own", "both"}


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_an_error_in_the_block_cleans_up(place: Path, error: BaseException) -> None:
    def act() -> None:
        with temporary_path(TMPFS, location=place / "tmp"):
            raise error

    with pytest.raises(type(error)) as caught:
        act()
    assert caught.value is error
    assert os.listdir(place / "tmp") == []


def test_an_interruption_from_outside_cleans_up(place: Path) -> None:
    def act() -> None:
        with temporary_path(TMPFS, location=place / "tmp"):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        act()
    assert os.listdir(place / "tmp") == []


def test_a_generator_that_is_closed_or_forgotten_cleans_up(place: Path) -> None:
    def generate() -> Iterator[str]:
        with temporary_path(TMPFS, location=place / "tmp") as path:
            yield path
            yield path

    generator = generate()
    assert mountfd.is_mount(next(generator))
    generator.close()  # type: ignore[attr-defined]
    assert os.listdir(place / "tmp") == []
    generator = generate()
    next(generator)
    del generator
    gc.collect()
    assert os.listdir(place / "tmp") == []


def test_busy_at_the_end_stays_whole_and_is_swept_later(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patience(monkeypatch)
    context = temporary_path(overlay_of(place), location=place / "tmp")
    path = context.__enter__()
    (Path(path) / "new").write_text("kept")
    with open(Path(path) / "own"):
        with pytest.raises(Busy) as caught:
            context.__exit__(None, None, None)
        assert any("pytest" in str(holder) or str(os.getpid()) in str(holder) for holder in caught.value.holders)
        assert caught.value.__cause__ is None
        assert (Path(path) / "new").read_text() == "kept"
        (finding,) = sweep(place / "tmp")
        assert isinstance(finding.error, Busy)
        assert not finding.is_cleared
        assert (Path(path) / "new").read_text() == "kept"
    (finding,) = sweep(place / "tmp")
    assert (finding.path, finding.mounts, finding.error) == (str(Path(path).parent), 1, None)
    assert os.listdir(place / "tmp") == []
    assert (place / "upper/new").read_text() == "kept"


def test_busy_after_an_error_has_it_as_its_cause(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patience(monkeypatch)
    first = RuntimeError("first")
    context = temporary_path(TMPFS, location=place / "tmp")
    path = context.__enter__()
    with open(Path(path) / "open", "w"), pytest.raises(Busy) as caught:
        context.__exit__(RuntimeError, first, None)
    assert caught.value.__cause__ is first
    assert [finding.error for finding in sweep(place / "tmp")] == [None]


def test_the_default_location(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place / "tmp"))
    with temporary_path(TMPFS) as path:
        assert Path(path).parents[1] == place / "tmp"
        assert sweep() == []
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    with temporary_path(TMPFS) as path:
        assert Path(path).parents[1] == Path(os.environ["TMPDIR"])


def test_a_relative_location_and_a_symlink_to_one(place: Path) -> None:
    (place / "link").symlink_to("tmp")
    with contextlib.chdir(place):
        with temporary_path(TMPFS, location="link") as path:
            os.chdir("/")
            assert mountfd.is_mount(path)
            os.chdir(place)
        assert os.listdir("tmp") == []
        assert sweep("link") == []


@pytest.mark.parametrize("name", ["a b", "new\nline", "not\udcffutf", "back\\slash"])
def test_a_location_of_any_name(place: Path, name: str) -> None:
    location = fill(place / name)
    for given in (location, str(location), os.fsencode(location)):
        with temporary_path(TMPFS, location=given) as path:
            assert mountfd.is_mount(path)
            (Path(path) / "x").touch()
        assert os.listdir(location) == []
        assert sweep(given) == []


def test_a_location_that_is_none(place: Path) -> None:
    (place / "file").touch()
    (place / "lost").symlink_to("nowhere")
    for location, kind in ((place / "no/where", Missing), (place / "file", NotDirectory), (place / "lost", Missing)):
        with pytest.raises(kind) as caught, temporary_path(TMPFS, location=location):
            pytest.fail("never here")
        assert str(location) in str(caught.value)


def test_what_can_not_be_at_a_path(place: Path) -> None:
    moved = tmpfs(place / "moved")
    wrong: list[Any] = [[], ["tmpfs"], [TMPFS, MountSpec("", moved, "", "move")]]
    for what in wrong:
        with pytest.raises(InvalidSpec), temporary_path(what, location=place / "tmp"):
            pytest.fail("never here")
    assert mountfd.is_mount(moved)
    assert os.listdir(place / "tmp") == []


def test_fuse_at_a_path(place: Path) -> None:
    need_command("squashfuse")
    need(Path("/dev/fuse").exists(), "FUSE")
    with temporary_path(MountSpec("fuse3.squashfuse", image_file("squashfs", place)), location=place / "tmp") as path:
        assert (Path(path) / "file").read_text() == "hello"
    assert os.listdir(place / "tmp") == []
    assert eventually(lambda: not alive(str(place)))
