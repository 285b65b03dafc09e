"""A store may raise anything, CancelledError included: nobody is cancelled by it, and no loop of the runner ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from sagalog import (
    InMemoryJournal,
    JournalUnavailableError,
    OutcomeUnknownError,
    RetryPolicy,
    RunnerSettings,
    Saga,
    SagaRunner,
    Send,
    SetTimer,
    on,
    starts,
)

from ..orders import OrderSaga, Placed
from .conftest import FourMethodStore

RAISED = [asyncio.CancelledError, GeneratorExit, RuntimeError]
SETTINGS = RunnerSettings(
    lease=timedelta(milliseconds=200),
    due_poll=timedelta(milliseconds=10),
    dispatch_retry=RetryPolicy(cap=timedelta(milliseconds=50)),
)


@dataclass
class Begun:
    key: str


@dataclass
class Rung:
    key: str


@dataclass
class Work:
    key: str


@dataclass
class Count:
    rung: int = 0


class RingingSaga(Saga[Count]):
    name = "ringing"

    @starts(Begun, key="key")
    def begun(self, state: Count, event: Begun):
        yield SetTimer("ring", Rung(event.key), after=timedelta(milliseconds=20))

    @on(Rung, key="key")
    def rung(self, state: Count, event: Rung):
        yield Send(Work(event.key))


class Raising(InMemoryJournal):
    """Raises `error` from one of its methods, as often as a test says."""

    def __init__(self, method: str, error: type[BaseException]) -> None:
        super().__init__()
        self.method = method
        self.error = error
        self.times = 0
        self.raised = asyncio.Event()

    def _perhaps(self, method: str) -> None:
        if method == self.method and self.times:
            self.times -= 1
            self.raised.set()
            raise self.error

    async def write_batch(self, records):
        self._perhaps("write_batch")
        return await super().write_batch(records)

    async def claim_due(self, *arguments: Any, **named: Any):
        self._perhaps("claim_due")
        return await super().claim_due(*arguments, **named)

    async def due_ids(self, *arguments: Any, **named: Any):
        self._perhaps("due_ids")
        return await super().due_ids(*arguments, **named)


@pytest.mark.parametrize("error", RAISED)
async def test_a_caller_is_not_cancelled_by_what_a_journal_raises(error: type[BaseException]) -> None:
    journal = Raising("write_batch", error)
    async with SagaRunner(journal, sagas=[RingingSaga], dispatch=lambda command: None, settings=SETTINGS) as runner:
        journal.times = 100
        told = await asyncio.gather(runner.handle(Begun("a"), message_id="m1"), return_exceptions=True)
        assert isinstance(told[0], OutcomeUnknownError)
        assert error.__name__ in str(told[0])
        journal.times = 0
        await runner.handle(Begun("a"), message_id="m1")


@pytest.mark.parametrize("method", ["claim_due", "due_ids"])
@pytest.mark.parametrize("error", RAISED)
async def test_the_look_for_due_work_goes_on_whatever_a_journal_raises(method: str, error: type[BaseException]) -> None:
    journal = Raising(method, error)
    done = asyncio.Event()
    async with SagaRunner(
        journal, sagas=[RingingSaga], dispatch=lambda command: done.set(), settings=SETTINGS
    ) as runner:
        journal.times = 3
        await journal.raised.wait()
        await runner.handle(Begun("a"))
        await asyncio.wait_for(done.wait(), 40)
        assert (await runner.health()).live


@pytest.mark.parametrize("error", RAISED)
async def test_health_says_what_a_journal_raises_and_raises_nothing(error: type[BaseException]) -> None:
    journal = Raising("due_ids", error)
    async with SagaRunner(journal, sagas=[RingingSaga], dispatch=lambda command: None, settings=SETTINGS) as runner:
        journal.times = 10**9
        told = await asyncio.gather(runner.health(), return_exceptions=True)
        assert not isinstance(told[0], BaseException)
        assert told[0].live
        assert not told[0].ready
        journal.times = 0


class ShyStore(FourMethodStore):
    """The first look through its keys fails."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error: type[BaseException] | None = error

    async def keys(self) -> AsyncIterator[str]:
        error, self.error = self.error, None
        if error is not None:
            raise error
        for key in list(self.saved):
            yield key


@pytest.mark.parametrize("error", RAISED)
async def test_what_an_earlier_process_left_is_found_although_the_first_look_through_the_store_fails(
    error: type[BaseException],
) -> None:
    store = ShyStore(error)
    store.error = None
    async with SagaRunner(store, sagas=[RingingSaga], dispatch=lambda command: None, settings=SETTINGS) as runner:
        await runner.handle(Begun("a"))
    store.error = error
    done = asyncio.Event()
    async with SagaRunner(store, sagas=[RingingSaga], dispatch=lambda command: done.set(), settings=SETTINGS):
        await asyncio.wait_for(done.wait(), 40)


class Landing(InMemoryJournal):
    """Stores, says that it does not know, and then answers no question with anything but `error`."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error: BaseException | None = error
        self.asked = asyncio.Event()

    async def write_batch(self, records):
        told = await super().write_batch(records)
        return [OutcomeUnknownError("the connection broke")] * len(told) if self.error is not None else told

    async def latest_message(self, persistence_id: str):
        self.asked.set()
        if self.error is not None:
            raise self.error
        return await super().latest_message(persistence_id)


@pytest.mark.parametrize("error", [JournalUnavailableError("away"), RuntimeError("away"), asyncio.CancelledError()])
async def test_nobody_is_told_that_a_step_is_not_stored_when_its_read_back_is_ended(error: BaseException) -> None:
    journal = Landing(error)
    runner = SagaRunner(journal, sagas=[RingingSaga], dispatch=lambda command: None, settings=SETTINGS)
    await runner.start()
    waiting = asyncio.create_task(runner.handle(Begun("a"), message_id="m1"))
    await journal.asked.wait()
    await runner.stop()
    with pytest.raises(OutcomeUnknownError):
        await waiting


@pytest.mark.parametrize("error", [JournalUnavailableError("away"), RuntimeError("away"), asyncio.CancelledError()])
async def test_a_step_is_read_back_again_whatever_the_first_answer_was(error: BaseException) -> None:
    journal = Landing(error)
    async with SagaRunner(journal, sagas=[RingingSaga], dispatch=lambda command: None, settings=SETTINGS) as runner:
        waiting = asyncio.create_task(runner.handle(Begun("a"), message_id="m1"))
        await journal.asked.wait()
        journal.error = None
        assert (await waiting).message_id == "m1"


@pytest.mark.parametrize("wrong", [None, 7, [], ["stored"], [ValueError("no error of ours")]])
async def test_an_answer_that_is_none_is_read_back_and_not_believed(wrong: Any) -> None:
    class Wrong(InMemoryJournal):
        times = 1

        async def write_batch(self, records: Any) -> Any:
            answers = await super().write_batch(records)
            if self.times:
                self.times -= 1
                return wrong
            return answers

    async with SagaRunner(Wrong(), sagas=[OrderSaga], dispatch=lambda command: None) as runner:
        assert (await runner.handle(Placed("a"), message_id="m")).handled  # it had landed
        assert runner.counters.saves == 0
