"""A command's work in another mount namespace: -N of mount(8) and umount(8)."""

from __future__ import annotations

from mountfd.cli import exits
from mountfd.errors import MountfdError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["within"]

# What the commands that come here load when they need it.
_OF_COMMANDS = ("cli.messages", "cli.rehearsal", "cli.umount_beside", "view.text")


def within(word: str, act: Callable[[], int], status_of: Callable[[BaseException], int]) -> int:
    """Do something in the mount namespace of a process, or of a file of nsfs, and give its exit status.

    Paths mean what they mean there; nothing of this program is loaded from there.
    """
    from importlib import import_module  # noqa: PLC0415 (only for another namespace)

    from mountfd.cli.messages import report  # noqa: PLC0415
    from mountfd.handles.mountns import MountNamespace  # noqa: PLC0415
    from mountfd.verbs.enter import in_namespace  # noqa: PLC0415
    from mountfd.verbs.loading import load_everything  # noqa: PLC0415

    def guarded() -> int:
        try:
            return act()
        except (MountfdError, ExceptionGroup, OSError) as error:
            report(error)
            return status_of(error)

    load_everything()
    for name in _OF_COMMANDS:
        import_module(f"mountfd.{name}")
    is_number = word.isascii() and word.isdecimal()
    try:
        with MountNamespace.of(int(word)) if is_number else MountNamespace.open(word) as namespace:
            return in_namespace(namespace, guarded)
    except MountfdError as error:  # of the way there: mount(8)'s status for that
        report(error)
        return exits.SYSTEM
