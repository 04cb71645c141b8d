"""examine: what this kernel and this user can do, found by trying, and which route each verb takes here."""

from __future__ import annotations

import contextlib
import os
from errno import ENOENT, ENOSYS, EPERM

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.features import Feature
from mountfd.errors import InvalidSpec, KernelError, NotSupported, from_errno
from mountfd.handles.context import FsContext
from mountfd.handles.mount import Mount
from mountfd.handles.mountns import MountNamespace
from mountfd.handles.namespace import in_initial_user_namespace, write_id_maps
from mountfd.handles.refused import CAP_SYS_ADMIN, NO_PROC, holds, why_not
from mountfd.model.command import DEFAULT_IDMAP
from mountfd.model.idmap import Extent, IdMap
from mountfd.model.points import points
from mountfd.verbs import assemble, mount, replace, watch
from mountfd.verbs.namespaces import making
from mountfd.verbs.routes import forget
from mountfd.verbs.run.inside import fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

__all__ = ["examine"]


def _assemble_route() -> str:
    name = assemble.route()
    if name == "fuse":
        from mountfd.verbs.assemble.by_fuse import check_program  # noqa: PLC0415 (only where the kernel's is refused)

        check_program()
    return name


_ROUTES: dict[str, Callable[[], str]] = {
    "assemble": _assemble_route,
    "mount": mount.route,
    "replace": replace.route,
    "namespace": making.route,
    "watch": watch.route,
}

_ATTACHED = ("fsopen", "open_tree", "unshare", "mount", "move_mount")
_PIVOTED = ("open_tree", "mount_setattr", "unshare", "setns", "move_mount", "pivot_root")
# Which calls each route of each verb can't do without.
_NEEDS: dict[str, dict[str, tuple[str, ...]]] = {
    "assemble": {
        "descriptor": ("fsopen", "open_tree"),
        "path": _ATTACHED,
        "string": _ATTACHED,
        "fuse": ("open_tree", "setns", "move_mount", "pivot_root"),
    },
    "mount": {"descriptor": ("fsopen", "open_tree", "mount_setattr", "move_mount"), "string": ("mount",)},
    "replace": {"beneath": ("open_tree", "move_mount"), "gap": ("open_tree", "move_mount")},
    "namespace": {
        "open_tree": ("open_tree", "mount_setattr"),
        "template": ("fsopen", *_PIVOTED),
        "unshare": (*_PIVOTED, "mount"),
    },
    "watch": {},
}
_NO_FD, _EMPTY_PATHS = -1, 0x44  # MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
_CLONE = 1 | os.O_CLOEXEC | n.AT_EMPTY_PATH
_CALLS: dict[str, Callable[[], object]] = {
    "fsopen": lambda: calls.fsopen(b"", 0),
    "open_tree": lambda: calls.open_tree(_NO_FD, b"", _CLONE),
    "move_mount": lambda: calls.move_mount(_NO_FD, b"", _NO_FD, b"", _EMPTY_PATHS),
    "mount_setattr": lambda: calls.mount_setattr(_NO_FD, b"", n.AT_EMPTY_PATH, None, 0),
    "mount": lambda: calls.mount(None, b"", None, 0, None),
    "setns": lambda: calls.setns(_NO_FD, 0),
    "unshare": lambda: calls.unshare(0),
    "pivot_root": lambda: calls.pivot_root(b"", b""),
}
_UNPRIVILEGED = "none: it takes CAP_SYS_ADMIN in the user namespace that owns this mount namespace"

_LIMITS = {
    "fs.mount-max": "/proc/sys/fs/mount-max",
    "user.max_user_namespaces": "/proc/sys/user/max_user_namespaces",
    "user.max_mnt_namespaces": "/proc/sys/user/max_mnt_namespaces",
}
_ENTERED, _MAPPED, _BLOCK = b"u", b"g", 65536
_NEWNS, _NEWUSER = 0x20000, 0x10000000


def examine() -> dict[str, object]:
    """Find out what can be done here: kernel, user, features, routes, limits and which filesystems can be idmapped.

    Every answer comes from trying it or from /proc; nothing is changed, and nothing stays attached. "inside" tells
    somebody who may not mount here what a user namespace of one's own, as `run` makes it, allows: user, features and
    routes, or why there is none; it is None for those who may.
    Raises: Missing where there is no /proc.
    """
    user = _user()
    return {
        "kernel": os.uname().release,
        "machine": os.uname().machine,
        "user": user,
        "features": [
            {
                "name": feature.name,
                "present": _is_usable(feature),
                "since": feature.since,
                "use": feature.use,
                "otherwise": feature.otherwise,
            }
            for feature in Feature
        ],
        "routes": {verb: _route(verb) for verb in _ROUTES},
        "limits": {**{name: _number(path) for name, path in _LIMITS.items()}, "mounts now": _mounts_now()},
        "idmapped": _idmappable(),
        "inside": None if user["CAP_SYS_ADMIN"] else _inside(),
    }


