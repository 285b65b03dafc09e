"""What makes a record too large is told or parked, whoever brought it: nothing spins, and no effect is repeated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from sagalog import (
    CommandRefused,
    InMemoryJournal,
    JournalSagaStateStore,
    PayloadTooLargeError,
    Refused,
    RetryPolicy,
    RunnerSettings,
    Saga,
    SagaRecord,
    SagaRunner,
    Send,
    SetTimer,
    on,
    on_refused,
    starts,
)
from sagalog.decision.record import decode_record

LIMIT = 2000


@dataclass
class Begun:
    key: str


@dataclass
class Grown:
    key: str
    by: int


@dataclass
class Ordered:
    key: str


@dataclass
class Timed:
    key: str
    timers: int
    by: int


@dataclass
class Work:
    key: str


@dataclass
class Text:
    text: str = ""
    refused: int = 0


class GrowingSaga(Saga[Text]):
    name = "growing"

    @starts(Begun, key="key")
    def begun(self, state: Text, event: Begun) -> None: ...

    @on(Grown, key="key")
    def grown(self, state: Text, event: Grown) -> None:
        state.text += "x" * event.by

    @on(Ordered, key="key")
    def ordered(self, state: Text, event: Ordered):
        return Send(Work(event.key))

    @on(Timed, key="key")
    def timed(self, state: Text, event: Timed):
        for number in range(event.timers):
            yield SetTimer(f"t{number}", Grown(event.key, event.by), after=timedelta(milliseconds=20))

    @on_refused(Work)
    def refused(self, state: Text, event: Refused[Work]) -> None:
        state.refused += 1
        state.text += event.reason + "y" * 700


class Shop:
    """One runner on a journal in memory, and how often its command handler was called."""

    def __init__(self, answer: Callable[[Work], Any] = lambda command: None, limit: int = LIMIT) -> None:
        self.journal = InMemoryJournal()
        self.calls = 0
        self.answer = answer
        self.runner = self.another(limit)

    def another(self, limit: int) -> SagaRunner:
        def carry_out(command: Work) -> Any:
            self.calls += 1
            return self.answer(command)

        return SagaRunner(
            self.journal,
            sagas=[GrowingSaga],
            dispatch=carry_out,
            settings=RunnerSettings(
                max_payload_bytes=limit,
                lease=timedelta(milliseconds=200),
                due_poll=timedelta(milliseconds=10),
                dispatch_retry=RetryPolicy(base=timedelta(milliseconds=10), cap=timedelta(milliseconds=10)),
            ),
        )

    async def record(self) -> SagaRecord:
        saved = await JournalSagaStateStore(self.journal, "growing").load("a")
        assert saved is not None
        return decode_record(saved.payload)

    async def until(self, true: Callable[[SagaRecord], bool]) -> SagaRecord:
        async with asyncio.timeout(40):
            while not true(record := await self.record()):
                await asyncio.sleep(0.005)
        return record


def refuse(reason: str) -> Callable[[Work], None]:
    def answer(command: Work) -> None:
        raise CommandRefused(reason)

    return answer


@pytest.mark.parametrize(("grown", "reason"), [(0, "r" * 5000), (0, "r" * 3000), (1200, "r"), (1200, "r" * 500)])
async def test_a_refusal_that_makes_the_record_too_large_parks_its_instance(grown: int, reason: str) -> None:
    shop = Shop(refuse(reason))
    async with shop.runner as runner:
        for event in (Begun("a"), Grown("a", grown), Ordered("a")):
            await runner.handle(event)
        record = await shop.until(lambda record: bool(record.parked))
        assert "over the limit" in record.parked
        await asyncio.wait_for(runner.settle(), 40)  # nothing goes round in circles
        await runner.skip("growing", "a")
        await runner.settle()
        await shop.until(lambda record: not (record.parked or record.outbox or record.held))
    assert shop.calls == 1


async def test_a_reply_that_makes_the_record_too_large_parks_its_instance_and_is_asked_for_once() -> None:
    shop = Shop(lambda command: Grown("a", 900))
    async with shop.runner as runner:
        for event in (Begun("a"), Grown("a", 1350), Ordered("a")):
            await runner.handle(event)
        record = await shop.until(lambda record: bool(record.parked))
        assert "was carried out" in record.parked
        await runner.skip("growing", "a")
        await runner.settle()
        record = await shop.until(lambda record: not (record.parked or record.outbox))
    assert shop.calls == 1


@pytest.mark.parametrize("timers", [1, 3])
async def test_a_timer_whose_step_is_too_large_parks_its_instance(timers: int) -> None:
    shop = Shop()
    async with shop.runner as runner:
        for event in (Begun("a"), Grown("a", 900), Timed("a", timers, 1500)):
            await runner.handle(event)
        record = await shop.until(lambda record: bool(record.parked))
        assert "over the limit" in record.parked
        assert len(record.held) == 1
        for _ in range(timers):
            await shop.until(lambda record: bool(record.parked))
            await runner.skip("growing", "a")
        await shop.until(lambda record: not (record.parked or record.timers or record.held))


async def test_timers_that_are_too_large_only_together_fire_all_the_same() -> None:
    shop = Shop()

    class Noisy(GrowingSaga):
        name = "growing"

        @on(Grown, key="key")
        def grown(self, state: Text, event: Grown):
            state.refused += 1
            return [Send(Work("x" * event.by))]

    shop.runner.sagas = (Noisy(),)
    async with shop.runner as runner:
        for event in (Begun("a"), Timed("a", 7, 500)):
            await runner.handle(event)
        await shop.until(lambda record: not (record.timers or record.outbox))
        assert not (await shop.record()).parked
    assert shop.calls == 7


async def test_a_command_whose_parking_no_journal_can_take_is_not_carried_out_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Hard(InMemoryJournal):
        limit = 10**9

        async def write_batch(self, records: Any) -> Any:
            taken = [record for record in records if len(record.payload) <= self.limit]
            answers = iter(await super().write_batch(taken))
            return [
                next(answers) if len(record.payload) <= self.limit else PayloadTooLargeError("a record", 2, 1)
                for record in records
            ]

    journal, calls = Hard(), 0

    def carry_out(command: Work) -> Any:
        nonlocal calls
        calls += 1
        latest = journal._records["saga::growing::a"][-1]
        journal.limit = len(latest.payload)  # as large as it is, and no larger
        return True  # which is no event, and never will be

    settings = RunnerSettings(lease=timedelta(milliseconds=100), due_poll=timedelta(milliseconds=10))
    async with SagaRunner(journal, sagas=[GrowingSaga], dispatch=carry_out, settings=settings) as runner:
        await runner.handle(Begun("a"))
        await runner.handle(Ordered("a"))
        scans = 0
        real = journal.claim_due

        async def counted(*arguments: Any, **more: Any) -> Any:
            nonlocal scans
            found = await real(*arguments, **more)
            scans += bool(found)
            return found

        journal.claim_due = counted  # type: ignore[method-assign]
        async with asyncio.timeout(40):
            while scans < 4:  # it has come up again as often
                await asyncio.sleep(0.01)
    assert calls == 1
    assert "it," in caplog.text
