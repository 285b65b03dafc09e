"""Repairing an instance straight in its journal: from a terminal or a page, without the saga's code, beside its workers.

    apply(journal, saga, id, repair) ─► load ─► Repair.decide ─► save (compare-and-set, due at once) ─► any worker

A concurrent step is never overwritten: whoever loses looks at what is there now and decides again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count

from ..decision import ids
from ..decision.entries import Audit, Command
from ..decision.record import SagaRecord, decode_record, encode_record
from ..decision.repair import Repair, resend
from ..errors import (
    CodecError,
    ConflictError,
    JournalUnavailableError,
    NoInstanceError,
    OutcomeUnknownError,
    RepairError,
    SagaParkedError,
)
from ..journal import Journal, PersistentRepr
from ..journal.pages import made_whole
from ..journal.protocol import server_now
from ..journal.store import JournalSagaStateStore
from ..waiting import Attempts, Waiting

RETENTION = timedelta(days=7)  # as long as RunnerSettings has it, unless told otherwise
NOT_THERE = "there is no such instance; nothing was stored"
HAS_ENDED = "it has ended; nothing was stored"
WAITING = Waiting(attempts=50, first=0.005, most=0.5, seconds=30.0)


@dataclass(frozen=True, slots=True)
class Applied:
    """What a repair has changed, or would change; `version` is that of `after`, and of `before` where nothing is saved.

    `effects`: plain sentences without payloads, to be printed cleaned: ids are in them.
    """

    saga: str
    correlation_id: str
    action: str
    version: int
    before: SagaRecord
    after: SagaRecord
    effects: tuple[str, ...]

    @property
    def changes(self) -> bool:
        """There is something to repair."""
        return self.after is not self.before


async def apply(
    journal: Journal,
    saga: str,
    correlation_id: str,
    repair: Repair,
    *,
    expected_version: int | None = None,
    dry_run: bool = False,
    retention: timedelta = RETENTION,
    now: datetime | None = None,
    waiting: Waiting = WAITING,
) -> Applied:
    """Repair an instance; durable on return. What is held then is replayed by the next worker that looks for due work.

    With `dry_run` nothing is saved. With `expected_version` only that version is repaired; without, whatever is there
    when it is saved. `retention`: how long the message ids stay known of an instance that this ends. `now`: the moment to
    write down; by default that of the journal's server, or of this machine. `waiting`: how often it is tried again where
    the instance moves on each time, or the journal does not answer.

    Raises:
        NoInstanceError: nothing live is stored under that id.
        RepairError: this repair cannot be made as the instance stands.
        SagaParkedError: the stored record is damaged, or of a newer version.
        CodecError: the note or the name is not valid Unicode.
        ConflictError: the version is not the expected one (any more), or it moves on at each attempt. Nothing was stored,
            as with all of the above.
        OutcomeUnknownError: it may be stored; `show` tells.
    """
    store = JournalSagaStateStore(journal, saga)
    at = now or await server_now(journal)
    tried: tuple[Applied, Audit] | None = None
    attempts = Attempts(waiting)
    while True:
        try:
            before, version, due_at, epoch = await _load(journal, saga, correlation_id, repair)
        except JournalUnavailableError as error:
            if tried is None:
                raise
            raise OutcomeUnknownError(
                f"{store.prefix}{correlation_id}: the journal stopped answering during the repair {repair.action!r}, "
                "which may or may not be stored: look at the instance before you repeat it"
            ) from error
        if tried is not None and tried[1] in before.audit:  # the save that nobody answered for
            return tried[0]
        if expected_version not in (None, version):
            raise ConflictError(store.prefix + correlation_id, expected_version)
        decision = repair.decide(before, _ids(version + 1), at, store.prefix + correlation_id)
        after = decision.record
        changes = after is not before
        applied = Applied(saga, correlation_id, repair.action, version + changes, before, after, decision.effects)
        if dry_run or not changes:
            return applied
        after.handled = ()
        try:
            due_at = _due(before, after, due_at, at)
            await store_record(store, correlation_id, version, after, due_at, retention, epoch=epoch)
        except ConflictError:
            if expected_version is not None and tried is None:
                raise
            if not await attempts.wait():
                raise
        except OutcomeUnknownError:
            tried = applied, after.audit[-1]
            if not await attempts.wait():
                raise
        else:
            return applied


async def store_record(
    store: JournalSagaStateStore,
    correlation_id: str,
    version: int,
    after: SagaRecord,
    due_at: datetime | None,
    retention: timedelta,
    *,
    epoch: int,
) -> int:
    """Store a record behind that version, as a tombstone if it has finished, and return its number.

    Raises ConflictError if another is the newest by now, or the instance was purged and began anew; nothing was stored.
    """
    payload = encode_record(after)
    if not after.finished:
        terms = after.terms(store.saga_name)
        return await store.save(
            correlation_id, payload, expected_version=version, due_at=due_at, epoch=epoch, terms=terms
        )
    purge_at = after.updated_at + retention
    return await store.delete_until(
        correlation_id, expected_version=version, tombstone=payload, purge_at=purge_at, epoch=epoch
    )


async def find_command(journal: Journal, saga: str, correlation_id: str, command_id: str) -> Command:
    """Return a command of that instance's kept history, by its full id or `<sequence nr>/<index>`.

    Raises RepairError if history does not have it (any more).
    """
    persistence_id = ids.persistence_id(saga, correlation_id)
    entry = entry_named(saga, correlation_id, command_id)
    if re.fullmatch(r"[0-9]{1,18}/[0-9]{1,18}", entry):
        # Its own step is the first that can have it; a scheduled command comes in the step at which it is due.
        async for message in journal.replay_messages(persistence_id, int(entry.partition("/")[0])):
            for command in _outbox(message):
                if command.id == entry:
                    return command
    raise RepairError(
        f"{entry!r} is not a command in the kept history of saga {saga!r}, id {correlation_id!r}: `sagalog history` "
        "shows what was sent; nothing was stored"
    )


def entry_named(saga: str, correlation_id: str, command_id: str) -> str:
    """Return the number of a command or timer (`<sequence nr>/<index>`) that is named so, or by its full id."""
    return command_id.removeprefix(f"{ids.persistence_id(saga, correlation_id)}/")


async def resending(
    journal: Journal, saga: str, correlation_id: str, command_id: str, *, note: str = "", by: str = ""
) -> Repair:
    """Return the repair that sends a command of the kept history again. Raises RepairError if it is not there."""
    command = await find_command(journal, saga, correlation_id, command_id)
    return resend(command, note=note, by=by)


async def _load(
    journal: Journal, saga: str, correlation_id: str, repair: Repair
) -> tuple[SagaRecord, int, datetime | None, int]:
    message = await journal.latest_message(ids.persistence_id(saga, correlation_id))
    if message is None:
        raise NoInstanceError(saga, correlation_id, "", NOT_THERE)
    if message.deleted and not (repair.on_finished and message.payload):
        raise NoInstanceError(saga, correlation_id, "", HAS_ENDED)
    if not message.payload:  # as an import that was interrupted leaves it
        raise NoInstanceError(saga, correlation_id, "", "its record is empty; nothing was stored")
    try:
        message, record = await made_whole(journal, message)
    except CodecError as error:
        mend = "`sagalog edit --record` corrects it, `sagalog drop` ends it"
        raise SagaParkedError(saga, correlation_id, f"{error}; {mend}") from error
    if record.finished and not repair.on_finished:  # in a store without tombstones
        raise NoInstanceError(saga, correlation_id, "", HAS_ENDED)
    return record, message.sequence_nr, message.due_at, message.epoch


def _outbox(message: PersistentRepr) -> tuple[Command, ...]:
    try:
        return decode_record(message.payload).outbox if message.payload else ()
    except CodecError:  # `history` shows it as unreadable; the command may stand in another record
        return ()


def _ids(sequence_nr: int) -> Callable[[], str]:
    indexes = count()
    return lambda: ids.entry_id(sequence_nr, next(indexes))


def _due(before: SagaRecord, after: SagaRecord, due_at: datetime | None, now: datetime) -> datetime | None:
    """Return now, where the repair left something to do. Else the next timer, or what was due for the outbox before.

    The lease of a worker that delivers is not ended by an edit: others wait for it as before.
    """
    delivers = after.owes_delivery
    if after.owes_replay or after.owes_waking or (delivers and (before.stuck or after.outbox != before.outbox)):
        return now
    timer = after.next_timer_at
    return (due_at or now) if delivers else timer
