"""No more commands of a type leave in a second than its policy says, whatever waits."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from typing import Any

import pytest

from sagalog import CommandPolicy, DefinitionError

from ..shipping import CountingJournal, Mail, Mailed, Ordered, Receivers, ShipOrder, virtually, worker

plain_or_not = pytest.mark.parametrize("plain", [False, True], ids=["async handlers", "plain handlers"])


def most_within(seconds: float, moments: list[float]) -> int:
    """Return how many lie in some stretch of so many seconds, at most."""
    return max(bisect_left(moments, at + seconds) - index for index, at in enumerate(moments))


@plain_or_not
@pytest.mark.parametrize("rate", [0.5, 7, 200])
def test_commands_leave_no_faster_than_their_rate_and_no_slower_either(rate: float, plain: bool) -> None:
    async def story() -> None:
        journal, receivers = CountingJournal(), Receivers()
        number = round(max(20, rate * 3))
        async with worker(journal, receivers, plain=plain, policy={"rate": rate}) as runner:
            for one in range(number):
                await runner.handle(Ordered(str(one)))
            await asyncio.sleep(number / rate + 1)
            moments = [at for at, _, _ in receivers.left]
            assert len(moments) == number
            for seconds in (1.0, 2.0, 10.0):
                assert most_within(seconds - 0.002, moments) <= rate * seconds + max(1, rate / 10)
            assert [order for _, _, order in receivers.left] == [str(one) for one in range(number)]

    virtually(story())


def test_what_waits_for_its_rate_is_not_taken_over_and_the_other_types_leave() -> None:
    async def story() -> None:
        journal, receivers = CountingJournal(), Receivers()
        async with worker(journal, receivers, policy={"rate": 1}) as one, worker(journal, receivers) as other:
            for number in range(120):
                await one.handle(Ordered(str(number)))
            await one.handle(Mailed("m"))
            await asyncio.sleep(0.5)
            assert receivers.of(Mail) == ["m"]
            writes = journal.writes
            await asyncio.sleep(125)
            assert len(receivers.of(ShipOrder)) == len(set(receivers.of(ShipOrder))) == 120
            assert journal.writes - writes <= 125  # one for each that was accepted
            assert one.counters.takeovers == other.counters.takeovers == 0

    virtually(story())


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), True, "5", 1e9, 1e-9])
def test_odd_rates_are_refused_when_a_policy_is_made(rate: Any) -> None:
    with pytest.raises(DefinitionError, match="rate="):
        CommandPolicy(rate=rate)
    with pytest.raises(DefinitionError, match="circuit="):
        CommandPolicy(circuit=rate)
