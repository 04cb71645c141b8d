"""Which of several whole implementations does a verb: probed once, forced by MOUNTFD_ROUTE, told to a trace."""

from __future__ import annotations

import os

from mountfd.abi.calls import remark
from mountfd.errors import InvalidSpec, unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["choose", "forced"]


_best: dict[str, str] = {}


def forced(verb: str) -> str | None:
    """Read the route that MOUNTFD_ROUTE=verb:route[,verb:route...] wants for a verb. Raises InvalidSpec for else."""
    wanted = os.environ.get("MOUNTFD_ROUTE")
    if not wanted:
        return None
    found = None
    for word in wanted.split(","):
        name, _, route = word.strip().partition(":")
        if not name or not route:
            form = "verb:route[,verb:route...]"
            raise InvalidSpec(f"MOUNTFD_ROUTE={wanted!r}: the form is {form}, not {word!r}", part="MOUNTFD_ROUTE")
        if name == verb and found is None:
            found = route
    return found


def choose(verb: str, routes: Mapping[str, Callable[[], bool]], *, remember: bool = True) -> str:
    """Choose the first route whose probe says yes, or the one that is forced.

    Arguments: verb; routes, name to probe, best first; remember, whether the answer holds for all calls to come.
    Raises: InvalidSpec for a forced route that doesn't exist; NotSupported when no probe says yes.
    """
    wanted = forced(verb)
    if wanted is not None:
        if wanted not in routes:
            known = ", ".join(routes)
            raise InvalidSpec(f"MOUNTFD_ROUTE: {verb} has no route {wanted!r}; it has {known}", part="MOUNTFD_ROUTE")
        remark(f"{verb}: route {wanted}, forced by MOUNTFD_ROUTE")
        return wanted
    name = _best.get(verb) if remember else None
    if name is None:
        name = next((name for name, possible in routes.items() if possible()), None)
    if name is not None:
        if remember:
            _best[verb] = name
        remark(f"{verb}: route {name}, the best that this kernel can do")
        return name
    raise unsupported(verb, f"no route of {verb} works on this kernel: see `mountfd doctor`")
