"""Guarantee 12, side by side: old and new code on one journal. The old one leaves what is newer, the new one goes on."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from sagalog import (
    Compensate,
    Complete,
    JournalSagaStateStore,
    PersistentRepr,
    RetryPolicy,
    Saga,
    SagaParkedError,
    SagaRunner,
    SavedState,
    Schedule,
    Send,
    SetTimer,
    on,
    schema,
    starts,
    upcast,
)
from sagalog.decision import repair
from sagalog.decision.advance import decode_state
from sagalog.operating.apply import apply as apply_repair

from ..orders import Cancelled, Closed, Failing, Noted, Placed, World
from .conftest import Bench


@dataclass
class Ship:
    order_id: str


@dataclass
class Remind:
    order_id: str


@dataclass
class Unship:
    order_id: str


@dataclass
class Told:
    """Known to the old code, which has no handler for it yet."""

    order_id: str


@dataclass
class State:
    log: list[str] = field(default_factory=list)


class Old(Saga[State]):
    name = "order"
    messages = (Ship, Unship, Told)

    @starts(Placed, key="order_id")
    def placed(self, state: State, event: Placed) -> Any:
        state.log.append("placed")

    @on(Noted, key="order_id")
    def noted(self, state: State, event: Noted) -> Any:
        state.log.append(event.text)
        return Send(Ship(event.order_id))

    @on(Remind, key="order_id")
    def reminded(self, state: State, event: Remind) -> Any:
        state.log.append("reminded")

    @on(Failing, key="order_id")
    def failing(self, state: State, event: Failing) -> Any:
        raise RuntimeError

    @on(Cancelled, key="order_id")
    def cancelled(self, state: State, event: Cancelled) -> Any:
        state.log.append("cancelled")
        return Compensate()

    @on(Closed, key="order_id")
    def closed(self, state: State, event: Closed) -> Any:
        state.log.append("closed")
        return Complete()


@schema(name="Ship", version=2)
@dataclass
class NewShip:
    order_id: str
    express: bool = True


@upcast(NewShip, from_version=1)
def _(document: Any) -> Any:
    return {**document, "express": False}


@schema(name="Unship", version=2)
@dataclass
class NewUnship:
    order_id: str
    why: str = "cancelled"


@schema(name="Remind", version=2)
@dataclass
class NewRemind:
    order_id: str
    text: str = "again"


@upcast(NewRemind, from_version=1)
def _(document: Any) -> Any:
    return {**document, "text": "upcast"}


@dataclass
class Asked:
    order_id: str
    what: str


class New(Saga[State]):
    """The same state, newer messages."""

    name = "order"
    messages = (NewShip, NewUnship)

    @starts(Placed, key="order_id")
    def placed(self, state: State, event: Placed) -> Any:
        state.log.append("placed")

    @on(Noted, key="order_id")
    def noted(self, state: State, event: Noted) -> Any:
        state.log.append(event.text)
        return Send(NewShip(event.order_id))

    @on(Asked, key="order_id")
    def asked(self, state: State, event: Asked) -> Any:
        state.log.append(event.what)
        hour = timedelta(hours=1)
        return {
            "undo": Send(NewShip(event.order_id), undo=NewUnship(event.order_id)),
            "timer": SetTimer("t", NewRemind(event.order_id), after=hour),
            "told": SetTimer("t", Told(event.order_id), after=hour),
            "schedule": Schedule(NewShip(event.order_id), after=hour),
        }[event.what]

    @on(NewRemind, key="order_id")
    def reminded(self, state: State, event: NewRemind) -> Any:
        state.log.append(f"reminded {event.text}")

    @on(Told, key="order_id")
    def told(self, state: State, event: Told) -> Any:
        state.log.append("told")

    @on(Failing, key="order_id")
    def failing(self, state: State, event: Failing) -> Any:
        state.log.append("did not fail")

    @on(Cancelled, key="order_id")
    def cancelled(self, state: State, event: Cancelled) -> Any:
        state.log.append("cancelled")
        return Compensate()


@schema(name="State", version=2)
@dataclass
class NewState:
    entries: list[str] = field(default_factory=list)


@upcast(NewState, from_version=1)
def _(document: Any) -> Any:
    return {"entries": document["log"]}


class Newest(Saga[NewState]):
    """A newer state as well."""

    name = "order"

    @starts(Placed, key="order_id")
    def placed(self, state: NewState, event: Placed) -> Any:
        state.entries.append("placed")

    @on(Noted, key="order_id")
    def noted(self, state: NewState, event: Noted) -> Any:
        state.entries.append(event.text)
        return Send(NewShip(event.order_id))


class Side:
    """An old and a new worker on one journal, each with the world it sends commands to."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.old_world, self.new_world = World(), World()

    def old(self, saga: type[Saga[Any]] = Old, **settings: Any) -> SagaRunner:
        settings.setdefault("dispatch_retry", RetryPolicy(attempts=1))
        return self.bench.runner(sagas=[saga], dispatch=self.old_world, due_poll_seconds=3600, **settings)

    def new(self, saga: type[Saga[Any]] = New, **settings: Any) -> SagaRunner:
        return self.bench.runner(sagas=[saga], dispatch=self.new_world, due_poll_seconds=3600, **settings)

    async def stored(self) -> SavedState:
        saved = await self.bench.stored("a")
        assert saved is not None
        return saved

    async def due(self) -> list[str]:
        assert self.bench.journal is not None
        store = JournalSagaStateStore(self.bench.journal, "order")
        return [key for key, _ in await store.due(self.bench.clock.now())]

    async def log(self) -> list[str]:
        state: State = decode_state(New(), await self.bench.record("a"))
        return state.log


