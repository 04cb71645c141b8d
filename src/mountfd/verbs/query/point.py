"""Is this path a mount? One statx(2), which knows bind mounts and mounted files too."""

from __future__ import annotations

import os

from mountfd.abi import numbers as n
from mountfd.abi.paths import encode
from mountfd.errors import unsupported
from mountfd.verbs.query.place import FOLLOW, NOFOLLOW, is_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.abi.paths import StrPath

__all__ = ["is_mount"]


def is_mount(path: StrPath, *, follow: bool = True, bind: bool = True) -> bool:
    """Say whether a path is the root of a mount: a filesystem's, or a bind mount of a directory or file.

    Arguments: path; follow, whether a final symlink is followed; bind, whether mounts that show only a part of their
    filesystem count (a bind mount of a whole filesystem can't be told from a mount of it).
    Nothing is read from disk or network for it, and the cost doesn't depend on how many mounts there are.
    Raises: Missing, NotDirectory, Denied for a path that can't be resolved.
    Call: statx(2) with STATX_ATTR_MOUNT_ROOT, Linux 5.8; before that, and where a filter forbids it, the mount table.
    """
    raw = path.encode() if type(path) is str and path.isascii() else os.fsencode(path)
    if not raw or b"\0" in raw:
        encode(raw)  # says what is wrong with it
    root = is_root(n.AT_FDCWD, raw, FOLLOW if follow else NOFOLLOW)
    if root is None:
        from mountfd.verbs.query.oldway import is_mount_by_table  # noqa: PLC0415 (old kernels and filters only)

        root = is_mount_by_table(raw, follow=follow)
    return root and (bind or _is_whole(raw, follow=follow))


def _is_whole(raw: bytes, *, follow: bool) -> bool:
    from mountfd.verbs.query.lookup import lookup  # noqa: PLC0415 (only for bind=False)

    info = lookup(raw, fields=("root",), follow=follow)
    if info.root is None:
        raise unsupported("is_mount(bind=False)", "the mount is in no table of this namespace: only its own can tell")
    return info.root == "/"
