"""What a message means for the commands whose answers have a deadline.

finish, advance ─► [requested] ─► draft
"""

from __future__ import annotations

from .draft import Draft
from .entries import Handled, Request
from .ids import ANSWER, entry_of
from .message import Message
from .record import SagaRecord
from .requests import overdue, request_answered_by, settled


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
