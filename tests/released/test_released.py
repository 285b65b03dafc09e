"""What every released version has stored is read by this one, and goes on: see the promise in docs/stability.md."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import sagalog
from sagalog import (
    InMemoryJournal,
    Journal,
    ManualClock,
    Outcome,
    RunnerSettings,
    SagaRunner,
    SqliteJournal,
    Status,
    open_journal,
)
from sagalog.decision.record import decode_record
from sagalog.journal import migrate_journal
from sagalog.operating.transfer import Brought, bring, read_export
from sagalog.waiting import Attempts, Waiting

from . import sagas
from .seen import seen

RELEASES = sorted((Path(__file__).parents[1] / "fixtures" / "released").iterdir())
_schemas = count(1)
each = pytest.mark.parametrize("release", RELEASES, ids=lambda folder: folder.name)


def told(release: Path) -> dict[str, Any]:
    """Return what the released version has seen in its journal."""
    found: dict[str, Any] = json.loads((release / "seen.json").read_text())
    return found


def sagas_of(found: dict[str, Any]) -> dict[str, Any]:
    """Leave out the keys: an export has those that are held, and not what an ended instance has left."""
    return {name: one for name, one in found.items() if name.startswith("saga::")}


async def in_memory(release: Path) -> Journal:
    journal = InMemoryJournal()
    for records in read_export((release / "export.jsonl").read_bytes().splitlines(keepends=True)):
        assert await bring(journal, records) is Brought.IMPORTED
    return journal


async def connected(url: str) -> Any:
    attempts = Attempts(Waiting(seconds=60))
    while True:
        try:
            return await asyncpg.connect(url)
        except asyncpg.CannotConnectNowError:  # it is just starting
            if not await attempts.wait():
                raise


@asynccontextmanager
async def in_postgres(release: Path, url: str) -> AsyncIterator[str]:
    """Make the tables as that version made them, with their rows; give the URL of that schema."""
    schema = f"released_{next(_schemas)}"
    connection = await connected(url)
    try:
        await connection.execute(f"CREATE SCHEMA {schema}")
        await connection.execute((release / "postgres.sql").read_text().replace("{s}", schema))
        yield f"{url}?schema={schema}"
    finally:
        await connection.execute(f"DROP SCHEMA {schema} CASCADE")
        await connection.close()


def test_this_version_has_its_fixtures() -> None:
    assert sagalog.__version__ in [one.name for one in RELEASES], "run scripts/released_fixtures.py"


@each
def test_each_record_of_each_step_is_read(release: Path) -> None:
    read = 0
    for records in read_export((release / "export.jsonl").read_bytes().splitlines(keepends=True)):
        for one in records:
            if one.persistence_id.startswith("saga::"):
                assert decode_record(one.payload).started_by
                read += 1
    assert read > 30


@each
async def test_a_sqlite_file_has_everything_as_it_was(release: Path, tmp_path: Path) -> None:
    shutil.copy(release / "orders.db", tmp_path / "orders.db")
    async with SqliteJournal(tmp_path / "orders.db") as journal:
        assert await seen(journal) == told(release)


@each
async def test_an_export_has_everything_as_it_was(release: Path) -> None:
    assert sagas_of(await seen(await in_memory(release))) == sagas_of(told(release))


@each
async def test_the_tables_of_postgresql_are_migrated_and_have_everything_as_it_was(
    release: Path, postgres_url: str
) -> None:
    async with in_postgres(release, postgres_url) as url:
        await migrate_journal(url)
        async with open_journal(url) as journal:
            assert sagas_of(await seen(journal)) == sagas_of(told(release))
            await goes_on(journal, release)


@each
async def test_a_sqlite_file_goes_on(release: Path, tmp_path: Path) -> None:
    shutil.copy(release / "orders.db", tmp_path / "orders.db")
    async with SqliteJournal(tmp_path / "orders.db") as journal:
        await goes_on(journal, release)


@each
async def test_an_import_goes_on(release: Path) -> None:
    await goes_on(await in_memory(release), release)


async def goes_on(journal: Journal, release: Path) -> None:
    """Run this version's code on it: what was undelivered leaves, what was parked is mended, what was kept is handled."""
    begun = max(
        datetime.fromisoformat(one["record"]["updated_at"]) for one in told(release).values() if "record" in one
    )
    clock, outside = ManualClock(begun), sagas.Outside(away=False)
    settings = RunnerSettings(retention=timedelta(days=3650))
    mended = type("Mended", (sagas.OrderSaga,), {"mended": True})
    free = type("Free", (sagas.TripSaga,), {"full": False})
    async with SagaRunner(
        journal,
        sagas=[mended, sagas.PhaseSaga, sagas.ParcelsSaga, free],
        dispatch=outside,
        clock=clock,
        settings=settings,
    ) as runner:
        clock.advance(timedelta(minutes=10))  # leases of the workers of then have ended
        await runner.settle()
        assert sagas.Ship("undelivered") in outside.done  # under its id, which was stored
        trip = await runner.outcome(free, "running")
        assert (trip.status, trip.state.flight, trip.state.hotel) == (Status.COMPLETED, "LH1", "Ritz")

        parcels = await runner.state(sagas.ParcelsSaga, "running")
        assert (parcels.log[0], parcels.log[-1]) == ("running", "all shipped")
        assert sorted(parcels.log[1:-1]) == [f"parcel {n}" for n in range(5)]
        parked = await runner.instance(mended, "parked")
        assert parked.parked
        await runner.retry(mended, "parked", note="the code is mended")
        assert (await runner.state(mended, "parked")).log == ["placed", "mended", "paid 100"]

        finished = await runner.outcome(mended, "finished")
        assert (finished.status, finished.result) == (Status.COMPLETED, {"how": "done"})
        again = await runner.handle(sagas.Closed("finished"), message_id=told_id(sagas.Closed("finished")))
        assert again.outcomes["released-order"] is Outcome.DUPLICATE
        for ended in ("compensated", "refused", "cancelled"):
            assert (await runner.outcome(mended, ended)).status in (Status.COMPENSATED, Status.CANCELLED)

        await runner.handle(sagas.Reading("running", 2))  # closes the gap
        await runner.handle(sagas.Paid("running"))  # the phase that an event was kept for
        await runner.handle(sagas.Closed("running"))  # the other leg of a join; and the order
        await runner.settle()
        phases = await runner.outcome(sagas.PhaseSaga, "running")
        assert phases.state.log == [
            "placed",
            "reading 1",
            "late",
            "reading 2",
            "reading 3",
            "shipped 7",
            "closed",
            "both",
        ]

        for event in (sagas.Late("running's child"), sagas.Closed("running's child")):
            await runner.handle(event)
        await runner.settle()
        assert (await runner.outcome(sagas.ParcelsSaga, "running")).state.log[-1] == "child completed"

        clock.advance(timedelta(days=31))
        await runner.settle()
        assert (await runner.state(mended, "undelivered")).log == [
            "placed",
            "paid 100",
            "late",
            "late",
        ]  # no answer in time, and the timer
        found = [one.correlation_id async for one in runner.find(mended, customer="customer of parked")]
        assert found == ["parked"]
        assert [one.correlation_id async for one in runner.find(mended, seat="seat of parked")] == ["parked"]


def told_id(event: Any) -> str:
    """Return the message id that the fixtures give an event."""
    return f"{type(event).__name__} {json.dumps(vars(event))}"
