"""This side of a command before it starts: what is made, detached, and the fork into the new namespaces."""

from __future__ import annotations

import os
from contextlib import nullcontext
from errno import EINVAL, EPERM

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.errors import KernelError, unsupported
from mountfd.handles.context import FsContext
from mountfd.handles.mount import Mount
from mountfd.handles.namespace import in_initial_user_namespace, shared_user_namespace
from mountfd.handles.refused import capabilities
from mountfd.model.command import DEFAULT_IDMAP
from mountfd.verbs.enter import leave_the_hosts
from mountfd.verbs.run.arrange import lay_out, preload, take_ground
from mountfd.verbs.run.following import Vigil, end, follow
from mountfd.verbs.run.furnish import furnish
from mountfd.verbs.run.ground import tiny_ground
from mountfd.verbs.run.hostroot import host_root, layered_root
from mountfd.verbs.run.inside import FAILED, Scene, become_root, fork, guarded, keeper, leave_groups, namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from mountfd.handles.fd import OwnedFd
    from mountfd.handles.namespace import UserNamespace
    from mountfd.model.command import Command
    from mountfd.model.idmap import IdMap

__all__ = ["perform"]

# CAP_CHOWN, CAP_SETGID, CAP_SETUID, CAP_SYS_CHROOT, CAP_SYS_ADMIN; and what stands in for owning the files.
_SYS_ADMIN, _SET_IDS = 1 << 21, 1 << 6 | 1 << 7
_OF_RUN = 1 << 0 | _SET_IDS | 1 << 18 | _SYS_ADMIN
_OF_OWNER = 1 << 1 | 1 << 3  # CAP_DAC_OVERRIDE, CAP_FOWNER

_OF_IDMAPS = ("mount_setattr", "write", "clone")
_WHY_NOT_ROOT = (
    "root without the capabilities to mount (CAP_SYS_ADMIN and others) runs commands in a user namespace, which is "
    "refused here: "
)
_WHY_NOT_OTHERS = "user namespaces are not for ordinary users here: "
_WHO_REFUSES = "a chroot, AppArmor, seccomp or sysctl"

_NEWNS = 0x20000
_NEWUSER = 0x10000000


def perform(command: Command, root: Mount | None, note: Callable[[str], None]) -> int:
    """Run a command and wait for it. Arguments and errors are those of `run`."""
    with Vigil() as vigil:
        from_here, report = os.pipe2(os.O_CLOEXEC)
        scene = Scene(command, report, vigil, root)
        try:
            try:
                preload(command)
                pid = _start(scene, note)
            finally:
                os.close(report)
            for furnishing in scene.furnishings:
                furnishing.mount.close()
            # The root stays open: its handle holds the lock on the work layer.
            return follow(vigil, pid, from_here, note)
        finally:
            scene.close()
            os.close(from_here)


def _start(scene: Scene, note: Callable[[str], None]) -> int:
    """Start the command the way that this process's privileges allow; uid 0 may lack them, and others may have them."""
    nested = not in_initial_user_namespace()
    held = capabilities()
    if not _are_enough(held, scene.command.idmap) or (nested and not _owns_mounts()):
        return _start_as_other(scene, note, held)
    if nested and scene.command.idmap is DEFAULT_IDMAP:
        from mountfd.verbs.run.unprivileged import are_here, ids_here  # noqa: PLC0415 (the machine's root does without)

        if not (are_here(DEFAULT_IDMAP) and _can_idmap("/", DEFAULT_IDMAP)):
            whole = ids_here()
            if whole is None:
                return _start_as_other(scene, note, held)
            scene.command.idmap = whole
    return _start_as_root(scene, note, nested=nested)


def _are_enough(held: int, idmap: IdMap | None) -> bool:
    """Say whether these capabilities are what it takes to make everything outside, and to become root inside."""
    if idmap is None:
        return os.geteuid() == 0 and bool(held & _SYS_ADMIN)
    needed = _OF_RUN if os.geteuid() == 0 else _OF_RUN | _OF_OWNER
    return held & needed == needed


def _owns_mounts() -> bool:
    """Say whether this mount namespace is this user namespace's own, so that capabilities here count for it."""
    try:
        FsContext.open("tmpfs").close()
    except KernelError as error:
        if error.errno != EPERM:
            raise
        return False
    return True


def _can_idmap(path: str, idmap: IdMap) -> bool:
    """Say whether files can be shown under other ids here: seldom in a user namespace, as they are others'."""
    try:
        with Mount.clone(path, recursive=True) as mount:
            mount.idmap(idmap)
    except KernelError as error:
        if error.errno not in (EINVAL, EPERM):
            raise
        return False
    return True


