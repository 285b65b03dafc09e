"""Putting instances into the index of their saga that were stored before it had one, or another one.

A step of its own for each that differs, written by compare-and-set: state and all else stay as they are.
"""

from __future__ import annotations

import copy
from datetime import timedelta
from enum import Enum
from typing import Any

from ..decision.record import SagaRecord
from ..decision.state import decode_state
from ..definition.saga import Saga
from ..errors import CodecError, ConflictError, OutcomeUnknownError
from ..journal import Journal
from ..journal.pages import made_whole
from ..journal.store import JournalSagaStateStore
from ..waiting import Attempts
from .apply import RETENTION, WAITING, store_record


class Indexed(Enum):
    """What became of one instance."""

    AS_IT_WAS = "as it was"
    INDEXED = "indexed"
    GONE = "gone"  # it has ended meanwhile
    UNREADABLE = "unreadable"  # by this code


def index_of(saga: Saga[Any], record: SagaRecord) -> dict[str, str | None]:
    """Return what an instance is to be found by, as its saga says now. Raises CodecError for a state it cannot read."""
    if not saga.index:
        return {}
    return type(saga).index_table().texts(decode_state(saga, record), record.phase)


async def reindex(
    journal: Journal,
    saga: Saga[Any],
    correlation_id: str,
    *,
    force: bool = False,
    dry_run: bool = False,
    retention: timedelta = RETENTION,
) -> Indexed:
    """Bring the index of one instance up to date; durable on return.

    `force`: also where the record says that it is, for a journal that has come to have an index since. Raises
    ConflictError if the instance moves on at each attempt, OutcomeUnknownError, JournalUnavailableError.
    """
    store = JournalSagaStateStore(journal, saga.name)
    attempts = Attempts(WAITING)
    while True:
        latest = await journal.latest_message(store.prefix + correlation_id)
        if latest is None or latest.deleted or not latest.payload:
            return Indexed.GONE
        try:
            latest, record = await made_whole(journal, latest)
            index = index_of(saga, record)
        except CodecError:
            return Indexed.UNREADABLE
        if index == record.index and not force:
            return Indexed.AS_IT_WAS
        if dry_run:
            return Indexed.INDEXED
        after = copy.copy(record)
        after.index, after.handled = index, ()
        try:
            await store_record(
                store, correlation_id, latest.sequence_nr, after, latest.due_at, retention, epoch=latest.epoch
            )
        except (ConflictError, OutcomeUnknownError):
            if not await attempts.wait():
                raise
        else:
            return Indexed.INDEXED
