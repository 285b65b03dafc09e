"""No more commands of a type leave in a second than its policy says, whatever waits."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from sagalog import CommandPolicy, DefinitionError, SagaRunner
from sagalog.decision.budget import taking
from sagalog.journal.budget import take_tokens
from sagalog.operating.inspect import instances

from ..shipping import CountingJournal, Mail, Mailed, Ordered, Receivers, ShipOrder, Shipping, virtually, worker
from .conftest import Bench, FourMethodStore

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


def test_a_shared_rate_bounds_all_workers_together_and_each_of_them_gets_some() -> None:
    async def story() -> None:
        journal, receivers = CountingJournal(), Receivers()
        async with AsyncExitStack() as stack:
            workers = [
                await stack.enter_async_context(worker(journal, receivers, policy={"shared_rate": 20}))
                for _ in range(4)
            ]
            writes = journal.own_writes
            for number in range(600):
                await workers[number % 4].handle(Ordered(str(number)))
            await asyncio.sleep(20)
            for one in workers:
                assert one.counters.commands > 20
            await asyncio.sleep(20)
            moments = [at for at, _, _ in receivers.left]
            assert len(moments) == 600
            for seconds in (1, 5, 20):
                assert most_within(seconds, moments) <= 20 * (seconds + 2)
            assert moments[-1] >= 600 / 20 - 2
            assert journal.own_writes - writes <= 4 * 41  # one a second and worker
            before = journal.own_writes
            looks = len(journal.control_looks)
            await asyncio.sleep(100)
            assert journal.own_writes == before  # nothing where nothing waits
            assert len(journal.control_looks) - looks <= 4 * 110

    virtually(story())


def test_a_shared_rate_of_less_than_one_a_second_lets_each_leave_in_its_time() -> None:
    async def story() -> None:
        journal, receivers = CountingJournal(), Receivers()
        policy = {"shared_rate": 0.1}
        async with worker(journal, receivers, policy=policy) as one, worker(journal, receivers, policy=policy) as other:
            for number in range(6):
                await (one, other)[number % 2].handle(Ordered(str(number)))
            await asyncio.sleep(120)
            moments = [at for at, _, _ in receivers.left]
            assert len(moments) == 6
            assert min(b - a for a, b in pairwise(moments)) > 7
            assert one.counters.takeovers == other.counters.takeovers == 0

    virtually(story())


def test_commands_wait_for_a_shared_rate_while_the_journal_does_not_answer_and_leave_when_it_does() -> None:
    async def story() -> None:
        journal, receivers = CountingJournal(), Receivers()
        async with worker(journal, receivers, policy={"shared_rate": 5}) as runner:
            await runner.handle(Ordered("0"))
            await asyncio.sleep(3)
            journal.own_away = True
            await runner.handle(Ordered("1"))
            await asyncio.sleep(30)
            assert receivers.of(ShipOrder) == ["0"]
            journal.own_away = False
            await asyncio.sleep(3)
            assert receivers.of(ShipOrder) == ["0", "1"]

    virtually(story())


def test_a_bucket_that_was_filled_by_a_clock_far_ahead_does_not_stop_the_others() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    ahead, got = taking(None, 10, now + timedelta(days=365), 10, 0)
    assert got == 10
    budget, got = taking(ahead, 10, now, 5, 0)
    assert got == 0
    assert taking(budget, 10, now + timedelta(seconds=1), 20, 0)[1] == 10
    slightly, _ = taking(None, 10, now + timedelta(seconds=5), 10, 0)
    assert taking(slightly, 10, now, 10, 0) == (slightly, 0)
    assert taking(slightly, 10, now, 10, 4)[1] == 4


async def test_a_shared_rate_without_a_journal_is_refused_at_start() -> None:
    runner = SagaRunner(FourMethodStore(), sagas=[Shipping])
    runner.command(ShipOrder, shared_rate=5)(lambda command: None)
    with pytest.raises(DefinitionError, match="needs a journal"):
        await runner.start()


@pytest.mark.parametrize("shared", ["sqlite", "postgres", "nats"], indirect=True)
async def test_tokens_of_a_shared_rate_are_taken_once_on_every_journal(shared: Bench) -> None:
    journal: Any = shared.journal
    await journal.open()
    now = shared.clock.now()
    taken = await asyncio.gather(
        *(take_tokens(journal, "Ship Order::1", 40, now, wanted=10, back=0) for _ in range(4)), return_exceptions=True
    )
    got = [one[0] for one in taken if isinstance(one, tuple)]
    assert sum(got) <= 40
    assert got.count(10) >= 2
    left = 40 - sum(got)
    assert (await take_tokens(journal, "Ship Order::1", 40, now, wanted=100, back=0))[0] == left
    assert [one async for one in instances(journal, finished=True)] == []
