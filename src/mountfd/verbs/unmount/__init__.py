"""unmount: take mounts away, each by what it is and not only by where it stands.

| what | how | file |
| --- | --- | --- |
| which mount is meant: by path, descriptor, handle or id | statx(2) | target.py |
| the top of a path; busy, locked, no mount | umount2(2) | one.py |
| the one with an id, and never one that came on top of it | umount2(2) twice with MNT_EXPIRE | exact.py |
| everything at and below a path | listmount(2), then each as above | tree.py |
| FUSE | fusermount3(1) | fuse.py |
| what an error means | looked for after it came | explain.py |

Nothing is deleted, and the table isn't read before an unmount for what the call itself answers.
"""

from __future__ import annotations

from mountfd.errors import Gone, KernelError, Missing
from mountfd.verbs.unmount.explain import hidden_there
from mountfd.verbs.unmount.one import deadline_of, take
from mountfd.verbs.unmount.target import Aim, find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.abi.paths import StrPath
    from mountfd.verbs.unmount.target import HasFileno

__all__ = ["unmount", "unmount_all"]

_FORCE, _DETACH = 1, 2


def unmount(  # noqa: PLR0913 (what, and how far)
    target: StrPath | int | HasFileno | None = None,
    *,
    recursive: bool = False,
    lazy: bool = False,
    wait: float = 2.5,
    id: int | None = None,  # noqa: A002 (the word that everybody looks for)
    force: bool = False,
    follow: bool = True,
) -> int:
    """Unmount the mount on top at a target; give how many were taken away, 0 where the target is no mount.

    Arguments: target, a path; or a descriptor of a mount's root, which stays the caller's; or a handle such as a
    Mount, which is closed first, since it alone would keep the mount busy. id, the unique one: only this mount goes,
    by itself wherever it stands, with a target if it is on top there. recursive, with everything below and all that
    the target covers, deepest first; the target itself may be a plain directory. lazy, out of the tree at once with
    all that stands on it, though somebody uses it (MNT_DETACH). wait, for how many seconds a busy one is tried again.
    force, abort what waits for a server that doesn't answer (MNT_FORCE). follow, whether a final symlink is followed.
    A mount that came on top of the one with an id, or of a descriptor's or handle's, meanwhile isn't unmounted in its
    place, however many threads and processes do this at once; should it ever happen, as it can with lazy or force, it
    is told (ESTALE). This process's root is refused: umount2(2) would make
    its filesystem read-only. When a part of a tree stays, the rest is gone all the same: each that failed is told,
    several as an ExceptionGroup, and those that stand above it are left alone.
    Raises: Busy, with .holders, after the wait; Missing, also for a mount that others hide, which .hint names; Gone
    when the id isn't on top there (any more), or what was waited for went and uncovered another; Denied, also for a
    mount that is locked because it came from a more privileged mount namespace; InvalidSpec; NotSupported for id before
    Linux 6.8.
    Call: umount2(2); statmount(2) and listmount(2), Linux 6.8, before that the mount table for what is recursive.
    """
    deadline, flags = deadline_of(wait), _flags(lazy=lazy, force=force)
    if recursive:
        if _is_empty(target) and id is None:
            return 0
        from mountfd.verbs.unmount.tree import take_tree  # noqa: PLC0415 (most unmounts are of one mount)

        aim = find(target, id, follow=follow)
        return 0 if aim is None else take_tree(aim, flags, deadline)
    aim = find(target, id, follow=follow)
    try:
        return 0 if aim is None else take(aim, flags, deadline)
    except Missing as error:
        error.explain(hint=None if aim is None else hidden_there(aim.raw, below=False))
        raise


def unmount_all(
    target: StrPath | int | HasFileno,
    *,
    lazy: bool = False,
    wait: float = 2.5,
    force: bool = False,
    follow: bool = True,
) -> int:
    """Unmount the whole stack at a target, until it is no mount; give how many were taken away.

    Arguments: as of `unmount`; a descriptor or handle must be of the top mount. A path that isn't there, or is empty,
    is 0. When one of the stack stays, those that covered it are gone.
    Raises: as `unmount` does.
    Call: umount2(2).
    """
    deadline, flags = deadline_of(wait), _flags(lazy=lazy, force=force)
    if _is_empty(target):
        return 0
    count, aim = 0, find(target, None, follow=follow)
    try:
        while aim is not None:
            try:
                taken = take(aim, flags, deadline)
            except Gone:
                if aim.number:
                    raise
                continue  # somebody else took the one that was waited for; what it covered is meant, too
            if not taken:
                break
            count += taken
            aim = Aim(aim.raw, follow=aim.follow)
    except Missing as error:
        hint = None if aim is None else hidden_there(aim.raw, below=False)
        if hint is None:
            return count
        error.explain(hint=hint)
        raise
    except KernelError as error:
        if count:
            error.add_note(f"{count} that covered it were unmounted before")
        raise
    return count


def _flags(*, lazy: bool, force: bool) -> int:
    return (_DETACH if lazy else 0) | (_FORCE if force else 0)


def _is_empty(target: object) -> bool:
    return isinstance(target, str | bytes) and not target
