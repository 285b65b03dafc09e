"""For each instance with work, a draft over its record, and `advance` for each message that waited. Stores nothing.

    queue ─► [decide] ─► commit

What goes wrong, and what a turn is then:
    a handler raises               `failure`: what came before the message is written, settle decides about the message
    the cache is too old for it    `stale`: nothing of it holds, and it is begun anew on what is stored
    the record is unreadable       SagaParkedError; the store is left as it is
    it is repaired, messages held  they are replayed first, in the order they came (replay.py)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from datetime import datetime
from math import inf
from typing import Any

import msgspec

from ..decision.advance import UnreadableStateError, declined_start
from ..decision.draft import Draft
from ..decision.message import Message, Outcome
from ..decision.record import FINAL, SagaRecord
from ..decision.timers import due_timer
from ..definition.actions import Refused
from ..errors import CodecError, DefinitionError, NoInstanceError, RepairError, RunnerStoppedError
from .context import EventHandler
from .envelope import Envelope, Maintenance
from .failures import cancellations, ends_program, passes_through
from .load import unreadable
from .queue import Instance
from .replay import NOTHING, Replayed, replay_held
from .settings import NoInstance
from .telling import Watch

# Looked up once: Python 3.11 finds a member of an enum by a call.
_HANDLED = Outcome.HANDLED
_NO_INSTANCE = Outcome.NO_INSTANCE
_PASSED_OVER = frozenset({Outcome.NO_INSTANCE, Outcome.IGNORED, Outcome.ALREADY_STARTED})
_MAX_TIMERS = 1000  # of one moment: a timer that sets itself again at once must not hold its instance for ever
_TIMER_SECONDS = 0.005  # in one go
_STOPPED = "the runner stopped before the event was handled; nothing of it was stored"


class HandlerFailed(Exception):  # noqa: N818
    """Carries what a handler raised, and for which message, from the step to the turn."""

    def __init__(self, message: Message, error: BaseException) -> None:
        self.message = message
        self.error = error


class _CacheTooOld(Exception):  # noqa: N818
    """A decision may not rest on a cached record: absence, which another worker may have ended."""


class Turn:
    """What one instance does in a round. `batch[:at]` was decided on `draft`.

    `unseen`: on the guess that nothing is stored; `fresh`: on a record that was read for it. `maintenance`: what was asked
    for among these. `to_record`: commands were accepted that the record still holds.
    """

    __slots__ = (
        "at",
        "batch",
        "draft",
        "failure",
        "fresh",
        "instance",
        "maintenance",
        "replayed",
        "stale",
        "timer",
        "to_record",
        "unseen",
        "watch",
    )

    def __init__(self, instance: Instance, batch: list[Envelope], draft: Draft, watch: Watch, *, unseen: bool) -> None:
        self.instance = instance
        self.batch = batch
        self.draft = draft
        self.watch = watch
        self.unseen = unseen
        self.fresh = instance.fresh
        self.at = 0
        self.maintenance: tuple[Maintenance, ...] = ()
        self.replayed: Replayed = NOTHING
        self.failure: HandlerFailed | None = None
        self.timer: Message | None = None  # that fired last
        self.stale = False
        self.to_record, draft.changed = draft.changed, False

    @property
    def decided(self) -> list[Envelope]:
        """What was decided, and what it passed over."""
        return self.batch[: self.at]


def may_begin(instance: Instance, now: datetime) -> bool:
    """Say whether a turn may be begun on what is known of the instance; otherwise its record is to be read first."""
    if instance.loaded and (instance.fresh or not _may_be_of_a_forgotten_life(instance, now)):
        return True
    instance.loaded = False
    return _may_start_unseen(instance)


def _may_be_of_a_forgotten_life(instance: Instance, now: datetime) -> bool:
    """Say whether the cached record is so old that its instance may have ended elsewhere and been purged since."""
    record = instance.record
    return record is not None and now - record.updated_at >= instance.hosted.half_retention


def _may_start_unseen(instance: Instance) -> bool:
    """Say whether to handle a starting event as if nothing were stored: the write fails if anything is."""
    if instance.look_first or instance.unknown is not None or not instance.hosted.starts_unseen:
        return False
    first = next((envelope for envelope in instance.mailbox if not envelope.over), None)
    if first is None or first.message is None or first.message.kind != "event" or first.park is not None:
        return False
    return instance.hosted.saga.may_start(first.message.event)


def begin(instance: Instance, now: datetime) -> Turn:
    """Take what waits, up to `max_batch`, and begin a draft."""
    hosted = instance.hosted
    engine = hosted.engine
    mailbox = instance.mailbox
    unseen = not instance.loaded
    if unseen:
        instance.record, instance.version, instance.epoch = None, 0, 0
    if instance.one_by_one:
        instance.one_by_one -= 1
        batch = mailbox[:1]
        del mailbox[:1]
    elif len(mailbox) <= engine.settings.max_batch:
        batch, instance.mailbox = mailbox, []
    else:
        batch = mailbox[: engine.settings.max_batch]
        del mailbox[: engine.settings.max_batch]
    if instance.fresh and instance.waiting and instance.record is not None:
        # Another worker has handled a starting event, and may have ended the instance already.
        batch[:0] = instance.wait_no_longer()
    if engine.event_time and instance.record is not None:
        now = instance.record.updated_at  # no time passes for it but that of its own events and timers
    draft = Draft(
        hosted.saga,
        hosted.registry,
        instance.persistence_id,
        instance.record,
        instance.version,
        now,
        engine.retention,
    )
    if instance.accepted:
        draft.accept(instance.accepted)
    watch = engine.hooks.watch(hosted.name, instance.correlation_id, unseen=unseen)
    return Turn(instance, batch, draft, watch, unseen=unseen)


def decide(turn: Turn) -> Awaitable[None] | None:
    """Decide the batch in order. What has to be waited for is returned, to be given to `decide_slowly`."""
    record = turn.draft.record
    if record is not None and record.owes_replay:
        return _replay(turn)
    try:
        return _run(turn)
    except (HandlerFailed, _CacheTooOld) as raised:
        _stopped_at(turn, raised)
        return None


def replays(turn: Turn) -> bool:
    """Say whether what has to be waited for is the replay of what an instance held, which is no caller's."""
    return turn.at == 0 and turn.draft.record is not None and turn.draft.record.owes_replay


