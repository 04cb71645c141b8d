"""Upper and work layers: from one clone, under a lock, by a thread whose ids the idmap knows.

one mount     overlayfs wants both on the same mount, so both come from one clone of their common parent
a lock        an upper layer that a live overlay uses is accepted in silence: flock(2) on both refuses it, and
              where the handle that holds the locks is closed, the kernel's log tells (in_use.py)
the ids       an idmapped upper layer whose map lacks the mounter's ids gives a read-only overlay in silence
"""

from __future__ import annotations

import fcntl
import os
from errno import EBUSY, ENOENT, EROFS, EWOULDBLOCK, EXDEV

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.errors import InvalidSpec, KernelError, from_errno
from mountfd.handles.fd import OwnedFd
from mountfd.handles.mount import Mount
from mountfd.model.grouping import common_parent
from mountfd.model.idmap import IdMap
from mountfd.verbs.assemble.finding import (
    IN_BASE,
    PATH_DIR,
    Found,
    Place,
    blame,
    mount_of,
    open_directory,
    open_to_read,
)
from mountfd.verbs.assemble.layers import clone_for
from mountfd.verbs.enter import on_thread, take_ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mountfd.model.overlay import Layer, Overlay

__all__ = ["Pair", "check_writable"]


class Pair:
    """The upper and work layers of one overlay, held open below one clone until the overlay is created."""

    __slots__ = ("_idmap", "clone", "locks", "upper", "work")

    def __init__(self, overlay: Overlay) -> None:
        """Open both, in that order: clone, upper, work, locks. Whatever fails closes what was opened."""
        assert overlay.upper is not None  # noqa: S101 (the caller looked)
        assert overlay.work is not None  # noqa: S101 (the model's rule)
        self._idmap = overlay.upper.idmap or getattr(overlay.upper.base, "idmapped", None)
        self.clone: Mount | None = None
        self.locks: list[OwnedFd] = []
        self.upper = self.work = Place(overlay.upper, -1, b"", IN_BASE)
        try:
            self._open(overlay.upper, overlay.work)
            for place in (self.upper, self.work):
                self.locks.append(_lock(place))
        except BaseException:
            self.close()
            raise

    def create(self, create: Callable[[], object]) -> None:
        """Run the step that makes the overlay, with ids that an idmapped upper layer knows."""
        idmap = self._idmap
        if not isinstance(idmap, IdMap) or None not in (
            idmap.from_host(os.geteuid(), "uid"),
            idmap.from_host(os.getegid(), "gid"),
        ):
            create()
        else:
            _as_ids(idmap, create)

    def close(self) -> None:
        """Close the clone and, unless a mount took them over, the locks."""
        if self.clone is not None:
            self.clone.close()
        while self.locks:
            self.locks.pop().close()

    def hand_over(self, mount: Mount) -> None:
        """Let the locks live as long as a mount's handle."""
        mount.keep(*self.locks)
        self.locks.clear()

    def _open(self, upper: Layer, work: Layer) -> None:
        if upper.base is not None:
            holder, names = self._base(upper, upper.base), [upper.raw, work.raw]
        else:
            holder, names = self._clone_parent(upper, work)
        self.upper = Place(upper, holder, names[0], IN_BASE)
        self.work = Place(work, holder, names[1], IN_BASE)

    def _base(self, upper: Layer, base: object) -> int:
        if not isinstance(base, Mount):
            raise InvalidSpec(f"the base of the upper layer is {base!r}, not a Mount", part="upper")
        if upper.idmap is None or base.idmapped == upper.idmap:
            return base.fileno()
        if base.idmapped is not None:
            raise InvalidSpec(
                f"upper {upper.path!r} wants the idmap {upper.idmap}, but its base is idmapped by {base.idmapped}",
                part="idmap",
            )
        return self._clone(base.fileno(), upper)

    def _clone_parent(self, upper: Layer, work: Layer) -> tuple[int, list[bytes]]:
        """Clone the directory above both, by the paths that the kernel names: symlinks and `..` are resolved."""
        ids, found = [], []
        for layer in (upper, work):
            fd = open_directory(layer)
            try:
                ids.append(mount_of(fd, b""))
                found.append(Found(layer, fd))
            finally:
                os.close(fd)
        if ids[0] != ids[1]:
            hint = f"upper {upper.path!r} and work {work.path!r} lie on different mounts; overlayfs wants them on one"
            raise from_errno(EXDEV, "overlay", (upper.path, work.path), filename=work.path, hint=hint)
        reals = [each.real for each in found]
        _check_apart(upper, work, reals)
        parent, names = common_parent(reals)
        held = calls.openat(n.AT_FDCWD, parent, PATH_DIR, 0)
        try:
            if mount_of(held, b"") != ids[0]:
                raise InvalidSpec(
                    f"upper {upper.path!r} and work {work.path!r} have no common parent on their mount", part="work"
                )
            at = self._clone(held, upper)
        finally:
            os.close(held)
        for each, name in zip(found, names, strict=True):
            if not each.is_at(at, name):
                hint = f"the layer {each.layer.path!r} was moved or removed meanwhile"
                raise from_errno(ENOENT, "overlay", (each.layer.path,), filename=each.layer.path, hint=hint)
        return at, names

    def _clone(self, fd: int, upper: Layer) -> int:
        try:
            self.clone = clone_for(fd, upper)
            if upper.idmap is not None:
                self.clone.idmap(upper.idmap)
        except KernelError as error:
            raise blame(error, upper) from None
        return self.clone.fileno()


