"""Route `string`: everything by mount(2), in as many steps as it takes. Any kernel.

mount(2) takes 4,095 bytes of options and cuts a longer string without a word, so it is measured first; an overlay's
layers are named from the directory that they have in common. Attributes of a bind, propagation and attributes of the
mounts below take a step each: a failure on the way takes the mount away again.
"""

from __future__ import annotations

import os
from errno import E2BIG, EINVAL, ENOENT, EPERM, ESTALE

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.paths import encode
from mountfd.errors import Gone, InvalidSpec, KernelError, from_errno, unsupported
from mountfd.handles.context import FsContext
from mountfd.handles.fd import OwnedFd
from mountfd.handles.kernel_log import KernelLog
from mountfd.handles.mount import Mount
from mountfd.handles.refused import LOCKED
from mountfd.model.mountinfo import parse
from mountfd.model.option_words import READ_ONLY_TYPES
from mountfd.model.overlay_text import escape, overlay_of
from mountfd.model.param import String
from mountfd.model.table import MountTable
from mountfd.verbs.enter import in_private_namespace, on_thread
from mountfd.verbs.mount.make import UNBINDABLE, added_loop, give_root, gives_root
from mountfd.verbs.mount.place import take_back
from mountfd.verbs.mount.source import Source
from mountfd.verbs.mount.turns import turn_at
from mountfd.verbs.query import lookup
from mountfd.verbs.query.oldway import read_table
from mountfd.verbs.query.place import FOLLOW, HERE, NOFOLLOW, id_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable
    from types import TracebackType

    from mountfd.model.options import Options
    from mountfd.model.overlay import Layer
    from mountfd.model.param import Param
    from mountfd.model.spec import MountSpec
    from mountfd.verbs.mount.place import Place

__all__ = ["act", "finish", "set_all", "staged"]

_PAGE_KEPT = 4095
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_MOVE, _MS_REC = 1, 32, 4096, 8192, 16384
_MS_PRIVATE, _MS_RELATIME = 1 << 18, 1 << 21
_SUPERBLOCK = {"ro": 1, "sync": 16, "mand": 64, "dirsync": 128, "lazytime": 1 << 25}
_ATIME_MASK = 0x70
_ATTR_RDONLY = 1
_PATH_NOFOLLOW = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_TAKE_BACK = 2 | 8  # MNT_DETACH, UMOUNT_NOFOLLOW
_CLONE_FS = 0x200


def act(spec: MountSpec, options: Options, place: Place, *, reuse_loop: bool, made: list[int] | None = None) -> int:
    """Do what a description asks for at a place; give the mount's unique id, 0 where the kernel has none.

    `made` gets the numbers of loop devices that were themselves made for it.
    """
    if options.idmap is not None:
        raise unsupported("idmapped mount", "mount(2) can't idmap: that takes mount_setattr(2), Linux 5.12")
    if options.subdir is not None:
        from mountfd.verbs.mount.subdir import act_on_subdir  # noqa: PLC0415 (rare, and it stands upon this)

        return act_on_subdir(spec, options, place, reuse_loop=reuse_loop)
    if options.action == "remount" or not (options.action or spec.filesystem or spec.source):
        number = id_of(place.fd, b"", HERE)  # asked first: what is done isn't taken back for want of a number
        with _blaming(place):
            set_all(options, place.link, os.fsdecode(place.path()), with_filesystem=bool(options.action))
        return number
    added: list[int] = [] if made is None else made
    with turn_at(place.path()):
        moved = _id_of_source(spec, options) if options.action == "move" else 0
        before = _stack(place.path())
        with _blaming(place):
            _first(spec, options, place.link, added, reuse_loop=reuse_loop)
        path = place.path()  # read again: the target may have been moved meanwhile
        try:
            mount = Mount(calls.openat(n.AT_FDCWD, path, _PATH_NOFOLLOW, 0))
        except BaseException:
            if options.action != "move" and _top(path) not in before:
                calls.mount(None, path, None, _MS_REC | _MS_PRIVATE, None)  # else its source's mounts go along
                calls.umount2(path, _TAKE_BACK)
            raise
    with mount:
        try:
            mount.keep(*map(added_loop, added))
            number = id_of(mount.fileno(), b"", HERE)
            is_ours = _is_ours(number, moved, before)
            if is_ours:
                place.check(mount)
                with _blaming(place):
                    finish(options, b"/proc/self/fd/%d" % mount.fileno(), os.fsdecode(path))
        except BaseException:
            if options.action != "move":
                take_back(mount)
            raise
    if not is_ours:  # so nothing is taken away, either
        hint = (
            f"others mounted there at the same time: whether mount {number}, on top, is the new one can't be told, so "
            "all of them stay"
        )
        raise from_errno(ESTALE, "mount", (place.name,), filename=place.name, hint=hint)
    return number


