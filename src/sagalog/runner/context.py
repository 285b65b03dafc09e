"""In which handler a call is made. What a handler waits for must not wait for that handler.

decide, replay (event handlers), deliver (command handlers) ─► [context] ─► receive, runner
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import Any

from ..errors import DefinitionError
from .instance import Instance

# Set while a command handler runs. Its events delay nobody but itself, so they never have to wait for a place.
in_command_handler: ContextVar[bool] = ContextVar("sagalog_in_command_handler", default=False)


class CircularWaitError(DefinitionError):
    """A handler waits for what waits for it. Nothing that is stored has led to that."""


class EventHandler:
    """While entered: an asynchronous event handler of `instance` runs in this context, and in tasks that it starts.

    `over`: the handler has ended; tasks that it started and left running are not bound any more.
    """

    __slots__ = ("_outer", "instance", "over")

    def __init__(self, instance: Instance) -> None:
        self.instance: Instance = instance
        self.over: bool = False

    def __enter__(self) -> None:
        self._outer = running_handler.get()
        running_handler.set(self)

    def __exit__(self, *_: object) -> None:
        self.over = True
        running_handler.set(self._outer)


running_handler: ContextVar[EventHandler | None] = ContextVar("sagalog_running_handler", default=None)


def outside_handlers() -> Context:
    """Return a copy of this context outside of all handlers, for background work."""
    context = copy_context()
    context.run(running_handler.set, None)
    context.run(in_command_handler.set, False)
    return context


def _forked() -> None:
    """In a process that a handler forked, none of its runners waits for that handler."""
    running_handler.set(None)
    in_command_handler.set(False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def event_handler() -> Instance | None:
    """Return the instance whose event handler makes this call, if one does."""
    handler = running_handler.get()
    return None if handler is None or handler.over else handler.instance


def check_no_circle(caller: Instance, wanted: Instance, what: Any) -> None:
    """Raise DefinitionError if `wanted` is busy until the handler of `caller`, which is to wait for it, has ended."""
    seen = {wanted}
    reached = [wanted]
    while reached:
        instance = reached.pop()
        if instance is caller:
            break
        for other in instance.awaits:
            if other not in seen:
                seen.add(other)
                reached.append(other)
    else:
        return
    own = (
        "itself"
        if wanted is caller
        else f"saga {wanted.runtime.name!r}, id {wanted.correlation_id!r}, which waits for it"
    )
    raise CircularWaitError(
        f"saga {caller.runtime.name!r}, id {caller.correlation_id!r}: its event handler waits for {what} of {own}; "
        "neither could ever continue. "
        "Return Send(...) or SetTimer(...) instead, or call it from a command handler; nothing was stored"
    )


@contextmanager
def awaiting(caller: Instance | None, wanted: Sequence[Instance], what: str) -> Iterator[None]:
    """Note that the event handler of `caller` waits for these instances, if one does.

    Raises DefinitionError if one of them waits for it.
    """
    if caller is None:
        yield
        return
    for instance in wanted:
        check_no_circle(caller, instance, what)
    caller.awaits = (*caller.awaits, *wanted)
    try:
        yield
    finally:
        left = list(caller.awaits)
        for instance in wanted:
            left.remove(instance)
        caller.awaits = tuple(left)


def check_outside_handlers(what: str) -> None:
    """Raise DefinitionError for a call that waits until all handlers have ended, made by one of them."""
    if event_handler() is not None or in_command_handler.get():
        raise CircularWaitError(f"{what} waits until every handler has ended, so a handler cannot call it")
