"""Numbered events in the runner: over restarts and workers, with gaps that last, and what an operator does about them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sagalog import (
    Complete,
    EventClock,
    Incoming,
    InMemoryJournal,
    InvalidEventError,
    JournalSagaStateStore,
    ManualClock,
    Outcome,
    RepairError,
    Saga,
    SagaRecord,
    SagaRunner,
    Sequence,
    SqliteJournal,
    on,
    starts,
)
from sagalog.decision.record import decode_record
from sagalog.decision.repair import drop
from sagalog.operating.apply import apply as apply_repair

from ..numbered import Closed, Lost, Measured, Meters, Numbered, Readings
from .conftest import Bench


@pytest.fixture(params=["memory", "sqlite"])
async def two(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    journal: Any = InMemoryJournal() if request.param == "memory" else SqliteJournal(tmp_path / "meters.db")
    yield Bench(journal)
    await journal.close()


@pytest.fixture(autouse=True)
def _nothing_fails() -> None:
    Meters.failing, Meters.flaky = set(), {}


def runner(bench: Bench, **settings: Any) -> SagaRunner:
    return bench.runner(sagas=(Meters,), dispatch=_accept, **settings)


def _accept(command: Any) -> None:
    """Every command is accepted."""


def store(bench: Bench) -> Any:
    return bench.plain if bench.journal is None else JournalSagaStateStore(bench.journal, "numbered")


async def record(bench: Bench) -> SagaRecord:
    saved = await (store(bench).load_with_tombstone("m") if bench.journal is not None else bench.plain.load("m"))
    assert saved is not None
    return decode_record(saved.payload)


async def log(bench: Bench) -> list[str]:
    return Meters().decode_state((await record(bench)).state_bytes()).log


async def send(one: SagaRunner, *numbers: int) -> list[Outcome]:
    outcomes = []
    for n in numbers:
        outcomes.append((await one.handle(Numbered("m", n), message_id=f"m{n}")).outcomes["numbered"])
    return outcomes


async def test_readings_are_handled_in_their_order_over_workers_and_restarts(bench: Bench) -> None:
    async with runner(bench) as one:
        assert await send(one, 3, 1) == [Outcome.KEPT, Outcome.HANDLED]
        await one.handle(Measured("m", "b", 2))
        await one.settle()
    async with runner(bench) as other:
        await other.handle(Measured("m", "b", 1))
        assert await send(other, 3, 2, 2) == [Outcome.DUPLICATE, Outcome.HANDLED, Outcome.DUPLICATE]
        assert (await record(bench)).kept == ()
    assert await log(bench) == ["n1", "b1", "b2", "n2", "n3"]


async def test_a_number_that_does_not_come_parks_and_the_repairs_go_on_without_it_or_wait_again(two: Bench) -> None:
    async with runner(two) as one:
        await send(one, 1, 4)
        two.advance(minutes=11)
        await one.settle()
        assert (await record(two)).parked.startswith("Numbered 2 to 3 did not come within 0:10:00")
        assert one.counters.parked == 1
        assert await send(one, 3) == [Outcome.HELD]
        await one.retry("numbered", "m")
        waiting = await record(two)
        assert (waiting.parked, waiting.gap, [kept.number for kept in waiting.kept]) == ("", "", [4, 3])
        assert list(waiting.timers) == ["gap/Numbered"]
        two.advance(minutes=11)
        await one.settle()
        assert (await record(two)).parked.startswith("Numbered 2 did not come")
        done = await one.skip("numbered", "m")
        assert done.effects[0] == "no longer waits for what is missing of Numbered: continues after it"
        assert await send(one, 2, 3) == [Outcome.IGNORED, Outcome.DUPLICATE]
    assert await log(two) == ["n1", "n3", "n4"]


class Patient(Meters):
    """The same saga in newer code, which waits for a missing number without end."""

    @starts(Numbered, key="meter", sequence="n")
    def numbered(self, state: Readings, event: Numbered) -> None:
        state.log.append(f"n{event.n}")


async def test_a_deadline_that_the_code_has_no_more_parks_and_a_retry_waits_without_end(two: Bench) -> None:
    async with runner(two) as old:
        await send(old, 1, 4)
    async with two.runner(sagas=(Patient,), dispatch=_accept) as one:
        two.advance(minutes=11)
        await one.settle()
        assert (await record(two)).parked == (
            "Numbered 2 to 3 did not come in time: `skip` continues without it, `retry` waits without end"
        )
        await one.retry("numbered", "m")
        waiting = await record(two)
        assert (waiting.parked, waiting.timers) == ("", {})
        assert await send(one, 3, 2) == [Outcome.KEPT, Outcome.HANDLED]
    assert await log(two) == ["n1", "n2", "n3", "n4"]


async def test_a_gap_whose_event_the_saga_handles_is_told_once_whoever_sees_its_deadline(two: Bench) -> None:
    async with runner(two) as one, runner(two) as other:
        await one.handle(Measured("m", "a", 1))
        await other.handle(Measured("m", "a", 4))
        two.advance(minutes=11)
        await one.settle()
        await other.settle()
    assert await log(two) == ["a1", "lost Measured of a 2 to 3", "a4"]


async def test_skip_of_the_event_of_a_gap_goes_on_without_the_missing_numbers(two: Bench) -> None:
    class Failing(Meters):
        name = "numbered"

        @on(Lost, key="meter")
        def lost(self, state: Readings, event: Lost) -> None:
            raise RuntimeError("lost")

    async with two.runner(sagas=(Failing,), dispatch=_accept) as one:
        await one.handle(Measured("m", "a", 1))
        await one.handle(Measured("m", "a", 4))
        two.advance(minutes=11)
        await one.settle()
        assert (await record(two)).parked.startswith("handling Lost raised RuntimeError")
        repaired = await one.skip("numbered", "m")
        assert repaired.effects[1] == "no longer waits for what is missing of Measured/a"
        await one.settle()
        waiting = await record(two)
        assert (waiting.timers, waiting.kept, waiting.skipped) == ({}, (), ("Measured/a/2-3",))
    assert await log(two) == ["a1", "a4"]


async def test_a_failing_one_parks_and_those_behind_it_wait_in_their_order(two: Bench) -> None:
    Meters.failing = {2}
    async with runner(two) as one:
        assert await send(one, 1, 3, 2) == [Outcome.HANDLED, Outcome.KEPT, Outcome.HELD]
        await one.skip("numbered", "m")
        assert await send(one, 2, 4) == [Outcome.DUPLICATE, Outcome.HANDLED]
    assert await log(two) == ["n1", "n3", "n4"], "the number of what was skipped is not waited for"


async def test_an_operator_drops_what_waits_and_its_number_is_not_waited_for_and_passes_over_a_gap(two: Bench) -> None:
    async with runner(two) as one:
        await send(one, 1, 3, 5)
        await one.settle()
        told = await _repaired(two, drop("m3"))
        assert told.effects == ("drops the kept Numbered, message m3; it counts as consumed",)
        await one.settle()
        assert await send(one, 2) == [Outcome.HANDLED]
        with pytest.raises(RepairError, match=r", gap/Numbered, kept Numbered \(m5\)$"):
            await _repaired(two, drop("gap/numbered"))
        told = await _repaired(two, drop("gap/Numbered"))
        assert told.effects == ("no longer waits for what is missing of Numbered: continues after it",)
        await one.settle()
    assert await log(two) == ["n1", "n2", "n5"]


async def test_a_tombstone_knows_the_numbers_of_its_life(two: Bench) -> None:
    async with runner(two) as one:
        await send(one, 1, 2)
        await one.handle(Closed("m"))
        await one.settle()
        ended = await record(two)
        assert (ended.finished, ended.inbox, ended.sequences) == (True, ended.inbox, {"Numbered": 3})
        assert await send(one, 1, 2, 4, 3) == [Outcome.DUPLICATE, Outcome.DUPLICATE, Outcome.KEPT, Outcome.HANDLED]
        assert (await record(two)).incarnation == 2
    assert await log(two) == ["n3", "n4"]


async def test_a_wrong_number_is_refused_before_anything_is_stored(two: Bench) -> None:
    async with runner(two) as one:
        with pytest.raises(InvalidEventError, match="Numbered.n numbers the events"):
            await send(one, 0)
    assert await store(two).load("m") is None


async def test_a_log_in_event_time_fed_twice_and_cut_gives_the_same_readings(tmp_path: Path) -> None:
    start = datetime(2030, 1, 1, tzinfo=UTC)
    order = [2, 1, 5, 3, 9, 7]
    lines = [
        Incoming(Measured("m", "a", n), f"m{n}", start + timedelta(minutes=4 * at)) for at, n in enumerate(order)
    ] + [Incoming(Closed("m"), "end", start + timedelta(hours=2))]
    found = []
    for upto in (len(lines), 3):
        async with SqliteJournal(tmp_path / f"{upto}.db") as journal:
            for part in (lines[:upto], lines):
                async with SagaRunner(journal, sagas=[Meters], dispatch=_accept, clock=EventClock()) as one:
                    await one.handle_many(part)
                    await one.settle()
            saved = await JournalSagaStateStore(journal, "numbered").load_with_tombstone("m")
            assert saved is not None
            found.append(Meters().decode_state(decode_record(saved.payload).state_bytes()).log)
    assert found[0] == found[1]
    assert found[0] == ["a1", "a2", "a3", "lost Measured of a 4", "a5", "lost Measured of a 6", "a7"] + [
        "lost Measured of a 8", "a9",
    ]  # fmt: skip


async def _repaired(bench: Bench, repair: Any) -> Any:
    assert bench.journal is not None
    return await apply_repair(bench.journal, "numbered", "m", repair, now=ManualClock().now())


class Restarting(Saga[Readings]):
    """The numbers begin again with each life."""

    name = "restarting"

    @starts(Numbered, key="meter", sequence=Sequence("n", restarts=True))
    def numbered(self, readings: Readings, event: Numbered) -> None:
        readings.log.append(str(event.n))

    @on(Closed, key="meter")
    def closed(self, readings: Readings, event: Closed) -> Complete:
        return Complete()


async def test_the_numbers_of_the_next_life_are_no_duplicates_to_a_worker_that_knew_the_last_one(two: Bench) -> None:
    async with two.runner(sagas=(Restarting,)) as one, two.runner(sagas=(Restarting,)) as other:
        await one.handle(Numbered("m", 1))
        await other.handle(Numbered("m", 2))
        await one.handle(Closed("m"))
        assert (await one.handle(Numbered("m", 2))).kept
        for n in (4, 3, 1):
            assert not (await other.handle(Numbered("m", n))).duplicate
        assert (await one.state(Restarting, "m")).log == ["1", "2", "3", "4"]
        assert (await other.handle(Numbered("m", 3))).duplicate


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_an_event_of_any_number_begins_the_next_life_where_numbers_restart(bench: Bench, number: int) -> None:
    async with bench.runner(sagas=(Restarting,)) as one:
        for n in (1, 2):
            await one.handle(Numbered("m", n), message_id=f"m{n}")
        await one.handle(Closed("m"))
        assert (await one.handle(Numbered("m", 2), message_id="m2")).duplicate  # of the last life: its id is known
        assert not (await one.handle(Numbered("m", number))).duplicate
        for n in {1, 2, 3} - {number}:
            assert not (await one.handle(Numbered("m", n))).duplicate
        assert (await one.state(Restarting, "m")).log == ["1", "2", "3"]


async def test_a_number_that_was_dropped_elsewhere_is_no_duplicate(two: Bench) -> None:
    async with runner(two) as one, runner(two) as other:
        assert await send(other, 1, 3) == [Outcome.HANDLED, Outcome.KEPT]
        await one.drop(Meters, "m", "m3")
        assert (await other.handle(Numbered("m", 3), message_id="again")).kept
