"""Metrics count what happened, with labels that only the code decides about."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from sagalog import (
    Circuit,
    DefinitionError,
    InMemoryJournal,
    InvalidEventError,
    JournalSagaStateStore,
    RetryPolicy,
    SagaRunner,
    SqliteJournal,
)
from sagalog.decision.record import decode_record, encode_record
from sagalog.telemetry.metrics import READ, TOLD
from sagalog.telemetry.prometheus import PrometheusHook

from ..orders import Asked, Charge, Failing, Noted, OrderSaga, Paid, Placed, Reserve
from ..runner.conftest import LONG, Bench, Gate
from ..runner.test_workers import until
from .scraped import scraped


@pytest.fixture
def hook() -> PrometheusHook:
    return PrometheusHook(CollectorRegistry())


def value(hook: PrometheusHook, name: str, **labels: str) -> float:
    return hook.registry.get_sample_value(name, labels) or 0.0


def listening(bench: Bench, hook: PrometheusHook, source: Any = None, **settings: Any) -> SagaRunner:
    return bench.runner(source, **settings).using(hooks=[hook])


async def test_a_life_with_failures_is_counted(bench: Bench, hook: PrometheusHook) -> None:
    OrderSaga.fail_times = 3
    bench.world.fail, bench.world.refuse = {Reserve: 1}, {Charge}
    async with listening(bench, hook) as runner:
        assert value(hook, "sagalog_runners") == 1
        await runner.handle(Placed("a"), message_id="m")
        await runner.handle(Placed("a"), message_id="m")
        await runner.handle(Failing("a"))
        await runner.retry("order", "a")
        await runner.handle(Paid("a"))
        with pytest.raises(InvalidEventError):
            await runner.handle(object())
        await until(lambda: "Release" in bench.world.names)
        await runner.settle()
        await runner.handle(Placed("late"))
        await runner.settle()
        bench.advance(minutes=15, seconds=90)
        await runner.settle()

    def messages(kind: str, outcome: str) -> float:
        return value(hook, "sagalog_messages_total", saga="order", type=kind, outcome=outcome)

    assert (messages("Placed", "handled"), messages("Placed", "duplicate")) == (2, 1)
    assert (messages("Failing", "failed"), messages("Failing", "held"), messages("Failing", "handled")) == (3, 0, 1)
    assert messages("Charge", "handled") == 1
    assert value(hook, "sagalog_parked_total", saga="order") == 1

    def deliveries(command: str, outcome: str) -> float:
        return value(hook, "sagalog_deliveries_total", saga="order", command=command, outcome=outcome)

    assert (deliveries("Reserve", "failed"), deliveries("Reserve", "accepted")) == (1, 2)
    assert (deliveries("Charge", "refused"), deliveries("Release", "accepted")) == (1, 2)
    assert value(hook, "sagalog_delivery_seconds_count", saga="order", command="Reserve") == 3
    counters = runner.counters
    assert value(hook, "sagalog_steps_total", saga="order", outcome="saved") == counters.saves > 5
    assert value(hook, "sagalog_save_seconds_count", saga="order") == counters.saves
    assert value(hook, "sagalog_step_messages_count", saga="order") == counters.saves
    assert value(hook, "sagalog_timer_lag_seconds_sum", saga="order") == 90
    assert value(hook, "sagalog_timer_lag_seconds_count", saga="order") == 1
    assert value(hook, "sagalog_due_claimed_total", saga="order") >= 1
    assert value(hook, "sagalog_handle_seconds_count", type="Placed") == 3
    assert value(hook, "sagalog_handle_errors_total", type="other", error="InvalidEventError") == 1
    assert value(hook, "sagalog_instances_started_total") == counters.started == 2
    assert value(hook, "sagalog_instances_finished_total") == counters.finished == 2
    assert value(hook, "sagalog_runners") == 0


async def test_conflicts_between_workers_are_counted_once_for_two_runners_of_one_process(
    shared: Bench, hook: PrometheusHook
) -> None:
    async with listening(shared, hook) as one, listening(shared, hook) as two:
        assert value(hook, "sagalog_runners") == 2
        await one.handle(Placed("a"))
        await two.handle(Noted("a", "0"))  # so that what `one` remembers is old
        await asyncio.gather(*((one, two)[n % 2].handle(Noted("a", str(n))) for n in range(1, 20)))
        conflicts = one.counters.conflicts + two.counters.conflicts
        assert value(hook, "sagalog_steps_total", saga="order", outcome="conflict") == conflicts > 0
        handled = value(hook, "sagalog_messages_total", saga="order", type="Noted", outcome="handled")
        assert handled == 20
        await one.settle()
        await two.settle()


async def test_the_outbox_ages_until_the_command_is_accepted(
    bench: Bench, hook: PrometheusHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 1000.0
    monkeypatch.setattr("sagalog.telemetry.prometheus.time.monotonic", lambda: clock)
    release = asyncio.Event()

    async def slow(command: Any) -> None:
        await release.wait()

    async with listening(bench, hook, dispatch=slow) as runner:
        assert value(hook, "sagalog_outbox_oldest_seconds", saga="order") == 0
        await runner.handle(Placed("a"))
        clock += 42
        await runner.handle(Noted("a", "behind"))
        assert value(hook, "sagalog_outbox_oldest_seconds", saga="order") == 42
        release.set()
        await runner.settle()
        assert value(hook, "sagalog_outbox_oldest_seconds", saga="order") == 0
        assert hook._oldest == {}


async def test_an_outbox_that_another_worker_took_over_does_not_age_here(
    bench: Bench, hook: PrometheusHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 1000.0
    monkeypatch.setattr("sagalog.telemetry.prometheus.time.monotonic", lambda: clock)
    release = asyncio.Event()
    assert bench.journal is not None
    store = Gate(JournalSagaStateStore(bench.journal, "order"))
    store.deaf = True

    async def slow(command: Any) -> None:
        await release.wait()

    async with listening(bench, hook, store, dispatch=slow, lease=LONG) as frozen:
        await frozen.handle(Placed("a"))
        clock += 601
        bench.advance(seconds=601)
        async with bench.runner() as other:
            await other.settle()
        release.set()
        await frozen.settle()
        clock += 600
        assert value(hook, "sagalog_outbox_oldest_seconds", saga="order") == 0
        assert hook._oldest == {}


async def test_what_waits_is_seen_while_it_waits(bench: Bench, hook: PrometheusHook) -> None:
    assert bench.journal is not None
    store, entered, go = Gate(JournalSagaStateStore(bench.journal, "order")), asyncio.Event(), asyncio.Event()

    async def block(key: str, payload: bytes) -> None:
        entered.set()
        await go.wait()

    store.before = block
    async with listening(bench, hook, store) as runner:
        tasks = [asyncio.create_task(runner.handle(Placed("a"))) for _ in range(4)]
        await entered.wait()
        assert value(hook, "sagalog_events_in_flight") == 4
        assert value(hook, "sagalog_mailbox_messages", saga="order") == 3
        assert value(hook, "sagalog_instances_cached", saga="order") == 1
        go.set()
        await asyncio.gather(*tasks)
        assert value(hook, "sagalog_mailbox_messages", saga="order") == 0
    assert value(hook, "sagalog_step_messages_bucket", saga="order", le="4.0") == value(
        hook, "sagalog_steps_total", saga="order", outcome="saved"
    )


async def test_a_command_type_that_only_stored_data_names_makes_no_series(bench: Bench, hook: PrometheusHook) -> None:
    assert bench.journal is not None
    store = JournalSagaStateStore(bench.journal, "order")
    async with bench.runner(
        dispatch_retry=RetryPolicy(base=timedelta(seconds=99), cap=timedelta(seconds=99))
    ) as runner:
        bench.world.fail = {Reserve: 9}
        await runner.handle(Placed("a"))
    saved = await store.load("a")
    assert saved is not None
    payload = encode_record(decode_record(saved.payload)).replace(b'"Reserve"', b'"Evil{x=\\"1"')
    await store.save("a", payload, expected_version=saved.version, due_at=bench.clock.now())
    async with listening(bench, hook, dispatch_retry=RetryPolicy(attempts=1)) as runner:
        await runner.settle()
    assert value(hook, "sagalog_deliveries_total", saga="order", command="other", outcome="failed") == 1
    assert b"Evil" not in generate_latest(hook.registry)


async def test_names_follow_the_rules_of_prometheus_and_every_metric_is_really_exported() -> None:
    families = await scraped()
    for metric in (*TOLD, *READ):
        family = families[metric.name.removesuffix("_total")]
        assert family.type == metric.kind
        assert family.documentation == metric.help
        sample = next(sample for sample in family.samples if not sample.name.endswith("_created"))
        assert set(sample.labels) - {"le"} == set(metric.labels), metric.name
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.help.endswith(".") or metric.help.endswith(")")
        assert not metric.name.endswith(("_ms", "_milliseconds", "_count", "_sum"))


async def test_a_runner_that_is_started_again_goes_on_counting_and_never_back(
    bench: Bench, hook: PrometheusHook
) -> None:
    runner = SagaRunner(InMemoryJournal(), sagas=[OrderSaga], dispatch=bench.world, hooks=[hook])
    for round_ in range(1, 4):
        async with runner:
            await runner.handle(Placed(f"a{round_}"))
        assert value(hook, "sagalog_instances_started_total") == round_


async def test_the_group_commits_of_a_shared_journal_are_counted_once_and_stay_counted(
    tmp_path: Path, hook: PrometheusHook
) -> None:
    async with SqliteJournal(tmp_path / "orders.db") as journal:
        bench = Bench(journal)
        async with listening(bench, hook) as one, listening(bench, hook) as two:
            await asyncio.gather(*(runner.handle(Placed(f"{n}")) for runner in (one, two) for n in range(40)))
            await one.settle()
            await two.settle()
        records = journal.commit_counts.records
        assert value(hook, "sagalog_journal_records_total") == records >= 80
        commits = value(hook, "sagalog_journal_commits_total")
        assert 0 < commits == journal.commit_counts.commits < records
        assert value(hook, "sagalog_journal_commit_seconds_total") == journal.commit_counts.seconds > 0
        before = records
        async with bench.runner() as unheard:
            await unheard.handle(Placed("unheard"))
        assert value(hook, "sagalog_journal_records_total") == before
        async with listening(bench, hook) as again:
            await again.handle(Placed("again"))
        assert before < value(hook, "sagalog_journal_records_total") < journal.commit_counts.records


async def test_postgresql_counts_its_commits_too(postgres_schema: str, hook: PrometheusHook) -> None:
    async with SagaRunner(postgres_schema, sagas=[OrderSaga], dispatch=lambda command: None, hooks=[hook]) as runner:
        await asyncio.gather(*(runner.handle(Placed(f"{n}")) for n in range(40)))
    records, commits = value(hook, "sagalog_journal_records_total"), value(hook, "sagalog_journal_commits_total")
    assert 0 < commits < 40 < records


def test_a_second_hook_on_one_registry_is_refused_with_the_remedy(hook: PrometheusHook) -> None:
    with pytest.raises(DefinitionError, match="give that one to all runners"):
        PrometheusHook(hook.registry)


async def test_another_thread_may_scrape_while_the_runner_works(bench: Bench, hook: PrometheusHook) -> None:
    done, errors = threading.Event(), []

    def scrape() -> None:
        try:
            while not done.is_set():
                generate_latest(hook.registry)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=scrape)
    thread.start()
    async with listening(bench, hook, cache_size=10) as runner:
        await runner.handle_many([event for n in range(300) for event in (Placed(f"o{n}"), Asked(f"o{n}"))])
        await runner.settle()
    done.set()
    thread.join()
    assert errors == []


async def test_what_waits_because_it_is_paused_or_its_receiver_away_is_counted_by_its_type(
    hook: PrometheusHook,
) -> None:
    away = Circuit(failures=1, probe_after=timedelta(seconds=1000), probe_cap=timedelta(seconds=1000))
    runner = SagaRunner(InMemoryJournal(), sagas=[OrderSaga], hooks=[hook])
    tried = asyncio.Event()

    @runner.command(Reserve, circuit=away)
    def reserve(command: Reserve) -> None:
        tried.set()
        raise ConnectionError("away")

    async with runner:
        await runner.handle(Placed("a"))
        await tried.wait()
        await runner.settle()
        await runner.handle(Placed("b"))
        await runner.settle()
        assert value(hook, "sagalog_circuit_open", command="Reserve") == 1
        assert value(hook, "sagalog_commands_waiting", command="Reserve") >= 1
        assert value(hook, "sagalog_commands_paused", command="Reserve") == 0
        await runner.pause(Reserve)
        assert value(hook, "sagalog_commands_paused", command="Reserve") == 1
        await runner.resume(Reserve)
        assert value(hook, "sagalog_commands_paused", command="Reserve") == 0
