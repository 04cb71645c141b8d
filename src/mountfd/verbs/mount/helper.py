"""FUSE filesystems: mount.fuse and mount.fuse3 start the program that serves them. No shell in between.

A caller's SIGCHLD handler may reap the helper before we do, and its status with it: what counts is whether a new mount
of its kind stands at the place. Others may mount there meanwhile: theirs is neither taken for ours nor taken away.
What FUSE programs don't understand, but the kernel has for any mount, is set once the mount stands.
"""

from __future__ import annotations

import os
from errno import EIO, ENOTCONN, ESTALE

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.features import Feature, has
from mountfd.errors import Gone, InvalidSpec, KernelError, MountfdError, from_errno, unsupported
from mountfd.handles import programs
from mountfd.handles.mount import Mount
from mountfd.model.mountinfo import parse
from mountfd.model.options import Options
from mountfd.verbs.query import lookup
from mountfd.verbs.query.oldway import read_table
from mountfd.verbs.query.place import FOLLOW, HERE, id_of, is_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.model.spec import MountSpec
    from mountfd.verbs.mount.place import Place

__all__ = ["is_for_helper", "mount_by_helper"]

_LOG = 65536
_MNT_DETACH = 2
_PATH_NOFOLLOW = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_FOUND = 127  # the shell's word for it
_OURS = "mountfd-overlay"  # which understands idmaps


def is_for_helper(spec: MountSpec) -> bool:
    """Say whether a type names a FUSE filesystem and the program that serves it: `fuse.X`, `fuse3.X`."""
    return spec.is_served


def mount_by_helper(spec: MountSpec, options: Options, place: Place, *, beneath: bool = False) -> int:
    """Let mount.fuse or mount.fuse3 mount it; give the mount's unique id, 0 where the kernel has none.

    Raises: InvalidSpec for what can't be asked of a program; NotSupported where mount.fuse isn't installed; KernelError
    with EIO and what the helper said in .log.
    """
    family, _, name = spec.filesystem.partition(".")
    passed, kept = _words(spec, is_ours=name == _OURS)
    _refuse(spec, options, is_ours=name == _OURS, beneath=beneath)
    path = os.fsdecode(place.path())
    before = _seen(path)
    argv = [_program(f"mount.{family}"), spec.source, path, "-t", name]
    for word in passed:
        argv += ["-o", word]
    status, said = _run(argv)
    after = _seen(path)
    # Ids ascend: a mount that was moved here meanwhile is older. Old kernels use theirs again, so they only differ.
    is_new = after[0] > before[0] if before[0] and after[0] else after != before
    is_new = is_new and after[2].startswith("overlay" if name == _OURS else "fuse")
    if status == 0 and is_new:
        try:
            _set(Options.parse(kept), path, after[0])
        except BaseException as failure:
            _take_away(path, after[0], failure)
            raise
        return after[0]
    hint = f"{argv[0]} ended with status {status}" + ("" if status else " and nothing is mounted")
    # Where SIGCHLD is ignored the kernel throws the status away, and Python takes it for 0.
    if status == _NOT_FOUND or (status == 0 and not is_new and programs.find_program(name) is None):
        hint = f"{name} isn't installed"
    error = from_errno(EIO, f"mount.{family}", tuple(argv), filename=place.name, hint=hint)
    error.log = tuple(said)  # in .log as a kernel's words would be, but a person is told whose they are
    for line in said:
        error.add_note(f"{name}: {line.removeprefix(f'{name}: ')}")
    if is_new:
        _take_away(path, after[0], error)
    raise error


def _seen(path: str) -> tuple[int, int, str]:
    """Tell which mount's root is at a path: its unique id, where there is none its other id, and its type.

    One whose server is gone is one too. Zeros and nothing where no mount stands.
    """
    raw = os.fsencode(path)
    try:
        if is_root(n.AT_FDCWD, raw, FOLLOW) is False:
            return 0, 0, ""
        info = lookup(path, fields=("id", "id_old", "fstype", "point"))
        if info.fstype and info.point == path:
            return info.id or 0, info.id_old or 0, info.fstype
    except Gone:
        return _seen(path)
    except KernelError as error:
        if error.errno != ENOTCONN:
            raise
    rows = [row for row in parse(read_table()) if row.point == path]
    return (0, rows[-1].id_old or 0, rows[-1].fstype or "") if rows else (0, 0, "")


