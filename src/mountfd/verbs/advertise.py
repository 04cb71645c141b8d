"""advertise: what a service speaks, written on its socket, for a client to read before it connects.

Each protocol is a `user.` extended attribute of the socket's inode. It goes where the inode goes: a bind mount of the
socket into a container shows it, too.
"""

from __future__ import annotations

import os
import stat
from errno import E2BIG, ENODATA, ENOTSUP, EPERM, ERANGE

from mountfd.abi.features import Feature, has
from mountfd.abi.paths import encode
from mountfd.errors import InvalidSpec, from_errno, unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from mountfd.abi.paths import StrPath

__all__ = ["advertise", "advertised"]

_PREFIX = "user."
_NAME_MAX = 255 - len(_PREFIX)
_VALUE_MAX = 65536


def advertise(socket: StrPath | int, protocols: Mapping[str, str]) -> None:
    """Say on a socket what the service behind it speaks.

    Arguments: socket, the path of a unix socket, or an open descriptor, which is the socket itself and not the file
    that it is bound to; protocols, name to value (a version, say); what
    else is said there already stays.
    All are written or none. Who may write to the socket's inode may do it, the service itself as a rule.
    Raises: InvalidSpec for what is no socket and for names that no attribute can have; NotSupported before Linux 7.1,
    which doesn't let sockets have such attributes; Denied.
    Call: setxattr(2).
    """
    raw = _socket(socket)
    for name, value in protocols.items():
        _check(name, value)
    before = advertised(socket)
    done: list[str] = []
    try:
        for name, value in protocols.items():
            os.setxattr(raw, _PREFIX + name, os.fsencode(value))
            done.append(name)
    except OSError as error:
        for name in done:
            if name in before:
                os.setxattr(raw, _PREFIX + name, os.fsencode(before[name]))
            else:
                os.removexattr(raw, _PREFIX + name)
        raise _explained(error, "setxattr", socket) from None


def advertised(socket: StrPath | int) -> dict[str, str]:
    """Read what a socket's service says that it speaks: name to value; nothing where nothing was said.

    Arguments: socket, its path or an open descriptor. Raises: InvalidSpec for what is no socket; Missing, Denied.
    Call: listxattr(2), getxattr(2).
    """
    raw = _socket(socket)
    found: dict[str, str] = {}
    try:
        for name in os.listxattr(raw):
            if name.startswith(_PREFIX):
                value = _value(raw, name)
                if value is not None:
                    found[name.removeprefix(_PREFIX)] = os.fsdecode(value)
    except OSError as error:
        if error.errno == ENOTSUP:
            return {}  # a filesystem without any attributes
        raise _explained(error, "getxattr", socket) from None
    return found


def _value(raw: bytes | int, name: str) -> bytes | None:
    try:
        return os.getxattr(raw, name)
    except OSError as error:
        if error.errno == ENODATA:
            return None  # it was taken away meanwhile
        raise


def _socket(socket: StrPath | int) -> bytes | int:
    raw = socket if isinstance(socket, int) else encode(socket, "socket")
    try:
        mode = os.stat(raw).st_mode
    except OSError as error:
        raise _explained(error, "stat", socket) from None
    if not stat.S_ISSOCK(mode):
        raise InvalidSpec(f"{socket!r} is no socket", part="socket")
    return raw


def _check(name: str, value: str) -> None:
    if not isinstance(name, str) or not isinstance(value, str):
        raise InvalidSpec(f"a protocol is text and has text as its value, not {name!r}: {value!r}", part="protocols")
    try:
        os.fsencode(name + value)
    except UnicodeEncodeError:
        raise InvalidSpec(f"{name!r}: {value!r} has characters that no file name can have", part="protocols") from None
    if not name or "\0" in name or "=" in name or len(os.fsencode(name)) > _NAME_MAX:
        raise InvalidSpec(
            f"{name!r} can't name a protocol: 1 to {_NAME_MAX} bytes, no NUL and no `=`", part="protocols"
        )
    if len(os.fsencode(value)) > _VALUE_MAX:
        raise InvalidSpec(f"the value of {name!r} has more than {_VALUE_MAX} bytes", part=name)


def _explained(error: OSError, call: str, socket: StrPath | int) -> OSError:
    shown = None if isinstance(socket, int) else os.fsdecode(socket)
    if error.errno in (EPERM, ENOTSUP) and call == "setxattr" and not has(Feature.SOCKET_XATTR):
        return unsupported(Feature.SOCKET_XATTR.name, "attributes of sockets came with Linux 7.1")
    hint = "a socket's attributes take 128 KiB at most" if error.errno in (E2BIG, ERANGE) else None
    return from_errno(error.errno or EPERM, call, (socket,), filename=shown, hint=hint)
