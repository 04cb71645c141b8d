"""Route `fanotify`: the kernel queues a notice for each mount that comes, goes or moves (Linux 6.15).

    fanotify_init(FAN_REPORT_MNT)                       one queue, of 16,384 notices unless unlimited
    fanotify_mark(FAN_MARK_MNTNS, ATTACH | DETACH)      on one mount namespace, which this doesn't keep alive
    read(2)                                             24 bytes and a unique mount id; both bits: a move
    statmount(2)                                        what that mount is

When the queue is full the kernel puts one notice of overflow at its end and drops what comes, until that is read. What
is queued by then is thrown away too, and a listing compared with the last state. A notice that comes later and says the
same again is known by its mount, since ids are never reused.
"""

from __future__ import annotations

import os
import select
import sys
from errno import EAGAIN, EMFILE, ENOSPC, EPERM
from termios import FIONREAD

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.abi.flags import FanInit, FanMark, FanMask
from mountfd.abi.layouts import FanEvent, FanMountInfo
from mountfd.errors import KernelError, from_errno
from mountfd.handles.fd import OwnedFd
from mountfd.model.event import END, OVERFLOW, Event, Ledger
from mountfd.verbs.watch.asking import below, everything, has_ended, one

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.handles.mountns import MountNamespace

__all__ = ["FanotifySource", "is_possible"]

_INIT = int(FanInit.REPORT_MNT | FanInit.CLOEXEC | FanInit.NONBLOCK)
_UNLIMITED = int(FanInit.UNLIMITED_QUEUE)
_MARK = int(FanMark.ADD | FanMark.MNTNS)
_ATTACH, _DETACH, _FULL = int(FanMask.MNT_ATTACH), int(FanMask.MNT_DETACH), int(FanMask.Q_OVERFLOW)
_BUFFER = 1 << 16
_TOO_MANY = "too many descriptors (ulimit -n), or too many watches by this user: user.max_fanotify_* in sysctl(8)"


def is_possible(namespace: MountNamespace) -> bool:
    """Try it on this namespace, and let go again."""
    try:
        os.close(_marked(namespace, _INIT))
        one(n.FIRST_UNIQUE_ID + 1, namespace.id)  # without statmount(2) and listmount(2) a notice's id means nothing
        has_ended(namespace.id)
    except KernelError as error:
        if error.errno in (EMFILE, ENOSPC):
            raise
        return False
    return True


class FanotifySource:
    """The queue of one namespace, and the ledger that says what its notices mean."""

    name = "fanotify"

    def __init__(self, namespace: MountNamespace, under: str | None, *, is_own: bool, unlimited: bool) -> None:
        """Begin to queue, then list what stands: whatever happens in between is told."""
        self._ns_id, self._is_own, self.ended = namespace.id, is_own, False
        self._queue = OwnedFd(_marked(namespace, _INIT | _UNLIMITED if unlimited else _INIT))
        try:
            self._ledger = Ledger(everything(self._ns_id), under)
        except BaseException:
            self._queue.close()
            raise

    def fileno(self) -> int:
        """Give the queue, which is readable while a notice is in it."""
        return self._queue.fileno()

    def waiting(self) -> tuple[int, int]:
        """Say what poll(2) shall wait for."""
        return self._queue.fileno(), select.POLLIN

    def woken(self) -> None:
        """Hear that poll(2) has seen it: the queue itself remembers."""

    def close(self) -> None:
        """Let go of the queue."""
        self._queue.close()

    def __len__(self) -> int:
        """Count the mounts that are known to stand."""
        return len(self._ledger)

    def gather(self, *, exactly: bool = False) -> list[Event]:  # noqa: ARG002 (a queue is always exact)
        """Give events of what has been queued until now."""
        events, left, has_detached = [], self._queued(), False
        while left > 0 and (notices := self._read()):
            left -= len(notices)
            for mask, number in notices:
                if mask & _FULL:
                    events += self._start_over()
                    left, has_detached = 0, True
                    break
                has_detached = has_detached or bool(mask & _DETACH)
                events += self._told(mask, number)
        # A namespace that ends detaches all that is in it, and no notice follows.
        if has_detached and not self._is_own and not len(self._ledger) and has_ended(self._ns_id):
            self.ended = True
            events.append(Event(END))
        return events

    def _told(self, mask: int, number: int) -> list[Event]:
        if mask & _ATTACH and mask & _DETACH:
            return self._ledger.moved(number, one(number, self._ns_id), below(number, self._ns_id))
        if mask & _DETACH:
            return self._ledger.detached(number)
        return self._ledger.attached(number, one(number, self._ns_id)) if mask & _ATTACH else []

    def _start_over(self) -> list[Event]:
        """Throw away what was queued when the overflow was read, since its counterpart may be lost; then compare."""
        left = self._queued()
        while left > 0 and (notices := self._read()):
            left -= len(notices)
        return [Event(OVERFLOW), *self._ledger.compare(everything(self._ns_id))]

    def _queued(self) -> int:
        """Count the notices in the queue: the kernel answers as if each had no more than a head."""
        answer = calls.bytes_buffer(4)
        calls.ioctl(self._queue.fileno(), FIONREAD, answer)
        return int.from_bytes(answer[:4], sys.byteorder) // n.FAN_EVENT_METADATA_LEN

    def _read(self) -> list[tuple[int, int]]:
        """Read what fits into one buffer: masks and mount ids."""
        try:
            data = calls.read_bytes(self._queue.fileno(), _BUFFER)
        except KernelError as error:
            if error.errno != EAGAIN:
                raise
            return []
        notices, at = [], 0
        while at < len(data):
            head = FanEvent.from_buffer_copy(data, at)
            notices.append((head.mask, _mount_id(data, at + head.metadata_len, at + head.event_len)))
            at += head.event_len
        return notices


def _mount_id(data: bytes, at: int, end: int) -> int:
    """Find the record that names the mount; an overflow has none."""
    while at < end:
        record = FanMountInfo.from_buffer_copy(data, at)
        if record.info_type == n.FAN_EVENT_INFO_TYPE_MNT:
            return int(record.mnt_id)
        at += record.len
    return 0


def _marked(namespace: MountNamespace, flags: int) -> int:
    try:
        fd = calls.fanotify_init(flags, 0)
    except KernelError as error:
        _explain(error, "only CAP_SYS_ADMIN of the whole machine may have a queue without a limit")
        raise
    try:
        calls.fanotify_mark(fd, _MARK, _ATTACH | _DETACH, namespace.fileno(), None)
    except KernelError as error:
        os.close(fd)
        _explain(error, "watching a mount namespace by fanotify takes CAP_SYS_ADMIN in the user namespace that owns it")
        raise
    return fd


def _explain(error: KernelError, hint: str) -> None:
    if error.errno in (EMFILE, ENOSPC):
        raise from_errno(error.errno, error.syscall, error.arguments, hint=_TOO_MANY) from None
    if error.errno == EPERM:
        error.explain(hint=hint)
