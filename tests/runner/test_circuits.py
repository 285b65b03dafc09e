"""A receiver that is away: its commands wait together, one at a time asks whether it is back, and all others go on."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from sagalog import Circuit, CircuitChange, CommandRefused, DefinitionError, Hook, RetryPolicy
from sagalog.journal.circuits import open_circuits
from sagalog.runner.circuit import CircuitState

from ..shipping import CountingJournal, Mail, Mailed, Ordered, Receivers, ShipOrder, UnshipOrder, virtually, worker

AWAY = ConnectionError("away")
CIRCUIT = Circuit(failures=5, probe_after=timedelta(seconds=10), probe_cap=timedelta(seconds=40))
QUICK = RetryPolicy(attempts=None, base=timedelta(milliseconds=100), cap=timedelta(seconds=1))
plain_or_not = pytest.mark.parametrize("plain", [False, True], ids=["async handlers", "plain handlers"])


@plain_or_not
def test_a_circuit_opens_after_failures_in_a_row_and_asks_with_one_command_at_a_time_ever_less_often(
    plain: bool,
) -> None:
    async def story() -> None:
        receivers = Receivers()
        receivers.away[ShipOrder] = AWAY
        async with worker(
            CountingJournal(), receivers, plain=plain, policy={"circuit": CIRCUIT, "retry": QUICK}
        ) as runner:
            for number in range(20):
                await runner.handle(Ordered(str(number)))
            await asyncio.sleep(3)
            opened = len(receivers.left)
            assert 5 <= opened <= 20  # those that had left before the fifth failed
            await asyncio.sleep(200)
            probes = [round(at) for at, _, _ in receivers.left[opened:]]
            assert probes[:4] == [10, 30, 70, 110]
            assert runner.counters.dispatch_errors == len(receivers.left)

    virtually(story())


@plain_or_not
def test_a_circuit_closes_with_the_first_answer_and_everything_leaves_that_has_waited(plain: bool) -> None:
    async def story() -> None:
        receivers = Receivers()
        receivers.away[ShipOrder] = AWAY
        async with worker(
            CountingJournal(), receivers, plain=plain, policy={"circuit": CIRCUIT, "retry": QUICK}
        ) as runner:
            for number in range(50):
                await runner.handle(Ordered(str(number)))
            await asyncio.sleep(65)
            health = await runner.health()
            assert health.ready
            assert "receiver has been away" in health.reasons[0]
            assert [(one.name, one.circuit_open) for one in runner.gauges().commands] == [("ShipOrder", True)]
            receivers.away.clear()
            tried = len(receivers.left)
            await asyncio.sleep(15)
            assert len(set(receivers.of(ShipOrder)[tried:])) == 50
            assert (await runner.health()).reasons == ()

    virtually(story())


def test_a_refusal_is_an_answer() -> None:
    async def story() -> None:
        receivers = Receivers()
        receivers.away[ShipOrder] = CommandRefused("sold out")
        async with worker(CountingJournal(), receivers, policy={"circuit": Circuit(failures=1)}) as runner:
            for number in range(5):
                await runner.handle(Ordered(str(number)))
            await asyncio.sleep(1)
            assert len(receivers.of(ShipOrder)) == 5
            assert (await runner.health()).reasons == ()

    virtually(story())


def test_what_waits_at_an_open_circuit_counts_no_attempt() -> None:
    async def story() -> None:
        receivers = Receivers()
        receivers.away[ShipOrder] = AWAY
        policy = {
            "circuit": Circuit(failures=1, probe_after=timedelta(seconds=5), probe_cap=timedelta(seconds=5)),
            "retry": RetryPolicy(attempts=3),
        }
        async with worker(CountingJournal(), receivers, policy=policy) as runner:
            await runner.handle(Ordered("0"))
            await asyncio.sleep(1)
            for number in range(1, 4):
                await runner.handle(Ordered(str(number)))
            await asyncio.sleep(8)
            counts = Counter(receivers.of(ShipOrder))
            assert sum(counts.values()) == runner.counters.dispatch_errors == 2
            assert runner.counters.parked == 0
            await asyncio.sleep(300)
            assert set(Counter(receivers.of(ShipOrder)).values()) == {3}  # as many as its policy says, and no fewer
            assert runner.counters.parked == 4

    virtually(story())


def test_one_slow_receiver_and_one_that_is_away_do_not_hold_up_the_others() -> None:
    async def story() -> None:
        receivers = Receivers()
        receivers.away[ShipOrder] = AWAY
        receivers.does = lambda command: asyncio.sleep(3600 if isinstance(command, UnshipOrder) else 0)
        policy = {"circuit": CIRCUIT, "retry": QUICK, "rate": 5}
        async with worker(
            CountingJournal(), receivers, policy=policy, max_dispatch=2, stop_timeout=timedelta(0)
        ) as runner:
            for number in range(100):
                await runner.handle(Ordered(str(number)))
            for number in range(10):
                await runner.cancel("shipping", str(number))
            begun = asyncio.get_running_loop().time()
            for number in range(100):
                await runner.handle(Mailed(f"m{number}"))
            await asyncio.sleep(1)
            assert len(receivers.of(Mail)) == 100
            assert max(at for at, name, _ in receivers.left if name == "Mail") - begun < 1

    virtually(story())


def test_a_probe_that_hangs_is_given_up_by_its_timeout_and_the_next_one_asks() -> None:
    from datetime import timedelta

    async def story() -> None:
        receivers = Receivers()
        receivers.does = lambda command: asyncio.sleep(3600)
        policy = {"circuit": CIRCUIT, "retry": QUICK, "timeout": timedelta(seconds=3)}
        async with worker(CountingJournal(), receivers, policy=policy) as runner:
            for number in range(8):
                await runner.handle(Ordered(str(number)))
            await asyncio.sleep(200)
            at = [at for at, _, _ in receivers.left]
            assert 5 <= len(at) <= 16
            assert len([one for one in at if one > 12]) >= 4
            receivers.does = None
            await asyncio.sleep(60)
            assert runner.counters.commands == 8

    virtually(story())


def test_a_probe_that_an_operator_drops_lets_the_next_one_ask() -> None:
    async def story() -> None:
        journal, receivers = CountingJournal(), Receivers()
        receivers.away[ShipOrder] = AWAY
        async with worker(journal, receivers, policy={"circuit": CIRCUIT, "retry": QUICK}) as runner:
            for number in range(8):
                await runner.handle(Ordered(str(number)))
            await asyncio.sleep(5)
            receivers.away.clear()
            receivers.does = lambda command: asyncio.sleep(3600)
            tried = len(receivers.left)
            await asyncio.sleep(10)
            (probe,) = receivers.of(ShipOrder)[tried:]
            await runner.drop("shipping", probe, "1/0")
            receivers.does = None
            await asyncio.sleep(10)
            assert len(set(receivers.of(ShipOrder)[tried:])) == 8

    virtually(story())


def test_nothing_is_counted_by_a_circuit_that_says_nothing_about_the_receiver() -> None:
    async def story() -> None:
        receivers = Receivers()
        receivers.away[ShipOrder] = TypeError("a mistake in our code")
        async with worker(CountingJournal(), receivers, policy={"circuit": Circuit(failures=1)}) as runner:
            for number in range(5):
                await runner.handle(Ordered(str(number)))
            await asyncio.sleep(1)
            assert len(receivers.of(ShipOrder)) == runner.counters.parked == 5

    virtually(story())


def test_an_answer_to_what_left_before_it_opened_closes_a_circuit_and_a_failure_of_that_changes_nothing() -> None:
    state = CircuitState(Circuit(failures=2, probe_after=timedelta(seconds=10)))
    assert [state.failed(0), state.failed(0), state.failed(1)] == [False, True, False]
    assert state.try_at == 10
    assert state.answered()
    assert not state.is_open
    assert not state.failed(2)


@pytest.mark.parametrize(
    "given",
    [
        {"failures": 0},
        {"failures": True},
        {"failures": 1.5},
        {"probe_after": timedelta(0)},
        {"probe_after": float("nan")},
        {"probe_after": timedelta(seconds=-1)},
        {"probe_after": timedelta(seconds=1e12), "probe_cap": timedelta(seconds=1e12)},
        {"probe_cap": timedelta(seconds=1)},
        {"probe_cap": "60"},
    ],
)
def test_a_circuit_with_odd_values_is_refused_when_it_is_made(given: Any) -> None:
    with pytest.raises(DefinitionError):
        Circuit(**given)


def test_an_open_circuit_is_told_to_the_journal_until_it_closes_or_its_worker_stops() -> None:
    async def story() -> None:
        journal, receivers = CountingJournal(), Receivers()
        receivers.away[ShipOrder] = AWAY
        policy = {"circuit": CIRCUIT, "retry": QUICK}

        async def told() -> list[tuple[str, str]]:
            return [(one.command, one.error) for one in await open_circuits(journal, runner.clock.now())]

        async with worker(journal, receivers, policy=policy) as runner:
            for number in range(10):
                await runner.handle(Ordered(str(number)))
            await asyncio.sleep(5)
            assert await told() == [("ShipOrder", "ConnectionError")]
            before = journal.own_writes
            await asyncio.sleep(600)
            assert await told() == [("ShipOrder", "ConnectionError")]
            assert journal.own_writes - before <= 11  # once a minute
            receivers.away.clear()
            await asyncio.sleep(60)
            assert await told() == []
            receivers.away[ShipOrder] = AWAY
            for number in range(10, 20):
                await runner.handle(Ordered(str(number)))
            await asyncio.sleep(5)
            assert len(await told()) == 1
        assert await told() == []
        async with worker(journal, receivers, policy=policy) as runner:
            await asyncio.sleep(20)
            await asyncio.sleep(200)
            assert len(await told()) == 1
            journal.own_away = True  # as if it had died
        assert len(await told()) == 1
        await asyncio.sleep(200)
        assert await told() == []

    virtually(story())


def test_hooks_hear_of_a_circuit_that_opens_and_closes() -> None:
    class Ear(Hook):
        def __init__(self) -> None:
            self.heard: list[CircuitChange] = []

        def circuit_changed(self, change: CircuitChange) -> None:
            self.heard.append(change)

    async def story() -> None:
        ear, receivers = Ear(), Receivers()
        receivers.away[ShipOrder] = AWAY
        policy = {"circuit": CIRCUIT, "retry": QUICK}
        async with worker(CountingJournal(), receivers, policy=policy).using(hooks=[ear]) as runner:
            for number in range(5):
                await runner.handle(Ordered(str(number)))
            await asyncio.sleep(5)
            receivers.away.clear()
            await asyncio.sleep(60)
        assert ear.heard == [
            CircuitChange("ShipOrder", "open", 5, "ConnectionError"),
            CircuitChange("ShipOrder", "closed", 0),
        ]

    virtually(story())
