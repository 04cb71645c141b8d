"""Id maps for somebody who may not map just any ids: one's own, subordinate ids, or those of the user namespace here.

| who | by default | asked for |
| --- | --- | --- |
| ordinary users | the own id, and subordinate ones where the administrator gave some | what newuidmap(1) allows |
| root of a user namespace, or without CAP_SYS_ADMIN | every id that there is, as itself | what there is |
"""

from __future__ import annotations

import os
from errno import EPERM

from mountfd.errors import KernelError, from_errno
from mountfd.handles.namespace import in_initial_user_namespace, write_id_maps
from mountfd.handles.subordinate import map_by_program, subordinate_ranges
from mountfd.model.command import DEFAULT_IDMAP
from mountfd.model.idmap import Extent, IdMap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Way = Callable[[int], bool]

__all__ = ["are_here", "ids_here", "ways"]

_END = 0xFFFFFFFF  # behind the last id
_EXTENTS_MAX, _TEXT_MAX = 340, 4095  # of a map, in the kernel


# --- what there is here --------------------------------------------------------------------------------------------
def ids_here() -> IdMap | None:
    """Give every id that this user namespace has, as itself; None where id 0 isn't among them."""
    uids, gids = ([Extent(first, first, count) for first, count in _known(family)] for family in ("uid", "gid"))
    if not all(any(extent.inside == 0 for extent in extents) for extents in (uids, gids)):
        return None
    return IdMap(uids, gids)


def are_here(idmap: IdMap) -> bool:
    """Say whether this user namespace has the ids that a map leads to; the kernel wants each extent in one piece."""
    return all(
        any(first <= extent.outside and extent.outside + extent.count <= first + count for first, count in known)
        for extents, known in ((idmap.uid, _known("uid")), (idmap.gid, _known("gid")))
        for extent in extents
    )


def _known(family: str) -> list[tuple[int, int]]:
    with open(f"/proc/self/{family}_map", encoding="utf-8") as lines:
        return [(int(first), int(count)) for first, _, count in map(str.split, lines)]


# --- ways ----------------------------------------------------------------------------------------------------------
def ways(wanted: IdMap, note: Callable[[str], None], *, may_set_ids: bool) -> list[Way]:
    """List the ways to map ids for a process that has just made its user namespace, best first.

    Arguments: wanted, the command's idmap; note, told what is missing; may_set_ids, whether the caller has CAP_SETUID
    and CAP_SETGID.
    A way takes the process and says whether the maps are written; the last one raises where they can't be. Each needs
    a process of its own: the kernel takes a map once, and of two one may have been taken.
    Programs: newuidmap(1) and newgidmap(1), which know /etc/subuid and /etc/subgid.
    """
    if wanted is not DEFAULT_IDMAP:
        return [lambda pid: _as_asked(pid, wanted, may_set_ids=may_set_ids)]
    if may_set_ids and os.geteuid() == 0 and (whole := ids_here()) is not None:
        return [lambda pid: _as_themselves(pid, whole, note)]
    found = _subordinate()
    if isinstance(found, str):
        return [lambda pid: _alone(pid, [found], note)]
    subordinate, refused = found, list[str]()
    return [lambda pid: _as_given(pid, subordinate, refused), lambda pid: _alone(pid, refused, note)]


def _as_asked(pid: int, wanted: IdMap, *, may_set_ids: bool) -> bool:
    if may_set_ids:
        _write(pid, wanted)
    elif wanted == _own():
        _deny_groups(pid)
        _write(pid, wanted)
    elif (complaint := _let_programs(pid, wanted)) is not None:
        hint = f"without privilege an idmap can have one's own id and one's subordinate ids alone; {complaint}"
        raise from_errno(EPERM, "newuidmap", (str(wanted),), hint=hint)
    return True


def _as_themselves(pid: int, whole: IdMap, note: Callable[[str], None]) -> bool:
    _write(pid, whole)
    if in_initial_user_namespace():
        note(
            "without CAP_SYS_ADMIN files can't be shown under other ids: root inside is root outside, but for its "
            "capabilities"
        )
    return True


def _as_given(pid: int, idmap: IdMap, refused: list[str]) -> bool:
    complaint = _let_programs(pid, idmap)
    if complaint is None:
        return True
    refused.append(f"subordinate ids can't be used ({complaint})")
    return False


def _alone(pid: int, missing: list[str], note: Callable[[str], None]) -> bool:
    _deny_groups(pid)
    _write(pid, _own())
    note(
        f"{missing[0]}: only files of uid {os.geteuid()} have an owner here; all others show as nobody's, "
        "and what lies in such a directory can't be changed"
    )
    return True


def _own() -> IdMap:
    return IdMap([Extent(0, os.geteuid(), 1)], [Extent(0, os.getegid(), 1)])


def _deny_groups(pid: int) -> None:
    """Give up setgroups(2) inside: else the kernel lets nobody without CAP_SETGID map a group, uid 0 neither."""
    try:
        with open(f"/proc/{pid}/setgroups", "w", encoding="utf-8") as file:
            file.write("deny")
    except OSError as error:
        raise from_errno(error.errno or EPERM, "write", filename=f"/proc/{pid}/setgroups") from None


def _write(pid: int, idmap: IdMap) -> None:
    try:
        write_id_maps(pid, idmap)
    except KernelError as error:
        if error.errno == EPERM and idmap.from_host(0) is not None and in_initial_user_namespace():
            hint = "the machine's own uid 0 can be mapped only by who has CAP_SETFCAP: user_namespaces(7)"
            raise from_errno(EPERM, error.syscall, error.arguments, hint=hint) from error
        raise


def _let_programs(pid: int, idmap: IdMap) -> str | None:
    """Let newgidmap(1) and newuidmap(1) map ids, group ids first; None when they did, else why not."""
    return map_by_program(pid, "gid", idmap.gid_map_text()) or map_by_program(pid, "uid", idmap.uid_map_text())


# --- subordinate ids -----------------------------------------------------------------------------------------------
def _subordinate() -> IdMap | str:
    """Put the own id and all subordinate ones into a map; or say that there are none."""
    uids = _extents(os.geteuid(), subordinate_ranges("uid"))
    gids = _extents(os.getegid(), subordinate_ranges("gid"))
    for extents, file in ((uids, "/etc/subuid"), (gids, "/etc/subgid")):
        if len(extents) == 1:
            return f"no subordinate ids (there are none for this user in {file})"
    return IdMap(uids, gids)


def _extents(own: int, ranges: list[tuple[int, int]]) -> list[Extent]:
    """Line up the own id and all others from id 0 on, each of them once, as far as the kernel takes them."""
    made, taken, inside, size = [Extent(0, own, 1)], [(own, own + 1)], 1, len(f"0 {own} 1\n")
    for first, count in ranges:
        for begin, end in list(_without(taken, first, min(first + count, _END))):
            fitting = min(end - begin, _END - inside)
            size += len(f"{inside} {begin} {fitting}\n")
            if fitting < 1 or len(made) == _EXTENTS_MAX or size > _TEXT_MAX:
                return made
            made.append(Extent(inside, begin, fitting))
            taken.append((begin, end))
            inside += fitting
    return made


def _without(taken: list[tuple[int, int]], begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Give the parts of a range that nothing has taken yet."""
    for low, high in sorted(taken):
        if begin < low < end:
            yield begin, low
        if low < end:
            begin = max(begin, high)
    if begin < end:
        yield begin, end
