"""`mountfd umount`: umount(8), and who is in its way."""

from __future__ import annotations

import os
import stat
from errno import EMFILE, ENFILE, ENOMEM

from mountfd.cli import exits
from mountfd.cli.arguments import Option, Spec
from mountfd.errors import Busy, Denied, Gone, InvalidSpec, KernelError, Missing, MountfdError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.cli.arguments import Arguments
    from mountfd.model.info import MountInfo
    from mountfd.model.table import MountTable

__all__ = ["SPEC", "run", "status_of"]

_WAIT = 2.5

_FIELDS = ("id", "parent_id", "id_old", "parent_id_old", "point", "dev", "source", "fstype")

SPEC = Spec(
    "umount",
    "Unmount each TARGET: a mount point, or what is mounted: a device, an image on a loop device, a source's name.",
    "[TARGET...]",
    [
        Option("-R --recursive", "with everything below and covered, deepest first; TARGET may be a plain directory"),
        Option("-l --lazy", "out of the tree at once, though somebody uses it"),
        Option("-f --force", "abort what waits for a server that doesn't answer"),
        Option("-A --all-targets", "every place in this namespace where TARGET's filesystem is mounted"),
        Option("--all", "the whole stack at TARGET"),
        Option("--id", "the mount with this unique id, and no other one that may stand in its place", metavar="N"),
        Option("--nofollow", "where TARGET is a symlink, that is an error"),
        Option("--wait", "how long a busy one is tried again [2.5]", metavar="S"),
        Option("-g --graceful", "what isn't mounted, or isn't there, is no failure"),
        Option("-q --quiet", "no message about what isn't mounted"),
        Option("-v --verbose", "say what was done"),
        Option("-r --read-only", "what is busy is remounted read-only"),
        Option("-d --detach-loop", "take the image from the loop device, also where somebody set that up by losetup"),
        Option("--fake", "see whether TARGET is mounted, and leave it"),
        Option("-N --namespace", "in another mount namespace: of a pid, or a file of nsfs", metavar="PID|FILE"),
        Option("-c --no-canonicalize", "nothing: the kernel is given TARGET as it is"),
        Option("-i --internal-only", "nothing: no umount.TYPE program is ever started"),
        Option("-n --no-mtab", "nothing: there is no mtab"),
        Option("-V --version", "the version"),
    ],
    epilog="Of a device that is mounted in several places the last one goes, as with umount(8); -A takes all.\n"
    "The exit status is umount(8)'s: 0 done, 1 wrong words or no permission, 2 out of descriptors or memory, 32 it\n"
    "failed or isn't mounted, 64 some of several were unmounted. Who keeps a mount busy is named, one in a line.",
)


class _NotMounted(Exception):
    """There is no such mount."""


def run(arguments: Arguments) -> int:
    """Unmount each."""
    if arguments.on("version"):
        from mountfd.cli.version import show_version  # noqa: PLC0415 (only when asked)

        return show_version()
    if bool(arguments.operands) == arguments.on("id"):
        raise InvalidSpec("umount takes either TARGET... or --id", part="TARGET")
    if arguments.on("all") and (arguments.on("recursive") or arguments.on("all_targets")):
        raise InvalidSpec("--all takes one stack: not with --recursive or --all-targets", part="--all")
    if arguments.on("read_only") and (arguments.on("recursive") or arguments.on("all")):
        raise InvalidSpec("--read-only is for one mount: not with --recursive or --all", part="--read-only")
    wait = _seconds(arguments.text("wait"))
    targets: list[str | None] = [*map(_resolved, arguments.operands)] or [None]
    namespace = arguments.text("namespace")
    if namespace is None:
        return _all(targets, arguments, wait)
    from mountfd.cli.elsewhere import within  # noqa: PLC0415 (only for another namespace)

    return within(namespace, lambda: _all(targets, arguments, wait), status_of)


def _resolved(target: str) -> str:
    if "=" not in target:
        return target
    from mountfd.cli.umount_beside import resolved  # noqa: PLC0415 (tags are rare)

    return resolved(target)


def _all(targets: list[str | None], arguments: Arguments, wait: float) -> int:
    statuses = [_status(target, arguments, wait) for target in targets]
    failures = [status for status in statuses if status != exits.OK]
    if failures and len(failures) < len(statuses):
        return exits.SOME
    combined = 0
    for status in failures:
        combined |= status
    return combined


def status_of(error: BaseException) -> int:
    """Give umount(8)'s status of a failure."""
    if isinstance(error, ExceptionGroup):
        return max(map(status_of, error.exceptions))
    if isinstance(error, InvalidSpec) or (isinstance(error, Denied) and os.geteuid() != 0):
        return exits.USAGE
    if isinstance(error, OSError) and error.errno in {EMFILE, ENFILE, ENOMEM}:
        return exits.SYSTEM
    return exits.FAILURE


