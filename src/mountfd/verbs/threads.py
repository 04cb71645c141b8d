"""A function on a thread of its own that is always waited for, whatever signal handlers raise meanwhile."""

from __future__ import annotations

import os
import threading
from _thread import start_new_thread
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["descriptor_by_thread", "finish_on_thread"]

_A_MOMENT = 1.0
_SLICE = 0.05


def finish_on_thread(  # noqa: C901 (each call of a function would be one more place where a handler can raise)
    body: Callable[[], None], give_up: Callable[[], None] = lambda: None
) -> None:
    """Run a function on a thread; raise here what it raises, or what a handler raised meanwhile.

    Arguments: body; give_up, called when a handler has raised, before the thread is waited for; again, where another
    one raises in it.
    The thread is a bare one: the start of a threading.Thread can be interrupted when its thread runs already.
    """
    raised: list[BaseException] = []
    begun: list[bool] = []
    over: list[bool] = []
    ended = threading.Lock()
    ended.acquire()

    def whole() -> None:
        begun.append(True)
        try:
            body()
        except BaseException as error:  # noqa: BLE001 (handed to the caller's thread, whatever it is)
            raised.append(error)
        finally:
            over.append(True)
            ended.release()

    interruption: BaseException | None = None
    is_known, given_up = False, False  # whether it has started; whether give_up went through
    until = monotonic() + _A_MOMENT
    try:
        start_new_thread(whole, ())
        is_known = True
    except RuntimeError:  # the limit on threads is reached
        raise
    except BaseException as error:  # noqa: BLE001 (a handler's)
        interruption = error
    while not over and (is_known or begun or monotonic() < until):
        try:
            # Twice, since a handler can raise at the very end of an except, too.
            while not over and (is_known or begun or monotonic() < until):
                try:
                    if interruption is not None and not given_up:
                        give_up()
                        given_up = True
                    # Not for ever: of a signal that came right before it, the handler runs after it.
                    ended.acquire(timeout=_SLICE)
                except BaseException as error:  # noqa: BLE001 (raised again as soon as the thread is through)
                    interruption = error
        except BaseException as error:  # noqa: BLE001 (the same)
            interruption = error
    if interruption is not None:
        raise interruption
    if raised:
        raise raised.pop()  # popped, so that the exception's frames don't hold the exception


def descriptor_by_thread(act: Callable[[], int]) -> int:
    """Give the descriptor that a function opens on a thread; where a handler raised meanwhile, it is closed."""
    opened: list[int] = []
    try:
        finish_on_thread(lambda: opened.append(act()))
    except BaseException:
        for fd in opened:
            os.close(fd)
        raise
    return opened.pop()
