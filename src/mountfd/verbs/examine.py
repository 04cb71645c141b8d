"""examine: what this kernel and this user can do, found by trying, and which route each verb takes here."""

from __future__ import annotations

import contextlib
import os

from mountfd.abi import calls
from mountfd.abi.features import Feature
from mountfd.errors import InvalidSpec, KernelError, NotSupported
from mountfd.handles.context import FsContext
from mountfd.handles.mount import Mount
from mountfd.handles.namespace import in_initial_user_namespace, write_id_maps
from mountfd.model.command import DEFAULT_IDMAP
from mountfd.model.idmap import Extent, IdMap
from mountfd.model.points import points
from mountfd.verbs import assemble, mount, replace, watch
from mountfd.verbs.namespaces import making
from mountfd.verbs.routes import forget
from mountfd.verbs.run.inside import fork

TYPE_CHECKING = False
if TYPE_CHECKING:
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

_LIMITS = {
    "fs.mount-max": "/proc/sys/fs/mount-max",
    "user.max_user_namespaces": "/proc/sys/user/max_user_namespaces",
    "user.max_mnt_namespaces": "/proc/sys/user/max_mnt_namespaces",
}
_CAP_SYS_ADMIN = 21
_NEWNS, _NEWUSER = 0x20000, 0x10000000


def examine() -> dict[str, object]:
    """Find out what can be done here: kernel, user, features, routes, limits and which filesystems can be idmapped.

    Every answer comes from trying it or from /proc; nothing is changed, and nothing stays attached. "inside" tells
    somebody who may not mount here what a user namespace of one's own, as `run` makes it, allows: user, features and
    routes, or why there is none; it is None for those who may.
    """
    user = _user()
    return {
        "kernel": os.uname().release,
        "machine": os.uname().machine,
        "user": user,
        "features": [
            {
                "name": feature.name,
                "present": feature.present,
                "since": feature.since,
                "use": feature.use,
                "otherwise": feature.otherwise,
            }
            for feature in Feature
        ],
        "routes": {verb: _route(ask) for verb, ask in _ROUTES.items()},
        "limits": {**{name: _number(path) for name, path in _LIMITS.items()}, "mounts now": _mounts_now()},
        "idmapped": _idmappable(),
        "inside": None if user["CAP_SYS_ADMIN"] else _in_child(_inside),
    }


def _inside() -> dict[str, object]:
    """Become root of a new user namespace, and ask there."""
    own = IdMap([Extent(0, os.geteuid(), 1)], [Extent(0, os.getegid(), 1)])
    try:
        calls.unshare(_NEWUSER | _NEWNS)
        write_id_maps(os.getpid(), own)
    except KernelError as error:
        return {"refused": f"{error} ({error.hint or 'a chroot, AppArmor, seccomp or sysctl'})"}
    forget()
    return {
        "user": _user(),
        "features": {feature.name: feature.present for feature in Feature},
        "routes": {verb: _route(ask) for verb, ask in _ROUTES.items()},
    }


def _in_child(ask: Callable[[], dict[str, object]]) -> dict[str, object]:
    """Give a function's answer from a forked child, which may change its namespaces."""
    import json  # noqa: PLC0415 (not for root)

    reading, writing = os.pipe()
    pid = fork()
    if pid == 0:
        try:
            with os.fdopen(writing, "w", encoding="utf-8") as pipe:
                json.dump(ask(), pipe)
        finally:
            os._exit(0)  # whatever went wrong: the answer isn't whole then
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        said = pipe.read()
    with contextlib.suppress(ChildProcessError):  # a caller who ignores SIGCHLD
        os.waitpid(pid, 0)
    try:
        answer: dict[str, object] = json.loads(said)
    except ValueError:
        return {"refused": "asking ended without an answer"}
    return answer


def _user() -> dict[str, object]:
    status = _status()
    effective = int(status.get("CapEff", "0"), 16)
    return {
        "uid": os.geteuid(),
        "initial user namespace": in_initial_user_namespace(),
        "CAP_SYS_ADMIN": bool(effective >> _CAP_SYS_ADMIN & 1),
        "seccomp filter": status.get("Seccomp", "0") == "2",
    }


def _status() -> dict[str, str]:
    with open("/proc/self/status", encoding="utf-8", errors="surrogateescape") as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}


def _route(ask: Callable[[], str]) -> str:
    try:
        return ask()
    except NotSupported as error:
        return f"none: {error} ({error.hint})"
    except (KernelError, InvalidSpec) as error:
        return f"none: {error}"


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