async def decide_slowly(turn: Turn, first: Awaitable[None]) -> None:
    """Go on where `decide` met something that has to be waited for; in a task of its own."""
    instance, more, replaying = turn.instance, first, replays(turn)
    task = asyncio.current_task()
    assert task is not None
    try:
        while True:
            if not replaying:
                instance.working = (turn.batch[turn.at], task)
            await more
            if not replaying:
                _passed(turn, turn.batch[turn.at])
            replaying = False
            following = _run(turn)
            if following is None:
                return
            more = following
    except (HandlerFailed, _CacheTooOld) as raised:
        _stopped_at(turn, raised)
    finally:
        instance.working = None


def _stopped_at(turn: Turn, raised: Exception) -> None:
    if isinstance(raised, HandlerFailed):
        turn.batch[turn.at].tried()
    if turn.unseen or not isinstance(raised, HandlerFailed):
        turn.stale = True
    else:
        turn.failure = raised


async def _replay(turn: Turn) -> None:
    turn.replayed = await replay_held(turn.instance, turn.draft, turn.watch)


def _run(turn: Turn) -> Awaitable[None] | None:
    batch, draft, advance = turn.batch, turn.draft, turn.watch.advance
    while turn.at < len(batch):
        envelope = batch[turn.at]
        if envelope.over:
            envelope.park = None
            turn.at += 1
            continue
        message = envelope.message
        if message is None or message.tried or message.at is not None or envelope.park is not None:
            more = _step(turn, envelope)
            if more is not None:
                return more
        else:  # what nearly all of them are
            try:
                outcome = advance(draft, message)
            except BaseException as error:
                if ends_program(error):
                    raise
                raise _failure(turn, message, error) from error
            if outcome is _HANDLED:
                envelope.decided = _HANDLED
            elif isinstance(outcome, Outcome):
                _decided(turn, envelope, outcome)
            else:
                return _take_slowly(turn, envelope, _advance_slowly(turn, message, outcome))
        _passed(turn, envelope)
    return None


def _passed(turn: Turn, envelope: Envelope) -> None:
    turn.at += 1
    if envelope.maintenance is not None:
        turn.maintenance = (*turn.maintenance, envelope.maintenance)
    if turn.instance.waiting and _live(turn.draft.record):
        # They came before whatever is behind.
        turn.batch[turn.at : turn.at] = turn.instance.wait_no_longer()


def _live(record: SagaRecord | None) -> bool:
    return record is not None and record.status not in FINAL


def _step(turn: Turn, envelope: Envelope) -> Awaitable[None] | None:
    """Run one envelope against the draft; an awaitable where it has to be waited for.

    Where it raises, the draft is as it was before the failed message.
    """
    message = envelope.message
    if message is not None and message.tried:
        # The same message, not another: it is told apart by identity from those that it parks its instance for.
        message.event = _as_it_came(turn, message).event
        message.tried = False
    if envelope.park is not None and _park(turn, envelope):
        return None
    if message is None:
        if envelope.repair is not None:
            return _repair(turn, envelope)
        envelope.decided = _HANDLED
        if envelope.maintenance is not Maintenance.CLAIM:
            return None
        return _fire(turn, turn.instance.hosted.engine.now(), envelope.most_timers)
    if message.at is not None:
        return _step_in_event_time(turn, envelope, message, message.at)
    return _take(turn, envelope, message)


