"""The same replacement in several mount namespaces, each of which has a copy of its own."""

from __future__ import annotations

from contextlib import ExitStack

from mountfd.errors import InvalidSpec, MountfdError
from mountfd.verbs.enter import in_namespace
from mountfd.verbs.loading import load_everything
from mountfd.verbs.replace.building import build, copy
from mountfd.verbs.replace.carrying import is_made_here

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mountfd.handles.mount import Mount
    from mountfd.handles.mountns import MountNamespace
    from mountfd.verbs.replace.building import New
    from mountfd.verbs.replace.switching import Previous

__all__ = ["in_each"]


def in_each(
    namespaces: list[MountNamespace],
    new: New,
    act: Callable[[Mount], Previous],
    progress: Callable[[int, int], object] | None,
) -> Previous:
    """Do it in each namespace; give what the first of them had before.

    The new mount is made here, and a clone of it handed to each: a handle on a mount that is attached here means
    nothing there.
    Raises: ExceptionGroup that has every failure, with the namespace in a note, after all of them were tried.
    """
    if not namespaces:
        raise InvalidSpec("namespaces is an empty list: there is nothing to replace", part="namespaces")
    failures: list[Exception] = []
    done: list[Previous] = []
    load_everything()
    with ExitStack() as held:
        made = held.enter_context(build(new))
        if len(namespaces) > 1 and not is_made_here(made):
            raise InvalidSpec(
                "a mount that was made in another namespace can be attached in one, not in several", part="new"
            )
        for count, namespace in enumerate(namespaces):
            try:
                done.append(held.enter_context(_there(namespace, made, act)))
            except Exception as error:  # noqa: BLE001 (a check may raise anything; all are handed on)
                error.add_note(f"in the mount namespace {_name(namespace)}")
                failures.append(error)
            if progress is not None:
                progress(count + 1, len(namespaces))
        if failures:
            raise ExceptionGroup(f"replaced in {len(done)} of {len(namespaces)} mount namespaces", failures)
        return done[0].dup()


def _there(namespace: MountNamespace, made: Mount, act: Callable[[Mount], Previous]) -> Previous:
    with copy(made) as clone:
        return in_namespace(namespace, lambda: act(clone))


def _name(namespace: MountNamespace) -> str:
    try:
        return str(namespace.id)
    except MountfdError:
        return f"that descriptor {namespace.fileno()} names"
