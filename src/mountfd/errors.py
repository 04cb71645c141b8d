"""What can go wrong: one family of exceptions, each carrying the call that failed.

MountfdError
├─ InvalidSpec(ValueError)        a description contradicts itself
├─ Gone(LookupError)              that mount id or namespace no longer exists
└─ KernelError(OSError)           the kernel refused a call
   ├─ Missing  Exists  Denied  NotDirectory
   ├─ Busy                        .holders says who, when they can be seen
   ├─ LimitReached                a limit of the kernel, not the disk
   └─ NotSupported                .feature names what is missing
"""

from __future__ import annotations

import errno as _errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "Busy",
    "Denied",
    "Exists",
    "Gone",
    "InvalidSpec",
    "KernelError",
    "LimitReached",
    "Missing",
    "MountfdError",
    "NotDirectory",
    "NotSupported",
]


class MountfdError(Exception):
    """Anything that this library raises on purpose."""


class InvalidSpec(MountfdError, ValueError):
    """A description contradicts itself; `part` names the culprit.

    Arguments: message, a sentence for a person; part, the name of the argument, option or layer at fault.
    No call has been made when this is raised.
    """

    def __init__(self, message: str, *, part: str | None = None) -> None:
        """Keep the sentence and the part that it blames."""
        super().__init__(message)
        self.part = part

    def __reduce__(self) -> tuple[Callable[..., InvalidSpec], tuple[object, ...]]:
        """Pickle with the part."""
        return _rebuild_invalid, (type(self), self.args[0], self.part)


class Gone(MountfdError, LookupError):
    """That mount id or namespace no longer exists."""


class KernelError(MountfdError, OSError):
    """The kernel refused a call.

    Attributes: errno, filename (the path at fault, when there is one), syscall (its name), arguments (what it was
    given, in the call's order), log (the kernel's own messages, oldest first), hint (what usually causes this),
    feature (the kernel feature that is missing, for NotSupported).
    """

    errno: int
    strerror: str

    def __init__(  # noqa: PLR0913 (an error repeats the whole call)
        self,
        errno: int,
        syscall: str,
        arguments: Sequence[object] = (),
        *,
        filename: str | None = None,
        log: Sequence[str] = (),
        hint: str | None = None,
        feature: str | None = None,
    ) -> None:
        """Repeat the call, the kernel's words and the usual cause."""
        super().__init__(errno, os.strerror(errno), filename)
        self.syscall = syscall
        self.arguments = tuple(arguments)
        self.log = tuple(log)
        self.hint = hint
        self.feature = feature
        for line in self.log:
            self.add_note(f"kernel: {line}")
        if hint:
            self.add_note(f"hint: {hint}")

    def __str__(self) -> str:
        """One sentence: the call, the reason, the path."""
        path = f": {self.filename!r}" if self.filename is not None else ""
        return f"{self.syscall}: {self.strerror}{path}"

    def explain(self, *, hint: str | None = None, log: Sequence[str] = (), filename: str | None = None) -> None:
        """Add what a caller further up knows: a hint, the kernel's log or the path; what is set already stays."""
        if log and not self.log:
            self.log = tuple(log)
            for line in self.log:
                self.add_note(f"kernel: {line}")
        if hint and not self.hint:
            self.hint = hint
            self.add_note(f"hint: {hint}")
        if filename is not None and self.filename is None:
            self.filename = filename

    def __reduce__(self) -> tuple[Callable[..., KernelError], tuple[object, ...]]:
        """Pickle every attribute; arguments travel as their words, since descriptors mean nothing elsewhere."""
        state = (self.filename, self.log, self.hint, self.feature)
        call = (type(self), self.errno, self.syscall, tuple(map(_portable, self.arguments)), state)
        return _rebuild_kernel, (*call, tuple(getattr(self, "holders", ())))


class Missing(KernelError, FileNotFoundError):
    """A path, filesystem or parameter isn't there (ENOENT)."""


class Exists(KernelError, FileExistsError):
    """Something is there already (EEXIST)."""


class Denied(KernelError, PermissionError):
    """Not allowed (EPERM, EACCES)."""


class NotDirectory(KernelError, NotADirectoryError):
    """A directory was needed (ENOTDIR)."""


