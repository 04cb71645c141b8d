"""Options of overlayfs: what each may be, and which contradict each other.

The kernel answers a contradiction with a bare EINVAL and a line in its log that users of containers never see.
A key that isn't known here passes: a newer kernel may know it.
"""

from __future__ import annotations

from mountfd.errors import InvalidSpec
from mountfd.model.param import Flag, Param, String

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["check_options"]

_LAYER_KEYS = {
    "lowerdir": "lower=",
    "lowerdir+": "lower=",
    "datadir+": "Layer(..., data_only=True)",
    "upperdir": "upper=",
    "workdir": "work=",
    "source": "source=",
}
_VALUES = {
    "redirect_dir": ("on", "off", "follow", "nofollow"),
    "index": ("on", "off"),
    "xino": ("on", "off", "auto"),
    "metacopy": ("on", "off"),
    "nfs_export": ("on", "off"),
    "uuid": ("on", "off", "null", "auto"),
    "verity": ("on", "off", "require"),
    "fsync": ("auto", "strict", "volatile"),
}
_FLAGS = ("userxattr", "volatile", "default_permissions", "override_creds", "nooverride_creds", "ro", "rw")

# Pairs that every kernel refuses, in silence drops one of, or that mean opposite things; a flag's value is written "".
# Not here: verity= with userxattr or metacopy=off, which Linux 6.16 allows, and userxattr with redirect_dir=off, which
# depends on the kernel's configuration.
_CONTRADICTIONS = (
    (("userxattr", ""), ("redirect_dir", "on")),
    (("userxattr", ""), ("redirect_dir", "follow")),
    (("userxattr", ""), ("metacopy", "on")),
    (("metacopy", "on"), ("redirect_dir", "nofollow")),
    (("metacopy", "on"), ("nfs_export", "on")),
    (("nfs_export", "on"), ("index", "off")),
    (("ro", ""), ("rw", "")),
    (("override_creds", ""), ("nooverride_creds", "")),
    (("volatile", ""), ("fsync", "strict")),
    (("volatile", ""), ("fsync", "auto")),
)
# Without an upper layer there is nothing to redirect, and both of these mean the same as `on`.
_CONTRADICTIONS_WITH_UPPER = (
    (("metacopy", "on"), ("redirect_dir", "off")),
    (("metacopy", "on"), ("redirect_dir", "follow")),
)
_NEEDS_UPPER = (("rw", ""), ("volatile", ""), ("fsync", "volatile"), ("index", "on"))


def check_options(options: Iterable[Param], *, read_only: bool) -> None:
    """Check each option and all of them together; read_only says that there is no upper layer. Raises InvalidSpec."""
    given: dict[str, str] = {}
    for option in options:
        key = _check_one(option)
        if key in given:
            raise InvalidSpec(f"the option {key!r} is given twice", part=key)
        given[key] = _value(option)
    pairs = set(given.items())
    for one, other in _CONTRADICTIONS if read_only else _CONTRADICTIONS + _CONTRADICTIONS_WITH_UPPER:
        if one in pairs and other in pairs:
            raise InvalidSpec(f"the options {_words(one)!r} and {_words(other)!r} contradict each other", part=one[0])
    if read_only:
        for need in _NEEDS_UPPER:
            if need in pairs:
                raise InvalidSpec(f"the option {_words(need)!r} needs an upper layer", part=need[0])


def _check_one(option: Param) -> str:
    if isinstance(option, str):
        raise InvalidSpec(f"the option {option!r} is a str: write {_suggestion(option)}", part=option)
    if not isinstance(option, Flag | String):
        raise InvalidSpec(f"options are param.Flag or param.String, not {option!r}", part="options")
    key = option.key
    if key in _LAYER_KEYS:
        raise InvalidSpec(f"{key!r} is not an option here: use {_LAYER_KEYS[key]}", part=key)
    if "=" in key or "," in key:
        # The route by mount(2) would read these as options of their own.
        raise InvalidSpec(f"the key {key!r} holds more than a key: write {_suggestion(key)}", part=key)
    if isinstance(option, Flag) and key in _VALUES:
        raise InvalidSpec(f"the option {key!r} needs a value: {', '.join(_VALUES[key])}", part=key)
    if isinstance(option, String) and key in _FLAGS:
        raise InvalidSpec(f"the option {key!r} takes no value: use param.Flag({key!r})", part=key)
    if isinstance(option, String) and key in _VALUES and _value(option) not in _VALUES[key]:
        raise InvalidSpec(f"{key} is one of {', '.join(_VALUES[key])}, not {_value(option)!r}", part=key)
    return key


def _value(option: Param) -> str:
    if not isinstance(option, String):
        return ""
    return option.value if isinstance(option.value, str) else option.value.decode(errors="surrogateescape")


def _suggestion(text: str) -> str:
    if "," in text:
        return "one parameter for each option"
    key, equals, value = text.partition("=")
    return f"param.String({key!r}, {value!r})" if equals else f"param.Flag({text!r})"


def _words(pair: tuple[str, str]) -> str:
    return f"{pair[0]}={pair[1]}" if pair[1] else pair[0]
