"""After a repair from outside, a worker replays what was held, in the order it came, before anything else."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from sagalog import JournalSagaStateStore, JournalUnavailableError, Send, starts
from sagalog.decision.inbox import FEW
from sagalog.decision.record import decode_record
from sagalog.decision.repair import retry, skip

from ..orders import Closed, Failing, Noted, OrderSaga, OrderState, Placed, Reserve
from .conftest import Bench, Gate
from .outside import apply, journal, park


async def test_a_worker_with_the_parked_instance_in_memory_replays_after_a_repair_from_outside(shared: Bench) -> None:
    async with shared.runner() as runner:
        await park(shared, runner, Noted("a", "1"), Noted("a", "2"))
        applied = await apply(journal(shared), "order", "a", retry(note="the bank is back", by="ada"))
        assert applied.effects == (
            "replays 3 held messages, in the order they came: Failing (bad), Noted (h0), Noted (h1)",
        )
        assert (applied.before.parked != "", applied.after.parked) == (True, "")
        assert len(applied.after.held) == 3
        await runner.settle()
        assert (await runner.handle(Noted("a", "1"), message_id="h0")).duplicate
    record = await shared.record("a")
    assert (record.parked, record.held) == ("", ())
    assert await shared.log("a") == ["placed", "recovered", "1", "2"]
    assert [(entry.action, entry.note, entry.by) for entry in record.audit] == [("retry", "the bank is back", "ada")]
    assert [c.text for _, c in shared.world.seen if hasattr(c, "text")] == ["recovered", "1", "2"]


async def test_a_worker_claims_what_was_repaired_by_itself(shared: Bench) -> None:
    replayed = asyncio.Event()

    def dispatch(command: Any) -> None:
        if type(command).__name__ == "Note":
            replayed.set()

    async with shared.runner(dispatch=dispatch) as runner:
        await park(shared, runner)
        await apply(journal(shared), "order", "a", retry())
        await replayed.wait()


async def test_what_arrives_between_repair_and_replay_goes_behind_what_was_held(shared: Bench) -> None:
    gate = Gate(JournalSagaStateStore(journal(shared), "order"))
    gate.deaf = True  # the event comes before any claim
    async with shared.runner(gate) as runner:
        await park(shared, runner, Noted("a", "held"))
        await apply(journal(shared), "order", "a", retry())
        assert (await runner.handle(Noted("a", "between"), message_id="n")).handled
        assert (await runner.handle(Failing("a"), message_id="bad")).duplicate
    assert await shared.log("a") == ["placed", "recovered", "held", "between"]


async def test_a_duplicate_of_a_held_event_starts_the_replay_and_stays_a_duplicate(shared: Bench) -> None:
    gate = Gate(JournalSagaStateStore(journal(shared), "order"))
    gate.deaf = True
    async with shared.runner(gate) as runner:
        await park(shared, runner, Noted("a", "held"))
        await apply(journal(shared), "order", "a", retry())
    async with shared.runner(gate) as other:
        assert (await other.handle(Noted("a", "held"), message_id="h0")).duplicate
    assert await shared.log("a") == ["placed", "recovered", "held"]


async def test_a_timer_that_fell_due_meanwhile_comes_after_what_was_held(shared: Bench) -> None:
    async with shared.runner() as runner:
        await park(shared, runner, Noted("a", "held"))
        await apply(journal(shared), "order", "a", retry())
        shared.advance(hours=1)
        await runner.settle()
    assert await shared.log("a") == ["placed", "recovered", "held", "overdue"]


async def test_a_repair_while_events_keep_arriving_keeps_their_order(shared: Bench) -> None:
    async with shared.runner() as one, shared.runner() as two:
        await park(shared, one)
        reached = asyncio.Event()

        async def keep_sending() -> None:
            for number in range(24):
                await (one, two)[number % 2].handle(Noted("a", str(number)), message_id=str(number))
                if number == 8:
                    reached.set()

        sending = asyncio.create_task(keep_sending())
        await reached.wait()
        applied = await apply(journal(shared), "order", "a", retry())
        assert applied.changes
        await sending
        await one.settle()
    assert await shared.log("a") == ["placed", "recovered", *(str(number) for number in range(24))]


async def test_a_worker_that_dies_in_the_replay_leaves_it_to_another(shared: Bench) -> None:
    gate = Gate(JournalSagaStateStore(journal(shared), "order"))
    entered = asyncio.Event()

    async def hold(key: str, payload: bytes) -> None:
        if entered.is_set():
            raise JournalUnavailableError("it is dead")
        entered.set()
        await asyncio.Event().wait()

    async with shared.runner() as healthy:
        await park(shared, healthy, Noted("a", "held"))
    await apply(journal(shared), "order", "a", retry())
    dead = shared.runner(gate, stop_timeout=timedelta(0), lease=timedelta(milliseconds=200))
    gate.before = hold
    async with dead:
        await entered.wait()  # it has claimed and replayed, and nothing of it is saved
    calls = len(OrderSaga.calls)
    async with shared.runner() as other:
        await other.settle()
        assert (await shared.record("a")).held  # the dead one's lease
        shared.advance(seconds=6)
        await other.settle()
    assert len(OrderSaga.calls) == calls + 1
    assert await shared.log("a") == ["placed", "recovered", "held"]


async def test_a_replay_that_fails_again_parks_with_the_rest_held(shared: Bench) -> None:
    async with shared.runner() as runner:
        await park(shared, runner, Noted("a", "1"), fails=4)
        await apply(journal(shared), "order", "a", retry())
        await runner.settle()
        record = await shared.record("a")
        assert record.parked.startswith("replaying Failing failed: RuntimeError at ")
        assert [held.id for held in record.held] == ["bad", "h0"]
        assert runner.counters.parked == 2
        await apply(journal(shared), "order", "a", retry())
        await runner.settle()
    assert await shared.log("a") == ["placed", "recovered", "1"]


async def test_only_the_held_event_that_makes_the_record_too_large_parks_it_again(shared: Bench) -> None:
    async with shared.runner() as runner:
        await park(shared, runner, Noted("a", "1"), Noted("a", "x" * 1500), Noted("a", "3"))
    size = len((await shared.stored("a")).payload)  # type: ignore[union-attr]
    async with shared.runner(max_payload_bytes=size + 600) as small:
        await apply(journal(shared), "order", "a", retry())
        await small.settle()
        record = await shared.record("a")
        assert [held.id for held in record.held] == ["h1", "h2"]
        assert record.parked.startswith("replaying Noted failed: the record of an instance")
        await apply(journal(shared), "order", "a", skip())
        await small.settle()
    assert await shared.log("a") == ["placed", "recovered", "1", "3"]


async def test_each_of_many_is_replayed_once_in_several_records(shared: Bench) -> None:
    texts = [str(number) for number in range(200)]
    async with shared.runner() as runner:
        await park(shared, runner, *(Noted("a", text) for text in texts))
    async with shared.runner(max_payload_bytes=17_000) as small:  # they fit, but their commands do not
        await apply(journal(shared), "order", "a", retry())
        await small.settle()
    stored = [decode_record(one.payload) async for one in journal(shared).replay_messages("saga::order::a")]
    continued = [record for record in stored if record.goes_on]
    assert len(continued) == 1
    assert len(continued[0].inbox) > FEW, "so that ids are looked up"
    assert await shared.log("a") == ["placed", "recovered", *texts]


class Picky(OrderSaga):
    """Does not start with a total of 13, as long as `picky`."""

    name = "order"
    picky = True

    @starts(Placed, key="order_id")
    def placed(self, state: OrderState, event: Placed):
        if event.total == 13 and self.picky:
            raise RuntimeError
        state.log.append("placed")
        return Send(Reserve(event.order_id))


async def test_a_held_event_that_begins_the_next_life_and_fails_is_kept(shared: Bench) -> None:
    Picky.picky, Picky.fail_times = True, 3
    async with shared.runner(sagas=[Picky]) as runner:
        await park(shared, runner, Closed("a"), Placed("a", 13), Noted("a", "second life"))
        await apply(journal(shared), "order", "a", retry())
        await runner.settle()
        record = await shared.record("a")
        assert record.incarnation == 2
        assert record.parked.startswith("replaying Placed failed: RuntimeError at ")
        assert [held.id for held in record.held] == ["h1", "h2"]
        Picky.picky = False
        await apply(journal(shared), "order", "a", retry())
        await runner.settle()
    assert shared.world.names == ["Reserve", "Note", "Ship", "Reserve", "Note"]
    assert await shared.log("a") == ["placed", "second life"]
