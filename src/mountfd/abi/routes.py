"""Which route a person forces: MOUNTFD_ROUTE."""

from __future__ import annotations

import os

from mountfd.errors import InvalidSpec

__all__ = ["VERBS", "forced"]

# All that ask here. What isn't among them would be forced in vain, and nobody would notice.
VERBS = ("assemble", "loop", "mount", "mounts", "namespace", "replace", "run", "watch")


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
        if name not in VERBS:
            raise InvalidSpec(
                f"MOUNTFD_ROUTE={wanted!r}: nothing called {name!r} has routes; what has: {', '.join(VERBS)}",
                part="MOUNTFD_ROUTE",
            )
        if name == verb and found is None:
            found = route
    return found
