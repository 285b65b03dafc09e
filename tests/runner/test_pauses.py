"""Commands of a type that an operator has paused do not leave, on any worker, until they are resumed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sagalog import DefinitionError, RepairError, SagaRunner
from sagalog.decision.controls import Controls, pausing, reasons_of, resuming
from sagalog.journal.controls import change_controls, read_controls
from sagalog.operating.inspect import instances

from ..shipping import (
    CountingJournal,
    Mail,
    Mailed,
    Ordered,
    Receivers,
    ShipOrder,
    Shipping,
    UnshipOrder,
    virtually,
    worker,
)
from .conftest import Bench, FourMethodStore

plain_or_not = pytest.mark.parametrize("plain", [False, True], ids=["async handlers", "plain handlers"])


@plain_or_not
def test_a_paused_command_waits_until_it_is_resumed_and_the_others_leave(plain: bool) -> None:
    async def story() -> None:
        journal, receivers = CountingJournal(), Receivers()
        async with worker(journal, receivers, plain=plain) as runner:
            assert await runner.pause(ShipOrder, note="the warehouse is closed", by="ann")
            await runner.handle(Ordered("1"))
            await runner.handle(Mailed("2"))
            await asyncio.sleep(600)
            assert receivers.of(ShipOrder) == []
            assert receivers.of(Mail) == ["2"]
            assert await runner.resume("ShipOrder")
            await asyncio.sleep(1)
            assert receivers.of(ShipOrder) == ["1"]
            assert receivers.attempts == [1, 1]

    virtually(story())


def test_other_workers_hold_to_a_pause_and_to_its_end_within_two_seconds() -> None:
    async def story() -> None:
        journal, receivers = CountingJournal(), Receivers()
        async with worker(journal, receivers) as one, worker(journal, receivers) as other:
            await one.pause(ShipOrder)
            await asyncio.sleep(2)
            await other.handle(Ordered("1"))
            await asyncio.sleep(100)
            assert receivers.left == []
            await one.resume(ShipOrder)
            await asyncio.sleep(2)
            assert receivers.of(ShipOrder) == ["1"]

    virtually(story())


def test_a_pause_outlives_every_worker() -> None:
    async def story() -> None:
        journal, receivers = CountingJournal(), Receivers()
        async with worker(journal, receivers) as runner:
            await runner.pause(ShipOrder, note="why", by="ann")
            await runner.handle(Ordered("1"))
        async with worker(journal, receivers) as runner:
            assert runner.paused["ShipOrder"].note == "why"
            await runner.handle(Ordered("2"))
            await asyncio.sleep(100)
            assert receivers.left == []
            await runner.resume(ShipOrder)
            await asyncio.sleep(1)
            assert sorted(receivers.of(ShipOrder)) == ["1", "2"]

    virtually(story())


def test_the_journal_is_looked_at_once_before_the_first_command_and_then_about_once_a_second() -> None:
    async def story() -> None:
        journal, receivers = CountingJournal(), Receivers()
        async with worker(journal, receivers) as runner:
            assert len(journal.control_looks) == 1
            for number in range(100):
                await runner.handle(Ordered(str(number)))
                await asyncio.sleep(0.1)
            assert len(journal.control_looks) <= 22

    virtually(story())


def test_what_waits_for_days_is_not_written_again_and_its_lease_is_moved_once_a_minute() -> None:
    async def story() -> None:
        journal, receivers = CountingJournal(), Receivers()
        async with (
            worker(journal, receivers, due_poll=timedelta(seconds=30)) as one,
            worker(journal, receivers, due_poll=timedelta(seconds=30)),
        ):
            await one.pause(ShipOrder)
            for number in range(10):
                await one.handle(Ordered(str(number)))
            writes = journal.writes
            await asyncio.sleep(7_200)
            assert journal.writes == writes
            assert journal.moves < 10 * (7_200 / 60 + 10)
            await one.resume(ShipOrder)
            await asyncio.sleep(1)
            assert len(receivers.of(ShipOrder)) == 10
            assert one.counters.takeovers == 0

    virtually(story())


def test_what_a_dead_worker_had_paused_is_taken_over_without_counting_and_not_in_circles() -> None:
    async def story() -> None:
        journal, receivers = CountingJournal(), Receivers()
        async with worker(journal, receivers) as runner:
            await runner.pause(ShipOrder)
            await runner.handle(Ordered("1"))
        for _ in range(12):  # more than max_takeovers
            async with worker(journal, receivers) as runner:
                await asyncio.sleep(70)
        assert not (await journal.record("1")).parked
        assert (await journal.record("1")).takeovers == 0
        async with worker(journal, receivers) as one, worker(journal, receivers) as other:
            await asyncio.sleep(200)
            writes = journal.writes
            await asyncio.sleep(600)
            assert journal.writes == writes
            await one.resume(ShipOrder)
            await asyncio.sleep(70)
            assert receivers.of(ShipOrder) == ["1"]
            assert one.counters.commands + other.counters.commands == 1

    virtually(story())


@pytest.mark.parametrize("seconds", [0.5, 100])
def test_an_instance_whose_command_is_paused_is_cancelled_and_the_command_never_leaves(seconds: float) -> None:
    async def story() -> None:
        journal, receivers = CountingJournal(), Receivers()
        async with worker(journal, receivers) as one, worker(journal, receivers) as other:
            await one.pause(ShipOrder)
            await asyncio.sleep(2)
            await one.handle(Ordered("1"))
            await one.handle(Ordered("2"))
            await asyncio.sleep(seconds)
            await one.cancel("shipping", "1")
            await other.cancel("shipping", "2")
            await asyncio.sleep(1)
            assert sorted(receivers.of(UnshipOrder)) == ["1", "2"]
            await one.resume(ShipOrder)
            await asyncio.sleep(200)
            assert receivers.of(ShipOrder) == []
            assert [one.status async for one in instances(journal, finished=True)] == ["compensated", "compensated"]

    virtually(story())


def test_one_paused_command_can_be_dropped_and_the_next_of_its_outbox_leaves() -> None:
    async def story() -> None:
        journal, receivers = CountingJournal(), Receivers()
        async with worker(journal, receivers) as runner:
            await runner.pause(ShipOrder)
            await runner.handle(Ordered("1"))
            await runner.handle(Mailed("1"))
            await asyncio.sleep(100)
            (entry, *_) = (await journal.record("1")).outbox
            await runner.drop("shipping", "1", entry.id)
            await asyncio.sleep(1)
            await runner.resume(ShipOrder)
            await asyncio.sleep(100)
            assert receivers.of(ShipOrder) == []

    virtually(story())


def test_a_runner_with_paused_commands_stops_at_once() -> None:
    async def story() -> None:
        journal, receivers = CountingJournal(), Receivers()
        async with worker(journal, receivers) as runner:
            await runner.pause(ShipOrder)
            for number in range(10):
                await runner.handle(Ordered(str(number)))
            await asyncio.sleep(100)
            now = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - now < 0.1

    virtually(story())


def test_health_names_what_is_paused_and_the_worker_stays_ready() -> None:
    async def story() -> None:
        journal, receivers = CountingJournal(), Receivers()
        async with worker(journal, receivers) as runner:
            await runner.pause(ShipOrder, note="closed", by="ann")
            await runner.handle(Ordered("1"))
            await asyncio.sleep(100)
            health = await runner.health()
            assert health.live
            assert health.ready
            (reason,) = health.reasons
            assert "ShipOrder" in reason
            assert "ann" in reason
            assert "closed" in reason
            (gauges,) = runner.gauges().commands
            assert (gauges.name, gauges.waiting, gauges.paused) == ("ShipOrder", 1, True)
            await runner.resume(ShipOrder)
            assert (await runner.health()).reasons == ()

    virtually(story())


def test_pausing_twice_keeps_who_said_it_first_and_resuming_twice_has_no_effect() -> None:
    async def story() -> None:
        journal = CountingJournal()
        async with worker(journal, Receivers()) as runner:
            assert await runner.pause(ShipOrder, by="ann")
            assert not await runner.pause(ShipOrder, by="bob")
            assert runner.paused["ShipOrder"].by == "ann"
            assert await runner.resume(ShipOrder)
            assert not await runner.resume(ShipOrder)

    virtually(story())


def test_a_pause_is_no_instance_in_any_list() -> None:
    async def story() -> None:
        journal = CountingJournal()
        async with worker(journal, Receivers()) as runner:
            await runner.pause(ShipOrder)
            assert [one async for one in instances(journal, finished=True)] == []

    virtually(story())


async def test_pauses_of_several_operators_at_once_are_all_kept(quick: Bench) -> None:
    journal: Any = quick.journal
    await journal.open()
    names = [f"Type{number}" for number in range(8)]
    await asyncio.gather(*(change_controls(journal, pausing(name, at=quick.clock.now())) for name in names))
    assert sorted((await read_controls(journal))[0].paused) == names
    await asyncio.gather(*(change_controls(journal, resuming(name)) for name in names))
    assert (await read_controls(journal))[0].paused == {}


@pytest.mark.parametrize("shared", ["postgres", "nats"], indirect=True)
async def test_a_pause_is_kept_by_the_journals_with_a_server(shared: Bench) -> None:
    journal: Any = shared.journal
    await journal.open()
    at = shared.clock.now()
    await change_controls(journal, pausing("ShipOrder", at=at, by="ann", note="closed"))
    await change_controls(journal, pausing("Mail", at=at))
    controls, version = await read_controls(journal)
    assert version == 2
    assert controls.paused["ShipOrder"].note == "closed"
    await change_controls(journal, resuming("ShipOrder"))
    assert list((await read_controls(journal))[0].paused) == ["Mail"]
    assert [one async for one in instances(journal, finished=True)] == []


def test_what_operators_say_of_a_pause_is_told_in_one_line() -> None:
    controls = pausing("Ship\nOrder", at=datetime(2030, 1, 1, tzinfo=UTC), by="ann\nok", note="closed\nok")(Controls())
    assert list(reasons_of(controls)) == [
        r"commands Ship\nOrder are paused since 2030-01-01 00:00:00 UTC by ann\nok: closed\nok"
    ]


async def test_a_pause_without_a_journal_and_one_that_cannot_be_kept_are_refused() -> None:
    runner = SagaRunner(FourMethodStore(), sagas=[Shipping], dispatch=lambda command: None)
    async with runner:
        with pytest.raises(DefinitionError, match="need a journal"):
            await runner.pause(ShipOrder)
    async with SagaRunner("memory://", sagas=[Shipping], dispatch=lambda command: None) as runner:
        for given in ({"note": "x" * 3000}, {"by": "\ud800"}, {"note": 7}):
            with pytest.raises(RepairError):
                await runner.pause(ShipOrder, **given)
        with pytest.raises(RepairError, match="empty"):
            await runner.pause("")