class _blaming:  # noqa: N801 (used like a function)
    """Name the place, as its caller does, in errors of calls that were given a descriptor's path."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if isinstance(error, KernelError) and error.errno == EINVAL and self.place.is_gone():
            # Newer kernels say ENOENT themselves.
            hint = "what the target lies on was unmounted meanwhile, or is out of reach"
            raise from_errno(ENOENT, error.syscall, error.arguments, filename=self.place.name, hint=hint) from error
        if isinstance(error, KernelError) and str(error.filename).startswith("/proc/self/fd/"):
            error.filename = self.place.name


def _id_of_source(spec: MountSpec, options: Options) -> int:
    return id_of(n.AT_FDCWD, encode(spec.source, "source"), NOFOLLOW if "source" in options.nofollow else FOLLOW)


def _top(path: bytes) -> int:
    """Give the unique id of the mount on top at a path; 0 where there are none, or nothing is there."""
    try:
        return id_of(n.AT_FDCWD, path, NOFOLLOW)
    except KernelError:
        return 0


def _stack(path: bytes) -> set[int]:
    """Give the unique ids of what stands at a path, and of all that this stands on; nothing where there are none."""
    return set(_down_from(_top(path), ()))


def _down_from(number: int, known: Container[int]) -> list[int]:
    """Follow a mount down to one that is known, or as far as it can be told; give those on the way, itself first."""
    found: list[int] = []
    while number and number not in known and number not in found:
        found.append(number)
        try:
            number = lookup(id=number, fields=("parent_id",)).parent_id or 0
        except (Gone, KernelError):
            break  # it went, or lies above a chroot, or a filter forbids statmount(2)
    return found


def _is_ours(number: int, moved: int, before: set[int]) -> bool:
    """Say whether what is on top at the place was mounted there by us: others may mount and unmount there, too.

    Arguments: number, of what is on top; moved, of what was moved there; before, what stood there before.
    """
    if not number or not before:
        return True  # without unique ids nobody can tell
    if moved:
        return number == moved
    # What it stands on may have gone, but not all that this stood on: so it is the only one that is new. Of several
    # nobody can tell which.
    return _down_from(number, before) == [number]


def _first(spec: MountSpec, options: Options, target: bytes, added: list[int], *, reuse_loop: bool) -> None:
    """Mount it at a target that no rename can lead elsewhere."""
    if options.action:
        flags = {"bind": _MS_BIND, "rbind": _MS_BIND | _MS_REC, "move": _MS_MOVE}[options.action]
        if "source" not in options.nofollow:
            source_path = encode(spec.source, "source")
            try:
                calls.mount(source_path, target, None, flags, None)
            except KernelError as error:
                _explain_bind(error, spec, options)
                raise
            return
        with OwnedFd(calls.openat(n.AT_FDCWD, encode(spec.source, "source"), _PATH_NOFOLLOW, 0)) as source:
            calls.mount(b"/proc/self/fd/%d" % source.fileno(), target, None, flags, None)
    elif spec.filesystem == "overlay":
        _overlay(spec, options, target)
    else:
        _filesystem(spec, options, target, added, reuse_loop=reuse_loop)


def _explain_bind(error: KernelError, spec: MountSpec, options: Options) -> None:
    """Name the source where it is at fault: mount(2) itself doesn't say which of the two."""
    if not os.path.exists(spec.source):
        error.filename = spec.source
        error.explain(hint=f"the source {spec.source!r} doesn't exist")
    elif error.errno == EINVAL and options.action != "move":
        error.filename = spec.source
        error.explain(hint=UNBINDABLE[options.action == "rbind"])


def finish(options: Options, link: bytes, path: str) -> None:
    """Do the steps that come after: link leads to the mount whatever comes upon it, path is where it stands."""
    late = _ATTR_RDONLY if gives_root(options) else 0  # what is read-only can be given no owner
    attrs = options.attrs & ~late
    if options.action in ("bind", "rbind"):
        if attrs or options.clear:
            _set(link, attrs, options.clear)
    elif not options.action and bool(attrs & _ATTR_RDONLY) != options.superblock.get("ro", False):
        _set(link, attrs, _ATTR_RDONLY & ~options.attrs)  # mount(2) has one flag for both
    _set_below(link, path, options.below & ~late, options.below_clear)
    give_root(os.fsdecode(link), options)
    if options.attrs & late:
        _set(link, _ATTR_RDONLY, 0)
    _set_below(link, path, options.below & late, 0)
    _propagate(options, link)


