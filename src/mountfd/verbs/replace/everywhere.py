"""The same replacement in several mount namespaces, each of which has a copy of its own."""

from __future__ import annotations

from contextlib import ExitStack

from mountfd.abi.features import Feature, has
from mountfd.errors import InvalidSpec, MountfdError
from mountfd.verbs.enter import in_namespace
from mountfd.verbs.loading import load_everything
from mountfd.verbs.replace.building import build, copy
from mountfd.verbs.replace.carrying import is_made_here

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Self

    from mountfd.handles.mount import Mount
    from mountfd.handles.mountns import MountNamespace
    from mountfd.verbs.replace.building import New
    from mountfd.verbs.replace.switching import Previous

__all__ = ["PartlyReplaced", "in_each"]


class PartlyReplaced(ExceptionGroup[Exception]):
    """It failed in some of several mount namespaces, and was done in the others.

    Attributes: exceptions, each with its namespace in a note; previous, what stood before where it was done, each with
    the id of its namespace: put these back, or keep the new ones, and close them.
    """

    previous: tuple[Previous, ...] = ()

    @classmethod
    def of(cls, words: str, failures: Sequence[Exception], previous: Iterable[Previous]) -> Self:
        """Make one."""
        group = cls(words, failures)
        group.previous = tuple(previous)
        return group

    def derive(self, excs: Sequence[Exception]) -> PartlyReplaced:  # type: ignore[override]  # of Exceptions alone
        """Make one of some of the failures, as `except*` does."""
        return type(self).of(self.message, excs, self.previous)


def in_each(
    namespaces: list[MountNamespace],
    new: New,
    act: Callable[[Mount], Previous],
    progress: Callable[[int, int], object] | None,
) -> Previous:
    """Do it in each namespace; give what the first of them had before, which has what the others had.

    The new mount is made here, and a clone of it handed to each: a handle on a mount that is attached here means
    nothing there.
    Raises: PartlyReplaced that has every failure, with the namespace in a note, after all of them were tried.
    """
    if not namespaces:
        raise InvalidSpec("namespaces is an empty list: there is nothing to replace", part="namespaces")
    failures: list[Exception] = []
    done: list[Previous] = []
    load_everything()
    with ExitStack() as held, build(new) as made:
        if len(namespaces) > 1 and has(Feature.CLONE_DETACHED) and not is_made_here(made):
            raise InvalidSpec(
                "a mount that was made in another namespace can be attached in one, not in several", part="new"
            )
        for count, namespace in enumerate(namespaces):
            try:
                done.append(held.enter_context(_there(namespace, made, act)))
                done[-1].namespace = _id_of(namespace)
            except Exception as error:  # noqa: BLE001 (a check may raise anything; all are handed on)
                error.add_note(f"in the mount namespace {_name(namespace)}")
                failures.append(error)
            if progress is not None:
                progress(count + 1, len(namespaces))
        held.pop_all()  # they are the caller's from now on
    if failures:
        words = f"replaced in {len(done)} of {len(namespaces)} mount namespaces"
        raise PartlyReplaced.of(words, failures, done)
    done[0].others = tuple(done[1:])
    return done[0]


def _there(namespace: MountNamespace, made: Mount, act: Callable[[Mount], Previous]) -> Previous:
    with copy(made) as clone:
        return in_namespace(namespace, lambda: act(clone))


def _name(namespace: MountNamespace) -> str:
    return str(_id_of(namespace) or f"that descriptor {namespace.fileno()} names")


def _id_of(namespace: MountNamespace) -> int:
    try:
        return namespace.id
    except MountfdError:
        return 0  # before Linux 6.11
