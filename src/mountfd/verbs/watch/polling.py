"""Route `polling`: the kernel says that the mount table changed, not how; two listings are compared.

    poll(2) on /proc/PID/mountinfo, POLLPRI     fires once for each look, whatever has happened since the one before
    listmount(2) and statmount(2)               unique ids, so a mount in another's place is never taken for it
    the table itself                            where the kernel or a filter doesn't have these calls

The final state is always told; what came and went between two looks is not. The kernel tells once: the first poll(2)
hears it, also one that epoll(7) makes on its own while a descriptor is added or changed, and then it is forgotten. So
neither the table nor an epoll(7) around it can be handed to an event loop, which would sleep through changes. Once
`fileno` is asked for, a thread turns what it hears into an eventfd(2), which stays readable until it is read.
"""

from __future__ import annotations

import os
import select
import threading
from errno import ENOENT

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.errors import KernelError, NotSupported
from mountfd.handles.fd import OwnedFd
from mountfd.model.event import Ledger
from mountfd.model.info import FIELDS
from mountfd.model.mountinfo import parse
from mountfd.verbs.query.asking import list_below
from mountfd.verbs.query.listing import ask_each
from mountfd.verbs.watch.asking import CANNOT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.handles.mountns import MountNamespace
    from mountfd.model.event import Event
    from mountfd.model.info import MountInfo

__all__ = ["PollingSource"]

_FLAGS = os.O_RDONLY | os.O_CLOEXEC
_BLOCK = 1 << 16
_STABLE_TRIES = 16


class PollingSource:
    """The open table of one namespace, which keeps that namespace alive, and the ledger of the last look."""

    name = "polling"
    ended = False  # never: the open table keeps its namespace

    def __init__(self, namespace: MountNamespace, under: str | None, *, is_own: bool) -> None:
        """Open the table, then list what stands: a change in between is seen as one more look."""
        self._changed = False
        self._latch: _Latch | None = None
        self._table = OwnedFd(_open_table(namespace, is_own=is_own))
        try:
            self._ns_id = _id_of(namespace, is_own=is_own)
            self._ledger = Ledger(self._first(), under)
        except BaseException:
            self._table.close()
            raise

    def fileno(self) -> int:
        """Give a descriptor that is readable while a change hasn't been looked at."""
        if self._latch is None:
            self._latch = _Latch(self._table.fileno(), is_set=self._changed)
        return self._latch.fileno()

    def waiting(self) -> tuple[int, int]:
        """Say what poll(2) shall wait for."""
        if self._latch is not None:
            return self._latch.fileno(), select.POLLIN
        return self._table.fileno(), select.POLLPRI

    def woken(self) -> None:
        """Hear that poll(2) has seen it: the table won't tell twice."""
        self._changed = True

    def close(self) -> None:
        """Let go of the table, and of the thread."""
        if self._latch is not None:
            self._latch.close()
        self._table.close()

    def __len__(self) -> int:
        """Count the mounts that are known to stand."""
        return len(self._ledger)

    def gather(self, *, exactly: bool = False) -> list[Event]:
        """Compare with the last look, if the table has changed; exactly: also if the thread may be about to tell."""
        changed, self._changed = self._has_changed() or self._changed, False
        if changed or (exactly and self._latch is not None):
            return self._ledger.compare(self._listing())
        return []

    def _has_changed(self) -> bool:
        if self._latch is not None:
            return self._latch.take()
        table = select.poll()
        table.register(*self.waiting())
        return bool(table.poll(0))

    # --- listings --------------------------------------------------------------------------------------------------
    def _first(self) -> list[MountInfo]:
        try:
            return self._asked()
        except KernelError as error:
            if error.errno not in CANNOT:
                raise
        self._ns_id = -1
        return self._listing()

    def _listing(self) -> list[MountInfo]:
        if self._ns_id >= 0:
            return self._asked()
        # Before Linux 6.8 a table that is read while others mount can leave a mount out.
        data = self._read()
        for _ in range(_STABLE_TRIES):
            again = self._read()
            if again == data:
                break
            data = again
        return parse(data)

    def _asked(self) -> list[MountInfo]:
        try:
            numbers = list_below(n.LSMT_ROOT, ns_id=self._ns_id)
        except KernelError as error:
            if error.errno != ENOENT:
                raise
            return []  # the namespace has ended
        return ask_each(numbers, FIELDS, ns_id=self._ns_id, read=self._read)

    def _read(self) -> bytes:
        fd, parts = self._table.fileno(), []
        os.lseek(fd, 0, os.SEEK_SET)
        while part := os.read(fd, _BLOCK):
            parts.append(part)
        return b"".join(parts)


class _Latch:
    """An eventfd(2) that a thread sets whenever the table tells of a change.

    The thread has descriptors of its own and closes them, so that it can be left behind by whoever must not wait.
    """

    def __init__(self, table: int, *, is_set: bool) -> None:
        """Start the thread."""
        self._set = OwnedFd(os.eventfd(int(is_set), os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        owned = (os.dup(table), os.dup(self._set.fileno()), self._stop)
        # A daemon: a watch that nobody closed doesn't keep the interpreter from ending.
        self._thread = threading.Thread(target=_relay, args=owned, name="mountfd-watch", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """Give the descriptor that is readable while it is set."""
        return self._set.fileno()

    def take(self) -> bool:
        """Say whether it is set, and set it no more."""
        try:
            return bool(os.eventfd_read(self._set.fileno()))
        except BlockingIOError:
            return False

    def close(self) -> None:
        """End the thread."""
        os.eventfd_write(self._stop, 1)
        if threading.current_thread() is not self._thread:  # garbage may be collected on any thread
            self._thread.join()
        self._set.close()


def _relay(table: int, latch: int, stop: int) -> None:
    both = select.poll()
    both.register(table, select.POLLPRI)
    both.register(stop, select.POLLIN)
    try:
        while stop not in dict(both.poll()):
            os.eventfd_write(latch, 1)
    finally:
        for fd in (table, latch, stop):
            os.close(fd)


def _open_table(namespace: MountNamespace, *, is_own: bool) -> int:
    if is_own:
        return calls.openat(n.AT_FDCWD, b"/proc/thread-self/mountinfo", _FLAGS, 0)
    if namespace.pid is not None:
        try:
            return calls.openat(n.AT_FDCWD, b"/proc/%d/mountinfo" % namespace.pid, _FLAGS, 0)
        except KernelError as error:
            calls.remark(f"watch: process {namespace.pid} has ended ({error}); its namespace is entered")
    from mountfd.verbs.enter import in_namespace  # noqa: PLC0415 (only where no process is known in there)

    # The table of a thread is looked at through a /proc from here: in there may be none.
    proc = calls.openat(n.AT_FDCWD, b"/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0)
    try:
        return in_namespace(namespace, lambda: calls.openat(proc, b"thread-self/mountinfo", _FLAGS, 0))
    except KernelError as error:
        if isinstance(error, PermissionError):
            error.explain(
                hint="watching another mount namespace takes CAP_SYS_ADMIN in the user namespace that owns it"
            )
        raise
    finally:
        os.close(proc)


def _id_of(namespace: MountNamespace, *, is_own: bool) -> int:
    """Give the namespace's id for the calls, 0 for the caller's own; -1 where it has none to ask by."""
    try:
        return namespace.id
    except NotSupported:
        return 0 if is_own else -1
