"""Route `fuse`: fuse-overlayfs serves what the kernel's overlay is refused for, in user namespaces of some systems.

open /dev/fuse, fsopen fuse, fsmount     a detached mount, as by the other routes; the program mounts nothing itself
a private namespace, layers on a stage   fuse-overlayfs wants paths, and keeps the directories open
fuse-overlayfs /dev/fd/N                 it serves the connection, and leaves us: it is nobody's child
pivot_root to the stage                  its namespace is the stage then, and no copy of the host's table

The mount keeps the program, and nothing else does: when the last of it goes, also when this process is killed before
it was attached, the kernel ends the connection and the program with it.

Ids are mapped by idmapped clones of the layers, as by the other routes. fuse-overlayfs has a mapping of its own, which
isn't used: it leaves the ids in access lists as they are.
"""

from __future__ import annotations

import os
from errno import EEXIST, EINVAL, EIO, ENOENT, ENOTCONN, EROFS
from time import monotonic, sleep

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.features import Feature, has
from mountfd.errors import Busy, KernelError, from_errno, unsupported
from mountfd.handles.context import FsContext
from mountfd.handles.fd import OwnedFd
from mountfd.handles.mount import Mount
from mountfd.handles.programs import PATH, find_program
from mountfd.model.idmap import IdMap
from mountfd.model.param import Flag, String
from mountfd.verbs.assemble.in_use import FalseAlarm, refuse_if_in_use
from mountfd.verbs.assemble.ordinary import is_overlay_refused
from mountfd.verbs.assemble.pair import Pair
from mountfd.verbs.assemble.stage import Stage, on_stage
from mountfd.verbs.enter import pivot_here, take_namespace_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.model.overlay import Layer, Overlay
    from mountfd.model.param import Param
    from mountfd.verbs.assemble.layers import Placed

__all__ = ["build", "check_program", "pair_when_free"]

_PROGRAM = "fuse-overlayfs"
_DEVICE = b"/dev/fuse"
_CLOEXEC_RDWR = os.O_RDWR | os.O_CLOEXEC
# Where the stage may stand in the private namespace: directories that are there, and that no program is loaded from.
_SPOTS = ("/proc/fs", "/sys", "/mnt", "/tmp")  # noqa: S108 (covered where nobody else sees it)
_LOG = 65536
_PATIENCE = 1.0
_NOISE = "unknown argument ignored: "
# What fuse-overlayfs does anyway, or nothing at all.
_AS_IT_DOES = {
    ("userxattr", ""), ("default_permissions", ""), ("ro", ""), ("rw", ""),
    ("redirect_dir", "off"), ("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off"),
    ("nfs_export", "off"), ("xino", "off"), ("xino", "auto"), ("uuid", "off"), ("uuid", "null"), ("uuid", "auto"),
    ("verity", "off"),
}  # fmt: skip


def pair_when_free(overlay: Overlay) -> Pair:
    """Lock upper and work; the program of an overlay that has just gone lets go of them a moment later."""
    deadline = monotonic() + _PATIENCE
    while True:
        try:
            return Pair(overlay)
        except Busy:
            if monotonic() > deadline:
                raise
        sleep(0.01)


# --- build ---------------------------------------------------------------------------------------------------------
def build(overlay: Overlay, placed: Placed, pair: Pair | None, params: list[Param], attrs: int) -> Mount:
    """Make the overlay as a detached mount that a program of its own serves."""
    program = _program()
    _check_options(params)
    _check(overlay)
    if pair is not None:
        _check_pair(pair)
        _refuse_if_kernel_uses(pair)
    with _open_device() as device:
        mount = _mounted(device, overlay, params, attrs)
        try:

            def act(stage: Stage) -> Mount:
                _serve(program, device, stage, placed, pair)
                return mount

            on_stage(placed, pair, act, _ServedStage)
            device.close()  # from now on only the program keeps the connection: should it end, that is told
            _check_served(mount, pair)
            if pair is not None:
                _keep_kernel_away(pair)
        except BaseException:
            mount.close()
            raise
    return mount