def _set(options: Options, path: str, number: int) -> None:
    """Set on the new mount what its program wasn't told."""
    if not (options.attrs or options.clear or options.below or options.below_clear or options.propagation):
        return
    with Mount(calls.openat(n.AT_FDCWD, os.fsencode(path), _PATH_NOFOLLOW, 0)) as mount:
        now = id_of(mount.fileno(), b"", HERE)
        if now != number:
            hint = f"mount {now} came upon mount {number}, the new one, before that had got all its attributes"
            raise from_errno(ESTALE, "mount_setattr", (number,), filename=path, hint=hint)
        if has(Feature.MOUNT_SETATTR):
            from mountfd.verbs.mount.change import set_all  # noqa: PLC0415 (few words are for the kernel)

            set_all(options, mount)
        else:
            from mountfd.verbs.mount.by_string import set_all as set_by_string  # noqa: PLC0415

            set_by_string(options, b"/proc/self/fd/%d" % mount.fileno(), path)


def _take_away(path: str, number: int, error: BaseException) -> None:
    """Take the mount away that the helper made; what fails is noted."""
    try:
        if number:
            from mountfd.verbs.unmount import unmount  # noqa: PLC0415 (only on the way out of an error)

            unmount(id=number, lazy=True, wait=0)
        else:
            calls.umount2(os.fsencode(path), _MNT_DETACH)
    except MountfdError as second:
        error.add_note(f"and what it had mounted stays: {second}")


def _refuse(spec: MountSpec, options: Options, *, is_ours: bool, beneath: bool) -> None:
    """Refuse what neither the program nor the kernel could do for a mount that stands."""
    why = f"{spec.type} is mounted by a program of its own, which can't be asked for"
    if beneath:
        raise InvalidSpec(f"{why} a place beneath another mount", part="beneath")
    words = {f"X-mount.{name}": getattr(options, name) for name in ("owner", "group", "mode", "subdir")}
    words |= {"loop": options.loop, "idmap": None if is_ours else options.idmap}
    for word, wanted in words.items():
        if wanted is not None:
            raise InvalidSpec(f"{why} {word!r}", part=word)


def _words(spec: MountSpec, *, is_ours: bool) -> tuple[list[str], list[str]]:
    """Give the words that the program understands, its own and attributes; and those that the kernel is told later."""
    from mountfd.model.option_words import ACTIONS, IGNORED, PROPAGATION  # noqa: PLC0415 (FUSE is rare)

    passed, kept = [], []
    for word in spec.options:
        if not isinstance(word, str):
            raise InvalidSpec(f"the options of {spec.type} go to a program, so they must be words", part="options")
        if word in PROPAGATION or (not is_ours and _is_for_kernel(spec, word)):
            kept.append(word)
            continue
        is_comment = word.startswith(("x-", "X-")) and not (is_ours and word.startswith("X-mount.idmap="))
        if word and word not in {*ACTIONS, *IGNORED} and not is_comment:
            passed.append(word)
    return passed, kept


def _is_for_kernel(spec: MountSpec, word: str) -> bool:
    """Say whether a word is of the mount, and none that libfuse knows."""
    from mountfd.model.option_words import ATIME, ATTRIBUTES  # noqa: PLC0415 (FUSE is rare)

    key, equals, scope = word.partition("=")
    if equals and (key in ATTRIBUTES or key in ATIME):
        if scope == "fs":
            raise InvalidSpec(
                f"{spec.type} is mounted by a program of its own, which can't be asked for {word!r}", part=key
            )
        return scope in ("vfs", "recursive")
    is_deep = word[:1] == "r" and (word[1:] in ATTRIBUTES or word[1:] in ATIME)
    return is_deep or word in ("nosymfollow", "symfollow")


def _program(name: str) -> str:
    found = programs.find_program(name)
    if found is None:
        package = "fuse3" if name.endswith("3") else "fuse"
        raise unsupported(name, f"{name} isn't installed (Debian's package {package})")
    return found


def _run(argv: list[str]) -> tuple[int, list[str]]:
    import subprocess  # noqa: PLC0415 (only for FUSE)

    # Not a pipe: the program that serves the filesystem keeps what it inherits, and the pipe would never end.
    log = os.memfd_create("mountfd-helper", os.MFD_CLOEXEC)
    try:
        env = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{programs.PATH}"}
        done = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
        said = os.pread(log, _LOG, 0).decode(errors="replace").splitlines()
    finally:
        os.close(log)
    return done.returncode, [line for line in said if line.strip()]
