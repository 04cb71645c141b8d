"""What a command expects to find in a root filesystem: /dev, /sys, /tmp, binds, the resolver's configuration.

Everything is made detached, before the new namespace is entered; inside it is only attached, in order.
"""

from __future__ import annotations

import os
import stat
from errno import EBUSY, EINVAL, EPERM

from mountfd.abi import calls
from mountfd.errors import KernelError
from mountfd.handles.context import FsContext
from mountfd.handles.mount import Mount
from mountfd.model.param import String
from mountfd.verbs.run.ground import in_sight

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.model.command import Bind, Command
    from mountfd.model.idmap import IdMap

__all__ = ["Furnishing", "furnish", "left_out", "shown_with"]

_RDONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {
    b"fd": b"/proc/self/fd",
    b"stdin": b"/proc/self/fd/0",
    b"stdout": b"/proc/self/fd/1",
    b"stderr": b"/proc/self/fd/2",
    b"ptmx": b"pts/ptmx",
}
_RESOLVER = "/etc/resolv.conf"


class Furnishing:
    """One detached mount and the place inside where it goes.

    Attributes: directory, what the place must be; optional, whether it may be left out, since nobody asked for it.
    """

    __slots__ = ("directory", "mount", "optional", "target")

    def __init__(self, target: str, mount: Mount, *, directory: bool, optional: bool = False) -> None:
        """Keep them."""
        self.target, self.mount, self.directory, self.optional = target, mount, directory, optional


def left_out(path: str, error: OSError) -> str:
    """Say what is left out and why, with all that the error knows."""
    more = "; ".join([*getattr(error, "log", ()), *filter(None, [getattr(error, "hint", None)])])
    return f"{path} is left out: {error}" + (f" ({more})" if more else "")


def furnish(command: Command, idmap: IdMap | None, *, host: bool) -> list[Furnishing]:
    """Make everything that doesn't need the new namespaces, in the order in which it must be attached.

    Arguments: command; idmap, None where ids are as the namespace shows them; host, whether the root is the host's.
    """
    made: list[Furnishing] = []
    try:
        _devices(made, idmap)
        if command.net == "host":
            made.append(_sys())
        made.append(_fresh("/tmp", "1777", idmap))  # noqa: S108 (a place inside the new root)
        if host:
            made.append(_fresh("/run", "0755", idmap))
        if command.net == "host":
            _resolver(made, idmap, host=host)
        made.extend(_fresh(target, "0755", idmap) for target in command.tmpfs)
        made.extend(_bound(bind, idmap) for bind in command.binds)
    except BaseException:
        for furnishing in made:
            furnishing.mount.close()
        raise
    return made


def _bound(bind: Bind, idmap: IdMap | None) -> Furnishing:
    mount = Mount.clone(bind.source, recursive=True)
    mode = os.fstat(mount.fileno()).st_mode
    mount = shown_with(mount, idmap, read_only=bind.read_only)
    if not stat.S_ISBLK(mode) and not stat.S_ISCHR(mode):  # a device is shown only where it was asked for itself
        mount.set(_NODEV, recursive=True)
    return Furnishing(bind.target, mount, directory=stat.S_ISDIR(mode))


def shown_with(mount: Mount, idmap: IdMap | None, *, read_only: bool) -> Mount:
    """Idmap a clone where its filesystem can be, and make it read-only when asked; closes it on failure."""
    try:
        if idmap is not None:
            _idmap_as_far_as_it_goes(mount, idmap)
        if read_only:
            mount.set(_RDONLY, recursive=True)
    except BaseException:
        mount.close()
        raise
    return mount


def _idmap_as_far_as_it_goes(mount: Mount, idmap: IdMap) -> None:
    for recursive in (True, False):
        try:
            mount.idmap(idmap, recursive=recursive)
        except KernelError as error:
            if error.errno not in (EINVAL, EPERM, EBUSY):
                raise
        else:
            return


def _tmpfs(mode: str, idmap: IdMap | None, attrs: int) -> Mount:
    owner = [String(key, str(value)) for key, value in zip(("uid", "gid"), idmap.root, strict=True)] if idmap else []
    with FsContext.open("tmpfs").set(String("mode", mode), *owner) as context:
        return context.create().mount(attrs)


def _fresh(target: str, mode: str, idmap: IdMap | None) -> Furnishing:
    return Furnishing(target, _tmpfs(mode, idmap, _NOSUID | _NODEV), directory=True)


def _sys() -> Furnishing:
    # A fresh sysfs needs rights over the network namespace, which is the host's; so it is a clone of the host's.
    mount = in_sight("/sys")
    try:
        mount.set(_RDONLY | _NOSUID | _NODEV | _NOEXEC, recursive=True)
    except BaseException:
        mount.close()
        raise
    return Furnishing("/sys", mount, directory=True)


def _devices(made: list[Furnishing], idmap: IdMap | None) -> None:
    """Make /dev: a tmpfs with links, and the host's harmless devices on it (nobody but root can make new ones)."""
    dev = _tmpfs("0755", idmap, _NOSUID | _NOEXEC)
    made.append(Furnishing("/dev", dev, directory=True))
    at = dev.fileno()
    for name, target in _LINKS.items():
        os.symlink(target, name, dir_fd=at)
        if idmap is not None:
            calls.fchownat(at, name, *idmap.root, 0x100)
    for name in (b"pts", b"shm"):
        calls.mkdirat(at, name, 0o755)
    made.append(Furnishing("/dev/shm", _tmpfs("1777", idmap, _NOSUID | _NODEV | _NOEXEC), directory=True))  # noqa: S108
    made.extend(_device(at, f"/dev/{name}", os.fsencode(name)) for name in _DEVICES if os.path.exists(f"/dev/{name}"))
    if (terminal := _terminal()) is not None:
        made.append(_device(at, terminal, b"console"))


def _terminal() -> str | None:
    """Name the terminal on standard input; None where there is none, or none that has a path here."""
    try:
        return os.ttyname(0) if os.isatty(0) else None
    except OSError:
        return None


def _device(at: int, source: str, name: bytes) -> Furnishing:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
    os.close(calls.openat(at, name, flags, 0o644))
    # Read-only: that keeps nobody from writing to the device, but from changing its owner or mode on the host.
    return Furnishing(f"/dev/{os.fsdecode(name)}", Mount.clone(source).set(_RDONLY), directory=False)


def _resolver(made: list[Furnishing], idmap: IdMap | None, *, host: bool) -> None:
    """Make the host's resolver configuration readable where the root doesn't have it by itself."""
    real = os.path.realpath(_RESOLVER)
    if not os.path.isfile(real):
        return
    if host and os.lstat(real).st_dev == os.stat("/").st_dev:
        return  # it is part of the host's root filesystem
    target = real if host else _RESOLVER
    shown = shown_with(Mount.clone(real), idmap, read_only=True)
    made.append(Furnishing(target, shown, directory=False, optional=True))