class _ServedStage(Stage):
    """A stage at a path that a program can start from and find: its libraries are in sight until it has started."""

    def raise_curtain(self) -> None:
        """Make this process's root the namespace's, also in a chroot, and attach the ground below it."""
        with Mount.clone("/", recursive=True) as view:
            take_namespace_root()
            view.attach("/")
            calls.fchdir(view.fileno())
            pivot_here()
        self.path = next((path for path in _SPOTS if os.path.isdir(path)), None)
        if self.path is None:
            raise unsupported("/proc", f"{_PROGRAM} needs /proc, and there is none here")
        self._proc = self._held.enter_context(Mount.clone("/proc", recursive=True))
        self._ground.attach(self.path)
        calls.fchdir(self._ground.fileno())

    def lower_path(self, placed: Placed) -> str:
        """Attach every lower layer and name them all as the program wants it."""
        return ":".join(f"{self.path}/{os.fsdecode(self.lower(place))}" for place in placed.places)

    def be_root(self) -> None:
        """Leave in this namespace the ground, the layers and /proc: for us, and for the program that lives here."""
        calls.mkdirat(self._ground.fileno(), b"proc", 0o755)
        self._proc.attach("proc")
        pivot_here()


def _open_device() -> OwnedFd:
    try:
        return OwnedFd(calls.openat(n.AT_FDCWD, _DEVICE, _CLOEXEC_RDWR, 0))
    except KernelError as error:
        error.explain(hint=f"{_PROGRAM} needs {os.fsdecode(_DEVICE)}, open for this user to read and write")
        raise


def _mounted(device: OwnedFd, overlay: Overlay, params: list[Param], attrs: int) -> Mount:
    """Mount the connection, as the kernel's overlay would be: for everybody, and read-only without an upper layer."""
    with FsContext.open("fuse") as context:
        context.set(
            *[param for param in params if param.key in {"source", "ro"}],
            String("subtype", _PROGRAM),
            String("fd", str(device.fileno())),
            String("rootmode", "40000"),
            String("user_id", str(os.geteuid())),
            String("group_id", str(os.getegid())),
            Flag("allow_other"),
            Flag("default_permissions"),
        )
        if overlay.read_only and not any(param.key == "ro" for param in params):
            context.set(Flag("ro"))
        return context.create().mount(attrs)


def _serve(program: str, device: OwnedFd, stage: Stage, placed: Placed, pair: Pair | None) -> None:
    """Start the program in this namespace; when this returns it serves, on its own."""
    assert isinstance(stage, _ServedStage)  # noqa: S101 (asked for)
    words = [f"lowerdir={stage.lower_path(placed)}"]
    given = [device.fileno()]
    if pair is not None:
        for key, place in (("upperdir", pair.upper), ("workdir", pair.work)):
            path = os.fsdecode(stage.writable(place))
            given.append(int(path.rpartition("/")[2]))
            words.append(f"{key}={path}")
        # The program holds the locks for as long as it lives, which is as long as the overlay does.
        given += [lock.fileno() for lock in pair.locks]
    argv = [program, "-o", ",".join(words), f"/dev/fd/{device.fileno()}"]
    status, said = _run(argv, given)
    if status != 0:
        error = from_errno(EIO, _PROGRAM, tuple(argv), hint=f"{_PROGRAM} ended with status {status}")
        error.log = tuple(said)
        for line in said:
            error.add_note(f"{_PROGRAM}: {line.removeprefix(f'{_PROGRAM}: ')}")
        raise error
    stage.be_root()


def _run(argv: list[str], given: list[int]) -> tuple[int, list[str]]:
    import subprocess  # noqa: PLC0415 (only for this route)

    # Not a pipe: should the program keep it, it would never end.
    log = os.memfd_create(_PROGRAM, os.MFD_CLOEXEC)
    try:
        done = subprocess.run(
            argv, check=False, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=given,
            env={"PATH": PATH, "LC_ALL": "C"}, start_new_session=True,
        )  # fmt: skip
        said = os.pread(log, _LOG, 0).decode(errors="replace").splitlines()
    finally:
        os.close(log)
    return done.returncode, [line for line in said if line.strip() and not line.startswith(_NOISE)]


def _check_served(mount: Mount, pair: Pair | None) -> None:
    """Ask the program for the root: where its status was lost to another's SIGCHLD handler, this tells all the same."""
    try:
        found = os.stat(f"/proc/self/fd/{mount.fileno()}/.")
    except OSError as error:
        hint = f"{_PROGRAM} ended at once" if error.errno == ENOTCONN else f"{_PROGRAM} doesn't show a root directory"
        raise from_errno(error.errno or EIO, _PROGRAM, (), hint=hint) from None
    if pair is not None and found.st_ino != os.fstat(pair.locks[0].fileno()).st_ino:
        path = pair.upper.layer.path
        hint = f"the layer {path!r} was moved or removed meanwhile"
        raise from_errno(ENOENT, _PROGRAM, (path,), filename=path, hint=hint)


