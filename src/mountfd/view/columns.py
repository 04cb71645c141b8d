"""The columns of `list` and `lookup`: findmnt(8)'s names and meanings, and some of our own."""

from __future__ import annotations

import os
import sys

from mountfd.errors import InvalidSpec
from mountfd.model import wording
from mountfd.model.idmap import IdMap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from mountfd.model.info import MountInfo
    from mountfd.view.tree import Node

    Value: TypeAlias = "str | int | None"

__all__ = ["COLUMNS", "DEFAULT", "DEFAULT_JSON", "EVERY", "Column", "by_name", "choose", "fields_of"]


class Column:
    """One column.

    Attributes: name, as findmnt writes it; key, its name in JSON; help; fields, of MountInfo, that it is made of;
    value, a function from a node of the tree; is_number.
    """

    __slots__ = ("fields", "help", "is_number", "key", "name", "value")

    def __init__(  # noqa: PLR0913, PLR0917 (a row of the table below)
        self,
        name: str,
        help: str,  # noqa: A002 (what it is)
        fields: Sequence[str],
        value: Callable[[Node], Value],
        key: str = "",
        is_number: bool = False,  # noqa: FBT001, FBT002 (a row of the table below)
    ) -> None:
        """Keep them."""
        self.name, self.help, self.fields, self.value = name, help, tuple(fields), value
        self.key, self.is_number = key or name.lower(), is_number


def choose(text: str | None, default: Sequence[Column]) -> list[Column]:
    """Read -o's list, in any case; `+` in front adds to the default. Raises InvalidSpec naming what isn't a column."""
    if text is None:
        return list(default)
    chosen = list(default) if text.startswith("+") else []
    for word in text.removeprefix("+").split(","):
        column = _BY_NAME.get(word.strip().upper())
        if column is None:
            raise InvalidSpec(f"there is no column {word!r}: there are {', '.join(_BY_NAME)}", part="-o")
        chosen.append(column)
    return chosen


def by_name(name: str) -> Column:
    """Give a column by findmnt's name for it."""
    return _BY_NAME[name]


def fields_of(columns: Sequence[Column]) -> tuple[str, ...]:
    """Name the fields of MountInfo that these columns are made of."""
    return tuple(dict.fromkeys(field for column in columns for field in column.fields))


# --- words ---------------------------------------------------------------------------------------------------------
_IS_UTF8 = sys.getfilesystemencoding() == "utf-8"


def _path(text: str | None) -> str | None:
    # A path was decoded for this process's locale; here everything is UTF-8, and what isn't stays marked as such.
    return text if _IS_UTF8 or text is None else os.fsencode(text).decode(errors="surrogateescape")


def _source(mount: MountInfo) -> str | None:
    part = "" if mount.root in ("/", None) else f"[{mount.root}]"
    return _path((mount.source or "") + part) or None


def _idmap(mount: MountInfo) -> str | None:
    return str(IdMap(mount.uid_map, mount.gid_map)) if mount.uid_map and mount.gid_map else None


def _major_minor(mount: MountInfo) -> str | None:
    return None if mount.dev is None else "{}:{}".format(*mount.dev)


def _of(function: Callable[[MountInfo], Value]) -> Callable[[Node], Value]:
    return lambda node: function(node.mount)


_OPTIONS = ("attrs", "sb_flags", "options")
_GROUPS = ("propagation", "peer_group", "master", "propagate_from")
COLUMNS = (
    Column("TARGET", "where it stands", ["point"], _of(lambda mount: _path(mount.point))),
    Column("SOURCE", "device or label; [part] of it", ["source", "root"], _of(_source)),
    Column("FSTYPE", "filesystem type", ["fstype", "subtype"], _of(wording.whole_type)),
    Column("OPTIONS", "all options", _OPTIONS, _of(wording.options)),
    Column("VFS-OPTIONS", "the mount's own options", ["attrs"], _of(wording.mount_options)),
    Column("FS-OPTIONS", "the filesystem's options", ["sb_flags", "options"], _of(wording.filesystem_options)),
    Column("FSROOT", "what part of the filesystem is shown", ["root"], _of(lambda mount: _path(mount.root))),
    Column("MAJ:MIN", "device number", ["dev"], _of(_major_minor)),
    Column("ID", "mount id, reused", ["id_old"], _of(lambda mount: mount.id_old), "", True),
    Column("PARENT", "id of what it stands on", ["parent_id_old"], _of(lambda mount: mount.parent_id_old), "", True),
    Column("UNIQ-ID", "mount id, never reused", ["id"], _of(lambda mount: mount.id), "", True),
    Column(
        "UNIQ-PARENT", "unique id of what it stands on", ["parent_id"], _of(lambda mount: mount.parent_id), "", True
    ),
    Column("PROPAGATION", "private or shared, slave, unbindable", _GROUPS, _of(wording.propagation)),
    Column("OPT-FIELDS", "mountinfo's optional fields", _GROUPS, _of(wording.optional_fields)),
    Column("PEER-GROUP", "its peer group", ["peer_group"], _of(lambda m: m.peer_group or None), "peer_group", True),
    Column("MASTER", "the peer group it receives from", ["master"], _of(lambda m: m.master or None), "", True),
    Column("STATE", "visible, covered or hidden", [], lambda node: node.state),
    Column("SUBTYPE", "filesystem subtype", ["subtype"], _of(lambda mount: mount.subtype)),
    Column("IDMAP", "its idmap", ["uid_map", "gid_map"], _of(_idmap)),
    Column("NS", "unique id of its mount namespace", ["ns_id"], _of(lambda mount: mount.ns_id), "", True),
)
_BY_NAME = {column.name: column for column in COLUMNS}
DEFAULT = [_BY_NAME[name] for name in ("TARGET", "SOURCE", "FSTYPE", "OPTIONS")]
DEFAULT_JSON = [
    *DEFAULT,
    *(_BY_NAME[name] for name in ("ID", "PARENT", "PROPAGATION", "PEER-GROUP", "MASTER", "STATE")),
]
EVERY = [column for column in COLUMNS if column.name != "STATE"]
