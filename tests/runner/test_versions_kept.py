"""An old worker that steps or repairs keeps whatever newer code has written, and hides nothing from it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from sagalog import PersistentRepr, RetryPolicy, Saga, SagaParkedError, schema, starts, upcast
from sagalog.decision import repair
from sagalog.operating.apply import apply as apply_repair

from ..orders import Failing, Noted, Placed
from .conftest import Bench
from .old_and_new import Asked, NewRemind, Remind, Side, Told, dead_with


@pytest.fixture
def side(shared: Bench) -> Side:
    return Side(shared)


async def test_a_newer_held_event_survives_the_repair_by_an_old_worker(side: Side) -> None:
    async with side.old(handler_retry=RetryPolicy(attempts=1)) as old, side.new() as new:
        await old.handle(Placed("a"))
        assert (await old.handle(Failing("a"), message_id="bad")).held
        assert (await new.handle(NewRemind("a", "held"), message_id="newer")).held
        assert (await old.handle(Noted("a", "older"), message_id="older")).held
        before = await side.stored()
        with pytest.raises(
            SagaParkedError, match="held event: Remind is stored with schema version 2; this code knows"
        ):
            await old.skip("order", "a")
        assert await side.stored() == before
        repaired = await new.skip("order", "a")
        assert (repaired.replayed, repaired.parked) == (2, "")
        await new.settle()
    assert await side.log() == ["placed", "reminded held", "older"]
    record = await side.bench.record("a")
    assert [message for message in record.inbox if message in ("bad", "newer", "older")] == ["bad", "newer", "older"]


async def test_a_held_event_without_a_handler_parks_again_and_says_so(side: Side) -> None:
    async with side.old(handler_retry=RetryPolicy(attempts=1)) as old, side.new() as new:
        await old.handle(Placed("a"))
        assert (await old.handle(Failing("a"))).held
        assert (await new.handle(Told("a"))).held
        assert (await old.skip("order", "a")).parked == "replaying Told failed: saga 'order' has no handler for Told"
        assert (await new.retry("order", "a")).replayed == 1


async def test_a_repair_from_outside_is_not_undone_by_an_old_worker_that_takes_it(side: Side) -> None:
    async with side.old(handler_retry=RetryPolicy(attempts=1)) as old, side.new() as new:
        await old.handle(Placed("a"))
        await old.handle(Failing("a"))
        await new.handle(NewRemind("a", "held"))
    assert side.bench.journal is not None
    await apply_repair(side.bench.journal, "order", "a", repair.skip())
    side.bench.advance(seconds=6)
    before = await side.stored()
    async with side.old() as old:
        await old.settle()
        assert await side.stored() == before
        side.bench.advance(seconds=6)
        async with side.new() as new:
            await new.settle()
    assert await side.log() == ["placed", "reminded held"]
    assert (await side.bench.record("a")).parked == ""


async def test_what_an_old_worker_held_is_upcast_by_the_repair_of_a_new_one(side: Side) -> None:
    async with side.old(handler_retry=RetryPolicy(attempts=1)) as old, side.new() as new:
        await old.handle(Placed("a"))
        await old.handle(Failing("a"))
        assert (await old.handle(Remind("a"))).held
        repaired = await new.retry("order", "a")
        assert (repaired.replayed, repaired.parked) == (2, "")
    assert await side.log() == ["placed", "did not fail", "reminded upcast"]


def _with_a_field(document: dict[str, Any], where: str) -> None:
    place = {
        "record": document,
        "outbox": document["outbox"][0],
        "undo": document["undo"][0],
        "timer": next(iter(document["timers"].values())),
        "handled": document["handled"][0],
    }[where]
    place["priority"] = 7


@pytest.mark.parametrize("where", ["record", "outbox", "undo", "timer", "handled"])
async def test_a_record_with_fields_of_a_newer_version_is_never_saved_without_them(side: Side, where: str) -> None:
    await dead_with(side, Asked("a", "undo"))
    async with side.new() as new:
        await new.handle(Asked("a", "timer"))
    side.bench.advance(hours=2)
    saved = await side.stored()
    document = json.loads(saved.payload)
    _with_a_field(document, where)
    journal = side.bench.journal
    assert journal is not None
    await journal.write_messages(
        [
            PersistentRepr(
                "saga::order::a", saved.version + 1, json.dumps(document).encode(), due_at=side.bench.clock.now()
            )
        ]
    )
    before = await side.stored()
    async with side.old() as old:
        await old.settle()
        for call in (
            lambda: old.handle(Noted("a", "x")),
            lambda: old.handle(Placed("a")),
            lambda: old.retry("order", "a"),
            lambda: old.cancel("order", "a"),
        ):
            with pytest.raises(SagaParkedError, match="a newer version wrote it"):
                await call()
        assert old.counters.parked == 1
        assert await side.stored() == before
        assert (await old.handle(Placed("b"))).handled
    # It is still due, for a worker that can read it.
    side.bench.advance(seconds=6)
    assert await side.due() == ["a"]


async def test_an_old_workers_steps_keep_what_is_newer_in_the_record_as_it_is(side: Side) -> None:
    async with side.new() as new:
        await new.handle(Placed("a"))
        await new.handle(Asked("a", "undo"))
        await new.handle(Asked("a", "timer"))
        await new.settle()
    before = await side.bench.record("a")
    async with side.old() as old:
        await old.handle(Noted("a", "x"))
        await old.settle()
    after = await side.bench.record("a")
    assert (after.undo, after.timers) == (before.undo, before.timers)
    assert await side.log() == ["placed", "undo", "timer", "x"]


async def test_a_failing_upcaster_parks_in_memory_and_changes_nothing(side: Side) -> None:
    @schema(name="State", version=2)
    @dataclass
    class Broken:
        log: list[str] = field(default_factory=list)

    @upcast(Broken, from_version=1)
    def _(document: Any) -> Any:
        return {"log": document["no such field"]}

    class Fails(Saga[Broken]):
        name = "order"

        @starts(Noted, key="order_id")
        def noted(self, state: Broken, event: Noted) -> None: ...

    async with side.old() as old:
        await old.handle(Placed("a"))
    before = await side.stored()
    async with side.new(Fails) as new:
        for _ in range(2):
            with pytest.raises(SagaParkedError, match="the upcaster from version 1 to 2 raised KeyError"):
                await new.handle(Noted("a"))
        assert new.counters.parked == 1
        assert await side.stored() == before
        assert (await new.handle(Noted("b"))).handled
    async with side.old() as old:
        assert (await old.handle(Noted("a", "fine"))).handled
