"""What the sender of a message is told of its outcome."""

from __future__ import annotations

from ..errors import AlreadyStartedError, SagalogError
from .draft import Draft
from .ids import parts_of
from .kept import unexpected
from .message import Message, Outcome


def answer_to(draft: Draft, message: Message, outcome: Outcome) -> Outcome | SagalogError:
    """Return the error to raise where the saga says that an event may not come now; else the outcome itself."""
    if outcome is Outcome.ALREADY_STARTED and draft.saga.again(message.event) == "raise":
        correlation_id = parts_of(draft.persistence_id)[1]
        return AlreadyStartedError(draft.saga.name, correlation_id, type(message.event).__name__)
    if outcome is Outcome.UNEXPECTED:
        return unexpected(draft, message)
    return outcome
