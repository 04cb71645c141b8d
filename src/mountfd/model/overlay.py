"""An overlay filesystem, described: layers, idmaps, options, and the rules that they must keep."""

from __future__ import annotations

import os

from mountfd.errors import InvalidSpec
from mountfd.model.grouping import is_plain
from mountfd.model.idmap import IdMap
from mountfd.model.overlay_options import check_options
from mountfd.model.param import Param

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NoReturn, Protocol, TypeAlias

    AnyPath: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"

    class MountLike(Protocol):
        """A held mount: something with a descriptor."""

        def fileno(self) -> int:
            """Give the descriptor's number."""

    AnyLayer: TypeAlias = "Layer | AnyPath | MountLike"

__all__ = ["Layer", "Overlay"]

_LAYERS_MAX = 500  # fs/overlayfs: OVL_MAX_STACK
_SOURCE_MAX = 255


class Layer:
    """A directory as one layer of an overlay.

    Arguments: path, of the directory; idmap, through which its files' owners are seen; data_only, whether it holds
    file content alone (Linux 6.5); base, a Mount below which path is found (then path is relative, without `..`).
    Attributes: those, and raw, the path in bytes. A value: don't change it.
    """

    # Nothing refuses a change here, unlike in Overlay: an overlay has hundreds of these, and the refusal would cost
    # five times as much as all the rest of making one.
    __slots__ = ("base", "data_only", "idmap", "path", "raw")
    path: str
    raw: bytes
    idmap: IdMap | None
    data_only: bool
    base: MountLike | None

    def __init__(
        self,
        path: AnyPath,
        idmap: IdMap | None = None,
        data_only: bool = False,  # noqa: FBT001, FBT002 (the documented order)
        base: MountLike | None = None,
    ) -> None:
        """Check the path."""
        if not isinstance(path, str | bytes | os.PathLike):
            raise InvalidSpec(f"a layer must be a path, a Layer or a Mount, not {path!r}", part="layer")
        self.raw = raw = _encoded(path, "layer")
        self.path = path if type(path) is str else os.fsdecode(raw)
        if not raw or b"\0" in raw:
            raise InvalidSpec(f"the layer {self.path!r} is empty or has a NUL in it", part="layer")
        if base is not None:
            _check_below(base, self.path)
        _check_idmap(idmap, f"layer {self.path!r}")
        self.idmap, self.data_only, self.base = idmap, data_only, base

    def _parts(self) -> tuple[object, ...]:
        return self.raw, self.idmap, self.data_only, self.base

    def __eq__(self, other: object) -> bool:
        """Compare path, idmap, kind and base."""
        return isinstance(other, Layer) and self._parts() == other._parts()

    def __hash__(self) -> int:
        """Hash path, idmap, kind and base."""
        return hash(self._parts())

    def __repr__(self) -> str:
        """Show what differs from a plain path."""
        words = [repr(self.path)]
        words += [f"idmap={self.idmap!r}"] if self.idmap is not None else []
        words += ["data_only=True"] if self.data_only else []
        words += [f"base={self.base!r}"] if self.base is not None else []
        return f"Layer({', '.join(words)})"


def _check_below(base: object, path: str) -> None:
    if not hasattr(base, "fileno"):
        raise InvalidSpec(f"a layer must be a path, a Layer or a Mount, not {base!r}", part="layer")
    if path.startswith("/") or ".." in path.split("/"):
        raise InvalidSpec(f"the layer {path!r} has a base, so it must be relative and without `..`", part="layer")


def _plain_layers(paths: list[str]) -> tuple[Layer, ...] | None:
    """Make layers of plain paths all at once; None where one of them needs a closer look.

    Hundreds of paths joined, encoded and split once cost a quarter of what they cost one by one.
    """
    joined = "\0".join(paths)
    raws = _encoded(joined, "layer").split(b"\0")
    if len(raws) != len(paths) or b"" in raws:
        return None
    layers = []
    new = Layer.__new__
    for path, raw in zip(paths, raws, strict=True):
        layer = new(Layer)
        layer.path, layer.raw = path, raw
        layer.idmap = layer.base = None
        layer.data_only = False
        layers.append(layer)
    return tuple(layers)