def _inside() -> dict[str, object]:
    """Let a child become root of a new user namespace, and ask there."""
    import json  # noqa: PLC0415 (not for root)
    import socket  # noqa: PLC0415

    own = IdMap([Extent(0, os.geteuid(), 1)], [Extent(0, os.getegid(), 1)])
    here, there = socket.socketpair()
    with here, there:
        pid = fork()
        if pid == 0:
            try:
                here.close()
                _answer_inside(there)
            finally:
                os._exit(0)  # whatever went wrong: the answer isn't whole then
        there.close()
        try:
            said = here.recv(1)
            if said == _ENTERED:
                write_id_maps(pid, own)  # from outside, as `run` does it: here programs can help that know the user
                here.send(_MAPPED)
                said = b""
            while block := here.recv(_BLOCK):
                said += block
            answer: dict[str, object] = json.loads(said)
        except KernelError as error:
            return _refused(error)
        except (ValueError, ConnectionError):
            return {"refused": "asking ended without an answer"}
        finally:
            here.close()  # so a child that waits for its ids ends
            with contextlib.suppress(ChildProcessError):  # a caller who ignores SIGCHLD
                os.waitpid(pid, 0)
    return answer


def _answer_inside(parent: socket.socket) -> None:
    import json  # noqa: PLC0415 (loaded before the fork)

    try:
        calls.unshare(_NEWUSER | _NEWNS)
    except KernelError as error:
        parent.sendall(json.dumps(_refused(error)).encode())
        return
    parent.send(_ENTERED)
    if parent.recv(1) == _MAPPED:
        forget()
        answer = {
            "user": _user(),
            "features": {feature.name: _is_usable(feature) for feature in Feature},
            "routes": {verb: _route(verb) for verb in _ROUTES},
        }
        parent.sendall(json.dumps(answer).encode())


def _refused(error: KernelError) -> dict[str, object]:
    return {"refused": f"{error} ({error.hint or 'a chroot, AppArmor, seccomp or sysctl'})"}


def _user() -> dict[str, object]:
    status = _status()
    effective = int(status.get("CapEff", "0"), 16)
    return {
        "uid": os.geteuid(),
        "initial user namespace": in_initial_user_namespace(),
        "CAP_SYS_ADMIN": bool(effective >> CAP_SYS_ADMIN & 1),
        "seccomp filter": status.get("Seccomp", "0") == "2",
    }


def _status() -> dict[str, str]:
    try:
        file = open("/proc/self/status", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115 (closed below)
    except FileNotFoundError:
        raise from_errno(ENOENT, "openat", filename="/proc/self/status", hint=NO_PROC) from None
    with file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}


def _is_usable(feature: Feature) -> bool:
    """Say whether this kernel has a feature for this user: of one the kernel lets anybody take the first step."""
    if feature is not Feature.FANOTIFY_MOUNTS or not feature.present:
        return feature.present
    from mountfd.verbs.watch.fanotify import is_possible  # noqa: PLC0415 (where the kernel has it)

    with MountNamespace.current() as here:
        return is_possible(here)


def _route(verb: str) -> str:
    """Name the route that a verb takes, if what it is made of is allowed here; else say what is missing."""
    try:
        name = _chosen(verb)
        needed = _NEEDS[verb].get(name, ())
        if needed and not holds(CAP_SYS_ADMIN):
            return _UNPRIVILEGED
        for call in needed:
            _require(call)
    except (KernelError, InvalidSpec) as error:
        hint = getattr(error, "hint", None)
        return f"none: {error} ({hint})" if hint else f"none: {error}"
    return name


def _chosen(verb: str) -> str:
    try:
        return _ROUTES[verb]()
    except NotSupported as error:
        for call in dict.fromkeys(each for names in _NEEDS[verb].values() for each in names):
            try:
                _require(call)
            except KernelError as cause:
                raise cause from error  # says more than that there is no route
        raise


def _require(call: str) -> None:
    """Make a call that comes no further than to whether it is allowed; raise what the kernel or a filter says then."""
    try:
        _CALLS[call]()
    except KernelError as error:
        if error.errno == EPERM:
            error.explain(hint=why_not(call))
        if error.errno in (EPERM, ENOSYS):
            raise


def _number(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (FileNotFoundError, PermissionError):
        return None


def _mounts_now() -> int:
    with open("/proc/self/mountinfo", "rb") as table:
        return sum(1 for _ in table)


def _idmappable() -> dict[str, bool | None]:
    """Try a scratch clone of one mount of each filesystem in the table, and a tmpfs; None where it can't be tried."""
    found: dict[str, bool | None] = {"tmpfs": _try_tmpfs()}
    with open("/proc/self/mountinfo", "rb") as table:
        for point, fstype in points(table):
            if found.get(fstype) is None and fstype != "autofs":  # looking at one mounts what it stands for
                found[fstype] = _try_mount(point)
    return dict(sorted(found.items()))


def _try_tmpfs() -> bool | None:
    try:
        with FsContext.open("tmpfs") as context, context.create().mount() as mount:
            return _try(mount)
    except KernelError:
        return None


def _try_mount(point: bytes) -> bool | None:
    try:
        with Mount.clone(point) as clone:
            return _try(clone)
    except KernelError:
        return None  # covered, unbindable or out of reach: says nothing about its filesystem


def _try(mount: Mount) -> bool | None:
    try:
        mount.idmap(DEFAULT_IDMAP)
    except PermissionError:
        return None  # already idmapped, or not this user's to map
    except KernelError:
        return False
    return True
