"""One mount, by path, descriptor or id: statx(2) for the id, statmount(2) for the rest."""

from __future__ import annotations

import os
from errno import EBADF, EINVAL, ENOENT, ENOSYS, EPERM

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.paths import encode
from mountfd.errors import Gone, InvalidSpec, KernelError, Missing
from mountfd.model.info import FIELDS, MountInfo, check_fields, from_fields
from mountfd.model.mountinfo import parse
from mountfd.verbs.query.asking import ask, lacks, mask_of
from mountfd.verbs.query.oldway import OPEN_PATH, find_old, from_descriptor, read_table
from mountfd.verbs.query.place import FOLLOW, HERE, NOFOLLOW, id_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol

    from mountfd.abi.paths import StrPath

    class HasFileno(Protocol):
        """A handle on a descriptor."""

        def fileno(self) -> int:
            """Give the descriptor's number."""


__all__ = ["complete", "id_of", "lookup", "lookup_id"]

# No such mount among ours; no such call; refused by a filter, or because the mount is out of an ordinary user's reach.
_ELSEWHERE = (ENOENT, ENOSYS, EPERM)
_HIGHEST_FD = 2**31 - 1
_REFUSED = "the mount is out of your root's reach, or a seccomp filter forbids statmount(2)"


def lookup(
    path: StrPath | None = None,
    *,
    fd: int | HasFileno | None = None,
    id: int | None = None,  # noqa: A002 (the word that everybody looks for)
    fields: Iterable[str] | None = None,
    follow: bool = True,
) -> MountInfo:
    """Say what is known of one mount: the one that a path or descriptor lies on, or the one with an id.

    Arguments: path, anywhere on the mount; or fd, a descriptor there, or a handle that has one; or id, the unique one;
    fields, names of MountInfo's fields (None: all); follow, whether a final symlink of path is followed.
    Every field is of one mount at one time. A mount that is in no table of ours, because it is detached, lazily
    unmounted or of another namespace, is told by its descriptor: whole from Linux 7.0 on. Before that its ids; for a
    directory dev, as stat(2) shows it; and attrs, as statvfs(3) does: RDONLY also where the filesystem is, never
    IDMAP. The rest is None.
    Raises: Gone for an id that no mount has now; Missing, NotDirectory, Denied for a path; InvalidSpec.
    Calls: statx(2) and statmount(2), Linux 6.8; before that, and where a filter forbids them, the mount table.
    """
    if (path is not None) + (fd is not None) + (id is not None) != 1:
        raise InvalidSpec("lookup takes one of path, fd and id", part="lookup")
    wanted = FIELDS if fields is None else check_fields(fields)
    if id is not None:
        return lookup_id(id, wanted)
    if fd is not None:
        return _lookup_fd(fd if isinstance(fd, int) else fd.fileno(), wanted)
    raw = os.fsencode(path)  # type: ignore[arg-type]  # it is the one that was given
    if not raw or b"\0" in raw:
        encode(raw)  # says what is wrong with it
    return _lookup_path(raw, wanted, follow=follow)


def _lookup_path(raw: bytes, fields: tuple[str, ...], *, follow: bool) -> MountInfo:
    flags = FOLLOW if follow else NOFOLLOW
    while number := id_of(n.AT_FDCWD, raw, flags):
        try:
            return _ask(number, fields)
        except KernelError as error:
            if error.errno not in _ELSEWHERE:
                raise
        # Ids are never reused: where the path still leads to this one it is in no table of ours, else it has just gone.
        if id_of(n.AT_FDCWD, raw, flags) == number:
            break
    fd = calls.openat(n.AT_FDCWD, raw, OPEN_PATH if follow else OPEN_PATH | os.O_NOFOLLOW, 0)
    try:
        return _lookup_fd(fd, fields)
    finally:
        os.close(fd)


def lookup_id(number: int, fields: tuple[str, ...] = FIELDS) -> MountInfo:
    """Look a mount up by its unique id. Raises Gone, InvalidSpec for what can't be one, NotSupported, Denied."""
    if type(number) is not int or not n.FIRST_UNIQUE_ID <= number < n.LSMT_ROOT:
        raise InvalidSpec(
            f"{number!r} is not a unique mount id: those begin at {n.FIRST_UNIQUE_ID} and are never reused", part="id"
        )
    try:
        return _ask(number, fields)
    except KernelError as error:
        if error.errno == ENOENT:
            raise Gone(f"no mount {number} in this namespace, not any more or not yet") from error
        error.explain(hint=_REFUSED)
        raise


def _ask(number: int, fields: tuple[str, ...]) -> MountInfo:
    info = ask(number, mask_of(fields))
    if not lacks(info):
        return info
    try:
        table = read_table()
    except Missing:
        return info  # no /proc here: what this kernel's statmount(2) doesn't tell stays unknown
    row = find_old(parse(table), info.id_old or 0)
    ask(number, mask_of(("id",)))  # the id still is this mount's, so the line was, too
    return info if row is None else complete(info, row, fields)


def complete(info: MountInfo, row: MountInfo, fields: tuple[str, ...]) -> MountInfo:
    """Add to an answer what mountinfo tells of the same mount."""
    known = info.as_dict()
    for name in ("source", "subtype", "options"):
        if name in fields and known[name] is None:
            known[name] = getattr(row, name)
    return from_fields(known)


def _lookup_fd(fd: int, fields: tuple[str, ...]) -> MountInfo:
    """Look up by descriptor: by its mount's id, by itself where the kernel can, else by what it tells."""
    if type(fd) is not int or not 0 <= fd <= _HIGHEST_FD:
        raise InvalidSpec(f"{fd!r} is not an open descriptor", part="fd")
    number = id_of(fd, b"", HERE)
    for by_fd in (False, True) if number else ():
        try:
            return ask(0, mask_of(fields), fd=fd) if by_fd else _ask(number, fields)
        except KernelError as error:
            # EINVAL, EBADF: this kernel can't be asked by descriptor.
            if error.errno not in {*_ELSEWHERE, EINVAL, EBADF}:
                raise
    return from_descriptor(fd, number)
