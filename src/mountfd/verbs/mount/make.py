"""A description becomes a detached mount, finished: attributes, idmap, owner, before anybody can see it.

| what | how |
| --- | --- |
| bind, rbind | a clone of the source |
| overlay | assemble |
| any other type | a filesystem context; an image goes on a loop device first, where its filesystem wants one |
"""

from __future__ import annotations

import os
from errno import EINVAL, EIO, ENOENT, ENOTBLK, EROFS

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.features import Feature, has
from mountfd.abi.paths import encode
from mountfd.errors import InvalidSpec, KernelError, from_errno
from mountfd.handles.context import FsContext
from mountfd.handles.fd import made_tidily
from mountfd.handles.kernel_log import KernelLog
from mountfd.handles.mount import Mount
from mountfd.handles.namespace import UserNamespace
from mountfd.handles.root import Root
from mountfd.model.idmap import IdMap
from mountfd.model.option_words import READ_ONLY_TYPES
from mountfd.model.overlay_text import overlay_of
from mountfd.model.param import Flag, String
from mountfd.verbs.assemble import assemble
from mountfd.verbs.mount.source import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mountfd.handles.fd import OwnedFd
    from mountfd.model.options import Options
    from mountfd.model.overlay import Overlay
    from mountfd.model.param import Param
    from mountfd.model.spec import MountSpec

__all__ = ["UNBINDABLE", "added_loop", "first_attributes", "give_root", "gives_root", "make_detached", "owner_ids"]

# Why a bind is refused with EINVAL; by whether it is recursive.
UNBINDABLE = {
    False: "the source is unbindable, or in a user namespace mounts below it are locked: use `rbind`",
    True: "the source is unbindable, or lies in another mount namespace",
}
_RDONLY = 1
_KEPT = -1
_ID_MAX = 0xFFFFFFFE
_ID_DIGITS = 10
_MNT_DETACH = 2
_PRIVATE = 1 << 18
_CLONE_NEWUSER = 0x10000000


def make_detached(spec: MountSpec, options: Options, *, reuse_loop: bool = False) -> Mount:
    """Make what a description asks for as a detached mount.

    Arguments: spec; options, of it, understood; reuse_loop, whether a loop device that has the image already is taken.
    Propagation is left to whoever attaches it. Raises: what the parts raise; nothing is left on any failure.
    """
    added: list[int] = []
    if options.action in ("bind", "rbind"):
        mount = _bind(spec, options)
    elif spec.filesystem == "overlay":
        mount = assemble(_overlay(spec, options), first_attributes(options))
    else:
        mount = _filesystem(spec, options, added, reuse_loop=reuse_loop)
    try:
        mount = _with_subdir(mount, options)
        for number in added:
            mount.keep(added_loop(number))
        _finish(mount, options, is_overlay=spec.filesystem == "overlay")
    except BaseException:
        mount.close()
        for number in added:
            added_loop(number).close()
        raise
    return mount


def added_loop(number: int) -> OwnedFd:
    """Give what removes a loop device that was made, when the mount goes that never was attached."""
    from mountfd.handles.loop import AddedLoop  # noqa: PLC0415 (few name a loop device, and that isn't there)
    from mountfd.handles.loop_nodes import control  # noqa: PLC0415

    return AddedLoop(control().release(), number)


# --- kinds ---------------------------------------------------------------------------------------------------------
def _bind(spec: MountSpec, options: Options) -> Mount:
    recursive = options.action == "rbind"
    try:
        mount = Mount.clone(encode(spec.source, "source"), recursive=recursive, follow="source" not in options.nofollow)
    except KernelError as error:
        if error.errno == EINVAL:
            error.explain(hint=UNBINDABLE[recursive])
        elif error.errno == ENOENT:
            error.explain(hint=f"the source {spec.source!r} doesn't exist")
        raise
    try:
        if options.attrs or options.clear:
            from mountfd.verbs.mount.change import set_attributes  # noqa: PLC0415 (many binds change nothing)

            set_attributes(mount, first_attributes(options), options.clear)
    except BaseException as failure:
        if isinstance(failure, KernelError):
            failure.explain(filename=spec.source)
        mount.close()
        raise
    return mount


