"""A write whose answer nobody hears: once it is stored, its commands leave at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sagalog import (
    InMemoryJournal,
    NoInstanceError,
    OutcomeUnknownError,
    PersistentRepr,
    RunnerSettings,
    SagaRunner,
    SqliteJournal,
)

from ..orders import OrderSaga, Placed

SETTINGS = RunnerSettings(lease=timedelta(minutes=5))  # nothing here may be due to a lease that ends
SECONDS = 60


class Unhurried(InMemoryJournal):
    """Goes on with a write whose caller is gone, and stores it when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.read, self.may_store = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def write_batch(self, records: Sequence[PersistentRepr]) -> Any:
        return await asyncio.shield(asyncio.ensure_future(self._when_told(records)))

    async def _when_told(self, records: Sequence[PersistentRepr]) -> Any:
        self.asked.set()
        await self.may_store.wait()
        return await super().write_batch(records)

    async def latest_message(self, persistence_id: str) -> PersistentRepr | None:
        found = await super().latest_message(persistence_id)
        self.read.set()
        return found


async def _cancelled(call: asyncio.Task[Any]) -> None:
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_step_that_is_stored_after_it_was_read_back_in_vain_lets_its_commands_leave_at_once() -> None:
    journal, left = Unhurried(), asyncio.Event()
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=lambda command: left.set(), settings=SETTINGS) as runner:
        call = asyncio.create_task(runner.handle(Placed("a"), message_id="m"))
        await journal.asked.wait()
        await _cancelled(call)
        async with asyncio.timeout(SECONDS):
            await journal.read.wait()  # and nothing was there
            settling = asyncio.create_task(runner.settle())
            await asyncio.sleep(0.05)
            assert not settling.done()
            journal.may_store.set()
            await left.wait()
            await settling
            assert (await runner.handle(Placed("a"), message_id="m")).duplicate


class Hasty(InMemoryJournal):
    """Loses the first answer, and stores that write only when the next one comes."""

    def __init__(self) -> None:
        super().__init__()
        self.first: Sequence[PersistentRepr] | None = None
        self.lost = False

    async def write_batch(self, records: Sequence[PersistentRepr]) -> Any:
        if not self.lost:
            self.first, self.lost = records, True
            raise OutcomeUnknownError("the connection broke")
        if self.first is not None:
            first, self.first = self.first, None
            assert await super().write_batch(first) == [None]
        return await super().write_batch(records)


async def test_a_step_whose_lost_write_lands_behind_the_read_lets_its_commands_leave_at_once() -> None:
    left = asyncio.Event()
    async with (
        SagaRunner(Hasty(), sagas=[OrderSaga], dispatch=lambda command: left.set(), settings=SETTINGS) as runner,
        asyncio.timeout(SECONDS),
    ):
        await runner.handle(Placed("a"), message_id="m")
        await left.wait()


async def test_a_runner_stops_while_a_write_that_was_cut_off_may_land_yet() -> None:
    journal = Unhurried()
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=lambda command: None, settings=SETTINGS) as runner:
        call = asyncio.create_task(runner.handle(Placed("a"), message_id="m"))
        await journal.asked.wait()
        await _cancelled(call)
        await journal.read.wait()
        async with asyncio.timeout(SECONDS):
            await runner.stop()


@pytest.mark.parametrize("turns", range(8))
async def test_whenever_the_caller_is_cancelled_a_stored_step_has_sent_its_commands_when_the_runner_has_settled(
    tmp_path: Path, turns: int
) -> None:
    sent: list[Any] = []
    journal = SqliteJournal(tmp_path / "journal.db", on_loop=timedelta(0))
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=sent.append, settings=SETTINGS) as runner:
        call = asyncio.create_task(runner.handle(Placed("a"), message_id="m"))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        async with asyncio.timeout(SECONDS):
            await runner.settle()
        try:
            await runner.state(OrderSaga, "a")
        except NoInstanceError:
            assert not sent
        else:
            assert len(sent) == 1
    await journal.close()
