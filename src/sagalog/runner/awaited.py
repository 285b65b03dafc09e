"""Who waits for an instance to end, and what each makes of a record that is seen of it.

A life is known by its number and by when it began: numbers begin anew when an instance was purged.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from ..decision.ids import prefix_of
from ..decision.record import SagaRecord
from ..errors import NoInstanceError, OutcomeGoneError, SagalogError
from .ended import RecordReader, SagaOutcome


class Waiter:
    """One call that waits for the end of one life. `incarnation` None: the life that is seen first.

    `waits`: also for an instance, or a life of it, that has not begun.
    """

    __slots__ = (
        "_began",
        "_crossed",
        "_found",
        "_number",
        "_reader",
        "correlation_id",
        "future",
        "incarnation",
        "looked",
        "missed",
        "seen",
        "waits",
    )

    def __init__(
        self,
        reader: RecordReader,
        correlation_id: str,
        incarnation: int | None,
        future: asyncio.Future[Any],
        *,
        waits: bool,
    ) -> None:
        self._reader = reader
        self.correlation_id: str = correlation_id
        self.incarnation = incarnation
        self.future: asyncio.Future[Any] = future
        self.waits: bool = waits
        self.looked: bool = False  # its record was looked up since it waits: what is older than the call is not told
        self.missed: bool = False  # a record was written meanwhile
        self._crossed = False  # a record was seen while it was looked up
        self._found = False  # its life has been seen, or a later one
        self._number = 0  # of the newest record that was seen
        self.seen: str = "nothing was known of it"  # what was last known of it, for the error of a timeout
        self._began: datetime | None = None

    @property
    def saga(self) -> str:
        """The name of the saga."""
        return self._reader.name

    @property
    def persistence_id(self) -> str:
        """The id of what it waits for."""
        return prefix_of(self._reader.name) + self.correlation_id

    def looks(self) -> None:
        """The newest record is asked for: `read` will give it, or `damaged`."""
        self.missed = self._crossed = False

    def written(self, record: SagaRecord, number: int) -> None:
        """A record was written, by whomever. One that is not newer than what was seen changes nothing."""
        if not self.looked:
            self.missed = True
        elif number > self._number:
            self._number, self._crossed = number, True
            self._take(record, certain=False)

    def payload_written(self, payload: bytes, number: int, *, deleted: bool) -> None:
        """A record was written, of which only the bytes are known."""
        if self.looked and number <= self._number:
            return
        record = self._decoded(payload, deleted)
        if record is not None:
            self.written(record, number)

    def read(self, payload: bytes | None, number: int, *, deleted: bool) -> None:
        """The newest record was read; None: there is none.

        An answer that was on its way when a newer record was seen tells nothing: the next lookup does.
        """
        if self._crossed and (payload is None or number < self._number):
            self.missed = True
            return
        self.looked = True
        record = None if payload is None else self._decoded(payload, deleted)
        if self.future.done():
            return
        if record is not None:
            self._number = number
            self._take(record, certain=True)
        elif self._found:
            self._gone("it was forgotten after its retention, before its end was seen")
        elif not self.waits:
            self._missing("there is no such instance, or it ended so long ago that it is forgotten")
        else:
            self.seen = "there was no such instance"

    def damaged(self, error: SagalogError) -> None:
        """Its journal cannot read the record."""
        self.looked = True
        self.fail(self._reader.unreadable(self.correlation_id, error))

    def _decoded(self, payload: bytes, deleted: bool) -> SagaRecord | None:
        try:
            return self._reader.record(self.correlation_id, payload, deleted=deleted)
        except SagalogError as error:
            self.fail(error)
            return None

    def fail(self, error: SagalogError) -> None:
        """Tell the caller why nothing will come."""
        if not self.future.done():
            self.future.set_exception(error)

    def _take(self, record: SagaRecord, *, certain: bool) -> None:
        """`certain`: this record is the newest there is."""
        if self.future.done():
            return
        if self.incarnation is None:
            self.incarnation = record.incarnation
        if record.incarnation < self.incarnation:
            if certain:
                self._not_begun(record)
            return
        try:
            outcome = self._outcome(record, certain=certain)
        except SagalogError as error:
            self.fail(error)
            return
        self._found = True
        self.seen = f"it was {record.status.value}" + (", and parked" if record.parked else "")
        if outcome is not None:
            self.future.set_result(outcome)

    def _outcome(self, record: SagaRecord, *, certain: bool) -> SagaOutcome[Any] | None:
        assert self.incarnation is not None
        if record.incarnation == self.incarnation:
            if self._began not in (None, record.started_at):
                if certain:
                    raise self._error(
                        "it was forgotten after its retention, and started again, before its end was seen"
                    )
                self.missed = True  # one of them is of another life: the next lookup tells
                return None
            self._began = record.started_at
            return self._reader.outcome(self.correlation_id, record)
        end = record.last_end
        if record.incarnation > self.incarnation + 1 or (end is not None and self._began not in (None, end.started_at)):
            raise self._error(f"life {record.incarnation} has begun since, and how this one ended is not kept")
        return self._reader.outcome_before(self.correlation_id, record)

    def _not_begun(self, record: SagaRecord) -> None:
        if self._found:
            self._gone("it was forgotten after its retention, and started again, before its end was seen")
        elif not self.waits:
            self._missing(f"life {self.incarnation} has not begun, it is in life {record.incarnation}")
        else:
            self.seen = f"life {self.incarnation} had not begun, it was in life {record.incarnation}"

    def _missing(self, why: str) -> None:
        self.fail(NoInstanceError(self._reader.name, self.correlation_id, "", why))

    def _gone(self, why: str) -> None:
        self.fail(self._error(why))

    def _error(self, why: str) -> OutcomeGoneError:
        return OutcomeGoneError(self._reader.name, self.correlation_id, self.incarnation or 1, why)


class Awaited:
    """All who wait in a runner, by the persistence id of what they wait for."""

    def __init__(self) -> None:
        self.by_id: dict[str, dict[Waiter, None]] = {}

    def __bool__(self) -> bool:
        return bool(self.by_id)

    def add(self, waiter: Waiter) -> None:
        """Let a call wait."""
        self.by_id.setdefault(waiter.persistence_id, {})[waiter] = None

    def remove(self, waiter: Waiter) -> None:
        """Its call is over. Calling it again has no effect."""
        waiters = self.by_id.get(waiter.persistence_id)
        if waiters is not None:
            waiters.pop(waiter, None)
            if not waiters:
                del self.by_id[waiter.persistence_id]

    def written(self, persistence_id: str, record: SagaRecord, number: int) -> None:
        """This runner has stored a record: tell those who wait for its instance."""
        for waiter in list(self.by_id.get(persistence_id, ())):
            waiter.written(record, number)

    def fail_all(self, error: SagalogError) -> None:
        """Tell everybody that nothing more will be known."""
        for waiters in list(self.by_id.values()):
            for waiter in list(waiters):
                waiter.fail(error)
