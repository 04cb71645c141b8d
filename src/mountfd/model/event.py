"""What happens to mounts, and a ledger that knows what each mount was before.

The kernel's notices name a mount by its id alone; where it stood, and whether that is below the path that is watched,
only a ledger of all mounts can tell. Two listings are compared by it too.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountfd.model.info import MountInfo

__all__ = ["ATTACH", "DETACH", "END", "MOVE", "OVERFLOW", "Event", "Ledger"]

ATTACH, DETACH, MOVE, OVERFLOW, END = "attach", "detach", "move", "overflow", "end"


class Event:
    """Something that happened to a mount, or to the watch.

    Attributes:
    kind        "attach", "detach" or "move"; "overflow": the kernel left something out, and events of the difference
                follow; "end": the namespace is gone, and nothing follows
    id          the mount's unique id; None where there is no mount, and on kernels without (info.id_old is there)
    info        attach, move: what it was when the event was read, or None when it was gone by then;
                detach: the last that was known of it, or None
    previous    move: what was known of it before, or None
    """

    __slots__ = ("id", "info", "kind", "previous")

    def __init__(
        self,
        kind: str,
        id: int | None = None,  # noqa: A002 (the word that MountInfo uses)
        info: MountInfo | None = None,
        previous: MountInfo | None = None,
    ) -> None:
        """Keep the four."""
        self.kind, self.id, self.info, self.previous = kind, id, info, previous

    def __repr__(self) -> str:
        """Show what a person needs to tell it from another."""
        words = [self.kind, "" if self.id is None else str(self.id), "" if self.info is None else repr(self.info.point)]
        return f"<mountfd.Event {' '.join(filter(None, words))}>"


class Ledger:
    """All mounts of a namespace as they were last seen; it makes events of what is new, and keeps those asked for.

    Arguments: mounts, that stand now; under, a path without a slash at its end (`/` apart): only events of mounts
    that are or were at or below it.
    """

    __slots__ = ("_dedupe", "_known", "_prefix", "_under")

    def __init__(self, mounts: Iterable[MountInfo], under: str | None = None) -> None:
        """Begin with what stands."""
        self._known: dict[int, MountInfo | None] = {_key(mount): mount for mount in mounts}
        self._under = under
        self._prefix = "" if under is None else under.rstrip("/") + "/"
        self._dedupe = False  # whether a notice may come late, about what a comparison has told already

    def __len__(self) -> int:
        """Count the mounts."""
        return len(self._known)

    def __contains__(self, number: object) -> bool:
        """Say whether a mount is known."""
        return number in self._known

    # --- notices ---------------------------------------------------------------------------------------------------
    def attached(self, number: int, info: MountInfo | None) -> list[Event]:
        """Note that a mount was attached; info is None when it is gone already."""
        if self._dedupe and number in self._known:
            return []
        self._known[number] = info
        return self._kept(Event(ATTACH, number, info))

    def detached(self, number: int) -> list[Event]:
        """Note that a mount was detached."""
        if self._dedupe and number not in self._known:
            return []
        return self._kept(Event(DETACH, number, self._known.pop(number, None)))

    def moved(self, number: int, info: MountInfo | None, below: Iterable[MountInfo]) -> list[Event]:
        """Note that a mount was moved, and with it all mounts below it, of which the kernel says nothing.

        Those get an event of their own only where they came below the watched path or left it.
        """
        if self._dedupe and number not in self._known:
            return []
        previous = self._known.get(number)
        self._known[number] = previous if info is None else info
        events = self._kept(Event(MOVE, number, info, previous))
        for mount in below:
            before = self._known.get(_key(mount))
            self._known[_key(mount)] = mount
            if before is not None and self._is_wanted(before) != self._is_wanted(mount):
                events.append(Event(MOVE, mount.id, mount, before))
        return events

    # --- listings --------------------------------------------------------------------------------------------------
    def compare(self, mounts: Iterable[MountInfo]) -> list[Event]:
        """Take over a listing, and give what is different: what went, then what came or moved, in its order.

        A mount that went along with what it stands on has not moved.
        """
        before, self._known, self._dedupe = self._known, {_key(mount): mount for mount in mounts}, True
        events, after = [], self._known
        for number, old in before.items():
            now = after.get(number)
            if now is None or _is_another(old, now):
                events += self._kept(Event(DETACH, number if old is None else old.id, old))
        for number, now in after.items():
            old = before.get(number)
            if now is None:
                continue  # a listing has none of these
            if number not in before or _is_another(old, now):
                events += self._kept(Event(ATTACH, now.id, now))
            elif self._has_moved(old, now, before):
                events += self._kept(Event(MOVE, now.id, now, old))
        return events

    def _has_moved(self, old: MountInfo | None, now: MountInfo | None, before: dict[int, MountInfo | None]) -> bool:
        if old is None or now is None or old.point == now.point:
            return False  # another mount was tucked between it and its parent, at most
        if self._under is not None and self._is_wanted(old) != self._is_wanted(now):
            return True
        if _parent(old) != _parent(now):
            return True
        return _relative(old, before.get(_parent(old))) != _relative(now, self._known.get(_parent(now)))

    # --- the watched path ------------------------------------------------------------------------------------------
    def _kept(self, event: Event) -> list[Event]:
        if self._under is None or self._is_wanted(event.info) or self._is_wanted(event.previous):
            return [event]
        return []

    def _is_wanted(self, mount: MountInfo | None) -> bool:
        if mount is None or mount.point is None:
            return self._under is None
        return self._under is None or mount.point == self._under or mount.point.startswith(self._prefix)


def _key(mount: MountInfo) -> int:
    number = mount.id if mount.id is not None else mount.id_old
    return -1 if number is None else number


def _parent(mount: MountInfo) -> int:
    number = mount.parent_id if mount.id is not None else mount.parent_id_old
    return -1 if number is None else number


def _is_another(old: MountInfo | None, now: MountInfo | None) -> bool:
    """Say whether an old id, which the kernel reuses at once, has come to mean another mount; unique ones never do."""
    if old is None or now is None or now.id is not None:
        return False
    return (old.dev, old.root, old.fstype, old.source) != (now.dev, now.root, now.fstype, now.source)


def _relative(mount: MountInfo, parent: MountInfo | None) -> str | None:
    above = parent.point if parent is not None else None
    if mount.point is None or above is None or above == "/":
        return mount.point
    return mount.point.removeprefix(above)
