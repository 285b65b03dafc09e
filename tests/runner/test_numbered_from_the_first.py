"""The first number of an instance fails, and an operator drops it: what comes behind it begins the instance."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from sagalog import Outcome, RetryPolicy, RunnerSettings, Saga, SagaRunner, Sequence, starts

ONCE = RunnerSettings(handler_retry=RetryPolicy(attempts=1))


@dataclass
class Measured:
    meter: str
    n: int
    broken: bool = False


@dataclass
class Readings:
    values: list[int] = field(default_factory=list)


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
async def test_a_first_number_that_is_dropped_is_not_waited_for(
    order: tuple[int, ...], first: int, restarts: bool
) -> None:
    class MeterSaga(Saga[Readings]):
        name = "meter"

        @starts(Measured, key="meter", sequence=Sequence("n", first=first, restarts=restarts))
        def measured(self, state: Readings, event: Measured) -> None:
            if event.broken:
                raise ValueError("no number")
            state.values.append(event.n)

    async with SagaRunner("memory://", sagas=[MeterSaga], settings=ONCE) as runner:
        for place in order:
            await runner.handle(Measured("m", first + place, broken=place == 0))
        await runner.skip("meter", "m")
        receipt = await runner.handle(Measured("m", first + 3))
        assert receipt.outcomes["meter"] is Outcome.HANDLED
        assert (await runner.state(MeterSaga, "m")).values == [first + 1, first + 2, first + 3]
        again = await runner.handle(Measured("m", first))
        assert again.outcomes["meter"] is Outcome.DUPLICATE


async def test_no_deadline_is_left_of_a_gap_that_ended_because_all_of_its_numbers_were_dropped() -> None:
    class MeterSaga(Saga[Readings]):
        name = "meter"

        @starts(Measured, key="meter", sequence=Sequence("n", gap_within=timedelta(minutes=10)))
        def measured(self, state: Readings, event: Measured) -> None:
            raise ValueError("no number")

    async with SagaRunner("memory://", sagas=[MeterSaga], settings=ONCE) as runner:
        await runner.handle(Measured("m", 2))
        assert (found := await runner.instance(MeterSaga, "m")).record is not None
        assert list(found.record.timers) == ["gap/Measured"]
        await runner.handle(Measured("m", 1))
        for _ in range(2):
            await runner.skip("meter", "m")
            await runner.settle()
        assert (found := await runner.instance(MeterSaga, "m")).record is not None
        assert not found.record.timers
