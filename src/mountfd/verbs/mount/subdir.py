"""X-mount.subdir by mount(2): a directory of a filesystem becomes the root of a mount, without open_tree(2).

    GROUND              a tmpfs of our own at a temporary path: private, and closed to others than root
    GROUND/whole        what the description asks for, all of it
    GROUND/part         the directory, bound; it gets its owner and attributes, and is moved to the target, finished

mount(2) binds nothing out of another mount namespace, so the whole has to be mounted in this one for a moment. Nobody
else's mounts get a copy of it. What a kill leaves, `mountfd.sweep` finds and clears.
"""

from __future__ import annotations

import os
import stat
from copy import copy

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.errors import MountfdError, unsupported
from mountfd.handles.mount import Mount
from mountfd.handles.root import Root
from mountfd.model.options import Options
from mountfd.model.spec import MountSpec
from mountfd.verbs.mount.by_string import act, finish
from mountfd.verbs.mount.make import added_loop, first_attributes
from mountfd.verbs.mount.parting import make_private
from mountfd.verbs.mount.place import Place, take_back

__all__ = ["act_on_subdir"]

_GROUND = MountSpec("tmpfs", "mountfd", options=["private", "mode=700", "nosuid", "nodev", "noexec"])
_MS_BIND, _MS_REC = 4096, 16384
_PATH_NOFOLLOW = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_PATH_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def act_on_subdir(spec: MountSpec, options: Options, place: Place, *, reuse_loop: bool) -> int:
    """Mount a directory of what a description asks for at a place; give the mount's unique id, 0 where it has none.

    On any failure nothing is left. Raises: NotSupported where no directory for the ground can be made.
    """
    from mountfd.verbs.temporary import temporary_path  # noqa: PLC0415 (it stands upon mount, of which this is a part)

    moving = Options()
    moving.action, moving.nofollow, moving.propagation = "move", frozenset({"source"}), options.propagation
    moved: Mount | None = None
    loops: list[int] = []
    try:
        with (
            temporary_path(_GROUND, location=_location()) as ground,
            _part(spec, options, place, ground, loops, reuse_loop=reuse_loop) as part,
        ):
            try:
                done = act(MountSpec("", f"{ground}/part"), moving, place, reuse_loop=False)
                moved = part.dup()
            except BaseException as failure:
                _take_back(part, failure)  # wherever it stands
                raise
    except BaseException as failure:
        if moved is not None:  # it stands, but what it was cut out of doesn't go
            _take_back(moved, failure)
        for number in loops:
            added_loop(number).close()
        raise
    finally:
        if moved is not None:
            moved.close()
    return done


def _location() -> str:
    from mountfd.verbs.temporary.seen import default_location  # noqa: PLC0415 (as above)

    try:
        return default_location()
    except FileNotFoundError as error:
        why = "mount(2) can't mount a part of a filesystem, so all of it is mounted in a directory for a moment"
        raise unsupported("X-mount.subdir", f"{why}; {error.strerror}") from error


def _part(  # noqa: PLR0913 (what, where, and how)
    spec: MountSpec, options: Options, place: Place, ground: str, loops: list[int], *, reuse_loop: bool
) -> Mount:
    """Mount the whole, bind the part, and finish that; give the part, and add loop devices that were made to a list."""
    whole, part = f"{ground}/whole", f"{ground}/part"
    os.mkdir(whole, 0o700)
    with Place(whole, "", Options()) as at:
        at.name = place.name  # which errors name
        made: list[int] = []
        act(spec, _of_whole(options), at, reuse_loop=reuse_loop, made=made)
        loops += made
    with Root(calls.openat(n.AT_FDCWD, os.fsencode(whole), _PATH_DIRECTORY, 0)) as root:
        with root.resolve(options.subdir or "") as found:
            if stat.S_ISDIR(os.fstat(found.fileno()).st_mode):
                os.mkdir(part, 0o700)
            else:
                os.close(os.open(part, _NEW_FILE, 0o600))
            flags = _MS_BIND | (_MS_REC if options.action == "rbind" else 0)
            calls.mount(b"/proc/self/fd/%d" % found.fileno(), os.fsencode(part), None, flags, None)
        # A peer of its source takes mounts there along when it goes.
        make_private(root.fileno(), recursive=True)
    bound = Mount(calls.openat(n.AT_FDCWD, os.fsencode(part), _PATH_NOFOLLOW, 0))
    try:
        later = copy(options)
        later.propagation = []  # what is unbindable can't be moved to a shared place
        finish(later, b"/proc/self/fd/%d" % bound.fileno(), part)
    except BaseException:
        bound.close()
        raise
    return bound


def _of_whole(options: Options) -> Options:
    """Give the options without those of the new mount's root: that is the part's."""
    whole = copy(options)
    whole.subdir = whole.owner = whole.group = whole.mode = None
    whole.below = whole.below_clear = 0
    whole.propagation = []
    whole.attrs = first_attributes(options)
    return whole


def _take_back(mount: Mount, failure: BaseException) -> None:
    try:
        take_back(mount)
    except MountfdError as second:
        failure.add_note(f"and the new mount stays: {second}")
