"""What this kernel can do, what mountfd does with it, and what it does where the feature is missing."""

from __future__ import annotations

from enum import Enum
from errno import EPERM

from mountfd.abi.probes import PRIVILEGED, PROBES, may_mount
from mountfd.errors import from_errno, unsupported

__all__ = ["Feature", "features", "forget", "has", "require"]


class Feature(Enum):
    """A kernel feature: (first mainline version, what it is used for, what happens without it).

    In the order in which kernels learned them.
    """

    USER_NAMESPACE = ("3.8", "idmaps; runs without privilege", "run --idmap none, as root")
    OVERLAY = ("3.18", "root filesystems out of layers", "nothing takes its place")
    MOUNT_API = ("5.2", "detached mounts", "nothing takes its place")
    OPENAT2 = ("5.6", "paths that can't leave a root", "one openat(2) for each component")
    STATX_MNT_ID = ("5.8", "on which mount a layer lies", "each layer gets a clone of its own")
    MOUNT_SETATTR = ("5.12", "attributes of detached mounts and whole trees", "nothing takes its place")
    IDMAPPED_MOUNT = ("5.12", "an image's files owned by a container's ids", "run --idmap none")
    MOVE_MOUNT_SET_GROUP = ("5.15", "a mount joins a peer group", "nothing takes its place")
    MOVE_MOUNT_BENEATH = ("6.5", "a live mount replaced without a gap", "nothing takes its place")
    OVERLAY_LAYER_APPEND = ("6.8", "500 layers, each a parameter", "one option string, over short names")
    STATX_MNT_ID_UNIQUE = ("6.8", "mount ids that are never reused", "ids that the kernel reuses")
    STATMOUNT = ("6.8", "one mount's facts without the table", "/proc/self/mountinfo")
    LISTMOUNT = ("6.8", "the mounts below one", "/proc/self/mountinfo")
    OVERLAY_LAYER_DETACHED = ("6.15", "overlay layers given as descriptors", "attached in a namespace of a thread")
    OVERLAY_OVERRIDE_CREDS = (
        "6.15",
        "overlay with the mounter's credentials of choice",
        "create on a thread with them",
    )
    OPEN_TREE_ATTR = ("6.15", "clone and change in one call", "two calls")
    CLONE_DETACHED = ("6.15", "a detached mount copied", "it is attached in a namespace of a thread first")
    MOUNT_INSIDE_DETACHED = ("6.15", "trees built before they are attached", "attached one by one, top first")
    FANOTIFY_MOUNTS = ("6.15", "mount events", "poll(2) on /proc/self/mountinfo")
    LISTNS = ("6.19", "all namespaces", "a walk from one mount namespace to the next")
    STATMOUNT_BY_FD = ("7.0", "a detached mount's facts", "what the descriptor and /proc tell")
    OPEN_TREE_NAMESPACE = ("7.0", "a mount namespace from a tree in one call", "a tiny one copied, and pivot_root(2)")
    FSMOUNT_NAMESPACE = ("7.1", "a mount namespace from a filesystem in one call", "unshare(2) and pivot_root(2)")
    SOCKET_XATTR = ("7.1", "protocols that a service advertises on its socket", "nothing takes its place")

    def __init__(self, since: str, use: str, otherwise: str) -> None:
        """Name the value's parts."""
        self.since = since
        self.use = use
        self.otherwise = otherwise

    @property
    def present(self) -> bool:
        """Whether this kernel has it for this user; probed on first use."""
        found = _found.get(self._name_)  # `name` takes two calls of functions
        if found is None:
            found = _found[self._name_] = PROBES[self._name_]()
        return found


_found: dict[str, bool] = {}


def has(feature: Feature) -> bool:
    """Say whether this kernel, for this user, has a feature.

    Arguments: feature, one of mountfd.Feature. Probed once for each process, by a call that changes nothing.
    """
    return feature.present


def features() -> dict[str, bool]:
    """Probe every feature: name to presence, in the order in which kernels learned them."""
    return {feature.name: feature.present for feature in Feature}


def forget() -> None:
    """Forget what was found: for a process that has changed its user namespace, where other things are allowed."""
    _found.clear()


def require(feature: Feature, why: str) -> None:
    """Raise NotSupported that names the feature unless it is there; `why` says what needs it.

    Raises: Denied where it was asked of somebody who may mount nothing, and whom the kernel therefore tells nothing.
    """
    if not feature.present:
        if feature.name in PRIVILEGED and not may_mount():
            hint = f"{why}, and that takes CAP_SYS_ADMIN in the user namespace that owns this mount namespace"
            raise from_errno(EPERM, feature.name.lower(), (), hint=hint)
        raise unsupported(feature.name, f"{why} (Linux {feature.since})")
