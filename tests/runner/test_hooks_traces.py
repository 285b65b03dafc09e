"""A trace that a hook gives is kept in the record, with all that comes of the message."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from sagalog import (
    Handling,
    Hook,
    InMemoryJournal,
    InvalidEventError,
    JournalSagaStateStore,
    Outcome,
    RetryPolicy,
    SqliteJournal,
)

from ..orders import Asked, Charge, Failing, Noted, OrderSaga, Paid, Placed, Reserve, Reserved, Survey
from .conftest import LONG, Bench, Gate
from .ear import Ear, listening


@pytest.fixture
def bench() -> Bench:
    OrderSaga.fail_times, OrderSaga.calls = 0, []
    return Bench(InMemoryJournal())


async def test_the_trace_of_a_cause_is_kept_in_the_record_for_commands_replies_timers_and_held_events(
    tmp_path: Any,
) -> None:
    OrderSaga.fail_times = 9
    bench, ear = Bench(SqliteJournal(tmp_path / "orders.db")), Ear()
    bench.world.replies = {Reserve: lambda command: Reserved(command.order_id)}
    async with listening(bench, ear) as runner:
        ear.where = "web"
        await runner.handle(Placed("a"))
        await runner.settle()
        await runner.handle(Asked("a", "again"))
        await runner.handle(Asked("b"))  # not there: nothing is caused
        ear.where = "bus"
        await runner.handle(Placed("p"))
        await runner.handle(Failing("p"))
        await runner.settle()
        assert bench.journal is not None
    (reserve, *_) = ear.of("delivered")
    assert (reserve.cause, reserve.trace) == ("web>Placed", "web>Placed>Reserve")
    assert [h.cause for h in ear.of("handled") if h.type == "Reserved"] == ["web>Placed>Reserve", "bus>Placed>Reserve"]
    await bench.journal.close()

    # Another process, long after: the timer, the held event and an undelivered command know where they came from.
    OrderSaga.fail_times = 0
    ear = Ear()
    bench = Bench(SqliteJournal(tmp_path / "orders.db"))
    bench.clock.advance(timedelta(days=90))
    async with listening(bench, ear) as runner:
        await runner.settle()
        await runner.retry("order", "p")
        await runner.settle()
    told = {(h.type, h.cause) for h in ear.of("handled")}
    assert told >= {("Overdue", "web>Asked"), ("Overdue", "bus>Placed"), ("Failing", "bus")}
    assert ("Release", "web>Asked>Overdue") in {(d.command, d.cause) for d in ear.of("delivered")}
    late = [h.late_seconds for h in ear.of("handled") if h.outcome == "handled" and h.cause == "web>Asked"]
    assert late == [90 * 86_400 - 30 * 60]
    assert bench.journal is not None
    await bench.journal.close()


async def test_a_command_that_is_taken_over_still_knows_its_cause(shared: Bench) -> None:
    hang, ear, other = asyncio.Event(), Ear(), Ear("other ")
    ear.where = "web"
    assert shared.journal is not None
    store = Gate(JournalSagaStateStore(shared.journal, "order"))
    store.deaf = True

    async def hanging(command: Any) -> None:
        await hang.wait()

    dead = listening(shared, ear, source=store, dispatch=hanging, lease=LONG)
    await dead.start()
    await dead.handle(Placed("a"))
    async with listening(shared, other) as living:
        shared.advance(minutes=10, seconds=0.2)
        await living.settle()
        assert living.counters.takeovers == 1
    (delivery,) = other.of("delivered")
    assert (delivery.cause, delivery.trace) == ("web>Placed", "web>Placed>other Reserve")
    assert [(scan.claimed, round(scan.oldest_seconds, 1)) for scan in other.of("scanned") if scan.claimed] == [(1, 0.2)]
    hang.set()
    await dead.stop()


async def test_a_scheduled_command_and_a_refusal_keep_their_trace(bench: Bench) -> None:
    ear = Ear()
    ear.where = "web"
    bench.world.refuse = {Charge}
    async with listening(bench, ear) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Asked("a", "schedule"))
        await runner.settle()
        bench.advance(hours=2)
        await runner.settle()
        await runner.handle(Placed("r"))
        await runner.handle(Paid("r"))
        await runner.settle()
    assert ("Survey", "web>Asked>Survey") in [(d.command, d.cause) for d in ear.of("delivered")]
    assert [h.cause for h in ear.of("handled") if h.kind == "refused"] == ["web>Paid>Charge"]
    assert Survey in {type(command) for _, command in bench.world.seen}


async def test_without_hooks_a_record_holds_no_trace(bench: Bench) -> None:
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
    saved = await bench.stored("a")
    assert saved is not None
    assert b"trace" not in saved.payload
    assert b"Overdue" in saved.payload


async def test_a_trace_that_a_runner_without_hooks_carries_on_is_not_lost(bench: Bench) -> None:
    ear = Ear()
    ear.where = "web"
    async with listening(bench, ear) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Asked("a", "schedule"))
    async with bench.runner(
        dispatch_retry=RetryPolicy(base=timedelta(seconds=999), cap=timedelta(seconds=999))
    ) as runner:
        bench.world.fail = {Survey: 1}
        bench.advance(hours=2)
        await runner.settle()
    record = await bench.record("a")
    assert [(c.command.type, c.trace) for c in record.outbox] == [("Survey", "web>Asked")]


@pytest.mark.parametrize("trace", ["x" * 257, "x" * 3_000_000, "é", "a\nb", "\ud800"])
async def test_a_trace_that_an_event_brings_and_is_not_short_plain_text_is_passed_over(
    bench: Bench, trace: str
) -> None:
    """It would be kept with an event that is held, though no hook ever looked at it."""
    OrderSaga.fail_times = 9
    ear = Ear()
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Failing("a"))
        assert (await runner.handle(Asked("a"), trace=trace)).outcomes == {"order": Outcome.HELD}
        assert (await runner.handle(Asked("a"), trace="00-shop")).outcomes == {"order": Outcome.HELD}
    assert [held.trace for held in (await bench.record("a")).held] == ["", "", "00-shop"]
    async with listening(bench, ear) as runner:
        await runner.handle(Placed("b"), trace=trace)
    assert [handling.cause for handling in ear.of("handled")] == [""]


@pytest.mark.parametrize("trace", [5, 0, b"00-shop", ["00-shop"], object()], ids=lambda one: type(one).__name__)
async def test_a_trace_that_is_no_text_is_refused(bench: Bench, trace: Any) -> None:
    OrderSaga.fail_times = 9
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Failing("a"))
        with pytest.raises(InvalidEventError, match=r"^trace= takes .* not .*; nothing was stored for this Asked$"):
            await runner.handle(Asked("a"), trace=trace)
        assert (await runner.handle(Asked("a"), trace=None)).outcomes == {"order": Outcome.HELD}
    assert len((await bench.record("a")).held) == 2


@pytest.mark.parametrize("trace", ["x" * 257, "é", "a\nb", 7, b"bytes"])
async def test_a_trace_that_is_not_short_plain_text_is_dropped_and_complained_about_once(
    bench: Bench, caplog: pytest.LogCaptureFixture, trace: Any
) -> None:
    class Odd(Hook):
        def handling(self, handling: Handling) -> str:
            return trace  # type: ignore[no-any-return]

    async with listening(bench, Odd()) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Noted("a"))
    saved = await bench.stored("a")
    assert saved is not None
    assert b"trace" not in saved.payload
    assert [r.getMessage() for r in caplog.records] == [
        "hook Odd.handling returned a trace that is not up to 256 printable ASCII characters; further failures of it are "
        "not logged"
    ]


async def test_of_several_hooks_the_first_that_gives_a_trace_is_heard_and_all_are_told(bench: Bench) -> None:
    class Silent(Hook):
        pass

    one, two = Ear("one "), Ear("two ")
    async with listening(bench, Silent(), one, two) as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
    assert {d.cause for d in two.of("delivered")} == {">one Placed"}
    assert len(one.told) == len(two.told)
