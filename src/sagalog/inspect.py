"""Looking at sagas without changing them: straight from the journal, streaming, finished ones included."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

import msgspec

from .errors import CodecError
from .journal import Journal, PersistentRepr
from .journal.protocol import all_ids
from .record import SagaRecord, decode_record


class SagaView(msgspec.Struct, frozen=True):
    """One instance as a journal holds it, or one step of its history.

    `record` is None where this code cannot read it: `unreadable` says why. `finished`: it is a tombstone.
    """

    saga: str
    correlation_id: str
    version: int
    record: SagaRecord | None
    finished: bool = False
    unreadable: str = ""
    due_at: datetime | None = None
    writer: str = ""

    @property
    def status(self) -> str:
        """The status to show: parked and unreadable ones are told apart."""
        if self.record is None:
            return "unreadable" if self.unreadable else "finished"
        return "parked" if self.record.parked else self.record.status.value


def view_of(message: PersistentRepr) -> SagaView:
    """Return what a journal's record says about an instance; never raises for what is in it."""
    _, saga, correlation_id = message.persistence_id.split("::", 2)
    record, unreadable = None, ""
    if message.payload:
        try:
            record = decode_record(message.payload)
        except CodecError as error:
            unreadable = str(error)
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


async def instances(
    journal: Journal, saga: str | None = None, *, live: bool = True, finished: bool = False
) -> AsyncIterator[SagaView]:
    """Yield the instances of one saga, or of all, in the journal's order: the live ones, the finished ones, or both."""
    prefix = "saga::" if saga is None else f"saga::{saga}::"
    for deleted in [False] * live + [True] * finished:
        async for persistence_id in all_ids(journal, prefix, deleted=deleted):
            message = await journal.latest_message(persistence_id)
            if message is not None and persistence_id.count("::") >= 2:
                yield view_of(message)


async def find(journal: Journal, correlation_id: str, saga: str | None = None) -> list[SagaView]:
    """Return the instances of that correlation id: at most one where a saga is named, else one of each saga that has it."""
    names = [saga] if saga is not None else await saga_names(journal)
    found = [await journal.latest_message(f"saga::{name}::{correlation_id}") for name in names]
    return [view_of(message) for message in found if message is not None]


async def saga_names(journal: Journal) -> list[str]:
    """Return the names of the sagas that have instances, sorted.

    Where a journal lists its ids in order (`sorted_ids`), this skips from one saga to the next; else it goes through all.
    """
    skips = getattr(journal, "sorted_ids", False)
    names: set[str] = set()
    for deleted in (False, True):
        after = ""
        while page := await journal.ids_by_prefix("saga::", after=after, limit=1 if skips else 10_000, deleted=deleted):
            names.update(persistence_id.split("::", 2)[1] for persistence_id in page)
            # The first text after everything that begins with saga::<name>::
            after = f"saga::{page[0].split('::', 2)[1]}:;" if skips else page[-1]
    return sorted(names)


async def history(journal: Journal, saga: str, correlation_id: str) -> AsyncIterator[SagaView]:
    """Yield the steps that are kept of an instance, oldest first."""
    async for message in journal.replay_messages(f"saga::{saga}::{correlation_id}"):
        yield view_of(message)
