"""Activities pass a gate, as commands do: they wait while they are paused, their receiver is away, their rate used up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from sagalog import (
    Call,
    Circuit,
    CommandRefused,
    DefinitionError,
    Hook,
    InMemoryJournal,
    ItinerarySaga,
    RetryPolicy,
    RunnerSettings,
    SagaRunner,
    activity,
)
from sagalog.testing.simulation.clock import LoopClock

from ..shipping import virtually
from .conftest import FourMethodStore


@dataclass
class Booked:
    trip_id: str


@dataclass
class Trip:
    request: Booked | None = None
    flight: str | None = None
    hotel: str | None = None
    tickets: str | None = None


class Agency:
    """The outside: what was called, when and in which attempt; `does` may raise."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, str, str]] = []  # when, name, trip
        self.attempts: list[int] = []
        self.does: Callable[[str], None] = lambda name: None

    def call(self, name: str, call: Call) -> str:
        self.calls.append((round(asyncio.get_running_loop().time(), 3), name, call.correlation_id))
        self.attempts.append(call.attempt)
        self.does(name)
        return name

    def of(self, name: str) -> list[str]:
        return [trip for _, called, trip in self.calls if called == name]

    def moments(self, name: str) -> list[float]:
        return [at for at, called, _ in self.calls if called == name]


def trips(*, plain: bool = False, **options: Any) -> Any:
    """Return a saga whose flight has these options. A hotel is booked beside it, tickets come after both."""

    class Asynchronous(ItinerarySaga[Trip]):
        name = "trip"
        starts_with, key = Booked, "trip_id"

        def __init__(self, agency: Agency) -> None:
            self.agency = agency

        @activity(after=(), **options)
        async def flight(self, trip: Trip, call: Call) -> str:
            return self.agency.call("flight", call)

        @flight.undo
        async def cancel_flight(self, trip: Trip, call: Call) -> None:
            self.agency.call("cancel_flight", call)

        @activity(after=())
        async def hotel(self, trip: Trip, call: Call) -> str:
            return self.agency.call("hotel", call)

        @activity(after=(flight, hotel))
        async def tickets(self, trip: Trip, call: Call) -> str:
            return self.agency.call("tickets", call)

    class Plain(Asynchronous):
        @activity(after=(), **options)
        def flight(self, trip: Trip, call: Call) -> str:
            return self.agency.call("flight", call)

        @flight.undo
        def cancel_flight(self, trip: Trip, call: Call) -> None:
            self.agency.call("cancel_flight", call)

        @activity(after=(flight, "hotel"))
        def tickets(self, trip: Trip, call: Call) -> str:
            return self.agency.call("tickets", call)

    return Plain if plain else Asynchronous


def worker(journal: Any, saga: Any, *, hooks: Any = (), **settings: Any) -> SagaRunner:
    return SagaRunner(
        journal, sagas=[saga], clock=LoopClock(timedelta(0)), hooks=hooks, settings=RunnerSettings(**settings)
    )


plain_or_not = pytest.mark.parametrize("plain", [False, True], ids=["async methods", "plain methods"])


@plain_or_not
def test_a_paused_activity_is_not_called_until_it_is_resumed_and_those_beside_it_are(plain: bool) -> None:
    async def story() -> None:
        journal, agency = InMemoryJournal(), Agency()
        saga = trips(plain=plain, retry=RetryPolicy(attempts=1))(agency)
        async with worker(journal, saga) as one, worker(journal, saga) as other:
            assert await one.pause("trip.flight", note="the airline asks for it", by="ann")
            await asyncio.sleep(2)
            await one.handle(Booked("1"))
            await other.handle(Booked("2"))
            await asyncio.sleep(600)
            assert sorted(agency.of("hotel")) == ["1", "2"]
            assert agency.of("flight") == agency.of("tickets") == []
            health = await other.health()
            assert health.ready
            assert health.reasons[0].startswith("commands trip.flight are paused")
            assert await other.resume("trip.flight")
            await asyncio.sleep(2)
            assert sorted(agency.of("tickets")) == ["1", "2"]
            assert sorted(agency.of("flight")) == ["1", "2"]
            assert set(agency.attempts) == {1}
            assert one.counters.takeovers == other.counters.takeovers == 0

    virtually(story())


def test_an_activity_that_is_paused_can_fail_by_its_deadline_and_is_never_called_then() -> None:
    async def story() -> None:
        agency = Agency()
        saga = trips(within=timedelta(minutes=5))(agency)
        async with worker(InMemoryJournal(), saga) as runner:
            await runner.pause("trip.flight")
            await runner.handle(Booked("1"))
            assert (await runner.outcome(saga, "1")).status == "compensated"
            await runner.resume("trip.flight")
            await asyncio.sleep(600)
            assert agency.of("flight") == []

    virtually(story())


