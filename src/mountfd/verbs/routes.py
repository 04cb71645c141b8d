"""Which of several whole implementations does a verb: probed once, forced by MOUNTFD_ROUTE, told to a trace."""

from __future__ import annotations

from mountfd.abi.calls import remark
from mountfd.abi.features import forget as forget_features
from mountfd.abi.routes import forced
from mountfd.errors import InvalidSpec, unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["choose", "forget"]

_best: dict[str, str] = {}


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


def forget() -> None:
    """Forget features and routes: for a process that has changed its user namespace, where other things are allowed."""
    forget_features()
    _best.clear()
