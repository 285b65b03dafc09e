"""A message is handled at its own time, after the timers due before it, so that a log always gives the same history.

turn, fire, outcome ─► [event_time] ─► decide
"""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime
from itertools import takewhile

from ..decision.draft import Draft
from ..decision.ids import is_refused_id, refused_id
from ..decision.message import Message, Outcome
from ..decision.record import SagaRecord, microseconds
from .envelope import Envelope
from .fire import fire_before
from .outcome import no_instance, take
from .turn import CacheTooOld, Turn


def step_in_event_time(turn: Turn, envelope: Envelope, message: Message, at: datetime) -> Awaitable[None] | None:
    """Let the timers before it fire first, then handle a message at its own time."""
    draft, record = turn.draft, turn.draft.record
    known = draft.knows(message.id, message.kind)
    if message.answer and record is not None:
        at = max(at, record.updated_at)
    elif not known and record is not None and at < record.started_at:
        # It is older than this life. Otherwise a log that is fed again would have it handled by a life that came later.
        if not turn.fresh:
            raise CacheTooOld
        no_instance(turn, envelope)
        return None
    elif not known and record is not None and _is_outdated(draft, record, message, at):
        envelope.decided = Outcome.DUPLICATE
        return None
    firing = None if known else fire_before(turn, envelope, at)
    if firing is not None:
        return _after_firing(turn, envelope, message, at, firing)
    return _take_at(turn, envelope, message, at)


def _is_outdated(draft: Draft, record: SagaRecord, message: Message, at: datetime) -> bool:
    """Say whether a message that is not known was judged before, so that it would now be judged by what came later."""
    if at < record.updated_at and draft.has_forgotten():
        return True
    if not record.inherited and record.inbox_ages and at > record.inbox_ages[-1][0]:
        return False  # nothing of that time was noted yet, so nothing needs to be looked up
    refused = refused_id(message.id, microseconds(at))
    if not draft.knows(refused):
        return False
    since = takewhile(lambda noted: noted != refused, reversed(record.inbox))
    return at != record.updated_at or not all(map(is_refused_id, since))


def _take_at(turn: Turn, envelope: Envelope, message: Message, at: datetime) -> Awaitable[None] | None:
    turn.draft.now = at
    lives = turn.draft.started
    more = take(turn, envelope, message)
    if more is not None:
        return _taken_later(turn, more, lives, at)
    _know_of_before(turn, lives, at)
    return None


async def _taken_later(turn: Turn, more: Awaitable[None], lives: int, at: datetime) -> None:
    await more
    _know_of_before(turn, lives, at)


def _know_of_before(turn: Turn, lives: int, at: datetime) -> None:
    """Let a new life know which messages came at the moment of its start, before it, and found no instance."""
    draft, instance = turn.draft, turn.instance
    if draft.started > lives and draft.record is not None:
        for message_id in instance.runtime.passed_over.of(instance.correlation_id, at):
            draft.remember(draft.record, message_id)


async def _after_firing(
    turn: Turn, envelope: Envelope, message: Message, at: datetime, firing: Awaitable[None]
) -> None:
    await firing
    more = _take_at(turn, envelope, message, at)
    if more is not None:
        await more
