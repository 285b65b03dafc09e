"""Hooks hear of everything once, keep their traces in the record, and can harm nothing."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import pytest

from sagalog import (
    DefinitionError,
    Delivery,
    Handling,
    Hook,
    InMemoryJournal,
    JournalSagaStateStore,
    JournalUnavailableError,
    OutcomeUnknownError,
    PayloadTooLargeError,
    RetryPolicy,
    SagaParkedError,
    SagaRunner,
    Save,
    Scan,
    SqliteJournal,
    Status,
)
from sagalog.testing.simulation import simulate
from sagalog.testing.simulation import worker as simulation_worker

from ..orders import (
    Asked,
    Charge,
    Failing,
    Note,
    Noted,
    OrderSaga,
    Paid,
    Placed,
    Reserve,
    Reserved,
    Survey,
)
from ..testing.shop_world import Shop
from .conftest import Bench, Gate
from .test_workers import until


class Ear(Hook):
    """Writes down what it hears, and gives each message and delivery a trace that names what it came from."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.told: list[tuple[str, Any]] = []
        self.where = ""

    def started(self, runner: SagaRunner) -> None:
        self.told.append(("started", runner))

    def stopped(self, runner: SagaRunner) -> None:
        self.told.append(("stopped", runner))

    def caller(self) -> str:
        return self.where

    def handling(self, handling: Handling) -> str:
        self.told.append(("handling", handling))
        return f"{handling.cause}>{self.name}{handling.type}"

    def handled(self, handling: Handling) -> None:
        self.told.append(("handled", handling))

    def answered(self, event: str, seconds: float, error: str) -> None:
        assert seconds > 0
        self.told.append(("answered", (event, error)))

    def saved(self, save: Save) -> None:
        self.told.append(("saved", save))

    def parked(self, saga: str, correlation_id: str, reason: str) -> None:
        self.told.append(("parked", (saga, correlation_id, reason)))

    def delivering(self, delivery: Delivery) -> str:
        self.told.append(("delivering", delivery))
        return f"{delivery.cause}>{self.name}{delivery.command}"

    def delivered(self, delivery: Delivery) -> None:
        self.told.append(("delivered", delivery))

    def scanned(self, scan: Scan) -> None:
        self.told.append(("scanned", scan))

    def of(self, *kinds: str) -> list[Any]:
        return [what for kind, what in self.told if kind in kinds]

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        return [(one.type, one.outcome) for one in self.of("handled")]


def listening(bench: Bench, *hooks: Hook, source: Any = None, **settings: Any) -> SagaRunner:
    return bench.runner(source, **settings).using(hooks=hooks)


@pytest.fixture
def bench() -> Bench:
    OrderSaga.fail_times, OrderSaga.calls = 0, []
    return Bench(InMemoryJournal())


async def test_each_part_of_a_step_is_told_once_and_in_order(bench: Bench) -> None:
    ear = Ear()
    async with listening(bench, ear) as runner:
        await runner.handle(Placed("a"), message_id="m1")
        await runner.handle(Placed("a"), message_id="m1")
        await runner.settle()
    kinds = [kind for kind, _ in ear.told if kind != "scanned"]
    first = ["started", "handling", "saved", "handled", "delivering", "delivered", "answered"]
    assert kinds == [*first, "handling", "handled", "answered", "saved", "stopped"]
    begun, over = ear.of("handling"), ear.of("handled")
    assert begun == over
    assert [(h.saga, h.correlation_id, h.kind, h.type, h.message_id, h.sequence_nr, h.outcome) for h in over] == [
        ("order", "a", "event", "Placed", "m1", 1, "handled"),
        ("order", "a", "event", "Placed", "m1", 2, "duplicate"),
    ]
    (delivery,) = ear.of("delivered")
    assert (delivery.command, delivery.command_id, delivery.attempt) == ("Reserve", "saga::order::a/1/0", 1)
    assert delivery.outcome == "accepted"
    step, maintenance = ear.of("saved")
    assert (step.sequence_nr, step.outcome, step.messages, step.oldest) == (1, "saved", 1, "1/0")
    assert (maintenance.sequence_nr, maintenance.messages, maintenance.oldest) == (2, 0, "")
    assert ear.of("answered") == [("Placed", ""), ("Placed", "")]
    assert ear.of("scanned")[0] == Scan("order", 0, 0.0)


