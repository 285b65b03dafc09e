"""For each instance with work, a draft over its record, and `advance` for each message that waited. Stores nothing.

    queue ─► [decide] ─► commit

What may go wrong, and what becomes of the turn:
    a handler raises               `failure`: what came before the message is written, settle decides about the message
    the cache is too old           `stale`: nothing of it holds; it is decided again on what is stored
    the record is unreadable       SagaParkedError; the store is left as it is
    a repaired one holds messages  they are replayed first, in the order they came (replay.py)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, assert_never

import msgspec

from ..decision.ids import GAP, entry_of
from ..decision.kept import park_kept
from ..decision.message import Message, Outcome
from ..decision.parking import park
from ..decision.state import UnreadableStateError
from ..definition.actions import Refused
from ..errors import CodecError, DefinitionError, NoInstanceError, RepairError
from .engine import STRETCH_SECONDS
from .envelope import Claim, Envelope, Maintenance, Repairing
from .event_time import step_in_event_time
from .failures import ends_program
from .fire import fire
from .load import unreadable
from .outcome import decided, is_live, take, take_slowly
from .replay import replay_held
from .turn import CacheTooOld, HandlerFailed, StepFull, Turn, advance_slowly, failure_of
from .wake import wake, wake_next

_HANDLED = Outcome.HANDLED  # looked up once: Python 3.11 finds a member of an enum by a call


class GaveWay:
    """What a turn gives instead of something to be awaited where it has held the event loop for long enough."""


GAVE_WAY: Final = GaveWay()
_LOOKS = 8  # how many messages are decided between two looks at the clock


def decide(turn: Turn) -> Awaitable[None] | GaveWay | None:
    """Decide the batch in order. If something has to be awaited, return it; `decide_slowly` goes on with it."""
    if replays(turn):
        return _replay(turn)
    try:
        return _run(turn)
    except (HandlerFailed, CacheTooOld, StepFull) as raised:
        _stopped_at(turn, raised)
        return None


def replays(turn: Turn) -> bool:
    """Say whether this turn replays held messages, which no caller waits for."""
    return turn.at == 0 and turn.draft.record is not None and turn.draft.record.owes_replay


async def decide_slowly(turn: Turn, first: Awaitable[None] | GaveWay) -> None:
    """Go on after `decide` met something that has to be awaited. Runs in a task of its own."""
    instance, more, replaying = turn.instance, first, replays(turn)
    task = asyncio.current_task()
    assert task is not None
    try:
        while True:
            if isinstance(more, GaveWay):  # no message is at work
                instance.works_no_more()
                await asyncio.sleep(0)
            else:
                if not replaying:
                    instance.works_on(turn.batch[turn.at], task)
                await more
                if not replaying:
                    _passed(turn, turn.batch[turn.at])
                turn.move_time_on()
            replaying = False
            following = _run(turn)
            if following is None:
                return
            more = following
    except (HandlerFailed, CacheTooOld, StepFull) as raised:
        _stopped_at(turn, raised)
    finally:
        instance.works_no_more()


def _stopped_at(turn: Turn, raised: Exception) -> None:
    if isinstance(raised, StepFull):
        return
    if isinstance(raised, HandlerFailed):
        turn.batch[turn.at].tried()
    if turn.unseen or not isinstance(raised, HandlerFailed):
        turn.stale = True
    else:
        turn.failure = raised


async def _replay(turn: Turn) -> None:
    turn.replayed = await replay_held(turn.instance, turn.draft, turn.reporter)


def _run(turn: Turn) -> Awaitable[None] | GaveWay | None:
    batch, draft, advance = turn.batch, turn.draft, turn.reporter.advance
    give_way_at = 0.0
    while turn.at < len(batch):
        envelope = batch[turn.at]
        if envelope.over:
            envelope.park = None
            turn.at += 1
            continue
        message = envelope.content
        if type(message) is not Message or message.tried or message.at is not None or envelope.park is not None:
            more = _step(turn, envelope)
            if more is not None:
                return more
        else:  # nearly all envelopes are plain messages: here, `take` without its calls
            try:
                outcome = advance(draft, message)
            except BaseException as error:
                if ends_program(error):
                    raise
                raise failure_of(turn, message, error) from error
            if outcome is _HANDLED:
                envelope.decided = _HANDLED
            elif isinstance(outcome, Outcome):
                decided(turn, envelope, outcome)
            else:
                return take_slowly(turn, envelope, advance_slowly(turn, message, outcome))
        _passed(turn, envelope)
        if not turn.at % _LOOKS and turn.at < len(batch):
            now = turn.instance.runtime.engine.loop.time()
            if not give_way_at:
                give_way_at = now + STRETCH_SECONDS
            elif now > give_way_at:
                return GAVE_WAY
    return None


def _passed(turn: Turn, envelope: Envelope) -> None:
    turn.at += 1
    content = envelope.content
    if type(content) is not Message and isinstance(content, (Maintenance, Claim)) and content is not Maintenance.WAKE:
        turn.asked = (*turn.asked, content)
    if turn.instance.waiting and is_live(turn.draft.record):
        # They came before the rest of the batch.
        turn.batch[turn.at : turn.at] = turn.instance.wait_no_longer()
    record = turn.draft.record
    if record is not None and record.waking and record.owes_waking:
        wake_next(turn)


def _step(turn: Turn, envelope: Envelope) -> Awaitable[None] | None:
    """Run one envelope against the draft. Returns an awaitable if something has to be awaited.

    Where it raises, the draft is as it was before the failed message.
    """
    content = envelope.content
    if isinstance(content, Message) and content.tried:
        # It stays the same object: whether an envelope's own message parks the instance is seen by identity.
        content.event = _as_it_came(turn, content).event
        content.tried = False
    if envelope.park is not None and _park(turn, envelope):
        return None
    match content:
        case Message():
            if content.at is not None:
                return step_in_event_time(turn, envelope, content, content.at)
            return take(turn, envelope, content)
        case Repairing():
            return _repair(turn, envelope, content)
        case Claim(until):
            envelope.decided = _HANDLED
            return fire(turn, until, envelope.most_timers)
        case Maintenance.WAKE:
            envelope.decided = _HANDLED
            return wake(turn)
        case Maintenance():
            envelope.decided = _HANDLED
            return None
    assert_never(content)


def _as_it_came(turn: Turn, message: Message) -> Message:
    """Return the message for another attempt, without what the failed handler may have changed of its event."""
    if message.kind != "refused":
        return message.copied()
    instance, record = turn.instance, turn.draft.record
    entry = entry_of(instance.persistence_id, message.event.command_id)
    command = next((c for c in record.outbox if c.id == entry), None) if record is not None else None
    if command is None:
        return message
    try:
        again = instance.runtime.registry.unpack(command.command)
    except CodecError as error:
        raise HandlerFailed(message, error) from error
    event = Refused(again, message.event.command_id, message.event.reason)
    return msgspec.structs.replace(message, event=event, tried=False)


def _park(turn: Turn, envelope: Envelope) -> bool:
    """Park the instance with the message that is to blame. Returns whether the envelope needs nothing more."""
    assert envelope.park is not None
    reason, culprit = envelope.park
    record = turn.draft.record
    if culprit.kept:
        if not park_kept(turn.draft, reason, culprit):  # another worker has handled it
            envelope.park = None
        if envelope.message is None:
            envelope.decided = _HANDLED
            return True
        return False
    try:
        theirs = culprit.kind == "timer" and not culprit.name.startswith(GAP)
        if theirs and record is not None and culprit.name in record.timers:
            culprit.event = turn.draft.registry.unpack(record.timers[culprit.name].event)  # as it was set
        park(turn.draft, reason, culprit)
    except (DefinitionError, CodecError) as error:  # what cannot be stored cannot be held either
        envelope.decided = error
        return True
    if culprit is envelope.message:
        envelope.decided = Outcome.HELD
        return True
    return False


async def _repair(turn: Turn, envelope: Envelope, repairing: Repairing) -> None:
    try:
        envelope.result = await repairing.run(turn.draft, turn.reporter)
    except UnreadableStateError as error:
        raise unreadable(turn.instance, str(error)) from error
    except (NoInstanceError, RepairError) as error:  # found before the draft was touched
        envelope.decided = error
    else:
        envelope.decided = _HANDLED