class Overlay:
    """Layers that shall become one filesystem. Immutable.

    Arguments: lower, a list of layers, topmost first: paths, Layers or Mounts; upper, the layer that takes changes
    (None: read-only); work, an empty directory on the mount of upper; idmap, for every lower layer that has none of
    its own; options, of mountfd.param, for overlayfs; source, a label of up to 255 bytes for the mount table
    (None: the upper layer's path, or the topmost lower layer's).
    The upper layer is idmapped only where it is given as a Layer with an idmap; ids on disk then stay unshifted.
    Raises: InvalidSpec that names the culprit, for descriptions that overlayfs would refuse or misunderstand.
    """

    __slots__ = ("idmap", "lower", "options", "source", "upper", "work")
    lower: tuple[Layer, ...]
    upper: Layer | None
    work: Layer | None
    idmap: IdMap | None
    options: tuple[Param, ...]
    source: str | None

    def __init__(  # noqa: PLR0913, PLR0917 (an overlay has these six parts)
        self,
        lower: Iterable[AnyLayer],
        upper: AnyLayer | None = None,
        work: AnyLayer | None = None,
        idmap: IdMap | None = None,
        options: Iterable[Param] = (),
        source: str | None = None,
    ) -> None:
        """Check every rule that needs no kernel."""
        if _is_no_list(lower) or isinstance(lower, set | frozenset):
            raise InvalidSpec(f"lower must be a list of layers, topmost first, not {lower!r}", part="lower")
        if _is_no_list(options):
            raise InvalidSpec(f"options must be a list of parameters, not {options!r}", part="options")
        _check_idmap(idmap, "overlay")
        fill = object.__setattr__
        fill(self, "lower", _layers(list(lower)))
        fill(self, "upper", None if upper is None else _layer(upper))
        fill(self, "work", None if work is None else _layer(work))
        fill(self, "idmap", idmap)
        fill(self, "options", tuple(options))
        fill(self, "source", source)
        _check_pair(self.upper, self.work)
        _check_lower(self.lower, alone=upper is None)
        check_options(self.options, read_only=self.upper is None)
        _check_source(source)

    @property
    def read_only(self) -> bool:
        """Whether there is no layer that could take changes."""
        return self.upper is None

    @property
    def regular(self) -> tuple[Layer, ...]:
        """The lower layers whose names are seen, topmost first."""
        return tuple([layer for layer in self.lower if not layer.data_only])

    @property
    def data_only(self) -> tuple[Layer, ...]:
        """The lower layers that hold file content alone, topmost first."""
        return tuple([layer for layer in self.lower if layer.data_only])

    def __reduce__(self) -> tuple[type[Overlay], tuple[object, ...]]:
        """Copy by construction, and pickle where every base can be."""
        return Overlay, self._parts()

    def __delattr__(self, name: str) -> NoReturn:
        """Refuse: an overlay is a value."""
        raise AttributeError("Overlay is immutable: make another one")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        """Refuse: an overlay is a value."""
        raise AttributeError("Overlay is immutable: make another one")

    def _parts(self) -> tuple[object, ...]:
        return self.lower, self.upper, self.work, self.idmap, self.options, self.source

    def __eq__(self, other: object) -> bool:
        """Compare all parts."""
        return isinstance(other, Overlay) and self._parts() == other._parts()

    def __hash__(self) -> int:
        """Hash all parts."""
        return hash(self._parts())

    def __repr__(self) -> str:
        """Show the parts that are there."""
        names = ("upper", "work", "idmap", "options", "source")
        words = [f"{name}={value!r}" for name in names if (value := getattr(self, name)) not in (None, ())]
        return f"Overlay({', '.join([repr(list(self.lower)), *words])})"


def _layers(given: list[AnyLayer]) -> tuple[Layer, ...]:
    if set(map(type, given)) == {str}:
        plain = _plain_layers(given)  # type: ignore[arg-type]  # the line above is what mypy can't see
        if plain is not None:
            return plain
    return tuple([_layer(layer) for layer in given])


def _layer(given: AnyLayer) -> Layer:
    if isinstance(given, Layer):
        return given
    if given is None or isinstance(given, str | bytes | os.PathLike):
        return Layer(given)
    return Layer(".", base=given)