def _take(turn: Turn, envelope: Envelope, message: Message) -> Awaitable[None] | None:
    outcome = _advance(turn, message)
    if outcome is _HANDLED:
        envelope.decided = _HANDLED
        return None
    if isinstance(outcome, Outcome):
        _decided(turn, envelope, outcome)
        return None
    return _take_slowly(turn, envelope, outcome)


async def _take_slowly(turn: Turn, envelope: Envelope, outcome: Awaitable[Outcome]) -> None:
    _decided(turn, envelope, await outcome)


def _step_in_event_time(turn: Turn, envelope: Envelope, message: Message, at: datetime) -> Awaitable[None] | None:
    """Let the timers before it fire first, then handle a message at its own time."""
    draft, record = turn.draft, turn.draft.record
    known = draft.knows(message.id, message.kind)
    if message.answer and record is not None:
        at = max(at, record.updated_at)
    elif not known and record is not None and at < record.started_at:
        # It is older than the life that it meets. Fed again, it would otherwise be handled by a life that came after it.
        if not turn.fresh:
            raise _CacheTooOld
        _no_instance(turn, envelope)
        return None
    elif not known and record is not None and at < record.updated_at and draft.has_forgotten():
        envelope.decided = Outcome.DUPLICATE
        return None
    firing = None if known else _fire(turn, at)
    if firing is not None:
        return _after_firing(turn, envelope, message, at, firing)
    return _take_at(turn, envelope, message, at)


def _take_at(turn: Turn, envelope: Envelope, message: Message, at: datetime) -> Awaitable[None] | None:
    turn.draft.now = at
    lives = turn.draft.started
    more = _take(turn, envelope, message)
    if more is not None:
        return _taken_later(turn, more, lives, at)
    _know_of_before(turn, lives, at)
    return None


async def _taken_later(turn: Turn, more: Awaitable[None], lives: int, at: datetime) -> None:
    await more
    _know_of_before(turn, lives, at)


def _know_of_before(turn: Turn, lives: int, at: datetime) -> None:
    """Let a new life know what came at the moment of its start, before it, and found nothing."""
    draft, instance = turn.draft, turn.instance
    if draft.started > lives and draft.record is not None:
        for message_id in instance.hosted.passed_over.of(instance.correlation_id, at):
            draft.remember(draft.record, message_id)


async def _after_firing(
    turn: Turn, envelope: Envelope, message: Message, at: datetime, firing: Awaitable[None]
) -> None:
    await firing
    more = _take_at(turn, envelope, message, at)
    if more is not None:
        await more


def _as_it_came(turn: Turn, message: Message) -> Message:
    """Return the message for another attempt: what a handler has changed of its event was not stored, and is not seen."""
    if message.kind != "refused":
        return message.copied()
    instance, record = turn.instance, turn.draft.record
    entry = message.event.command_id[len(instance.persistence_id) + 1 :]
    command = next((c for c in record.outbox if c.id == entry), None) if record is not None else None
    if command is None:
        return message
    try:
        again = instance.hosted.registry.unpack(command.command)
    except CodecError as error:
        raise HandlerFailed(message, error) from error
    event = Refused(again, message.event.command_id, message.event.reason)
    return msgspec.structs.replace(message, event=event, tried=False)


def _park(turn: Turn, envelope: Envelope) -> bool:
    """Park the instance with the message that is to blame; say whether that is all there is to do about the envelope."""
    assert envelope.park is not None
    reason, culprit = envelope.park
    record = turn.draft.record
    try:
        if culprit.kind == "timer" and record is not None and culprit.name in record.timers:
            culprit.event = turn.draft.registry.unpack(record.timers[culprit.name].event)  # as it was set
        turn.draft.park(reason, culprit)
    except (DefinitionError, CodecError) as error:  # what cannot be stored cannot be held either
        envelope.decided = error
        return True
    if culprit is envelope.message:
        envelope.decided = Outcome.HELD
        return True
    return False


async def _repair(turn: Turn, envelope: Envelope) -> None:
    assert envelope.repair is not None
    try:
        envelope.result = await envelope.repair(turn.draft, turn.watch)
    except UnreadableStateError as error:
        raise unreadable(turn.instance, str(error)) from error
    except (NoInstanceError, RepairError) as error:  # found before the draft was touched
        envelope.decided = error
    else:
        envelope.decided = _HANDLED


def _decided(turn: Turn, envelope: Envelope, outcome: Outcome) -> None:
    if outcome is Outcome.ALREADY_STARTED and envelope.message is not None:
        envelope.decided = declined_start(turn.draft, envelope.message) or outcome
    elif outcome is not _NO_INSTANCE:
        envelope.decided = outcome
    elif turn.fresh:
        _no_instance(turn, envelope)
    else:
        raise _CacheTooOld
    if outcome in _PASSED_OVER:
        _remember(turn, envelope)


