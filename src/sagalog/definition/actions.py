"""What a handler may ask for: a closed union of frozen values. They do nothing by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, time, timedelta
from enum import Enum
from typing import Any, Generic, Literal, TypeAlias, TypeVar
from uuid import UUID

import msgspec

from .recurring import Missed

C = TypeVar("C")
Late: TypeAlias = Literal["handle", "ignore", "park"]


class Send(msgspec.Struct, frozen=True):
    """Send `command` once this step is durable; delivered at least once, always under the same id.

    `undo` is the command that takes it back: it goes onto the undo stack and is sent by `Compensate`.

    With `reply_within`, the event `otherwise` is handled if no answer was by then, counted from this step. The answer is
    what the command's handler answers this instance; with `reply`, an event of that type, wherever it comes from. Its
    refusal ends the wait, too. An answer that comes after `otherwise` is handled like any event; with `late="ignore"`
    it changes nothing, with `late="park"` an operator decides.
    """

    command: Any
    undo: Any = None
    reply_within: timedelta | None = None
    otherwise: Any = None
    reply: type | None = None
    late: Late = "handle"


class Schedule(msgspec.Struct, frozen=True):
    """Send `command` later, not before now + `after`. Survives restarts and completion.

    Compensation cancels what is scheduled and not yet due.
    """

    command: Any
    after: timedelta


class SetTimer(msgspec.Struct, frozen=True):
    """Hand `event` to this saga's own handler once, not before now + `after` (or the time `at`).

    One timer a name: setting it again replaces it. Give `after` or `at` (aware), not both. With `zone`, `at` is what the
    clocks there show: a datetime without a zone of its own, or a time of day, which is the next one.

    With `every` (a second to a hundred years) or `cron` (five fields; in `zone`, or UTC) it comes again and again, until
    it is cancelled or replaced or the saga ends. `after` or `at` say when `every` begins; the first time is now + `every`
    otherwise. `missed` says what becomes of the times that passed while no worker ran: they come one after the other
    ("each"), one stands for all ("once", if nothing is said), or what is a minute late is passed over ("skip").
    `context.message_at` tells the handler which time it is.
    """

    name: str
    event: Any
    after: timedelta | None = None
    at: datetime | time | None = None
    every: timedelta | None = None
    cron: str | None = None
    zone: str | None = None
    missed: Missed | None = None


class CancelTimer(msgspec.Struct, frozen=True):
    """Cancel the timer with this name, even if it is due but not yet handled. No such timer: nothing."""

    name: str


class Compensate(msgspec.Struct, frozen=True):
    """Send the undo commands, last in first out, each only after the one before was accepted; then end the saga.

    With `commands`, those are sent instead, in the order given. Timers and scheduled commands are cancelled.
    """

    commands: tuple[Any, ...] = ()


class Complete(msgspec.Struct, frozen=True):
    """End the saga: its timers are dropped, its commands still go out, its message ids are remembered for a while.

    `result` is what `runner.outcome` tells of it: a value of a message type, a plain one (text, number, date, ...), or a
    list or dict of plain JSON. It is stored with the instance, as long as that is remembered. None: it has no result.
    """

    result: Any = None


class Enter(msgspec.Struct, frozen=True):
    """Enter another phase: `@on_leave` and `@on_enter` methods run in this step, and kept events are handled.

    Both act on the state as the handler has left it. Entering the phase that the saga is in has no effect.
    """

    phase: Enum


class Gather(msgspec.Struct, frozen=True):
    """Send many commands, and handle `then` when the handler of each has answered this instance, in the last one's step.

    `legs`: a list of Sends, up to 1,000, or how many there are, up to 100,000: then a method with `@leg(name)` makes
    them one by one. The answers are events with handlers of their own, which keep or count what they bring. A leg may be
    a StartChild: its answer is the end of the child, and unless that has completed, it counts as refused. A refusal
    ends the gather: `failed` is handled, and what is not sent stays so. With `wait`, all are sent and waited for first.
    Without `failed`, the saga compensates. `context.gathered` tells the handlers of both how it went.
    """

    name: str
    legs: Sequence[Send | StartChild] | int
    then: Any
    failed: Any = None
    wait: bool = False


class Gathered(msgspec.Struct, frozen=True):
    """How a gather went: of `total` legs, how many were answered, and the numbers (from 0) of those that were refused."""

    total: int
    answered: int
    refused: tuple[int, ...] = ()


class Run(msgspec.Struct, frozen=True):
    """Begin an activity of this saga, once this step is durable: by its name, or as `OrderSaga.flight`.

    It is begun whatever its `after` says, unless its `when` says no; what comes after it follows by itself. One that runs
    is not begun a second time; one that has ended is, as a new call.
    """

    activity: Any


class StartChild(msgspec.Struct, frozen=True):
    """Start an instance of another saga as a child of this one, once this step is durable: exactly one for each of these.

    `saga` is its class, `event` its starting event, which says its correlation id. A method with `@on_child` hears how it
    ends. When this saga is compensated, children that still run are compensated first. One that had completed by then
    is left alone: `undo` is the command that takes back what it did.
    """

    saga: Any
    event: Any
    undo: Any = None


class AddKey(msgspec.Struct, frozen=True):
    """Let events reach this instance by a value of a key, until it gives the value up or its life ends.

    An instance may hold several values of a key, up to 16 of all its keys. Adding one that it holds has no effect.
    """

    key: str
    value: str | int | UUID


class RemoveKey(msgspec.Struct, frozen=True):
    """Give up a value of a key; None: all values of the key. Removing an unknown value has no effect."""

    key: str
    value: str | int | UUID | None = None


Action: TypeAlias = (
    Send
    | Schedule
    | SetTimer
    | CancelTimer
    | Compensate
    | Complete
    | Enter
    | Gather
    | Run
    | StartChild
    | AddKey
    | RemoveKey
)


class Refused(msgspec.Struct, Generic[C], frozen=True):
    """The event a saga receives when a handler refused one of its commands (see `CommandRefused`)."""

    command: C
    command_id: str
    reason: str
