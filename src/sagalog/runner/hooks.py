"""What a runner tells of what it does, as values, and who may hear it: metrics, traces, whatever else watches.

telling.py calls the hooks. A hook sees everything and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import msgspec

from ..errors import DefinitionError

MAX_TRACE = 256  # characters of a trace


class Handling(msgspec.Struct, eq=False, weakref=True):
    """One message that an instance handles: an event, a timer of its own, or the refusal of one of its commands.

    `cause` is the trace that the message brought, `trace` the one that is kept with whatever it sends. `waited`: the
    cause is of the past (a timer, a held event). When it is over, `outcome` says how: a value of `Outcome`; `failed`:
    its handler raised `error`; or the save failed, as in `Save.outcome`; or `repeated`: taken back before a save, to be
    decided again (or to be refused, because the record would be too large).
    """

    saga: str
    correlation_id: str
    kind: str  # event, timer, refused, or child: one has ended
    type: str  # of the event, of the refused or the scheduled command
    message_id: str
    sequence_nr: int
    cause: str
    waited: bool
    late_seconds: float | None = None  # how long after its time a timer fires
    trace: str = ""
    outcome: str = ""
    error: str = ""  # the type's name, never its message


class Save(msgspec.Struct, frozen=True):
    """One attempt to save a step.

    `outcome` is `saved`; `conflict`: another worker was faster; `exists`: a start that met an instance; `unavailable`:
    not stored; or `unknown`. `messages` share the step, 0 for maintenance. `oldest` is the first command in its outbox.
    """

    saga: str
    correlation_id: str
    sequence_nr: int
    outcome: str
    messages: int
    seconds: float
    oldest: str = ""


class Delivery(msgspec.Struct, eq=False, weakref=True):
    """One attempt to deliver a command. When it is over, `outcome` is `accepted`, `refused` or `failed`.

    `cause` is the trace kept with the command, `trace` the one that its reply events bring.
    """

    saga: str
    correlation_id: str
    command: str  # its type
    command_id: str
    attempt: int
    undo: bool
    cause: str
    trace: str = ""
    outcome: str = ""
    error: str = ""


class Scan(msgspec.Struct, frozen=True):
    """One scan for due work of a saga: how many instances it claimed (a page of them), and how long the oldest was due."""

    saga: str
    claimed: int
    oldest_seconds: float


class CircuitChange(msgspec.Struct, frozen=True):
    """The circuit of a command type has opened or closed in this worker: `state` is `open` or `closed`.

    `failures`: how many attempts in a row have failed; `error`: what the last one raised, by its type.
    """

    command: str
    state: str
    failures: int
    error: str = ""


def is_trace(value: Any) -> bool:
    """Say whether a value can be kept as a trace: whatever an event or a hook brings goes into the record."""
    return type(value) is str and len(value) <= MAX_TRACE and value.isascii() and value.isprintable()


@runtime_checkable
class Hook(Protocol):
    """Is told what a runner does. Subclass it, and override what you want to hear of; every method may do nothing.

    Methods are called in the event loop, between the lines of a step, and must not wait. A trace is text of at most
    256 printable ASCII characters that is opaque to the runner and kept in the record; of several hooks the first that
    gives one is heard.
    """

    def started(self, runner: Any) -> None:
        """A runner (a SagaRunner) has started."""
        return

    def stopped(self, runner: Any) -> None:
        """The runner has stopped, and nothing more is told of it."""
        return

    def caller(self) -> str:
        """Return the trace of whoever calls `handle` just now, or an empty string."""
        return ""

    def handling(self, handling: Handling) -> str:
        """A message is about to be handled; return the trace to keep with what it sends, or an empty string."""
        return ""

    def handled(self, handling: Handling) -> None:
        """A message was handled; the outcome says whether that is durable. Called once for each `handling`."""
        return

    def answered(self, event: str, seconds: float, error: str) -> None:
        """The caller of `handle` was answered, after so long; `error` is the type of what was raised, or empty."""
        return

    def saved(self, save: Save) -> None:
        """A step was saved, or was not."""
        return

    def parked(self, saga: str, correlation_id: str, reason: str) -> None:
        """An instance is parked."""
        return

    def delivering(self, delivery: Delivery) -> str:
        """A command handler is about to be called; return the trace for its reply events, or an empty string."""
        return ""

    def within(self, delivery: Delivery) -> AbstractContextManager[Any] | None:
        """Return the context in which to run the command handler, or None. It is left without being told of errors."""
        return None

    def delivered(self, delivery: Delivery) -> None:
        """An attempt is over. Also called, without `delivering`, for a command that has no handler."""
        return

    def circuit_changed(self, change: CircuitChange) -> None:
        """The circuit of a command type has opened or closed."""
        return

    def scanned(self, scan: Scan) -> None:
        """The due work of a saga was scanned for."""
        return


def checked_hooks(hooks: Iterable[Hook]) -> tuple[Hook, ...]:
    """Return the hooks. Raises DefinitionError for what is none."""
    if isinstance(hooks, (str, bytes)) or not isinstance(hooks, Iterable):
        raise DefinitionError(f"hooks= takes a list of hooks, not {type(hooks).__name__}")
    given = tuple(hooks)
    for hook in given:
        if isinstance(hook, type) or not isinstance(hook, Hook):
            name = hook.__name__ if isinstance(hook, type) else type(hook).__name__
            raise DefinitionError(f"hooks= takes objects whose class is a subclass of sagalog.Hook, not {name}")
    return given
