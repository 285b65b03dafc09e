"""Guarantees 5, 6, 10 and 11: several workers on one journal, takeover within the lease, bounded memory."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from sagalog import (
    InMemoryJournal,
    JournalSagaStateStore,
    NoInstanceError,
    OutcomeUnknownError,
    RetryPolicy,
    SagaRunner,
    Status,
)

from ..orders import Asked, Cancelled, Closed, Noted, Paid, Placed, Reserve, World
from .conftest import LONG, Bench, Gate


def gate(bench: Bench) -> Gate:
    assert bench.journal is not None
    return Gate(JournalSagaStateStore(bench.journal, "order"))


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def test_two_starting_events_at_once_make_one_instance_that_handles_both(shared: Bench) -> None:
    async with shared.runner() as one, shared.runner() as two:
        receipts = await asyncio.gather(
            *(runner.handle(Placed("a", 1), message_id=f"{n}") for n, runner in enumerate((one, two, one, two)))
        )
        assert all(receipt.handled for receipt in receipts)
        assert one.counters.started + two.counters.started == 1
    record = await shared.record("a")
    assert sorted(record.inbox) == ["0", "1", "2", "3"]
    assert record.incarnation == 1


async def test_events_of_one_instance_on_two_workers_are_each_handled_once(shared: Bench) -> None:
    async with shared.runner() as one, shared.runner() as two:
        await one.handle(Placed("a"))
        await two.handle(Noted("a", "0"))  # so that what `one` remembers is old
        await asyncio.gather(*((one, two)[n % 2].handle(Noted("a", str(n))) for n in range(1, 40)))
        assert one.counters.conflicts + two.counters.conflicts > 0
        await one.settle()
        await two.settle()
    log = await shared.log("a")
    assert sorted(log[1:], key=int) == [str(n) for n in range(40)]


async def test_a_paused_worker_that_comes_back_cannot_overwrite(shared: Bench) -> None:
    slow = gate(shared)
    opened, entered = asyncio.Event(), asyncio.Event()
    async with shared.runner(slow) as paused, shared.runner() as other:
        await paused.handle(Placed("a"))

        async def hold(key: str, payload: bytes) -> None:
            entered.set()
            await opened.wait()

        slow.before = hold
        task = asyncio.create_task(paused.handle(Noted("a", "paused"), message_id="p"))
        await entered.wait()
        await other.handle(Noted("a", "other"), message_id="o")
        opened.set()
        assert (await task).handled
        assert paused.counters.conflicts == 1
    assert await shared.log("a") == ["placed", "other", "paused"]


async def test_a_cached_end_is_not_trusted_when_another_worker_started_anew(shared: Bench) -> None:
    async with shared.runner() as one, shared.runner() as two:
        await one.handle(Placed("a"))
        await one.handle(Closed("a"))
        await one.settle()
        await two.handle(Placed("a"))
        assert (await one.handle(Noted("a", "seen"))).handled
    assert await shared.log("a") == ["placed", "seen"]


async def test_a_cached_compensation_is_not_trusted_when_another_worker_started_anew(shared: Bench) -> None:
    hold = asyncio.Event()

    async def slow(command: Any) -> None:
        if type(command).__name__ == "Release":
            await hold.wait()

    async with shared.runner(dispatch=slow) as one, shared.runner() as two:
        await one.handle(Placed("a"))
        await one.handle(Cancelled("a"))
        await two.cancel("order", "a", compensate=False)
        await two.handle(Placed("a"))
        assert (await one.handle(Noted("a", "seen"))).handled
        hold.set()
        await one.settle()
    assert await shared.log("a") == ["placed", "seen"]


@pytest.mark.parametrize("stored", [True, False])
async def test_a_save_without_an_answer_is_read_back_and_handled_once(shared: Bench, stored: bool) -> None:
    store = gate(shared)
    lost = iter([True])

    def lose(key: str, payload: bytes) -> None:
        if next(lost, False):
            raise OutcomeUnknownError("the connection broke")

    async with shared.runner(store) as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
        if stored:
            store.after = lose
        else:
            store.before = lose
        assert (await runner.handle(Noted("a", "once"), message_id="n")).handled
        await runner.settle()
        assert runner.counters.takeovers == 0
    assert await shared.log("a") == ["placed", "once"]
    assert shared.world.names == ["Reserve", "Note"]


async def test_a_start_without_an_answer_is_read_back_and_handled_once(shared: Bench) -> None:
    store = gate(shared)
    lost = iter([True])

    def lose(key: str, payload: bytes) -> None:
        if next(lost, False):
            raise OutcomeUnknownError("the connection broke")

    store.after = lose
    async with shared.runner(store) as runner:
        await runner.handle(Placed("a"), message_id="m")
        await runner.settle()
    assert await shared.log("a") == ["placed"]
    assert shared.world.names == ["Reserve"]


async def test_commands_of_a_dead_worker_are_taken_over_within_the_lease(shared: Bench) -> None:
    never = asyncio.Event()

    async def hang(command: Any) -> None:
        await never.wait()

    store = gate(shared)
    store.deaf = True
    dead = shared.runner(store, dispatch=hang, lease=LONG)
    await dead.start()
    await dead.handle(Placed("a"))  # the command is under way for ever: as good as dead
    async with shared.runner() as living:
        shared.clock.advance(LONG - timedelta(seconds=0.1))
        await living.settle()
        assert shared.world.seen == []
        shared.clock.advance(timedelta(seconds=0.2))
        await living.settle()
        assert living.counters.takeovers == 1
        assert shared.world.seen == [("saga::order::a/1/0", Reserve("a"))]
    never.set()
    await dead.stop()


async def test_a_slow_handler_keeps_its_lease(shared: Bench) -> None:
    hold = asyncio.Event()
    other_world = World()

    async def slow(command: Any) -> None:
        await hold.wait()

    async with (
        SagaRunner(
            shared.journal,
            sagas=shared.runner().sagas,
            dispatch=slow,
            settings=shared.runner(lease=timedelta(seconds=1.5)).settings,
        ) as one,
        SagaRunner(
            shared.journal,
            sagas=shared.runner().sagas,
            dispatch=other_world,
            settings=shared.runner(lease=timedelta(seconds=1.5)).settings,
        ) as two,
    ):
        await one.handle(Placed("a"))
        saves = one.counters.saves
        ours = one._started.caches["order"].instance("a").deliveries
        first = ours.lease_end
        assert first is not None
        await until(lambda: ours.lease_end is not None and (ours.lease_end - first).total_seconds() > 2.7)
        assert one.counters.saves == saves  # almost two leases long, and not one record more
        assert other_world.seen == []
        assert two.counters.takeovers == 0
        hold.set()
        await one.settle()


async def test_a_step_on_another_workers_instance_does_not_deliver_its_commands_twice(shared: Bench) -> None:
    hold = asyncio.Event()
    first_world, second_world = World(), World()

    async def slow(command: Any, context: Any) -> None:
        await hold.wait()
        first_world(command, context)

    async with shared.runner(dispatch=slow) as one, shared.runner(dispatch=second_world) as two:
        await one.handle(Placed("a"))
        await two.handle(Noted("a", "behind"))
        for _ in range(50):
            await asyncio.sleep(0)
        assert second_world.seen == []  # its own command waits for the one before
        hold.set()
        await until(lambda: second_world.seen)
        await one.settle()
        await two.settle()
    assert first_world.names == ["Reserve"]
    assert second_world.names == ["Note"]


async def test_commands_of_workers_that_step_an_instance_in_turn_do_not_wait_for_leases(shared: Bench) -> None:
    lease = timedelta(seconds=100)  # an eighth of it is more than this test waits
    async with shared.runner(lease=lease) as one, shared.runner(lease=lease) as two:
        await one.handle(Placed("a"))
        for n in range(6):
            await (one, two)[n % 2].handle(Noted("a", str(n)))
        async with asyncio.timeout(40):
            await until(lambda: len(shared.world.seen) >= 7)
    assert [command.text for _, command in shared.world.seen[1:]] == [str(n) for n in range(6)]


async def test_a_worker_whose_lease_has_ended_does_not_deliver_what_it_still_remembers(shared: Bench) -> None:
    release = asyncio.Event()
    frozen_world = World()

    async def freeze(command: Any, context: Any) -> None:
        frozen_world(command, context)
        if isinstance(command, Reserve):
            await release.wait()

    store = gate(shared)
    store.deaf = True
    async with shared.runner(store, dispatch=freeze, lease=LONG) as frozen:
        await frozen.handle(Placed("a"))
        await frozen.handle(Paid("a"))
        await until(lambda: frozen_world.seen)
        shared.clock.advance(LONG + timedelta(seconds=1))
        async with shared.runner() as other:
            await other.settle()
            assert shared.world.names == ["Reserve", "Charge"]
        release.set()
        await frozen.settle()
    assert frozen_world.names == ["Reserve"]


async def test_a_long_backoff_does_not_hold_the_instance_in_the_due_list(shared: Bench) -> None:
    shared.world.fail = {Reserve: 1}
    policy = RetryPolicy(base=timedelta(seconds=30), cap=timedelta(seconds=30))
    async with shared.runner(dispatch_retry=policy) as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
        assert shared.journal is not None
        store = JournalSagaStateStore(shared.journal, "order")
        assert await store.due(shared.clock.now() + timedelta(seconds=19)) == []
        shared.advance(seconds=36)
        await runner.settle()
    assert shared.world.names == ["Reserve", "Reserve"]


async def test_workers_that_look_at_the_same_time_do_not_grab_the_same_items(shared: Bench) -> None:
    async with shared.runner() as runner:
        await runner.handle_many([Placed(f"o{n}") for n in range(400)])
        await runner.settle()
    shared.advance(minutes=16)
    workers = [shared.runner(due_poll=timedelta(seconds=3600)) for _ in range(4)]
    for worker in workers:
        await worker.start()
    await asyncio.gather(*(worker.settle() for worker in workers))
    for worker in workers:
        await worker.stop()
    assert sum(worker.counters.timers for worker in workers) == 400
    assert sum(worker.counters.conflicts for worker in workers) < 40  # of what they looked at again at the end
    assert len({command_id for command_id, _ in shared.world.seen}) == 800


async def test_starting_loads_no_instance_however_many_are_live(shared: Bench) -> None:
    store = gate(shared)
    async with shared.runner(store, max_in_flight=500) as runner:
        await runner.handle_many([Placed(f"o{n}") for n in range(3000)])
        await runner.settle()
    store.loads = 0
    async with shared.runner(store) as runner:
        await runner.settle()
        assert store.loads == 0
        await runner.handle(Paid("o7"))
        assert store.loads == 1
        assert sum(len(cache.instances) for cache in runner._started.caches.values()) == 1


async def test_idle_instances_beyond_the_cache_leave_memory_and_still_work(bench: Bench) -> None:
    async with bench.runner(cache_size=10) as runner:
        await runner.handle_many([Placed(f"o{n}") for n in range(200)])
        await runner.settle()
        await runner.handle(Noted("o0", "x"))
        await runner.settle()
        assert sum(len(cache.instances) for cache in runner._started.caches.values()) <= 20
        await runner.handle_many([Paid(f"o{n}") for n in range(200)])
        await runner.settle()
    assert len(bench.world.seen) == 401
    assert len({command_id for command_id, _ in bench.world.seen}) == 401


async def test_large_idle_instances_leave_memory_by_their_size(bench: Bench) -> None:
    async with bench.runner(cache_bytes=20_000) as runner:
        (cache,) = runner._started.caches.values()
        await runner.handle_many([Placed(f"o{n}") for n in range(50)])
        await runner.settle()
        small = len(cache.instances)
        assert small > 20
        await runner.handle_many([Asked(f"o{n}", "big") for n in range(50)])  # 3 kB each
        await runner.settle()
        assert 0 < len(cache.instances) <= 20_000 // 3_000
        await runner.handle_many([Noted(f"o{n}", "x") for n in range(50)])
        await runner.settle()
        assert cache._bytes == sum(one.cached.size for one in cache.instances.values()) <= 20_000
        await runner.handle_many([Closed(f"o{n}") for n in range(50)])
        await runner.settle()
        assert (len(cache.instances), cache._bytes) == (0, 0)
    assert len(bench.world.seen) == 150


async def test_an_event_that_may_not_start_meets_the_policy_raise(bench: Bench) -> None:
    async with bench.runner(no_instance="raise") as runner:
        with pytest.raises(NoInstanceError, match="Paid for saga 'order', id 'a'"):
            await runner.handle(Paid("a"))
    assert await bench.stored("a") is None


async def test_an_event_that_waits_is_handled_after_the_start_and_before_what_is_behind(bench: Bench) -> None:
    async with bench.runner(no_instance="wait") as runner:
        early = [asyncio.create_task(runner.handle(Noted("a", str(n)))) for n in range(3)]
        await asyncio.sleep(0.01)
        await asyncio.gather(runner.handle(Placed("a")), runner.handle(Noted("a", "3")))
        assert [(await task).handled for task in early] == [True] * 3
        await runner.settle()
    assert await bench.log("a") == ["placed", "0", "1", "2", "3"]


async def test_an_event_that_waits_is_found_by_a_start_on_another_worker(shared: Bench) -> None:
    async with shared.runner(no_instance="wait") as one, shared.runner() as two:
        waiting = asyncio.create_task(one.handle(Paid("a")))
        await asyncio.sleep(0.01)
        await two.handle(Placed("a"))
        assert (await waiting).handled


async def test_an_event_that_waits_in_vain_is_told_and_has_changed_nothing(bench: Bench) -> None:
    async with bench.runner(no_instance="wait", no_instance_wait=timedelta(milliseconds=30)) as runner:
        with pytest.raises(NoInstanceError):
            await runner.handle(Paid("a"), message_id="p")
        await runner.handle(Placed("a"))
        assert (await runner.handle(Paid("a"), message_id="p")).handled


async def test_a_finished_instance_costs_no_memory() -> None:
    journal = InMemoryJournal()
    bench = Bench(journal)
    async with bench.runner() as runner:
        await runner.handle_many([event for n in range(50) for event in (Placed(f"o{n}"), Closed(f"o{n}"))])
        await runner.settle()
        assert sum(len(cache.instances) for cache in runner._started.caches.values()) == 0
    assert (await bench.record("o1")).status is Status.COMPLETED
