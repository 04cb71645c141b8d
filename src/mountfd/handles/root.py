"""Paths that can't leave a directory: every name is resolved below it, whatever symlinks say."""

from __future__ import annotations

import os
import stat
from errno import EAGAIN, ELOOP, ENOSYS, ENOTDIR, EPERM

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.layouts import OpenHow
from mountfd.abi.paths import encode
from mountfd.errors import KernelError, from_errno
from mountfd.handles.fd import OwnedFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from mountfd.abi.paths import StrPath

__all__ = ["Root", "walk"]

_IN_ROOT = 0x10
_NO_MAGICLINKS = 0x02
_HOW_SIZE = 24
_TRIES = 128
_MAX_LINKS = 40


class Root(OwnedFd):
    """A directory below which paths are resolved as if it were `/`: `..` and absolute symlinks stay inside."""

    __slots__ = ()

    @classmethod
    def open(cls, path: StrPath) -> Self:
        """Take hold of a directory. Call: openat(2) with O_PATH."""
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        return cls(calls.openat(n.AT_FDCWD, encode(path, "root"), flags, 0))

    def resolve(self, path: StrPath, *, directory: bool = False) -> OwnedFd:
        """Resolve a path below this root to an O_PATH descriptor.

        Arguments: path, absolute or relative, both meant from this root; directory, whether it must be one.
        Raises: Missing, NotDirectory; KernelError with ELOOP for too many symlinks or a magic link.
        Call: openat2(2) with RESOLVE_IN_ROOT, Linux 5.6; before that, one openat(2) for each component.
        """
        raw = encode(path)
        flags = os.O_PATH | os.O_CLOEXEC | (os.O_DIRECTORY if directory else 0)
        how = OpenHow(flags, 0, _IN_ROOT | _NO_MAGICLINKS)
        for _ in range(_TRIES):
            try:
                return OwnedFd(calls.openat2(self.fileno(), raw, calls.reference(how), _HOW_SIZE))
            except KernelError as error:
                if error.errno in (ENOSYS, EPERM):  # an old kernel, or a seccomp filter that doesn't know the call
                    return walk(self.fileno(), raw, directory=directory)
                if error.errno != EAGAIN:  # EAGAIN: a rename or mount elsewhere came between; the kernel wants a retry
                    raise
        raise from_errno(EAGAIN, "openat2", (raw,), filename=os.fsdecode(raw), hint="the tree changes all the time")


def walk(root: int, raw: bytes, *, directory: bool = False) -> OwnedFd:
    """Resolve component by component; each step holds a descriptor, so a rename can't lead outside.

    Arguments: root, a directory's descriptor; raw, a path below it; directory, whether it must name one.
    """
    steps = [os.dup(root)]
    parts = raw.split(b"/")[::-1]
    links = 0
    try:
        while parts:
            # Also where no name follows: "file/" and "file/." are errors.
            _want_directory(steps[-1], raw)
            target = _step(steps, parts.pop())
            if target is not None:
                links += 1
                if links > _MAX_LINKS:
                    raise from_errno(ELOOP, "openat", (raw,), filename=os.fsdecode(raw))
                if target.startswith(b"/"):
                    _climb(steps)
                parts += target.split(b"/")[::-1]
        if directory:
            _want_directory(steps[-1], raw)
        return OwnedFd(steps.pop())
    finally:
        for fd in steps:
            os.close(fd)


def _step(steps: list[int], part: bytes) -> bytes | None:
    """Take one step, down or up; a symlink is not stepped on, but its target given."""
    if part == b"..":
        if len(steps) > 1:
            os.close(steps.pop())
        return None
    if part in (b"", b"."):
        return None
    fd = calls.openat(steps[-1], part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, 0)
    steps.append(fd)
    if not stat.S_ISLNK(os.fstat(fd).st_mode):
        return None
    target = os.fsencode(os.readlink(b"", dir_fd=fd))
    os.close(steps.pop())
    return target


def _climb(steps: list[int]) -> None:
    while len(steps) > 1:
        os.close(steps.pop())


def _want_directory(fd: int, raw: bytes) -> None:
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        raise from_errno(ENOTDIR, "openat", (raw,), filename=os.fsdecode(raw))
