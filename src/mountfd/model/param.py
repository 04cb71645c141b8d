"""Parameters of a filesystem: each is of one kind, as fsconfig(2) has a command for each, and none becomes another."""

from __future__ import annotations

import os

from mountfd.errors import InvalidSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, TypeAlias, TypeVar, final

    AnyPath: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"
    Kind = TypeVar("Kind", bound=type)
else:

    def final(kind: Kind) -> Kind:
        """Do nothing at run time, as typing's own; that one costs its import."""
        return kind


__all__ = ["Blob", "Fd", "Flag", "Param", "Path", "String"]

_KEY_MAX = 255
_FD_MAX = 2**31 - 1


class Param:
    """A parameter: a key, and for all kinds but Flag a value. Immutable; equal when kind and parts are."""

    __slots__ = ("key",)
    key: str

    def __init_subclass__(cls) -> None:
        """Keep the kinds final: `type(param) is Flag` is how they are told apart."""
        if cls.__module__ != __name__:
            raise TypeError(f"{cls.__bases__[0].__name__} can't be subclassed")

    def __init__(self, key: str) -> None:
        """Check the key: text of 1 to 255 bytes without a NUL."""
        if type(key) is not str:
            raise InvalidSpec(f"the key of a parameter must be str, not {key!r}", part="key")
        if not key or "\0" in key or len(key.encode(errors="surrogateescape")) > _KEY_MAX:
            raise InvalidSpec(f"the key {key!r} must have 1 to {_KEY_MAX} bytes and no NUL", part="key")
        object.__setattr__(self, "key", key)

    def _parts(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for kind in reversed(type(self).__mro__) for name in _slots(kind))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        """Refuse: a parameter is a value."""
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __delattr__(self, name: str) -> NoReturn:
        """Refuse: a parameter is a value."""
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        """Compare kind and parts."""
        return type(self) is type(other) and isinstance(other, Param) and self._parts() == other._parts()

    def __hash__(self) -> int:
        """Hash kind and parts."""
        return hash((type(self), self._parts()))

    def __repr__(self) -> str:
        """Show it as it would be constructed."""
        return f"{type(self).__name__}({', '.join(map(repr, self._parts()))})"

    def __reduce__(self) -> tuple[type[Param], tuple[object, ...]]:
        """Pickle by construction."""
        return type(self), self._parts()


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


@final
class Flag(Param):
    """A parameter without a value, such as `ro` or `volatile`. Call: fsconfig(2) FSCONFIG_SET_FLAG."""

    __slots__ = ()


@final
class String(Param):
    """A parameter with text, such as `source`. Call: fsconfig(2) FSCONFIG_SET_STRING, which carries 255 bytes.

    Arguments: key; value, str or bytes without a NUL.
    """

    __slots__ = ("value",)
    value: str | bytes

    def __init__(self, key: str, value: str | bytes) -> None:
        """Check that the value is text."""
        super().__init__(key)
        if not isinstance(value, str | bytes):
            raise InvalidSpec(f"the value of {key!r} must be str or bytes, not {value!r}", part=key)
        if (b"\0" if isinstance(value, bytes) else "\0") in value:  # type: ignore[operator]  # of the value's own kind
            raise InvalidSpec(f"the value of {key!r} has a NUL in it", part=key)
        object.__setattr__(self, "value", value)


@final
class Fd(Param):
    """A parameter with an open file. Call: fsconfig(2) FSCONFIG_SET_FD.

    Arguments: key; fd, a descriptor's number, which stays the caller's and open until the parameter is set.
    """

    __slots__ = ("fd",)
    fd: int

    def __init__(self, key: str, fd: int) -> None:
        """Check that it is a number."""
        super().__init__(key)
        object.__setattr__(self, "fd", _number(fd, key, "fd"))


@final
class Path(Param):
    """A parameter with a path that the kernel resolves. Call: fsconfig(2) FSCONFIG_SET_PATH.

    Arguments: key; path; dir_fd, where a relative path starts (None: the working directory).
    """

    __slots__ = ("path", "dir_fd")  # noqa: RUF023 (the order of construction)
    path: AnyPath
    dir_fd: int | None

    def __init__(self, key: str, path: AnyPath, dir_fd: int | None = None) -> None:
        """Check that it is a path."""
        super().__init__(key)
        if not isinstance(path, str | bytes | os.PathLike):
            raise InvalidSpec(f"the path of {key!r} must be a path, not {path!r}", part=key)
        raw = os.fsencode(path)
        if not raw or b"\0" in raw:
            raise InvalidSpec(f"the path of {key!r} is empty or has a NUL in it", part=key)
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "dir_fd", None if dir_fd is None else _number(dir_fd, key, "dir_fd"))


@final
class Blob(Param):
    """A parameter with binary data. Call: fsconfig(2) FSCONFIG_SET_BINARY.

    Arguments: key; data, bytes.
    """

    __slots__ = ("data",)
    data: bytes

    def __init__(self, key: str, data: bytes) -> None:
        """Check that it is bytes."""
        super().__init__(key)
        if not isinstance(data, bytes):
            raise InvalidSpec(f"the data of {key!r} must be bytes, not {data!r}", part=key)
        object.__setattr__(self, "data", data)


def _number(value: int, key: str, what: str) -> int:
    if type(value) is not int or not 0 <= value <= _FD_MAX:
        raise InvalidSpec(f"the {what} of {key!r} must be an open descriptor's number, not {value!r}", part=key)
    return value
