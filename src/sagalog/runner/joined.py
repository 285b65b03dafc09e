"""A step within the caller's own database transaction: the saga and the caller's rows hold together, or not at all.

    handle(event, connection=...) ─► [joined] ─► (the caller commits) ─► load finds it ─► dispatch

It passes no mailbox: whoever else changes the instance meanwhile, in this process or another, is told apart by version,
as two workers are. Whether the step holds is not known here until the transaction has ended, so it is kept in
`instance.joined`, like a save whose answer is missing: the next load finds what landed, and makes its commands ours to
deliver. If this process dies first, they come up as due after the lease, as those of any dead worker.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

from ..decision.advance import UnreadableStateError
from ..decision.draft import Draft
from ..decision.message import Message, Outcome
from ..errors import ConflictError, NoInstanceError
from ..journal.store import new_epoch
from .commit import due_moments, fresh_entries
from .context import EventHandler
from .envelope import Envelope, Upkeep
from .failures import as_exception, cancellations, passes_through
from .load import decoded, unreadable
from .queue import Instance
from .replay import replay_held, tell_parked
from .settings import NoInstance

_TRIES = 8


async def take_joined_step(instance: Instance, message: Message, connection: Any) -> Outcome:
    """Handle one message on the caller's connection. What the handler raises reaches the caller; nothing is stored then.

    Raises ConflictError if another worker's change stays in the way; the caller's transaction is usable still.
    """
    for attempt in range(1, _TRIES + 1):
        try:
            return await _step(instance, message, connection)
        except ConflictError:
            if attempt == _TRIES:
                raise
            instance.hosted.engine.counters.conflicts += 1
            message = message.copied()
            await asyncio.sleep(random.uniform(0.001, 0.01) * 2**attempt)  # noqa: S311
    raise AssertionError("unreachable")


async def _step(instance: Instance, message: Message, connection: Any) -> Outcome:
    hosted = instance.hosted
    engine = hosted.engine
    saved = await hosted.load_within(connection, instance.correlation_id)
    before = decoded(instance, saved)
    version = saved.version if saved is not None else 0
    draft = Draft(
        hosted.saga,
        hosted.registry,
        instance.persistence_id,
        before,
        version,
        engine.now(),
        engine.settings.retention,
    )
    watch = engine.hooks.watch(hosted.name, instance.correlation_id, unseen=False)
    replayed = await replay_held(instance, draft, watch)
    cancelled = cancellations()
    try:
        outcome = watch.advance(draft, message)
        if not isinstance(outcome, Outcome):
            with EventHandler(instance):
                outcome = await outcome
    except UnreadableStateError as error:
        raise unreadable(instance, str(error)) from error
    except BaseException as error:
        if isinstance(error, Exception) or passes_through(error, cancelled):
            raise
        # It would end the caller's task in silence, as if that had been cancelled.
        raise as_exception(error, f"handling {type(message.event).__name__}") from error
    if outcome is Outcome.NO_INSTANCE and engine.settings.no_instance is not NoInstance.IGNORE:
        watch.settled()
        raise NoInstanceError(hosted.name, instance.correlation_id, type(message.event).__name__)
    record = draft.frozen()
    if not draft.changed or record is None:
        watch.settled()
        return outcome
    payload = hosted.encode(record)
    _, due_at = due_moments(instance, record, engine.now())
    epoch = saved.epoch if saved is not None else new_epoch()
    watch.writing()
    try:
        stored = await hosted.save_within(connection, instance.correlation_id, record, payload, version, due_at, epoch)
    except BaseException as error:
        watch.written(version + 1, record, error)
        raise
    watch.written(stored, record, None)
    watch.settled()
    tell_parked(instance, replayed)
    fresh = fresh_entries(before, record)
    for earlier in instance.joined:  # of the same transaction
        if earlier[0] == version:
            fresh |= earlier[2]
    entry = (stored, payload, fresh)
    instance.joined = (*instance.joined, entry)
    engine.spawn(_look_when_ended(instance, connection, entry))
    return outcome


async def _look_when_ended(instance: Instance, connection: Any, entry: tuple[int, bytes, frozenset[str]]) -> None:
    """Wait until the caller's transaction has ended, then see what it left, and deliver its commands."""
    engine = instance.hosted.engine
    give_up = engine.loop.time() + engine.settings.lease_seconds  # then they come up as due
    pause = 0.002
    while in_transaction(connection) and engine.loop.time() < give_up and not engine.stopping.is_set():
        await asyncio.sleep(pause)  # drivers tell nobody when a transaction ends
        pause = min(pause * 1.5, 0.05)
    try:
        instance.read_again()
        await instance.submit(Envelope(upkeep=Upkeep.RECORD))
    finally:
        instance.joined = tuple(other for other in instance.joined if other is not entry)


def in_transaction(connection: Any) -> bool:
    """Say whether a transaction is open on a connection of the caller."""
    try:
        return bool(connection.is_in_transaction())
    except Exception:  # given back to its pool, or closed: ended
        return False
