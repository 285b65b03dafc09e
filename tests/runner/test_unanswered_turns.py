"""What was passed over in a turn whose write had no answer stays passed over, if that write was stored."""

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
    RunnerSettings,
    Saga,
    SagalogError,
    SagaRunner,
    on,
    starts,
)


class Losing(InMemoryJournal):
    """Loses the answer to the next write, which it stores or not; another worker may write behind it."""

    def __init__(self, *, stores: bool = True) -> None:
        super().__init__()
        self.stores = stores
        self.loses = False
        self.behind: Any = None

    async def write_batch(self, records: Sequence[PersistentRepr]) -> list[SagalogError | None]:
        if not self.loses:
            return await super().write_batch(records)
        self.loses = False
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
