"""Commands whose answer has a deadline: which event answers which, and what becomes of an answer that is late.

A request is an entry of the record beside the command: its deadline is a timer, named after the command. An answer, or a
refusal, takes both away in the step that handles it. Where late answers are not handled as usual, the entry stays
behind when the deadline has passed, so that they are known.

    checked ─► [asked] ─► finish ─► record          advance, finish ─► [request_answered_by, settle_request] ─► draft
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from ..definition.actions import Send
from ..definition.codec import Typed, TypeRegistry
from ..definition.saga import Saga
from ..definition.schema import schema_of
from ..errors import DefinitionError
from .draft import Draft
from .entries import Handled, Request
from .ids import ANSWER, answered_entry, entry_of
from .message import Message
from .moments import after
from .record import SagaRecord

_MAX_OVERDUE = 1000  # of one instance: beyond, the oldest are forgotten, and their answers handled as usual


class Asked(msgspec.Struct, frozen=True, gc=False):
    """What a Send with a deadline was checked to be: the command, and what is handled if no answer comes in time."""

    command: Typed
    otherwise: Typed
    due_at: datetime
    reply: str


def asked(action: Send, command: Typed, saga: Saga[Any], registry: TypeRegistry, now: datetime) -> Asked:
    """Return the checked request of a Send that has a deadline, or a part of one. Raises DefinitionError."""
    what = f"Send({type(action.command).__name__}, reply_within=...)"
    if action.reply_within is None or action.otherwise is None:
        raise DefinitionError(
            f"saga {saga.name!r}: {what} takes reply_within= and otherwise= together: how long to wait, and the "
            "event if no answer comes"
        )
    if action.late not in ("handle", "ignore", "park"):
        raise DefinitionError(
            f'saga {saga.name!r}: {what} takes late= "handle", "ignore" or "park", not {action.late!r}'
        )
    due_at = after(now, action.reply_within, saga, what)
    if due_at <= now:
        raise DefinitionError(f"saga {saga.name!r}: {what} needs a time above zero, not {action.reply_within}")
    if not saga.handles_event(action.otherwise):
        raise DefinitionError(
            f"saga {saga.name!r}: {what} has a {type(action.otherwise).__name__} as otherwise=, which no handler takes"
        )
    reply = ""
    if action.reply is not None:
        if not isinstance(action.reply, type):
            raise DefinitionError(f"saga {saga.name!r}: {what} takes an event type as reply=, not {action.reply!r}")
        if type(saga).handle is Saga.handle and action.reply not in saga.event_types():
            raise DefinitionError(
                f"saga {saga.name!r}: {what} waits for a {action.reply.__name__} as reply=, which no handler takes"
            )
        reply = schema_of(action.reply).name
    return Asked(command, registry.pack(action.otherwise), due_at, reply)


def request_answered_by(record: SagaRecord, persistence_id: str, message: Message) -> Request | None:
    """Return the request that an event answers: as its command handler's answer, or by its type, the oldest first."""
    entry = answered_entry(persistence_id, message.id)
    name = schema_of(type(message.event)).name
    by_type = None
    for request in record.requests:
        if request.id == entry and request.reply in ("", name):
            return request
        if request.reply == name and (by_type is None or (by_type.overdue and not request.overdue)):
            by_type = request
    return by_type


def settled(record: SagaRecord, entry: str) -> str:
    """Forget a request, and return the name of its deadline's timer."""
    record.requests = tuple(request for request in record.requests if request.id != entry)
    return ANSWER + entry


def overdue(record: SagaRecord, timer: str) -> None:
    """Note that the deadline of a request has passed: only one whose late answers mean something else is kept."""
    entry = timer.removeprefix(ANSWER)
    kept = [
        msgspec.structs.replace(request, overdue=True) if request.id == entry else request
        for request in record.requests
        if request.id != entry or request.late != "handle"
    ]
    too_many = sum(request.overdue for request in kept) - _MAX_OVERDUE
    for request in [request for request in kept if request.overdue][: max(0, too_many)]:
        kept.remove(request)
    record.requests = tuple(kept)


def settle_request(draft: Draft, record: SagaRecord, message: Message) -> None:
    """Note what a message that is handled means for the requests: it answers one, refuses one, or is a deadline."""
    if message.kind == "timer":
        if message.name.startswith(ANSWER):
            overdue(record, message.name)
        return
    if message.kind == "refused":
        entry = entry_of(draft.persistence_id, message.event.command_id)
    else:
        request = request_answered_by(record, draft.persistence_id, message)
        if request is None:
            return
        entry = request.id
    draft.drop_timer(record, settled(record, entry))


def ignore_late(draft: Draft, record: SagaRecord, message: Message, request: Request) -> None:
    """Consume an answer that came too late, without a handler."""
    settled(record, request.id)
    draft.remember(record, message.id, own=message.own)
    draft.append(record, "handled", Handled(message.id, type(message.event).__name__, late=True))
    draft.touch()
