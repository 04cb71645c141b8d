"""Why overlayfs refused: almost none of its failures leaves a message in the context, so ask elsewhere.

the kernel's log      overlayfs writes the reason there; this user may not be allowed to read it
the usual causes      looked for in the layers themselves, by errno
"""

from __future__ import annotations

import os
from errno import EBUSY, EINVAL, ELOOP, EPERM, EROFS, ESTALE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mountfd.errors import KernelError
    from mountfd.model.overlay import Layer, Overlay

__all__ = ["explain"]


def explain(error: KernelError, overlay: Overlay, log: list[str]) -> None:
    """Add the kernel's words and the likeliest cause to the error of an assembly."""
    if not error.log:
        error.explain(log=log)
    look = _CAUSES.get(error.errno)
    if look is not None:
        error.explain(hint=look(overlay))
    if overlay.upper is not None and (error.errno in _UPPERS or _is_read_only(overlay.upper)):
        error.explain(filename=overlay.upper.path)


# --- causes, by errno ----------------------------------------------------------------------------------------------
def _where(layer: Layer) -> str:
    """Give a path that leads to a layer now, also where it has a base."""
    if layer.base is None:
        return layer.path
    return f"/proc/self/fd/{layer.base.fileno()}/{layer.path}"


def _loop(overlay: Overlay) -> str | None:
    """Find two lower layers of which one is, or contains, the other."""
    seen: dict[tuple[int, int], Layer] = {}
    for layer in overlay.lower:
        try:
            found = os.stat(_where(layer))
        except OSError:
            continue  # it went away meanwhile, so it isn't the cause
        other = seen.setdefault((found.st_dev, found.st_ino), layer)
        if other is not layer:
            return f"the layers {other.path!r} and {layer.path!r} are the same directory"
    for layer in overlay.lower:
        outer = _above(_where(layer), seen)
        if outer is not None:
            return f"the layer {layer.path!r} lies inside the layer {outer.path!r}: overlayfs takes neither twice"
    return "two layers are the same directory or one lies inside the other"


def _above(path: str, seen: dict[tuple[int, int], Layer]) -> Layer | None:
    """Walk up from a directory until one of the layers is met."""
    here = None
    while True:
        path += "/.."
        try:
            found = os.stat(path)
        except OSError:
            return None
        above = (found.st_dev, found.st_ino)
        if above == here:
            return None
        if above in seen:
            return seen[above]
        here = above


def _is_read_only(layer: Layer) -> bool:
    try:
        return bool(os.statvfs(_where(layer)).f_flag & os.ST_RDONLY)
    except OSError:
        return False


# Below the work layer: overlayfs refuses what is marked so, and names it in the kernel's log alone.
_MARKS = {
    "volatile": "with `volatile`, and that overlay was not shut down cleanly or is still live: files may be damaged; "
    "who wants the layer all the same removes the mark",
    "fuse-overlayfs": "by fuse-overlayfs, whose marks for deleted files the kernel doesn't know: they would be there "
    "again; go on with MOUNTFD_ROUTE=assemble:fuse, or copy what is shown to a new layer",
}


def _invalid(overlay: Overlay) -> str | None:
    if overlay.upper is not None and _is_read_only(overlay.upper):
        return _read_only(overlay)
    work = overlay.work
    if work is not None:
        for name, reason in _MARKS.items():
            mark = os.path.join("work", "incompat", name)
            if os.path.exists(os.path.join(_where(work), mark)):
                return f"the upper layer was used {reason} ({os.path.join(work.path, mark)!r} says so)"
    names = ", ".join(param.key for param in overlay.options) or "none"
    since = "; layers of data alone take Linux 6.5" if any(layer.data_only for layer in overlay.lower) else ""
    return (
        f"overlayfs took the layers but refused the whole (options: {names}); overlays may be stacked two deep at "
        f"most, and the filesystem of the upper layer must have extended attributes, d_type and whiteouts{since}"
    )


def _denied(overlay: Overlay) -> str | None:
    trusted = [p.key for p in overlay.options if p.key in {"redirect_dir", "metacopy", "index", "nfs_export"}]
    if trusted:
        return f"the options {', '.join(trusted)} need privilege in the initial user namespace"
    return "the caller lacks CAP_SYS_ADMIN here, or may not write below the work layer"


def _busy(overlay: Overlay) -> str | None:
    path = overlay.upper.path if overlay.upper is not None else ""
    return f"with index=on another live overlay uses the upper layer {path!r} or its work layer"


def _read_only(overlay: Overlay) -> str | None:
    path = overlay.upper.path if overlay.upper is not None else ""
    return f"the upper layer {path!r} or its work layer lies on a read-only mount or filesystem"


def _stale(overlay: Overlay) -> str | None:
    path = overlay.upper.path if overlay.upper is not None else ""
    return f"the upper layer {path!r} was made over other lower layers (index=on remembers them)"


_CAUSES: dict[int, Callable[[Overlay], str | None]] = {
    ELOOP: _loop,
    EINVAL: _invalid,
    EPERM: _denied,
    EBUSY: _busy,
    EROFS: _read_only,
    ESTALE: _stale,
}
_UPPERS = (EBUSY, EROFS, ESTALE)
