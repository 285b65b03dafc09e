"""Guarantees 1, 2 and 4: accepted events are kept, each changes a saga once, in order."""

from __future__ import annotations

import asyncio

import pytest

from sagalog import (
    DefinitionError,
    InvalidEventError,
    JournalSagaStateStore,
    JournalUnavailableError,
    Outcome,
    PayloadTooLargeError,
    RunnerStoppedError,
    Status,
)

from ..orders import Asked, Closed, Noted, Paid, Placed
from .conftest import Bench, Gate


async def test_an_accepted_event_is_there_for_the_next_runner(bench: Bench) -> None:
    async with bench.runner() as runner:
        await runner.handle(Placed("a", 5), message_id="m1")
        await runner.handle(Paid("a"), message_id="m2")
    async with bench.runner() as runner:
        await runner.handle(Noted("a", "hello"), message_id="m3")
        await runner.settle()
    assert await bench.log("a") == ["placed", "paid", "hello"]
    assert (await bench.record("a")).inbox == ("m1", "m2", "m3")


async def test_a_message_id_changes_a_saga_once_when_delivered_at_the_same_time(bench: Bench) -> None:
    async with bench.runner() as runner:
        receipts = await asyncio.gather(*(runner.handle(Placed("a"), message_id="m1") for _ in range(20)))
    assert sum(receipt.handled for receipt in receipts) == 1
    assert sum(receipt.duplicate for receipt in receipts) == 19
    assert await bench.log("a") == ["placed"]


async def test_a_message_id_changes_a_saga_once_across_a_restart(bench: Bench) -> None:
    async with bench.runner() as runner:
        await runner.handle(Placed("a"), message_id="m1")
    async with bench.runner() as runner:
        assert (await runner.handle(Placed("a"), message_id="m1")).duplicate


async def test_a_late_duplicate_of_the_starting_event_does_not_start_the_saga_again(bench: Bench) -> None:
    async with bench.runner() as runner:
        await runner.handle(Placed("a"), message_id="m1")
        await runner.handle(Closed("a"), message_id="m2")
        await runner.settle()
        assert (await runner.handle(Placed("a"), message_id="m1")).duplicate
    async with bench.runner() as runner:
        assert (await runner.handle(Placed("a"), message_id="m1")).duplicate
        assert (await runner.handle(Closed("a"), message_id="m2")).duplicate
        await runner.settle()
    assert bench.world.names == ["Reserve", "Ship"]
    assert (await bench.record("a")).status is Status.COMPLETED


async def test_after_completion_a_new_starting_event_begins_the_next_incarnation(bench: Bench) -> None:
    async with bench.runner() as runner:
        await runner.handle(Placed("a", 5), message_id="m1")
        await runner.handle(Closed("a"), message_id="m2")
        await runner.settle()
        assert (await runner.handle(Placed("a", 7), message_id="m3")).handled
        assert (await runner.handle(Closed("a"), message_id="m2")).duplicate  # of the first one
        await runner.settle()
    record = await bench.record("a")
    assert record.incarnation == 2
    assert await bench.log("a") == ["placed"]
    assert len({command_id for command_id, _ in bench.world.seen}) == len(bench.world.seen) == 3


async def test_after_the_retention_a_finished_saga_is_forgotten(bench: Bench) -> None:
    async with bench.runner() as runner:
        await runner.handle(Placed("a"), message_id="m1")
        await runner.handle(Closed("a"), message_id="m2")
        await runner.settle()
        bench.advance(days=6, hours=23)
        await runner.settle()
        assert await bench.stored("a") is not None
        bench.advance(hours=2)
        await runner.settle()
        assert await bench.stored("a") is None
        assert runner.counters.purged == 1
        assert (await runner.handle(Placed("a"), message_id="m1")).handled


async def test_events_of_one_instance_are_handled_in_the_order_they_came(bench: Bench) -> None:
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        await asyncio.gather(*(runner.handle(Noted("a", str(n))) for n in range(50)))
        await runner.settle()
    assert await bench.log("a") == ["placed", *map(str, range(50))]
    assert [c.text for _, c in bench.world.seen if hasattr(c, "text")] == [str(n) for n in range(50)]


async def test_what_waits_for_an_instance_shares_one_save(shared: Bench) -> None:
    assert shared.journal is not None
    gate = Gate(JournalSagaStateStore(shared.journal, "order"))
    opened, entered = asyncio.Event(), asyncio.Event()

    async def hold(key: str, payload: bytes) -> None:
        entered.set()
        await opened.wait()

    async with shared.runner(gate) as runner:
        await runner.handle(Placed("a"))
        gate.before = hold
        tasks = [asyncio.create_task(runner.handle(Noted("a", "first")))]
        await entered.wait()
        saves = runner.counters.saves
        tasks += [asyncio.create_task(runner.handle(Noted("a", str(n)))) for n in range(30)]
        await asyncio.sleep(0)
        opened.set()
        await asyncio.gather(*tasks)
        assert runner.counters.saves == saves + 2
        assert await shared.log("a") == ["placed", "first", *map(str, range(30))]


async def test_a_slow_instance_does_not_hold_up_others(shared: Bench) -> None:
    assert shared.journal is not None
    gate = Gate(JournalSagaStateStore(shared.journal, "order"))
    opened = asyncio.Event()
    gate.before = lambda key, payload: opened.wait() if key == "slow" else None
    async with shared.runner(gate) as runner:
        slow = asyncio.create_task(runner.handle(Placed("slow")))
        await runner.handle(Placed("quick"))
        assert not slow.done()
        opened.set()
        await slow


