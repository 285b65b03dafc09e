"""How a runner waits with messages, stops, and tries again what was delivered before: on NATS, like all of intake."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from sagalog import (
    BrokerRefusedError,
    InMemoryJournal,
    JournalUnavailableError,
    PersistentRepr,
    RunnerSettings,
    RunnerStoppedError,
    Saga,
    SagalogError,
    SagaRunner,
    starts,
)
from sagalog.brokers import SinkMessage, SourceMessage, Subscription
from sagalog.brokers.nats import NatsSource
from sagalog.runner import runner as runner_module
from sagalog.runner.started import Started

from ..servers.processes import eventually
from .placed import Place, counts, logged, running
from .shop import Added, Counted, Ship, State, event


async def test_while_the_journal_is_away_messages_wait_here_in_order(place: Place) -> None:
    journal, away, asked = InMemoryJournal(), [True], asyncio.Event()
    write = journal.write_batch

    async def sometimes(records: Sequence[PersistentRepr]) -> Sequence[SagalogError | None]:
        asked.set()
        if away[0]:
            return [JournalUnavailableError("away") for _ in records]
        return await write(records)

    journal.write_batch = sometimes  # type: ignore[method-assign]
    for n in range(20):
        await place.into.send(event("a", n))
    async with running(place, journal=journal) as runner:
        await asked.wait()
        await eventually(lambda: counts(runner).retried >= 20)
        assert counts(runner).accepted == 0
        away[0] = False
        await logged(runner, "a", range(20))
        await eventually(lambda: counts(runner).accepted == 20)
        assert counts(runner).dead_letters == 0


async def test_no_more_than_prefetch_are_here_at_once(place: Place) -> None:
    gate, most = asyncio.Event(), [0]

    class Slow(Saga[State]):
        name = "slow"

        @starts(Added, key="order")
        async def added(self, state: State, event: Added) -> None:
            most[0] += 1
            await gate.wait()

    for n in range(30):
        await place.into.send(event(f"o-{n}", n))
    async with SagaRunner(
        InMemoryJournal(), sagas=[Slow], sources=[Subscription(place.source(), prefetch=7)]
    ) as runner:
        await eventually(lambda: most[0] == 7)
        assert runner.gauges().sources[0].under_way == 7
        gate.set()
        await eventually(lambda: counts(runner).accepted == 30)


async def test_a_stop_finishes_what_is_under_way_and_gives_back_the_rest(place: Place) -> None:
    gate, begun = asyncio.Event(), asyncio.Event()
    kept = timedelta(minutes=5)  # on a busy machine too, only what is given back comes again

    class Slow(Saga[State]):
        name = "slow"

        @starts(Added, key="order", again="handle")
        async def added(self, state: State, event: Added) -> None:
            begun.set()
            await gate.wait()
            state.log.append(event.number)

    journal = InMemoryJournal()
    await place.into.send(event("a", 0))
    runner = SagaRunner(journal, sagas=[Slow], sources=[place.source(ack_wait=kept)])
    await runner.start()
    await begun.wait()
    for n in range(1, 5):  # they come into the lane of the first one, which is at work
        await place.into.send(event("a", n))
    await eventually(lambda: counts(runner).received == 5)
    stopping = asyncio.create_task(runner.stop())
    gate.set()
    await stopping
    async with SagaRunner(journal, sagas=[Slow], sources=[place.source(ack_wait=kept)]) as runner:

        async def all_there() -> bool:
            return (await runner.state(Slow, "a")).log == list(range(5))

        await eventually(all_there)
        assert counts(runner).received == 4


async def test_a_dead_letter_that_takes_long_holds_up_nothing_that_the_runner_does_at_a_stop(place: Place) -> None:
    begun, answers = asyncio.Event(), asyncio.Event()

    class Slow(NatsSource):
        async def reject(self, message: SourceMessage, reason: str) -> None:
            begun.set()
            await answers.wait()
            await super().reject(message, reason)

    source = Slow(place.url, stream=place.inside, durable="workers")
    await place.into.send(SinkMessage(b"{", "no event"))
    patient = RunnerSettings(stop_timeout=timedelta(minutes=5))
    runner = SagaRunner("memory://", sagas=[Counted], dispatch={Ship: print}, sources=[source], settings=patient)
    await runner.start()
    await begun.wait()
    stopping = asyncio.create_task(runner.stop())

    async def takes_no_more() -> bool:
        try:
            return not await runner.handle(Added("a", 1), message_id="1")
        except RunnerStoppedError:
            return True

    await eventually(takes_no_more, 40)
    assert not stopping.done()
    answers.set()
    await stopping
    assert len(await place.letters()) == 1


async def test_sources_and_command_handlers_have_the_time_of_a_stop_together(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "LEAST_SECONDS", 0.1)
    begun, given = asyncio.Event(), []
    stop = Started.stop

    class Endless(Saga[State]):
        name = "endless"

        @starts(Added, key="order")
        async def added(self, state: State, event: Added) -> None:
            begun.set()
            await asyncio.Event().wait()

    async def stopped(started: Started, seconds: float) -> None:
        given.append(seconds)
        await stop(started, seconds)

    monkeypatch.setattr(Started, "stop", stopped)
    await place.into.send(event("a", 0))
    short = RunnerSettings(stop_timeout=timedelta(seconds=0.3), lease=timedelta(seconds=0.2))
    async with SagaRunner("memory://", sagas=[Endless], sources=[place.source()], settings=short):
        await begun.wait()
    async with SagaRunner("memory://", sagas=[Endless]):
        pass
    assert given[0] == 0.1  # the source has had the rest
    assert given[1] > 1


async def test_a_message_that_was_delivered_too_often_is_not_tried(place: Place) -> None:
    await place.into.send(event("a", 1))
    source = place.source()
    await source.open()
    for _ in range(3):
        await source.give_back(await source.receive(1, timedelta(seconds=1)), timedelta(0))
    await source.close()
    async with running(place, Subscription(place.source(), most_deliveries=3)) as runner:
        await eventually(lambda: counts(runner).dead_letters == 1)
    ((_, reason),) = await place.letters()
    assert reason == "it was delivered 4 times, and no worker finished it"


async def test_what_was_delivered_beside_it_is_tried_alone_instead(place: Place) -> None:
    working = 0

    class Alone(Saga[State]):
        name = "alone"

        @starts(Added, key="order")
        async def added(self, state: State, event: Added) -> None:
            nonlocal working
            working += 1
            await asyncio.sleep(0)
            assert working == 1
            working -= 1

    for n in range(5):
        await place.into.send(event(f"o-{n}", n))
    source = place.source(ack_wait=timedelta(minutes=5))
    await source.open()
    for _ in range(3):  # as many workers that have died with all of them
        held: list[SourceMessage] = []
        while len(held) < 5:
            held += await source.receive(5, timedelta(seconds=1))
        await source.give_back(held, timedelta(0))
    await source.close()
    subscription = Subscription(place.source(ack_wait=timedelta(minutes=5)), most_deliveries=3)
    async with SagaRunner("memory://", sagas=[Alone], sources=[subscription]) as runner:
        await eventually(lambda: counts(runner).dead_letters + counts(runner).accepted == 5)
        assert runner.counters.handler_errors == 0
    assert [reason for _, reason in await place.letters()] == ["it was delivered 4 times, and no worker finished it"]


@pytest.mark.parametrize("refused", [False, True])
async def test_nothing_is_tried_before_the_broker_has_what_goes_to_the_dead_letters_untried(
    place: Place, refused: bool
) -> None:
    """What is tried next may kill the worker, and the one before would be in front again, in each life of a worker."""
    handled: list[int] = []
    before: list[int] = []

    class Slow(NatsSource):
        async def reject(self, message: SourceMessage, reason: str) -> None:
            if not before:
                for _ in range(1000):
                    await asyncio.sleep(0)
                before.append(len(handled))
            if refused:
                raise BrokerRefusedError("no dead letter is taken")
            await super().reject(message, reason)

    class Alone(Saga[State]):
        name = "alone"

        @starts(Added, key="order")
        def added(self, state: State, event: Added) -> None:
            handled.append(event.number)

    for n in range(3):
        await place.into.send(event(f"o-{n}", n))
    source = Slow(place.url, stream=place.inside, durable="workers")
    await source.open()
    for _ in range(3):
        held: list[SourceMessage] = []
        while len(held) < 3:
            held += await source.receive(3, timedelta(seconds=1))
        await source.give_back(held, timedelta(0))
    await source.close()
    async with SagaRunner("memory://", sagas=[Alone], sources=[Subscription(source, most_deliveries=3)]) as runner:
        await eventually(lambda: len(handled) == 2)
        await eventually(lambda: refused or counts(runner).dead_letters == 1)
    assert before == [0]