async def test_a_lost_race_is_told_and_so_is_the_second_try(shared: Bench) -> None:
    one_ear, two_ear = Ear(), Ear()
    async with listening(shared, one_ear) as one, listening(shared, two_ear) as two:
        await one.handle(Placed("a"))
        await asyncio.gather(*((one, two)[n % 2].handle(Noted("a", str(n)), message_id=f"n{n}") for n in range(20)))
        await one.settle()
        await two.settle()
        lost = [save for ear in (one_ear, two_ear) for save in ear.of("saved") if save.outcome == "conflict"]
        assert len(lost) == one.counters.conflicts + two.counters.conflicts > 0
    for ear in (one_ear, two_ear):
        assert Counter(map(id, ear.of("handling"))) == Counter(map(id, ear.of("handled")))
    outcomes = Counter(
        (h.message_id, h.outcome) for ear in (one_ear, two_ear) for h in ear.of("handled") if h.type == "Noted"
    )
    assert all(outcomes[f"n{n}", "handled"] == 1 for n in range(20))
    # A save may be lost that had no message in it: what commands were accepted is recorded by both, too.
    assert sum(n for (_, outcome), n in outcomes.items() if outcome == "conflict") == sum(
        save.messages for save in lost
    )


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(JournalUnavailableError("gone"), "unavailable"), (OutcomeUnknownError("no answer"), "unknown")],
)
async def test_a_save_that_fails_is_told_with_all_its_messages(bench: Bench, error: Exception, outcome: str) -> None:
    assert bench.journal is not None
    store, ear = Gate(JournalSagaStateStore(bench.journal, "order")), Ear()
    failing = iter([error])

    def fail(key: str, payload: bytes) -> None:
        for once in failing:
            raise once

    async with listening(bench, ear, source=store) as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
        store.before = fail
        answers = await asyncio.gather(*(runner.handle(Noted("a", str(n))) for n in range(2)), return_exceptions=True)
        await runner.settle()
    failed = [save for save in ear.of("saved") if save.outcome == outcome]
    assert Counter(map(id, ear.of("handling"))) == Counter(map(id, ear.of("handled")))
    noted = [outcome for kind, outcome in ear.outcomes if kind == "Noted"]
    assert noted.count(outcome) == sum(save.messages for save in failed) >= 1
    assert noted.count("handled") == sum(not isinstance(answer, Exception) for answer in answers)


async def test_what_would_make_the_record_too_large_is_over_too(bench: Bench) -> None:
    ear = Ear()
    async with listening(bench, ear, max_payload_bytes=2000) as runner:
        await runner.handle(Placed("a"))
        with pytest.raises(PayloadTooLargeError):
            await runner.handle(Asked("a", "big"))
        await runner.settle()
    assert ear.outcomes == [("Placed", "handled"), ("Asked", "repeated")]
    assert ear.of("handling") == ear.of("handled")
    assert ear.of("answered") == [("Placed", ""), ("Asked", "PayloadTooLargeError")]


async def test_retries_parking_and_the_repair_are_told(bench: Bench) -> None:
    OrderSaga.fail_times = 3
    ear = Ear()
    async with listening(bench, ear) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Failing("a"), message_id="f")
        await runner.handle(Noted("a", "later"), message_id="n")
        await runner.retry("order", "a")
        await runner.settle()
    assert ear.outcomes[1:] == [("Failing", "failed")] * 3 + [
        ("Noted", "held"),
        ("Failing", "handled"),
        ("Noted", "handled"),
    ]
    assert {h.error for h in ear.of("handled") if h.outcome == "failed"} == {"RuntimeError"}
    assert [h.waited for h in ear.of("handled")] == [False] * 5 + [True] * 2
    assert ear.of("parked") == [("order", "a", "handling Failing raised RuntimeError, 3 times")]


