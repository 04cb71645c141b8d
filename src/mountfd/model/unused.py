"""Words that a kind of mount has no use for: each is refused by name, since none may be dropped without a word."""

from __future__ import annotations

import os

from mountfd.errors import InvalidSpec
from mountfd.model.option_words import ATIME, ATTRIBUTES, SUPERBLOCK
from mountfd.model.param import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.model.options import Options
    from mountfd.model.param import Param

__all__ = ["refuse_unused"]

_RDONLY, _ATIME_MASK = 1, 0x70
_OF_ROOT = ("owner", "group", "mode")
_CHANGE = "a change of a mount that stands"


def refuse_unused(options: Options, *, is_change: bool, is_typed: bool) -> None:
    """Refuse what a bind, a move, a remount or a change would drop.

    Arguments: options; is_change, whether they have neither action nor filesystem nor source; is_typed, whether their
    parameters were given as such. A typed `ro` of a bind or a change is the mount's attribute.
    Raises: InvalidSpec that names the word.
    """
    if is_typed and (is_change or options.action in ("bind", "rbind")):
        _take_read_only(options)
    if is_change:
        _refuse(_CHANGE, [*_flags(options), *_params(options), *_of_new(options)])
    elif options.action == "move":
        words = [*_attributes(options), *_flags(options), *_params(options), *_of_new(options)]
        _refuse("a move, which changes no more than the place,", words)
    elif options.action == "remount":
        of_filesystem = [*_flags(options), *_params(options)] if options.bind_too else []
        _refuse(
            "a remount of the mount alone" if options.bind_too else "a remount", [*of_filesystem, *_of_new(options)]
        )
    elif options.action in ("bind", "rbind"):
        # Flags of the filesystem pass: lists of words have them by habit, and mount(8) takes them.
        words = [*_params(options), *_loop(options)]
        if words:
            why = "a bind has no filesystem of its own that could take"
            raise InvalidSpec(f"{why} {words[0]!r}", part=words[0].partition("=")[0])


def _refuse(what: str, words: list[str]) -> None:
    if words:
        raise InvalidSpec(f"{what} has no use for {words[0]!r}", part=words[0].partition("=")[0])


def _take_read_only(options: Options) -> None:
    if Flag("ro") in options.params:
        options.params = [param for param in options.params if param != Flag("ro")]
        options.attrs |= _RDONLY
        options.clear &= ~_RDONLY


def _flags(options: Options) -> list[str]:
    """Name the flags of the filesystem; `ro` and `rw` without a scope are attributes too, and don't count."""
    words = []
    for name, wanted in options.superblock.items():
        said = next(word for word, meant in SUPERBLOCK.items() if meant == (name, wanted))
        if name != "ro":
            words.append(said)
        elif not (options.attrs if wanted else options.clear) & _RDONLY:
            words.append(f"{said}=fs")
    return words


def _params(options: Options) -> list[str]:
    return [_word(param) for param in options.params]


def _word(param: Param) -> str:
    value = getattr(param, "value", None)
    return f"{param.key}={os.fsdecode(value)}" if isinstance(value, str | bytes) else param.key


def _of_new(options: Options) -> list[str]:
    """Name what only a new mount can be given."""
    words = [f"X-mount.{name}" for name in (*_OF_ROOT, "subdir") if getattr(options, name) is not None]
    if options.idmap is not None:
        words.append(f"X-mount.idmap={options.idmap}" if isinstance(options.idmap, str) else "idmap")
    return [*words, *_loop(options)]


def _loop(options: Options) -> list[str]:
    if options.loop is None:
        return []
    return ["loop" if options.loop.asked else "offset" if options.loop.offset else "sizelimit"]


def _attributes(options: Options) -> list[str]:
    found = []
    for prefix, attrs, clear in (("", options.attrs, options.clear), ("r", options.below, options.below_clear)):
        for word, (bit, wanted) in ATTRIBUTES.items():
            found += [prefix + word] if (attrs if wanted else clear) & bit else []
        for word, (value, wanted) in ATIME.items():
            if wanted and clear & _ATIME_MASK and attrs & _ATIME_MASK == value:
                found.append(prefix + word)
    return found
