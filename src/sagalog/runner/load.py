"""The records of all instances that have work and are not cached, in one lookup of the journal.

    queue ─► [load] ─► queue, with `fresh` set

We never guess whether a write without an answer was stored: its version and bytes are kept in `instance.unknown` and
compared with what is read. While the journal does not answer, no caller is told anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..decision.pages import NO_MESSAGES, as_stored, whole
from ..decision.record import SagaRecord, decode_record
from ..errors import (
    CodecError,
    JournalFormatError,
    JournalUnavailableError,
    OutcomeUnknownError,
    SagaParkedError,
)
from ..journal import Journal
from ..journal.state_store import SavedState
from ..journal.store import saved_of
from ..waiting import Attempts, Waiting
from .deliveries import NO_IDS
from .engine import STRETCH_SECONDS, Engine
from .failures import as_exception, not_handled, passes_through
from .instance import Instance

_MAX_LOOKUPS = 4  # at once; instances that come meanwhile share the next one
_AT_ONCE = 256  # records of one lookup
_READING_BACK = Waiting(first=0.1, most=0.5, seconds=15)  # a write without an answer
WhenRead = Callable[[Instance, BaseException | None], None]


class Loader:
    """Reads records; `told` is called for each instance, with the error where it could not be read."""

    def __init__(self, engine: Engine, told: WhenRead) -> None:
        self._engine = engine
        self._told = told
        self._waiting: dict[Journal, list[Instance]] = {}
        self._lookups = 0

    def add(self, instance: Instance) -> None:
        """Read the record of an instance with the next lookup."""
        journal = instance.runtime.journal
        if journal is None or instance.unknown is not None:
            self._engine.spawn(self._read_one(instance))
        else:
            self._waiting.setdefault(journal, []).append(instance)

    def flush(self) -> None:
        """Begin to look up what was added."""
        while self._waiting and self._lookups < _MAX_LOOKUPS:
            journal, waiting = next(iter(self._waiting.items()))
            some = waiting[:_AT_ONCE]
            del waiting[:_AT_ONCE]
            if not waiting:
                del self._waiting[journal]
            self._lookups += 1
            self._engine.spawn(self._read(journal, some))

    async def _read(self, journal: Journal, instances: list[Instance]) -> None:
        time, told = self._engine.loop.time, 0
        for instance in instances:
            instance.read_begins()
        try:
            found = await journal.latest_messages([instance.persistence_id for instance in instances])
            if len(found) != len(instances):
                raise JournalUnavailableError(
                    f"the journal {type(journal).__name__} returned {len(found)} records for {len(instances)} ids"
                )
            give_way_at = time() + STRETCH_SECONDS
            for instance, latest in zip(instances, found, strict=True):
                if time() > give_way_at:
                    await asyncio.sleep(0)
                    give_way_at = time() + STRETCH_SECONDS
                told += 1
                self._take(instance, None if latest is None else saved_of(latest))
        except JournalFormatError:
            for instance in instances[told:]:  # one of them is damaged; the others can be read
                self._engine.spawn(self._read_one(instance))
        except BaseException as error:
            for instance in instances[told:]:
                self._told(instance, _reason(instance, error))
            if passes_through(error):
                raise
        finally:
            self._lookups -= 1
            self.flush()

    async def _read_one(self, instance: Instance) -> None:
        instance.read_begins()
        try:
            saved = await self._stored(instance)
        except BaseException as error:
            reason = _reason(instance, error)
            if isinstance(reason, OutcomeUnknownError):
                instance.take_unknown()
            self._told(instance, reason)
            if passes_through(error):
                raise
        else:
            self._take(instance, saved)

    async def _stored(self, instance: Instance) -> SavedState | None:
        attempts = Attempts(_READING_BACK, clock=self._engine.loop.time)
        while True:
            try:
                return await instance.runtime.load(instance.correlation_id)
            except BaseException as error:  # whatever a store raises, we still have to find out what it holds
                if instance.unknown is None or self._engine.stopping.is_set() or passes_through(error):
                    raise
            if not await attempts.wait():
                raise _nobody_knows(instance)

    def _take(self, instance: Instance, saved: SavedState | None) -> None:
        try:
            record = decoded(instance, saved)
        except SagaParkedError as error:
            self._told(instance, error)
            return
        if saved is not None and record is not None and record.in_pages:
            self._engine.spawn(self._make_whole(instance, saved, record))
            return
        cache_stored(instance, saved, record, record)
        self._told(instance, None)

    async def _make_whole(self, instance: Instance, saved: SavedState, record: SagaRecord) -> None:
        """Read what a record holds in earlier ones. Where one of these is gone, a newer record may not name it any more."""
        try:
            try:
                made_whole = whole(record, await instance.runtime.named_by(instance.correlation_id, saved, record))
            except CodecError as error:
                newest = await self._stored(instance)
                if newest is not None and (newest.version, newest.epoch) == (saved.version, saved.epoch):
                    raise unreadable(instance, str(error)) from error
                self._take(instance, newest)
                return
        except BaseException as error:
            self._told(instance, _reason(instance, error))
            if passes_through(error):
                raise
        else:
            cache_stored(instance, saved, record, made_whole)
            self._told(instance, None)


def _reason(instance: Instance, error: BaseException) -> Exception:
    """Return the error for those who wait for a record that could not be read."""
    if instance.unknown is not None and not isinstance(error, OutcomeUnknownError):
        unknown = _nobody_knows(instance)
        unknown.__cause__ = error
        return unknown
    if isinstance(error, JournalFormatError):
        return unreadable(instance, str(error))
    if not passes_through(error):
        return as_exception(error, "reading a record")
    return not_handled()


def _nobody_knows(instance: Instance) -> OutcomeUnknownError:
    return OutcomeUnknownError(
        f"{instance.persistence_id}: the journal does not answer, so the last step may or may not be stored. "
        "Send the event again under the same message id."
    )


def cache_stored(
    instance: Instance, saved: SavedState | None, stored: SagaRecord | None, record: SagaRecord | None
) -> None:
    """Cache what is stored: `record`. `stored`: the same one, without what it holds in earlier records."""
    if record is not None:
        instance.note_lives(record)
    version, epoch, size, messages = 0, 0, 0, NO_MESSAGES
    if saved is not None:
        version, epoch, size = saved.version, saved.epoch, len(saved.payload)
    if record is not None and (record.held or record.kept) and stored is not None:
        messages = as_stored(stored, record, version, epoch)
        size += sum(page.size for page in (*stored.held_in, *stored.kept_in))
    instance.cache.set_size(instance, size)
    if instance.cached.was_read(record, version, epoch, messages):
        for envelope in instance.mailbox:  # parking was decided on another record, which may hold the message already
            envelope.park = None
    unknown = instance.take_unknown()
    for maybe in (*instance.in_transaction, *instance.may_land, *([unknown] if unknown is not None else ())):
        if saved is not None and (saved.version, saved.payload) == (maybe.version, maybe.payload):
            instance.deliveries.own(maybe.new_entries, maybe.lease_end)
            instance.cached.had_landed(maybe.version)
            instance.answer_as_stored(maybe, is_newest=True)
        elif maybe is unknown and unknown and record is not None and unknown.has_handled(record.inbox):
            instance.answer_as_stored(unknown, is_newest=False)  # it had landed, too, before another worker's
    instance.deliveries.forget_all_but(ids_of(record))


def ids_of(record: SagaRecord | None) -> frozenset[str]:
    """Return the ids of the outbox entries."""
    return frozenset([entry.id for entry in record.outbox]) if record is not None and record.outbox else NO_IDS


def decoded(instance: Instance, saved: SavedState | None) -> SagaRecord | None:
    """Decode what is stored. Raises SagaParkedError for a record that this code cannot read."""
    if saved is None or (saved.tombstone and not saved.payload):
        return None
    try:
        return decode_record(saved.payload)
    except CodecError as error:
        raise unreadable(instance, str(error)) from error


def unreadable(instance: Instance, reason: str) -> SagaParkedError:
    """Park an instance whose record this code cannot read. This is done in memory; what is stored stays as it is."""
    runtime = instance.runtime
    if instance.correlation_id not in runtime.unreadable:
        instance.tell_parked(reason, "is parked, and left as it is stored")
    runtime.unreadable[instance.correlation_id] = reason
    instance.cached.unload()
    return SagaParkedError(runtime.name, instance.correlation_id, reason)
