"""Timers that are due fire within the turn of their instance, at their own time, earliest first.

turn ─► [fire] ─► decide
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from datetime import datetime
from math import inf
from typing import Any

from ..decision.message import Message, Outcome
from ..decision.timers import due_timer
from ..errors import CodecError
from .engine import STRETCH_SECONDS
from .envelope import Claim, Envelope
from .load import unreadable
from .turn import StepFull, Turn, advance
from .wake import wake, wakes

_MAX_TIMERS = 1000  # of one moment: a timer that sets itself again at once must not keep its instance busy for ever
_MAX_IN_STEP = 1000  # timers before one event: a year of a recurring one does not fit into a record
_SHARE = 16  # of the pending timers, one turn fires at least a sixteenth: its save writes all that are left
_LONGEST_SECONDS = 20 * STRETCH_SECONDS  # but for that it lasts no longer than this: handlers may be slow


def fire(turn: Turn, until: datetime | None, most: float) -> Awaitable[None] | None:
    """Fire the timers due at `until` (None: now) or before, earliest first, including those that are set meanwhile.

    At most `most` fire, for some milliseconds: of many, for as long as it takes to fire a share that is worth a save. The
    others fire in a turn that is asked for here, once: what another claim finds due meanwhile is left to that turn, so
    that claims do not pile up. In event time, those behind one that sends a command wait for a claim after its answer.
    """
    if _claimed(turn):
        return None
    return _begun(_firing(turn, until, most))


def _claimed(turn: Turn) -> bool:
    """Say whether a later turn of this instance fires what is due."""
    return any(isinstance(envelope.content, Claim) for envelope in turn.instance.mailbox)


def fire_before(turn: Turn, envelope: Envelope, at: datetime) -> Awaitable[None] | None:
    """Fire the timers due at `at` or before, ahead of an event. Raises StepFull if they are too many for one record."""
    return _begun(_firing(turn, at, None, min(_MAX_IN_STEP, envelope.most_timers)))


def _begun(firing: Iterator[Awaitable[Any]]) -> Awaitable[None] | None:
    first = next(firing, None)
    return None if first is None else _fire_slowly(firing, first)


async def _fire_slowly(firing: Iterator[Awaitable[Any]], first: Awaitable[Any]) -> None:
    await first
    for more in firing:
        await more


def _firing(turn: Turn, asked: datetime | None, most: float | None, in_step: float = inf) -> Iterator[Awaitable[Any]]:
    """Fire the timers; yield whatever has to be awaited."""
    instance, draft = turn.instance, turn.draft
    engine = instance.runtime.engine
    time = engine.loop.time
    until = engine.now() if asked is None else asked
    turn.move_time_on()  # it may have begun before its timers were due
    before = draft.now
    pending = 0 if draft.record is None else len(draft.record.timers)
    begun_at = time()
    give_way_at = begun_at + STRETCH_SECONDS
    moment, at_once, fired = None, 0, 0
    while (message := _due(turn, until)) is not None:
        if engine.timing.in_order and most is not None and _undelivered(turn):
            break
        if message.at != moment:
            moment, at_once = message.at, 0
        at_once += 1
        now = time()
        late = now > give_way_at
        worth_a_save = fired * _SHARE >= pending or now > begun_at + _LONGEST_SECONDS
        if at_once > _MAX_TIMERS or (most is not None and fired and (fired >= most or (late and worth_a_save))):
            if not (engine.stopping.is_set() or _claimed(turn)):  # then they are any worker's
                claim = Envelope(Claim(asked), most_timers=most or inf)
                instance.put(claim)
            break
        if fired >= in_step:
            draft.now = max(before, draft.now)
            raise StepFull
        if late:
            yield asyncio.sleep(0)
            give_way_at = time() + STRETCH_SECONDS
        fired += 1
        turn.timer = message
        draft.now = engine.timing.of_timer(draft.now, message.at)
        outcome = advance(turn, message)
        if not isinstance(outcome, Outcome):
            yield outcome
            turn.move_time_on()
        while wakes(turn):  # kept messages were there before the timers that are still to fire
            woken = wake(turn)
            if woken is not None:
                yield woken
                turn.move_time_on()
    draft.now = max(before, draft.now)


def _undelivered(turn: Turn) -> bool:
    """Say whether a command of the draft is still to be delivered by this worker."""
    record = turn.draft.record
    return record is not None and bool(record.outbox) and record.outbox[0] != turn.instance.deliveries.declined


def _due(turn: Turn, until: datetime) -> Message | None:
    try:
        return due_timer(turn.draft, until, since=turn.instance.runtime.engine.timing.timers_since)
    except CodecError as error:
        raise unreadable(turn.instance, str(error)) from error