class Busy(KernelError):
    """In use (EBUSY); `holders` says by whom, when they can be seen."""

    holders: tuple[object, ...] = ()


class LimitReached(KernelError):
    """A limit of the kernel: ENOSPC of a mount call is fs.mount-max or a namespace limit, not the disk."""


class NotSupported(KernelError):
    """This kernel, filesystem or sandbox can't do it; `feature` names what is missing."""


_BY_ERRNO: dict[int, type[KernelError]] = {
    _errno.ENOENT: Missing,
    _errno.EEXIST: Exists,
    _errno.EPERM: Denied,
    _errno.EACCES: Denied,
    _errno.ENOTDIR: NotDirectory,
    _errno.EBUSY: Busy,
    _errno.ENOSPC: LimitReached,
    _errno.EMFILE: LimitReached,
    _errno.ENFILE: LimitReached,
    _errno.ENOSYS: NotSupported,
    _errno.ENODEV: NotSupported,
    _errno.EOPNOTSUPP: NotSupported,
}

_LIMITS = {
    _errno.ENOSPC: "the limit on mounts or namespaces is reached: fs.mount-max, user.max_*_namespaces in sysctl(8)",
    _errno.EMFILE: "this process has too many open descriptors: raise RLIMIT_NOFILE (ulimit -n)",
    _errno.ENFILE: "the system has too many open files: raise fs.file-max in sysctl(8)",
}


def from_errno(  # noqa: PLR0913 (an error repeats the whole call)
    errno: int,
    syscall: str,
    arguments: Sequence[object] = (),
    *,
    filename: str | None = None,
    log: Sequence[str] = (),
    hint: str | None = None,
    feature: str | None = None,
) -> KernelError:
    """Make the family's member that stands for this errno."""
    kind = _BY_ERRNO.get(errno, KernelError)
    if hint is None and kind is LimitReached:
        hint = _LIMITS[errno]
    return kind(errno, syscall, arguments, filename=filename, log=log, hint=hint, feature=feature)


def unsupported(feature: str, why: str) -> NotSupported:
    """Say that no route can do this here; the sentence `why` becomes the hint."""
    return NotSupported(_errno.EOPNOTSUPP, feature, hint=why, feature=feature)


def _portable(argument: object) -> object:
    return argument if isinstance(argument, int | str | bytes | None) else repr(argument)


def _rebuild_kernel(  # noqa: PLR0913, PLR0917 (an error repeats the whole call)
    kind: type[KernelError],
    errno: int,
    syscall: str,
    arguments: tuple[object, ...],
    state: tuple[str | None, tuple[str, ...], str | None, str | None],
    holders: tuple[object, ...],
) -> KernelError:
    filename, log, hint, feature = state
    error = kind(errno, syscall, arguments, filename=filename, log=log, hint=hint, feature=feature)
    if isinstance(error, Busy):
        error.holders = holders
    return error


def _rebuild_invalid(kind: type[InvalidSpec], message: str, part: str | None) -> InvalidSpec:
    return kind(message, part=part)


def to_words(error: BaseException) -> list[str]:
    """Put an error into plain words, for a process that must not believe more than that; see from_words."""
    if isinstance(error, KernelError):
        path = [] if error.filename is None else [os.fsdecode(error.filename)]
        return ["kernel", str(error.errno), error.syscall, str(len(path)), *path, error.hint or "", *error.log]
    if isinstance(error, InvalidSpec):
        return ["spec", str(error), error.part or ""]
    return ["other", f"{type(error).__name__}: {error}"]


def from_words(words: Sequence[str]) -> MountfdError:
    """Make an error of the family out of to_words' words; whatever else they are, they become a message."""
    kind, *rest = words
    if kind == "kernel" and len(rest) > 3 and rest[0].isdigit() and rest[2] in ("0", "1"):  # noqa: PLR2004 (as written)
        errno, syscall, paths = int(rest[0]), rest[1], int(rest[2])
        filename = rest[3] if paths else None
        hint, *log = rest[3 + paths :] or [""]
        return from_errno(errno, syscall, filename=filename, hint=hint or None, log=log)
    if kind == "spec" and len(rest) == 2:  # noqa: PLR2004 (as written)
        return InvalidSpec(rest[0], part=rest[1] or None)
    return MountfdError(": ".join(rest) or "the inside of a run ended without a word")
