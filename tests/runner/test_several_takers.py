"""One event for several sagas, or for several instances by a key: which error its sender hears, where some refuse it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import pytest

from sagalog import (
    AddKey,
    AlreadyStartedError,
    Enter,
    InMemoryJournal,
    Key,
    NotAllReachedError,
    Saga,
    SagaRunner,
    TooManyKeptError,
    UnexpectedEventError,
    on,
    starts,
)


class Phase(Enum):
    NEW = 1
    OPEN = 2
    CLOSED = 3


@dataclass
class Placed:
    id: str


@dataclass
class Begun:
    id: str


@dataclass
class Moved:
    id: str
    to: Phase


@dataclass
class Rung:
    table: str


@dataclass
class State:
    taken: int = 0


class Shipping(Saga[State]):
    name = "shipping"

    @starts(Placed, key="id", again="raise")
    def placed(self, state: State, event: Placed) -> None:
        state.taken += 1


class Billing(Saga[State]):
    name = "billing"
    phases = Phase
    most_kept = 1
    keys = (Key("table"),)

    @starts(Begun, key="id")
    def begun(self, state: State, event: Begun) -> Any:
        yield AddKey("table", "7")

    @on(Moved, key="id")
    def moved(self, state: State, event: Moved) -> Any:
        yield Enter(event.to)

    @on(Placed, key="id", during=Phase.OPEN, unexpected="keep")
    def placed(self, state: State, event: Placed) -> None:
        state.taken += 1

    @on(Rung, key="table", by="table", during=Phase.OPEN, unexpected={Phase.NEW: "keep", Phase.CLOSED: "raise"})
    def rung(self, state: State, event: Rung) -> None:
        state.taken += 1


@pytest.mark.parametrize("sagas", [(Shipping, Billing), (Billing, Shipping)])
async def test_a_refusal_by_one_saga_does_not_hide_that_another_would_take_the_event_later(sagas: Any) -> None:
    async with SagaRunner(InMemoryJournal(), sagas=sagas) as runner:
        await runner.handle(Begun("a"))
        await runner.handle(Placed("a"), message_id="m1")
        with pytest.raises(TooManyKeptError):  # a sender that hears of AlreadyStartedError does not send it again
            await runner.handle(Placed("a"), message_id="m2")
        await runner.handle(Moved("a", Phase.OPEN))
        with pytest.raises(AlreadyStartedError) as raised:
            await runner.handle(Placed("a"), message_id="m2")
        assert raised.value.__notes__ == [
            "saga billing has it; sent again under the same message id, it reaches only the others"
        ]
        assert (await runner.state(Billing, "a")).taken == 2


@pytest.mark.parametrize("closed", ["a", "c"])
async def test_a_refusal_by_one_holder_of_a_key_does_not_hide_that_another_would_take_the_event_later(
    closed: str,
) -> None:
    async with SagaRunner(InMemoryJournal(), sagas=[Billing]) as runner:
        await runner.handle(Begun("b"))
        await runner.handle(Placed("b"))  # it keeps no more
        await runner.handle(Begun(closed))
        await runner.handle(Moved(closed, Phase.CLOSED))
        with pytest.raises(TooManyKeptError):
            await runner.handle(Rung("7"), message_id="m")
        await runner.handle(Moved("b", Phase.OPEN))
        with pytest.raises(NotAllReachedError) as raised:
            await runner.handle(Rung("7"), message_id="m")
        assert isinstance(raised.value.why, UnexpectedEventError)
        assert raised.value.correlation_ids == (closed,)
        assert (await runner.state(Billing, "b")).taken == 2
