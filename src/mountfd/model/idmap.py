"""Idmaps: which id a file is seen to have for the one that stands on disk.

    inside:outside:count     containerd's c:h:n, mount(8)'s mount:host:range, one line of /proc/PID/uid_map

`inside` is the id on disk, or in the container; `outside` the one seen through the idmapped mount, or on the host.
"""

from __future__ import annotations

from itertools import pairwise

from mountfd.errors import InvalidSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Literal, NoReturn

__all__ = ["Extent", "IdMap"]

_INVALID_ID = 0xFFFFFFFF  # (uid_t) -1: what calls take for "no id"
_EXTENTS_MAX = 340  # kernel/user_namespace.c, UID_GID_MAP_MAX_EXTENTS
_TEXT_MAX = 4095  # one write to uid_map, shorter than a page
_PARTS = 3
_DIGITS = 10  # of the largest id; int() of endless digits is an error of its own kind


class Extent:
    """A run of ids: `count` ids from `inside` on are seen as as many from `outside` on."""

    __slots__ = ("count", "inside", "outside")
    inside: int
    outside: int
    count: int

    def __init__(self, inside: int, outside: int, count: int) -> None:
        """Check that every id is one: 0 to 4294967294."""
        text = f"{inside}:{outside}:{count}"
        if not all(type(number) is int and number >= 0 for number in (inside, outside, count)):
            raise InvalidSpec(f"idmap extent {text}: all three must be whole numbers from 0 on", part=text)
        if count == 0:
            raise InvalidSpec(f"idmap extent {text}: the count must be at least 1", part=text)
        for name, first in (("inside", inside), ("outside", outside)):
            if first + count > _INVALID_ID:
                last = first + count - 1
                raise InvalidSpec(f"idmap extent {text}: the last {name} id {last} is above 4294967294", part=text)
        object.__setattr__(self, "inside", inside)
        object.__setattr__(self, "outside", outside)
        object.__setattr__(self, "count", count)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        """Refuse: an extent is a value."""
        raise AttributeError("Extent is immutable")

    def __delattr__(self, name: str) -> NoReturn:
        """Refuse: an extent is a value."""
        raise AttributeError("Extent is immutable")

    def __eq__(self, other: object) -> bool:
        """Compare the three numbers."""
        return isinstance(other, Extent) and self.numbers() == other.numbers()

    def __hash__(self) -> int:
        """Hash the three numbers."""
        return hash(self.numbers())

    def __str__(self) -> str:
        """Write it as inside:outside:count."""
        return f"{self.inside}:{self.outside}:{self.count}"

    def __repr__(self) -> str:
        """Show it as it would be constructed."""
        return f"Extent({self.inside}, {self.outside}, {self.count})"

    def __reduce__(self) -> tuple[type[Extent], tuple[int, int, int]]:
        """Pickle by construction."""
        return Extent, self.numbers()

    def numbers(self) -> tuple[int, int, int]:
        """Give inside, outside and count."""
        return self.inside, self.outside, self.count