async def test_a_replay_that_would_make_the_record_too_large_tells_what_holds_and_what_is_taken_back(
    bench: Bench,
) -> None:
    OrderSaga.fail_times = 3
    ear = Ear()
    async with listening(bench, ear, max_payload_bytes=2500) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Failing("a"))
        await runner.handle(Noted("a"))
        await runner.handle(Asked("a", "big"))
        before = len(ear.outcomes)
        await runner.retry("order", "a")
        await runner.settle()
    assert sorted(ear.outcomes[before:]) == [
        ("Asked", "repeated"),
        ("Asked", "repeated"),
        ("Failing", "handled"),
        ("Failing", "repeated"),
        ("Noted", "handled"),
        ("Noted", "repeated"),
    ]
    assert Counter(map(id, ear.of("handling"))) == Counter(map(id, ear.of("handled")))
    assert [reason.partition(":")[0] for _, _, reason in ear.of("parked")] == [
        "handling Failing raised RuntimeError, 3 times",
        "replaying Asked failed",
    ]


async def test_commands_that_fail_are_refused_or_have_no_handler_are_told(bench: Bench) -> None:
    ear = Ear()
    bench.world.fail = {Reserve: 1}
    bench.world.refuse = {Charge}
    async with listening(bench, ear) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Paid("a"))
        await until(lambda: "Release" in bench.world.names)
        await runner.settle()
    told = [(d.command, d.attempt, d.outcome, d.error) for d in ear.of("delivered")]
    assert told == [
        ("Reserve", 1, "failed", "ConnectionError"),
        ("Reserve", 2, "accepted", ""),
        ("Charge", 1, "refused", "CommandRefused"),
        ("Release", 1, "accepted", ""),
    ]
    assert ear.of("delivering") == ear.of("delivered")
    (refused,) = [h for h in ear.of("handled") if h.kind == "refused"]
    assert (refused.type, refused.outcome) == ("Charge", "handled")

    ear = Ear()
    async with listening(bench, ear, dispatch={Note: print}, dispatch_retry=RetryPolicy(attempts=1)) as runner:
        await runner.handle(Placed("b"))
        await runner.settle()
    assert [(d.command, d.outcome, d.error) for d in ear.of("delivered")] == [("Reserve", "failed", "DefinitionError")]
    assert ear.of("parked") == []  # it is left to a worker that has one


async def test_a_record_that_cannot_be_read_is_told_once(bench: Bench) -> None:
    ear = Ear()
    assert bench.journal is not None
    store = JournalSagaStateStore(bench.journal, "order")
    await store.save("a", b"{", expected_version=0)
    async with listening(bench, ear) as runner:
        for _ in range(2):
            with pytest.raises(SagaParkedError):
                await runner.handle(Noted("a"))
    assert ear.of("parked") == [("order", "a", "the stored record is damaged: it is not JSON")]


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

    dead = listening(shared, ear, source=store, dispatch=hanging)
    await dead.start()
    await dead.handle(Placed("a"))
    async with listening(shared, other) as living:
        shared.advance(seconds=5.2)
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
    async with bench.runner(dispatch_retry=RetryPolicy(base_seconds=999, cap_seconds=999)) as runner:
        bench.world.fail = {Survey: 1}
        bench.advance(hours=2)
        await runner.settle()
    record = await bench.record("a")
    assert [(c.command.type, c.trace) for c in record.outbox] == [("Survey", "web>Asked")]


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
        "hook Odd.handling gave a trace that is not up to 256 printable ASCII characters; said once, it goes on"
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


