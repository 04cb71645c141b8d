"""A mount as containerd, moby and fstab(5) hold it: type, source, target, options."""

from __future__ import annotations

import os

from mountfd.errors import InvalidSpec
from mountfd.model.idmap import IdMap
from mountfd.model.option_words import READ_ONLY_TYPES
from mountfd.model.options import Options, check_text, pieces, split
from mountfd.model.overlay_text import escape, unescape
from mountfd.model.param import Flag, Param, String

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NoReturn

__all__ = ["MountSpec"]

_VOLATILE = ("volatile", "fsync=volatile")
_IDMAP = ("uidmap", "gidmap", "X-mount.idmap", "idmap", "ridmap")
_RDONLY = 1


class MountSpec:
    """What shall be mounted, and how. Immutable; the caller's list is copied and never changed.

    Arguments: type, of the filesystem, or `bind`, `rbind`, `fuse.X`, `fuse3.X`, `auto`, or "" where the options say it;
    source, a device, image, directory or label; target, below the place that `mount` is given; options, words (a list,
    or one string as in fstab(5)) or values of mountfd.param, all of one kind; attrs, of mountfd.Attr, and idmap, where
    the options are parameters and can't say them.
    Raises: InvalidSpec for a mixture, and when it is used, for words that contradict each other.
    """

    __slots__ = ("attrs", "idmap", "options", "source", "target", "type")
    type: str
    source: str
    target: str
    options: tuple[str, ...] | tuple[Param, ...]
    attrs: int
    idmap: IdMap | None

    def __init__(  # noqa: PLR0913 (a mount has these parts)
        self,
        type: str,  # noqa: A002 (fstab's word)
        source: str | os.PathLike[str],
        target: str | os.PathLike[str] = "",
        options: Iterable[str] | Iterable[Param] | str = (),
        *,
        attrs: int = 0,
        idmap: IdMap | None = None,
    ) -> None:
        """Check the kinds."""
        for part, value in (("type", type), ("source", source), ("target", target)):
            if not isinstance(value, str | os.PathLike) or (part == "type" and not isinstance(value, str)):
                raise InvalidSpec(f"{part} must be text, not {value!r}", part=part)
            if "\0" in os.fspath(value):
                raise InvalidSpec(f"{part} {value!r} has a NUL in it", part=part)
            check_text(os.fspath(value), part)
        if not isinstance(attrs, int):
            raise InvalidSpec(f"attrs must be of mountfd.Attr, not {attrs!r}", part="attrs")
        if idmap is not None and not isinstance(idmap, IdMap):
            raise InvalidSpec(f"idmap must be an IdMap, not {idmap!r}", part="idmap")
        words = _listed(type, options)
        if (attrs or idmap is not None) and any(isinstance(word, str) for word in words):
            raise InvalidSpec(
                "attrs and idmap go with typed options; words say them as `nodev` or uidmap=", part="attrs"
            )
        fill = object.__setattr__
        fill(self, "type", type)
        fill(self, "source", os.fspath(source))
        fill(self, "target", os.fspath(target))
        fill(self, "options", words)
        fill(self, "attrs", attrs)
        fill(self, "idmap", idmap)

    @property
    def filesystem(self) -> str:
        """The type without what containerd puts before it: `overlay` of `format/mkdir/overlay`."""
        return self.type.rpartition("/")[2]

    @property
    def is_served(self) -> bool:
        """Whether the type names a FUSE filesystem and the program that serves it: `fuse.X`, `fuse3.X`."""
        family, dot, name = self.filesystem.partition(".")
        return family in ("fuse", "fuse3") and bool(dot and name)

    def understood(self) -> Options:
        """Give what the options ask for. Raises InvalidSpec that names the word at fault."""
        options = Options.parse([option for option in self.options if isinstance(option, str)], joined=self._is_overlay)
        options.params += [option for option in self.options if isinstance(option, Param)]
        options.attrs |= self.attrs
        options.idmap = self.idmap or options.idmap
        if self.filesystem in ("bind", "rbind") and options.action in ("", "bind"):
            options.action = "rbind" if "rbind" in (self.filesystem, options.action) else "bind"
        if self.is_served and options.loop is not None and not options.loop.asked:
            options.loop = None  # without the word `loop`, offset= and sizelimit= are the program's own
        is_change = not (options.action or self.filesystem or self.source)
        if is_change or options.action:
            from mountfd.model.unused import refuse_unused  # noqa: PLC0415 (most descriptions are of a filesystem)

            refuse_unused(options, is_change=is_change, is_typed=self._is_typed)
        return options

    @property
    def is_read_only(self) -> bool:
        """Whether nothing can be written through it: by its type, by `ro`, or as an overlay without an upper layer."""
        if self.filesystem in READ_ONLY_TYPES:
            return True
        options = self.understood()
        if self._is_overlay and not any(param.key == "upperdir" for param in options.params):
            return True
        flags = [options.superblock.get("ro", False)]
        if options.action not in ("bind", "rbind"):  # a bind takes no parameters
            flags += [param.key == "ro" for param in options.params if param.key in ("ro", "rw")]
        return bool((options.attrs | options.below) & _RDONLY) or flags[-1]

    def read_only(self) -> MountSpec:
        """Give the same as a view: an overlay's upper layer becomes its topmost lower one, anything else gets `ro`."""
        if self._is_overlay:
            return self._but(_view(self._pieces()))
        kept = [option for option in self.options if _word(option) not in ("ro", "rw", "rrw") and _key(option) != "rw"]
        if self._is_typed:
            return self._but([*kept, Flag("ro")], attrs=self.attrs | _RDONLY)
        return self._but([*kept, "ro"])

    def without_volatile(self) -> MountSpec:
        """Give the same without `volatile`, after which an upper layer can't be used again."""
        if not self._is_overlay:
            return self
        return self._but([option for option in self._pieces() if _word(option) not in _VOLATILE])

    def without_idmap(self) -> MountSpec:
        """Give the same without an idmap: without `uidmap=`, `gidmap=` and what goes with them."""
        kept = [option for option in self.options if self._is_typed or _key(option) not in _IDMAP]
        return MountSpec(self.type, self.source, self.target, kept, attrs=self.attrs)  # type: ignore[arg-type]  # all of one kind, as they came

    def _pieces(self) -> list[str | Param]:
        """Take words apart that are several joined."""
        words: list[str | Param] = []
        for option in self.options:
            words += pieces(option, escapes=True) if isinstance(option, str) else [option]
        return words

    @property
    def _is_overlay(self) -> bool:
        return self.filesystem == "overlay"

    @property
    def _is_typed(self) -> bool:
        return bool(self.attrs) or self.idmap is not None or any(isinstance(option, Param) for option in self.options)

    def _but(self, options: list[str | Param], attrs: int | None = None) -> MountSpec:
        attrs = self.attrs if attrs is None else attrs
        return MountSpec(self.type, self.source, self.target, options, attrs=attrs, idmap=self.idmap)  # type: ignore[arg-type]  # all of one kind, as they came

    def __setattr__(self, name: str, value: object) -> NoReturn:
        """Refuse: a description is a value."""
        raise AttributeError("MountSpec is immutable: make another one")

    def __delattr__(self, name: str) -> NoReturn:
        """Refuse: a description is a value."""
        raise AttributeError("MountSpec is immutable: make another one")

    def _parts(self) -> tuple[object, ...]:
        return self.type, self.source, self.target, self.options, self.attrs, self.idmap

    def __eq__(self, other: object) -> bool:
        """Compare all parts."""
        return isinstance(other, MountSpec) and self._parts() == other._parts()

    def __hash__(self) -> int:
        """Hash all parts."""
        return hash(self._parts())

    def __repr__(self) -> str:
        """Show it as it would be constructed."""
        words = [repr(self.type), repr(self.source)]
        words += [f"target={self.target!r}"] if self.target else []
        words += [f"options={[*self.options]!r}"] if self.options else []
        words += [f"attrs={int(self.attrs):#x}"] if self.attrs else []
        words += [f"idmap={self.idmap!r}"] if self.idmap is not None else []
        return f"MountSpec({', '.join(words)})"

    def __reduce__(self) -> tuple[Callable[..., MountSpec], tuple[object, ...]]:
        """Pickle by construction."""
        return _rebuild, self._parts()