def _status(target: str | None, arguments: Arguments, wait: float) -> int:
    from mountfd.cli.messages import say  # noqa: PLC0415

    name = f"mount {arguments.text('id')}" if target is None else target
    try:
        count = _act(target, arguments, wait)
    except _NotMounted:
        if arguments.on("graceful"):
            return exits.OK
        if not arguments.on("quiet"):
            from mountfd.verbs.unmount.explain import hidden_there  # noqa: PLC0415 (only on the way out of an error)

            hint = None if target is None else hidden_there(target, below=False)
            say(f"{name}: not mounted" + (f"; {hint}" if hint else ""))
        return exits.FAILURE
    except (MountfdError, ExceptionGroup) as error:
        return _failed(error, name, arguments)
    if arguments.on("verbose"):
        done = "would be unmounted" if arguments.on("fake") else "unmounted"
        say(f"{name}: {done}" + (f", {count} mounts" if count > 1 else ""))
    return exits.OK


def _failed(error: MountfdError | ExceptionGroup[MountfdError], name: str, arguments: Arguments) -> int:
    if isinstance(error, Missing):
        if arguments.on("graceful") and not error.hint:
            return exits.OK
        if _is_tag(name):
            error.explain(hint=f"no device has the tag {name}, and no mount's source is called so")
    if not (isinstance(error, Busy) and arguments.on("read_only")):
        _tell(error)
        return status_of(error)
    from mountfd.cli.messages import say  # noqa: PLC0415
    from mountfd.cli.umount_beside import why_not_read_only  # noqa: PLC0415 (only when asked)

    why = why_not_read_only(error)
    if why is None:
        say(f"{name} is busy: it is read-only now")
        return exits.OK
    _tell(error)
    _more(f"and it can't be made read-only: {why}")
    return status_of(error)


def _is_tag(target: str) -> bool:
    from mountfd.cli.umount_beside import is_tag  # noqa: PLC0415 (only on the way out of an error)

    return is_tag(target)


def _act(target: str | None, arguments: Arguments, wait: float) -> int:
    """Unmount, or pretend to; with -d free the loop devices that were mounted."""
    if arguments.on("fake"):
        return _pretend(target, arguments)
    if not arguments.on("detach_loop"):
        return _unmount(target, arguments, wait)
    from mountfd.cli.umount_beside import free, loops_below  # noqa: PLC0415 (only when asked)

    place = _where(arguments) if target is None else target
    loops = loops_below(place, recursive=arguments.on("recursive"), stack=arguments.on("all"))
    count = _unmount(target, arguments, wait)
    free(loops)
    return count


def _pretend(target: str | None, arguments: Arguments) -> int:
    """Give how many mounts would go. Raises what is wrong with the target."""
    from mountfd.verbs.query import is_mount, mounts  # noqa: PLC0415 (only when asked)
    from mountfd.verbs.unmount.target import find, refuse_own_root  # noqa: PLC0415

    follow = not arguments.on("nofollow")
    if target is None:
        return 1 if _where(arguments) else 0
    if not target:
        raise InvalidSpec("TARGET is empty", part="TARGET")
    if arguments.on("all_targets"):
        places = len(_everywhere(target, follow=follow))
    else:
        missing: Missing | None = None
        is_place = False
        try:
            is_place = is_mount(target, follow=follow)
        except Missing as error:
            missing = error
        aim = find(target, None, follow=follow) if is_place else None
        if aim is not None:
            refuse_own_root(aim, aim.look())
        if missing is None and arguments.on("recursive"):
            places = len(mounts(under=target, fields=("id_old",)))
        else:
            places = 1 if is_place else len(_of_source(target)[-1:])
        if missing is not None and not places:
            raise missing
    if not places:
        raise _NotMounted
    return places


def _where(arguments: Arguments) -> str:
    """Give the path of the mount with the id. Raises Gone."""
    from mountfd.verbs.unmount.target import find  # noqa: PLC0415 (only by id)

    aim = find(None, _number(arguments.text("id")), follow=False)
    return "" if aim is None else aim.path


def _unmount(target: str | None, arguments: Arguments, wait: float) -> int:
    """Unmount what a word means, and give how many mounts went. Raises _NotMounted."""
    from mountfd.verbs.unmount import unmount, unmount_all  # noqa: PLC0415 (after the words are understood)

    lazy, force, recursive = (arguments.on(key) for key in ("lazy", "force", "recursive"))
    follow = not arguments.on("nofollow")
    if target is None:
        return unmount(id=_number(arguments.text("id")), recursive=recursive, lazy=lazy, wait=wait, force=force)
    if not target:
        raise InvalidSpec("TARGET is empty", part="TARGET")
    if arguments.on("all_targets"):
        places = _everywhere(target, follow=follow)
    else:
        count = 0
        missing: Missing | None = None
        try:
            if arguments.on("all"):
                count = unmount_all(target, lazy=lazy, wait=wait, force=force, follow=follow)
            else:
                count = unmount(target, recursive=recursive, lazy=lazy, wait=wait, force=force, follow=follow)
        except Missing as error:
            missing = error
        if count:
            return count
        places = _of_source(target)[-1:]
        if missing is not None and not places:
            raise missing
    if not places:
        raise _NotMounted
    return _each(places, recursive=recursive, lazy=lazy, wait=wait, force=force)