def _keep_kernel_away(pair: Pair) -> None:
    """Have the kernel's overlay refuse this upper layer from now on: to it, deleted files would be there again.

    The program has marks of its own for what was deleted. overlayfs refuses a work layer that is marked like this, by
    whomever it is mounted; the program empties that directory when it starts, so the mark is made anew each time.
    """
    work = pair.locks[1].fileno()
    for name in (b"work", b"work/incompat", b"work/incompat/" + _PROGRAM.encode()):
        try:
            calls.mkdirat(work, name, 0o700)
        except KernelError as error:
            if error.errno != EEXIST:
                raise


# --- what it can't do ----------------------------------------------------------------------------------------------
def _check_options(params: list[Param]) -> None:
    """Refuse options of overlayfs that the program doesn't keep as the kernel would.

    Among them is `volatile`: it would leave no mark by which an upper layer is known that was in use in a crash.
    """
    for param in params:
        value = os.fsdecode(param.value) if isinstance(param, String) else ""
        if param.key != "source" and (param.key, value) not in _AS_IT_DOES:
            text = f"{param.key}={value}" if value else param.key
            raise unsupported(f"{text} by {_PROGRAM}", f"{_PROGRAM} can't do {text}, and {_why_fuse()}")


def _check(overlay: Overlay) -> None:
    for layer in overlay.lower:
        if layer.data_only:
            why = f"{_PROGRAM} knows no layers that hold data alone ({layer.path!r}), and {_why_fuse()}"
            raise unsupported(f"data_only by {_PROGRAM}", why)
    if overlay.upper is not None:
        _check_ids(overlay.upper)


def _check_ids(upper: Layer) -> None:
    """Refuse an idmap that doesn't know the program's ids: it makes every file as itself, and gives it away then."""
    idmap = upper.idmap or getattr(upper.base, "idmapped", None)
    if idmap is None:
        return
    if isinstance(idmap, IdMap) and None not in (
        idmap.from_host(os.geteuid(), "uid"),
        idmap.from_host(os.getegid(), "gid"),
    ):
        return
    why = (
        f"{_PROGRAM} runs with the ids {os.geteuid()}:{os.getegid()}, which the idmap of the upper layer "
        f"{upper.path!r} doesn't know, and {_why_fuse()}"
    )
    raise unsupported(f"this idmap of an upper layer by {_PROGRAM}", why)


def _check_pair(pair: Pair) -> None:
    """Refuse what the kernel's overlay would, and the program wouldn't notice."""
    upper, work = pair.upper.layer, pair.locks[1].fileno()
    if b":" in pair.upper.name:
        # It looks for the kernel's own path of the upper layer, and takes that for a list.
        why = f"{_PROGRAM} can't have a colon in the path of the upper layer {upper.path!r}, and {_why_fuse()}"
        raise unsupported(f"a colon in a path by {_PROGRAM}", why)
    if os.fstatvfs(work).f_flag & os.ST_RDONLY:
        hint = f"the upper layer {upper.path!r} or its work layer lies on a read-only mount or filesystem"
        raise from_errno(EROFS, _PROGRAM, (upper.path,), filename=upper.path, hint=hint)
    if os.access("work/incompat/volatile", os.F_OK, dir_fd=work, follow_symlinks=False):
        raise from_errno(EINVAL, _PROGRAM, (upper.path,), filename=upper.path)


def _why_fuse() -> str:
    return "the kernel's overlay isn't used here: see `mountfd doctor`"


def _refuse_if_kernel_uses(pair: Pair) -> None:
    """Refuse layers that an overlay of the kernel's uses, which the program itself wouldn't notice."""
    if has(Feature.OVERLAY_LAYER_DETACHED) and not is_overlay_refused():
        try:
            refuse_if_in_use(pair, believe=False)
        except FalseAlarm:
            return


def check_program() -> None:
    """Raise what `build` would where the program or its device is missing."""
    _program()
    _open_device().close()


def _program() -> str:
    found = find_program(_PROGRAM)
    if found is None:
        why = (
            f"the kernel's own overlay isn't used here, and {_PROGRAM}, which would take its place, isn't installed "
            f"(Debian's package {_PROGRAM})"
        )
        raise unsupported(_PROGRAM, why)
    return found
