"""How a call ends whose saga compensates meanwhile: its undo waits for it, and may need its result.

    advance ─► [cut_off] ─► finish

Compensation begins while activities run where a handler asks for it. Their undo commands wait behind them in the outbox.
A result is stored, for the undo to find it; a refusal leaves nothing to undo.
"""

from __future__ import annotations

from collections.abc import Awaitable

from .draft import Draft
from .entries import Stage
from .finish import finish
from .message import Message, Outcome
from .record import SagaRecord
from .state import decode_state


def ended_while_compensating(draft: Draft, record: SagaRecord, message: Message) -> Outcome | Awaitable[Outcome] | str:
    """Store the result of a call that is to be undone. Returns the entry of one that was refused.

    NO_INSTANCE, and nothing has changed, for any other message: an operator has dropped the call, or it was recorded.
    """
    table = draft.saga.activities
    what, name = ("", "") if table is None else table.events.get(type(message.event), ("", ""))
    if what not in ("done", "failed"):
        return Outcome.NO_INSTANCE
    stage = record.activities.get(name, Stage("stopped"))
    waits = any(command.id == stage.entry and not command.undo for command in record.outbox)
    if not waits or not message.id.startswith(f"{draft.persistence_id}/{stage.entry}/reply/"):
        return Outcome.NO_INSTANCE
    if what == "failed":
        return stage.entry if message.event.refused else Outcome.NO_INSTANCE
    assert table is not None
    state = decode_state(draft.saga, record)
    if table.steps[name].field:
        setattr(state, name, message.event.result)
    outcome = finish(draft, message, record, state, [])
    record.outbox = tuple(command for command in record.outbox if command.id != stage.entry)
    return outcome