@pytest.fixture
def side(shared: Bench) -> Side:
    return Side(shared)


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_of_interleaved_events_each_is_handled_once_by_the_old_worker_or_by_the_new_one(side: Side) -> None:
    async with side.old() as old, side.new(Newest) as new:
        await old.handle(Placed("a"), message_id="placed")
        refused = 0
        for n in range(12):
            for worker in (old, new) if n % 2 == 0 else (new, old):
                try:
                    receipt = await worker.handle(Noted("a", str(n)), message_id=str(n))
                except SagaParkedError as error:
                    assert "State is stored with schema version 2, this code knows version 1" in str(error)
                    refused += 1
                else:
                    assert receipt.handled or receipt.duplicate
        # The new worker's first step, the one of event 1, made the state newer; a duplicate is one whatever the state.
        assert refused == 5
        await old.settle()
        await until(lambda: len(side.new_world.seen) == 11)  # they waited for the first command, the old worker's
        await new.settle()
    record = await side.bench.record("a")
    assert decode_state(Newest(), record) == NewState(["placed", *map(str, range(12))])
    assert record.inbox == ("placed", *map(str, range(12)))
    assert side.old_world.seen == [("saga::order::a/2/0", Ship("a"))]
    assert len({command_id for command_id, _ in side.new_world.seen}) == 11


async def dead_with(side: Side, event: Any) -> None:
    """Let a new worker save what `event` leads to, and die before it delivers anything."""
    never = asyncio.Event()

    async def hang(command: Any) -> None:
        await never.wait()

    runner = side.bench.runner(sagas=[New], dispatch=hang, due_poll_seconds=3600, stop_seconds=0)
    async with runner:
        await runner.handle(Placed("a"))
        await runner.handle(event)


async def test_an_old_worker_leaves_a_newer_command_to_a_new_one_and_writes_nothing(side: Side) -> None:
    await dead_with(side, Noted("a", "x"))
    before = await side.stored()
    async with side.old() as old:
        for _ in range(3):
            side.bench.advance(seconds=5.1)
            await old.settle()
            assert await side.stored() == before
        assert old.counters.dispatch_errors == 1  # then it does not even look, so that it is in nobody's way
        async with side.new() as new:
            await new.settle()
        assert side.new_world.seen == [("saga::order::a/2/0", NewShip("a"))]
        assert new.counters.takeovers == 1
    assert side.old_world.seen == []
    assert (await side.bench.record("a")).outbox == ()


async def test_what_is_left_is_looked_at_again_after_some_leases(side: Side) -> None:
    await dead_with(side, Noted("a", "x"))
    async with side.old() as old:
        side.bench.advance(seconds=6)
        await old.settle()
        side.bench.advance(seconds=16)
        await old.settle()
        assert old.counters.dispatch_errors == 2


async def test_a_newer_command_does_not_stop_what_else_is_due(side: Side) -> None:
    await dead_with(side, Noted("a", "x"))
    side.bench.advance(seconds=6)
    async with side.old() as old:
        await old.settle()
        hold = asyncio.Event()

        async def hang(command: Any) -> None:
            await hold.wait()

        async with side.bench.runner(sagas=[Old], dispatch=hang, due_poll_seconds=3600, stop_seconds=0) as dead:
            await dead.handle(Placed("b"))
            await dead.handle(Noted("b", "y"))
        side.bench.advance(seconds=6)
        await old.settle()
        assert side.old_world.seen == [("saga::order::b/2/0", Ship("b"))]
        assert old.counters.dispatch_errors == 1  # claimed with it, the other is not looked at again