# --- as root -------------------------------------------------------------------------------------------------------
def _start_as_root(scene: Scene, note: Callable[[str], None], *, nested: bool) -> int:
    command = scene.command
    seen = None if command.idmap is not None and command.idmap.is_identity else command.idmap
    try:
        namespace = shared_user_namespace(command.idmap) if command.idmap is not None else None
        _prepare(scene, seen, userxattr=nested, note=note)
    except KernelError as error:
        if seen is not None and error.errno in (EINVAL, EPERM) and error.syscall in _OF_IDMAPS:
            as_they_are = "leave out --idmap" if nested else "there is --idmap 0:0:65536"
            error.add_note(
                f"hint: without an idmapped root {as_they_are} (root inside is root outside, but for its capabilities) "
                f"{'or take' if nested else 'and'} --idmap none (no user namespace at all)"
            )
        raise
    if command.idmap is not None:
        _hand_over_pipes(command.idmap)
    with tiny_ground() if namespace is not None else nullcontext() as ground:
        pid = fork()
        if pid == 0:
            guarded(scene.report, lambda: keeper(scene, lambda: _enter(scene, namespace, ground)))
    return pid


def _enter(scene: Scene, namespace: UserNamespace | None, ground: OwnedFd | None) -> None:
    if namespace is None:
        calls.unshare(namespaces(scene.command))
        leave_the_hosts()
        return
    if ground is not None:
        calls.setns(ground.fileno(), _NEWNS)
    else:
        calls.unshare(_NEWNS)
        leave_the_hosts()
        take_ground()
    idmap = scene.command.idmap
    assert idmap is not None  # noqa: S101 (the namespace was made of it)
    lay_out(scene.root, scene.furnishings, idmap.root, scene.note)
    scene.laid_out = True
    leave_groups()  # not inside: whose user isn't root has that denied there
    # Other commands may live in that user namespace, and their root could look into this copy of the caller's memory.
    calls.prctl(n.PR_SET_DUMPABLE, 0, 0, 0, 0)
    calls.setns(namespace.fileno(), _NEWUSER)
    become_root()
    calls.unshare(namespaces(scene.command))


def _hand_over_pipes(idmap: IdMap) -> None:
    """Let the inside's root own standard pipes: /dev/stdout opens them anew, which only their owner may."""
    for fd in (0, 1, 2):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:["):
                os.fchown(fd, *idmap.root)
        except OSError:
            continue  # closed, or a pipe of a namespace that isn't ours: it can be read and written all the same


# --- as somebody else ----------------------------------------------------------------------------------------------
def _start_as_other(scene: Scene, note: Callable[[str], None], held: int) -> int:
    command = scene.command
    if scene.root is not None:
        raise unsupported("CAP_SYS_ADMIN", "a Mount given as root= was made with privilege: run needs the same")
    if command.idmap is None:
        why = "only root with CAP_SYS_ADMIN here can do without a user namespace of the command's own (--idmap none)"
        raise unsupported("CAP_SYS_ADMIN", why)
    from mountfd.verbs.run.unprivileged import ways  # noqa: PLC0415 (root does without)

    possible = ways(command.idmap, note, may_set_ids=held & _SET_IDS == _SET_IDS)
    command.idmap = None  # files are seen through the user namespace itself
    started = None
    while started is None:
        started = _start_with(possible.pop(0), scene)
    return started


def _start_with(give_ids: Callable[[int], bool], scene: Scene) -> int | None:
    """Start the command with this way to map its ids; None where it turned out to be none."""
    import socket  # noqa: PLC0415 (root does without)

    here, there = socket.socketpair()
    with here, there:
        pid = fork()
        if pid == 0:
            here.close()
            guarded(scene.report, lambda: keeper(scene, lambda: _enter_as_other(scene, there)))
        there.close()
        try:
            if not here.recv(1):
                return pid  # it couldn't; its report says why
            if give_ids(pid):
                here.send(b"g")
                return pid
        except BaseException:
            end(pid)
            raise
    end(pid)
    return None


def _enter_as_other(scene: Scene, parent: socket.socket) -> None:
    uid = os.geteuid()
    try:
        calls.unshare(_NEWUSER | namespaces(scene.command))
    except KernelError as error:
        if error.errno == EPERM:
            error.explain(hint=(_WHY_NOT_ROOT if uid == 0 else _WHY_NOT_OTHERS) + _WHO_REFUSES)
        raise
    parent.send(b"u")
    if not parent.recv(1):
        os._exit(FAILED)  # the parent couldn't map ids, and does something about it itself
    leave_groups()
    become_root()
    leave_the_hosts()
    _prepare(scene, None, userxattr=True, note=scene.note)


# --- for both ------------------------------------------------------------------------------------------------------
def _prepare(scene: Scene, idmap: IdMap | None, *, userxattr: bool, note: Callable[[str], None]) -> None:
    """Make the root and what stands in it, detached."""
    command = scene.command
    host = scene.root is None and not command.layers
    if host:
        scene.root, extra = host_root(command, idmap, userxattr=userxattr, note=note)
        scene.furnishings += extra
    elif scene.root is None:
        scene.root = layered_root(command, idmap, userxattr=userxattr)
    scene.furnishings += furnish(command, idmap, host=host)
