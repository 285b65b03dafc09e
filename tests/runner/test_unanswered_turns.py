"""What was decided in a turn whose write had no answer holds, if that write was stored."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import pytest

from sagalog import (
    Action,
    Enter,
    InMemoryJournal,
    NoInstanceError,
    Outcome,
    OutcomeUnknownError,
    PersistentRepr,
    RetryPolicy,
    RunnerSettings,
    Saga,
    SagalogError,
    SagaRunner,
    Send,
    on,
    starts,
)


class Losing(InMemoryJournal):
    """Loses the answer to the next write, which it stores, or not, or late; another worker may write behind it."""

    def __init__(self, *, stores: bool = True, late: bool = False) -> None:
        super().__init__()
        self.stores = stores and not late
        self.late = late
        self.on_its_way: Sequence[PersistentRepr] = ()
        self.loses = False
        self.behind: Any = None

    async def write_batch(self, records: Sequence[PersistentRepr]) -> list[SagalogError | None]:
        if not self.loses:
            if self.on_its_way:
                landing, self.on_its_way = self.on_its_way, ()
                await super().write_batch(landing)
            return await super().write_batch(records)
        self.loses = False
        if self.late:
            self.on_its_way = records
        if self.stores:
            await super().write_batch(records)
        if self.behind is not None:
            await self.behind()
        return [OutcomeUnknownError("lost") for _ in records]


class Light(Enum):
    RED = "red"
    GREEN = "green"


@dataclass
class Begun:
    key: str


@dataclass
class Switched:
    key: str


@dataclass
class Moved:
    key: str
    text: str = ""


@dataclass
class Pressed:
    key: str


@dataclass
class Broken:
    key: str


@dataclass
class Press:
    key: str


@dataclass
class Seen:
    log: list[str] = field(default_factory=list)


class LightSaga(Saga[Seen]):
    name = "light"
    phases = Light

    @starts(Begun, key="key", again="ignore")
    def begun(self, seen: Seen, event: Begun) -> None:
        seen.log.append("begun")

    @on(Switched, key="key")
    def switched(self, seen: Seen, event: Switched) -> Iterator[Action]:
        seen.log.append("switched")
        yield Enter(Light.GREEN)

    @on(Broken, key="key")
    def broken(self, seen: Seen, event: Broken) -> None:
        raise ValueError

    @on(Pressed, key="key", during=Light.GREEN, unexpected="keep")
    def pressed(self, seen: Seen, event: Pressed) -> Send:
        return Send(Press(event.key))

    @on(Moved, key="key", during=Light.GREEN, unexpected="ignore")
    def moved(self, seen: Seen, event: Moved) -> None:
        seen.log.append(f"moved {event.text}")


def outcome_of(answer: Any) -> Any:
    return type(answer) if isinstance(answer, BaseException) else answer.outcomes["light"]


async def together(runner: SagaRunner, journal: Losing, *events: Any) -> list[Any]:
    """Handle events in one turn, whose write has no answer; return what became of each."""
    journal.loses = True
    calls = [runner.handle(event, message_id=f"m{number}") for number, event in enumerate(events, 1)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert not journal.loses, "nothing was written"
    return [outcome_of(answer) for answer in answers]


@pytest.mark.parametrize("policy", ["raise", "ignore"])
async def test_an_event_that_found_no_instance_does_not_come_behind_the_start(policy: Any) -> None:
    journal = Losing()
    async with SagaRunner(journal, sagas=[LightSaga], settings=RunnerSettings(no_instance=policy)) as runner:
        told = await together(runner, journal, Switched("a"), Begun("a"))
        state = await runner.state(LightSaga, "a")
    assert told[0] == (NoInstanceError if policy == "raise" else Outcome.NO_INSTANCE)
    assert state.log == ["begun"]


async def test_an_event_that_its_phase_did_not_expect_does_not_come_behind_the_next_phase() -> None:
    journal = Losing()
    async with SagaRunner(journal, sagas=[LightSaga]) as runner:
        await runner.handle(Begun("a"))
        told = await together(runner, journal, Moved("a"), Begun("a"), Switched("a"), Moved("a", "on"))
        assert (await runner.handle(Moved("a", "later"))).handled
        state = await runner.state(LightSaga, "a")
        assert runner.counters.ignored == 2
    assert told[0] is Outcome.IGNORED
    assert told[1] is Outcome.ALREADY_STARTED
    assert state.log == ["begun", "switched", "moved on", "moved later"]


async def test_the_same_where_another_worker_has_gone_on_meanwhile() -> None:
    journal = Losing()
    async with SagaRunner(journal, sagas=[LightSaga]) as runner, SagaRunner(journal, sagas=[LightSaga]) as other:
        await runner.handle(Begun("a"))
        journal.behind = lambda: other.handle(Moved("a", "elsewhere"))
        told = await together(runner, journal, Moved("a"), Switched("a"))
        state = await runner.state(LightSaga, "a")
    assert told[0] is Outcome.IGNORED
    assert state.log == ["begun", "switched", "moved elsewhere"]


async def test_it_is_decided_anew_where_nothing_was_stored() -> None:
    journal = Losing(stores=False)
    async with SagaRunner(journal, sagas=[LightSaga]) as runner:
        await runner.handle(Begun("a"))
        told = await together(runner, journal, Moved("a"), Switched("a"), Moved("a", "on"))
        state = await runner.state(LightSaga, "a")
    assert told == [Outcome.IGNORED, Outcome.HANDLED, Outcome.HANDLED]
    assert state.log == ["begun", "switched", "moved on"]


async def test_what_was_stored_is_no_duplicate_of_itself() -> None:
    journal = Losing()
    settings = RunnerSettings(handler_retry=RetryPolicy(attempts=1))
    async with SagaRunner(journal, sagas=[LightSaga], dispatch=lambda command: None, settings=settings) as runner:
        assert await together(runner, journal, Begun("a")) == [Outcome.HANDLED]
        journal.loses = True
        receipt = await runner.handle(Pressed("a"))  # nobody else can have sent it: it has a new id
        assert (receipt.kept, receipt.duplicate) == (True, False)
        journal.loses = True
        assert (await runner.handle(Switched("a"))).handled
        journal.loses = True
        assert (await runner.handle(Broken("a"))).held
        await runner.settle()
        assert (await runner.handle(Begun("a"), message_id="m1")).duplicate
        counters = runner.counters
        assert (counters.handled, counters.kept, counters.held, counters.duplicates) == (2, 1, 1, 1)
        assert counters.commands == 1


async def test_what_was_stored_late_is_no_duplicate_of_itself() -> None:
    journal = Losing(late=True)
    async with SagaRunner(journal, sagas=[LightSaga], dispatch=lambda command: None) as runner:
        await runner.handle(Begun("a"))
        await runner.handle(Switched("a"))
        assert await together(runner, journal, Pressed("a")) == [Outcome.HANDLED]
        await runner.settle()
        assert (runner.counters.commands, runner.counters.conflicts) == (1, 1)


async def test_another_workers_step_leaves_open_who_has_handled_it() -> None:
    journal = Losing()
    async with SagaRunner(journal, sagas=[LightSaga]) as runner, SagaRunner(journal, sagas=[LightSaga]) as other:
        await runner.handle(Begun("a"))
        journal.behind = lambda: other.handle(Switched("a"), message_id="m1")
        assert await together(runner, journal, Switched("a")) == [Outcome.HANDLED]
        journal.behind = lambda: other.handle(Moved("a", "elsewhere"))
        journal.loses = True
        assert (await runner.handle(Moved("a", "here"), message_id="m2")).duplicate
        assert (await runner.state(LightSaga, "a")).log == ["begun", "switched", "moved here", "moved elsewhere"]
