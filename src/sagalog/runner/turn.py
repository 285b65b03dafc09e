"""A turn: everything that waited for one instance, handled against one draft, saved as one record.

    mailbox ─► [turn]: load if needed ─► step.advance for each ─► commit ─► answer callers ─► dispatch.release

What goes wrong, and what happens then:
    another writer was first       load again, handle all again (nothing was stored, no caller was answered)
    no answer from the store       load again; the inbox tells what was stored
    a handler raises               what came before it is saved; it is tried again by policy, then parked
    not an action, not encodable   the sender is told, nothing is stored; a timer or a refusal parks the instance
    the record is unreadable       the callers are told SagaParkedError, the store is left as it is
    it is repaired, messages held  they are replayed first, in the order they came (replay.py)
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from typing import TYPE_CHECKING

import msgspec

from ..decision.advance import UnreadableStateError, advance
from ..decision.draft import Draft
from ..decision.message import Message, Outcome
from ..decision.record import FINAL, SagaRecord
from ..decision.timers import due_timer
from ..definition.actions import Refused
from ..errors import (
    CodecError,
    ConflictError,
    DefinitionError,
    NoInstanceError,
    OutcomeUnknownError,
    PayloadTooLargeError,
    RepairError,
    RunnerStoppedError,
)
from ..logs import log
from .commit import commit, load, unreadable
from .context import EventHandler
from .envelope import Envelope, Upkeep
from .failures import cancellations, ends_program, passes_through
from .replay import NOTHING, replay_held, tell_parked
from .settings import NoInstance

if TYPE_CHECKING:
    from datetime import datetime

    from .mailbox import Instance

# Looked up once: Python 3.11 finds a member of an enum by a call.
_HANDLED = Outcome.HANDLED
_NO_INSTANCE = Outcome.NO_INSTANCE
_MOST_TIMERS = 1000  # of one turn: a timer that sets itself again at once must not hold its instance for ever


class _HandlerFailed(Exception):  # noqa: N818
    """Carries what a handler raised, and for which message, from the step to the turn."""

    def __init__(self, message: Message, error: BaseException) -> None:
        self.message = message
        self.error = error


class _CacheTooOld(Exception):  # noqa: N818
    """A decision may not rest on a cached record: absence, which another worker may have ended."""


async def take_turn(instance: Instance, batch: list[Envelope]) -> None:
    """Handle `batch`, in order. Returns with every envelope answered, failed, or waiting for a starting event."""
    done = 0  # so many of the batch are answered, failed, or wait
    lost = 0
    may_start_unseen = True
    while done < len(batch):
        unseen = fresh = False
        if instance.loaded and _may_be_of_a_forgotten_life(instance):
            instance.loaded = False
        if not instance.loaded:
            unseen = may_start_unseen and _may_start_unseen(instance, batch[done])
            may_start_unseen = False  # if it does not work out, the next round looks
            if not unseen:
                before = instance.epoch, instance.version
                await load(instance)
                if (instance.epoch, instance.version) != before:
                    # That it parks was decided on another record. This one may hold the message already.
                    batch[done].park = None
                if batch[done].upkeep is not Upkeep.CLAIM:  # which decides who delivers
                    release(instance)
                fresh = True
        draft = _draft(instance)
        accepted, draft.changed = draft.changed, False
        replayed = await replay_held(instance, draft) if _owes_replay(draft.record) else NOTHING
        if fresh and instance.waiting and draft.record is not None:
            # Another worker has handled a starting event, and may have ended the instance already.
            batch[done:done] = instance.waiting
            instance.waiting.clear()
        at = done  # batch[done:at] is handled in this draft
        upkeep: list[Upkeep] = []  # asked for among these
        failure: _HandlerFailed | None = None
        try:
            while at < len(batch):
                envelope = batch[at]
                if envelope.over:
                    envelope.park = None
                    at += 1
                    continue
                more = _step(instance, draft, envelope, fresh=fresh)
                if more is not None:
                    await more
                if envelope.upkeep is not None:
                    upkeep.append(envelope.upkeep)
                at += 1
                if instance.waiting and _live(draft.record):
                    batch[at:at] = instance.waiting  # they came before whatever is behind
                    instance.waiting.clear()
        except (_HandlerFailed, _CacheTooOld) as raised:
            if isinstance(raised, _HandlerFailed):
                batch[at].tried()
            if unseen or isinstance(raised, _CacheTooOld):
                _take_back(instance, batch[done:at], draft)
                instance.loaded = False
                continue
            failure = raised
        # That commands were accepted is recorded with a step, or when upkeep asks for it: not for a mere duplicate.
        claim = renew = False
        if upkeep:
            draft.changed = draft.changed or accepted
            claim, renew = Upkeep.CLAIM in upkeep, Upkeep.RENEW in upkeep
        try:
            saved = await commit(instance, draft, claim=claim, renew=renew)
        except (ConflictError, OutcomeUnknownError) as error:
            _take_back(instance, batch[done:at], draft)
            instance.loaded = False
            if unseen and isinstance(error, ConflictError):
                continue  # it was there already: nothing lost
            lost += 1
            if isinstance(error, ConflictError):
                instance.hosted.engine.counters.conflicts += 1
            elif lost > 20:
                raise
            if lost > 2:
                await asyncio.sleep(random.uniform(0, 0.005 * min(lost, 20)))  # noqa: S311
            continue
        except PayloadTooLargeError as error:
            _take_back(instance, batch[done:at], draft)
            done += await _isolate_too_large(instance, batch[done:at], error)
            continue
        _answer(instance, batch[done:at], draft, saved=saved)
        tell_parked(instance, replayed)
        done = at
        if failure is not None:
            done += await _after_failure(instance, batch[done], failure)


def _may_be_of_a_forgotten_life(instance: Instance) -> bool:
    """Say whether the cached record is so old that its instance may have ended elsewhere and been purged since.

    Numbers begin anew after a purge, so the version alone would not tell a new life from the one that is cached.
    """
    record, engine = instance.record, instance.hosted.engine
    return record is not None and engine.now() - record.updated_at >= engine.settings.retention / 2


def _may_start_unseen(instance: Instance, first: Envelope) -> bool:
    """Say whether to handle a starting event as if nothing were stored: the save fails if anything is."""
    message = first.message
    if instance.unknown is not None or message is None or message.kind != "event" or first.park is not None:
        return False
    if not instance.hosted.starts_unseen or not instance.hosted.saga.may_start(message.event):
        return False
    instance.record, instance.version, instance.epoch = None, 0, 0
    return True


def release(instance: Instance) -> None:
    """Let dispatch look at the outbox."""
    if instance.record is not None and instance.record.outbox:
        instance.hosted.engine.dispatcher.release(instance)


def _live(record: SagaRecord | None) -> bool:
    return record is not None and record.status not in FINAL


def _owes_replay(record: SagaRecord | None) -> bool:
    return record is not None and record.owes_replay


def _draft(instance: Instance) -> Draft:
    hosted = instance.hosted
    engine = hosted.engine
    draft = Draft(
        hosted.saga,
        hosted.registry,
        instance.persistence_id,
        instance.record,
        instance.version,
        engine.now(),
        engine.settings.retention,
    )
    if engine.hooks is not None:
        engine.hooks.watch(instance, draft)
    if instance.accepted:
        draft.accept(instance.accepted)
    return draft


def _step(instance: Instance, draft: Draft, envelope: Envelope, *, fresh: bool) -> Awaitable[None] | None:
    """Run one envelope against the draft; an awaitable where it takes more than a plain handler.

    Where it raises, the draft is as it was before the failed message.
    """
    message = envelope.message
    if message is not None and message.tried:
        # The same message, not another: it is told apart by identity from those that it parks its instance for.
        message.event = _as_it_came(instance, draft, message).event
        message.tried = False
    if message is None or message.at is not None or envelope.park is not None:
        return _long_step(instance, draft, envelope, fresh=fresh)
    outcome = _advance(instance, draft, message)
    if outcome is _HANDLED:
        envelope.decided = _HANDLED
        return None
    if isinstance(outcome, Outcome):
        _decide(instance, draft, envelope, outcome, fresh=fresh)
        return None
    return _decide_later(instance, draft, envelope, outcome, fresh=fresh)


def _as_it_came(instance: Instance, draft: Draft, message: Message) -> Message:
    """Return the message for another attempt: what a handler has changed of its event was not stored, and is not seen."""
    if message.kind != "refused":
        return message.copied()
    entry = message.event.command_id[len(instance.persistence_id) + 1 :]
    command = next((c for c in draft.record.outbox if c.id == entry), None) if draft.record is not None else None
    if command is None:
        return message
    try:
        again = instance.hosted.registry.unpack(command.command)
    except CodecError as error:
        raise _HandlerFailed(message, error) from error
    event = Refused(again, message.event.command_id, message.event.reason)
    return msgspec.structs.replace(message, event=event, tried=False)


async def _decide_later(
    instance: Instance, draft: Draft, envelope: Envelope, outcome: Awaitable[Outcome], *, fresh: bool
) -> None:
    _decide(instance, draft, envelope, await outcome, fresh=fresh)


async def _long_step(instance: Instance, draft: Draft, envelope: Envelope, *, fresh: bool) -> None:
    message = envelope.message
    if envelope.park is not None:
        reason, culprit = envelope.park
        try:
            draft.park(reason, culprit)
        except (DefinitionError, CodecError) as error:  # what cannot be stored cannot be held either
            envelope.decided = error
            return
        if culprit is message:
            envelope.decided = Outcome.HELD
            return
    if envelope.repair is not None:
        try:
            envelope.result = await envelope.repair(draft)
        except UnreadableStateError as error:
            raise unreadable(instance, str(error)) from error
        except (NoInstanceError, RepairError) as error:  # found before the draft was touched
            envelope.decided = error
            return
    elif message is None:
        if envelope.upkeep is Upkeep.CLAIM:
            await _fire(instance, draft, draft.now)
    else:
        if message.at is not None:
            if not draft.knows(message.id):
                await _fire(instance, draft, message.at)
            draft.now = message.at
        outcome = _advance(instance, draft, message)
        _decide(instance, draft, envelope, outcome if isinstance(outcome, Outcome) else await outcome, fresh=fresh)
        return
    envelope.decided = Outcome.HANDLED


def _decide(instance: Instance, draft: Draft, envelope: Envelope, outcome: Outcome, *, fresh: bool) -> None:
    if outcome is not _NO_INSTANCE:
        envelope.decided = outcome
    elif fresh:
        _no_instance(instance, draft, envelope)
    else:
        raise _CacheTooOld


def _advance(instance: Instance, draft: Draft, message: Message) -> Outcome | Awaitable[Outcome]:
    try:
        outcome = advance(draft, message) if draft.watch is None else draft.watch.advance(message)
    except BaseException as error:
        if ends_program(error):
            raise
        raise _failure(instance, message, error) from error
    if outcome is _HANDLED or isinstance(outcome, Outcome):
        return outcome
    return _advance_async(instance, message, outcome)


async def _advance_async(instance: Instance, message: Message, outcome: Awaitable[Outcome]) -> Outcome:
    before = cancellations()
    try:
        with EventHandler(instance):
            return await outcome
    except BaseException as error:
        if passes_through(error, before) and not instance.cancelled_by_its_handler(error):
            raise
        raise _failure(instance, message, error) from error


def _failure(instance: Instance, message: Message, error: BaseException) -> Exception:
    if isinstance(error, UnreadableStateError):
        return unreadable(instance, str(error))
    return _HandlerFailed(message, error)


async def _fire(instance: Instance, draft: Draft, until: datetime) -> None:
    """Fire the timers due at `until` or before, earliest first, also those that are set meanwhile."""
    engine = instance.hosted.engine
    now = draft.now
    for _ in range(_MOST_TIMERS):
        try:
            message = due_timer(draft, until)
        except CodecError as error:
            raise unreadable(instance, str(error)) from error
        if message is None:
            break
        if engine.event_time and message.at is not None:
            draft.now = message.at
        outcome = _advance(instance, draft, message)
        if not isinstance(outcome, Outcome):
            await outcome
    draft.now = now


def _no_instance(instance: Instance, draft: Draft, envelope: Envelope) -> None:
    message = envelope.message
    assert message is not None
    policy = instance.hosted.engine.settings.no_instance
    if message.kind != "event" or policy is NoInstance.IGNORE or (policy is NoInstance.WAIT and _live(draft.record)):
        envelope.decided = Outcome.NO_INSTANCE
    elif policy is NoInstance.RAISE:
        event_type = type(message.event).__name__
        envelope.decided = NoInstanceError(instance.hosted.name, instance.correlation_id, event_type)
    elif instance.hosted.engine.stopping.is_set():  # nobody would wake it up any more
        envelope.decided = RunnerStoppedError(
            "the runner stopped before the event was handled; nothing of it was stored"
        )
    elif envelope.deadline is None or envelope.deadline <= instance.hosted.engine.loop.time():
        envelope.decided = instance.in_vain(envelope)
    else:
        instance.waiting[envelope] = None


def _take_back(instance: Instance, handled: list[Envelope], draft: Draft) -> None:
    """Nothing was stored, or nobody knows: all of it is to be handled again, in the same order.

    That one was to be parked is decided again, too: it may be stored as held already, and repaired since; its timer may
    be cancelled, its instance may have ended.
    """
    if draft.watch is not None:
        draft.watch.taken_back()
    for envelope in handled:
        envelope.decided = envelope.park = None
        envelope.tried()
        instance.waiting.pop(envelope, None)


def _answer(instance: Instance, handled: list[Envelope], draft: Draft, *, saved: bool) -> None:
    """Count and wake the callers; then, and only then, the commands may leave."""
    counters = instance.hosted.engine.counters
    if draft.watch is not None:
        draft.watch.settled()
    for envelope in handled:
        outcome = envelope.decided
        if envelope.message is not None:
            if outcome is _HANDLED:
                counters.handled += 1
            elif outcome is Outcome.DUPLICATE:
                counters.duplicates += 1
            elif outcome is Outcome.HELD:
                counters.held += 1
            elif isinstance(outcome, Outcome):
                counters.ignored += 1
        if envelope.park is not None:
            counters.parked += 1
            reason, message = envelope.park
            log.error(
                "saga %s, id %s is parked: %s",
                instance.hosted.name,
                instance.correlation_id,
                reason,
                extra=instance.about(message_id=message.id),
            )
            if draft.watch is not None:
                draft.watch.parked(reason)
            envelope.park = None
        if outcome is not None and envelope.open:  # None: it waits for a starting event, or is over
            envelope.finish()
    counters.timers += draft.fired
    instance.interrupted = 0
    if saved:
        counters.started += draft.started
        counters.finished += draft.ended
    record = instance.record
    if record is not None and (record.status not in FINAL or not record.drained):
        if record.outbox:
            instance.hosted.engine.dispatcher.release(instance)
    else:
        # Absence is never remembered: another worker may start the instance at any time.
        instance.loaded, instance.record = False, None


async def _isolate_too_large(instance: Instance, handled: list[Envelope], error: PayloadTooLargeError) -> int:
    """Find the message whose step makes the record too large; the others go through. Return how many are done."""
    if len(handled) > 1:
        for envelope in handled:
            await take_turn(instance, [envelope])
        return len(handled)
    (envelope,) = handled
    if envelope.message is not None and envelope.message.kind != "event":
        envelope.park = (str(error), envelope.message)
        return 0
    if envelope.upkeep is not None:
        raise error
    envelope.fail(error)
    return 1


async def _after_failure(instance: Instance, envelope: Envelope, failure: _HandlerFailed) -> bool:
    """Decide about an envelope whose handler failed, tell the sender, try again later, or park; say if it is done."""
    engine = instance.hosted.engine
    message, error = failure.message, failure.error
    event_type = type(message.event).__name__
    if isinstance(error, (DefinitionError, CodecError)):
        if message is envelope.message and message.kind == "event":
            envelope.fail(error)
            return True
        envelope.park = (str(error), message)
        return False
    engine.counters.handler_errors += 1
    envelope.failures += 1
    log.warning(
        "saga %s, id %s: handling %s raised %s (attempt %d)",
        instance.hosted.name,
        instance.correlation_id,
        event_type,
        type(error).__name__,
        envelope.failures,
        extra=instance.about(message_id=message.id),
    )
    wait = engine.settings.handler_retry.wait_seconds(envelope.failures)
    if wait is None:
        reason = f"handling {event_type} raised {type(error).__name__}, {envelope.failures} times"
        envelope.park = (reason, message)
        envelope.failures = 0
        return False
    try:
        await engine.back_off(wait)
    except RunnerStoppedError as stopped:
        envelope.fail(stopped)
        return True
    return False
