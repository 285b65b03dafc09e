"""A runner says whether it is alive and keeps up, by really asking, and says what is wrong."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from sagalog import (
    EventClock,
    Health,
    InMemoryJournal,
    JournalSagaStateStore,
    JournalUnavailableError,
    PersistentRepr,
    RunnerSettings,
    SagaRunner,
)

from ..orders import OrderSaga, Placed
from ..shipping import Shipping
from ..ticking import TickSaga
from .conftest import Bench, FourMethodStore, Gate
from .test_workers import until

NOT_STARTED = Health(live=True, ready=False, reasons=("the runner is not started, or has stopped",))


async def test_a_runner_that_keeps_up_is_live_and_ready(bench: Bench) -> None:
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
        health = await runner.health()
    assert (health.live, health.ready, health.reasons, health.oldest_due_seconds) == (True, True, (), 0.0)
    assert health.journal_seconds is not None
    assert health.journal_seconds >= 0


class Sick(InMemoryJournal):
    """A journal that fails or hangs where a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()

    async def _ail(self) -> None:
        await self.answers.wait()
        if self.error is not None:
            raise self.error

    async def due_ids(self, prefix: str, before: datetime, *, limit: int = 1000) -> list[tuple[str, datetime]]:
        await self._ail()
        return await super().due_ids(prefix, before, limit=limit)


def sick() -> Bench:
    return Bench(Sick())


async def test_a_journal_that_does_not_answer_makes_it_not_ready_and_the_answer_comes_in_time() -> None:
    bench = sick()
    async with bench.runner() as runner:
        bench.journal.answers.clear()  # type: ignore[union-attr]
        health = await runner.health(timeout=timedelta(milliseconds=10))
        bench.journal.answers.set()  # type: ignore[union-attr]
        assert health == Health(live=True, ready=False, reasons=("the journal has not answered for 0.01 s",))
        assert (await runner.health()).ready


async def test_a_journal_that_is_down_is_named_and_its_return_is_noticed() -> None:
    bench = sick()
    async with bench.runner(due_poll=timedelta(milliseconds=5)) as runner:
        bench.journal.error = JournalUnavailableError("PostgreSQL db/shop is down")  # type: ignore[union-attr]
        assert runner._started is not None
        loop = runner._started.due_loop
        await until(lambda: loop.trouble)
        health = await runner.health()
        assert (health.live, health.ready, health.oldest_due_seconds) == (True, False, None)
        assert health.reasons == (
            "the journal does not answer: PostgreSQL db/shop is down",
            "looking for due work fails: PostgreSQL db/shop is down",
        )
        bench.journal.error = None  # type: ignore[union-attr]
        await until(lambda: not loop.trouble)
        assert (await runner.health()).ready


async def test_what_an_error_of_a_store_says_is_not_repeated() -> None:
    class Odd(FourMethodStore):
        async def load(self, correlation_id: str) -> Any:
            raise RuntimeError("password=hunter2")

    async with SagaRunner(Odd(), sagas=[OrderSaga]) as runner:
        health = await runner.health()
    assert (health.ready, health.reasons) == (False, ("the journal does not answer: RuntimeError",))


async def test_work_that_nobody_claims_makes_it_not_ready_after_some_leases(shared: Bench) -> None:
    assert shared.journal is not None

    class Deaf(Gate):
        """Its claims give nothing, as if all workers were hung; asking what is due still tells."""

        async def claim(self, *_: Any, **__: Any) -> list[tuple[str, datetime]]:
            return []

    store = Deaf(JournalSagaStateStore(shared.journal, "order"))
    async with shared.runner(store, lease=timedelta(seconds=5)) as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
        shared.advance(minutes=15, seconds=29)
        assert (await runner.health()).ready
        shared.advance(seconds=2)
        health = await runner.health()
        assert (health.live, health.ready, health.oldest_due_seconds) == (True, False, 31.0)
        assert health.reasons == ("due work is falling behind: the oldest has been due for 31 s",)
        assert (await runner.health(behind=timedelta(seconds=60), timeout=timedelta(seconds=40))).ready
        async with shared.runner() as other:
            await other.settle()
        assert (await runner.health()).ready


