"""IdMap and the kernel agree on which maps there are: what one refuses, the other refuses too."""

from __future__ import annotations

import errno
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountfd.errors import InvalidSpec
from mountfd.model.idmap import Extent, IdMap
from tests.support.need import need_command, need_real_root

Triples = list[tuple[int, int, int]]

LAST_ID = 2**32 - 2
MAX_TEXT = 4095


@pytest.fixture(autouse=True)
def root_and_unshare() -> None:
    """Skip where the kernel's answer would be about privilege and not about the map."""
    need_real_root()
    need_command("unshare")


def kernel_takes(uid: bytes, gid: bytes = b"0 0 1") -> dict[str, set[tuple[int, ...]]] | None:
    """Write both maps of a fresh user namespace; give what the kernel has understood, or None for EINVAL."""
    command = ["unshare", "--user", "sh", "-c", "echo; read -r _"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"\n"  # it is in its namespace now
        folder = Path(f"/proc/{child.pid}")
        try:
            for name, text in (("uid_map", uid), ("gid_map", gid)):
                write_at_once(folder / name, text)
            return {name: lines_of((folder / name).read_bytes()) for name in ("uid_map", "gid_map")}
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return None
        finally:
            child.communicate(b"\n")


def write_at_once(path: Path, text: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        assert os.write(fd, text) == len(text)
    finally:
        os.close(fd)


def lines_of(text: bytes) -> set[tuple[int, ...]]:
    return {tuple(map(int, line.split())) for line in text.splitlines()}


def as_text(triples: Triples) -> bytes:
    return "\n".join("{} {} {}".format(*triple) for triple in triples).encode()


def agree(triples: Triples) -> bool:
    """Ask both about a map, compare, and say whether they take it."""
    kernel = kernel_takes(as_text(triples))
    if kernel is None:
        with pytest.raises(InvalidSpec):
            IdMap([Extent(*triple) for triple in triples])
        return False
    assert kernel["uid_map"] == set(triples)
    assert IdMap([Extent(*triple) for triple in triples]).uid_map_text() == as_text(triples)
    return True


def random_maps() -> Iterator[Triples]:
    """Make maps of all sizes, of which about half have a flaw. The same ones each time."""
    dice = random.Random(20)  # noqa: S311 (nothing secret)
    for _ in range(60):
        count = dice.choice([1, 1, 2, 3, 6, 30])
        room = dice.choice([3 * count, 20 * count, 2**31, LAST_ID + 3])
        yield [
            (dice.randrange(room), dice.randrange(room), dice.choice([0, 1, 1, 1, 2, 3, room // (2 * count) or 1]))
            for _ in range(count)
        ]


def test_about_random_maps() -> None:
    answers = [agree(triples) for triples in random_maps()]
    assert 10 < sum(answers) < len(answers) - 10  # the dice have made both kinds


@pytest.mark.parametrize(
    ("triple", "taken"),
    [
        ((0, 0, LAST_ID + 1), True),
        ((1, 1, LAST_ID), True),
        ((LAST_ID, 0, 1), True),
        ((0, LAST_ID, 1), True),
        ((0, 0, LAST_ID + 2), False),
        ((1, 0, LAST_ID + 1), False),
        ((0, 1, LAST_ID + 1), False),
        ((LAST_ID, 0, 2), False),
        ((LAST_ID + 1, 0, 1), False),
        ((0, LAST_ID + 1, 1), False),
        ((0, 0, 0), False),
    ],
    ids=str,
)
def test_about_the_last_id(triple: tuple[int, int, int], taken: bool) -> None:
    assert agree([triple]) is taken


@pytest.mark.parametrize(("count", "taken"), [(339, True), (340, True), (341, False)])
def test_about_the_number_of_extents(count: int, taken: bool) -> None:
    assert agree([(id_, 1000 + id_, 1) for id_ in range(count)]) is taken


@pytest.mark.parametrize("size", range(MAX_TEXT - 2, MAX_TEXT + 3))
def test_about_the_length_of_the_text(size: int) -> None:
    assert os.sysconf("SC_PAGE_SIZE") >= MAX_TEXT + 1
    if size > MAX_TEXT and os.sysconf("SC_PAGE_SIZE") > MAX_TEXT + 1:
        pytest.skip("missing: pages of 4096 bytes (larger ones take longer maps; 4095 bytes fit everywhere)")
    triples = [(id_, id_, 1) for id_ in range(4_000_000_000, 4_000_000_170)]
    digits = size - len(as_text(triples)) - len("\n 1000 1")
    triples.append((10 ** (digits - 1), 1000, 1))
    assert len(as_text(triples)) == size
    assert agree(triples) is (size <= MAX_TEXT)


def test_about_users_and_groups_that_differ() -> None:
    idmap = IdMap.parse("u:0:100000:10 g:0:200000:5 b:70:300000:1")
    assert kernel_takes(idmap.uid_map_text(), idmap.gid_map_text()) == {
        "uid_map": {(0, 100000, 10), (70, 300000, 1)},
        "gid_map": {(0, 200000, 5), (70, 300000, 1)},
    }


def test_about_a_map_and_its_inverse() -> None:
    idmap = IdMap.parse("5:0:3,0:100:5,900000:70:1")
    assert kernel_takes(idmap.inverse().uid_map_text(), idmap.uid_map_text()) is not None
