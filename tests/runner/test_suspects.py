"""A command that ends its workers is found among many: those that were only in hand when they died are not blamed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sagalog import InMemoryJournal, RunnerSettings, Saga, SagaRecord, SagaRunner, Send, starts
from sagalog.decision.record import decode_record
from sagalog.operating.steps import steps

LONG = 3600.0


@dataclass
class Ordered:
    id: str
    kinds: list[str]


@dataclass
class Do:
    id: str
    kind: str


@dataclass
class Nothing:
    pass


class OrderedSaga(Saga[Nothing]):
    name = "ordered"

    @starts(Ordered, key="id")
    def ordered(self, state: Nothing, event: Ordered):
        for kind in event.kinds:
            yield Send(Do(event.id, kind))


class Workers:
    """One worker after the other, each of which dies as soon as a bad command begins."""

    def __init__(self, journal: InMemoryJournal, **settings: Any) -> None:
        self.journal = journal
        self.settings = RunnerSettings(
            lease=timedelta(milliseconds=50), due_poll=timedelta(milliseconds=10), stop_timeout=timedelta(0), **settings
        )
        self.begun: list[tuple[str, str]] = []
        self.accepted: list[str] = []
        self.parked = 0
        self._dies = asyncio.Event()

    async def __call__(self, command: Do) -> None:
        self.begun.append((command.id, command.kind))
        if command.kind == "bad":
            self._dies.set()
        await asyncio.sleep(LONG if command.kind == "bad" else 0.02)  # so long its work takes
        self.accepted.append(command.id)

    async def run(self, *, first: dict[str, list[str]], parked: int, accepted: int) -> None:
        for number in range(60):
            self._dies.clear()
            worker = SagaRunner(self.journal, sagas=[OrderedSaga], dispatch=self, settings=self.settings)
            await worker.start()
            if number == 0:
                await asyncio.gather(*(worker.handle(Ordered(key, kinds)) for key, kinds in first.items()))
            async with asyncio.timeout(40):
                while not self._dies.is_set():
                    if self.parked + worker.counters.parked >= parked and len(self.accepted) >= accepted:
                        break
                    await asyncio.sleep(0.001)
            await worker.stop()  # its time is over at once: what it was at stays where it is, as after a kill
            self.parked += worker.counters.parked
            if self.parked >= parked and len(self.accepted) >= accepted:
                return
        raise AssertionError(f"60 workers died; {self.parked} parked, {len(self.accepted)} accepted")

    async def newest(self, key: str) -> SagaRecord:
        message = await self.journal.latest_message(f"saga::ordered::{key}")
        assert message is not None
        return decode_record(message.payload)


async def test_one_command_that_ends_its_workers_parks_its_own_instance_only() -> None:
    journal = InMemoryJournal()
    workers = Workers(journal, max_takeovers=6)
    orders = {f"good{n}": ["good"] for n in range(12)}
    await workers.run(first={**orders, "poison": ["bad"]}, parked=1, accepted=12)
    assert sorted(workers.accepted) == sorted(orders)
    for key in orders:
        record = await workers.newest(key)
        assert not record.parked, key
        assert not record.outbox, key
    poison = await workers.newest("poison")
    assert "Do was taken over 6 times" in poison.parked
    assert workers.begun.count(("poison", "bad")) <= 7


async def test_the_command_that_is_blamed_is_the_one_that_was_begun() -> None:
    """What was accepted before it is recorded first: otherwise that one would be blamed, and skipped."""
    journal = InMemoryJournal()
    workers = Workers(journal, max_takeovers=5)
    await workers.run(first={"mixed": ["good", "bad"]}, parked=1, accepted=1)
    record = await workers.newest("mixed")
    assert record.parked
    (left,) = record.outbox
    assert b'"bad"' in bytes(left.command.data)
    assert record.stuck == left.id
    assert len(workers.accepted) <= 4, "it is accepted, and recorded, when it is carried out by itself"
    alone = [step.alone async for step in steps(journal, "ordered", "mixed") if step.alone]
    assert set(alone) == {"Do"}


async def test_a_command_with_one_takeover_left_is_begun_by_itself_once() -> None:
    workers = Workers(InMemoryJournal(), max_takeovers=1)
    await workers.run(first={"poison": ["bad"]}, parked=1, accepted=0)
    assert workers.begun == [("poison", "bad")] * 2
