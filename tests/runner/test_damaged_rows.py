"""Guarantee 12: what another program did to the rows of one instance is the affair of that instance only."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sagalog import (
    InMemoryJournal,
    PersistentRepr,
    RunnerSettings,
    Saga,
    SagalogError,
    SagaParkedError,
    SagaRunner,
    SequenceOutOfOrder,
    SetTimer,
    on,
    open_journal,
    starts,
)


@dataclass
class Begun:
    id: str


@dataclass
class Moved:
    id: str


@dataclass
class Rang:
    id: str


@dataclass
class Heard:
    moved: int = 0
    rang: int = 0


class AlarmSaga(Saga[Heard]):
    name = "alarm"

    @starts(Begun, key="id")
    def begun(self, state: Heard, event: Begun):
        return SetTimer("ring", Rang(event.id), after=timedelta(seconds=0.2))

    @on(Moved, key="id")
    def moved(self, state: Heard, event: Moved) -> None:
        state.moved += 1

    @on(Rang, key="id")
    def rang(self, state: Heard, event: Rang) -> None:
        state.rang += 1


RECORD = (
    "UPDATE record SET {} WHERE record_id = (SELECT record_id FROM instance WHERE persistence_id = 'saga::alarm::bad')"
)
INSTANCE = "UPDATE instance SET {} WHERE persistence_id = 'saga::alarm::bad'"
DAMAGE = {
    "an empty payload": RECORD.format("payload = x''"),
    "a payload that is no JSON": RECORD.format("payload = x'ff'"),
    "a payload that is a text": RECORD.format("payload = 't'"),
    "a payload that is a number": RECORD.format("payload = 5"),
    "no record": RECORD.format("record_id = record_id + 1000"),
    "no label": RECORD.format("label_id = 999"),
    "a number of 0": INSTANCE.format("sequence_nr = 0"),
    "a negative number": INSTANCE.format("sequence_nr = -3"),
    "a number of another record": INSTANCE.format("sequence_nr = 9223372036854775807"),
    "a number that is a text": INSTANCE.format("sequence_nr = 'x'"),
    "an epoch that is a text": INSTANCE.format("epoch = 'x'"),
}
PASSED_OVER = {
    "due before the calendar": INSTANCE.format("due_at = -9223372036854775808"),
    "due behind the calendar": INSTANCE.format("due_at = 9223372036854775807"),
    "due at a text": INSTANCE.format("due_at = 'x'"),
    "due at a fraction": INSTANCE.format("due_at = 1.5"),
    "an id that is no UTF-8": INSTANCE.format("persistence_id = CAST(x'736167613a3a616c61726d3a3aff' AS TEXT)"),
}
QUICK = RunnerSettings(lease=timedelta(milliseconds=500), due_poll=timedelta(milliseconds=50))


async def damaged(folder: Path, statement: str) -> str:
    """Return the URL of a file with five instances, the rows of one of which another program has changed."""
    url = f"sqlite:///{folder / 'journal.db'}"
    async with SagaRunner(url, sagas=[AlarmSaga], client=True) as runner:  # which fires no timer
        for key in ("a", "b", "bad", "c", "d"):
            await runner.handle(Begun(key))
    with closing(sqlite3.connect(folder / "journal.db")) as file, file:
        file.execute(statement)
    return url


async def others_ring(runner: SagaRunner) -> None:
    async with asyncio.timeout(40):
        while runner.counters.timers < 4:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("statement", DAMAGE.values(), ids=DAMAGE)
async def test_it_is_parked_and_seen_and_all_others_go_on(tmp_path: Path, statement: str) -> None:
    async with SagaRunner(await damaged(tmp_path, statement), sagas=[AlarmSaga], settings=QUICK) as runner:
        await others_ring(runner)
        for event in (Moved("bad"), Begun("bad")):
            with pytest.raises(SagaParkedError, match="damaged"):
                await asyncio.wait_for(runner.handle(event), 30)
        assert (await runner.handle(Moved("a"))).handled
        health = await runner.health()
        assert health.ready
        assert any("cannot be read" in reason for reason in health.reasons)


@pytest.mark.parametrize("statement", PASSED_OVER.values(), ids=PASSED_OVER)
async def test_the_others_are_due_all_the_same(tmp_path: Path, statement: str) -> None:
    url = await damaged(tmp_path, statement)
    async with SagaRunner(url, sagas=[AlarmSaga], settings=QUICK) as runner:
        await others_ring(runner)
        assert (await runner.handle(Moved("a"))).handled
        assert (await runner.health()).ready


async def test_what_is_due_at_no_moment_is_told(tmp_path: Path) -> None:
    async with open_journal(await damaged(tmp_path, PASSED_OVER["due behind the calendar"])) as journal:
        (finding,) = [one for one in await journal.examine() if one.name == "due"]  # type: ignore[attr-defined]
    assert finding.level == "warn"
    assert "1 instance is due at a value that is not a time" in finding.text


class Contradicting(InMemoryJournal):
    """Says of each write that another was first, and of each read that nothing has changed."""

    writes = 0

    async def write_batch(self, records: Sequence[PersistentRepr]) -> list[SagalogError | None]:
        self.writes += 1
        return [SequenceOutOfOrder((record.persistence_id,)) for record in records]


@pytest.mark.parametrize("event", [Begun("a"), Moved("a")])
async def test_a_journal_that_contradicts_itself_is_not_asked_without_end(event: Any) -> None:
    journal = Contradicting()
    if isinstance(event, Moved):
        async with SagaRunner(InMemoryJournal(), sagas=[AlarmSaga]) as runner:
            await runner.handle(Begun("a"))
            stored = await runner.journal.latest_message("saga::alarm::a")  # type: ignore[union-attr]
            assert stored is not None
        await journal.write_messages([stored])
    async with SagaRunner(journal, sagas=[AlarmSaga]) as runner:
        with pytest.raises(SagaParkedError, match="contradicts itself"):
            await asyncio.wait_for(runner.handle(event), 40)
    assert journal.writes < 100
