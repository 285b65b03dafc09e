"""In event time, an event that is refused with an error changes nothing when the log is fed again, and may come later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum

import pytest

from sagalog import (
    Action,
    AlreadyStartedError,
    Enter,
    EventClock,
    InMemoryJournal,
    Saga,
    SagalogError,
    SagaRunner,
    UnexpectedEventError,
    on,
    starts,
)

from ..dated import START


@dataclass
class Ordered:
    id: str


@dataclass
class Packed:
    id: str


@dataclass
class Sent:
    id: str


@dataclass
class Story:
    told: list[str] = field(default_factory=list)


class Phase(Enum):
    OPEN = "open"
    PACKED = "packed"


class Parcel(Saga[Story]):
    name = "parcel"
    phases = Phase

    @starts(Ordered, key="id", again="raise")
    def ordered(self, state: Story, event: Ordered) -> None:
        state.told.append("ordered")

    @on(Packed, key="id")
    def packed(self, state: Story, event: Packed) -> Iterator[Action]:
        state.told.append("packed")
        yield Enter(Phase.PACKED)

    @on(Sent, key="id", during=Phase.PACKED, unexpected="raise")
    def sent(self, state: Story, event: Sent) -> None:
        state.told.append("sent")


Line = tuple[int, str, object]


async def run(journal: InMemoryJournal, log: list[Line]) -> tuple[list[str], list[str]]:
    """Feed events, each with its hour and its id; return what became of each, and what the saga tells."""
    became = []
    async with SagaRunner(journal, sagas=[Parcel], clock=EventClock()) as runner:
        for hour, message_id, event in log:
            try:
                receipt = await runner.handle(event, message_id=message_id, at=START + timedelta(hours=hour))
                became.append("handled" if receipt.handled else "duplicate" if receipt.duplicate else "other")
            except SagalogError as error:
                became.append(type(error).__name__)
        await runner.settle()
        return became, (await runner.state(Parcel, "a")).told


REFUSED = [(Sent("a"), UnexpectedEventError.__name__), (Ordered("a"), AlreadyStartedError.__name__)]


@pytest.mark.parametrize(("event", "error"), REFUSED)
async def test_an_event_that_was_refused_is_known_once_something_came_behind_it(event: object, error: str) -> None:
    journal, log = InMemoryJournal(), [(0, "1", Ordered("a")), (1, "2", event), (1, "3", Packed("a"))]
    assert await run(journal, log) == (["handled", error, "handled"], ["ordered", "packed"])
    for _ in range(2):  # it would be judged by what came later
        assert await run(journal, log) == (["duplicate"] * 3, ["ordered", "packed"])


@pytest.mark.parametrize(("event", "error"), REFUSED)
async def test_an_event_that_was_refused_last_is_refused_again_and_may_be_mended(event: object, error: str) -> None:
    journal, log = InMemoryJournal(), [(0, "1", Ordered("a")), (1, "2", event), (1, "3", event)]
    assert await run(journal, log) == (["handled", error, error], ["ordered"])
    assert await run(journal, log) == (["duplicate", error, error], ["ordered"])
    log[1] = (1, "2", Packed("a"))
    assert (await run(journal, log))[0][:2] == ["duplicate", "handled"]


async def test_an_event_that_was_refused_may_come_later_under_its_id() -> None:
    log = [(0, "1", Ordered("a")), (1, "2", Sent("a")), (2, "3", Packed("a")), (3, "2", Sent("a"))]
    journal, told = InMemoryJournal(), ["ordered", "packed", "sent"]
    assert await run(journal, log) == (["handled", "UnexpectedEventError", "handled", "handled"], told)
    for _ in range(2):
        assert await run(journal, log) == (["duplicate"] * 4, told)