def _overlay(spec: MountSpec, options: Options) -> Overlay:
    if isinstance(options.idmap, str):
        raise InvalidSpec("the idmap of an overlay's layers must be given in numbers", part="X-mount.idmap")
    return overlay_of([*options.sb_params(negative=False), *options.params], options.idmap, spec.source)


def _filesystem(spec: MountSpec, options: Options, added: list[int], *, reuse_loop: bool) -> Mount:
    if not spec.filesystem and not spec.source:
        raise InvalidSpec("neither a type nor a source is given", part="type")
    with Source(spec.source, options, reuse=reuse_loop) as source:
        types = source.types(spec.filesystem)
        errors: list[KernelError] = []
        for fstype in types:
            try:
                mount = _try(fstype, source, options)
            except KernelError as error:
                errors.append(error)
            else:
                added += [] if source.added_loop is None else [source.added_loop]
                return mount
        raise errors[-1] if len(errors) == 1 else ExceptionGroup(f"none of {', '.join(types)} fits", errors)


def _try(fstype: str, source: Source, options: Options) -> Mount:
    params = [*options.sb_params(negative=False), *options.params]
    if fstype in READ_ONLY_TYPES and Flag("ro") not in params:
        params.insert(0, Flag("ro"))
    texts = [source.name, *(_raw(param) for param in params if isinstance(param, String))]
    is_long = max(map(len, texts)) > n.FSCONFIG_STRING_MAX
    with KernelLog(b"") as log:
        try:
            if is_long:
                from mountfd.verbs.mount.by_string import staged  # noqa: PLC0415 (for what fsconfig can't carry)

                calls.remark(f"mount: a value has over {n.FSCONFIG_STRING_MAX} bytes, so {fstype} goes by mount(2)")
                return staged(fstype, source, options, first_attributes(options))
            return _create(fstype, source, params, first_attributes(options))
        except KernelError as error:
            if error.errno != ENOTBLK or not source.is_image or source.is_on_loop:
                from mountfd.verbs.mount.explain import explain  # noqa: PLC0415 (only on the way out of an error)

                explain(error, fstype, source, log.lines())
                raise
    source.put_on_loop()
    return _try(fstype, source, options)


def _create(fstype: str, source: Source, params: list[Param], attrs: int) -> Mount:
    with FsContext.open(fstype) as context:
        # `ro` comes first: some filesystems open their device as soon as they know it.
        first = [param for param in params if param.key == "ro"]
        rest = [param for param in params if param.key != "ro"]
        named = [] if any(param.key == "source" for param in params) else [String("source", source.name)]
        return context.set(*first, *named, *rest).create().mount(attrs)


def _raw(param: String) -> bytes:
    return param.value if isinstance(param.value, bytes) else os.fsencode(param.value)


# --- what every mount can have -------------------------------------------------------------------------------------
def _with_subdir(mount: Mount, options: Options) -> Mount:
    """Give the mount again with a directory of it as its root."""
    if options.subdir is None:
        return mount
    subdir, recursive = options.subdir, options.action == "rbind"
    if has(Feature.CLONE_DETACHED):
        narrow = _narrowed(mount, subdir, recursive=recursive)
    else:
        from mountfd.verbs.enter import in_private_namespace  # noqa: PLC0415 (only on kernels before 6.15)

        def detach() -> None:
            # What stands on it stands on its peers, too, and would go there with it.
            mount.set(propagation=_PRIVATE, recursive=True)
            # Not left to the namespace's end, which may come a moment later: a loop device would still be in use.
            calls.umount2(b"/proc/thread-self/fd/%d" % mount.fileno(), _MNT_DETACH)

        def act() -> Mount:
            mount.attach("/")
            return made_tidily(lambda: _narrowed(mount, subdir, recursive=recursive), detach)

        narrow = in_private_namespace(act, owned=True)
    mount.close()
    return narrow


def _narrowed(mount: Mount, subdir: str, *, recursive: bool) -> Mount:
    with Root(os.dup(mount.fileno())) as root, root.resolve(subdir) as found:
        return Mount.clone_fd(found.fileno(), recursive=recursive)


