"""The mount with one id, and no other one.

umount2(2) takes whatever is on top at that moment, and there is no call that takes an id. But with MNT_EXPIRE it takes
only what an earlier such call has marked, and who walks to a mount or uses it wipes the mark off:

    statx(2) of the path      it is the one; and its mark, should there be one, is off
    umount2(2) MNT_EXPIRE     EAGAIN: marks what is on top
    statmount, listmount      by id, so that no mark is wiped: it stands there, and nothing on it: so it was marked
    umount2(2) MNT_EXPIRE     takes it; EAGAIN when it isn't marked any more, or another one came on top: from the start

Lazily and by force this doesn't go: look, unmount, and look whether it was the one.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from contextlib import contextmanager
from errno import EAGAIN, EBUSY, ENOENT, ESTALE
from time import monotonic, sleep

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.errors import Gone, KernelError, Missing, from_errno
from mountfd.handles.fd import OwnedFd
from mountfd.verbs.query.asking import ask, list_below, mask_of, stands
from mountfd.verbs.unmount.one import call
from mountfd.verbs.unmount.target import is_same, refuse_own_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountfd.verbs.unmount.target import Aim, Seen

__all__ = ["check_on_top", "take_checked", "take_exactly"]

_EXPIRE = 4
_TRIES = 100
_NO_MORE = "no mount {} in this namespace any more"

# A mark says nothing of who made it, so that of two at one path one could take what the other has marked. They take
# turns: threads by a lock, processes by flock(2) on the directory. Nobody waits for ever, since a signal handler may
# ask in between, another unmount may take long, and the directory may be locked for something else; should two meet
# then, the look afterwards tells.
_turns = [allocate_lock() for _ in range(64)]
_TURN_SECONDS = 5.0
_LOCK_SECONDS = 1.0
_LOCK_EX_NB, _LOCK_UN = 2 | 4, 8
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK


def take_exactly(aim: Aim, flags: int) -> int:
    """Take away the mount with the aim's id. Raises Gone when it isn't on top there; KernelError with EBUSY."""
    try:
        point = ask(aim.number, mask_of(("point",))).point
    except Missing as error:
        raise Gone(_NO_MORE.format(aim.number)) from error
    with _turn(os.fsencode(point or aim.raw)):
        if flags:
            if not take_checked(aim, flags):
                raise Gone(_NO_MORE.format(aim.number))
            _check_gone(aim)
            return 1
        for _ in range(_TRIES):
            seen = check_on_top(aim)
            if _expire(aim, seen) or (_is_bare(aim.number) and _expire(aim, seen)):
                _check_gone(aim)
                return 1
    hint = "it is looked at all the time by others, so that it can't be told from what may come on top of it"
    raise from_errno(EBUSY, "umount2", (aim.raw, _EXPIRE), filename=aim.path, hint=hint)


def take_checked(aim: Aim, flags: int) -> int:
    """Take away what is on top if that is the mount with the aim's id, without a guarantee; give 0 if it went."""
    return call(aim, check_on_top(aim), flags)


def check_on_top(aim: Aim) -> Seen:
    """See that the mount with the aim's id is on top, or raise Gone; refuse this process's root."""
    try:
        seen = aim.look()
        same = is_same(seen, aim.number)
    except Missing as error:
        if not stands(aim.number):
            raise Gone(_NO_MORE.format(aim.number)) from error
        from mountfd.verbs.unmount.explain import hidden_there  # noqa: PLC0415 (only on the way out of an error)

        hint = hidden_there(aim.raw, below=False)
        if hint is None:
            raise
        raise Gone(f"mount {aim.number} is not on top at {aim.path!r}: {hint}") from error
    if not same:
        if not stands(aim.number):
            raise Gone(_NO_MORE.format(aim.number))
        what = f"mount {seen.number}" if seen.is_root else "no mount"
        raise Gone(f"mount {aim.number} is not on top at {aim.path!r}: {what} is")
    refuse_own_root(aim, seen)
    return seen


def _expire(aim: Aim, seen: Seen) -> bool:
    """Mark what is on top, or take it away if it is marked; say which."""
    try:
        return bool(call(aim, seen, _EXPIRE))
    except KernelError as error:
        if error.errno != EAGAIN:
            raise
        return False


def _is_bare(number: int) -> bool:
    """Say whether a mount stands with nothing on it."""
    try:
        return not list_below(number)
    except KernelError as error:
        if error.errno != ENOENT:
            raise
        return False


def _check_gone(aim: Aim) -> None:
    if stands(aim.number):
        hint = f"another mount came on top of {aim.number} and was unmounted in its place: ask who else works there"
        raise from_errno(ESTALE, "umount2", (aim.raw,), filename=aim.path, hint=hint)


@contextmanager
def _turn(point: bytes) -> Iterator[None]:
    turn = _turns[hash(point) % len(_turns)]
    taken = turn.acquire(timeout=_TURN_SECONDS)
    try:
        with _locked(os.path.dirname(point) or b"/"):
            yield
    finally:
        if taken:
            turn.release()


@contextmanager
def _locked(folder: bytes) -> Iterator[None]:
    held = _opened(folder)
    if held is None:
        yield
        return
    with held:
        try:
            _wait_for_lock(held.fileno())
            yield
        finally:
            calls.flock(held.fileno(), _LOCK_UN)  # said, because a child that was forked meanwhile has it open, too


def _opened(folder: bytes) -> OwnedFd | None:
    try:
        return OwnedFd(calls.openat(n.AT_FDCWD, folder, _DIRECTORY, 0))
    except KernelError as error:
        calls.remark(f"unmount: no turns with other processes: {error}")
        return None


def _wait_for_lock(fd: int) -> None:
    deadline = monotonic() + _LOCK_SECONDS
    while True:
        try:
            calls.flock(fd, _LOCK_EX_NB)
        except KernelError as error:
            if error.errno != EAGAIN or monotonic() > deadline:
                calls.remark(f"unmount: no turns with other processes: {error}")
                return
        else:
            return
        sleep(0.001)


def _forget_turns() -> None:
    # A child that was forked meanwhile has the locks, but not the threads that would let go of them.
    _turns[:] = [allocate_lock() for _ in _turns]


os.register_at_fork(after_in_child=_forget_turns)
