"""The host's own `/` as a root filesystem that can be written to without changing the host.

as root              one overlay over `/`, and one over each filesystem of a disk that is mounted below it
locked mounts below  (in a user namespace) the kernel won't give `/` alone: an overlay for each directory in it
"""

from __future__ import annotations

import os
import stat
from errno import EACCES, EINVAL, EPERM

from mountfd.abi import calls
from mountfd.errors import KernelError, from_errno, unsupported
from mountfd.handles.context import FsContext
from mountfd.handles.mount import Mount
from mountfd.handles.root import Root
from mountfd.model.overlay import Layer, Overlay
from mountfd.model.param import Flag, String
from mountfd.model.points import points
from mountfd.verbs.assemble import assemble
from mountfd.verbs.assemble.finding import open_directory
from mountfd.verbs.run.furnish import Furnishing, left_out, shown_with

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mountfd.model.command import Command
    from mountfd.model.idmap import IdMap

__all__ = ["Scratch", "host_root", "layered_root"]

# Their content belongs to the running host, not to its files; the command gets its own.
_OWN = ("/proc", "/sys", "/dev", "/run", "/tmp")  # noqa: S108 (places inside the new root)
_VITAL = ("/usr", "/usr/bin", "/usr/lib", "/bin", "/lib")
_WITH_FILES = {"zfs", "tmpfs", "nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "fuse"}
_DEPTH = 5
_SMALL = 1 << 20
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8


class Scratch:
    """A tmpfs, attached nowhere, that takes the changes of overlays; it goes with the last of them."""

    def __init__(self, idmap: IdMap | None, *, userxattr: bool) -> None:
        """Make the tmpfs; idmap tells who is root inside, userxattr that this is a user namespace."""
        self._idmap = idmap
        self._options = [Flag("userxattr")] if userxattr else []
        self._count = 0
        with FsContext.open("tmpfs").set(String("mode", "0755")) as context:
            self.mount = context.create().mount()

    def over(self, lower: Sequence[str | Layer], attrs: int = 0) -> Mount:
        """Assemble an overlay over layers, topmost first, whose changes go here.

        The new root directory gets the owner and mode of the topmost layer.
        """
        name, fd = self._name(), self.mount.fileno()
        for part in (name, name + b"/upper", name + b"/work"):
            calls.mkdirat(fd, part, 0o755)
        self.like(name + b"/upper", _status_of_layer(lower[0]))
        made = [Layer(os.fsdecode(name) + part, base=self.mount) for part in ("/upper", "/work")]
        overlay = Overlay(
            lower, upper=made[0], work=made[1], idmap=self._idmap, options=self._options, source="mountfd-run"
        )
        # The inside's root owns the device files among the host's, as it owns all that the host's root does.
        try:
            return assemble(overlay, attrs | _NODEV)
        except KernelError as error:
            if error.filename in {layer.path for layer in made}:
                error.filename = overlay.lower[0].path  # a name in here says nothing to anybody
            if error.syscall == "openat2" and error.errno == EPERM:
                error.explain(hint="a seccomp filter around this process refuses openat2(2)")
            raise

    def file(self, path: str) -> Mount:
        """Show a file so that nothing changes it: a copy of it where it is small, else the file itself, read-only."""
        seen = os.stat(path)
        if stat.S_ISREG(seen.st_mode) and seen.st_size <= _SMALL:
            try:
                return self._copy(path, seen)
            except OSError:
                pass  # it can't be read, or this kernel can't clone from a detached mount
        return shown_with(Mount.clone(path), self._idmap, read_only=True)

    def _copy(self, path: str, seen: os.stat_result) -> Mount:
        name, fd = self._name(), self.mount.fileno()
        with open(path, "rb") as source:
            data = source.read(_SMALL)
        with open(calls.openat(fd, name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as copy:
            copy.write(data)
        self.like(name, seen)
        return Mount.clone(name, dir_fd=fd)

    def _name(self) -> bytes:
        self._count += 1
        return b"%d" % self._count

    def like(self, name: bytes, seen: os.stat_result) -> None:
        """Give a directory here the mode and, as seen inside, the owner of another."""
        uid: int | None = seen.st_uid
        gid: int | None = seen.st_gid
        if self._idmap is not None:
            uid, gid = self._idmap.to_host(seen.st_uid, "uid"), self._idmap.to_host(seen.st_gid, "gid")
        fd = self.mount.fileno()
        try:
            calls.fchownat(fd, name, -1 if uid is None else uid, -1 if gid is None else gid, 0)
        except KernelError as error:
            if error.errno != EINVAL:  # EINVAL: an id that this user namespace has no name for; it stays ours
                raise
        os.chmod(name, stat.S_IMODE(seen.st_mode), dir_fd=fd)

    def close(self) -> None:
        """Let go of the tmpfs; the overlays keep what they use."""
        self.mount.close()


def layered_root(command: Command, idmap: IdMap | None, *, userxattr: bool) -> Mount:
    """Assemble a command's layers under the upper layer that it names, or a throwaway one."""
    if userxattr:
        for layer in command.layers:
            _require_readable(layer)
    if command.upper is not None:
        return _kept(command, command.layers, idmap, userxattr=userxattr)
    scratch = Scratch(idmap, userxattr=userxattr)
    try:
        return scratch.over(command.layers)
    finally:
        scratch.close()


def host_root(
    command: Command, idmap: IdMap | None, *, userxattr: bool, note: Callable[[str], None]
) -> tuple[Mount, list[Furnishing]]:
    """Make the host's `/` into a root filesystem, with what else must be attached in it, in order.

    Arguments: command; idmap; userxattr, whether this is a user namespace; note, told what had to be left out and why.
    """
    scratch = Scratch(idmap, userxattr=userxattr)
    extra: list[Furnishing] = []
    root = None
    try:
        root = _whole(command, scratch, idmap, userxattr=userxattr)
        if root is None:
            root = _piecewise(scratch, extra, note)
        else:
            _add_disks(command, scratch, extra, note, idmapped=idmap is not None, nested=userxattr)
    except BaseException:
        for made in [*([root] if root is not None else []), *(furnishing.mount for furnishing in extra)]:
            made.close()
        raise
    else:
        return root, extra
    finally:
        scratch.close()


def _whole(command: Command, scratch: Scratch, idmap: IdMap | None, *, userxattr: bool) -> Mount | None:
    """Make one overlay over `/`; None where mounts below it are locked to it, as they are in a user namespace."""
    try:
        if command.upper is not None:
            return _kept(command, ["/"], idmap, userxattr=userxattr)
        return _over(scratch, "/")
    except KernelError as error:
        if error.errno != EINVAL or not userxattr or not _is_locked("/"):
            raise
        if command.upper is not None:
            why = "in a user namespace the mounts below / are locked to it, so changes can't be kept: name a --layer"
            raise unsupported("a clone of /", why) from error
        return None


def _over(scratch: Scratch, path: str) -> Mount:
    """Assemble an overlay over a directory of the host's."""
    try:
        return scratch.over([path], _flags_of(path))
    except KernelError as error:
        if error.errno == EINVAL and error.syscall in {"fsconfig", "mount"} and _is_on_overlay(path):
            hint = (
                f"{path!r} lies on an overlay, which may be a layer of one more, but no deeper, as in a run inside a "
                "run inside a run: the kernel stacks two; name a --layer that lies elsewhere"
            )
            raise from_errno(EINVAL, error.syscall, error.arguments, filename=path, log=error.log, hint=hint) from error
        raise


def _is_on_overlay(path: str) -> bool:
    device = os.stat(path).st_dev
    number = b"%d:%d" % (os.major(device), os.minor(device))
    with open("/proc/self/mountinfo", "rb") as table:
        return any(b" - overlay " in line and line.split(b" ", 3)[2] == number for line in table)


def _is_locked(path: str) -> bool:
    """Say whether mounts below a path are locked to it, so that the kernel gives no clone of it alone."""
    try:
        Mount.clone(path).close()
    except KernelError as error:
        return error.errno == EINVAL
    return False


def _kept(command: Command, lower: Sequence[str | Layer], idmap: IdMap | None, *, userxattr: bool) -> Mount:
    """Assemble layers under the upper layer that the command names."""
    assert command.upper is not None  # noqa: S101 (the caller looked)
    _own_fresh(command.upper, lower[0], idmap)
    options = [Flag("userxattr")] if userxattr else []
    return assemble(Overlay(lower, upper=command.upper, work=command.work, idmap=idmap, options=options), _NODEV)


def _own_fresh(upper: str, top: str | Layer, idmap: IdMap | None) -> None:
    """Give an upper layer that is still empty the owner and mode of the root that it will be seen as."""
    seen = _status_of_layer(top)
    _status_of_layer(upper)  # says what is wrong with it, if anything is
    if os.listdir(upper):
        return
    if idmap is not None:
        os.chown(upper, *idmap.root)
    os.chmod(upper, stat.S_IMODE(seen.st_mode))


def _status_of_layer(layer: str | Layer) -> os.stat_result:
    """Look at a layer's own directory."""
    if not isinstance(layer, Layer) or layer.base is None:
        fd = open_directory(layer if isinstance(layer, Layer) else Layer(layer))
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)
    with Root(os.dup(layer.base.fileno())) as base, base.resolve(layer.raw, directory=True) as found:
        return os.fstat(found.fileno())


def _require_readable(layer: str | Layer) -> None:
    """Refuse a layer that this user can't read: an overlay over it could be made, and show nothing."""
    found = layer if isinstance(layer, Layer) else Layer(layer)
    if found.base is not None:
        return
    fd = open_directory(found)
    try:
        os.close(calls.openat(fd, b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, 0))
    except KernelError as error:
        if error.errno != EACCES:
            raise
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        hint = f"the layer {found.path!r} has mode {mode:04o}, which doesn't let {_outside()} read it"
        raise from_errno(EACCES, "openat", filename=found.path, hint=hint) from None
    finally:
        os.close(fd)


def _outside() -> str:
    """Name the user that root is outside of this user namespace."""
    with open("/proc/self/uid_map", encoding="utf-8") as lines:
        outside = [line.split()[1] for line in lines if line.split()[0] == "0"]
    return f"uid {outside[0]}" if outside else "this user"


def _flags_of(point: str) -> int:
    """Read those attributes of a mount that hold for its files wherever they are shown."""
    return os.statvfs(point).f_flag & (_NOSUID | _NOEXEC)


def _with_files() -> set[str]:
    """Name the filesystem types that hold somebody's files: those that need a device, and some that don't."""
    with open("/proc/filesystems", encoding="ascii") as known:
        return _WITH_FILES | {line.strip() for line in known if not line.startswith("nodev")}


def _mounts_below_root(*, idmapped: bool, nested: bool) -> dict[str, str]:
    """List where filesystems with files are mounted below `/`, with their type, outermost first.

    Arguments: idmapped, whether they shall be, which overlays can't; nested, whether this is a user namespace. There
    overlays are what a run has its files on; elsewhere most are containers' roots, and only a run's own are listed.
    """
    wanted = _with_files() | ({"overlay"} if nested or not idmapped else set())
    with open("/proc/self/mountinfo", "rb") as table:
        lines = [line for line in table if nested or b" - overlay " not in line or b" - overlay mountfd-run " in line]
    found = {os.fsdecode(raw): fstype for raw, fstype in points(lines)}  # a stack is seen through its top
    return {
        point: fstype for point, fstype in found.items() if point != "/" and not _is_own(point) and fstype in wanted
    }


def _is_own(point: str) -> bool:
    return any(point == own or point.startswith(own + "/") for own in _OWN)


def _add_disks(  # noqa: PLR0913 (what is known about the root)
    command: Command,
    scratch: Scratch,
    extra: list[Furnishing],
    note: Callable[[str], None],
    *,
    idmapped: bool,
    nested: bool,
) -> None:
    """Make what is mounted below `/`, each for itself."""
    below = _mounts_below_root(idmapped=idmapped, nested=nested)
    lost: list[tuple[str, OSError]] = []
    for point in below:
        try:
            if os.path.exists(point):  # else it is covered by another mount, or gone
                is_directory = os.path.isdir(point)
                mount = _over(scratch, point) if is_directory else scratch.file(point)
                extra.append(Furnishing(point, mount, directory=is_directory))
        except OSError as error:
            lost.append((point, error))
    _judge(lost, note, all_are=False)
    unkept = [furnishing.target for furnishing in extra if below[furnishing.target] != "tmpfs"]
    if command.upper is not None and unkept:
        note("kept are changes to the root filesystem alone, not those below " + ", ".join(unkept))


def _judge(lost: list[tuple[str, OSError]], note: Callable[[str], None], *, all_are: bool) -> None:
    """Tell what is left out; raise where that is everything, or what no command can do without.

    One directory may have a reason of its own. What refuses these is no matter of theirs, and hidden in a note it would
    come back as a program that isn't there.
    """
    for path, error in lost:
        if all_are or path in _VITAL:
            if isinstance(error, KernelError):
                error.explain(filename=path)
            raise error
    for path, error in lost:
        note(left_out(path, error))


def _piecewise(scratch: Scratch, extra: list[Furnishing], note: Callable[[str], None]) -> Mount:
    """Make a bare root and an overlay for each directory of the host's: `/` itself has locked mounts below it."""
    with FsContext.open("tmpfs").set(String("mode", "0755")) as context:
        root = context.create().mount()
    lost: list[tuple[str, OSError]] = []
    try:
        _cover("/", root.fileno(), scratch, extra, lost)
        _judge(lost, note, all_are=not any(furnishing.directory for furnishing in extra))
    except BaseException:
        root.close()
        raise
    return root


def _cover(folder: str, at: int, scratch: Scratch, extra: list[Furnishing], lost: list[tuple[str, OSError]]) -> None:
    """Put every entry of a host's directory into a directory of the bare root."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if _is_own(entry.path):
            if folder == "/":
                calls.mkdirat(at, os.fsencode(entry.name), 0o755)
            continue
        try:
            _cover_one(entry, at, scratch, extra, lost)
        except OSError as error:
            lost.append((entry.path, error))


def _cover_one(
    entry: os.DirEntry[str], at: int, scratch: Scratch, extra: list[Furnishing], lost: list[tuple[str, OSError]]
) -> None:
    name = os.fsencode(entry.name)
    if entry.is_symlink():
        os.symlink(os.readlink(entry.path), name, dir_fd=at)
        return
    if not entry.is_dir():
        extra.append(Furnishing(entry.path, scratch.file(entry.path), directory=False))
        return
    calls.mkdirat(at, name, 0o755)
    try:
        extra.append(Furnishing(entry.path, _over(scratch, entry.path), directory=True))
    except KernelError as error:
        if error.errno != EINVAL or entry.path.count("/") >= _DEPTH or not _is_locked(entry.path):
            raise
        below = calls.openat(at, name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0)
        try:
            _cover(entry.path, below, scratch, extra, lost)
        finally:
            os.close(below)
