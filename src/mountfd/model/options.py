"""Option words become typed wishes: here, and nowhere else, is text understood.

    words      ["ro", "nosuid", "size=10k", "rslave"] as containerd holds them, or "ro,nosuid,size=10k" as in fstab(5)
    Options    attributes, propagation, parameters of the filesystem, what to do, and with what help (loop, idmap ...)

Of contradicting words the last one wins. What no table knows is the filesystem's own parameter.
"""

from __future__ import annotations

import os

from mountfd.abi.flags import Attr
from mountfd.errors import InvalidSpec
from mountfd.model.idmap import IdMap
from mountfd.model.option_words import (
    ACTIONS,
    ATIME,
    ATTRIBUTES,
    IGNORED,
    IMPLIED,
    PROPAGATION,
    QUOTED,
    SUPERBLOCK,
)
from mountfd.model.param import Flag, String

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountfd.abi.flags import Propagation
    from mountfd.model.param import Param

__all__ = ["LoopWish", "Options", "check_text", "pieces", "split"]

_NEGATIVE = {"ro": "rw", "sync": "async", "lazytime": "nolazytime", "mand": "nomand"}
_MAPS = ("uidmap", "gidmap", "X-mount.idmap")
_MAP_WORDS = tuple(f"{name}=" for name in _MAPS)
_ENTRY_NUMBERS = 3
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_MODE_DIGITS = 4
_SIZE_DIGITS = 19
_SIZE_MAX = 2**63 - 1


class LoopWish:
    """That the source is an image to be put on a loop device, and how.

    Attributes: device, the one to use (None: a free one); offset and sizelimit in bytes; direct_io; partscan; asked,
    whether the word `loop` said so, rather than only words about it.
    """

    __slots__ = ("asked", "device", "direct_io", "offset", "partscan", "sizelimit")

    def __init__(self) -> None:
        """Wish for nothing yet."""
        self.asked = self.direct_io = self.partscan = False
        self.device: str | None = None
        self.offset = self.sizelimit = 0


class Options:
    """What a list of option words asks for.

    Attributes:
    attrs, clear          attributes of the mount to set and to clear, of Attr
    below, below_clear    the same for it and every mount below (`rro`, `rnosuid` ...)
    superblock            flags of the filesystem: name to whether it is wanted
    params                the filesystem's own parameters, in order
    action                "", bind, rbind, move, remount; bind_too, whether a remount is of the mount alone
    propagation           (Propagation, recursive) in order
    idmap                 an IdMap, or the path of a user namespace; idmap_below: True, False or None for what fits
    loop                  a LoopWish or None
    mkdir                 the mode of a target that is to be made, or None
    owner, group, mode    of the new mount's root; a name or number, or None
    subdir                the directory of the filesystem that is to be its root
    nofollow              of "source" and "target", which is not followed where it is a symlink
    comments              words for others, kept out of the kernel
    """

    __slots__ = (
        *("action", "attrs", "below", "below_clear", "bind_too", "clear", "comments", "group", "idmap"),
        *("idmap_below", "loop", "mkdir", "mode", "nofollow", "owner", "params", "propagation", "subdir"),
        *("superblock",),
    )

    def __init__(self) -> None:
        """Ask for nothing."""
        self.attrs = self.clear = self.below = self.below_clear = 0
        self.superblock: dict[str, bool] = {}
        self.params: list[Param] = []
        self.action, self.bind_too = "", False
        self.propagation: list[tuple[Propagation, bool]] = []
        self.idmap: IdMap | str | None = None
        self.idmap_below: bool | None = None
        self.loop: LoopWish | None = None
        self.mkdir: int | None = None
        self.owner: str | None = None
        self.group: str | None = None
        self.mode: int | None = None
        self.subdir: str | None = None
        self.nofollow: frozenset[str] = frozenset()
        self.comments: list[str] = []

    @classmethod
    def parse(cls, words: Iterable[str], *, joined: bool = False) -> Options:
        """Understand words.

        Arguments: words; joined, whether each may be several, as overlayfs's are: joined by commas that no backslash
        protects. Otherwise several in one word are parameters as they are.
        Raises: InvalidSpec that names the word at fault.
        """
        return _Reader(cls()).read(words, joined=joined)

    def sb_params(self, *, negative: bool) -> list[Param]:
        """Give the filesystem's flags as parameters, `ro` first; negative, also those that are taken back."""
        names = sorted(self.superblock, key=lambda name: name != "ro")
        words = [name if self.superblock[name] else _NEGATIVE.get(name, "") for name in names]
        return [Flag(word) for name, word in zip(names, words, strict=True) if word == name or (negative and word)]


