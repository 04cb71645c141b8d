from __future__ import annotations

import os
from collections.abc import Iterator
from errno import ELOOP, ENOSYS, EPERM
from pathlib import Path

import pytest

from mountfd import KernelError, Missing, NotDirectory, Root
from tests.support.inject import Watch, lacking, watching
from tests.support.layers import fill


@pytest.fixture(params=["openat2", "walk", "walk for lack of permission"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Resolve by one call, and step by step where the kernel or a filter doesn't have it."""
    if request.param == "openat2":
        yield request.param
        return
    with watching(lacking("openat2", errno=ENOSYS if request.param == "walk" else EPERM)):
        yield request.param


@pytest.fixture
def tree(scratch: Path) -> Path:
    """Make a tree with links that try to get out."""
    tree = fill(scratch / "tree", {"etc/passwd": "inside", "a/b/f": "f"})
    fill(scratch, {"secret": "outside"})
    for name, target in {
        "abs": "/etc/passwd",
        "up": "../../../etc/passwd",
        "a/up": "../../../../../secret",
        "dir": "/a/b",
        "a/rel": "b/../b/./f",
        "loop": "loop",
        "l0": "l1",
        "l1": "/l2",
        "l2": "a/b/f",
        "root": "/",
        "tofile": "a/b/f",
        "dangling": "nowhere",
        "slash": "a/b/",
    }.items():
        (tree / name).symlink_to(target)
    return tree


GOOD = {
    "etc/passwd": "etc/passwd",
    "/etc/passwd": "etc/passwd",
    "//etc//./passwd": "etc/passwd",
    "abs": "etc/passwd",
    "up": "etc/passwd",
    "../../../../etc/passwd": "etc/passwd",
    "dir/../../etc/passwd": "etc/passwd",
    "dir/f": "a/b/f",
    "a/rel": "a/b/f",
    "l0": "a/b/f",
    "root/root/dir/f": "a/b/f",
    "slash/f": "a/b/f",
    ".": "",
    "/": "",
    "..": "",
    "a/b/": "a/b",
    "a/b/.": "a/b",
    "a/b/..": "a",
    "slash": "a/b",
    "dir/": "a/b",
}
BAD: dict[str, type[Exception]] = {
    "a/up": Missing,
    "gone": Missing,
    "gone/..": Missing,
    "dangling": Missing,
    "a/b/f/": NotDirectory,
    "a/b/f/.": NotDirectory,
    "a/b/f/..": NotDirectory,
    "a/b/f/x": NotDirectory,
    "tofile/": NotDirectory,
    "tofile/..": NotDirectory,
    "loop": KernelError,
}


@pytest.mark.parametrize("path", GOOD)
def test_stays_inside(way: str, tree: Path, path: str) -> None:
    with Root.open(tree) as root, root.resolve(path) as found:
        assert os.path.samestat(os.fstat(found.fileno()), (tree / GOOD[path]).stat())
        assert not os.get_inheritable(found.fileno())


@pytest.mark.parametrize("path", BAD)
def test_says_no(way: str, tree: Path, path: str) -> None:
    with Root.open(tree) as root, pytest.raises(BAD[path]):
        root.resolve(path)


def test_loop_of_links(way: str, tree: Path) -> None:
    with Root.open(tree) as root, pytest.raises(KernelError) as caught:
        root.resolve("loop")
    assert caught.value.errno == ELOOP


@pytest.mark.parametrize(("links", "fine"), [(40, True), (41, False)])
def test_chain_of_links(way: str, tree: Path, links: int, fine: bool) -> None:
    (tree / "c0").write_text("end")
    for i in range(links):
        (tree / f"c{i + 1}").symlink_to(f"c{i}")
    with Root.open(tree) as root:
        if fine:
            root.resolve(f"c{links}").close()
        else:
            with pytest.raises(KernelError):
                root.resolve(f"c{links}")


def test_directory_is_wanted(way: str, tree: Path) -> None:
    with Root.open(tree) as root:
        root.resolve("dir", directory=True).close()
        for path in ("tofile", "a/b/f"):
            with pytest.raises(NotDirectory):
                root.resolve(path, directory=True)


def test_root_must_be_a_directory(tree: Path) -> None:
    with pytest.raises(NotDirectory):
        Root.open(tree / "a/b/f")
    with pytest.raises(Missing):
        Root.open(tree / "gone")


def test_tree_that_changes_meanwhile_is_tried_again(tree: Path) -> None:
    tries = []

    def decide(_count: int, name: str, _arguments: tuple[object, ...]) -> int:
        if name == "openat2":
            tries.append(name)
        return 11 if name == "openat2" and len(tries) < 5 else 0

    with watching(Watch(decide)), Root.open(tree) as root:
        root.resolve("../etc/passwd").close()
    assert len(tries) == 5
