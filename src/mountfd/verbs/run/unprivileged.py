"""Id maps for somebody who isn't root: the own id, and subordinate ids where the administrator gave some."""

from __future__ import annotations

import os
import pwd

from mountfd.handles.namespace import write_id_maps
from mountfd.model.idmap import Extent, IdMap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["give_ids"]

_PROGRAMS = (("newuidmap", "/etc/subuid"), ("newgidmap", "/etc/subgid"))


def give_ids(pid: int, note: Callable[[str], None]) -> bool:
    """Map ids for a process that has just made its user namespace; say whether it may set its groups.

    Arguments: pid, the process; note, told what is missing.
    Programs: newuidmap(1) and newgidmap(1), which know /etc/subuid and /etc/subgid.
    """
    uid, gid = os.geteuid(), os.getegid()
    missing = _subordinate_ids(pid, uid, gid)
    if missing is None:
        return True
    note(
        f"no subordinate ids ({missing}): only files of uid {uid} have an owner here; all others show as nobody's, "
        "and what lies in such a directory can't be changed"
    )
    write_id_maps(pid, IdMap([Extent(0, uid, 1)], [Extent(0, gid, 1)]))
    return False


def _subordinate_ids(pid: int, uid: int, gid: int) -> str | None:
    """Map the own ids and the subordinate ones, group ids first; None when that is done, else what is missing."""
    import shutil  # noqa: PLC0415 (root does without)

    words: list[list[str]] = []
    for (name, file), own in zip(_PROGRAMS, (uid, gid), strict=True):
        given = _subordinate(file, uid)
        if given is None:
            return f"there are none for this user in {file}"
        program = shutil.which(name)
        if program is None:
            return f"{name}(1) is not installed"
        words.append([program, str(pid), "0", str(own), "1", "1", str(given[0]), str(given[1])])
    for line in words[::-1]:
        refused = _run(line)
        if refused is not None:
            return refused
    return None


def _subordinate(path: str, uid: int) -> tuple[int, int] | None:
    """Read the first range of subordinate ids that a file gives to a user, by name or number."""
    try:
        names = {str(uid), pwd.getpwuid(uid).pw_name}
    except KeyError:
        names = {str(uid)}
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                name, _, numbers = line.strip().partition(":")
                first, _, count = numbers.partition(":")
                if name in names and first.isdigit() and count.isdigit() and int(count) > 0:
                    return int(first), int(count)
    except OSError:
        return None
    return None


def _run(words: list[str]) -> str | None:
    """Run a program; None when it has done its work, else its complaint."""
    import subprocess  # noqa: PLC0415 (only where there are subordinate ids)

    done = subprocess.run(
        words, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    if done.returncode == 0:
        return None
    complaint = " ".join(done.stderr.decode(errors="surrogateescape").split())
    return complaint or f"{os.path.basename(words[0])}: exit status {done.returncode}"