async def test_an_old_worker_that_steps_before_a_newer_command_hands_both_over_at_once(side: Side) -> None:
    await dead_with(side, Noted("a", "x"))
    async with side.old() as old:
        side.bench.advance(seconds=6)
        await old.settle()
        for n in range(3):
            assert (await old.handle(Noted("a", str(n)))).handled
        async with side.new() as new:
            await new.settle()  # though no lease has ended since: its saves renewed none
        assert [command for _, command in side.new_world.seen] == [
            NewShip("a"),
            *[NewShip("a", express=False)] * 3,
        ]
        assert side.old_world.seen == []
        await old.settle()
    assert await side.log() == ["placed", "x", "0", "1", "2"]
    assert (await side.bench.record("a")).outbox == ()


async def test_what_was_accepted_before_a_newer_command_is_recorded_by_the_old_worker(side: Side) -> None:
    async with side.new() as new:
        await new.handle(Placed("a"))
        await new.handle(Asked("a", "undo"))
        await new.settle()
    hold = asyncio.Event()

    async def slow(command: Any) -> None:
        await hold.wait()

    async with side.bench.runner(sagas=[Old], dispatch=slow, due_poll_seconds=3600, lease_seconds=0.5) as old:
        await old.handle(Noted("a", "x"))
        await old.handle(Cancelled("a"))
        assert [entry.command.type for entry in (await side.bench.record("a")).outbox] == ["Ship", "Unship"]
        hold.set()
        async with asyncio.timeout(10):
            while (outbox := (await side.bench.record("a")).outbox)[0].command.type == "Ship":
                await asyncio.sleep(0.001)
        assert [(entry.command.type, entry.command.version) for entry in outbox] == [("Unship", 2)]


async def test_an_old_worker_compensates_and_leaves_newer_undo_commands_to_a_new_one(side: Side) -> None:
    async with side.new() as new:
        await new.handle(Placed("a"))
        await new.handle(Asked("a", "undo"))
        await new.settle()
    async with side.old() as old:
        assert (await old.handle(Cancelled("a"))).handled
        await old.settle()
        record = await side.bench.record("a")
        assert (record.status.value, record.parked, record.stuck) == ("compensating", "", "")
        side.bench.advance(seconds=6)
        async with side.new() as new:
            await new.settle()
    assert [command for _, command in side.new_world.seen] == [NewShip("a"), NewUnship("a")]
    assert (await side.bench.record("a")).status.value == "compensated"


async def test_an_old_worker_moves_a_scheduled_newer_command_to_the_outbox_and_leaves_it_there(side: Side) -> None:
    async with side.new() as new:
        await new.handle(Placed("a"))
        await new.handle(Asked("a", "schedule"))
    side.bench.advance(hours=2)
    async with side.old() as old:
        await old.settle()
        assert [entry.command.version for entry in (await side.bench.record("a")).outbox] == [2]
        async with side.new() as new:
            await new.settle()  # without waiting for a lease
    assert [command for _, command in side.new_world.seen] == [NewShip("a")]


@pytest.mark.parametrize(("what", "then"), [("timer", "reminded again"), ("told", "told")])
async def test_a_timer_that_only_newer_code_can_handle_is_left_to_it(side: Side, what: str, then: str) -> None:
    async with side.new() as new:
        await new.handle(Placed("a"))
        await new.handle(Asked("a", what))
    side.bench.advance(hours=2)
    before = await side.stored()
    async with side.old() as old:
        await old.settle()
        side.bench.advance(seconds=6)
        await old.settle()
        assert await side.due() == ["a"]  # it was not claimed again
        assert await side.stored() == before
        assert (await old.handle(Noted("a", "meanwhile"))).handled  # its state can be read
        assert old._caches["order"].runtime.unreadable == {}
        async with side.new() as new:
            await new.settle()
    assert await side.log() == ["placed", what, "meanwhile", then]


async def test_a_newer_held_event_survives_the_repair_by_an_old_worker(side: Side) -> None:
    async with side.old(handler_retry=RetryPolicy(attempts=1)) as old, side.new() as new:
        await old.handle(Placed("a"))
        assert (await old.handle(Failing("a"), message_id="bad")).held
        assert (await new.handle(NewRemind("a", "held"), message_id="newer")).held
        assert (await old.handle(Noted("a", "older"), message_id="older")).held
        before = await side.stored()
        with pytest.raises(
            SagaParkedError, match="held event: Remind is stored with schema version 2, this code knows"
        ):
            await old.skip("order", "a")
        assert await side.stored() == before
        repaired = await new.skip("order", "a")
        assert (repaired.replayed, repaired.parked) == (2, "")
        await new.settle()
    assert await side.log() == ["placed", "reminded held", "older"]
    record = await side.bench.record("a")
    assert [message for message in record.inbox if message in ("bad", "newer", "older")] == ["bad", "newer", "older"]


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
                "saga::order::a",
                saved.version + 1,
                json.dumps(document).encode(),
                due_at=side.bench.clock.now(),
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