@contextmanager
def _broken(*_: Any) -> Iterator[None]:
    yield
    raise RuntimeError("on the way out")


def _raises(*_: Any) -> Any:
    raise RuntimeError("a hook that is broken everywhere, and quotes a secret")


class Broken(Hook):
    started = stopped = caller = handling = handled = answered = _raises  # type: ignore[assignment]
    saved = parked = delivering = delivered = scanned = _raises  # type: ignore[assignment]
    within = _broken  # type: ignore[assignment]


async def test_a_hook_that_raises_harms_nothing_and_is_complained_about_once_for_each_method(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    OrderSaga.fail_times = 3
    bench.world.refuse, bench.world.fail = {Charge}, {Reserve: 1}
    caplog.set_level(logging.ERROR)
    async with listening(bench, Broken()) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Paid("a"))
        await runner.handle(Placed("p"))
        await runner.handle(Failing("p"))
        await until(lambda: "Release" in bench.world.names)
        await runner.settle()
    assert (await bench.record("a")).status is Status.COMPENSATED
    assert sorted(bench.world.names) == ["Charge", "Release", "Reserve", "Reserve", "Reserve"]
    complaints = Counter(r.getMessage().split()[1] for r in caplog.records if r.getMessage().startswith("hook "))
    methods = [name for name in vars(Broken) if not name.startswith("_")]
    assert complaints == {f"Broken.{method}": 1 for method in methods}
    assert "secret" not in caplog.text


def test_the_guarantees_hold_under_simulation_with_a_hook_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = functools.partial(SagaRunner, hooks=[Broken()])
    monkeypatch.setattr(simulation_worker, "SagaRunner", broken)
    simulate([OrderSaga], Shop, seeds=range(25))


async def test_command_handlers_of_every_shape_run_in_the_context_of_the_hook(bench: Bench) -> None:
    here: ContextVar[str] = ContextVar("here", default="nowhere")
    seen: list[tuple[str, str]] = []

    class Contextual(Ear):
        @contextmanager
        def within(self, delivery: Delivery) -> Iterator[None]:  # type: ignore[override]
            token = here.set(delivery.command_id)
            yield
            here.reset(token)

    def plain(command: Reserve) -> Reserved:
        seen.append(("plain", here.get()))
        return Reserved(command.order_id)

    async def asynchronous(command: Charge) -> None:
        await asyncio.sleep(0)
        seen.append(("async", here.get()))

    async def asynchronous_generator(command: Note) -> AsyncIterator[Any]:
        for _ in range(2):
            await asyncio.sleep(0)
            seen.append(("async generator", here.get()))
            yield Reserved(command.order_id)

    def generator(command: Survey) -> Iterator[Any]:
        for _ in range(2):
            seen.append(("generator", here.get()))
            yield Reserved(command.order_id)

    ear = Contextual()
    dispatch = {Reserve: plain, Charge: asynchronous, Note: asynchronous_generator, Survey: generator}
    async with listening(bench, ear, dispatch=dispatch) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Paid("a"))
        await runner.handle(Noted("a"))
        await runner.handle(Asked("a", "schedule"))
        await runner.settle()
        bench.advance(hours=2)
        await runner.settle()
        assert here.get() == "nowhere"
    commands = {d.command: d.command_id for d in ear.of("delivered")}
    assert seen == [
        ("plain", commands["Reserve"]),
        ("async", commands["Charge"]),
        ("async generator", commands["Note"]),
        ("async generator", commands["Note"]),
        ("generator", commands["Survey"]),
        ("generator", commands["Survey"]),
    ]


@pytest.mark.parametrize("hook", [Hook, object(), print, "hook"])
def test_what_is_no_hook_is_refused(hook: Any) -> None:
    with pytest.raises(DefinitionError, match="hooks= takes objects whose class is a subclass of sagalog.Hook"):
        SagaRunner("memory://", sagas=[OrderSaga], hooks=[hook])
