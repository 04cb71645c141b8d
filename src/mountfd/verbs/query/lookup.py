"""One mount, by path, descriptor or id: statx(2) for the id, statmount(2) for the rest."""

from __future__ import annotations

import os
from errno import EINVAL, ENOENT, ENOSYS, EPERM

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.layouts import StatxBuffer
from mountfd.abi.paths import encode
from mountfd.errors import Gone, InvalidSpec, KernelError
from mountfd.model.info import FIELDS, MountInfo, check_fields
from mountfd.verbs.query.asking import ask, mask_of
from mountfd.verbs.query.oldway import attrs_of, find_old

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountfd.abi.paths import StrPath

__all__ = ["id_of", "lookup", "lookup_id"]

_FLAGS = n.AT_STATX_DONT_SYNC | n.AT_NO_AUTOMOUNT
_MNT_ID, _MNT_ID_UNIQUE = 0x1000, 0x4000

_free: list[tuple[StatxBuffer, object]] = []


def lookup(
    path: StrPath | None = None,
    *,
    fd: int | None = None,
    id: int | None = None,  # noqa: A002 (the word that everybody looks for)
    fields: Iterable[str] | None = None,
    follow: bool = True,
) -> MountInfo:
    """Say what is known of one mount: the one that a path or descriptor lies on, or the one with an id.

    Arguments: path, anywhere on the mount; or fd, a descriptor there; or id, the unique one; fields, names of
    MountInfo's fields (None: all); follow, whether a final symlink of path is followed.
    Every field is of one mount at one time. A detached mount, or one of another namespace, is told by its descriptor:
    whole from Linux 7.0 on, before that its ids, device and attributes; the rest is None.
    Raises: Gone for an id that no mount has now; Missing, NotDirectory, Denied for a path; InvalidSpec.
    Calls: statx(2) and statmount(2), Linux 6.8; before that, and where a filter forbids them, the mount table.
    """
    given = [value for value in (path, fd, id) if value is not None]
    if len(given) != 1:
        raise InvalidSpec("lookup takes one of path, fd and id", part="lookup")
    wanted = FIELDS if fields is None else check_fields(fields)
    if id is not None:
        return lookup_id(id, wanted)
    if fd is not None:
        return _lookup_fd(fd, wanted)
    raw = os.fsencode(path)  # type: ignore[arg-type]  # it is the one that was given
    if not raw or b"\0" in raw:
        encode(raw)  # says what is wrong with it
    number = id_of(n.AT_FDCWD, raw, _FLAGS if follow else _FLAGS | n.AT_SYMLINK_NOFOLLOW)
    try:
        if number >= n.FIRST_UNIQUE_ID:
            return ask(number, mask_of(wanted))
        return find_old(number)
    except KernelError as error:
        if error.errno not in (ENOENT, ENOSYS, EPERM):
            raise
    return _through_descriptor(raw, wanted, follow=follow)


def lookup_id(number: int, fields: tuple[str, ...] = FIELDS, *, ns_id: int = 0) -> MountInfo:
    """Look a mount up by its unique id. Raises Gone, InvalidSpec for what can't be one, NotSupported."""
    if type(number) is not int or not n.FIRST_UNIQUE_ID <= number < n.LSMT_ROOT:
        raise InvalidSpec(
            f"{number!r} is not a unique mount id: those begin at {n.FIRST_UNIQUE_ID} and are never reused", part="id"
        )
    try:
        return ask(number, mask_of(fields), ns_id=ns_id)
    except KernelError as error:
        if error.errno == ENOENT:
            raise Gone(f"no mount {number} in this namespace, not any more or not yet") from error
        raise


def id_of(at: int, raw: bytes, flags: int) -> int:
    """Give the unique id of the mount that a path lies on; on kernels before 6.8 its reused one."""
    try:
        buffer, pointer = _free.pop()
    except IndexError:
        buffer = StatxBuffer()
        pointer = calls.reference(buffer)
    try:
        calls.statx(at, raw, flags, _MNT_ID_UNIQUE, pointer)
        if not buffer.stx_mask & _MNT_ID_UNIQUE:
            calls.statx(at, raw, flags, _MNT_ID, pointer)
        return int(buffer.stx_mnt_id)
    finally:
        _free.append((buffer, pointer))


def _through_descriptor(raw: bytes, fields: tuple[str, ...], *, follow: bool) -> MountInfo:
    fd = calls.openat(n.AT_FDCWD, raw, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW), 0)
    try:
        return _lookup_fd(fd, fields)
    finally:
        os.close(fd)


def _lookup_fd(fd: int, fields: tuple[str, ...]) -> MountInfo:
    """Look up by descriptor: by its mount's id, by itself where the kernel can, else by what it tells."""
    if type(fd) is not int or fd < 0:
        raise InvalidSpec(f"{fd!r} is not an open descriptor", part="fd")
    number = id_of(fd, b"", _FLAGS | n.AT_EMPTY_PATH)
    unique = number >= n.FIRST_UNIQUE_ID
    attempts = [lambda: ask(number, mask_of(fields)), lambda: ask(0, mask_of(fields), fd=fd)]
    for attempt in attempts if unique else []:
        try:
            return attempt()
        except KernelError as error:
            # ENOENT: it stands in no namespace of ours. EINVAL: the kernel can't be asked by descriptor.
            if error.errno not in (ENOENT, EINVAL, ENOSYS, EPERM):
                raise
    try:
        info = attrs_of(fd)
        found = find_old(info.id_old or 0)
    except Gone:
        found = info
    else:
        if found.dev != info.dev:
            found = info
    if unique and found is info:
        found.id = number
    return found
