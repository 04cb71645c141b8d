"""The processes inside: how the new namespaces are entered, furnished, and left.

    keeper     lays out the root, enters the user namespace, makes the others, waits for the init; ends when it ends
    init       process 1 of the pid namespace: arranges the root, reaps and passes signals on
    command    the program itself, as process 2

Each runs in a fork that never returns: what it raises travels to the parent through a pipe.
"""

from __future__ import annotations

import gc
import os
import signal
from errno import ENOENT, EPERM

from mountfd.abi import calls
from mountfd.abi import numbers as n
from mountfd.errors import from_errno, from_words, to_words
from mountfd.verbs.routes import forget
from mountfd.verbs.run.arrange import arrange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from mountfd.errors import MountfdError
    from mountfd.handles.mount import Mount
    from mountfd.model.command import Command
    from mountfd.verbs.run.following import Vigil
    from mountfd.verbs.run.furnish import Furnishing

__all__ = [
    "FAILED",
    "PASSED_ON",
    "RESUME",
    "STOPS",
    "Scene",
    "become_root",
    "fork",
    "guarded",
    "keeper",
    "leave_groups",
    "namespaces",
    "status_of",
    "tell",
]

FAILED = 125  # as env(1) says it
_SIGNALLED = 128

_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC, _NEWPID, _NEWNET = (
    0x20000, 0x2000000, 0x4000000, 0x8000000, 0x20000000, 0x40000000,
)  # fmt: skip
_PR_SET_CHILD_SUBREAPER = 36
PASSED_ON = {
    signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP,
}  # fmt: skip
RESUME = signal.SIGRTMIN  # tells the init to wake the command; a SIGCONT may have come to the whole group around it
# What a terminal stops its processes with: the command's to obey, and held back from those who wait for it.
STOPS = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}


class Scene:
    """What the inside needs: the command, the root and what is attached in it, and a line to the parent.

    Attributes: command; report, the write end of the pipe to the parent; mask and childless, how the command shall
    find its signals; interactive, whether it takes the terminal's foreground; parent, the process that all of this
    dies with; start, the caller's directory; umask, the caller's; root and furnishings, made before the fork by root
    and inside by others; laid_out, whether they are attached already, out of the command's reach.
    """

    __slots__ = (
        "childless", "command", "furnishings", "interactive", "laid_out", "mask", "parent", "report", "root", "start",
        "umask",
    )  # fmt: skip

    def __init__(self, command: Command, report: int, vigil: Vigil, root: Mount | None) -> None:
        """Keep them; a root that isn't the caller's own is made later."""
        self.command, self.report, self.root = command, report, root
        self.mask, self.childless, self.interactive = vigil.mask, vigil.childless, vigil.interactive
        self.parent, self.start, self.umask = os.getpid(), _start(), 0o022
        self.furnishings: list[Furnishing] = []
        self.laid_out = False

    def descriptors(self) -> set[int]:
        """List the descriptors of the mounts that are still to be attached."""
        mounts = [self.root, *(furnishing.mount for furnishing in self.furnishings)]
        held = [each for each in mounts if each is not None and not each.closed]
        locks = [lock for mount in held for lock in getattr(mount, "_locks", ())]
        return {each.fileno() for each in [*held, *locks] if not each.closed}

    def note(self, text: str) -> None:
        """Tell the parent's caller what can't be had, from inside."""
        tell(self.report, b"note", text)

    def close(self) -> None:
        """Let go of every mount; what is attached inside lives there."""
        for furnishing in self.furnishings:
            furnishing.mount.close()
        if self.root is not None:
            self.root.close()


def _start() -> str:
    """Find the current directory by the name that its user knows it by."""
    shown = os.environ.get("PWD", "")
    try:
        if shown.startswith("/") and os.path.samefile(shown, "."):
            return shown
    except OSError:
        pass  # a stale PWD is nobody's fault
    try:
        return os.getcwd()
    except OSError:
        return "/"  # it has been removed


def namespaces(command: Command) -> int:
    """Give the CLONE_NEW* flags of a command's namespaces, but for the user and, made last, the pid namespace."""
    return _NEWNS | _NEWCGROUP | _NEWUTS | _NEWIPC | (_NEWNET if command.net == "none" else 0)