def _check_lower(lower: tuple[Layer, ...], *, alone: bool) -> None:
    if not lower:
        raise InvalidSpec("an overlay needs at least one lower layer", part="lower")
    if len(lower) == 1 and alone:
        raise InvalidSpec(
            f"one lower layer ({lower[0].path!r}) and no upper: overlayfs needs two layers; "
            "for a single directory use Mount.clone",
            part="lower",
        )
    if len(lower) > _LAYERS_MAX:
        raise InvalidSpec(f"{len(lower)} lower layers: overlayfs takes {_LAYERS_MAX}", part="lower")
    raws = [layer.raw for layer in lower]
    if len(set(raws)) != len(raws) or not is_plain(raws):
        _check_duplicates(lower)
    if True in [layer.data_only for layer in lower]:
        _check_data_only(lower)


def _check_duplicates(lower: tuple[Layer, ...]) -> None:
    seen: dict[tuple[tuple[bytes, ...], int], Layer] = {}
    for layer in lower:
        key = (_steps(layer), id(layer.base))
        if key in seen:
            raise InvalidSpec(f"the layer {layer.path!r} is given twice (as {seen[key].path!r})", part="lower")
        seen[key] = layer


def _steps(layer: Layer) -> tuple[bytes, ...]:
    """Take a path apart. Not as normpath does: `..` after a symlink doesn't mean what its text says."""
    steps = [step for step in layer.raw.split(b"/") if step not in (b"", b".")]
    return (b"/", *steps) if layer.raw[:1] == b"/" else tuple(steps)


def _check_data_only(lower: tuple[Layer, ...]) -> None:
    if lower[0].data_only:
        raise InvalidSpec(
            f"the data-only layer {lower[0].path!r} is on top: a regular lower layer must come first", part="lower"
        )
    below = False
    for layer in lower:
        if below and not layer.data_only:
            raise InvalidSpec(f"the layer {layer.path!r} comes below a data-only layer: those go last", part="lower")
        below = below or layer.data_only


def _check_pair(upper: Layer | None, work: Layer | None) -> None:
    if upper is None and work is None:
        return
    if upper is None or work is None:
        given, missing = ("work", "upper") if upper is None else ("upper", "work")
        layer = upper or work
        path = layer.path if layer is not None else ""
        raise InvalidSpec(f"{given} {path!r} is given without {missing}: overlayfs needs both", part=missing)
    for name, layer in (("upper", upper), ("work", work)):
        if layer.data_only:
            raise InvalidSpec(f"{name} {layer.path!r} can't be data-only: it takes changes", part=name)
    if upper.base is not work.base:
        raise InvalidSpec("upper and work have different bases: overlayfs wants both on one mount", part="work")
    if work.idmap is not None and work.idmap != upper.idmap:
        raise InvalidSpec(
            f"work has the idmap {work.idmap}, upper has {upper.idmap}: they share one mount", part="work"
        )
    _check_apart(upper, work)


def _check_apart(upper: Layer, work: Layer) -> None:
    pair = {"upper": (upper, _steps(upper)), "work": (work, _steps(work))}
    if pair["upper"][1] == pair["work"][1]:
        raise InvalidSpec(f"upper {upper.path!r} and work {work.path!r} are the same directory", part="work")
    for inner, outer in (("work", "upper"), ("upper", "work")):
        (deep, below), (high, above) = pair[inner], pair[outer]
        if below[: len(above)] == above and b".." not in below:
            raise InvalidSpec(f"{inner} {deep.path!r} lies inside {outer} {high.path!r}", part=inner)


def _is_no_list(given: object) -> bool:
    """Say whether somebody gave one thing where several belong; text is many letters only to Python."""
    one = isinstance(given, str | bytes | os.PathLike | Layer | Param) or hasattr(given, "fileno")
    return one or not hasattr(given, "__iter__")


def _check_idmap(idmap: object, whose: str) -> None:
    if idmap is not None and not isinstance(idmap, IdMap):
        raise InvalidSpec(f"the idmap of the {whose} must be an IdMap, not {idmap!r}", part="idmap")


def _encoded(path: AnyPath, part: str) -> bytes:
    try:
        return os.fsencode(path)
    except UnicodeEncodeError:
        raise InvalidSpec(f"the {part} {path!r} has characters that no file name can have", part=part) from None


def _check_source(source: str | None) -> None:
    if source is None:
        return
    if not isinstance(source, str) or "\0" in source or not 0 < len(_encoded(source, "source")) <= _SOURCE_MAX:
        raise InvalidSpec(f"source {source!r} must be text of 1 to {_SOURCE_MAX} bytes without a NUL", part="source")