def _propagate(options: Options, path: bytes) -> None:
    for propagation, recursive in options.propagation:
        calls.mount(None, path, None, int(propagation) | (_MS_REC if recursive else 0), None)


# --- filesystems ---------------------------------------------------------------------------------------------------
def _filesystem(spec: MountSpec, options: Options, path: bytes, added: list[int], *, reuse_loop: bool) -> None:
    with Source(spec.source, options, reuse=reuse_loop) as source:
        if source.is_image and not source.is_on_loop:
            source.put_on_loop()
        types = source.types(spec.filesystem)
        errors: list[KernelError] = []
        for fstype in types:
            try:
                with KernelLog(b"") as log:
                    _mount_one(fstype, source, options, path, log)
            except KernelError as error:
                errors.append(error)
            else:
                added += [] if source.added_loop is None else [source.added_loop]
                return
        raise errors[-1] if len(errors) == 1 else ExceptionGroup(f"none of {', '.join(types)} fits", errors)


def _mount_one(fstype: str, source: Source, options: Options, path: bytes, log: KernelLog) -> None:
    try:
        flags = _flags(options) | (_MS_RDONLY if fstype in READ_ONLY_TYPES else 0)
        calls.mount(source.name, path, os.fsencode(fstype), flags, _data(options.params))
    except KernelError as error:
        from mountfd.verbs.mount.explain import explain  # noqa: PLC0415 (only on the way out of an error)

        explain(error, fstype, source, log.lines())
        raise


def staged(fstype: str, source: Source, options: Options, attrs: int) -> Mount:
    """Make a filesystem by mount(2) in a private namespace, and give it as a detached mount with attributes."""
    flags = _flags(options) | (_MS_RDONLY if fstype in READ_ONLY_TYPES else 0)
    name = os.path.abspath(source.name) if source.path and os.path.exists(source.name) else source.name
    data = _data(options.params)
    with FsContext.open("tmpfs") as context, context.create().mount() as ground:
        calls.mkdirat(ground.fileno(), b"m", 0o700)

        def make() -> Mount:
            ground.attach("/")
            calls.fchdir(ground.fileno())
            try:
                calls.mount(name, b"m", os.fsencode(fstype), flags, data)
            except KernelError as error:
                error.filename = os.fsdecode(source.name)
                raise
            return Mount.clone(b"m")

        mount = in_private_namespace(make, owned=True)
    try:
        # mount(2) has one flag for the filesystem and the mount.
        return mount.set(attrs & _ATTR_RDONLY, clear=_ATTR_RDONLY & ~attrs)
    except BaseException:
        mount.close()
        raise


def _overlay(spec: MountSpec, options: Options, path: bytes) -> None:
    overlay = overlay_of(options.params, None, spec.source)
    source = os.fsencode(spec.source or "overlay")

    def data(start: str) -> bytes:
        words = [f"lowerdir={_lower(overlay.lower, start)}"]
        for key, layer in (("upperdir", overlay.upper), ("workdir", overlay.work)):
            words += [f"{key}={_escaped(layer.path)}"] if layer is not None else []
        return b",".join([os.fsencode(",".join(words)), *filter(None, [_data(overlay.options)])])

    if len(data("")) <= _PAGE_KEPT:
        calls.mount(source, path, b"overlay", _flags(options), data(""))
        return
    layers = [os.path.abspath(layer.path) for layer in (*overlay.lower, overlay.upper, overlay.work) if layer]
    start = os.path.commonpath([os.path.dirname(layer) for layer in layers[: len(overlay.lower)]])

    def mount() -> None:
        calls.unshare(_CLONE_FS)  # so that this thread alone changes its directory
        os.chdir(start)
        calls.mount(source, path, b"overlay", _flags(options), _short(data(start)))

    on_thread(mount)


def _lower(layers: Iterable[Layer], start: str) -> str:
    text = ""
    for layer in layers:
        name = os.path.relpath(os.path.abspath(layer.path), start) if start else os.path.abspath(layer.path)
        text += ("::" if layer.data_only else ":" if text else "") + _escaped(name)
    return text


def _escaped(path: str) -> str:
    return escape(path).replace(",", "\\,")


