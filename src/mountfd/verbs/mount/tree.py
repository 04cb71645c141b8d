"""Several mounts as one detached tree, attached in one step: killed at any moment, all of them stand or none.

What is mounted in a bind appears at the source as well, where both are shared: that isn't taken back when a detached
tree dissolves. So nothing is mounted on a bind here.
"""

from __future__ import annotations

from contextlib import ExitStack, closing

from mountfd.abi.features import Feature, has
from mountfd.verbs.mount.change import propagate
from mountfd.verbs.mount.helper import is_for_helper
from mountfd.verbs.mount.one import BINDS, attach_at, is_new, route, step
from mountfd.verbs.mount.place import Directories, Place, take_back
from mountfd.verbs.query.place import HERE, id_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountfd.abi.paths import StrPath
    from mountfd.handles.mount import Mount
    from mountfd.model.options import Options
    from mountfd.model.spec import MountSpec

__all__ = ["fits", "mount_tree"]

_MS_PRIVATE = 1 << 18


def fits(specs: list[MountSpec]) -> bool:
    """Say whether the first of several can be the root of the others, and all of them made detached, here."""
    return (
        len(specs) > 1
        and not specs[0].target.strip("/.")
        and all(spec.target.strip("/.") for spec in specs[1:])
        and all(is_new(spec) and not is_for_helper(spec) for spec in specs)
        and specs[0].understood().action not in BINDS
        and route() == "descriptor"
        and has(Feature.MOUNT_INSIDE_DETACHED)
    )


def mount_tree(specs: list[MountSpec], target: StrPath, *, reuse_loop: bool, apart: bool) -> list[int | None] | None:
    """Mount them, and give their ids; None, with nothing done, where one would stand on a bind.

    Arguments: as of `mount_all`; apart, make binds no peers of their sources.
    """
    with ExitStack() as held:
        tree = _Tree(target, held, reuse_loop=reuse_loop, apart=apart)
        try:
            tree.plant(specs[0])
            if not all(tree.grow(spec) for spec in specs[1:]):
                tree.made.undo()
                return None
            tree.attach(specs[0])
        except BaseException:
            tree.made.undo()
            raise
        return [number or None for number in tree.ids]


class _Tree:
    """A detached root, and what has been attached in it.

    Attributes: ids, of all that is in it; made, the directories that were made.
    """

    def __init__(self, target: StrPath, held: ExitStack, *, reuse_loop: bool, apart: bool) -> None:
        """Begin with nothing; held closes what is made."""
        self.ids: list[int] = []
        self.made = held.enter_context(closing(Directories()))
        self._target, self._held = target, held
        self._reuse_loop, self._apart = reuse_loop, apart
        self._branches: list[tuple[Options, Mount]] = []
        self._bearing: set[int] = set()  # what others may be mounted on: all but binds

    def plant(self, spec: MountSpec) -> None:
        """Make the root."""
        self._top = self._make(spec)

    def grow(self, spec: MountSpec) -> bool:
        """Attach another in it; False where that would stand on a bind."""
        options = spec.understood()
        with Place(f"/proc/self/fd/{self._top.fileno()}", spec.target, options, shown=self._target) as place:
            if id_of(place.fd, b"", HERE) not in self._bearing:
                return False
            branch = self._make(spec)
            step(branch, place)
            place.check(branch)
            self.made.take(place.made)
        self._branches.append((options, branch))
        return True

    def attach(self, spec: MountSpec) -> None:
        """Attach all of it at the target: the one step that others can see."""
        options = spec.understood()
        with Place(self._target, spec.target, options) as place:
            attach_at(self._top, options, place, beneath=False, note=None)
            try:
                # Not before: where the target is shared, all that is attached there becomes so.
                for of_branch, branch in self._branches:
                    propagate(of_branch, branch)
            except BaseException:
                take_back(self._top)
                raise
            self.made.take(place.made)

    def _make(self, spec: MountSpec) -> Mount:
        from mountfd.verbs.mount.make import make_detached  # noqa: PLC0415 (one route is loaded, not both)

        options = spec.understood()
        made = self._held.enter_context(make_detached(spec, options, reuse_loop=self._reuse_loop))
        if options.action not in BINDS:
            self._bearing.add(id_of(made.fileno(), b"", HERE))
        elif self._apart:
            made.set(propagation=_MS_PRIVATE, recursive=True)
        self.ids.append(id_of(made.fileno(), b"", HERE))
        return made