def status_of(status: int) -> int:
    """Turn a wait status into an exit status as shells do: 128+n for a signal."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else _SIGNALLED - code


# --- forks ---------------------------------------------------------------------------------------------------------
def fork() -> int:
    """Fork; the child has one thread and none of the caller's signal handlers."""
    handled = [number for number in range(1, signal.NSIG) if callable(signal.getsignal(number))]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, handled)  # none may run in the child
    try:
        pid = os.fork() if len(os.listdir("/proc/self/task")) == 1 else _fork_one_of_many()
        if pid == 0:
            gc.disable()  # whatever the caller has waiting to be finalized is the caller's to finalize
            for number in handled:
                signal.signal(number, signal.SIG_DFL)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _fork_one_of_many() -> int:
    """Fork one thread out of several, after loading what the child may need: an import may be going on in another."""
    import fcntl  # noqa: F401, PLC0415
    import socket  # noqa: F401, PLC0415
    import struct  # noqa: F401, PLC0415
    import warnings  # noqa: PLC0415

    from mountfd.verbs.assemble import by_descriptor, diagnose  # noqa: F401, PLC0415

    with warnings.catch_warnings():
        # Python 3.12 and newer warn of locks that other threads may hold; the child takes none of the caller's.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def guarded(report: int, act: Callable[[], NoReturn]) -> NoReturn:
    """Run a forked child's part; whatever it raises is sent to the parent, and the child ends here."""
    try:
        act()
    except BaseException as error:  # noqa: BLE001 (a fork must never return into its parent's code)
        _send_error(report, error)
    finally:
        os._exit(FAILED)


def tell(report: int, word: bytes, text: str) -> None:
    """Send one line to the parent: what it is and its text."""
    _write_all(report, word + b" " + text.encode(errors="surrogateescape").hex().encode() + b"\n")


def heard(line: bytes) -> MountfdError:
    """Make the error of a line that a child sent before it ended."""
    data = bytes.fromhex(line.strip().removeprefix(b"error ").decode())
    return from_words(data.decode(errors="surrogateescape").split("\0"))


def _send_error(report: int, error: BaseException) -> None:
    # In words: the parent must not have to believe what comes from a process in a foreign root.
    data = "\0".join(to_words(error)).encode(errors="surrogateescape")
    _write_all(report, b"error " + data.hex().encode() + b"\n")


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def leave_groups() -> None:
    """Be in no other group, unless the user namespace is one that forbids it, where one's own id alone is mapped."""
    try:
        os.setgroups([])
    except PermissionError as error:
        with open("/proc/self/setgroups", encoding="utf-8") as file:
            if file.read().strip() != "deny":
                hint = "leaving the caller's groups takes CAP_SETGID"
                raise from_errno(EPERM, "setgroups", hint=hint) from error


def become_root() -> None:
    """Take id 0 of the user namespace just entered."""
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    forget()  # what was refused outside


