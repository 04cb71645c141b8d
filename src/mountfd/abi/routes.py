"""Which route a person forces: MOUNTFD_ROUTE."""

from __future__ import annotations

import os

from mountfd.errors import InvalidSpec

__all__ = ["forced"]


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