class _Reader:
    """Reads words, one after the other, into Options."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.maps: dict[str, str] = {}
        self.loop = LoopWish()
        self.loop_words: list[Param] = []

    def read(self, words: Iterable[str], *, joined: bool) -> Options:
        for word in words:
            if not isinstance(word, str):
                raise InvalidSpec(f"options are all text or all parameters, not {word!r} among text", part="options")
            if "\0" in word:
                raise InvalidSpec(f"the option {word!r} has a NUL in it", part=word.partition("=")[0])
            check_text(word, "options")
            parts = pieces(word, escapes=joined)
            if len(parts) > 1 and not joined:  # what the kernel would be given as they are
                self.options.params += [_param(part) for part in parts]
            else:
                for part in parts:
                    self.one(part)
        self._finish()
        return self.options

    def one(self, word: str) -> None:
        key, equals, value = word.partition("=")
        if not equals or value in ("vfs", "fs", "recursive"):
            if self._plain(key, value):
                return
        elif key in _MAPS:
            others = (
                _MAPS[:2] if key == "X-mount.idmap" else _MAPS[2:]
            )  # both say the whole of it, so the last one does
            self.maps = {name: said for name, said in self.maps.items() if name not in others}
            self.maps[key] = value
            return
        if key in IGNORED or key in IMPLIED:
            for implied in IMPLIED.get(key, ()):
                self._plain(implied, "vfs")
        elif key.startswith(("x-", "X-")):
            self._extension(word, key, value)
        elif not self._loop(word, key, value):
            self.options.params.append(_param(word))

    def _plain(self, key: str, scope: str) -> bool:
        options = self.options
        if key in PROPAGATION and not scope:
            options.propagation.append(PROPAGATION[key])
        elif key in ACTIONS and not scope:
            self._act(key)
        elif key in ("idmap", "ridmap") and not scope:
            options.idmap_below = key == "ridmap"
        elif key in ATTRIBUTES or key in ATIME:
            if scope != "fs":
                self._attribute(key, below=scope == "recursive")
            if scope in ("", "fs"):
                self._flag(key)
        elif key in SUPERBLOCK and scope != "vfs":
            self._flag(key)
        elif key[:1] == "r" and (key[1:] in ATTRIBUTES or key[1:] in ATIME) and not scope:
            self._attribute(key[1:], below=True)
        else:
            return False
        return True

    def _flag(self, key: str) -> None:
        if key in SUPERBLOCK:
            name, wanted = SUPERBLOCK[key]
            self.options.superblock[name] = wanted

    def _act(self, word: str) -> None:
        options = self.options
        if "remount" in (word, options.action):
            options.bind_too = options.bind_too or word in ("bind", "rbind") or options.action in ("bind", "rbind")
            options.action = "remount"
        elif word == "move" or not options.action or (word == "rbind" and options.action == "bind"):
            options.action = word

    def _attribute(self, word: str, *, below: bool) -> None:
        options = self.options
        attrs, clear = (options.below, options.below_clear) if below else (options.attrs, options.clear)
        if word in ATTRIBUTES:
            bit, wanted = ATTRIBUTES[word]
            attrs, clear = (attrs | bit, clear & ~bit) if wanted else (attrs & ~bit, clear | bit)
        elif word in ATIME:
            value, wanted = ATIME[word]
            if wanted:
                attrs = attrs & ~Attr.ATIME_MASK | value
            elif attrs & Attr.ATIME_MASK == value:
                attrs &= ~Attr.ATIME_MASK
            if wanted or value:  # relatime is what stands where nothing else is set, so its negative clears nothing
                clear |= Attr.ATIME_MASK
        if below:
            options.below, options.below_clear = int(attrs), int(clear)
        else:
            options.attrs, options.clear = int(attrs), int(clear)

    def _loop(self, word: str, key: str, value: str) -> bool:
        """Take words about loop devices; what only means something beside `loop` is kept until that is known."""
        if key == "loop":
            self.loop.asked, self.loop.device = True, value or None
        elif key in ("offset", "sizelimit") and value:
            setattr(self.loop, key, _size(value, key))
        elif word == "direct-io":
            self.loop.direct_io = True
            self.loop_words.append(Flag(word))
        elif word == "partscan":
            self.loop.partscan = True
            self.loop_words.append(Flag(word))
        else:
            return False
        return True

    def _extension(self, word: str, key: str, value: str) -> None:
        options = self.options
        name = key[2:]
        if key.startswith("X-containerd."):
            hint = "containerd's own option, which its mount manager must have dealt with before"
            raise InvalidSpec(f"{key!r} is {hint}", part=key)
        if name == "mount.mkdir":
            options.mkdir = _mode(value, key) if value else 0o755
        elif key == "X-mount.owner" and value:
            options.owner = value
        elif key == "X-mount.group" and value:
            options.group = value
        elif key == "X-mount.mode" and value:
            options.mode = _mode(value, key)
        elif key == "X-mount.subdir" and value:
            options.subdir = value
        elif key == "X-mount.nocanonicalize":
            options.nofollow = frozenset({value} if value in ("source", "target") else {"source", "target"})
        elif key.startswith("X-mount.") and not value and name != "mount.noloop":
            raise InvalidSpec(f"{key!r} needs a value", part=key)
        else:
            options.comments.append(word)

    def _finish(self) -> None:
        options = self.options
        if self.loop.asked or self.loop.offset or self.loop.sizelimit:
            options.loop = self.loop
        else:
            options.params += self.loop_words
        options.idmap = _idmap(self.maps)
        if options.idmap is None and options.idmap_below is not None:
            raise InvalidSpec("`idmap` and `ridmap` need both uidmap= and gidmap=", part="idmap")


def check_text(text: str, part: str) -> None:
    """See that text can be told to the kernel: a surrogate that stands for no byte has no encoding."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise InvalidSpec(f"{part} {text!r} has a character that no file name can have", part=part) from None


