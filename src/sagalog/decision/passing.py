"""What a message means that no handler takes: a command was answered all the same, or an operator has dropped a leg.

    advance ─► [passing] ─► gathers ─► finish

An answer that its phase ignores, whose number was handled, or that may not start the saga again, is passed over. Yet its
command was carried out, and nobody brings another answer, so it counts for its leg and for its request. An event that a
phase ignores also ends the activity that waits for it: that asked for it.
"""

from __future__ import annotations

from collections.abc import Awaitable

import msgspec

from .draft import Draft
from .entries import Status
from .gathers import leg_of
from .ids import GATHER, answered_entry
from .joins import finish_with_joins
from .message import Message, Outcome
from .record import SagaRecord
from .state import decode_state
from .step_context import context_of

_RUNNING = Status.RUNNING  # looked up once: Python 3.11 finds a member of an enum by a call


def passed_over(
    draft: Draft, record: SagaRecord | None, message: Message, outcome: Outcome
) -> Outcome | Awaitable[Outcome]:
    """Count an event that no handler takes, if it is the answer of a leg or of a request: nobody brings another one.

    `outcome` is what becomes of any other event, and nothing has changed then.
    """
    if record is None or not (record.gathers or record.requests or record.activities) or message.kind != "event":
        return outcome
    if record.status is not _RUNNING or message.life not in (0, record.incarnation):
        return outcome
    entry = answered_entry(draft.persistence_id, message.id)
    asked = any(request.id == entry and not request.overdue for request in record.requests)
    if not asked and not _is_awaited(draft, record, message) and leg_of(record, draft.persistence_id, message) is None:
        return outcome
    if record.parked:
        draft.hold(message)
        return Outcome.HELD
    return _pass(draft, record, message)


def _is_awaited(draft: Draft, record: SagaRecord, message: Message) -> bool:
    """Say whether an activity waits for such an event."""
    table = draft.saga.activities
    if table is None or type(message.event) not in table.awaited:
        return False
    stage = record.activities.get(table.awaited[type(message.event)][0].name)
    return stage is not None and stage.status == "waiting"


def lead_on(draft: Draft, record: SagaRecord, message: Message) -> Outcome | Awaitable[Outcome]:
    """Let a gather go on, or come to its end, of which an operator has dropped a leg."""
    if message.name.removeprefix(GATHER) not in record.gathers:
        return Outcome.IGNORED  # it has ended meanwhile
    return _pass(draft, record, message)


def _pass(draft: Draft, record: SagaRecord, message: Message) -> Outcome | Awaitable[Outcome]:
    """Finish a step with a message that no handler takes."""
    passed, state = msgspec.structs.replace(message, passed=True), decode_state(draft.saga, record)
    return finish_with_joins(draft, passed, record, state, [], context_of(draft, passed, record))
