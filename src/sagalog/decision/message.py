"""What comes to an instance, and what became of it."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Any

import msgspec

from ..definition import codec
from ..definition.actions import Refused
from ..definition.codec import TypeRegistry
from .children import unpack_told
from .entries import Held, Kind, Timer
from .gathering import Gathering
from .ids import refusal_id, refused_command
from .record import well_formed


class Outcome(Enum):
    """What became of one message."""

    HANDLED = "handled"
    DUPLICATE = "duplicate"
    HELD = "held"  # stored with a parked instance
    KEPT = "kept"  # stored until its moment comes: a phase that expects it, or what comes before it
    IGNORED = "ignored"  # a timer that was cancelled or missed, an event while it compensates, a number too late
    NO_INSTANCE = "no_instance"  # nothing changed; the policy for such events decides
    ALREADY_STARTED = "already_started"  # by an event of this type; `again=` of its handler declines another one
    UNEXPECTED = "unexpected"  # by the phase of the instance, which cannot keep it either; its sender is told


class Message(msgspec.Struct, gc=False, eq=False):
    """What comes to an instance: an event from outside, one of its timers, or the refusal of one of its commands."""

    id: str
    event: Any
    kind: Kind = "event"
    name: str = ""  # of a timer
    reason: str = ""  # of a refusal
    at: datetime | None = None  # the event's own time, where the clock follows events
    replayed: bool = False  # was held by a parked instance, which already took it out of timers or outbox
    answer: bool = False  # a command handler gave it, and `at` is the time of the step that sent the command
    own: bool = False  # no sender gave its id, so nobody can bring it again
    trace: str = ""  # what caused it, as a hook of the runner says: kept, never looked into
    data: bytes = b""  # the JSON of an event from outside
    tried: bool = False  # a handler has had `event`, and may have changed it
    following: Timer | None = None  # of a recurring timer: the next one, but for its id
    missed: bool = False  # of a recurring timer: its time has passed unnoticed, and its rule passes over such
    origin: int = (
        0  # of an answer to the instance that asked, and of a refusal: `first_start` of the life that sent the command
    )
    life: int = 0  # of a refusal that was held, and of an answer to the instance that asked: the incarnation that did
    by: tuple[str, str] | None = None  # the key through which it reaches this instance: its name, and its text
    kept: bool = False  # it waits in the record, and is taken out of there when it is handled
    was_kept: bool = False  # it was held, and kept before
    gather: Gathering | None = None  # it is the end of this gather, which its phase did not expect at once
    passed: bool = False  # no handler takes it: all that it means is that a command was answered, or a leg dropped
    sent_by: str = ""  # the operator who sent it by hand
    # Its sequence and number, as they were when it was accepted: newer code may number it otherwise.
    place: tuple[str, int] | None = None

    def copied(self) -> Message:
        """Return this message with an event of its own, as it came, for another saga or another attempt."""
        if not self.data:
            return self
        return msgspec.structs.replace(self, event=codec.decode(self.data, type(self.event)), tried=False)


def refusal(command: Any, command_id: str, reason: str, trace: str = "") -> Message:
    """Return the message that tells a saga of a refused command."""
    reason = well_formed(reason)
    return Message(refusal_id(command_id), Refused(command, command_id, reason), "refused", "", reason, trace=trace)


def unhold(held: Held, registry: TypeRegistry) -> Message:
    """Return a held message as it came. Raises CodecError if its type is not known any more."""
    event = unpack_told(held.event) if held.kind == "child" else registry.unpack(held.event)
    if held.kind == "refused":
        event = Refused(event, refused_command(held.id), held.reason)
    message = Message(
        held.id, event, held.kind, held.name, held.reason, replayed=True, trace=held.trace, life=held.life
    )
    message.at, message.was_kept, message.gather, message.sent_by = held.at, held.kept, held.gather, held.by
    if held.sequence:
        message.place = held.sequence, held.number
    return message


def kept_message(kept: Held, registry: TypeRegistry) -> Message:
    """Return a kept message as it came. Raises CodecError if its type is not known any more, or not yet."""
    event = registry.unpack(kept.event)
    message = Message(kept.id, event, kept.kind, kept.name, at=kept.at, trace=kept.trace, life=kept.life, kept=True)
    message.gather, message.sent_by = kept.gather, kept.by
    message.place = kept.sequence, kept.number
    return message
