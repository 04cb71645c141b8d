"""What is different in a user namespace, where ordinary users mount: asked once, of the kernel itself."""

from __future__ import annotations

import os
from errno import EACCES, EPERM

from mountfd.abi import calls
from mountfd.abi.features import Feature, has
from mountfd.errors import KernelError
from mountfd.handles.context import FsContext
from mountfd.handles.fd import OwnedFd
from mountfd.handles.namespace import in_initial_user_namespace
from mountfd.model.param import Fd, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountfd.model.param import Param

__all__ = ["is_overlay_refused", "marks"]

_OF_PRIVILEGE = {"redirect_dir": ("on", "follow"), "metacopy": ("on",)}


def marks(options: Iterable[Param]) -> list[Param]:
    """Give the option for the marks that overlayfs needs on files here; none where options are given that forbid it.

    In a user namespace the kernel's usual marks (trusted.overlay.*) can be neither written nor read, and without marks
    a directory of a lower layer can't be removed or replaced: EIO. Those of userxattr can.
    """
    for option in options:
        value = getattr(option, "value", None)
        if option.key == "userxattr" or value in _OF_PRIVILEGE.get(option.key, ()):
            return []
    return [] if in_initial_user_namespace() else [Flag("userxattr")]


def is_overlay_refused() -> bool:
    """Say whether somebody who may mount other filesystems is refused the kernel's overlay; found by trying."""
    if not has(Feature.OVERLAY):
        return has(Feature.MOUNT_API) and _errno_of_tmpfs() == 0
    # Root of the machine may whatever the kernel can. Others are asked about at the last step, not before.
    return not in_initial_user_namespace() and _errno_of_overlay() in (EPERM, EACCES)


def _errno_of_tmpfs() -> int:
    try:
        FsContext.open("tmpfs").close()
    except KernelError as error:
        return error.errno
    return 0


def _errno_of_overlay() -> int:
    """Make a scratch overlay, attached nowhere; where layers can't be given so, ask for one without any."""
    try:
        with (
            FsContext.open("tmpfs") as context,
            context.create().mount() as tmpfs,
            FsContext.open("overlay") as overlay,
        ):
            for name in (b"a", b"b") if has(Feature.OVERLAY_LAYER_DETACHED) else ():
                calls.mkdirat(tmpfs.fileno(), name, 0o700)
                with OwnedFd(calls.openat(tmpfs.fileno(), name, os.O_PATH | os.O_CLOEXEC, 0)) as layer:
                    overlay.set(Fd("lowerdir+", layer.fileno()))
            overlay.create()
    except KernelError as error:
        return error.errno
    return 0
