"""Route `string`: everything by mount(2), in as many steps as it takes. Any kernel.

mount(2) takes 4,095 bytes of options and cuts a longer string without a word, so it is measured first; an overlay's
layers are named from the directory that they have in common. Attributes of a bind, propagation and attributes of the
mounts below take a step each: a failure on the way takes the mount away again.
"""

from __future__ import annotations

import os
from errno import E2BIG

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.paths import encode
from mountfd.errors import InvalidSpec, KernelError, from_errno, unsupported
from mountfd.handles.context import FsContext
from mountfd.handles.fd import OwnedFd
from mountfd.handles.kernel_log import KernelLog
from mountfd.handles.mount import Mount
from mountfd.model.mountinfo import parse
from mountfd.model.option_words import READ_ONLY_TYPES
from mountfd.model.overlay_text import escape, overlay_of
from mountfd.model.param import String
from mountfd.model.table import MountTable
from mountfd.verbs.enter import in_private_namespace, on_thread
from mountfd.verbs.mount.make import give_root
from mountfd.verbs.mount.source import Source
from mountfd.verbs.query import lookup
from mountfd.verbs.query.oldway import read_table
from mountfd.verbs.query.place import HERE, NOFOLLOW, id_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountfd.model.options import Options
    from mountfd.model.overlay import Layer
    from mountfd.model.param import Param
    from mountfd.model.spec import MountSpec
    from mountfd.verbs.mount.place import Place

__all__ = ["act", "staged"]

_PAGE_KEPT = 4095
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_MOVE, _MS_REC = 1, 32, 4096, 8192, 16384
_MS_RELATIME = 1 << 21
_SUPERBLOCK = {"ro": 1, "sync": 16, "mand": 64, "dirsync": 128, "lazytime": 1 << 25}
_ATIME_MASK = 0x70
_ATTR_RDONLY = 1
_TAKE_BACK = 2 | 8  # MNT_DETACH, UMOUNT_NOFOLLOW
_PATH_NOFOLLOW = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_CLONE_FS = 0x200


def act(spec: MountSpec, options: Options, place: Place, *, reuse_loop: bool) -> int:
    """Do what a description asks for at a place; give the mount's unique id, 0 where the kernel has none."""
    if options.idmap is not None:
        raise unsupported("idmapped mount", "mount(2) can't idmap: that takes mount_setattr(2), Linux 5.12")
    if options.subdir is not None:
        raise unsupported("X-mount.subdir", "mount(2) mounts a whole filesystem: a part takes open_tree(2), Linux 5.2")
    if options.action == "remount" or not (options.action or spec.filesystem or spec.source):
        number = id_of(place.fd, b"", HERE)  # asked first: what is done isn't taken back for want of a number
        act_on = _remount if options.action else _propagate
        act_on(options, place.path())
        return number
    try:
        _first(spec, options, place.link, reuse_loop=reuse_loop)
    except KernelError as error:
        error.filename = place.name if error.filename == os.fsdecode(place.link) else error.filename
        raise
    path = place.path()  # read again: the target may have been moved meanwhile
    try:
        number = id_of(n.AT_FDCWD, path, NOFOLLOW)
        place.check(number)
        _then(options, path)
    except BaseException:
        if options.action != "move":
            calls.umount2(path, _TAKE_BACK)
        raise
    return number


def _first(spec: MountSpec, options: Options, target: bytes, *, reuse_loop: bool) -> None:
    """Mount it at a target that no rename can lead elsewhere."""
    if options.action:
        flags = {"bind": _MS_BIND, "rbind": _MS_BIND | _MS_REC, "move": _MS_MOVE}[options.action]
        if "source" not in options.nofollow:
            calls.mount(encode(spec.source, "source"), target, None, flags, None)
            return
        with OwnedFd(calls.openat(n.AT_FDCWD, encode(spec.source, "source"), _PATH_NOFOLLOW, 0)) as source:
            calls.mount(b"/proc/self/fd/%d" % source.fileno(), target, None, flags, None)
    elif spec.filesystem == "overlay":
        _overlay(spec, options, target)
    else:
        _filesystem(spec, options, target, reuse_loop=reuse_loop)


