"""A step within the caller's own database transaction: the saga and the caller's rows hold together, or not at all.

    handle(event, connection=...) ─► [in_transaction] ─► (the caller commits) ─► load finds it ─► deliver

It uses the load, decide and commit of a round, on the caller's connection and on an `Instance` of its own that no round
knows. Anybody else who changes the instance meanwhile, in this process or another, is a competing writer, and versions
decide. Until the transaction has ended we do not know whether the step holds. So it is kept in `Instance.in_transaction`,
like a write without an answer: the next load finds what landed, and its commands are ours to deliver. If this process dies
first, they become due after the lease, like those of any dead worker.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial

from ..decision.message import Message, Outcome
from ..decision.pages import whole
from ..errors import CodecError, ConflictError, DefinitionError, JournalUnavailableError, PayloadTooLargeError
from ..journal.callers import CallersConnection
from ..journal.protocol import WaitsForWriters
from ..waiting import Attempts, Waiting
from .commit import Write, save_in_transaction, write_of
from .decide import decide, decide_slowly
from .engine import Engine
from .envelope import Envelope, Maintenance
from .failures import as_exception, cancellations, passes_through
from .instance import Instance, Unanswered
from .load import cache_stored, decoded, unreadable
from .replay import tell_parked_again
from .too_large import as_told
from .turn import Turn, begin

_READ_SECONDS = 0.3  # between looks at what is stored, while a transaction seems to be open
_LOST = Waiting(attempts=8, first=0.01, most=2.0)  # against other workers


async def step_in_transaction(instance: Instance, message: Message, connection: CallersConnection) -> Outcome:
    """Handle one message on the caller's connection. What the handler raises reaches the caller; nothing is stored then.

    Raises ConflictError if other workers keep changing the instance; the caller's transaction can still be used.
    """
    attempts = Attempts(_LOST, clock=instance.runtime.engine.loop.time)
    while True:
        try:
            return await _step(instance, message, connection)
        except ConflictError:
            instance.runtime.engine.counters.conflicts += 1
            if not await attempts.wait():
                raise
        message = message.copied()


async def _step(instance: Instance, message: Message, connection: CallersConnection) -> Outcome:
    runtime = instance.runtime
    private = Instance(instance.cache, instance.correlation_id)
    envelope = Envelope(message, seen=True)
    private.put(envelope)
    private.in_transaction = instance.in_transaction
    try:
        await _load(private, connection)
        turn = begin(private, runtime.engine.now())
        if runtime.reservations is not None:  # they hold with the step, or not at all
            within = runtime.reservations.within(connection)
            number, epoch = turn.draft.sequence_nr, private.cached.epoch
            turn.draft.reserve = partial(within.reserve, private.correlation_id, number, epoch)
        await _decided(turn, message)
        outcome = envelope.decided
        if isinstance(outcome, BaseException):
            raise outcome
        assert outcome is not None
        write = write_of(turn, lambda *_: False, lambda *_: False, runtime.engine.now())
        if write is not None:
            if not connection.is_open():
                raise DefinitionError("the transaction on connection= has ended in the meantime; nothing was stored")
            await _write(turn, write, connection)
    except PayloadTooLargeError as error:
        turn.reporter.taken_back()
        raise as_told(turn, message, envelope.decided, error) from error
    finally:
        instance.cache.set_size(private, 0)
    turn.reporter.settled()
    tell_parked_again(instance, turn.replayed)
    if write is not None:
        _await_end(instance, connection, write)
    return outcome


async def _load(private: Instance, connection: CallersConnection) -> None:
    """Take what the transaction sees. Raises SagaParkedError for a record that this code cannot read."""
    runtime, key = private.runtime, private.correlation_id
    saved = await runtime.load_in_transaction(connection, key)
    stored = record = decoded(private, saved)
    if saved is not None and stored is not None and stored.in_pages:
        try:
            record = whole(stored, await runtime.named_by(key, saved, stored, connection))
        except CodecError as error:
            raise unreadable(private, str(error)) from error
    cache_stored(private, saved, stored, record)


async def _decided(turn: Turn, message: Message) -> None:
    """Decide, and raise what the handler raised."""
    cancelled = cancellations()
    try:
        more = decide(turn)
        if more is not None:
            await decide_slowly(turn, more)
    except BaseException as error:
        turn.reporter.taken_back()
        if isinstance(error, Exception) or passes_through(error, cancelled):
            raise
        # It would end the caller's task silently, as if the task had been cancelled.
        raise as_exception(error, f"handling {type(message.event).__name__}") from error
    if turn.failure is not None and turn.failure.message.kept:
        return  # the message itself is handled; the runner goes on with what was kept, tries again, and parks
    if turn.failure is not None:
        turn.reporter.taken_back()
        raise as_exception(turn.failure.error, f"handling {type(message.event).__name__}")


async def _write(turn: Turn, write: Write, connection: CallersConnection) -> None:
    turn.reporter.writing()
    try:
        await save_in_transaction(write, connection)
    except BaseException as error:
        turn.reporter.written(write.version, write.record, error)
        raise
    turn.reporter.written(write.version, write.record, None)


class OpenTransaction:
    """A transaction of a caller and the steps in it so far. One task waits for its end, however many they are."""

    __slots__ = ("connection", "more", "steps")

    def __init__(self, connection: CallersConnection) -> None:
        self.connection: CallersConnection = connection
        self.steps: dict[Instance, list[Unanswered]] = {}
        self.more: asyncio.Event = asyncio.Event()

    def add(self, instance: Instance, step: Unanswered) -> None:
        """Wait for the end of one more step."""
        self.steps.setdefault(instance, []).append(step)
        self.more.set()

    def forget(self, instance: Instance, steps: list[Unanswered]) -> None:
        """Wait no more for these steps of an instance."""
        gone = {id(step) for step in steps}
        instance.in_transaction = tuple(step for step in instance.in_transaction if id(step) not in gone)
        self.steps[instance] = [step for step in self.steps[instance] if id(step) not in gone]
        if not self.steps[instance]:
            del self.steps[instance]


def _await_end(instance: Instance, connection: CallersConnection, write: Write) -> None:
    """Remember what was written until the caller's transaction has ended."""
    entries = write.new_entries
    for earlier in reversed(instance.in_transaction):
        if earlier.version == write.version - 1:  # of the same transaction
            entries |= earlier.new_entries
            break
    step = Unanswered(write.version, write.payload, entries, write.lease_end)
    instance.in_transaction = (*instance.in_transaction, step)
    engine = instance.runtime.engine
    opened = engine.transactions.get(id(connection.driver))
    if opened is None or not opened.connection.is_open():
        opened = engine.transactions[id(connection.driver)] = OpenTransaction(connection)
        engine.spawn(_look_when_ended(engine, opened))
    opened.add(instance, step)


