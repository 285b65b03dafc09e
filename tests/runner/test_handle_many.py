"""Many events in one call: those of one instance keep their order, also where the journal fails in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import pytest

from sagalog import (
    Incoming,
    InMemoryJournal,
    JournalUnavailableError,
    PersistentRepr,
    RunnerSettings,
    Saga,
    SagalogError,
    SagaRunner,
    starts,
)


@dataclass
class Moved:
    order_id: str
    number: int


@dataclass
class Log:
    numbers: list[int] = field(default_factory=list)


class Logged(Saga[Log]):
    name = "logged"

    @starts(Moved, key="order_id")
    def moved(self, state: Log, event: Moved) -> None:
        state.numbers.append(event.number)


class Failing(InMemoryJournal):
    """Takes nothing of instance a, while it is `away`: what it is asked meanwhile is answered when it is `ready`."""

    def __init__(self) -> None:
        super().__init__()
        self.away = True
        self.asked = 0
        self.ready: Callable[[], bool] = lambda: True

    async def write_batch(self, records: Sequence[PersistentRepr]) -> list[SagalogError | None]:
        answers: list[SagalogError | None] = []
        for record in records:
            if self.away and record.persistence_id == "saga::logged::a":
                self.asked += 1
                while not self.ready():
                    await asyncio.sleep(0)
                answers.append(JournalUnavailableError("away"))
            else:
                answers += await super().write_batch([record])
        return answers


def numbered(order_id: str, count: int) -> list[Incoming]:
    return [Incoming(Moved(order_id, number), f"{order_id}-{number}") for number in range(count)]


async def numbers(runner: SagaRunner, order_id: str) -> list[int]:
    state = await runner.state(Logged, order_id)
    return state.numbers


@pytest.mark.parametrize("max_batch", [1, 3])
async def test_nothing_of_an_instance_is_stored_behind_an_event_that_the_journal_has_not_taken(max_batch: int) -> None:
    journal, settings = Failing(), RunnerSettings(max_batch=max_batch)
    events = numbered("a", 5) + numbered("b", 5)
    async with SagaRunner(journal, sagas=[Logged], settings=settings) as runner:

        def all_have_come() -> bool:
            journal.away = runner.gauges().in_flight < 10
            return not journal.away

        journal.ready = all_have_come
        with pytest.raises(ExceptionGroup, match="5 of 10") as caught:
            await runner.handle_many(events)
        assert journal.asked == 1
        assert await numbers(runner, "b") == [0, 1, 2, 3, 4]
        assert {type(error) for error in caught.value.exceptions} == {JournalUnavailableError}
        told = [error.__notes__ for error in caught.value.exceptions]
        assert sorted(told) == [[f"event {number + 1}, message id 'a-{number}'"] for number in range(5)]
        again = await runner.handle_many(events)
        assert [receipt.duplicate for receipt in again] == [False] * 5 + [True] * 5
        assert await numbers(runner, "a") == [0, 1, 2, 3, 4]


async def test_what_comes_later_in_the_same_call_is_not_stored_behind_it_either() -> None:
    journal, later = Failing(), asyncio.Event()

    async def events() -> AsyncIterator[Incoming]:
        yield Incoming(Moved("a", 0), "first")
        yield Incoming(Moved("b", 0), "of another one")
        await later.wait()
        yield Incoming(Moved("a", 1), "second")

    async with SagaRunner(journal, sagas=[Logged]) as runner:
        many = asyncio.create_task(runner.handle_many(events()))
        while runner.gauges().in_flight or not journal.asked:
            await asyncio.sleep(0.001)
        journal.away = False
        later.set()
        with pytest.raises(ExceptionGroup, match="2 of 3"):
            await many
        assert (await runner.handle(Moved("a", 0), message_id="first")).handled
        assert await numbers(runner, "a") == [0]
        assert await numbers(runner, "b") == [0]
        assert (await runner.handle_many([Moved("a", 1)]))[0].handled  # another call knows nothing of it
