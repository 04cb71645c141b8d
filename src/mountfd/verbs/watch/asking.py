"""What both routes ask of the kernel: one mount, those below it, all of a namespace."""

from __future__ import annotations

from errno import EINVAL, ENOENT, ENOSYS, EPERM

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.layouts import MntIdReq
from mountfd.errors import KernelError
from mountfd.verbs.query.asking import EVERYTHING, ask, list_below

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.model.info import MountInfo

__all__ = ["CANNOT", "below", "everything", "has_ended", "one"]

CANNOT = (
    ENOSYS,
    EPERM,
    EINVAL,
)  # what a kernel without statmount(2), an older one, or a filter around this process says


def one(number: int, ns_id: int) -> MountInfo | None:
    """Ask about one mount; None when it is gone."""
    try:
        return ask(number, EVERYTHING, ns_id=ns_id)
    except KernelError as error:
        if error.errno != ENOENT:
            raise
        return None


def below(number: int, ns_id: int) -> list[MountInfo]:
    """Ask about all mounts below one; none when it is gone."""
    try:
        numbers = list_below(number, ns_id=ns_id)
    except KernelError as error:
        if error.errno != ENOENT:
            raise
        return []
    return [info for info in (one(each, ns_id) for each in numbers) if info is not None]


def everything(ns_id: int) -> list[MountInfo]:
    """Ask about all mounts of a namespace; one that stands all the time is never left out."""
    return below(n.LSMT_ROOT, ns_id)


def has_ended(ns_id: int) -> bool:
    """Say whether a namespace is gone, or about to be: nothing is mounted in it any more."""
    request = MntIdReq(n.MNT_ID_REQ_SIZE_VER1, 0, n.LSMT_ROOT, 0, ns_id)
    try:
        return not calls.list_ids(calls.reference(request), 1)
    except KernelError as error:
        if error.errno != ENOENT:
            raise
        return True
