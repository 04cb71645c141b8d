"""A mount namespace with the root one wants, and nothing of the host's in it.

| route | how | costs |
| --- | --- | --- |
| open_tree | open_tree(2) with OPEN_TREE_NAMESPACE, Linux 7.0 | one call |
| template | in a copy of a tiny namespace: the root attached, pivot_root(2) | 0.1 ms, however large the host's table |
| unshare | the same in a copy of the host's table | 1 to 2 us more for each mount of the host |

The second and third happen on a thread of their own, which ends with them.
"""

from __future__ import annotations

import os
import stat
from errno import EINVAL, ENOTDIR, EPERM

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.features import Feature, has
from mountfd.abi.flags import Propagation
from mountfd.errors import InvalidSpec, KernelError, NotDirectory
from mountfd.handles.fd import OwnedFd
from mountfd.handles.mount import Mount
from mountfd.handles.refused import why_not
from mountfd.verbs.namespaces.entering import enter_copy_of_host, rooted_at
from mountfd.verbs.query.asking import stands
from mountfd.verbs.query.place import HERE, NOFOLLOW, id_of
from mountfd.verbs.routes import choose
from mountfd.verbs.threads import descriptor_by_thread

__all__ = ["make", "route"]

_ROUTES = {
    "open_tree": lambda: has(Feature.OPEN_TREE_NAMESPACE),
    "template": lambda: has(Feature.MOUNT_API),
    "unshare": lambda: True,
}
_OPEN_TREE_NAMESPACE = 2


def make(root: Mount) -> int:
    """Make a mount namespace whose root is a copy of a mount, with all that stands on it; give its descriptor.

    A detached mount that can't be copied, before Linux 6.15 or made in another mount namespace, is that root itself.
    Raises: NotDirectory for a file; InvalidSpec where another mount covers the root.
    """
    try:
        return _make(root)
    except KernelError as error:
        if error.errno == EPERM:
            error.explain(hint=why_not(error.syscall))  # here, not on the thread: it has left where /proc is
        raise


def _make(root: Mount) -> int:
    if not stat.S_ISDIR(os.fstat(root.fileno()).st_mode):
        hint = "the root of a mount namespace is a directory, and this mount's root is a file"
        raise NotDirectory(ENOTDIR, "open_tree", (root.fileno(),), hint=hint)
    name = route()
    with _copied(root) as copy:
        _refuse_if_covered(copy)
        if name == "open_tree":
            flags = _OPEN_TREE_NAMESPACE | n.AT_EMPTY_PATH | n.AT_RECURSIVE | os.O_CLOEXEC
            made: int = calls.open_tree(copy.fileno(), b"", flags)
            return made
        if name == "unshare":
            enter = enter_copy_of_host
        else:
            from mountfd.verbs.namespaces.template import enter_copy_of_template as enter  # noqa: PLC0415

        return descriptor_by_thread(lambda: rooted_at(copy, enter))


def route() -> str:
    """Name the route that MountNamespace.new takes here: open_tree, template or unshare."""
    return choose("namespace", _ROUTES)


def _refuse_if_covered(copy: Mount) -> None:
    """Raise InvalidSpec where a mount stands on the root itself: unmounting and pivoting would meet that instead."""
    # From the root of a detached mount `..` leads to what stands on it.
    own = id_of(copy.fileno(), b"", HERE)
    if (id_of(copy.fileno(), b"..", NOFOLLOW) != own) if own else _is_covered_without_ids(copy):
        words = "another mount stands on the root that was asked for, and covers it: take that away, or name it instead"
        raise InvalidSpec(words, part="root")


def _is_covered_without_ids(copy: Mount) -> bool:
    from mountfd.verbs.query.oldway import old_id_of  # noqa: PLC0415 (only on kernels before 6.8)

    with OwnedFd(calls.openat(copy.fileno(), b"..", os.O_PATH | os.O_CLOEXEC, 0)) as above:
        return old_id_of(above.fileno()) != old_id_of(copy.fileno())


def _copied(root: Mount) -> Mount:
    """Copy it, and take it out of its peer groups, in which OPEN_TREE_NAMESPACE alone would leave it."""
    try:
        copy = Mount.clone_fd(root.fileno(), recursive=True)
    except KernelError as error:
        if error.errno != EINVAL or (has(Feature.CLONE_DETACHED) and stands(root.id)):
            raise
        copy = root.dup()  # a detached one, before Linux 6.15 or made in another mount namespace
    try:
        return copy.set(propagation=Propagation.PRIVATE, recursive=True)
    except BaseException:
        copy.close()
        raise