def _rebuild(  # noqa: PLR0913, PLR0917 (a mount has these parts)
    kind: str, source: str, target: str, options: tuple[str, ...], attrs: int, idmap: IdMap | None
) -> MountSpec:
    return MountSpec(kind, source, target, options, attrs=attrs, idmap=idmap)


def _listed(kind: str, options: object) -> tuple[str, ...] | tuple[Param, ...]:
    if isinstance(options, str):
        return tuple(split(options, escapes=kind.rpartition("/")[2] == "overlay"))
    if isinstance(options, bytes | Param) or not hasattr(options, "__iter__"):
        raise InvalidSpec(f"options must be a list of words or of parameters, not {options!r}", part="options")
    listed = tuple(options)
    strings = [option for option in listed if isinstance(option, str)]
    params = [option for option in listed if isinstance(option, Param)]
    if len(strings) + len(params) != len(listed):
        odd = next(option for option in listed if not isinstance(option, str | Param))
        raise InvalidSpec(f"an option is text or a parameter, not {odd!r}", part="options")
    if strings and params:
        raise InvalidSpec(
            f"options are all text or all parameters: {strings[0]!r} is text, {params[0]!r} isn't", part="options"
        )
    return tuple(strings) if strings else tuple(params)


def _key(option: str | Param) -> str:
    return option.key if isinstance(option, Param) else option.partition("=")[0]


def _word(option: str | Param) -> str:
    return option if isinstance(option, str) else f"{option.key}={_value(option)}".removesuffix("=")


def _value(option: str | Param) -> str:
    value = option.partition("=")[2] if isinstance(option, str) else getattr(option, "value", "")
    return os.fsdecode(value)


def _view(options: list[str | Param]) -> list[str | Param]:
    upper = [_value(option) for option in options if _key(option) == "upperdir"]
    if not upper:
        return options
    top, topped = unescape(upper[-1]), False
    view: list[str | Param] = []
    for option in options:
        key, said = _key(option), _word(option)
        if key in ("upperdir", "workdir") or said in _VOLATILE or (isinstance(option, str) and key in _IDMAP):
            continue
        if key == "lowerdir":
            path = escape(top).replace(",", "\\,")
            view.append(_like(option, "lowerdir", f"{path}:{_value(option)}"))
            topped = True
            continue
        if key in ("lowerdir+", "datadir+") and not topped:
            view.append(_like(option, "lowerdir+", top))
            topped = True
        view.append(option)
    return view


def _like(option: str | Param, key: str, value: str) -> str | Param:
    """Say a key and its value as an option does: by a word or by a parameter."""
    if not isinstance(option, str):
        return String(key, value)
    if key == "lowerdir+" and "," in value:
        raise InvalidSpec(f"the upper layer {value!r} has a comma, which `lowerdir+` can't say", part="upperdir")
    return f"{key}={value}"
