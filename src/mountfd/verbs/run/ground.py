"""The bare ground that a command's root is laid out on, as a mount namespace of its own.

| route | how | costs |
| --- | --- | --- |
| tiny | a namespace that never held the host's mounts | the same at any size of the host's table |
| copy | the keeper copies the host's whole table, and pivots to the ground | 2 us for each mount of the host |

Making the first tiny namespace of a process takes a copy of the table, too, before Linux 7.0: so who runs one command
has nothing from it, and the first run goes the other way.
"""

from __future__ import annotations

from contextlib import nullcontext
from errno import EINVAL

from mountfd.abi import calls
from mountfd.abi.features import Feature, has
from mountfd.errors import KernelError
from mountfd.handles.context import FsContext
from mountfd.handles.fd import OwnedFd
from mountfd.handles.mount import Mount
from mountfd.model.param import String
from mountfd.verbs.routes import choose

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["SIGHTS", "in_sight", "tiny_ground"]

# In a user namespace a new /proc or /sys is allowed only while a complete one is in sight.
SIGHTS = ("proc", "sys")

_ran: list[bool] = []


def tiny_ground() -> AbstractContextManager[OwnedFd | None]:
    """Make the ground as a mount namespace and give its descriptor; None where the keeper shall copy the host's."""
    name = choose("run", {"tiny": _is_worth_it, "copy": lambda: True}, remember=False)
    _ran[:] = [True]
    if name == "copy":
        return nullcontext()
    from mountfd.verbs.namespaces.making import make  # noqa: PLC0415 (who runs one command does without)

    with FsContext.open("tmpfs").set(String("mode", "0755")) as context, context.create().mount() as ground:
        for sight in SIGHTS:
            calls.mkdirat(ground.fileno(), sight.encode(), 0o755)
            with in_sight("/" + sight) as clone:
                clone.attach(sight, dir_fd=ground.fileno())
        return OwnedFd(make(ground))


def _is_worth_it() -> bool:
    return has(Feature.MOUNT_INSIDE_DETACHED) and (bool(_ran) or has(Feature.OPEN_TREE_NAMESPACE))


def in_sight(path: str) -> Mount:
    """Clone a filesystem of the kernel alone, or with the mounts below it where a user namespace locks those to it."""
    try:
        return Mount.clone(path)
    except KernelError as error:
        if error.errno != EINVAL:
            raise
        return Mount.clone(path, recursive=True)
