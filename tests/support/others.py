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
            if user is not None:
                os.setgroups([])
                os.setresgid(user, user, user)
                os.setresuid(user, user, user)
            answer = pickle.dumps((True, act()))
        except BaseException as error:  # noqa: BLE001 (handed to the parent, whatever it is)
            answer = pickle.dumps((False, error))
        try:
            os.write(writing, answer)
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


def in_chroot(root: Path, act: Callable[[], T]) -> T:
    """Run a function in a forked child whose root is a directory. What it imports must be loaded."""

    def moved() -> T:
        os.chroot(root)
        os.chdir("/")
        return act()

    return in_child(moved)