def _remember(turn: Turn, envelope: Envelope) -> None:
    """In event time, let an instance know what it passed over: fed again, the log is to change nothing."""
    message, record = envelope.message, turn.draft.record
    if message is None or message.at is None or message.kind != "event" or message.answer or message.own:
        return
    if record is None:
        turn.instance.hosted.passed_over.add(turn.instance.correlation_id, message.at, message.id)
    else:
        turn.draft.remember(record, message.id)
        turn.draft.touch()


def _advance(turn: Turn, message: Message) -> Outcome | Awaitable[Outcome]:
    try:
        outcome = turn.watch.advance(turn.draft, message)
    except BaseException as error:
        if ends_program(error):
            raise
        raise _failure(turn, message, error) from error
    if outcome is _HANDLED or isinstance(outcome, Outcome):
        return outcome
    return _advance_slowly(turn, message, outcome)


async def _advance_slowly(turn: Turn, message: Message, outcome: Awaitable[Outcome]) -> Outcome:
    instance = turn.instance
    before = cancellations()
    try:
        with EventHandler(instance):
            return await outcome
    except BaseException as error:
        withdrawn = turn.at < len(turn.batch) and turn.batch[turn.at].withdrawn
        if passes_through(error, before) and (withdrawn or not instance.hosted.engine.cancelled_by_handler(error)):
            raise
        raise _failure(turn, message, error) from error


def _failure(turn: Turn, message: Message, error: BaseException) -> Exception:
    if isinstance(error, UnreadableStateError):
        return unreadable(turn.instance, str(error))
    return HandlerFailed(message, error)


def _fire(turn: Turn, until: datetime, most: float | None = None) -> Awaitable[None] | None:
    """Fire the timers due at `until` or before, earliest first, also those that are set meanwhile.

    With `most` up to so many, and no longer than some milliseconds: the others are fired in a turn that is asked for here.
    """
    firing = _firing(turn, until, most)
    first = next(firing, None)
    return None if first is None else _fire_slowly(firing, first)


async def _fire_slowly(firing: Iterator[Awaitable[Any]], first: Awaitable[Any]) -> None:
    await first
    for more in firing:
        await more


def _firing(turn: Turn, until: datetime, most: float | None) -> Iterator[Awaitable[Any]]:
    """Fire them; yield what has to be waited for in between."""
    instance, draft = turn.instance, turn.draft
    time = instance.hosted.engine.loop.time
    now = draft.now
    give_way_at = time() + _TIMER_SECONDS
    moment, at_once, fired = None, 0, 0
    while (message := _due(turn, until)) is not None:
        if message.at != moment:
            moment, at_once = message.at, 0
        at_once += 1
        late = time() > give_way_at
        if at_once > _MAX_TIMERS or (most is not None and (late or fired >= most)):
            instance.mailbox.append(Envelope(maintenance=Maintenance.CLAIM, most_timers=most or inf))
            break
        if late:
            yield asyncio.sleep(0)
            give_way_at = time() + _TIMER_SECONDS
        fired += 1
        turn.timer = message
        outcome = _advance(turn, message)
        if not isinstance(outcome, Outcome):
            yield outcome
    draft.now = now


def _due(turn: Turn, until: datetime) -> Message | None:
    try:
        message = due_timer(turn.draft, until)
    except CodecError as error:
        raise unreadable(turn.instance, str(error)) from error
    if message is not None and turn.instance.hosted.engine.event_time and message.at is not None:
        turn.draft.now = message.at
    return message


def _why_none(record: SagaRecord | None) -> str:
    if record is None:
        return "there never was an instance, or it is forgotten"
    if record.status in FINAL:
        return f"the instance has ended ({record.status})"
    return f"the instance takes nothing more ({record.status})"


def _no_instance(turn: Turn, envelope: Envelope) -> None:
    message, instance = envelope.message, turn.instance
    assert message is not None
    engine = instance.hosted.engine
    policy = engine.settings.no_instance
    if (
        message.kind != "event"
        or policy is NoInstance.IGNORE
        or (policy is NoInstance.WAIT and _live(turn.draft.record))
    ):
        envelope.decided = _NO_INSTANCE
    elif policy is NoInstance.RAISE:
        event_type, why = type(message.event).__name__, _why_none(turn.draft.record)
        envelope.decided = NoInstanceError(instance.hosted.name, instance.correlation_id, event_type, why)
    elif engine.stopping.is_set():  # nobody would wake it up any more
        envelope.decided = RunnerStoppedError(_STOPPED)
    elif envelope.deadline is None or envelope.deadline <= engine.loop.time():
        envelope.decided = instance.in_vain(envelope)
    else:
        instance.let_wait(envelope)
