"""A filesystem on its way to becoming a mount: fsopen(2), fsconfig(2), fsmount(2), fspick(2)."""

from __future__ import annotations

from errno import EMSGSIZE, ENODATA, ENODEV, EPERM

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.paths import encode
from mountfd.errors import InvalidSpec, KernelError, NotSupported
from mountfd.handles.fd import OwnedFd
from mountfd.handles.mount import Mount
from mountfd.handles.refused import why_no_filesystem, why_not
from mountfd.model.param import Blob, Fd, Flag, Path, String

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from mountfd.abi.paths import StrPath
    from mountfd.model.param import Param

__all__ = ["FsContext"]

_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = _FSPICK_CLOEXEC = 1
_FSPICK_SYMLINK_NOFOLLOW = 2
_LOG_LINE = 8192


class FsContext(OwnedFd):
    """A filesystem context: parameters go in one by one, a superblock and then a detached mount come out.

    Made by `FsContext.open(fstype)` or, to reconfigure a live filesystem, `FsContext.pick(path)`.
    After the first refused parameter nothing more is accepted: the kernel would make the filesystem without it.
    """

    __slots__ = ("_fstype", "_refused")

    def __init__(self, fd: int) -> None:
        """Take over the descriptor of a context."""
        super().__init__(fd)
        self._refused = False
        self._fstype = ""

    @classmethod
    def open(cls, fstype: str) -> Self:
        """Begin a new filesystem of this type.

        Arguments: fstype, its name as in /proc/filesystems.
        Raises: NotSupported when this kernel has no such filesystem, Denied without CAP_SYS_ADMIN.
        Call: fsopen(2), Linux 5.2.
        """
        try:
            made = cls(calls.fsopen(encode(fstype, "fstype"), _FSOPEN_CLOEXEC))
        except KernelError as error:
            if error.errno == ENODEV:
                error.feature = f"filesystem {fstype}"
                error.explain(hint=f"this kernel has no filesystem {fstype!r}, or its module isn't there to be loaded")
            elif error.errno == EPERM:
                error.explain(hint=why_no_filesystem(fstype, error.syscall) or why_not(error.syscall))
            raise
        made._fstype = fstype
        return made

    @classmethod
    def pick(cls, path: StrPath, *, dir_fd: int | None = None, follow: bool = True) -> Self:
        """Begin to reconfigure the filesystem that is mounted at a path.

        Arguments: path, a mount point; dir_fd, where a relative path starts; follow, whether a final symlink is.
        Raises: KernelError with EINVAL when the path is not the root of a mount.
        Call: fspick(2), Linux 5.2.
        """
        flags = _FSPICK_CLOEXEC | (0 if follow else _FSPICK_SYMLINK_NOFOLLOW)
        try:
            return cls(calls.fspick(n.AT_FDCWD if dir_fd is None else dir_fd, encode(path), flags))
        except KernelError as error:
            if error.errno == EPERM:
                error.explain(hint=why_not(error.syscall))
            raise

    def set(self, *params: Param) -> Self:
        """Set parameters in order; the first one that is refused ends it.

        Arguments: values of mountfd.param.
        Raises: KernelError with the kernel's own words in .log; InvalidSpec for a value that fsconfig can't carry.
        Call: fsconfig(2) with FSCONFIG_SET_*, Linux 5.2.
        """
        fd = self.fileno()
        for param in params:
            if self._refused:
                raise InvalidSpec("this FsContext has refused a parameter: begin again with a new one", part=param.key)
            key = encode(param.key, "parameter key")
            try:
                if type(param) is Fd:
                    calls.fsconfig_set_fd(fd, key, param.fd)
                elif type(param) is Flag:
                    calls.fsconfig_set_flag(fd, key)
                elif type(param) is String:
                    calls.fsconfig_set_string(fd, key, _string(param))
                else:
                    _set_rare(fd, key, param)
            except InvalidSpec:
                self._refused = True
                raise
            except KernelError as error:
                self._refused = True
                error.explain(log=self.log(), hint=f"the parameter {param!r} was refused")
                raise
        return self

    def create(self, *, exclusive: bool = False) -> Self:
        """Make the superblock from the parameters, or share one that exists with the same.

        Arguments: exclusive, fail with Busy rather than share (Linux 6.6).
        Raises: NotSupported where the kernel or the filesystem knows no exclusive one.
        Call: fsconfig(2) with FSCONFIG_CMD_CREATE or FSCONFIG_CMD_CREATE_EXCL, Linux 5.2.
        """
        if not exclusive:
            return self._command(calls.fsconfig_create)
        try:
            return self._command(calls.fsconfig_create_excl)
        except NotSupported as error:
            hint = "an exclusive superblock takes Linux 6.6, and a filesystem that parses its own parameters"
            raise NotSupported(
                error.errno,
                error.syscall,
                error.arguments,
                log=error.log,
                hint=hint,
                feature="FSCONFIG_CMD_CREATE_EXCL",
            ) from error

    def reconfigure(self) -> Self:
        """Apply the parameters to the live superblock.

        Call: fsconfig(2) with FSCONFIG_CMD_RECONFIGURE, Linux 5.2.
        """
        return self._command(calls.fsconfig_reconfigure)

    def mount(self, attrs: int = 0) -> Mount:
        """Make the one detached mount that a context can give.

        Arguments: attrs, of mountfd.Attr.
        Raises: Busy on a second call (clone the first mount instead); KernelError with EINVAL before create().
        Call: fsmount(2), Linux 5.2.
        """
        try:
            return Mount(calls.fsmount(self.fileno(), _FSMOUNT_CLOEXEC, attrs))
        except KernelError as error:
            error.explain(log=self.log())
            raise

    def log(self) -> list[str]:
        """Read the messages that the kernel keeps for this context (eight at most), oldest first.

        Each begins with its kind: `e` error, `w` warning, `i` information.
        """
        lines: list[str] = []
        while True:
            try:
                data = calls.read_bytes(self.fileno(), _LOG_LINE)
            except KernelError as error:
                if error.errno in (ENODATA, EMSGSIZE):
                    return lines
                raise
            if not data:
                return lines
            lines.append(data.decode(errors="replace").rstrip("\n"))

    def _command(self, command: Callable[[int], None]) -> Self:
        if self._refused:
            raise InvalidSpec("this FsContext has refused a parameter: begin again with a new one")
        try:
            command(self.fileno())
        except KernelError as error:
            error.explain(log=self.log())
            if error.errno == EPERM:
                error.explain(hint=self._why_not(error.syscall))
            raise
        return self

    def _why_not(self, call: str) -> str | None:
        """Say why it is EPERM, where that is certain: filesystems have reasons of their own, too."""
        if self._fstype:
            return why_no_filesystem(self._fstype, call)
        return "reconfiguring takes CAP_SYS_ADMIN in the user namespace that the filesystem was mounted in"


def _string(param: String) -> bytes:
    value = param.value if isinstance(param.value, bytes) else param.value.encode(errors="surrogateescape")
    if len(value) > n.FSCONFIG_STRING_MAX:
        raise InvalidSpec(
            f"the value of {param.key!r} has {len(value)} bytes; fsconfig(2) carries {n.FSCONFIG_STRING_MAX}",
            part=param.key,
        )
    return value


def _set_rare(fd: int, key: bytes, param: Param) -> None:
    if isinstance(param, Blob):
        calls.fsconfig_set_binary(fd, key, param.data)
    elif isinstance(param, Path):
        at = n.AT_FDCWD if param.dir_fd is None else param.dir_fd
        calls.fsconfig_set_path(fd, key, encode(param.path, param.key), at)
    else:
        raise InvalidSpec(f"{param!r} is not a parameter: use mountfd.param", part="parameter")