def _finish(mount: Mount, options: Options, *, is_overlay: bool) -> None:
    from mountfd.verbs.mount.change import set_attributes  # noqa: PLC0415 (for the few that need it)

    late = _RDONLY if gives_root(options) else 0  # what is read-only can be given no owner
    if options.below & ~late or options.below_clear:
        set_attributes(mount, options.below & ~late, options.below_clear, recursive=True)
    if options.idmap is not None and not is_overlay:
        recursive = options.action == "rbind" if options.idmap_below is None else options.idmap_below
        _idmap(mount, options.idmap, recursive=recursive)
    give_root(f"/proc/self/fd/{mount.fileno()}", options)  # fchmod(2) takes no descriptor of this kind
    if options.attrs & late:
        mount.set(_RDONLY)
    if options.below & late:
        mount.set(_RDONLY, recursive=True)


def gives_root(options: Options) -> bool:
    """Say whether the options want an owner, group or mode for the new mount's root."""
    return options.owner is not None or options.group is not None or options.mode is not None


def first_attributes(options: Options) -> int:
    """Give the attributes that a mount has from the beginning."""
    return options.attrs & ~_RDONLY if gives_root(options) else options.attrs


def give_root(path: str, options: Options) -> None:
    """Give a mount's root the owner, group and mode that the options want."""
    uid, gid = owner_ids(options)
    try:
        if (uid, gid) != (_KEPT, _KEPT):
            os.chown(path, uid, gid)
        if options.mode is not None:
            os.chmod(path, options.mode)
    except OSError as error:
        hint = "X-mount.owner, group and mode are for the root of the new mount, which won't take them"
        if error.errno == EROFS:
            hint += ": the filesystem itself, or the bind's source, is read-only (`ro=vfs` makes the mount alone so)"
        raise from_errno(error.errno or EIO, "chown", (options.owner, options.group, options.mode), hint=hint) from None


def owner_ids(options: Options) -> tuple[int, int]:
    """Give the ids of the user and group for a new mount's root, -1 for what stays. Raises InvalidSpec for no name."""
    return _uid(options.owner), _gid(options.group)


def _idmap(mount: Mount, idmap: IdMap | str, *, recursive: bool) -> None:
    if isinstance(idmap, IdMap):
        mount.idmap(idmap, recursive=recursive)
        return
    flags = os.O_RDONLY | os.O_CLOEXEC
    with UserNamespace(calls.openat(n.AT_FDCWD, encode(idmap, "X-mount.idmap"), flags, 0)) as namespace:
        try:
            mount.idmap(namespace, recursive=recursive)
        except KernelError as error:
            if error.errno == EINVAL and not _is_user_namespace(namespace):
                hint = f"X-mount.idmap: {idmap!r} is no user namespace"
                raise from_errno(EINVAL, error.syscall, error.arguments, filename=idmap, hint=hint) from None
            raise


def _is_user_namespace(namespace: UserNamespace) -> bool:
    try:
        return int(calls.ioctl_fd(namespace.fileno(), n.NS_GET_NSTYPE, 0)) == _CLONE_NEWUSER
    except KernelError:
        return False  # no namespace at all


def _uid(name: str | None) -> int:
    import pwd  # noqa: PLC0415 (only for who gives an owner)

    return _id_of(name, lambda known: pwd.getpwnam(known).pw_uid, "user", "X-mount.owner")


def _gid(name: str | None) -> int:
    import grp  # noqa: PLC0415 (only for who gives a group)

    return _id_of(name, lambda known: grp.getgrnam(known).gr_gid, "group", "X-mount.group")


def _id_of(name: str | None, find: Callable[[str], int], kind: str, word: str) -> int:
    if name is None:
        return _KEPT
    if _is_number(name):
        return _number(name, word)
    try:
        return find(name)
    except KeyError:
        raise InvalidSpec(f"there is no {kind} {name!r}", part=word) from None


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _number(text: str, part: str) -> int:
    if len(text) > _ID_DIGITS or int(text) > _ID_MAX:
        raise InvalidSpec(f"{part}={text!r} is no id: the largest is {_ID_MAX}", part=part)
    return int(text)