@plain_or_not
def test_an_undo_is_paused_by_its_own_name(plain: bool) -> None:
    async def story() -> None:
        agency = Agency()
        saga = trips(plain=plain)(agency)

        def refuse(name: str) -> None:
            if name == "tickets":
                raise CommandRefused("sold out")

        agency.does = refuse
        async with worker(InMemoryJournal(), saga) as runner:
            await runner.pause("trip.flight.undo")
            await runner.handle(Booked("1"))
            await asyncio.sleep(600)
            assert agency.of("flight") == ["1"]
            assert agency.of("cancel_flight") == []
            await runner.resume("trip.flight.undo")
            assert (await runner.outcome(saga, "1")).status == "compensated"
            assert agency.of("cancel_flight") == ["1"]

    virtually(story())


@plain_or_not
def test_an_activity_is_called_no_faster_than_its_rate_and_the_others_do_not_wait(plain: bool) -> None:
    async def story() -> None:
        agency = Agency()
        async with worker(InMemoryJournal(), trips(plain=plain, rate=2)(agency)) as runner:
            for number in range(20):
                await runner.handle(Booked(str(number)))
            await asyncio.sleep(0.4)
            assert len(agency.of("hotel")) == 20
            await asyncio.sleep(11)
            moments = agency.moments("flight")
            assert len(moments) == len(set(moments)) == 20
            assert min(b - a for a, b in pairwise(moments)) > 0.49
            assert len(agency.of("tickets")) == 20

    virtually(story())


def test_workers_keep_the_shared_rate_of_an_activity_together() -> None:
    async def story() -> None:
        journal, agency = InMemoryJournal(), Agency()
        saga = trips(shared_rate=5)(agency)
        async with worker(journal, saga) as one, worker(journal, saga) as other:
            for number in range(60):
                await (one, other)[number % 2].handle(Booked(str(number)))
            await asyncio.sleep(20)
            moments = agency.moments("flight")
            assert len(moments) == 60
            assert moments[-1] - moments[0] > 60 / 5 - 3

    virtually(story())


@plain_or_not
def test_the_circuit_of_an_activity_opens_and_one_call_at_a_time_asks_whether_its_receiver_is_back(plain: bool) -> None:
    class Listening(Hook):
        def __init__(self) -> None:
            self.heard: list[tuple[str, str]] = []

        def circuit_changed(self, change: Any) -> None:
            self.heard.append((change.command, change.state))

    async def story() -> None:
        agency, hook = Agency(), Listening()
        circuit = Circuit(failures=3, probe_after=timedelta(seconds=10), probe_cap=timedelta(seconds=10))
        saga = trips(
            plain=plain,
            circuit=circuit,
            retry=RetryPolicy(attempts=20, base=timedelta(milliseconds=100), cap=timedelta(milliseconds=100)),
        )(agency)

        def away(name: str) -> None:
            if name == "flight":
                raise ConnectionError("away")

        agency.does = away
        async with worker(InMemoryJournal(), saga, hooks=[hook]) as runner:
            for number in range(30):
                await runner.handle(Booked(str(number)))
            await asyncio.sleep(1)
            called = len(agency.of("flight"))
            assert called <= 30  # those that had left when it opened
            assert len(agency.of("hotel")) == 30
            assert (
                (await runner.health())
                .reasons[0]
                .startswith("commands trip.flight wait, because their receiver has been")
            )
            await asyncio.sleep(59)
            assert len(agency.of("flight")) - called <= 6
            agency.does = lambda name: None
            await asyncio.sleep(12)
            assert len(agency.of("tickets")) == 30
            assert hook.heard == [("trip.flight", "open"), ("trip.flight", "closed")]
            assert (await runner.health()).reasons == ()

    virtually(story())


def test_the_undo_of_an_activity_has_the_same_policy_and_a_circuit_of_its_own() -> None:
    async def story() -> None:
        agency = Agency()
        saga = trips(circuit=Circuit(failures=1, probe_after=timedelta(seconds=60)))(agency)

        def away(name: str) -> None:
            if name == "tickets":
                raise CommandRefused("sold out")
            if name == "cancel_flight":
                raise ConnectionError("away")

        agency.does = away
        async with worker(InMemoryJournal(), saga) as runner:
            await runner.handle(Booked("1"))
            await asyncio.sleep(59)
            assert agency.of("cancel_flight") == ["1"]
            assert (await runner.health()).reasons[0].startswith("commands trip.flight.undo wait")
            await runner.handle(Booked("2"))
            await asyncio.sleep(0.5)
            assert agency.of("flight") == ["1", "2"]
            agency.does = lambda name: None
            assert (await runner.outcome(saga, "1")).status == "compensated"

    virtually(story())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rate": 0}, r"\w+\.flight: rate= of an activity must be from"),
        ({"rate": True}, "rate= of an activity must be a number of calls a second, not bool"),
        ({"shared_rate": float("nan")}, "shared_rate= of an activity must be from"),
        ({"circuit": 5}, "circuit= must be a Circuit, not int"),
        ({"circuit": Circuit}, "circuit= must be a Circuit, not StructMeta"),
    ],
)
def test_odd_rates_and_circuits_are_refused_when_the_class_is_made(options: Any, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        trips(**options)


def test_a_shared_rate_of_an_activity_needs_a_journal() -> None:
    async def story() -> None:
        saga = trips(shared_rate=5)(Agency())
        runner = SagaRunner(FourMethodStore(), sagas=[saga])
        with pytest.raises(DefinitionError, match="shared_rate"):
            await runner.start()

    virtually(story())
