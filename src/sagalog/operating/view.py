"""One instance as a journal holds it, or one step of its history: decoded, and never an error.

a journal's record ─► [view] ─► inspect, steps, stats, the command line, the dashboard
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta

import msgspec

from ..decision import ids as saga_ids
from ..decision.entries import Status
from ..decision.pages import left_of, whole
from ..decision.record import SagaRecord, decode_record
from ..errors import CodecError
from ..journal import Journal, PersistentRepr
from ..journal.pages import is_same, named_by, records_at

OVERDUE_AFTER = timedelta(seconds=15)  # three leases: by then some worker should have taken what is due


class SagaView(msgspec.Struct, frozen=True):
    """One instance as a journal holds it, or one step of its history.

    `record` is None where this code cannot read it: `unreadable` says why. Where only its state or its messages cannot be
    read, `unreadable` says so, and there is a record. `finished`: it is a tombstone.
    """

    saga: str
    correlation_id: str
    version: int
    record: SagaRecord | None
    finished: bool = False
    unreadable: str = ""
    due_at: datetime | None = None
    writer: str = ""
    lost: int = 0  # messages that it holds or keeps in earlier records, and which cannot be read any more

    @property
    def status(self) -> str:
        """The status to show: parked and unreadable ones are told apart."""
        if self.unreadable:
            return "unreadable"
        if self.record is None:
            return "finished"
        return "parked" if self.record.parked else self.record.status.value

    @property
    def phase(self) -> str:
        """The name of its phase, or nothing."""
        return "" if self.record is None else self.record.phase

    @property
    def why(self) -> str:
        """Why it needs an operator, or nothing."""
        record = self.record
        if record is None or self.unreadable:
            return self.unreadable
        if record.status is Status.COMPENSATION_FAILED and not record.parked and record.undo:
            return f"the undo command {record.undo[-1].command.type} was refused"
        return record.parked

    def overdue(self, now: datetime) -> bool:
        """Say whether it needs attention for longer than workers should take to give it."""
        return not self.finished and self.due_at is not None and self.due_at < now - OVERDUE_AFTER

    @property
    def sent(self) -> list[tuple[str, str]]:
        """The commands of this step: entry id and type. A scheduled one is not among them: it is handled, when due."""
        if self.record is None:
            return []
        return [(c.id, c.title) for c in self.record.outbox if c.id.startswith(f"{self.version}/")]


def view_of(message: PersistentRepr) -> SagaView:
    """Return what a journal's record says about an instance; never raises for what is in it."""
    saga, correlation_id = saga_ids.parts_of(message.persistence_id)
    record, unreadable = None, ""
    if message.payload:
        try:
            record = decode_record(message.payload)
            record.state_bytes()
        except CodecError as error:
            unreadable = str(error)
        except (ValueError, OverflowError, TypeError, RecursionError) as error:  # what no decoder was made for
            unreadable = f"its record is damaged ({type(error).__name__})"
    elif not message.deleted:
        unreadable = "its record is empty"
    return SagaView(
        saga,
        correlation_id,
        message.sequence_nr,
        record,
        message.deleted,
        unreadable,
        message.due_at,
        message.writer_uuid,
    )


async def whole_view(journal: Journal, message: PersistentRepr) -> SagaView:
    """Return what the newest record of an instance says, with all its messages; a newer one, if it has moved on meanwhile.

    Where messages that it holds or keeps cannot be read any more it is unreadable, and its record has those that are left.
    """
    while True:
        view = view_of(message)
        record = view.record
        if record is None or not record.in_pages:
            return view
        named = await records_at(journal.replay_messages, message.persistence_id, message.epoch, named_by(record))
        try:
            return msgspec.structs.replace(view, record=whole(record, named))
        except CodecError as error:
            newest = await journal.latest_message(message.persistence_id)
            if newest is None or is_same(newest, message):
                return _with_messages(view, named, unreadable=str(error))
            message = newest


def _with_messages(view: SagaView, named: Mapping[int, SagaRecord], *, unreadable: str = "") -> SagaView:
    """Return a view of a record with its messages, as far as the records that it names are there."""
    stored = view.record
    if stored is None or not stored.in_pages:
        return view
    record = left_of(stored, named)
    lost = stored.held_count - record.held_count + stored.kept_count - record.kept_count
    return msgspec.structs.replace(view, record=record, unreadable=view.unreadable or unreadable, lost=lost)


async def history(journal: Journal, saga: str, correlation_id: str) -> AsyncIterator[SagaView]:
    """Yield the steps that are kept of an instance, oldest first, each with its messages as far as these are kept."""
    named: dict[int, SagaRecord] = {}  # the steps that the next one may name
    async for message in journal.replay_messages(saga_ids.persistence_id(saga, correlation_id)):
        view = view_of(message)
        record = view.record
        if record is None:
            yield view
            continue
        numbers = named_by(record)
        named = {number: named[number] for number in numbers if number in named}
        yield _with_messages(view, named)
        if record.held or record.kept:
            named[view.version] = record


async def steps_between(journal: Journal, persistence_id: str, first: int, last: int) -> dict[int, SagaView]:
    """Return the steps with these numbers, both inclusive, each with its messages as far as these are kept."""
    messages = [message async for message in journal.replay_messages(persistence_id, first, last)]
    views = {message.sequence_nr: view_of(message) for message in messages}
    named = {version: view.record for version, view in views.items() if view.record is not None}
    more = [number for number in named_by(*named.values()) if number not in views]
    if more:
        named.update(await records_at(journal.replay_messages, persistence_id, messages[-1].epoch, more))
    return {version: _with_messages(view, named) for version, view in views.items()}
