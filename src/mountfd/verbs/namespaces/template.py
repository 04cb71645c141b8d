"""A tiny mount namespace, kept by a descriptor: a copy of it costs the same however large the host's table is.

It is made once for each process and user namespace, out of a copy of the host's table, or where the kernel can out of
nothing; and holds one empty, read-only tmpfs.
"""

from __future__ import annotations

from mountfd.abi import calls
from mountfd.abi.features import Feature, has
from mountfd.handles.context import FsContext
from mountfd.handles.template import shared_template
from mountfd.verbs.namespaces.entering import enter_copy_of_host, rooted_at
from mountfd.verbs.threads import descriptor_by_thread

__all__ = ["enter_copy_of_template"]

_CLONE_FS = 0x200
_CLONE_NEWNS = 0x20000
_FSMOUNT_CLOEXEC, _FSMOUNT_NAMESPACE = 1, 2
_RDONLY = 1


def enter_copy_of_template() -> None:
    """Bring this thread into a fresh copy of the template; its root and working directory are that namespace's."""
    template = shared_template(_made)
    calls.unshare(_CLONE_FS)
    calls.setns(template.fileno(), _CLONE_NEWNS)
    calls.unshare(_CLONE_NEWNS)


def _made() -> int:
    with FsContext.open("tmpfs") as context:
        context.create()
        if has(Feature.FSMOUNT_NAMESPACE):
            made: int = calls.fsmount(context.fileno(), _FSMOUNT_CLOEXEC | _FSMOUNT_NAMESPACE, _RDONLY)
            return made
        with context.mount(_RDONLY) as ground:
            return descriptor_by_thread(lambda: rooted_at(ground, enter_copy_of_host))