def _then(options: Options, path: bytes) -> None:
    if options.action in ("bind", "rbind"):
        if options.attrs or options.clear:
            _set(path, options.attrs, options.clear)
    elif not options.action and bool(options.attrs & _ATTR_RDONLY) != options.superblock.get("ro", False):
        _set(path, options.attrs, _ATTR_RDONLY & ~options.attrs)  # mount(2) has one flag for both
    if options.action == "move":
        _propagate(options, path)
        return
    _set_below(path, options)
    give_root(os.fsdecode(path), options)
    _propagate(options, path)


def _propagate(options: Options, path: bytes) -> None:
    for propagation, recursive in options.propagation:
        calls.mount(None, path, None, int(propagation) | (_MS_REC if recursive else 0), None)


# --- filesystems ---------------------------------------------------------------------------------------------------
def _filesystem(spec: MountSpec, options: Options, path: bytes, *, reuse_loop: bool) -> None:
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


def staged(fstype: str, source: Source, options: Options) -> Mount:
    """Make a filesystem by mount(2) in a private namespace, and give it as a detached mount."""
    name = os.path.abspath(source.name) if source.path and os.path.exists(source.name) else source.name
    data = _data(options.params)
    with FsContext.open("tmpfs") as context, context.create().mount() as ground:
        calls.mkdirat(ground.fileno(), b"m", 0o700)

        def make() -> Mount:
            ground.attach("/")
            calls.fchdir(ground.fileno())
            calls.mount(name, b"m", os.fsencode(fstype), _flags(options), data)
            return Mount.clone(b"m")

        return in_private_namespace(make)


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
    calls.mount(None, path, None, _MS_REMOUNT | _MS_BIND | _whole(path, attrs, clear), None)


def _whole(path: bytes, attrs: int, clear: int) -> int:
    now = int(lookup(path, fields=("attrs",)).attrs or 0)
    wanted = (now & ~clear) | attrs
    if attrs & _ATIME_MASK:
        wanted = wanted & ~_ATIME_MASK | attrs & _ATIME_MASK
    return _ms(wanted) | (0 if wanted & _ATIME_MASK else _MS_RELATIME)


def _remount(options: Options, path: bytes) -> None:
    whole, before = _whole(path, options.attrs, options.clear), _whole(path, 0, 0)
    try:
        _change(path, options, whole)
    except BaseException:
        calls.mount(None, path, None, _MS_REMOUNT | _MS_BIND | before, None)
        raise


def _change(path: bytes, options: Options, whole: int) -> None:
    if (options.superblock or options.params) and not options.bind_too:
        now = int(lookup(path, fields=("sb_flags",)).sb_flags or 0)
        for name, bit in _SUPERBLOCK.items():
            now = now & ~bit | (bit if options.superblock.get(name, bool(now & bit)) else 0)
        kept = now & sum(_SUPERBLOCK.values())
        calls.mount(None, path, None, _MS_REMOUNT | whole & ~_MS_RDONLY | kept, _data(options.params))
    calls.mount(None, path, None, _MS_REMOUNT | _MS_BIND | whole, None)
    _set_below(path, options)
    _propagate(options, path)


def _set_below(path: bytes, options: Options) -> None:
    """Change attributes of the mount at a path and of all below it, or of none."""
    if not (options.below or options.below_clear):
        return
    done: list[tuple[bytes, int]] = []
    # By the table: a question about each mount could leave one out, which would then stay as it was without a word.
    below = MountTable(parse(read_table())).below(os.fsdecode(path))
    points = [path, *(os.fsencode(info.point) for info in below if info.point)]
    try:
        for point in dict.fromkeys(points):
            before = _whole(point, 0, 0)
            _set(point, options.below, options.below_clear)
            done.append((point, before))
    except BaseException:
        for point, before in reversed(done):
            calls.mount(None, point, None, _MS_REMOUNT | _MS_BIND | before, None)
        raise
