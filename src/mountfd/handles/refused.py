"""Why the kernel permits something to somebody else and not to this process: words for hints, found by looking.

The errno alone can't tell: EPERM is what comes without a capability, over a namespace of others, from a seccomp filter
and from a security module; ENOENT is what /proc says of a process that it hides.
"""

from __future__ import annotations

import os
from errno import EACCES

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.layouts import CapData, CapHeader
from mountfd.errors import Gone, KernelError, from_errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = [
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SYS_ADMIN",
    "CAP_SYS_CHROOT",
    "CLOSED",
    "LOCKED",
    "NO_PROC",
    "UNPRIVILEGED",
    "capabilities",
    "filter_or_module",
    "holds",
    "is_filtered",
    "is_foreign",
    "raise_without_process",
    "status",
    "why_no_filesystem",
    "why_not",
]

CAP_SETGID, CAP_SETUID, CAP_SYS_CHROOT, CAP_SYS_ADMIN, CAP_SETFCAP = 6, 7, 18, 21, 31
UNPRIVILEGED = (
    "mounting takes CAP_SYS_ADMIN in the user namespace that owns this mount namespace: be root, or use namespaces of "
    "your own (mountfd run; unshare --user --map-root-user --mount)"
)
LOCKED = "an attribute is locked: this mount came from a more privileged mount namespace, so it can't be cleared here"
CLOSED = "that process is closed to this one; after a change of its ids it is so to itself, too: prctl(PR_SET_DUMPABLE)"
NO_PROC = "there is no /proc of this pid namespace here; namespaces, ids and processes are found through it"
_ELSEWHERE = (
    "CAP_SYS_ADMIN is there, but in another user namespace than the one that owns this mount namespace: take a mount "
    "namespace of your own (unshare --mount)"
)
_HIDDEN = (
    "process {} is there, but this /proc doesn't show it: it hides other users' processes (mounted with hidepid=), or "
    "is that of another pid namespace"
)
_OF_OTHERS = (
    "a new {0} takes CAP_SYS_ADMIN in the user namespace that owns this {1} namespace, which is another one than this "
    "process's: take one of your own ({2})"
)
_OF_THE_MACHINE = "the kernel lets no user namespace mount {}: that takes CAP_SYS_ADMIN of the whole machine"
_INCOMPLETE = (
    "the kernel allows a new {} in a user namespace only where the one in place is complete: parts of it are covered "
    "here, or it isn't in sight, as in most containers"
)
_FILTER = "a seccomp filter is around this process, such as a container's default one, and may forbid {}"
_MODULE = "CAP_SYS_ADMIN is there: a security module (AppArmor, SELinux) may forbid {}"
_UNKNOWN = "CAP_SYS_ADMIN is there: a seccomp filter or a security module may forbid {}"

_FILTERED = "2"
# Which namespace's owner may make these: they show what is in it.
_SHOWING = {
    "proc": ("pid", "unshare --pid --fork"),
    "sysfs": ("net", "unshare --net; mountfd run --net none"),
    "mqueue": ("ipc", "unshare --ipc"),
    "cgroup": ("cgroup", "unshare --cgroup"),
    "cgroup2": ("cgroup", "unshare --cgroup"),
}
_REVEALING = ("proc", "sysfs")
# Those that a kernel lets user namespaces mount; of others than these the answer is certain.
_FOR_ALL = {*_SHOWING, "binfmt_misc", "bpf", "devpts", "fuse", "fuseblk", "overlay", "ramfs", "tmpfs"}


def capabilities() -> int:
    """Give the bits of this thread's effective capabilities in its user namespace, the first 32. Call: capget(2)."""
    header, held = CapHeader(n.LINUX_CAPABILITY_VERSION_3, 0), CapData()
    calls.capget(calls.reference(header), calls.reference(held))
    return int(held.effective)


def holds(capability: int) -> bool:
    """Say whether this thread has a capability, of the first 32, in its user namespace."""
    return bool(capabilities() >> capability & 1)


def status(name: str) -> str | None:
    """Give a value of this thread's /proc/PID/status; None where it can't be read."""
    try:
        with open("/proc/thread-self/status", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key == name:
                    return value.strip()
    except OSError:
        return None  # no /proc: what asks says less then
    return None


def why_not(call: str) -> str:
    """Say why a call about mounts is EPERM for this thread."""
    if not holds(CAP_SYS_ADMIN):
        return UNPRIVILEGED
    return _ELSEWHERE if is_foreign("mnt") else filter_or_module(f"{call}(2)")


def is_filtered() -> bool:
    """Say whether a seccomp filter is around this thread; False where that can't be told."""
    return status("Seccomp") == _FILTERED


def filter_or_module(what: str) -> str:
    """Say what may forbid something to who has the capabilities for it."""
    mode = status("Seccomp")
    if mode == _FILTERED:
        return _FILTER.format(what)
    return (_UNKNOWN if mode is None else _MODULE).format(what)


def why_no_filesystem(fstype: str, call: str) -> str | None:
    """Say why a filesystem's type makes a call EPERM for this thread; None where the type has nothing to do with it."""
    if not holds(CAP_SYS_ADMIN):
        return UNPRIVILEGED
    if _is_of_machine():
        return None
    kind, way = _SHOWING.get(fstype, ("", ""))
    if kind and is_foreign(kind):
        return _OF_OTHERS.format(fstype, kind, way)
    if fstype not in _FOR_ALL and call != "fsopen":
        return _OF_THE_MACHINE.format(fstype)
    # fsopen(2) and FSCONFIG_CMD_CREATE don't look at what the new one would reveal.
    return _INCOMPLETE.format(fstype) if fstype in _REVEALING and call in ("fsmount", "mount") else None


def is_foreign(kind: str) -> bool:
    """Say whether this thread's namespace of a kind belongs to another user namespace than it is in."""
    try:
        own = os.stat("/proc/thread-self/ns/user")
        namespace = calls.openat(n.AT_FDCWD, b"/proc/thread-self/ns/" + kind.encode(), os.O_RDONLY | os.O_CLOEXEC, 0)
    except OSError:
        return False  # it can't be told, and a guess would be no help
    try:
        owner = calls.ioctl_fd(namespace, n.NS_GET_USERNS, 0)
    except PermissionError:
        return True  # it lies outside of this one
    except KernelError:
        return False
    finally:
        os.close(namespace)
    try:
        return not os.path.samestat(own, os.fstat(owner))
    finally:
        os.close(owner)


def raise_without_process(error: KernelError, pid: int) -> NoReturn:
    """Raise what it means that a process's file in /proc isn't there.

    Raises: Gone; Denied where /proc hides the process; the error itself, explained, where there is no /proc.
    """
    if not os.path.exists("/proc/self"):
        error.explain(hint=NO_PROC)
        raise error
    if not os.path.lexists(f"/proc/{pid}") and _lives(pid):
        hint = _HIDDEN.format(pid)
        raise from_errno(EACCES, error.syscall, error.arguments, filename=error.filename, hint=hint) from error
    raise Gone(f"no process {pid}, or it has ended and its parent hasn't noticed yet") from error


def _lives(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _is_of_machine() -> bool:
    from mountfd.handles.namespace import in_initial_user_namespace  # noqa: PLC0415 (which has its own from here)

    return in_initial_user_namespace()
