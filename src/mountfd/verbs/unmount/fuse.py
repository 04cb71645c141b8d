"""FUSE: fusermount3(1), which lets users unmount what is theirs. No shell in between.

A caller's SIGCHLD handler may reap the program before we do, and its status with it: what counts is whether the mount
is gone.
"""

from __future__ import annotations

import os
from errno import EBUSY

from mountfd.abi import calls
from mountfd.errors import Missing, MountfdError, from_errno
from mountfd.handles.programs import PATH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.errors import KernelError
    from mountfd.verbs.unmount.target import Aim, Seen

__all__ = ["fusermount", "unmount_as_user"]

_FUSE = ("fuse", "fuseblk")
_DETACH = 2
_LOG = 65536
_BUSY = "resource busy"  # in the words of the C locale
_NOT_ALLOWED = (
    "unmounting takes CAP_SYS_ADMIN in the user namespace that owns this mount namespace; for force, in that of the "
    "filesystem too"
)


def fusermount(point: str, *, lazy: bool) -> list[str]:
    """Let fusermount3, or else fusermount, unmount what is on top at a path; give what it said. Raises nothing.

    Where neither is installed nothing is done and nothing said.
    """
    from shutil import which  # noqa: PLC0415 (only for FUSE)

    path = f"{os.environ.get('PATH', '')}:{PATH}"
    program = which("fusermount3", path=path) or which("fusermount", path=path)
    if program is None:
        calls.remark("unmount: neither fusermount3 nor fusermount is installed")
        return []
    import subprocess  # noqa: PLC0415 (only for FUSE)

    argv = [program, "-u", *(["-z"] if lazy else []), "--", point]
    log = os.memfd_create("mountfd-fusermount", os.MFD_CLOEXEC)
    try:
        env = {**os.environ, "PATH": path, "LC_ALL": "C"}
        subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
        said = os.pread(log, _LOG, 0).decode(errors="replace").splitlines()
    except OSError as error:
        said = [f"{program} can't be run: {error.strerror}"]
    finally:
        os.close(log)
    calls.remark(f"unmount: {' '.join(argv)}: {' '.join(said) or 'no complaint'}")
    return [line for line in said if line.strip()]


def unmount_as_user(error: KernelError, aim: Aim, seen: Seen, flags: int) -> None:
    """Unmount a FUSE filesystem for a user whom umount2(2) refused; raise that error where that doesn't go either."""
    from mountfd.verbs.query import lookup  # noqa: PLC0415 (only on the way out of an error)

    try:
        info = lookup(aim.raw, fields=("fstype", "point"), follow=aim.follow)
    except MountfdError as trouble:
        calls.remark(f"unmount: can't tell whether it is FUSE: {trouble}")
        info = None
    if info is None or info.fstype not in _FUSE or info.point is None:
        error.explain(hint=_NOT_ALLOWED)
        raise error
    said = fusermount(info.point, lazy=bool(flags & _DETACH))
    if not _is_there(aim, seen):
        return
    if any(_BUSY in line for line in said):
        raise from_errno(EBUSY, "fusermount3", (info.point,), filename=aim.path, log=said) from error
    error.explain(hint=_NOT_ALLOWED, log=said)
    raise error


def _is_there(aim: Aim, seen: Seen) -> bool:
    try:
        again = aim.look()
    except Missing:
        return False
    return again.is_root and again.number == seen.number