class IdMap:
    """Extents for user ids and for group ids. Immutable, hashable.

    Arguments: uid, extents; gid, extents, or None for the same.
    Raises: InvalidSpec for no extent, overlaps in either column, more than 340 extents or more than 4,095 bytes of
    text, which is what the kernel takes. user_namespaces(7).
    """

    __slots__ = ("_hash", "gid", "uid")
    uid: tuple[Extent, ...]
    gid: tuple[Extent, ...]
    _hash: int

    def __init__(self, uid: Iterable[Extent], gid: Iterable[Extent] | None = None) -> None:
        """Check both families."""
        uids = _family(uid, "uid")
        gids = uids if gid is None else _family(gid, "gid")
        object.__setattr__(self, "uid", uids)
        object.__setattr__(self, "gid", gids)
        object.__setattr__(self, "_hash", hash((uids, gids)))

    @classmethod
    def parse(cls, uidmap: str, gidmap: str | None = None) -> IdMap:
        """Read an idmap from text.

        Arguments: uidmap, `inside:outside:count` entries separated by commas or spaces; gidmap, the same for groups
        (None: as for users). Without gidmap an entry may begin with `u:`, `g:` or `b:` (both), as in mount(8).
        Raises: InvalidSpec naming the entry; also where only one of the two families is given.
        """
        for part, text in (("uidmap", uidmap), ("gidmap", "" if gidmap is None else gidmap)):
            if not isinstance(text, str):
                raise InvalidSpec(f"{part} must be text, not {text!r}", part=part)
        if gidmap is not None:
            return cls(_plain(uidmap, "uidmap"), _plain(gidmap, "gidmap"))
        uids: list[Extent] = []
        gids: list[Extent] = []
        for entry in _entries(uidmap, "idmap"):
            letter, colon, rest = entry.partition(":")
            if colon and letter in ("u", "g", "b"):
                extent = _extent(rest, entry)
            else:
                letter, extent = "b", _extent(entry, entry)
            uids += [extent] * (letter in "ub")
            gids += [extent] * (letter in "gb")
        for name, other, extents in (("uid", "gid", uids), ("gid", "uid", gids)):
            if not extents:
                raise InvalidSpec(f"idmap {uidmap!r} maps {other}s but no {name}s: give both", part=name)
        return cls(uids, gids if gids != uids else None)

    def to_host(self, number: int, kind: Literal["uid", "gid"] = "uid") -> int | None:
        """Give the id seen outside for one inside, or None where it isn't mapped."""
        for inside, outside, count in (extent.numbers() for extent in self._extents(kind)):
            if inside <= number < inside + count:
                return outside + number - inside
        return None

    def from_host(self, number: int, kind: Literal["uid", "gid"] = "uid") -> int | None:
        """Give the id inside for one seen outside, or None where it isn't mapped."""
        for inside, outside, count in (extent.numbers() for extent in self._extents(kind)):
            if outside <= number < outside + count:
                return inside + number - outside
        return None

    def inverse(self) -> IdMap:
        """Give the map that undoes this one."""
        uid, gid = (tuple(Extent(e.outside, e.inside, e.count) for e in family) for family in (self.uid, self.gid))
        return IdMap(uid, None if self.gid is self.uid else gid)

    @property
    def root(self) -> tuple[int, int]:
        """The ids outside of the container's root; where id 0 isn't mapped, those of the first id that is."""
        uid, gid = self.to_host(0, "uid"), self.to_host(0, "gid")
        return self.uid[0].outside if uid is None else uid, self.gid[0].outside if gid is None else gid

    def _extents(self, kind: str) -> tuple[Extent, ...]:
        if kind not in ("uid", "gid"):
            raise InvalidSpec(f"an id is a uid or a gid, not {kind!r}", part="kind")
        return self.uid if kind == "uid" else self.gid

    @property
    def is_identity(self) -> bool:
        """Whether every id is seen as itself: then there is nothing to map on a mount."""
        return all(extent.inside == extent.outside for extent in (*self.uid, *self.gid))

    def uid_map_text(self) -> bytes:
        """Give the text for /proc/PID/uid_map."""
        return _text(self.uid)

    def gid_map_text(self) -> bytes:
        """Give the text for /proc/PID/gid_map."""
        return _text(self.gid)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        """Refuse: an idmap is a value."""
        raise AttributeError("IdMap is immutable")

    def __delattr__(self, name: str) -> NoReturn:
        """Refuse: an idmap is a value."""
        raise AttributeError("IdMap is immutable")

    def __eq__(self, other: object) -> bool:
        """Compare both families."""
        return self is other or (isinstance(other, IdMap) and self.uid == other.uid and self.gid == other.gid)

    def __hash__(self) -> int:
        """Give the hash made at construction: maps are keys of caches."""
        return self._hash

    def __str__(self) -> str:
        """Write it so that parse reads the same: plain where users and groups agree, else with letters."""
        if self.uid == self.gid:
            return ",".join(map(str, self.uid))
        return ",".join([*(f"u:{extent}" for extent in self.uid), *(f"g:{extent}" for extent in self.gid)])

    def __repr__(self) -> str:
        """Show it as it would be parsed."""
        return f"IdMap.parse({str(self)!r})"

    def __reduce__(self) -> tuple[Callable[..., IdMap], tuple[object, ...]]:
        """Pickle by construction."""
        return IdMap, (self.uid, None if self.gid is self.uid else self.gid)


def _entries(text: str, part: str) -> list[str]:
    if not text.strip(" "):
        raise InvalidSpec(f"{part} is empty: an idmap needs at least one entry for users and one for groups", part=part)
    # A comma promises an entry on either side; spaces only keep entries apart, as many as there are.
    lists = [list(filter(None, words.split(" "))) for words in text.split(",")]
    if [] in lists:
        raise InvalidSpec(f"{part} {text!r} has an empty entry", part=part)
    return [entry for entries in lists for entry in entries]


def _plain(text: str, part: str) -> list[Extent]:
    return [_extent(entry, entry) for entry in _entries(text, part)]


def _extent(numbers: str, entry: str) -> Extent:
    parts = numbers.split(":")
    if len(parts) != _PARTS or not all(part.isascii() and part.isdigit() and len(part) <= _DIGITS for part in parts):
        raise InvalidSpec(f"idmap entry {entry!r} must be inside:outside:count, three whole numbers", part=entry)
    return Extent(*map(int, parts))


def _family(given: Iterable[Extent], family: str) -> tuple[Extent, ...]:
    if isinstance(given, str | bytes | Extent) or not hasattr(given, "__iter__"):
        raise InvalidSpec(f"the {family} map must be a list of Extents, not {given!r}; parse reads text", part=family)
    extents = tuple(given)
    _check(extents, family)
    return extents


def _check(extents: tuple[Extent, ...], family: str) -> None:
    if not extents:
        raise InvalidSpec(f"the {family} map has no extent", part=family)
    for extent in extents:
        if not isinstance(extent, Extent):
            raise InvalidSpec(f"the {family} map has {extent!r} in it, which is not an Extent", part=family)
    if len(extents) > _EXTENTS_MAX:
        raise InvalidSpec(f"the {family} map has {len(extents)} extents; the kernel takes {_EXTENTS_MAX}", part=family)
    for name in ("inside", "outside"):
        ordered = sorted(extents, key=lambda extent: getattr(extent, name))
        for one, other in pairwise(ordered):
            if getattr(one, name) + one.count > getattr(other, name):
                raise InvalidSpec(
                    f"the {family} extents {one} and {other} overlap in their {name} ids", part=str(other)
                )
    if len(_text(extents)) > _TEXT_MAX:
        raise InvalidSpec(
            f"the {family} map takes {len(_text(extents))} bytes as text; the kernel takes {_TEXT_MAX}", part=family
        )


def _text(extents: tuple[Extent, ...]) -> bytes:
    # No newline at the end: a map may have 4095 bytes in all, and that would be one more.
    return b"\n".join([b"%d %d %d" % extent.numbers() for extent in extents])