def _check_apart(upper: Layer, work: Layer, reals: list[bytes]) -> None:
    for layer, real in zip((upper, work), reals, strict=True):
        if not real:
            hint = f"the layer {layer.path!r} has no path below this process's root, or /proc isn't mounted"
            raise from_errno(ENOENT, "readlink", (layer.path,), filename=layer.path, hint=hint)
    one, other = (real.rstrip(b"/") + b"/" for real in reals)
    if one == other:
        raise InvalidSpec(f"upper {upper.path!r} and work {work.path!r} are the same directory", part="work")
    if one.startswith(other) or other.startswith(one):
        raise InvalidSpec(f"of upper {upper.path!r} and work {work.path!r} one lies inside the other", part="work")


def _lock(place: Place) -> OwnedFd:
    try:
        fd = open_to_read(place)
    except KernelError as error:
        raise blame(error, place.layer) from None
    try:
        calls.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except KernelError as error:
        os.close(fd)
        if error.errno != EWOULDBLOCK:
            raise
        hint = f"another live overlay, made by mountfd, uses the layer {place.layer.path!r}"
        raise from_errno(EBUSY, "flock", (fd,), filename=place.layer.path, hint=hint) from None
    except BaseException:
        os.close(fd)
        raise
    return OwnedFd(fd)


def _as_ids(idmap: IdMap, act: Callable[[], object]) -> None:
    """Run something on a thread of its own that has the filesystem ids of the map's root and every capability.

    setfsuid(2) and capset(2) concern the calling thread alone, and the thread ends here.
    """

    def body() -> None:
        take_ids(*idmap.root)
        act()

    on_thread(body)


def check_writable(mount: Mount, overlay: Overlay) -> None:
    """Refuse an overlay that the kernel made read-only without a word although it has an upper layer."""
    if not os.fstatvfs(mount.fileno()).f_flag & os.ST_RDONLY:
        return
    upper = overlay.upper
    path = upper.path if upper is not None else None
    hint = (
        "the kernel made this overlay read-only without saying so: it could not write below the work layer "
        "(read-only filesystem, no permission, or ids that the idmap doesn't know)"
    )
    raise from_errno(EROFS, "fsmount", (mount.fileno(),), filename=path, hint=hint)
