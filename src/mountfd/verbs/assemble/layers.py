"""Layers as places below a few detached clones.

    plain paths    grouped by idmap; one clone of the common parent for each group, each layer a name below it
    base=mount     names below the caller's own mount; cloned only when it must be idmapped
    one alone      a clone of the directory itself

Two reasons for the common parent. The kernel looks at every child of the mount that a layer lies on, for each layer:
0.3 ms at 10,000 mounts; a detached clone has no children. And the names that mountinfo shows stay short: one line
over 64 KiB there is the end of every reader with a fixed buffer, so long names get a clone of their own.
"""

from __future__ import annotations

import os
from errno import EINVAL, EXDEV

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.features import Feature, has
from mountfd.errors import InvalidSpec, KernelError
from mountfd.handles.mount import Mount
from mountfd.model.grouping import common_parent, is_plain, too_long
from mountfd.verbs.assemble.finding import (
    IN_BASE,
    IN_CLONE,
    NOT_BY_NAME,
    PATH_DIR,
    Found,
    Place,
    all_lie_on,
    blame,
    has_nothing_below,
    mount_of,
    open_across,
    open_below,
    open_directory,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from mountfd.model.idmap import IdMap
    from mountfd.model.overlay import Layer, Overlay

__all__ = ["Placed", "clone_for"]

_ATTR_RDONLY = 1


class Alike:
    """Layers that are plain names below one mount, topmost first."""

    __slots__ = ("holder", "names", "resolve")

    def __init__(self, holder: int, names: list[bytes], resolve: int) -> None:
        """Keep the borrowed descriptor of the mount, the names below it, and how openat2(2) shall walk."""
        self.holder, self.names, self.resolve = holder, names, resolve


class Placed:
    """The places of an overlay's lower layers, and the clones that they stand on until the overlay is created."""

    __slots__ = ("_of_base", "_overlay", "_places", "alike", "clones")

    def __init__(self, overlay: Overlay) -> None:
        """Begin without clones."""
        self._overlay = overlay
        self._of_base: dict[tuple[Mount, IdMap], Mount] = {}
        self.clones: list[Mount] = []
        self.alike: Alike | None = None
        self._places: list[Place] | None = None

    def __enter__(self) -> Self:
        """Find every layer's place; what was cloned for it is closed when that fails."""
        try:
            self._place_all()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close the clones."""
        self.close()

    def close(self) -> None:
        """Close every clone."""
        while self.clones:
            self.clones.pop().close()

    @property
    def places(self) -> list[Place]:
        """Every layer's place, topmost first."""
        if self._places is None:
            assert self.alike is not None  # noqa: S101 (one of the two is made on entry)
            holder, resolve = self.alike.holder, self.alike.resolve
            pairs = zip(self._overlay.lower, self.alike.names, strict=True)
            self._places = [Place(layer, holder, name, resolve) for layer, name in pairs]
        return self._places

    def open(self, place: Place) -> int:
        """Open a layer's directory by O_PATH below its clone; the caller closes the descriptor.

        A name that turns out not to mean what its text says (a symlink, a mount in between) gets its own clone.
        """
        if place.name:
            try:
                return open_below(place.holder, place)
            except KernelError as error:
                if error.errno not in (NOT_BY_NAME if place.layer.base is None else (EXDEV,)):
                    raise blame(error, place.layer) from None
            self._stand_alone(place)
        return os.dup(place.holder)

    def shorten(self) -> None:
        """Give layers whose names would make the line in mountinfo too long a clone of their own: they show as `/`."""
        if self.alike is not None:
            return  # it was looked at before they were placed
        for i in too_long([place.name for place in self.places]):
            self._stand_alone(self.places[i])

    # --- layers of a base --------------------------------------------------------------------------------------
    def _in_base(self, layer: Layer, base: object) -> Place:
        if not isinstance(base, Mount):
            raise InvalidSpec(f"the base of layer {layer.path!r} is {base!r}, not a Mount", part="base")
        if base.idmapped is not None and layer.idmap not in (None, base.idmapped):
            raise InvalidSpec(
                f"layer {layer.path!r} wants the idmap {layer.idmap}, but its base is idmapped by {base.idmapped}",
                part="idmap",
            )
        idmap = layer.idmap or self._overlay.idmap
        place = Place(layer, base.fileno(), b"" if layer.raw == b"." else layer.raw, IN_BASE)
        if base.idmapped is not None or idmap is None:
            return place
        if place.name and not self._is_on_base(place):
            self._stand_alone(place, idmap)
            return place
        known = self._of_base.get((base, idmap))
        if known is None:
            known = self._of_base[base, idmap] = self._keep(base.fileno(), idmap, layer)
        place.holder = known.fileno()
        return place

    def _is_on_base(self, place: Place) -> bool:
        """Say whether a layer lies on the very mount that its base is, and not on one that stands on it."""
        try:
            os.close(open_below(place.holder, place))
        except KernelError as error:
            if error.errno == EXDEV:
                return False
            raise blame(error, place.layer) from None
        return True

    # --- layers by path ----------------------------------------------------------------------------------------
    def _place_all(self) -> None:
        self.alike = self._place_alike()
        if self.alike is not None:
            return
        overlay = self._overlay
        default = overlay.idmap
        groups: dict[tuple[IdMap | None, bool], list[Layer]] = {}
        found: dict[int, Place] = {}
        for layer in overlay.lower:
            if layer.base is not None:
                found[id(layer)] = self._in_base(layer, layer.base)
            else:
                groups.setdefault((layer.idmap or default, layer.raw[:1] == b"/"), []).append(layer)
        for (idmap, _), layers in groups.items():
            for place in self._place_group(layers, idmap):
                found[id(place.layer)] = place
        self._places = [found[id(layer)] for layer in overlay.lower]

    def _place_alike(self) -> Alike | None:
        """Place layers that are all plain names below one parent or base, as they mostly are, without objects."""
        lower = self._overlay.lower
        base = lower[0].base
        if len(lower) == 1 or {(layer.base, layer.idmap, layer.data_only) for layer in lower} != {(base, None, False)}:
            return None
        raws = [layer.raw for layer in lower]
        if len({raw[:1] == b"/" for raw in raws}) != 1 or not is_plain(raws):
            return None
        if base is None:
            return self._alike_below_parent(lower, raws)
        wants_idmap = self._overlay.idmap is not None and getattr(base, "idmapped", None) is None
        if not isinstance(base, Mount) or wants_idmap or too_long(raws):
            return None
        return Alike(base.fileno(), raws, IN_BASE)

    def _alike_below_parent(self, lower: tuple[Layer, ...], raws: list[bytes]) -> Alike | None:
        parent, names = common_parent(raws)
        if too_long(names):
            return None
        try:
            held = calls.openat(n.AT_FDCWD, parent, PATH_DIR, 0)
        except KernelError:
            return None  # the slower way knows which layer to blame
        try:
            here = mount_of(held, b"")
            try:
                if not has_nothing_below(here) and not all_lie_on(held, names, here):
                    return None
            except KernelError:
                return None  # the same
            clone = self._shared(held, self._overlay.idmap, lower[0])
            return None if clone is None else Alike(clone, names, IN_CLONE)
        finally:
            os.close(held)

    def _place_group(self, layers: list[Layer], idmap: IdMap | None) -> list[Place]:
        raws = [layer.raw for layer in layers]
        if len(layers) == 1 or not is_plain(raws):
            return self._place_resolved(layers, idmap)
        parent, names = common_parent(raws)
        try:
            held = calls.openat(n.AT_FDCWD, parent, PATH_DIR, 0)
        except KernelError:
            return self._place_resolved(layers, idmap)  # which knows whose parent it is
        try:
            return self._place_below(held, layers, names, idmap)
        finally:
            os.close(held)

    def _place_below(self, held: int, layers: list[Layer], names: list[bytes], idmap: IdMap | None) -> list[Place]:
        """Place those layers below one clone of their parent that lie on its mount, and the others apart."""
        here = mount_of(held, b"")
        apart = set() if has_nothing_below(here) else self._elsewhere(held, layers, names, here)
        if len(apart) == len(layers):
            return self._place_resolved(layers, idmap)
        clone = self._shared(held, idmap, layers[0])
        if clone is None:
            return [self._place_alone(layer) for layer in layers]
        places = [
            Place(layer, clone, name, IN_CLONE)
            for i, (layer, name) in enumerate(zip(layers, names, strict=True))
            if i not in apart
        ]
        return places + [self._place_alone(layers[i]) for i in sorted(apart)]

    @staticmethod
    def _elsewhere(held: int, layers: list[Layer], names: list[bytes], here: int) -> set[int]:
        found = set()
        for i, (layer, name) in enumerate(zip(layers, names, strict=True)):
            try:
                if mount_of(held, name) != here:
                    found.add(i)
            except KernelError as error:
                raise blame(error, layer) from None
        return found

    def _place_resolved(self, layers: list[Layer], idmap: IdMap | None) -> list[Place]:
        """Place layers whose text doesn't tell where they are: by the mount and the path that the kernel names."""
        if len(layers) == 1:
            return [self._place_alone(layers[0])]
        by_mount: dict[int, list[Found]] = {}
        for layer in layers:
            fd = open_directory(layer)
            try:
                by_mount.setdefault(mount_of(fd, b""), []).append(Found(layer, fd))
            finally:
                os.close(fd)
        places: list[Place] = []
        for mount_id, members in by_mount.items():
            places += self._place_on_mount(mount_id, members, idmap)
        return places

    def _place_on_mount(self, mount_id: int, members: list[Found], idmap: IdMap | None) -> list[Place]:
        reals = [found.real for found in members]
        if len(set(reals)) == len(reals) > 1 and is_plain(reals):
            parent, names = common_parent(reals)
            clone = self._named_parent(parent, mount_id, idmap, members[0].layer)
            if clone is not None and all(found.is_at(clone, nm) for found, nm in zip(members, names, strict=True)):
                return [Place(found.layer, clone, nm, IN_CLONE) for found, nm in zip(members, names, strict=True)]
        return [self._place_alone(found.layer) for found in members]

    def _named_parent(self, parent: bytes, mount_id: int, idmap: IdMap | None, layer: Layer) -> int | None:
        try:
            held = calls.openat(n.AT_FDCWD, parent, PATH_DIR, 0)
        except KernelError:
            return None  # removed meanwhile, or only readable to the kernel
        try:
            return self._shared(held, idmap, layer) if mount_of(held, b"") == mount_id else None
        finally:
            os.close(held)

    # --- clones ------------------------------------------------------------------------------------------------
    def _place_alone(self, layer: Layer) -> Place:
        return Place(layer, self._alone(layer).fileno(), b"", IN_CLONE)

    def _stand_alone(self, place: Place, idmap: IdMap | None = None) -> None:
        """Give a layer a clone of its own; one of a base stays idmapped where the base is."""
        if place.layer.base is None:
            clone = self._alone(place.layer)
        else:
            try:
                fd = open_across(place)
            except KernelError as error:
                raise blame(error, place.layer) from None
            try:
                clone = self._keep(fd, idmap, place.layer)
            finally:
                os.close(fd)
        place.holder, place.name = clone.fileno(), b""

    def _alone(self, layer: Layer) -> Mount:
        fd = open_directory(layer)
        try:
            return self._keep(fd, layer.idmap or self._overlay.idmap, layer)
        finally:
            os.close(fd)

    def _shared(self, held: int, idmap: IdMap | None, layer: Layer) -> int | None:
        """Clone a common parent; None where that isn't allowed though a clone of each layer may be."""
        try:
            return self._keep(held, idmap, layer).fileno()
        except KernelError as error:
            if error.errno == EINVAL and error.syscall == "open_tree":
                return None  # in a user namespace: a locked mount stands somewhere below the parent
            raise

    def _keep(self, fd: int, idmap: IdMap | None, layer: Layer) -> Mount:
        """Clone what a descriptor names, idmapped and read-only if an idmap is given."""
        try:
            clone = clone_for(fd, layer)
            self.clones.append(clone)
            if idmap is not None:
                clone.idmap_and_set(idmap, _ATTR_RDONLY)
        except KernelError as error:
            raise blame(error, layer) from None
        return clone


def clone_for(fd: int, layer: Layer) -> Mount:
    """Clone what a descriptor names, for a layer; its base may be a detached mount also before Linux 6.15."""
    try:
        return Mount.clone_fd(fd)
    except KernelError as error:
        if error.errno != EINVAL or not isinstance(layer.base, Mount) or has(Feature.CLONE_DETACHED):
            raise
    from mountfd.verbs.assemble.stage import clone_of_detached  # noqa: PLC0415 (only on kernels before 6.15)

    return clone_of_detached(layer.base, fd)
