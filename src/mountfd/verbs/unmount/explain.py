"""What an error of umount2(2) means: looked for after it came, since most unmounts meet none."""

from __future__ import annotations

import os
from errno import EINVAL, EPERM

from mountfd.errors import KernelError, Missing, MountfdError, from_errno
from mountfd.verbs.query.asking import stands
from mountfd.verbs.query.oldway import is_in_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.errors import Busy
    from mountfd.model.holder import Holder
    from mountfd.verbs.unmount.target import Aim, Seen

__all__ = ["explain_busy", "hidden_there", "raise_unless_gone", "refuse_symlink"]

_MOST = 3
_NOFOLLOW = 8
_LOCKED = (
    "this mount is locked: it came into this mount namespace together with others from a more privileged one, "
    "and hides what that one wants hidden. Unmount it there, or unmount what it stands on lazily"
)
_ELSEWHERE = "this mount stands in another mount namespace, or was unmounted lazily before"


def explain_busy(error: Busy, aim: Aim) -> None:
    """Say who keeps it busy, at most three in words and all in .holders."""
    from mountfd.verbs.holders import holders  # noqa: PLC0415 (only on the way out of an error)

    own = "" if aim.fd is None else f"descriptor {aim.fd} alone, by which it was named, keeps it busy: close it"
    try:
        number = aim.number or aim.look().unique
        found = [holder for holder in (holders(id=number) if number else holders(aim.raw)) if holder.may_block]
    except MountfdError as trouble:
        error.explain(hint=own or f"who holds it can't be found out: {trouble}", filename=aim.path)
        return
    error.holders = tuple(found)
    error.explain(hint="; ".join(filter(None, (own, _words(found)))), filename=aim.path)


def _words(found: list[Holder]) -> str:
    sure = [holder for holder in found if holder.blocks]
    if not sure:
        return "nobody that can be seen holds it" + (", but not all can be seen" if found else "")
    words = [holder.words for holder in sure[:_MOST]]
    if len(sure) > _MOST:
        words.append(f"and {len(sure) - _MOST} more")
    if any(holder.kind == "mount" for holder in sure):
        words.append("recursive=True unmounts what stands on it first")
    return "; ".join(words)


def raise_unless_gone(error: KernelError, aim: Aim, seen: Seen) -> None:
    """Return where the mount that was seen has gone meanwhile; else raise what EINVAL or ENOENT means."""
    try:
        again = aim.look()
    except Missing:
        if _is_known_to_stand(seen, otherwise=False):
            raise error from None
        return
    if not again.is_root or again.number != seen.number:
        return
    if error.errno != EINVAL:
        raise error
    if not _is_known_to_stand(seen, otherwise=True):
        error.explain(hint=_ELSEWHERE)
        raise error
    raise from_errno(EPERM, error.syscall, error.arguments, filename=aim.path, hint=_LOCKED) from error


def _is_known_to_stand(seen: Seen, *, otherwise: bool) -> bool:
    """Say whether the mount that was seen stands in this namespace; something else where the kernel doesn't tell."""
    try:
        return stands(seen.unique) if seen.unique else is_in_table(seen.number)
    except KernelError:
        return otherwise


def refuse_symlink(aim: Aim) -> None:
    """Raise for a symlink that isn't to be followed, as the kernel does."""
    if os.path.islink(aim.raw):
        hint = "this is a symbolic link, which is not followed: name the place that it points to"
        raise from_errno(EINVAL, "umount2", (aim.raw, _NOFOLLOW), filename=aim.path, hint=hint)


def hidden_there(target: object, *, below: bool) -> str | None:
    """Say which mount hides those that stand at a path that isn't there, or below it; None where none do."""
    if not isinstance(target, str | bytes | os.PathLike):
        return None
    from mountfd.verbs.query import mounts  # noqa: PLC0415 (only on the way out of an error)

    try:
        path = os.path.realpath(os.fsdecode(target))
        fields = ("id", "parent_id", "id_old", "parent_id_old", "point", "fstype")
        table = mounts(fields=fields)
    except OSError:
        return None  # the current directory is gone, or there is no /proc: the error itself says what is known
    if not (table.below(path) if below else table.by_point(path)):
        return None
    hider = table.visible(path)
    if hider is None:
        return "a mount stands there, but others hide it"
    return f"a mount stands there, hidden by the {hider.fstype} on {hider.point!r}: unmount that one first"