def pieces(word: str, *, escapes: bool = False) -> list[str]:
    """Take one word apart at its commas, if it is several joined; id maps and quoted values have commas inside."""
    return [word] if word.partition("=")[0] in _MAPS and "=" in word else split(word, escapes=escapes)


def split(text: str, *, escapes: bool = False) -> list[str]:
    """Split a string of options as fstab(5) holds them.

    Arguments: text; escapes, whether a backslash protects a comma, as in overlayfs's options.
    A value that begins with a double quote goes on to the next one. After a word that is an idmap, three numbers with
    colons between are its next entry. Empty words are dropped.
    """
    words, begin, quoted, place = [], 0, False, 0
    while place < len(text):
        char = text[place]
        if char == "\\" and escapes:
            place += 1
        elif char == '"' and (quoted or text[place - 1 : place] == "="):
            quoted = not quoted
        elif char == "," and not quoted:
            words.append(text[begin:place])
            begin = place + 1
        place += 1
    if quoted:
        raise InvalidSpec(f"a double quote isn't closed in {text!r}", part="options")
    return _with_whole_maps([word for word in [*words, text[begin:]] if word])


def _with_whole_maps(words: list[str]) -> list[str]:
    """Give idmaps the entries back that stand behind a comma: no option is like them."""
    whole: list[str] = []
    for word in words:
        if whole and whole[-1].startswith(_MAP_WORDS) and _is_entry(word):
            whole[-1] += f",{word}"
        else:
            whole.append(word)
    return whole


def _is_entry(word: str) -> bool:
    numbers = word.removeprefix("u:").removeprefix("g:").removeprefix("b:").split(":")
    return len(numbers) == _ENTRY_NUMBERS and all(number.isascii() and number.isdigit() for number in numbers)


def _param(word: str) -> Param:
    key, _, value = word.partition("=")
    if not key:
        raise InvalidSpec(f"the option {word!r} has no name", part=word)
    if key in QUOTED and len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1]
    return String(key, value) if value else Flag(key)


def _idmap(maps: dict[str, str]) -> IdMap | str | None:
    uidmap, gidmap, both = (maps.get(name) for name in _MAPS)
    if both is not None:
        return both if both.startswith("/") else IdMap.parse(both)
    if (uidmap is None) != (gidmap is None):
        given, other = ("uidmap", "gidmap") if gidmap is None else ("gidmap", "uidmap")
        raise InvalidSpec(f"{given}= is given without {other}=: an idmap has both", part=other)
    return None if uidmap is None else IdMap.parse(uidmap, gidmap)


def _mode(text: str, key: str) -> int:
    # int() alone would also take 0o755, 7_5 and the digits of every script.
    digits = text.lstrip("0")
    if not text or set(digits) - set("01234567") or len(digits) > _MODE_DIGITS:
        raise InvalidSpec(f"{key}={text!r} is no mode: give octal digits up to 7777", part=key)
    return int(text, 8)


def _size(text: str, key: str) -> int:
    digits = text.upper().removesuffix("IB").rstrip("KMGT")
    unit = text.upper().removesuffix("IB")[len(digits) :]
    known = digits.isascii() and digits.isdigit() and unit in _UNITS and len(digits) <= _SIZE_DIGITS
    if not known or int(digits) * _UNITS[unit] > _SIZE_MAX:
        raise InvalidSpec(f"{key}={text!r} is no size: give bytes, or a number with K, M, G or T", part=key)
    return int(digits) * _UNITS[unit]