def _die_with(parent: int) -> None:
    """Be killed when the parent ends, also if it has ended before this could be asked for."""
    calls.prctl(n.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(FAILED)


def _descriptors() -> set[int]:
    """List the open descriptors above standard error: the caller's lead out of the new root."""
    try:
        found = map(int, os.listdir("/proc/self/fd"))
    except OSError:  # something of the caller's covers /proc
        return set(range(3, min(os.sysconf("SC_OPEN_MAX"), 1 << 16)))
    return set(found) - {0, 1, 2}


def _close(descriptors: set[int]) -> None:
    for fd in descriptors:
        try:
            os.close(fd)
        except OSError:
            continue  # the one that listdir itself had open


# --- the processes -------------------------------------------------------------------------------------------------
def keeper(scene: Scene, enter: Callable[[], None]) -> NoReturn:
    """Be the first process: enter, make the namespaces, wait for the init and end with its status."""
    scene.umask = os.umask(0o022)  # directories that are made for the command must not depend on it
    _die_with(scene.parent)
    enter()
    # Not before: who is closed to others can't be given id maps. The caller's memory is here as long as this lives.
    calls.prctl(n.PR_SET_DUMPABLE, 0, 0, 0, 0)
    if scene.command.pid_namespace:
        # Not before: whose children will live in another pid namespace can start no thread, and some ways to make the
        # root take one, or a program.
        calls.unshare(_NEWPID)
    _die_with(scene.parent)  # a change of credentials clears it
    from_init, to_keeper = os.pipe2(os.O_CLOEXEC)
    ours, others = os.getpid(), _descriptors()  # the init takes this process along into the new root, with its /proc
    pid = os.fork()
    if pid == 0:
        os.close(from_init)
        guarded(scene.report, lambda: _init(scene, ours, to_keeper))
    os.write(scene.report, b"pid %d\n" % pid)
    locks = getattr(scene.root, "_locks", ())  # of upper and work layers, held for as long as anything lives inside
    _close(others - {from_init, *(lock.fileno() for lock in locks)})
    os.chdir("/")  # the directory it was in would keep its filesystem from being unmounted
    while word := os.read(from_init, 1):
        if word == b"s":
            os.kill(ours, signal.SIGSTOP)
    _, status = os.waitpid(pid, 0)
    os._exit(status_of(status))


def _init(scene: Scene, parent: int, to_keeper: int) -> NoReturn:
    command = scene.command
    # In a pid namespace of its own this process can't see its parent, so that one's end shows in the pipe alone.
    _die_with(0 if command.pid_namespace else parent)
    os.write(to_keeper, b".")
    if scene.interactive:
        os.setpgid(0, 0)  # what stops the group around us isn't meant to be passed on
    if not command.pid_namespace:
        calls.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # What the caller had open could lead anybody who gets hold of this process out of the new root.
    _close(_descriptors() - {scene.report, to_keeper, *scene.descriptors()})
    arrange(command, scene.root, scene.furnishings, laid_out=scene.laid_out, note=scene.note)
    # The memory and descriptors of the caller are here until the command has been forked: not for it to look into.
    calls.prctl(n.PR_SET_DUMPABLE, 0, 0, 0, 0)
    ours = os.getpid()
    pid = os.fork()
    if pid == 0:
        guarded(scene.report, lambda: _execute(scene, ours))
    _close(_descriptors() - {to_keeper})
    status = _attend(pid, to_keeper, outside_only=command.pid_namespace)
    if not command.pid_namespace:
        _end_orphans()
    os._exit(status)


def _attend(command: int, to_keeper: int, *, outside_only: bool) -> int:
    """Reap every orphan, pass signals on, tell when the command has stopped; give its status when it has ended.

    The kernel kills whatever else lives in the pid namespace when this process ends.
    """
    awaited = PASSED_ON | {signal.SIGCHLD, RESUME}
    while True:
        info = signal.sigwaitinfo(awaited)
        if info.si_signo == signal.SIGCHLD:
            status = _reaped(command, to_keeper)
            if status is not None:
                return status
        # From outside a pid namespace comes who has no number in it; what comes from inside, the command was sent too.
        elif info.si_code <= 0 and not (outside_only and info.si_pid):
            os.kill(command, signal.SIGCONT if info.si_signo == RESUME else info.si_signo)


def _reaped(command: int, to_keeper: int) -> int | None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        except ChildProcessError:
            return None
        if pid == 0:
            return None
        if pid != command:
            continue
        if not os.WIFSTOPPED(status):
            return status_of(status)
        if os.WSTOPSIG(status) in STOPS:
            os.write(to_keeper, b"s")


def _end_orphans() -> None:
    """Kill what the command left running, as far as it came to us: without a pid namespace nobody else does."""
    children = f"/proc/self/task/{os.getpid()}/children"
    try:
        while True:
            with open(children, encoding="utf-8") as file:
                for pid in file.read().split():
                    os.kill(int(pid), signal.SIGKILL)
            os.waitpid(-1, 0)
    except (ChildProcessError, FileNotFoundError):
        return


def _execute(scene: Scene, parent: int) -> NoReturn:
    command = scene.command
    if not command.pid_namespace:
        _die_with(parent)
    if scene.interactive:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpgrp())
    os.umask(scene.umask)
    _go(scene)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores both
        signal.signal(number, signal.SIG_DFL)
    if scene.childless:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, scene.mask)
    _close(_descriptors() - {scene.report})
    try:
        os.execvpe(command.argv[0], command.argv, command.env)  # noqa: S606 (that is what was asked for)
    except OSError as error:
        raise from_errno(error.errno or ENOENT, "execve", command.argv[:1], filename=command.argv[0]) from None


def _go(scene: Scene) -> None:
    """Change into the directory that was asked for, or the caller's where there is one of that name inside."""
    command = scene.command
    wanted = command.chdir
    try:
        os.chdir(wanted if wanted is not None else scene.start)
    except OSError as error:
        if wanted is not None:
            raise from_errno(error.errno or ENOENT, "chdir", (wanted,), filename=wanted) from None
        os.chdir("/")
    if "PWD" in command.env:
        command.env["PWD"] = wanted if wanted is not None else os.getcwd()
