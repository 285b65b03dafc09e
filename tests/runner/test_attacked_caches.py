"""What is passed over without a write is decided on a record that was read after the event came, not on an older one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from sagalog import Complete, InMemoryJournal, Outcome, RunnerSettings, Saga, SagaRunner, on, starts


@dataclass
class Begun:
    key: str


@dataclass
class Came:
    key: str


@dataclass
class Ended:
    key: str


@dataclass
class Count:
    came: int = 0


class CountingSaga(Saga[Count]):
    name = "counting"

    @starts(Begun, key="key", again="ignore")
    def begun(self, state: Count, event: Begun) -> None: ...

    @on(Came, key="key")
    def came(self, state: Count, event: Came) -> None:
        state.came += 1

    @on(Ended, key="key")
    def ended(self, state: Count, event: Ended):
        return Complete()


class Late(InMemoryJournal):
    """Its records are read at once, and answered when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.answering = asyncio.Event()
        self.answering.set()
        self.read = asyncio.Event()

    async def latest_messages(self, persistence_ids: Any) -> Any:
        found = await super().latest_messages(persistence_ids)
        if persistence_ids:
            self.read.set()
            await self.answering.wait()
        return found


def worker(journal: InMemoryJournal, **settings: Any) -> SagaRunner:
    return SagaRunner(journal, sagas=[CountingSaga], dispatch=lambda command: None, settings=RunnerSettings(**settings))


async def test_an_event_that_came_after_a_read_began_is_not_passed_over_by_what_was_read() -> None:
    journal = Late()
    async with worker(journal) as one, worker(journal) as other:
        journal.answering.clear()
        early = asyncio.create_task(one.handle(Came("a")))
        await journal.read.wait()  # nothing is stored
        await other.handle(Begun("a"))
        late = asyncio.create_task(one.handle(Came("a")))
        await asyncio.sleep(0)
        journal.answering.set()
        assert (await late).outcomes["counting"] is Outcome.HANDLED
        await early


async def test_a_start_is_not_declined_because_of_a_life_that_has_ended_elsewhere() -> None:
    journal = InMemoryJournal()
    async with worker(journal) as one, worker(journal) as other:
        await one.handle(Begun("a"))
        await other.handle(Ended("a"))
        assert (await one.handle(Begun("a"))).outcomes["counting"] is Outcome.HANDLED
        assert (await one.handle(Begun("a"))).outcomes["counting"] is Outcome.ALREADY_STARTED


async def test_a_stream_of_events_that_find_nothing_is_answered() -> None:
    async with worker(InMemoryJournal(), max_batch=4) as one:
        answered = 0
        tasks = set()
        for _ in range(300):
            tasks.add(asyncio.create_task(one.handle(Came("a"))))
            await asyncio.sleep(0)
            answered = sum(task.done() for task in tasks)
        assert answered > 100
        assert {(await task).outcomes["counting"] for task in tasks} == {Outcome.NO_INSTANCE}
