"""FUSE filesystems: mount.fuse and mount.fuse3 start the program that serves them. No shell in between.

A caller's SIGCHLD handler may reap the helper before we do, and its status with it: what counts is whether a new mount
stands at the place.
"""

from __future__ import annotations

import os
from errno import EIO, ENOTCONN

from mountfd.abi import calls
from mountfd.errors import InvalidSpec, KernelError, from_errno, unsupported
from mountfd.verbs.assemble.finding import mount_of
from mountfd.verbs.query.place import FOLLOW, id_of, is_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.model.options import Options
    from mountfd.model.spec import MountSpec
    from mountfd.verbs.mount.place import Place

__all__ = ["is_for_helper", "mount_by_helper"]

_AT_FDCWD = -100
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LOG = 65536
_MNT_DETACH = 2
_NOT_FOUND = 127  # the shell's word for it
_OURS = "mountfd-overlay"  # which understands idmaps


def is_for_helper(spec: MountSpec) -> bool:
    """Say whether a type names a FUSE filesystem and the program that serves it: `fuse.X`, `fuse3.X`."""
    family, dot, name = spec.filesystem.partition(".")
    return family in ("fuse", "fuse3") and bool(dot and name)


def mount_by_helper(spec: MountSpec, options: Options, place: Place) -> int:
    """Let mount.fuse or mount.fuse3 mount it; give the mount's unique id, 0 where the kernel has none.

    Raises: NotSupported where that isn't installed; KernelError with EIO and what the helper said in .log.
    """
    family, _, name = spec.filesystem.partition(".")
    foreign = options.idmap is not None and name != _OURS
    if foreign or options.loop is not None or options.subdir is not None:
        raise InvalidSpec(f"{spec.type} is mounted by a program of its own: no idmap, loop or subdir", part="options")
    path = os.fsdecode(place.path())
    before = _seen(path)
    argv = [_program(f"mount.{family}"), spec.source, path, "-t", name]
    for word in _words(spec):
        argv += ["-o", word]
    status, said = _run(argv)
    after = _seen(path)
    is_new = after[1] and after != before
    if status == 0 and is_new:
        return after[0]
    if is_new:
        calls.umount2(os.fsencode(path), _MNT_DETACH)
    hint = f"{name} isn't installed" if status == _NOT_FOUND else f"{argv[0]} ended with status {status}"
    hint += "" if status else " and nothing is mounted"
    error = from_errno(EIO, f"mount.{family}", tuple(argv), filename=place.name, hint=hint)
    error.log = tuple(said)  # in .log as a kernel's words would be, but a person is told whose they are
    for line in said:
        error.add_note(f"{name}: {line.removeprefix(f'{name}: ')}")
    raise error


def _seen(path: str) -> tuple[int, bool, int]:
    """Tell which mount stands at a path, whether its root is there, and where ids aren't unique its other id.

    One whose server is gone is one too.
    """
    raw = os.fsencode(path)
    try:
        number = id_of(_AT_FDCWD, raw, FOLLOW)
        return number, bool(is_root(_AT_FDCWD, raw, FOLLOW)), 0 if number else mount_of(_AT_FDCWD, raw)
    except KernelError as error:
        if error.errno != ENOTCONN:
            raise
        return 0, True, 0


def _words(spec: MountSpec) -> list[str]:
    """Give the words that a FUSE program understands: its own, and attributes."""
    from mountfd.model.option_words import ACTIONS, IGNORED, PROPAGATION  # noqa: PLC0415 (FUSE is rare)

    unwanted = {*ACTIONS, *PROPAGATION, *IGNORED}
    words = [word for word in spec.options if isinstance(word, str)]
    if len(words) != len(spec.options):
        raise InvalidSpec(f"the options of {spec.type} go to a program, so they must be words", part="options")
    return [word for word in words if word and word not in unwanted and not word.startswith(("x-", "X-"))]


def _program(name: str) -> str:
    from shutil import which  # noqa: PLC0415

    found = which(name) or which(name, path=_PATH)
    if found is None:
        package = "fuse3" if name.endswith("3") else "fuse"
        raise unsupported(name, f"{name} isn't installed (Debian's package {package})")
    return found


def _run(argv: list[str]) -> tuple[int, list[str]]:
    import subprocess  # noqa: PLC0415 (only for FUSE)

    # Not a pipe: the program that serves the filesystem keeps what it inherits, and the pipe would never end.
    log = os.memfd_create("mountfd-helper", os.MFD_CLOEXEC)
    try:
        env = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{_PATH}"}
        done = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
        said = os.pread(log, _LOG, 0).decode(errors="replace").splitlines()
    finally:
        os.close(log)
    return done.returncode, [line for line in said if line.strip()]