async def test_an_event_that_could_not_be_saved_has_changed_nothing(shared: Bench) -> None:
    assert shared.journal is not None
    gate = Gate(JournalSagaStateStore(shared.journal, "order"))

    def refuse(key: str, payload: bytes) -> None:
        raise JournalUnavailableError("the disk is full")

    async with shared.runner(gate) as runner:
        await runner.handle(Placed("a"), message_id="m1")
        await runner.settle()
        before = await shared.stored("a")
        gate.before = refuse
        with pytest.raises(JournalUnavailableError):
            await runner.handle(Paid("a"), message_id="m2")
        assert await shared.stored("a") == before
        gate.before = None
        assert (await runner.handle(Paid("a"), message_id="m2")).handled
        await runner.settle()
    assert shared.world.names == ["Reserve", "Charge"]


async def test_a_result_that_is_not_an_action_is_refused_and_changes_nothing(bench: Bench) -> None:
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
        before = await bench.stored("a")
        with pytest.raises(DefinitionError, match="wrap a command as Send"):
            await runner.handle(Asked("a", "not an action"))
        assert await bench.stored("a") == before
        assert (await runner.handle(Noted("a", "on"))).handled


async def test_an_oversized_event_and_an_oversized_record_are_refused(bench: Bench) -> None:
    async with bench.runner(max_payload_bytes=2_000) as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
        before = await bench.stored("a")
        with pytest.raises(PayloadTooLargeError, match="max_payload_bytes"):
            await runner.handle(Noted("a", "x" * 2_001))
        with pytest.raises(PayloadTooLargeError):
            await runner.handle(Asked("a", "big"))
        assert await bench.stored("a") == before


async def test_in_a_batch_only_the_message_that_makes_the_record_too_large_is_refused(bench: Bench) -> None:
    async with bench.runner(max_payload_bytes=2_000) as runner:
        await runner.handle(Placed("a"))
        results = await asyncio.gather(
            *(runner.handle(event) for event in (Noted("a", "1"), Noted("a", "2"), Asked("a", "big"), Noted("a", "3"))),
            return_exceptions=True,
        )
        assert [type(result).__name__ for result in results] == [
            "Receipt",
            "Receipt",
            "PayloadTooLargeError",
            "Receipt",
        ]
    assert await bench.log("a") == ["placed", "1", "2", "3"]


@pytest.mark.parametrize("message_id", ["", "x" * 1025, "\ud800", 7, b"id"])
async def test_a_bad_message_id_is_refused(bench: Bench, message_id: object) -> None:
    async with bench.runner() as runner:
        with pytest.raises(InvalidEventError):
            await runner.handle(Placed("a"), message_id=message_id)  # type: ignore[arg-type]
    assert await bench.stored("a") is None


@pytest.mark.parametrize("key", ["", None, 1.5, True, b"a", "\ud800"])
async def test_a_bad_key_is_refused(bench: Bench, key: object) -> None:
    async with bench.runner() as runner:
        with pytest.raises(InvalidEventError):
            await runner.handle(Placed(key))  # type: ignore[arg-type]


async def test_an_event_of_no_saga_is_refused_by_its_type(bench: Bench) -> None:
    async with bench.runner() as runner:
        with pytest.raises(InvalidEventError, match="no saga of this runner handles dict"):
            await runner.handle({"order_id": "secret"})


async def test_at_is_only_for_a_runner_in_event_time(bench: Bench) -> None:
    async with bench.runner() as runner:
        with pytest.raises(DefinitionError, match="EventClock"):
            await runner.handle(Placed("a"), at=bench.clock.now())


async def test_a_runner_that_is_not_started_or_stopped_refuses_events(bench: Bench) -> None:
    runner = bench.runner()
    with pytest.raises(RunnerStoppedError, match="async with"):
        await runner.handle(Placed("a"))
    async with runner:
        await runner.handle(Placed("a"))
    with pytest.raises(RunnerStoppedError):
        await runner.handle(Paid("a"))
    async with runner:
        assert (await runner.handle(Paid("a"))).handled


async def test_handle_many_keeps_the_order_and_names_what_failed(bench: Bench) -> None:
    async with bench.runner() as runner:
        receipts = await runner.handle_many([Placed("a"), *(Noted("a", str(n)) for n in range(10))])
        assert [receipt.outcomes["order"] for receipt in receipts] == [Outcome.HANDLED] * 11
        with pytest.raises(ExceptionGroup, match="1 of 3") as caught:
            await runner.handle_many([Noted("a", "10"), Placed(""), Noted("a", "11")])
        (error,) = caught.value.exceptions
        assert isinstance(error, InvalidEventError)
        assert error.__notes__ == ["event 2, message id None"]
    assert await bench.log("a") == ["placed", *map(str, range(12))]


async def test_back_pressure_bounds_what_is_at_work(shared: Bench) -> None:
    assert shared.journal is not None
    gate = Gate(JournalSagaStateStore(shared.journal, "order"))
    opened = asyncio.Event()
    inside: set[str] = set()

    async def hold(key: str, payload: bytes) -> None:
        inside.add(key)
        await opened.wait()

    gate.before = hold
    async with shared.runner(gate, max_in_flight=3) as runner:
        tasks = [asyncio.create_task(runner.handle(Placed(f"o{n}"))) for n in range(10)]
        while len(inside) < 3:
            await asyncio.sleep(0.001)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(inside) == 3
        opened.set()
        await asyncio.gather(*tasks)
    assert len(inside) == 10
