"""Linux mounts as file descriptors.

    abi        what Linux says: numbers, flags, layouts, the one door to the kernel
    model      values: parameters, idmaps, overlays
    handles    things that own one descriptor: Mount, FsContext, UserNamespace
    verbs      what one would say: assemble, run, is_mount, lookup, mounts
    cli        the command line

The public names below are loaded on first use; importing this package does no work.
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.abi.features import Feature, features, has
    from mountfd.abi.flags import Attr, Propagation
    from mountfd.abi.trace import trace
    from mountfd.errors import (
        Busy,
        Denied,
        Exists,
        Gone,
        InvalidSpec,
        KernelError,
        LimitReached,
        Missing,
        MountfdError,
        NotDirectory,
        NotSupported,
    )
    from mountfd.handles.context import FsContext
    from mountfd.handles.loop import LoopDevice
    from mountfd.handles.mount import Mount
    from mountfd.handles.namespace import UserNamespace
    from mountfd.handles.root import Root
    from mountfd.model import param
    from mountfd.model.command import Bind
    from mountfd.model.event import Event
    from mountfd.model.holder import Holder
    from mountfd.model.idmap import IdMap
    from mountfd.model.info import MountInfo
    from mountfd.model.overlay import Layer, Overlay
    from mountfd.model.spec import MountSpec
    from mountfd.model.table import MountTable
    from mountfd.verbs.advertise import advertise, advertised
    from mountfd.verbs.assemble import assemble
    from mountfd.verbs.handing import lock_mount, receive_mount, send_mount
    from mountfd.verbs.holders import holders
    from mountfd.verbs.mount import detached, mount, mount_all
    from mountfd.verbs.namespaces import MountNamespace
    from mountfd.verbs.query import is_mount, lookup, mounts
    from mountfd.verbs.replace import Previous, replace
    from mountfd.verbs.replace.everywhere import PartlyReplaced
    from mountfd.verbs.run import run
    from mountfd.verbs.temporary import Finding, sweep, temporary, temporary_path
    from mountfd.verbs.unmount import unmount, unmount_all
    from mountfd.verbs.watch import watch

__all__ = [
    "Attr",
    "Bind",
    "Busy",
    "Denied",
    "Event",
    "Exists",
    "Feature",
    "Finding",
    "FsContext",
    "Gone",
    "Holder",
    "IdMap",
    "InvalidSpec",
    "KernelError",
    "Layer",
    "LimitReached",
    "LoopDevice",
    "Missing",
    "Mount",
    "MountInfo",
    "MountNamespace",
    "MountSpec",
    "MountTable",
    "MountfdError",
    "NotDirectory",
    "NotSupported",
    "Overlay",
    "PartlyReplaced",
    "Previous",
    "Propagation",
    "Root",
    "UserNamespace",
    "advertise",
    "advertised",
    "assemble",
    "detached",
    "features",
    "has",
    "holders",
    "is_mount",
    "lock_mount",
    "lookup",
    "mount",
    "mount_all",
    "mounts",
    "param",
    "receive_mount",
    "replace",
    "run",
    "send_mount",
    "sweep",
    "temporary",
    "temporary_path",
    "trace",
    "unmount",
    "unmount_all",
    "watch",
]

_HOMES = {
    "mountfd.abi.features": "Feature features has",
    "mountfd.abi.flags": "Attr Propagation",
    "mountfd.abi.trace": "trace",
    "mountfd.errors": "Busy Denied Exists Gone InvalidSpec KernelError LimitReached Missing MountfdError "
    "NotDirectory NotSupported",
    "mountfd.handles.context": "FsContext",
    "mountfd.handles.loop": "LoopDevice",
    "mountfd.handles.mount": "Mount",
    "mountfd.handles.namespace": "UserNamespace",
    "mountfd.handles.root": "Root",
    "mountfd.model.command": "Bind",
    "mountfd.model.event": "Event",
    "mountfd.model.holder": "Holder",
    "mountfd.model.idmap": "IdMap",
    "mountfd.model.info": "MountInfo",
    "mountfd.model.overlay": "Layer Overlay",
    "mountfd.model.spec": "MountSpec",
    "mountfd.model.table": "MountTable",
    "mountfd.verbs.advertise": "advertise advertised",
    "mountfd.verbs.assemble": "assemble",
    "mountfd.verbs.handing": "lock_mount receive_mount send_mount",
    "mountfd.verbs.holders": "holders",
    "mountfd.verbs.mount": "detached mount mount_all",
    "mountfd.verbs.namespaces": "MountNamespace",
    "mountfd.verbs.query": "is_mount lookup mounts",
    "mountfd.verbs.replace": "Previous replace",
    "mountfd.verbs.replace.everywhere": "PartlyReplaced",
    "mountfd.verbs.run": "run",
    "mountfd.verbs.temporary": "Finding sweep temporary temporary_path",
    "mountfd.verbs.unmount": "unmount unmount_all",
    "mountfd.verbs.watch": "watch",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    from importlib import import_module  # noqa: PLC0415 (importing this package does no work)

    if name in ("param", "lowlevel"):
        module = "mountfd.model.param" if name == "param" else "mountfd.lowlevel"
        value: object = import_module(module)
    elif name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module 'mountfd' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "lowlevel"})
