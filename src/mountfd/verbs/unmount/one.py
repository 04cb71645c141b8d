"""One mount: the call, tried again while it is busy."""

from __future__ import annotations

from errno import EBUSY, EINVAL, ENOENT, EPERM
from time import monotonic, sleep

from mountfd.abi import calls
from mountfd.errors import Busy, Gone, InvalidSpec, KernelError
from mountfd.verbs.query.asking import stands
from mountfd.verbs.unmount.target import refuse_own_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mountfd.verbs.unmount.target import Aim, Seen

__all__ = ["call", "deadline_of", "patiently", "take"]

_LAZY_OR_FORCE = 1 | 2
_NOFOLLOW = 8
_FIRST, _LONGEST = 0.001, 0.05
_FUSE = ("fuse", "fuseblk")


def deadline_of(wait: float) -> float:
    """Give the time until which what is busy is tried again."""
    if isinstance(wait, bool) or not isinstance(wait, int | float) or not wait >= 0:
        raise InvalidSpec(f"wait is a number of seconds, not {wait!r}", part="wait")
    return monotonic() + wait


def take(aim: Aim, flags: int, deadline: float) -> int:
    """Take away the mount on top at a path, or the one with the aim's id; give 0 where there is no mount.

    Raises: Busy with its holders, after the deadline; Gone when the mount with the id, or the one that was waited for,
    isn't on top there, and another is.
    """
    if aim.number:
        from mountfd.verbs.unmount.exact import take_exactly  # noqa: PLC0415 (only by id)

        return patiently(aim, deadline, lambda: take_exactly(aim, flags))
    attempt = _Attempt(aim, flags)
    return patiently(aim, deadline, attempt)


def patiently(aim: Aim, deadline: float, act: Callable[[], int]) -> int:
    """Do it again and again while it is busy, until the deadline."""
    pause = _FIRST
    while True:
        try:
            return act()
        except KernelError as error:
            if error.errno != EBUSY:
                raise
            left = deadline - monotonic()
            if left <= 0:
                from mountfd.verbs.unmount.explain import explain_busy  # noqa: PLC0415 (only on the way out of it)

                if isinstance(error, Busy):
                    explain_busy(error, aim)
                raise
        sleep(min(pause, left))
        pause = min(pause * 2, _LONGEST)


class _Attempt:
    """What is on top at a path, tried to unmount; when tried again, only the mount that was found busy."""

    __slots__ = ("_aim", "_busy", "_flags", "_last")

    def __init__(self, aim: Aim, flags: int) -> None:
        """Keep what to do."""
        self._aim, self._flags = aim, flags
        self._busy: Seen | None = None
        self._last = 0  # the one that was busy at the last try

    def __call__(self) -> int:
        """Try it once; give 0 where there is no mount. Raises Gone where there is another than the one waited for."""
        aim = self._aim
        while True:
            seen = aim.look()
            if not seen.is_root:
                if not aim.follow:
                    from mountfd.verbs.unmount.explain import refuse_symlink  # noqa: PLC0415 (rare)

                    refuse_symlink(aim)
                return 0
            if self._busy is not None and self._busy.number != seen.number:
                words = "the mount that was busy there has gone meanwhile; the one that it covered stays"
                raise Gone(f"{aim.path!r}: {words}")
            refuse_own_root(aim, seen)
            if self._take(seen):
                return 1
            # It went between the two calls: what is on top by now is what is meant.

    def _take(self, seen: Seen) -> int:
        is_first = self._busy is None and not self._flags & _LAZY_OR_FORCE
        if is_first and seen.unique and _left_to_fusermount(seen.unique):
            return 1
        try:
            return call(self._aim, seen, self._flags)
        except KernelError as error:
            if error.errno == EBUSY:
                # Not at the first time: somebody may have mounted upon it for a moment.
                self._busy = self._busy or (seen if seen.number == self._last else None)
                self._last = seen.number
            raise


def call(aim: Aim, seen: Seen, flags: int) -> int:
    """Call umount2(2) where a mount was seen; give 0 when it has gone meanwhile. Raises what the kernel's no means."""
    try:
        calls.umount2(aim.raw, flags if aim.follow else flags | _NOFOLLOW)
    except KernelError as error:
        if error.errno in {EINVAL, ENOENT}:
            from mountfd.verbs.unmount.explain import raise_unless_gone  # noqa: PLC0415 (only on the way out of it)

            raise_unless_gone(error, aim, seen)
            return 0
        if error.errno == EPERM:
            from mountfd.verbs.unmount.fuse import unmount_as_user  # noqa: PLC0415 (only on the way out of it)

            unmount_as_user(error, aim, seen, flags)
            return 1
        raise
    return 1


def _left_to_fusermount(number: int) -> bool:
    """Let fusermount3 unmount a FUSE filesystem; say whether it did, or there is nothing for it to do."""
    from mountfd.verbs.query.asking import ask, mask_of  # noqa: PLC0415 (beside its use), stands

    try:
        info = ask(number, mask_of(("fstype", "point")))
    except KernelError as error:
        calls.remark(f"unmount: can't tell whether it is FUSE ({error}), so umount2(2) is tried first")
        return False
    if info.fstype not in _FUSE or info.point is None:
        return False
    from mountfd.verbs.unmount.fuse import fusermount  # noqa: PLC0415 (only for FUSE)

    fusermount(info.point, lazy=False)
    return not stands(number)