def _each(places: list[MountInfo], *, recursive: bool, lazy: bool, wait: float, force: bool) -> int:
    """Unmount these, the last one first. What has gone with another one meanwhile is no failure."""
    from mountfd.verbs.unmount import unmount  # noqa: PLC0415

    count = 0
    errors: list[MountfdError | ExceptionGroup[MountfdError]] = []
    for place in reversed(places):
        try:
            if place.id is None and place.point is not None:
                count += unmount(place.point, recursive=recursive, lazy=lazy, wait=wait, force=force, follow=False)
            else:
                count += unmount(id=place.id, recursive=recursive, lazy=lazy, wait=wait, force=force)
        except Gone as error:
            if _stands(place):
                errors.append(error)
        except (KernelError, ExceptionGroup) as error:
            errors.append(error)
    if len(errors) > 1:
        raise ExceptionGroup(f"{len(errors)} of {len(places)} places stay", errors)
    if errors:
        raise errors[0]
    return count or len(places)


def _stands(place: MountInfo) -> bool:
    from mountfd.verbs.query import lookup  # noqa: PLC0415

    try:
        lookup(id=place.id, fields=("id",))
    except Gone:
        return False
    return True


# --- what is mounted -----------------------------------------------------------------------------------------------
def _table() -> MountTable:
    from mountfd.verbs.query import mounts  # noqa: PLC0415

    return mounts(fields=_FIELDS).where(lambda row: row.is_reachable)


def _of_source(target: str) -> list[MountInfo]:
    """Give the places where a device, an image on one loop device, or a source of this name is mounted."""
    try:
        status = os.stat(target)
    except OSError:
        return _table().by_source(target)
    if stat.S_ISBLK(status.st_mode):
        return _of_device(os.path.realpath(target), status.st_rdev)
    if stat.S_ISREG(status.st_mode):
        from mountfd.handles.loop import attached  # noqa: PLC0415 (only for images)

        devices = attached(target)
        if len(devices) > 1:
            from mountfd.cli.messages import say  # noqa: PLC0415

            say(f"{target} is on several loop devices: {', '.join(device.path for device in devices)}")
        elif devices:
            return _of_device(devices[0].path, os.makedev(7, devices[0].number))
    return []


def _of_device(path: str, number: int) -> list[MountInfo]:
    # btrfs shows a device number of its own, so the name counts too.
    dev = os.major(number), os.minor(number)
    return [row for row in _table() if row.dev == dev or row.source == path]


def _everywhere(target: str, *, follow: bool) -> list[MountInfo]:
    """Give all places of the filesystem that is mounted at a target, or is a target."""
    from mountfd.verbs.query import is_mount, lookup  # noqa: PLC0415

    try:
        is_place = is_mount(target, follow=follow)
    except Missing:
        if found := _of_source(target):
            return found
        raise
    if is_place:
        dev = lookup(target, fields=("dev",), follow=follow).dev
        return [row for row in _table() if row.dev == dev]
    return _of_source(target)


# --- words ---------------------------------------------------------------------------------------------------------
def _tell(error: BaseException) -> None:
    """Say what went wrong; of a busy mount all who hold it."""
    from mountfd.cli.messages import report, say  # noqa: PLC0415 (only on the way out of an error)

    if isinstance(error, ExceptionGroup):
        say(str(error))
        for each in error.exceptions:
            _tell(each)
    elif isinstance(error, Busy) and error.holders:
        from mountfd.model.holder import Holder  # noqa: PLC0415

        say(str(error))
        for holder in error.holders:
            if isinstance(holder, Holder):
                _more(holder.words if holder.blocks else f"maybe: {holder.words}")
    else:
        report(error)


def _more(text: str) -> None:
    from mountfd.cli.messages import write  # noqa: PLC0415
    from mountfd.view.text import printable  # noqa: PLC0415

    write(f"  {printable(text)}\n")


def _number(text: str | None) -> int:
    if text is None or not (text.isascii() and text.isdecimal()):
        raise InvalidSpec(f"{text!r} is not a number", part="--id")
    return int(text)


def _seconds(text: str | None) -> float:
    try:
        seconds = _WAIT if text is None else float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise InvalidSpec(f"--wait {text!r} is no number of seconds", part="--wait")
    return seconds
