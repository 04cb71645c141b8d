from __future__ import annotations

import copy
import errno
import os
import pickle

import pytest

from mountfd import (
    Busy,
    Denied,
    Exists,
    Gone,
    InvalidSpec,
    KernelError,
    LimitReached,
    Missing,
    MountfdError,
    NotDirectory,
    NotSupported,
)
from mountfd.errors import from_errno, unsupported

KINDS = {
    errno.ENOENT: (Missing, FileNotFoundError),
    errno.EEXIST: (Exists, FileExistsError),
    errno.EPERM: (Denied, PermissionError),
    errno.EACCES: (Denied, PermissionError),
    errno.ENOTDIR: (NotDirectory, NotADirectoryError),
    errno.EBUSY: (Busy, OSError),
    errno.ENOSPC: (LimitReached, OSError),
    errno.EMFILE: (LimitReached, OSError),
    errno.ENFILE: (LimitReached, OSError),
    errno.ENOSYS: (NotSupported, OSError),
    errno.ENODEV: (NotSupported, OSError),
    errno.EOPNOTSUPP: (NotSupported, OSError),
    errno.EINVAL: (KernelError, OSError),
}


@pytest.mark.parametrize("number", KINDS, ids=errno.errorcode.get)
def test_errno_has_its_class_and_pythons_own(number: int) -> None:
    error = from_errno(number, "move_mount", (3, b"/x"), filename="/x")
    mine, pythons = KINDS[number]
    assert type(error) is mine
    assert isinstance(error, pythons)
    assert isinstance(error, MountfdError)
    assert (error.errno, error.strerror, error.filename) == (number, os.strerror(number), "/x")


@pytest.mark.parametrize("number", KINDS, ids=errno.errorcode.get)
@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_round_trip(number: int, again: object) -> None:
    error = from_errno(
        number,
        "fsconfig",
        (5, "key", b"\xff", None, object()),
        filename="/a\udcff",
        log=["e x: y"],
        hint="h",
        feature="f",
    )
    other = again(error)  # type: ignore[operator]  # one of the functions above
    assert type(other) is type(error)
    for name in ("errno", "strerror", "filename", "syscall", "log", "hint", "feature", "__notes__"):
        assert getattr(other, name) == getattr(error, name), name
    assert other.arguments[:4] == (5, "key", b"\xff", None)
    assert str(other) == str(error)


def test_holders_travel_along() -> None:
    error = from_errno(errno.EBUSY, "umount2")
    assert isinstance(error, Busy)
    assert error.holders == ()
    error.holders = ("one", "two")
    assert pickle.loads(pickle.dumps(error)).holders == ("one", "two")


def test_what_is_explained_later_travels_along() -> None:
    error = from_errno(errno.EINVAL, "fsconfig")
    error.explain(hint="because", log=["e overlay: no"], filename="/upper")
    other = pickle.loads(pickle.dumps(error))
    assert (other.hint, other.log, other.filename) == ("because", ("e overlay: no",), "/upper")
    assert other.__notes__ == error.__notes__ == ["kernel: e overlay: no", "hint: because"] or set(other.__notes__) == {
        "kernel: e overlay: no",
        "hint: because",
    }


def test_first_explanation_stays() -> None:
    error = from_errno(errno.EINVAL, "fsconfig", filename="/a", hint="first", log=["one"])
    error.explain(hint="second", log=["two"], filename="/b")
    assert (error.hint, error.log, error.filename) == ("first", ("one",), "/a")
    assert error.__notes__ == ["kernel: one", "hint: first"]


def test_sentence_has_call_reason_and_path() -> None:
    assert str(from_errno(errno.ENOENT, "open_tree", filename="/x")) == "open_tree: No such file or directory: '/x'"
    assert str(from_errno(errno.EPERM, "fsopen")) == "fsopen: Operation not permitted"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.ENFILE], ids=errno.errorcode.get)
def test_limit_says_which(number: int) -> None:
    assert from_errno(number, "fsmount").hint
    assert from_errno(number, "fsmount", hint="own").hint == "own"


def test_unsupported_names_the_feature() -> None:
    error = unsupported("STATMOUNT", "came with Linux 6.8")
    assert (error.feature, error.hint) == ("STATMOUNT", "came with Linux 6.8")
    assert pickle.loads(pickle.dumps(error)).feature == "STATMOUNT"


def test_invalid_spec_names_the_part() -> None:
    error = InvalidSpec("upper without work", part="work")
    assert isinstance(error, ValueError)
    other = pickle.loads(pickle.dumps(error))
    assert (str(other), other.part) == ("upper without work", "work")
    assert InvalidSpec("x").part is None


def test_gone_is_a_lookup_error() -> None:
    error = pickle.loads(pickle.dumps(Gone("mount 5")))
    assert isinstance(error, LookupError)
    assert str(error) == "mount 5"


def test_caught_as_the_family_or_as_pythons_own() -> None:
    for kind in (MountfdError, KernelError, Missing, FileNotFoundError, OSError):
        with pytest.raises(kind):
            raise from_errno(errno.ENOENT, "open_tree")
