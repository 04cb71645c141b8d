"""One mount, as the kernel describes it.

A record is made from a line of mountinfo or from statmount(2)'s answer, and decoded only when a field is looked at:
a table of 50,000 mounts is mostly looked through for two of them.
"""

from __future__ import annotations

from mountfd.errors import InvalidSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from mountfd.abi.flags import Attr, MountFlag, Propagation
    from mountfd.model.idmap import Extent

__all__ = ["FIELDS", "MountInfo", "check_fields"]

FIELDS = (
    "id",
    "parent_id",
    "id_old",
    "parent_id_old",
    "ns_id",
    "dev",
    "fstype",
    "subtype",
    "source",
    "root",
    "point",
    "attrs",
    "sb_flags",
    "propagation",
    "peer_group",
    "master",
    "propagate_from",
    "options",
    "uid_map",
    "gid_map",
)


class MountInfo:
    """What is known of one mount; a field that wasn't asked for or that this kernel can't tell is None.

    Attributes:
    id, parent_id       unique ids, never reused (Linux 6.8)
    id_old, parent_id_old   the ids of /proc/PID/mountinfo, reused at once
    ns_id               the mount namespace's unique id
    dev                 (major, minor) of the filesystem
    fstype, subtype     `ext4`; `fuse` and `sshfs`
    source              the device or label, or None
    root                the path within the filesystem that is this mount's root
    point               where it stands, as seen from the caller's root; None when it can't be reached from there
    attrs               of this mount, Attr
    sb_flags            of the filesystem, MountFlag
    propagation         Propagation.SHARED, SLAVE, both, UNBINDABLE or PRIVATE
    peer_group, master  numbers of peer groups, 0 for none; propagate_from, the nearest group that can be seen
    options             the filesystem's own, as text
    uid_map, gid_map    of an idmapped mount, tuples of Extent
    Two records are equal when all fields are.
    """

    __slots__ = (*FIELDS, "_decode", "_raw")

    id: int | None
    parent_id: int | None
    id_old: int | None
    parent_id_old: int | None
    ns_id: int | None
    dev: tuple[int, int] | None
    fstype: str | None
    subtype: str | None
    source: str | None
    root: str | None
    point: str | None
    attrs: Attr | None
    sb_flags: MountFlag | None
    propagation: Propagation | None
    peer_group: int | None
    master: int | None
    propagate_from: int | None
    options: str | None
    uid_map: tuple[Extent, ...] | None
    gid_map: tuple[Extent, ...] | None

    def __init__(self, raw: Any, decode: Callable[[MountInfo, Any, str], None]) -> None:  # noqa: ANN401 (only decode looks)
        """Keep what the kernel said, and who can read it: decode fills at least the field that it is asked for."""
        self._raw = raw
        self._decode = decode

    def __getattr__(self, name: str) -> object:
        """Decode what hasn't been looked at yet: only an empty slot comes here."""
        if name not in _NAMES:
            raise AttributeError(f"MountInfo has no field {name!r}")
        self._decode(self, self._raw, name)
        return object.__getattribute__(self, name)

    @property
    def is_reachable(self) -> bool:
        """Whether a path leads to it from the caller's root."""
        return self.point is not None

    def as_dict(self, fields: Iterable[str] = FIELDS) -> dict[str, object]:
        """Give fields by name."""
        return {name: getattr(self, name) for name in fields}

    def __eq__(self, other: object) -> bool:
        """Compare all fields."""
        return isinstance(other, MountInfo) and self.as_dict() == other.as_dict()

    def __hash__(self) -> int:
        """Hash by the ids."""
        return hash((self.id, self.id_old))

    def __repr__(self) -> str:
        """Show what identifies it for a person."""
        number = self.id if self.id is not None else self.id_old
        return f"<MountInfo {number} {self.fstype} {self.source!r} on {self.point!r}>"

    def __reduce__(self) -> tuple[Callable[..., MountInfo], tuple[dict[str, object]]]:
        """Pickle the decoded fields."""
        return from_fields, (self.as_dict(),)


_NAMES = frozenset(FIELDS)


def from_fields(fields: dict[str, object]) -> MountInfo:
    """Make a record of known fields; the others are None."""
    info = MountInfo(b"", _nothing_more)
    for name in FIELDS:
        setattr(info, name, fields.get(name))
    return info


def _nothing_more(_info: MountInfo, _raw: bytes, name: str) -> None:
    raise AttributeError(f"the field {name!r} was taken away")


def check_fields(fields: Iterable[str] | None) -> tuple[str, ...]:
    """Give the fields that are wanted, all for None. Raises InvalidSpec that names an unknown one."""
    if fields is None:
        return FIELDS
    if isinstance(fields, str):
        raise InvalidSpec(f"fields must be a list of names, not {fields!r}", part="fields")
    wanted = tuple(fields)
    for name in wanted:
        if name not in _NAMES:
            raise InvalidSpec(f"a mount has no field {name!r}: it has {', '.join(FIELDS)}", part=str(name))
    return wanted
