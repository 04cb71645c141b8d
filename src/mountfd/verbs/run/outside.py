"""This side of a command before it starts: what is made, detached, and the fork into the new namespaces."""

from __future__ import annotations

import os
from contextlib import nullcontext
from errno import EINVAL, EPERM

from mountfd.abi import calls
from mountfd.errors import KernelError, unsupported
from mountfd.handles.namespace import in_initial_user_namespace, shared_user_namespace
from mountfd.model.command import DEFAULT_IDMAP
from mountfd.verbs.enter import take_namespace_root
from mountfd.verbs.run.arrange import lay_out, preload, take_ground
from mountfd.verbs.run.following import Vigil, end, follow
from mountfd.verbs.run.furnish import furnish
from mountfd.verbs.run.ground import tiny_ground
from mountfd.verbs.run.hostroot import host_root, layered_root
from mountfd.verbs.run.inside import FAILED, Scene, become_root, fork, guarded, keeper, namespaces, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from mountfd.handles.fd import OwnedFd
    from mountfd.handles.mount import Mount
    from mountfd.handles.namespace import UserNamespace
    from mountfd.model.command import Command
    from mountfd.model.idmap import IdMap

__all__ = ["perform"]

_NEWNS = 0x20000
_NEWUSER = 0x10000000
_MS_REC_PRIVATE = 16384 | 1 << 18


def perform(command: Command, root: Mount | None, note: Callable[[str], None]) -> int:
    """Run a command and wait for it. Arguments and errors are those of `run`."""
    with Vigil() as vigil:
        from_here, report = os.pipe2(os.O_CLOEXEC)
        scene = Scene(command, report, vigil, root)
        try:
            try:
                preload(command)
                pid = _start_as_root(scene, note) if os.geteuid() == 0 else _start_as_other(scene, note)
            finally:
                os.close(report)
            for furnishing in scene.furnishings:
                furnishing.mount.close()
            # The root stays open: its handle holds the lock on the work layer.
            return follow(vigil, pid, from_here, note)
        finally:
            scene.close()
            os.close(from_here)


# --- as root -------------------------------------------------------------------------------------------------------
def _start_as_root(scene: Scene, note: Callable[[str], None]) -> int:
    command = scene.command
    nested = not in_initial_user_namespace()
    try:
        namespace = shared_user_namespace(command.idmap) if command.idmap is not None else None
        seen = None if command.idmap is not None and command.idmap.is_identity else command.idmap
        _prepare(scene, seen, userxattr=nested, note=note)
    except KernelError as error:
        if command.idmap is not None and error.errno in (EINVAL, EPERM):
            error.add_note(
                "hint: without an idmapped root there is --idmap 0:0:65536 (root inside is root outside, but for its "
                "capabilities) and --idmap none (no user namespace at all)"
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
        _leave_the_hosts()
        return
    if ground is not None:
        calls.setns(ground.fileno(), _NEWNS)
    else:
        calls.unshare(_NEWNS)
        _leave_the_hosts()
        take_ground()
    idmap = scene.command.idmap
    assert idmap is not None  # noqa: S101 (the namespace was made of it)
    lay_out(scene.root, scene.furnishings, idmap.root)
    scene.laid_out = True
    calls.setns(namespace.fileno(), _NEWUSER)
    become_root(groups=True)
    calls.unshare(namespaces(scene.command))


def _leave_the_hosts() -> None:
    """Have this process's new mount namespace to itself: its root, and nothing that travels to or from the host."""
    take_namespace_root()
    calls.mount(None, b"/", None, _MS_REC_PRIVATE, None)


def _hand_over_pipes(idmap: IdMap) -> None:
    """Let the inside's root own standard pipes: /dev/stdout opens them anew, which only their owner may."""
    for fd in (0, 1, 2):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:["):
                os.fchown(fd, *idmap.root)
        except OSError:
            continue  # closed, or a pipe of a namespace that isn't ours: it can be read and written all the same


# --- as somebody else ----------------------------------------------------------------------------------------------
def _start_as_other(scene: Scene, note: Callable[[str], None]) -> int:
    command = scene.command
    if scene.root is not None:
        raise unsupported("CAP_SYS_ADMIN", "a Mount given as root= was made with privilege: run needs the same")
    if command.idmap is None:
        raise unsupported("CAP_SYS_ADMIN", "only root can do without a user namespace (--idmap none)")
    if command.idmap != DEFAULT_IDMAP:
        raise unsupported("CAP_SYS_ADMIN", "only root can choose an idmap: the kernel lets nobody else map files' ids")
    import socket  # noqa: PLC0415 (root does without)

    from mountfd.verbs.run.unprivileged import give_ids  # noqa: PLC0415

    command.idmap = None  # files are seen through the user namespace itself
    here, there = socket.socketpair()
    with here, there:
        pid = fork()
        if pid == 0:
            here.close()
            guarded(scene.report, lambda: keeper(scene, lambda: _enter_as_other(scene, there)))
        there.close()
        try:
            if here.recv(1):  # nothing comes when the child couldn't; its report says why
                here.send(b"g" if give_ids(pid, note) else b"-")
        except BaseException:
            end(pid)
            raise
    return pid


def _enter_as_other(scene: Scene, parent: socket.socket) -> None:
    try:
        calls.unshare(_NEWUSER | namespaces(scene.command))
    except KernelError as error:
        if error.errno == EPERM:
            error.explain(hint="user namespaces are not for ordinary users here: a chroot, AppArmor, seccomp or sysctl")
        raise
    parent.send(b"u")
    answer = parent.recv(1)
    if not answer:
        os._exit(FAILED)  # the parent couldn't map ids and raises that itself
    become_root(groups=answer == b"g")
    _leave_the_hosts()
    _prepare(scene, None, userxattr=True, note=lambda text: tell(scene.report, b"note", text))


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
