"""What a handler may ask about the step at hand, made from its draft and its message."""

from __future__ import annotations

from datetime import UTC

import msgspec

from ..definition.context import StepContext
from .draft import Draft
from .ids import prefix_of
from .message import Message
from .phases import phase_of
from .record import SagaRecord


def context_of(draft: Draft, message: Message, record: SagaRecord) -> StepContext:
    """Return what a handler may ask about the step at hand."""
    correlation_id = draft.persistence_id.removeprefix(prefix_of(draft.saga.name))
    at = None if message.at is None else message.at.astimezone(UTC)
    phase = phase_of(draft.saga, record)
    context = StepContext(draft.now.astimezone(UTC), correlation_id, message.id, at, message.trace, phase=phase)
    return context if message.gather is None else msgspec.structs.replace(context, gathered=message.gather.told())
