"""Everything that is mounted at a temporary path goes, and nothing else with it."""

from __future__ import annotations

from mountfd.abi import calls
from mountfd.errors import Denied, Missing
from mountfd.verbs.mount.parting import STAYS, part_under
from mountfd.verbs.unmount import unmount, unmount_all

__all__ = ["clear"]


def clear(point: str) -> int:
    """Unmount everything at and below a point; give how many mounts.

    What came there by a bind of something shared stays at its source. In a user namespace the mounts below an rbind
    are locked to it: then they go with it, lazily.
    Raises: what `unmount` raises.
    """
    number = 0
    try:
        stays, number = part_under(point)
        if stays:
            calls.remark(f"{point}: {STAYS}")
    except Missing as error:  # nothing is there, or it is hidden: unmount knows
        calls.remark(str(error))
    try:
        return unmount(point, recursive=True, follow=False)
    except (Denied, ExceptionGroup) as error:
        if not _is_of_locked(error):
            raise
        calls.remark(f"{point}: some mounts are locked, so all go at once: {error}")
    unmount_all(point, lazy=True, follow=False)
    return number


def _is_of_locked(error: Exception) -> bool:
    errors = error.exceptions if isinstance(error, ExceptionGroup) else (error,)
    return all(isinstance(each, Denied) for each in errors)
