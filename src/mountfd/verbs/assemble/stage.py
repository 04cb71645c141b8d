"""Layers given a path for overlay calls that want one, in a mount namespace that nobody else sees.

    a tmpfs on "/" of a private namespace, the thread's working directory in it
    0, 1, ...          each clone or base is attached here, and each layer on top of a directory of its own
    /proc/self/fd/N    upper and work, which must stay on one mount

Every name is a few bytes long and leads to what was opened by descriptor: no text of a layer's path is resolved again.
The namespace goes with its thread, also when the process is killed: nothing is left to take down.
"""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack, nullcontext
from errno import EINVAL
from stat import S_ISDIR

from mountfd.abi import calls
from mountfd.errors import KernelError
from mountfd.handles.context import FsContext
from mountfd.handles.fd import OwnedFd, made_tidily
from mountfd.handles.mount import Mount
from mountfd.verbs.assemble.finding import blame, open_below
from mountfd.verbs.enter import in_private_namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mountfd.verbs.assemble.finding import Place
    from mountfd.verbs.assemble.layers import Placed
    from mountfd.verbs.assemble.pair import Pair

__all__ = ["Stage", "clone_of_detached", "on_stage"]

# One at a time: a borrowed mount can stand on one stage only.
_borrowing = threading.Lock()


class Stage:
    """The private directory tree in which every layer has a short relative path."""

    def __init__(self, ground: Mount, copies: dict[int, Mount], held: ExitStack) -> None:
        """Keep the tmpfs, the copies that may be attached by whom they are copies of, and what ends with the stage."""
        self._ground = ground
        self._copies = copies
        self._held = held
        self._spots: dict[int, bytes] = {}
        self._count = 0

    def raise_curtain(self) -> None:
        """Attach the ground over this namespace's root and go there; only descriptors lead in."""
        self._ground.attach("/")
        calls.fchdir(self._ground.fileno())

    def spot(self) -> bytes:
        """Make an empty directory on the ground and give its name."""
        name = b"%d" % self._count
        self._count += 1
        calls.mkdirat(self._ground.fileno(), name, 0o755)
        return name

    def lower(self, place: Place) -> bytes:
        """Attach a lower layer and give its path relative to the working directory."""
        where = self._stand(place)
        if not place.name:
            return where
        fd = self._open(place)
        try:
            with Mount.clone_fd(fd) as bind:
                spot = self.spot()
                bind.attach(spot)
        except KernelError as error:
            raise blame(error, place.layer) from None
        finally:
            os.close(fd)
        return spot

    def writable(self, place: Place) -> bytes:
        """Give the upper or work layer a path that leads to it on the one mount that both are on."""
        self._stand(place)
        layer = self._held.enter_context(OwnedFd(self._open(place)))
        return b"/proc/self/fd/%d" % layer.fileno()

    def was_attached(self, number: int) -> bool:
        """Say whether the mount of that number stands here."""
        return number in self._spots

    def _stand(self, place: Place) -> bytes:
        where = self._spots.get(place.holder)
        if where is None:
            where = self.spot()
            self._copies[place.holder].attach(where)
            self._spots[place.holder] = where
        return where

    def _open(self, place: Place) -> int:
        try:
            return open_below(self._copies[place.holder].fileno(), place)
        except KernelError as error:
            raise blame(error, place.layer) from None


def on_stage(
    placed: Placed, pair: Pair | None, act: Callable[[Stage], Mount], kind: type[Stage] | None = None
) -> Mount:
    """Run `act` where every layer has a path; what it returns is detached and outlives the stage."""
    make = kind or Stage
    for place in placed.places:
        os.close(placed.open(place))  # an unusable name gets its own clone now
    ours = [*placed.clones, *([pair.clone] if pair is not None and pair.clone is not None else [])]
    places = [*placed.places, *([pair.upper, pair.work] if pair is not None else [])]
    copies: dict[int, Mount] = {mount.fileno(): mount for mount in ours}
    borrowed: dict[int, Mount] = {}
    with ExitStack() as held:
        for place in places:
            if place.holder not in copies:
                copies[place.holder] = _copy(place.holder, held, borrowed)
        context = held.enter_context(FsContext.open("tmpfs")).create()
        ground = held.enter_context(context.mount())
        with _borrowing if borrowed else nullcontext():
            return in_private_namespace(lambda: _perform(make(ground, copies, held), act, borrowed), owned=True)


def clone_of_detached(base: Mount, fd: int, *, recursive: bool = False) -> Mount:
    """Clone what a descriptor names on a detached mount, which before Linux 6.15 must be attached for that.

    Arguments: base, the mount; fd; recursive, whether what stands below comes along.
    The mount stands where nobody else sees it meanwhile; then it is detached again, under the same descriptor.
    """

    def act() -> Mount:
        _attach_anywhere(borrowed)
        return made_tidily(lambda: Mount.clone_fd(fd, recursive=recursive), lambda: _give_back(borrowed))

    borrowed = Mount(base.fileno())
    try:
        with _borrowing:
            return in_private_namespace(act, owned=True)
    finally:
        borrowed.release()  # it is the caller's, who closes it


def _attach_anywhere(mount: Mount) -> None:
    if S_ISDIR(os.fstat(mount.fileno()).st_mode):
        mount.attach("/")
        return
    with FsContext.open("tmpfs") as context, context.create().mount() as ground:
        ground.attach("/")
        os.close(calls.openat(ground.fileno(), b"file", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        mount.attach("file", dir_fd=ground.fileno())


def _perform(stage: Stage, act: Callable[[Stage], Mount], borrowed: dict[int, Mount]) -> Mount:
    def give_back() -> None:
        for number, mount in borrowed.items():
            if stage.was_attached(number):
                _give_back(mount)

    stage.raise_curtain()
    return made_tidily(lambda: act(stage), give_back)


def _copy(number: int, held: ExitStack, borrowed: dict[int, Mount]) -> Mount:
    """Copy the caller's mount, or on a kernel that can't copy a detached one, borrow it."""
    try:
        return held.enter_context(Mount.clone_fd(number))
    except KernelError as error:
        if error.errno != EINVAL:
            raise
    borrowed[number] = mount = Mount(number)
    held.callback(mount.release)  # it is the caller's, who closes it
    return mount


def _give_back(mount: Mount) -> None:
    """Give the caller's mount, which had to be attached here, a detached life again under the same descriptor."""
    try:
        again = Mount.clone_fd(mount.fileno(), recursive=True)
    except KernelError:
        again = Mount.clone_fd(mount.fileno(), recursive=True)  # once more: without it the caller's mount is lost
    with again:
        os.dup2(again.fileno(), mount.fileno(), inheritable=False)
