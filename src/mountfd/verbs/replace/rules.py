"""Why the kernel won't attach beneath: it answers EINVAL for each of its rules."""

from __future__ import annotations

from mountfd.handles.namespace import in_initial_user_namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.verbs.replace.standing import Standing

__all__ = ["why_not_beneath"]


def why_not_beneath(standing: Standing) -> str:
    """Name the rule that most likely stands in the way of attaching beneath a mount."""
    parent = standing.parent
    if parent is None:
        return f"{standing.target!r} is the root of its mount namespace, or of the chroot: nothing goes beneath that"
    if parent.peer_group and parent.peer_group == standing.info.peer_group:
        return (
            f"{standing.target!r} is a peer of the mount that it stands on: what is attached there would come back to "
            "it (make one of them private first)"
        )
    if not in_initial_user_namespace():
        return f"{standing.target!r} came from a more privileged namespace and is locked here"
    return "the new mount can't be attached there: it is attached already, or its root is of another kind"
