"""How the command's mount namespace comes to be: the root, and what stands in it, attached and out of its reach.

    lay_out    as the host's root, for a command in a user namespace: everything attached in a namespace that the host
               owns. The command's is made as a copy of it, and in a copy that crosses into a user namespace the kernel
               locks every mount and its attributes: what is read-only can't be made writable inside.
    arrange    as the init: the filesystems that show its own namespaces, and the pivot

Inside the new root no module is loaded any more: it would be one of the root's, not ours.
"""

from __future__ import annotations

import os
import sys
from errno import EACCES, ELOOP, EOVERFLOW, EPERM

from mountfd.abi import calls
from mountfd.errors import KernelError, from_errno
from mountfd.handles.context import FsContext
from mountfd.handles.mount import Mount
from mountfd.model.param import Flag, String
from mountfd.verbs.enter import namespace_here, pivot_here, take_ids
from mountfd.verbs.run.furnish import left_out
from mountfd.verbs.run.ground import SIGHTS, in_sight

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mountfd.model.command import Command
    from mountfd.verbs.run.furnish import Furnishing

__all__ = ["arrange", "lay_out", "preload", "take_ground"]

_NEWNS = 0x20000
_ROOT = "/root"
_RDONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8
_TTY_GROUP = 5
_FOREIGN = (EACCES, EPERM, EOVERFLOW)  # what the kernel says where an owner's id isn't one of this user namespace
_PLAIN = ("/proc", "/sys", "/dev")
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def preload(command: Command) -> None:
    """Load what a later step needs while the files that it is loaded from are still in sight."""
    import warnings  # noqa: F401, PLC0415 (os.execvpe does)

    if command.net == "none":
        import fcntl  # noqa: F401, PLC0415
        import socket  # noqa: F401, PLC0415
        import struct  # noqa: F401, PLC0415


def take_ground() -> None:
    """Make a bare ground this process's root, with what must be in sight; the copy of the host's table goes."""
    sights = {name: in_sight("/" + name) for name in SIGHTS}
    with FsContext.open("tmpfs").set(String("mode", "0755")) as context:
        _pivot(context.create().mount())
    for name, mount in sights.items():
        os.mkdir("/" + name)
        mount.attach("/" + name).close()


def lay_out(
    root: Mount | None, furnishings: Sequence[Furnishing], owner: tuple[int, int], note: Callable[[str], None]
) -> None:
    """Attach the root, and what stands in it, on the bare ground that is this process's root.

    Arguments: owner, the host's ids of the inside's root, to whom the places belong that must be made; note, told what
    has no place.
    """
    assert root is not None  # noqa: S101 (prepared by whoever entered)
    os.mkdir(_ROOT)
    root.attach(_ROOT)
    with namespace_here() as here:
        calls.fchdir(root.fileno())
        calls.chroot(b".")  # paths can't lead out of it, whatever its symlinks say
        take_ids(*owner)
        for furnishing in furnishings:
            if not _stands_on_own(furnishing.target):
                _put(furnishing, note)
        calls.set_fs_ids(0, 0)
        calls.setns(here.fileno(), _NEWNS)


def _stands_on_own(target: str) -> bool:
    """Say whether something belongs on a filesystem that the init makes: it can only be attached after that."""
    real = os.path.realpath(target) + "/"
    return real.startswith(("/proc/", "/sys/", "/dev/pts/"))


def arrange(
    command: Command,
    root: Mount | None,
    furnishings: Sequence[Furnishing],
    *,
    laid_out: bool,
    note: Callable[[str], None],
) -> None:
    """Make this process's mount namespace the command's: its root, and what was made for it, in order."""
    assert root is not None  # noqa: S101 (prepared by whoever entered)
    if command.net == "none":
        _loopback_up()
    own = _own_filesystems(command)
    # From here on nothing may be imported: the paths that modules are found by mean the new root's files.
    sys.path.clear()
    sys.meta_path.clear()
    _pivot(Mount.clone(_ROOT, recursive=True) if laid_out else root)
    for target, mount in own[:1]:
        _attach(target, mount, directory=True)
    for furnishing in furnishings:
        if not furnishing.mount.closed:  # it hasn't been laid out
            _put(furnishing, note)
    for target, mount in own[1:]:
        _attach(target, mount, directory=True)
    for _, mount in own:
        mount.close()
    if command.hostname is not None:
        name = os.fsencode(command.hostname)
        calls.sethostname(name, len(name))


