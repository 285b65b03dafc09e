"""The undo stack: what was done is taken back, last in first out."""

from __future__ import annotations

from collections.abc import Callable

from ..definition.codec import Typed
from .record import Command, SagaRecord, Status, Undo


def compensate(
    record: SagaRecord, next_id: Callable[[], str], chain: list[Typed] | None = None, trace: str = ""
) -> None:
    """Drop the timers and send the undo stack, last in first out; where a chain is given, that instead."""
    record.timers = {}
    undo = [Undo("", command) for command in chain] if chain else list(reversed(record.undo))
    send_undo(record, undo, next_id, trace)


def send_undo(record: SagaRecord, undo: list[Undo], next_id: Callable[[], str], trace: str = "") -> None:
    """Queue the undo commands, in this order, behind what is still to be delivered. None: it is compensated.

    Undelivered commands are not dropped: their step is durable, so they may be on their way already.
    """
    record.undo = ()
    record.outbox = (*record.outbox, *(Command(next_id(), u.command, True, u.of, trace) for u in undo))
    record.status = Status.COMPENSATING if undo else Status.COMPENSATED


def end_compensation(record: SagaRecord) -> None:
    """Say that it is compensated, if it was compensating and no undo command is left to be accepted."""
    if record.status is Status.COMPENSATING and not any(c.undo for c in record.outbox):
        record.status = Status.COMPENSATED
        record.undo = ()
