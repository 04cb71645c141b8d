"""All tests run in a mount namespace of their own, and each is watched for what it leaves behind."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.support import guard, private
from tests.support.need import need
from tests.support.specs import ROUTES, cleared

# These make no mounts, so they may run where no namespace can be had.
WITHOUT_NAMESPACE = {"architecture", "typing", "unit"}

_refused = pytest.StashKey[str]()
_failed = pytest.StashKey[bool]()
_place = pytest.StashKey[Path]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Enter the private mount namespace, before anything is collected, and put a tmpfs there for all that tests write.

    The host sees one empty directory. Other users may walk through it, unlike pytest's own.
    """
    try:
        private.enter()
    except OSError as error:
        config.stash[_refused] = str(error)
        return
    place = Path(tempfile.mkdtemp(prefix="mountfd-tests-")).resolve()
    private.mount_tmpfs(place)
    config.stash[_place] = place
    config.option.basetemp = config.option.basetemp or str(place / "pytest")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Take the empty directory away from the host."""
    if place := config.stash.get(_place, None):
        private.detach(place)
        place.rmdir()


def pytest_report_header(config: pytest.Config) -> str:
    """Say where the tests run."""
    return f"mount namespace: {config.stash.get(_refused, os.readlink('/proc/self/ns/mnt'))}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip whatever could mount, where that would be done to the host's table."""
    if _refused not in config.stash:
        return
    skip = pytest.mark.skip(reason=f"missing: a private mount namespace ({config.stash[_refused]})")
    for item in items:
        if item.path.relative_to(Path(__file__).parent).parts[0] not in WITHOUT_NAMESPACE:
            item.add_marker(skip)


def pytest_collection_finish() -> None:
    """Spare the guard, who collects garbage around each test, everything that was loaded until now."""
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember a failure: its traceback keeps descriptors open, which is no second failure."""
    report = yield
    if report.failed:
        item.stash[_failed] = True
    return report


@pytest.fixture(scope="session", autouse=True)
def temporary_directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the one directory that holds every temporary file of the tests, and of what they start."""
    place = request.config.stash.get(_place, None) or tmp_path_factory.getbasetemp().resolve()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(place))
        patch.setattr(tempfile, "tempdir", None)
        yield place


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest, temporary_directory: Path) -> Iterator[None]:
    """Fail a test that leaves a descriptor, mount, loop device, child process or thread, or takes one away."""
    before = guard.snapshot(temporary_directory)
    yield
    if request.node.stash.get(_failed, False):
        return
    lines = guard.left_behind(before, temporary_directory)
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)


@pytest.fixture
def scratch(request: pytest.FixtureRequest, temporary_directory: Path) -> Iterator[Path]:
    """Give an empty directory, the root of a private tmpfs of its own; it is fit to be an overlay's upper layer."""
    need(_refused not in request.config.stash, "a private mount namespace")
    point = Path(tempfile.mkdtemp(prefix="scratch-", dir=temporary_directory))
    private.mount_tmpfs(point)
    yield point
    # Where it stays busy the guard, who comes next, says what is left on it. Never empty it by force: a bind mount
    # that was left there leads out of it.
    for _ in guard.patiently():
        guard.drop_garbage()
        if private.unmounted(point):
            break


@pytest.fixture
def place(scratch: Path) -> Iterator[Path]:
    """Give an empty directory; what a test mounts below it is taken away at the end."""
    with cleared(scratch):
        yield scratch


@pytest.fixture(params=ROUTES)
def mount_route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force one route of mount after the other."""
    name: str = request.param
    monkeypatch.setenv("MOUNTFD_ROUTE", f"mount:{name}")
    return name