async def test_a_due_loop_that_died_is_not_live_and_is_logged_and_the_runner_still_stops(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = sick()

    bug = ValueError("a bug, which quotes a secret")

    async def die(_: datetime) -> None:
        raise bug

    async with bench.runner(due_poll=timedelta(milliseconds=5)) as runner:
        assert runner._started is not None
        runner._started.due_loop._sleep = die  # type: ignore[method-assign]
        await asyncio.wait([runner._started.due_task])
        health = await runner.health()
        assert (health.live, health.ready) == (False, False)
        assert health.reasons == ("the loop that looks for due work has ended: restart this process",)
    assert await runner.health() == NOT_STARTED
    (record,) = caplog.records
    assert record.levelno == logging.CRITICAL
    assert "secret" not in logging.Formatter().format(record)


async def test_a_store_that_raises_anything_does_not_end_the_due_loop(caplog: pytest.LogCaptureFixture) -> None:
    bench = sick()
    async with bench.runner(due_poll=timedelta(milliseconds=5)) as runner:
        bench.journal.error = ValueError("a bug, which quotes a secret")  # type: ignore[union-attr]
        assert runner._started is not None
        loop = runner._started.due_loop
        await until(lambda: loop.trouble != "")
        health = await runner.health()
        assert (health.live, health.ready) == (True, False)
        assert "secret" not in str(health)
        bench.journal.error = None  # type: ignore[union-attr]
        await until(lambda: loop.trouble == "")
        assert (await runner.health()).ready
    assert len(caplog.records) == 1  # said once, not at each look


class Refusing(Sick):
    """One that refuses to be read at all, and counts."""

    refused = 0

    async def _ail(self) -> None:
        self.refused += self.error is not None
        await super()._ail()

    async def latest_messages(self, persistence_ids: Sequence[str]) -> list[PersistentRepr | None]:
        await self._ail()
        return await super().latest_messages(persistence_ids)

    async def claim_due(
        self, prefix: str, before: datetime, until: datetime, *, limit: int = 1000
    ) -> list[tuple[str, datetime]]:
        await self._ail()
        return await super().claim_due(prefix, before, until, limit=limit)


async def test_a_journal_that_is_away_is_logged_once_a_minute_however_many_sagas_there_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = Refusing()
    settings = RunnerSettings(due_poll=timedelta(milliseconds=5))
    away = JournalUnavailableError("it is away")
    async with SagaRunner(journal, sagas=[OrderSaga, TickSaga, Shipping], dispatch=print, settings=settings) as runner:
        for _ in range(2):  # what is over and comes again is news
            refused, journal.error = journal.refused, away
            await until(lambda before=refused: journal.refused - before >= 40)  # type: ignore[misc]
            journal.error = None
            assert runner._started is not None
            await until(lambda: runner._started.due_loop.trouble == "")  # type: ignore[union-attr]
    logged = Counter(record.getMessage() for record in caplog.records)
    assert logged == {
        "reading what is paused failed: it is away": 2,
        **{f"saga {saga.name}: looking for due work failed: it is away": 2 for saga in runner.sagas},
    }


async def test_a_due_loop_that_hangs_is_not_ready_although_the_journal_answers() -> None:
    bench, go = sick(), asyncio.Event()

    async def hang(*_: Any, **__: Any) -> list[tuple[str, datetime]]:
        await go.wait()
        return []

    async with bench.runner(due_poll=timedelta(milliseconds=5)) as runner:
        bench.journal.claim_due = hang  # type: ignore[union-attr, method-assign]
        assert runner._started is not None
        engine = runner._started.engine
        await until(lambda: engine.loop.time() - runner._started.due_loop.scanned_at > 0.02)
        health = await runner.health(behind=timedelta(0))
        assert (health.live, health.ready) == (True, False)
        assert health.reasons == ("due work has not been looked for since 0 s",)
        assert (await runner.health(behind=timedelta(seconds=3600))).ready
        go.set()


async def test_before_the_start_while_stopping_and_after_the_stop_it_is_live_and_not_ready() -> None:
    bench = Bench(InMemoryJournal())
    hold, entered = asyncio.Event(), asyncio.Event()

    async def slow(command: Any) -> None:
        entered.set()
        await hold.wait()

    runner = bench.runner(dispatch=slow)
    assert await runner.health() == NOT_STARTED
    await runner.start()
    await runner.handle(Placed("a"))
    await entered.wait()
    stopping = asyncio.create_task(runner.stop())
    await asyncio.sleep(0)
    assert await runner.health() == Health(live=True, ready=False, reasons=("the runner is stopping",))
    hold.set()
    await stopping
    assert await runner.health() == NOT_STARTED


async def test_with_a_clock_of_events_nothing_is_ever_behind() -> None:
    clock = EventClock()
    async with SagaRunner("memory://", sagas=[OrderSaga], dispatch=lambda command: None, clock=clock) as runner:
        await runner.handle(Placed("a"), at=datetime.fromisoformat("2020-01-01T00:00:00Z"))
        await runner.handle(Placed("b"), at=datetime.fromisoformat("2021-01-01T00:00:00Z"))
        assert (await runner.health()).ready