def _data(params: Iterable[Param]) -> bytes | None:
    words = []
    for param in params:
        if isinstance(param, String):
            value = param.value if isinstance(param.value, bytes) else os.fsencode(param.value)
            if b"," in value:
                value = b'"%b"' % value  # mount(2)'s own rule, which SELinux labels need
            words.append(os.fsencode(param.key) + b"=" + value)
        elif type(param).__name__ == "Flag":
            words.append(os.fsencode(param.key))
        else:
            raise InvalidSpec(f"{param!r} can't be said in mount(2)'s string of options", part=param.key)
    return _short(b",".join(words)) if words else None


def _short(data: bytes) -> bytes:
    if len(data) > _PAGE_KEPT:
        hint = f"mount(2) keeps {_PAGE_KEPT} bytes of options without a word; these have {len(data)}"
        raise from_errno(E2BIG, "mount", (data,), hint=hint)
    return data


# --- flags ---------------------------------------------------------------------------------------------------------
def _flags(options: Options) -> int:
    wanted = sum(bit for name, bit in _SUPERBLOCK.items() if options.superblock.get(name))
    return wanted | _ms(options.attrs) & ~_MS_RDONLY


def _ms(attrs: int) -> int:
    return sum(ms for attr, ms in n.ATTR_TO_MS.items() if attrs & attr)


def _set(path: bytes, attrs: int, clear: int) -> None:
    """Change attributes of the mount at a path, and no others: mount(2) wants to be told all, also those that stay."""
    try:
        calls.mount(None, path, None, _MS_REMOUNT | _MS_BIND | _whole(path, attrs, clear), None)
    except KernelError as error:
        if error.errno == EPERM and clear:
            error.explain(hint=LOCKED)
        raise


def _whole(path: bytes, attrs: int, clear: int) -> int:
    now = int(lookup(path, fields=("attrs",)).attrs or 0)
    wanted = (now & ~clear) | attrs
    if attrs & _ATIME_MASK:
        wanted = wanted & ~_ATIME_MASK | attrs & _ATIME_MASK
    return _ms(wanted) | (0 if wanted & _ATIME_MASK else _MS_RELATIME)


def set_all(options: Options, link: bytes, path: str, *, with_filesystem: bool = False) -> None:
    """Set attributes and propagation of a mount, and flags and parameters of its filesystem; or nothing, if that fails.

    Arguments: options; link, a path that leads to it whatever comes upon it; path, where it stands.
    """
    changes = bool(options.attrs or options.clear) or with_filesystem
    if not changes:
        _set_below(link, path, options.below, options.below_clear)
        _propagate(options, link)
        return
    whole, before = _whole(link, options.attrs, options.clear), _whole(link, 0, 0)
    try:
        if with_filesystem:
            _reconfigure(link, options, whole)
        calls.mount(None, link, None, _MS_REMOUNT | _MS_BIND | whole, None)
        _set_below(link, path, options.below, options.below_clear)
        _propagate(options, link)
    except BaseException as error:
        if isinstance(error, KernelError) and error.errno == EPERM and options.clear:
            error.explain(hint=LOCKED)
        calls.mount(None, link, None, _MS_REMOUNT | _MS_BIND | before, None)
        raise


def _reconfigure(link: bytes, options: Options, whole: int) -> None:
    if (options.superblock or options.params) and not options.bind_too:
        now = int(lookup(link, fields=("sb_flags",)).sb_flags or 0)
        for name, bit in _SUPERBLOCK.items():
            now = now & ~bit | (bit if options.superblock.get(name, bool(now & bit)) else 0)
        kept = now & sum(_SUPERBLOCK.values())
        calls.mount(None, link, None, _MS_REMOUNT | whole & ~_MS_RDONLY | kept, _data(options.params))


def _set_below(link: bytes, path: str, attrs: int, clear: int) -> None:
    """Change attributes of a mount and of all below it, or of none."""
    if not (attrs or clear):
        return
    done: list[tuple[bytes, int]] = []
    # By the table: a question about each mount could leave one out, which would then stay as it was without a word.
    below = MountTable(parse(read_table())).below(path)
    points = [link, *(os.fsencode(info.point) for info in below if info.point)]
    try:
        for point in dict.fromkeys(points):
            before = _whole(point, 0, 0)
            _set(point, attrs, clear)
            done.append((point, before))
    except BaseException:
        for point, before in reversed(done):
            calls.mount(None, point, None, _MS_REMOUNT | _MS_BIND | before, None)
        raise
