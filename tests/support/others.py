"""Other processes: a function run in a child, as somebody else if need be; its result or its exception comes back."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

T = TypeVar("T")
NOBODY = 65534


def in_child(act: Callable[[], T], user: int | None = None) -> T:
    """Run a function in a forked child, with that user's and group's id; raise here what it raises there.

    What the function needs must have been imported: the other user may not be able to read it.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, _answer(act, user))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    fine, result = pickle.loads(data)
    if not fine:
        raise cast("BaseException", result)
    return cast("T", result)


def _answer(act: Callable[[], T], user: int | None) -> bytes:
    try:
        if user is not None:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        return pickle.dumps((True, act()))
    except BaseException as error:  # noqa: BLE001 (handed to the parent, whatever it is)
        try:
            return pickle.dumps((False, error))
        except Exception as second:  # noqa: BLE001 (told too)
            return pickle.dumps((False, AssertionError(f"{error!r} can't be told as it is: {second!r}")))


def in_chroot(root: Path, act: Callable[[], T]) -> T:
    """Run a function in a forked child whose root is a directory. What it imports must be loaded."""

    def moved() -> T:
        os.chroot(root)
        os.chdir("/")
        return act()

    return in_child(moved)