async def _look_when_ended(engine: Engine, opened: OpenTransaction) -> None:
    """Wait until the caller's transaction has ended, then read what is stored and deliver its commands."""
    # Drivers do not say when a transaction ends, so we ask. A lease after its last step, its commands are due anyway.
    looks = Attempts(Waiting(first=0.002, factor=1.5, most=0.05, seconds=engine.seconds.lease), clock=engine.loop.time)
    read_at = engine.loop.time() + _READ_SECONDS
    try:
        while opened.connection.is_open() and not engine.stopping.is_set() and (pause := looks.failed()) is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await opened.more.wait()
                    opened.more.clear()
                    looks.reset()
            # A connection of a pool may be in somebody else's transaction by now, so what is stored is looked at, too.
            if engine.loop.time() >= read_at:
                await _look_at_stored(opened)
                if not opened.steps:
                    return
                read_at = engine.loop.time() + _READ_SECONDS
        for journal in {instance.runtime.journal: None for instance in opened.steps}:
            if isinstance(journal, WaitsForWriters):
                with suppress(JournalUnavailableError):  # then its commands wait for the lease
                    await journal.after_writers()
    except BaseException:
        for instance in list(opened.steps):
            opened.forget(instance, opened.steps[instance])
        raise
    finally:
        if engine.transactions.get(id(opened.connection.driver)) is opened:
            del engine.transactions[id(opened.connection.driver)]
    for instance in opened.steps:
        engine.spawn(_read_at_the_end(opened, instance))


async def _look_at_stored(opened: OpenTransaction) -> None:
    """Forget the steps that are stored: the transaction in which they were has ended.

    Of one transaction all are stored, or none. The first and the last are of one, unless the next one was begun on the
    connection before we noticed the end.
    """
    instances = list(opened.steps)
    for instance in {instances[0]: None, instances[-1]: None}:
        await _read(instance)
        if instance.cached.version >= opened.steps[instance][0].version:
            break
    else:
        return
    await asyncio.gather(*(_read(instance) for instance in instances))
    for instance in instances:
        opened.forget(instance, [step for step in opened.steps[instance] if instance.cached.version >= step.version])


async def _read_at_the_end(opened: OpenTransaction, instance: Instance) -> None:
    try:
        await _read(instance)
    finally:
        opened.forget(instance, opened.steps[instance])


async def _read(instance: Instance) -> None:
    """Read what is stored; if the step is, its commands are delivered."""
    instance.read_again()
    await instance.submit(Envelope(Maintenance.RECORD))