def _own_filesystems(command: Command) -> list[tuple[str, Mount]]:
    """Make the filesystems that show this process's namespaces; /proc first, since /dev's links lead there.

    In a user namespace the kernel allows /proc and /sys only while a full one is in sight: so before the pivot.
    """
    quiet = _NOSUID | _NODEV | _NOEXEC
    made: list[tuple[str, Mount]] = []
    if command.pid_namespace:
        made.append(("/proc", _new("proc", [], quiet)))
    else:
        made.append(("/proc", Mount.clone("/proc", recursive=True)))
    if command.net == "none":
        made.append(("/sys", _new("sysfs", [], quiet | _RDONLY)))
    terminals = [String("mode", "0620"), String("ptmxmode", "0666")]
    if _is_mapped(_TTY_GROUP):
        terminals.append(String("gid", str(_TTY_GROUP)))
    made.append(("/dev/pts", _new("devpts", [Flag("newinstance"), *terminals], _NOSUID | _NOEXEC)))
    return made


def _is_mapped(gid: int) -> bool:
    with open("/proc/self/gid_map", encoding="utf-8") as file:
        extents = [tuple(map(int, line.split())) for line in file]
    return any(inside <= gid < inside + count for inside, _, count in extents)


def _new(fstype: str, params: list[Flag | String], attrs: int) -> Mount:
    try:
        with FsContext.open(fstype).set(*params) as context:
            return context.create().mount(attrs)
    except KernelError as error:
        if error.errno == EPERM:
            way = "; --no-pid-ns shows the one in place" if fstype == "proc" else ""
            error.explain(
                hint=f"the kernel allows a new {fstype} in a user namespace only where the one in place is complete: "
                f"parts of it are covered here, as in most containers{way}"
            )
        raise


def _pivot(root: Mount) -> None:
    """Make the detached root this namespace's only one; the copy of the host's table goes with the old root."""
    # pivot_root(2) refuses a detached root, so it is attached on "/" itself: no directory is needed for that.
    root.attach("/")
    calls.fchdir(root.fileno())
    pivot_here()
    os.chdir("/")
    root.close()


def _put(furnishing: Furnishing, note: Callable[[str], None]) -> None:
    """Attach a furnishing and close its handle; one that nobody asked for may be left out."""
    try:
        _attach(furnishing.target, furnishing.mount, directory=furnishing.directory)
    except KernelError as error:
        if not furnishing.optional:
            raise
        note(left_out(furnishing.target, error))
    furnishing.mount.close()


def _attach(target: str, mount: Mount, *, directory: bool) -> None:
    """Attach inside the new root, making the place for it where it is missing; symlinks can't lead outside now."""
    if target in _PLAIN and os.path.islink(target):
        hint = "the kernel's own filesystems belong on directories: through a symlink something else could cover them"
        raise from_errno(ELOOP, "move_mount", (target,), filename=target, hint=hint)
    real = os.path.realpath(target)
    if not os.path.lexists(real):
        _make_place(target, real, directory=directory)
    mount.attach(real)


def _make_place(target: str, real: str, *, directory: bool) -> None:
    call = "mkdir"
    try:
        os.makedirs(real if directory else os.path.dirname(real), exist_ok=True)
        if not directory:
            call = "open"
            os.close(os.open(real, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    except OSError as error:
        hint = f"the root filesystem has no place {target!r}, and none could be made"
        if error.errno in _FOREIGN:
            hint += f": {_standing(real)!r} isn't this user's, and no privilege here reaches files of foreign ids"
        raise from_errno(error.errno or EPERM, call, (target,), filename=target, hint=hint) from None


def _standing(path: str) -> str:
    """Give the nearest directory above a path that is there."""
    while path != "/" and not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def _loopback_up() -> None:
    import fcntl  # noqa: PLC0415 (these three only for --net none)
    import socket  # noqa: PLC0415
    import struct  # noqa: PLC0415

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
