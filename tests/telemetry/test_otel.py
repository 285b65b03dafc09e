"""Traces: what follows at once is a child, what waited is linked back, and a restart or a takeover breaks neither."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from sagalog import JournalSagaStateStore, RetryPolicy, SagaRunner, SqliteJournal
from sagalog.decision.record import decode_record
from sagalog.telemetry.otel import OpenTelemetryHook

from ..orders import Charge, Failing, Noted, OrderSaga, Paid, Placed, Reserve, Reserved
from ..runner.conftest import LONG, Bench, Gate
from ..runner.test_workers import until


class Tracing:
    """A provider as an application has one, and what it exported."""

    def __init__(self, **settings: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **settings)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.hook = OpenTelemetryHook(self.provider)
        self.tracer = self.provider.get_tracer("application")

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def the(self, name: str) -> ReadableSpan:
        (found,) = [span for span in self.spans if span.name == name]
        return found


@pytest.fixture
def tracing() -> Iterator[Tracing]:
    made = Tracing()
    yield made
    made.provider.shutdown()


def is_child(span: ReadableSpan, parent: ReadableSpan) -> bool:
    return (
        span.parent is not None
        and span.parent.span_id == parent.context.span_id
        and span.context.trace_id == parent.context.trace_id
    )


def links(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


def listening(bench: Bench, tracing: Tracing, source: Any = None, **settings: Any) -> SagaRunner:
    return bench.runner(source, **settings).using(hooks=[tracing.hook])


async def test_a_trace_goes_from_the_caller_over_step_command_and_reply_and_a_timer_links_back_after_a_restart(
    tmp_path: Path, tracing: Tracing
) -> None:
    bench = Bench(SqliteJournal(tmp_path / "orders.db"))

    async def reserve(command: Reserve) -> Reserved:
        with tracing.tracer.start_as_current_span("POST /stock"):
            await asyncio.sleep(0)
        return Reserved(command.order_id)

    async with listening(bench, tracing, dispatch={Reserve: reserve}) as runner:
        with tracing.tracer.start_as_current_span("POST /orders"):
            await runner.handle(Placed("a"), message_id="m1")
        await runner.settle()
    assert bench.journal is not None
    await bench.journal.close()

    web, placed, deliver = tracing.the("POST /orders"), tracing.the("handle Placed"), tracing.the("deliver Reserve")
    assert is_child(placed, web)
    assert is_child(deliver, placed)
    assert is_child(tracing.the("POST /stock"), deliver)
    assert is_child(tracing.the("handle Reserved"), deliver)
    assert placed.kind is SpanKind.CONSUMER
    assert dict(placed.attributes or {}) == {
        "sagalog.saga": "order",
        "sagalog.correlation_id": "a",
        "sagalog.message_id": "m1",
        "sagalog.sequence_nr": 1,
        "sagalog.outcome": "handled",
    }
    assert (deliver.attributes or {})["sagalog.command_id"] == "saga::order::a/1/0"

    # Another process, on the same file, a month later.
    later = Tracing()
    bench = Bench(SqliteJournal(tmp_path / "orders.db"))
    bench.advance(days=30)
    async with listening(bench, later) as runner:
        await runner.settle()
    fired = later.the("fire Overdue")
    assert links(fired) == [placed.context.span_id]
    assert fired.parent is None
    assert fired.context.trace_id != placed.context.trace_id
    assert is_child(later.the("deliver Release"), fired)
    assert bench.journal is not None
    await bench.journal.close()
    later.provider.shutdown()


async def test_a_command_delivered_by_another_worker_after_a_takeover_stays_in_its_trace(
    shared: Bench, tracing: Tracing
) -> None:
    other, hang = Tracing(), asyncio.Event()
    assert shared.journal is not None
    store = Gate(JournalSagaStateStore(shared.journal, "order"))
    store.deaf = True

    async def hanging(command: Any) -> None:
        await hang.wait()

    dead = listening(shared, tracing, store, dispatch=hanging, lease=LONG)
    await dead.start()
    await dead.handle(Placed("a"))
    async with listening(shared, other) as living:
        shared.advance(minutes=10, seconds=0.2)
        await living.settle()
        assert living.counters.takeovers == 1
    assert is_child(other.the("deliver Reserve"), tracing.the("handle Placed"))
    hang.set()
    await dead.stop()
    other.provider.shutdown()


async def test_attempts_refusals_and_compensation_are_in_the_trace(bench: Bench, tracing: Tracing) -> None:
    bench.world.fail, bench.world.refuse = {Reserve: 1}, {Charge}
    async with listening(bench, tracing) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Paid("a"))
        await until(lambda: "Release" in bench.world.names)
        await runner.settle()
    attempts = [span for span in tracing.spans if span.name == "deliver Reserve"]
    assert [(span.attributes or {})["sagalog.outcome"] for span in attempts] == ["failed", "accepted"]
    assert attempts[0].status.status_code is StatusCode.ERROR
    assert (attempts[0].attributes or {})["error.type"] == attempts[0].status.description == "ConnectionError"
    assert all(is_child(span, tracing.the("handle Placed")) for span in attempts)
    refused = tracing.the("hear of refused Charge")
    assert is_child(refused, tracing.the("deliver Charge"))
    assert is_child(tracing.the("deliver Release"), refused)
    assert not any(
        event for span in tracing.spans for event in span.events
    )  # no exception, whose text may be a payload


async def test_a_failing_handler_and_the_repair_are_in_the_trace(bench: Bench, tracing: Tracing) -> None:
    OrderSaga.fail_times = 3
    async with listening(bench, tracing) as runner:
        await runner.handle(Placed("a"))
        with tracing.tracer.start_as_current_span("web"):
            await runner.handle(Failing("a", "a secret"))
        await runner.retry("order", "a")
        await runner.settle()
    *failed, replayed = [span for span in tracing.spans if span.name == "handle Failing"]
    assert [span.status.status_code for span in failed] == [StatusCode.ERROR] * 3
    web = tracing.the("web")
    assert all(is_child(span, web) for span in failed)
    assert links(replayed) == [web.context.span_id]
    assert replayed.parent is None
    assert "secret" not in "".join(span.to_json() for span in tracing.spans)


async def test_what_runs_in_the_task_of_somebody_elses_request_is_not_taken_for_its_child(
    bench: Bench, tracing: Tracing
) -> None:
    with tracing.tracer.start_as_current_span("startup"):
        async with listening(bench, tracing, due_poll=timedelta(milliseconds=5)) as runner:
            token = trace.context_api.attach(trace.set_span_in_context(trace.INVALID_SPAN))
            await runner.handle(Placed("a"))
            trace.context_api.detach(token)
            bench.advance(minutes=20)
            await until(lambda: "Release" in bench.world.names)
            await runner.settle()
    assert tracing.the("handle Placed").parent is None
    assert tracing.the("fire Overdue").parent is None
    assert links(tracing.the("fire Overdue")) == [tracing.the("handle Placed").context.span_id]


async def test_messages_that_share_a_save_keep_their_own_traces(bench: Bench, tracing: Tracing) -> None:
    assert bench.journal is not None
    store, go = Gate(JournalSagaStateStore(bench.journal, "order")), asyncio.Event()
    async with listening(bench, tracing, store) as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
        store.before = lambda key, payload: go.wait()

        async def note(n: int) -> None:
            with tracing.tracer.start_as_current_span(f"web {n}"):
                await runner.handle(Noted("a", str(n)))

        tasks = [asyncio.create_task(note(n)) for n in range(3)]
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(*tasks)
        await runner.settle()
    notes = [span for span in tracing.spans if span.name == "handle Noted"]
    delivered = [span for span in tracing.spans if span.name == "deliver Note"]
    assert len({(span.attributes or {})["sagalog.sequence_nr"] for span in notes}) == 2  # two of the three shared one
    for n, (handled, sent) in enumerate(zip(notes, delivered, strict=True)):
        assert is_child(handled, tracing.the(f"web {n}"))
        assert is_child(sent, handled)


async def test_a_lost_race_is_a_span_of_its_own_and_no_error(shared: Bench, tracing: Tracing) -> None:
    async with listening(shared, tracing) as one, listening(shared, tracing) as two:
        await one.handle(Placed("a"))
        await asyncio.gather(*((one, two)[n % 2].handle(Noted("a", str(n))) for n in range(20)))
        await one.settle()
        await two.settle()
    outcomes = [(s.attributes or {})["sagalog.outcome"] for s in tracing.spans if s.name == "handle Noted"]
    assert outcomes.count("handled") == 20
    assert set(outcomes) <= {"handled", "conflict"}
    assert one.counters.conflicts + two.counters.conflicts > 0
    assert all(span.status.status_code is not StatusCode.ERROR for span in tracing.spans)


@pytest.mark.parametrize(
    "damaged", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "00-" + "a" * 10_000, "ff-xyz\\u0000"]
)
async def test_a_damaged_context_in_the_record_ends_the_trace_and_nothing_else(
    bench: Bench, tracing: Tracing, damaged: str
) -> None:
    assert bench.journal is not None
    store = JournalSagaStateStore(bench.journal, "order")
    bench.world.fail = {Reserve: 1}
    async with listening(
        bench, tracing, dispatch_retry=RetryPolicy(base=timedelta(seconds=99), cap=timedelta(seconds=99))
    ) as runner:
        await runner.handle(Placed("a"))
    saved = await store.load("a")
    assert saved is not None
    (entry,) = decode_record(saved.payload).outbox
    assert len(entry.trace) == 55
    payload = saved.payload.replace(entry.trace.encode(), damaged.encode())
    await store.save("a", payload, expected_version=saved.version, due_at=bench.clock.now())
    bench.advance(minutes=20)
    async with listening(bench, tracing) as runner:
        await runner.settle()
    assert bench.world.names == ["Reserve", "Reserve", "Release"]
    again = [span for span in tracing.spans if span.name == "deliver Reserve"][-1]
    assert again.parent is None
    assert links(tracing.the("fire Overdue")) == []


async def test_what_is_not_sampled_is_not_sampled_later_either(bench: Bench, tracing: Tracing) -> None:
    unsampled = Tracing(sampler=ALWAYS_OFF)
    bench.world.fail = {Reserve: 1}
    async with listening(
        bench, unsampled, dispatch_retry=RetryPolicy(base=timedelta(seconds=99), cap=timedelta(seconds=99))
    ) as runner:
        await runner.handle(Placed("a"))
    assert unsampled.spans == ()
    record = await bench.record("a")
    assert int(record.outbox[0].trace[-2:], 16) & 1 == 0
    bench.advance(minutes=10)
    async with listening(bench, tracing) as runner:
        await runner.settle()
    assert bench.world.names == ["Reserve", "Reserve"]
    assert tracing.spans == ()
    unsampled.provider.shutdown()


async def test_without_an_sdk_nothing_is_kept_and_all_works(bench: Bench) -> None:
    async with bench.runner().using(hooks=[OpenTelemetryHook(trace.NoOpTracerProvider())]) as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
    saved = await bench.stored("a")
    assert saved is not None
    assert b"trace" not in saved.payload
    assert bench.world.names == ["Reserve"]


async def test_no_span_is_left_open(bench: Bench, tracing: Tracing) -> None:
    OrderSaga.fail_times = 9
    bench.world.refuse = {Charge}
    async with listening(bench, tracing) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Paid("a"))
        await runner.handle(Placed("p"))
        await runner.handle(Failing("p"))
        await runner.settle()
    assert len(tracing.hook._spans) == 0
