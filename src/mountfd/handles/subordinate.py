"""Ids that aren't one's own, mapped for who lacks CAP_SETUID or CAP_SETGID: newuidmap(1) and newgidmap(1).

The administrator gives users subordinate ids, in /etc/subuid and /etc/subgid or by a directory service; these two
programs know them, and have the privilege that the kernel asks for.
"""

from __future__ import annotations

import os
import signal
from errno import EPERM

from mountfd.handles.programs import find_program
from mountfd.handles.refused import CAP_SETFCAP, CAP_SETGID, CAP_SETUID, CLOSED, holds, status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from mountfd.errors import KernelError

    Kind = Literal["uid", "gid"]

__all__ = ["map_by_program", "map_otherwise", "subordinate_ranges"]

_CAPABILITIES = {"uid": CAP_SETUID, "gid": CAP_SETGID}
_COMPLAINT = 4096
_PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)


def map_otherwise(error: KernelError, pid: int, kind: Kind, text: bytes) -> None:
    """Map ids that the kernel wouldn't take from this process; or raise its error, with the reason that it has.

    Arguments: error, of the write; pid, whose map it is; kind, "uid" or "gid"; text, of the map.
    """
    if error.errno == EPERM and pid != os.getpid() and holds(_CAPABILITIES[kind]):
        error.explain(hint=_why_not_even_so(kind, text))
        raise error
    why = map_by_program(pid, kind, text)
    if why is None:
        return
    needs = f"without CAP_SET{kind.upper()} only one's own id can be mapped, and subordinate ones (sub{kind}(5))"
    error.explain(hint=f"{needs if error.errno == EPERM else CLOSED}; {why}")
    raise error


def map_by_program(pid: int, kind: Kind, text: bytes) -> str | None:
    """Ask newuidmap(1) or newgidmap(1) to write a map; None when it is written, else why not, in words.

    Arguments: pid, of a process in a new user namespace, a child of this one's; kind, "uid" or "gid"; text, of the map.
    A map can be written once, and where newgidmap has written one that has only the own group, setgroups(2) is denied
    for good: should one be refused, begin again with another process.
    """
    name = f"new{kind}map"
    program = find_program(name)
    if program is None:
        return f"{name}(1), which maps those, is not installed"
    said = _complaint_of([program, str(pid), *os.fsdecode(text).split()])
    # The status doesn't count: a caller's handler of SIGCHLD may have taken it.
    if _is_written(pid, kind):
        return None
    return f"{said or name + ' wrote nothing'}{_cause(kind, program, said)}"


def subordinate_ranges(kind: Kind) -> list[tuple[int, int]]:
    """List the ranges, first id and count, that /etc/subuid or /etc/subgid gives this user, by name or number."""
    import pwd  # noqa: PLC0415 (root does without)

    uid = os.geteuid()
    try:
        names = {str(uid), pwd.getpwuid(uid).pw_name}
    except KeyError:
        names = {str(uid)}
    found = []
    try:
        with open(f"/etc/sub{kind}", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                name, _, numbers = line.strip().partition(":")
                first, _, count = numbers.partition(":")
                if name in names and all(map(_is_number, (first, count))) and int(count) > 0:
                    found.append((int(first), int(count)))
    except OSError:
        return []
    return found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _complaint_of(words: list[str]) -> str:
    """Run a program to its end, and give what it complained about in one line; it gets no signal mask of ours."""
    # A pipe would have to be read to its end, and whatever else is forked here meanwhile keeps it open.
    said = os.memfd_create("complaint", os.MFD_CLOEXEC)
    try:
        actions = [
            (os.POSIX_SPAWN_DUP2, said, 2),  # first, should it have a standard number itself
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
        ]
        try:
            pid = os.posix_spawn(
                words[0],
                words,
                {**os.environ, "LC_ALL": "C"},
                file_actions=actions,
                setsigmask=(),
                setsigdef=_PYTHON_IGNORES,
            )
        except OSError as error:
            return f"{words[0]}: {error.strerror}"
        ended = _status_of(pid)
        text = " ".join(os.pread(said, _COMPLAINT, 0).decode(errors="backslashreplace").split())
    finally:
        os.close(said)
    return text or (f"{words[0]}: exit status {ended}" if ended else "")


def _status_of(pid: int) -> int:
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return 0  # it has ended; somebody else in this process knows how


def _is_written(pid: int, kind: Kind) -> bool:
    try:
        with open(f"/proc/{pid}/{kind}_map", "rb") as file:
            return bool(file.read())
    except OSError:
        return False


def _cause(kind: Kind, program: str, said: str) -> str:
    """Give what explains a complaint, as the end of a sentence."""
    if status("NoNewPrivs") == "1":
        return ": no_new_privs is set for this process, so no program gets privilege by its set-user-id bit"
    if not _has_privilege(program):
        return f": {program} has lost its set-user-id bit, or lies on a mount that is nosuid"
    if "not allowed" in said:
        ranges = ", ".join(f"{first}:{count}" for first, count in subordinate_ranges(kind))
        return f"; /etc/sub{kind} gives this user {ranges or 'none'}"
    return ""


def _has_privilege(program: str) -> bool:
    try:
        if os.statvfs(program).f_flag & os.ST_NOSUID:
            return False
        return bool(os.stat(program).st_mode & 0o4000) or "security.capability" in os.listxattr(program)
    except OSError:
        return True  # it can't be told, so nothing is said


def _why_not_even_so(kind: Kind, text: bytes) -> str:
    """Say why an id can't be mapped by who has the capability for it."""
    outside = text.split()[1::3]
    if b"0" in outside and not holds(CAP_SETFCAP):
        return "mapping id 0 takes CAP_SETFCAP, too (Linux 5.12)"
    here = f"/proc/self/{kind}_map"
    return f"an id of this map doesn't exist in the user namespace that this process is in: {here} lists those that do"
