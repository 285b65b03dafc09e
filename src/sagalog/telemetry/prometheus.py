"""Metrics for Prometheus: give a `PrometheusHook` to any number of runners, and mount its registry.

Labels take values that the code declares: names of sagas, of message types, of outcomes. Whatever else turns up (a
command type of a newer version, an error of a user's own) counts as `other`, so that nothing from outside makes series.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from .. import errors
from ..errors import DefinitionError, MissingExtraError
from ..journal.protocol import CommitCounts, CountsCommits
from ..runner import Counters, Delivery, Handling, Hook, SagaRunner, Save, Scan

try:
    from prometheus_client import REGISTRY, Counter, Gauge, Histogram
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector, CollectorRegistry
except ModuleNotFoundError as error:
    raise MissingExtraError("metrics need the package prometheus_client: pip install 'sagalog[prometheus]'") from error

if TYPE_CHECKING:
    from prometheus_client import Metric as Family

OTHER = "other"
_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW = (0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
_MESSAGES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: what it is called, what it counts, and by what it is told apart."""

    name: str
    kind: str  # counter, gauge or histogram
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = field(default=(), repr=False)


# What hooks are told.
MESSAGES = Metric(
    "sagalog_messages_total",
    "counter",
    ("saga", "type", "outcome"),
    "Messages (events, timers, refusals) by outcome: handled, duplicate, held, ignored, no_instance, failed (the handler "
    "raised), or how the save failed: conflict, exists, unavailable, unknown.",
)
STEPS = Metric(
    "sagalog_steps_total",
    "counter",
    ("saga", "outcome"),
    "Attempts to save a step: saved, conflict (another worker was faster), exists (a start that met an instance), "
    "unavailable, unknown.",
)
STEP_MESSAGES = Metric(
    "sagalog_step_messages", "histogram", ("saga",), "Messages that shared one saved step; 0: maintenance.", _MESSAGES
)
SAVE_SECONDS = Metric("sagalog_save_seconds", "histogram", ("saga",), "How long the save of a step took.", _FAST)
HANDLE_SECONDS = Metric(
    "sagalog_handle_seconds", "histogram", ("type",), "How long a caller of handle() waited for its answer.", _FAST
)
HANDLE_ERRORS = Metric(
    "sagalog_handle_errors_total", "counter", ("type", "error"), "Calls of handle() that raised, by error class."
)
PARKED = Metric("sagalog_parked_total", "counter", ("saga",), "Instances parked since this process started.")
DELIVERIES = Metric(
    "sagalog_deliveries_total",
    "counter",
    ("saga", "command", "outcome"),
    "Attempts to deliver a command: accepted, refused, failed (tried again).",
)
DELIVERY_SECONDS = Metric(
    "sagalog_delivery_seconds",
    "histogram",
    ("saga", "command"),
    "How long an attempt took, with its reply events.",
    _FAST + (30.0, 60.0),
)
TIMER_LAG = Metric(
    "sagalog_timer_lag_seconds", "histogram", ("saga",), "How long after its time a timer was handled.", _SLOW
)
DUE_CLAIMED = Metric("sagalog_due_claimed_total", "counter", ("saga",), "Due instances that this process claimed.")
DUE_OLDEST = Metric(
    "sagalog_due_oldest_seconds", "gauge", ("saga",), "How long the oldest work found by the last look had been due."
)
DUE_LOOKED = Metric(
    "sagalog_due_looked_timestamp_seconds", "gauge", ("saga",), "When due work was last looked for (Unix time)."
)

# What is read when it is asked for.
OUTBOX_OLDEST = Metric(
    "sagalog_outbox_oldest_seconds",
    "gauge",
    ("saga",),
    "How long the oldest command of this process has not been accepted.",
)
CACHED = Metric("sagalog_instances_cached", "gauge", ("saga",), "Instances in memory.")
MAILBOX = Metric("sagalog_mailbox_messages", "gauge", ("saga",), "Messages that wait in mailboxes.")
IN_FLIGHT = Metric("sagalog_events_in_flight", "gauge", (), "Events inside handle().")
DISPATCH_WAITING = Metric(
    "sagalog_dispatch_waiting", "gauge", (), "Instances whose commands wait for a free place (max_dispatch)."
)
RUNNERS = Metric("sagalog_runners", "gauge", (), "Started runners in this process.")
STARTED = Metric("sagalog_instances_started_total", "counter", (), "Instances started.")
FINISHED = Metric("sagalog_instances_finished_total", "counter", (), "Instances that came to their end.")
TAKEOVERS = Metric(
    "sagalog_takeovers_total",
    "counter",
    (),
    "Instances whose undelivered commands were taken over from another worker.",
)
PURGED = Metric("sagalog_purged_total", "counter", (), "Finished instances forgotten after their retention.")
JOURNAL_COMMITS = Metric(
    "sagalog_journal_commits_total",
    "counter",
    (),
    "Transactions of the journal (SQLite, PostgreSQL) with records in them.",
)
JOURNAL_RECORDS = Metric(
    "sagalog_journal_records_total",
    "counter",
    (),
    "Records in those transactions: by commits, the size of a group commit.",
)
JOURNAL_SECONDS = Metric(
    "sagalog_journal_commit_seconds_total", "counter", (), "How long those transactions took, together."
)

TOLD = (
    MESSAGES, STEPS, STEP_MESSAGES, SAVE_SECONDS, HANDLE_SECONDS, HANDLE_ERRORS, PARKED, DELIVERIES, DELIVERY_SECONDS,
    TIMER_LAG, DUE_CLAIMED, DUE_OLDEST, DUE_LOOKED,
)  # fmt: skip
READ = (
    OUTBOX_OLDEST, CACHED, MAILBOX, IN_FLIGHT, DISPATCH_WAITING, RUNNERS, STARTED, FINISHED, TAKEOVERS, PURGED,
    JOURNAL_COMMITS, JOURNAL_RECORDS, JOURNAL_SECONDS,
)  # fmt: skip


class PrometheusHook(Hook, Collector):
    """Counts what runners do, in `registry` (default: the one of prometheus_client). One hook serves many runners.

    Raises DefinitionError if the registry has such a hook already, MissingExtraError (at import) without the package.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.registry = registry
        self._known: set[str] = set()
        self._runners: dict[SagaRunner, CommitCounts | None] = {}  # and what its journal counts
        self._totals = _Totals(Counters)
        self._commits = _Totals(CommitCounts)
        self._begun: dict[str, float] = {}  # deliveries, by command id
        self._oldest: dict[tuple[str, str], tuple[str, float]] = {}  # first outbox entry, by instance
        self._errors = frozenset(
            name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)
        ) | {"CancelledError"}
        try:
            registry.register(self)
        except ValueError:
            raise DefinitionError(
                "this registry has the metrics of a PrometheusHook already: give that one to all runners"
            ) from None
        self._made: dict[Metric, Any] = {metric: _made(metric, registry) for metric in TOLD}

    # What it is told.

    def started(self, runner: SagaRunner) -> None:
        counts = runner.journal.commit_counts if isinstance(runner.journal, CountsCommits) else None
        self._runners[runner] = counts
        self._totals.enter(runner.counters)
        if counts is not None:
            self._commits.enter(counts)
        for saga in runner.sagas:
            registry = type(saga).registry(saga)
            for name in registry.names():
                self._known.add(name)
                known = registry.get(name)
                if known is not None:
                    self._known.add(known.__name__)
            # From 0, so that the first one is seen as an increase.
            self._made[PARKED].labels(saga.name)
            for outcome in ("saved", "conflict", "unavailable", "unknown"):
                self._made[STEPS].labels(saga.name, outcome)

    def stopped(self, runner: SagaRunner) -> None:
        counts = self._runners.pop(runner)
        self._totals.leave(runner.counters)
        if counts is not None:
            self._commits.leave(counts)

    def _type(self, name: str) -> str:
        return name if name in self._known else OTHER

    def handled(self, handling: Handling) -> None:
        if handling.outcome == "repeated":  # it comes again
            return
        self._made[MESSAGES].labels(handling.saga, self._type(handling.type), handling.outcome).inc()
        if handling.late_seconds is not None and handling.outcome == "handled":
            self._made[TIMER_LAG].labels(handling.saga).observe(handling.late_seconds)

    def answered(self, event: str, seconds: float, error: str) -> None:
        kind = self._type(event)
        if error:
            self._made[HANDLE_ERRORS].labels(kind, error if error in self._errors else OTHER).inc()
        else:
            self._made[HANDLE_SECONDS].labels(kind).observe(seconds)

    def saved(self, save: Save) -> None:
        self._made[STEPS].labels(save.saga, save.outcome).inc()
        if save.outcome != "saved":
            return
        self._made[SAVE_SECONDS].labels(save.saga).observe(save.seconds)
        self._made[STEP_MESSAGES].labels(save.saga).observe(save.messages)
        instance = (save.saga, save.correlation_id)
        if not save.oldest:
            self._oldest.pop(instance, None)
        elif self._oldest.get(instance, ("", 0.0))[0] != save.oldest:
            self._oldest[instance] = (save.oldest, time.monotonic())

    def parked(self, saga: str, correlation_id: str, reason: str) -> None:
        self._made[PARKED].labels(saga).inc()

    def delivering(self, delivery: Delivery) -> str:
        self._begun[delivery.command_id] = time.monotonic()
        return ""

    def delivered(self, delivery: Delivery) -> None:
        command = self._type(delivery.command)
        self._made[DELIVERIES].labels(delivery.saga, command, delivery.outcome).inc()
        begun = self._begun.pop(delivery.command_id, None)
        if begun is not None:
            self._made[DELIVERY_SECONDS].labels(delivery.saga, command).observe(time.monotonic() - begun)

    def scanned(self, scan: Scan) -> None:
        self._made[DUE_CLAIMED].labels(scan.saga).inc(scan.claimed)
        self._made[DUE_OLDEST].labels(scan.saga).set(scan.oldest_seconds)
        self._made[DUE_LOOKED].labels(scan.saga).set_to_current_time()

    # What is read when it is asked for, perhaps by another thread.

    def describe(self) -> Iterable[Family]:
        """Return the names for the registry, which refuses a second hook by them."""
        return self.collect()

    def collect(self) -> Iterable[Family]:
        cached, mailbox, oldest = _ByLabel(CACHED), _ByLabel(MAILBOX), _ByLabel(OUTBOX_OLDEST)
        in_flight = waiting = 0
        runners = list(self._runners)
        undelivered: dict[tuple[str, str], str] = {}
        for runner in runners:
            load = runner.gauges()
            in_flight += load.in_flight
            waiting += load.dispatch_waiting
            for saga in load.sagas:
                cached.add(saga.name, saga.cached)
                mailbox.add(saga.name, saga.mailbox_messages)
                oldest.add(saga.name, 0.0)
                undelivered.update(((saga.name, key), entry) for key, entry in saga.undelivered.items())
        now = time.monotonic()
        for instance, (entry, since) in list(self._oldest.items()):
            if undelivered.get(instance) == entry:
                oldest.raise_to(instance[0], now - since)
            elif instance not in undelivered:  # accepted, or another worker's by now
                self._oldest.pop(instance, None)
        yield from (cached.family(), mailbox.family(), oldest.family())
        yield _gauge(IN_FLIGHT, in_flight)
        yield _gauge(DISPATCH_WAITING, waiting)
        yield _gauge(RUNNERS, len(runners))
        for metric, totals, name in (
            (STARTED, self._totals, "started"),
            (FINISHED, self._totals, "finished"),
            (TAKEOVERS, self._totals, "takeovers"),
            (PURGED, self._totals, "purged"),
            (JOURNAL_COMMITS, self._commits, "commits"),
            (JOURNAL_RECORDS, self._commits, "records"),
            (JOURNAL_SECONDS, self._commits, "seconds"),
        ):
            yield CounterMetricFamily(metric.name, metric.help, value=totals.of(name))


class _Totals:
    """Sums over counters that come and go. What has gone stays counted: a total never goes back."""

    def __init__(self, kind: type[msgspec.Struct]) -> None:
        self._names = kind.__struct_fields__
        self._gone = dict.fromkeys(self._names, 0.0)
        self._there: dict[int, _Counted] = {}

    def enter(self, counters: msgspec.Struct) -> None:
        """Count along from now on. What several share enters once, and is there until the last has left."""
        there = self._there.setdefault(id(counters), _Counted(counters, copy.copy(counters)))
        there.users += 1

    def leave(self, counters: msgspec.Struct) -> None:
        """Count it as far as it has come."""
        there = self._there[id(counters)]
        there.users -= 1
        if there.users == 0:
            del self._there[id(counters)]
            for name in self._names:
                self._gone[name] += there.since(name)

    def of(self, name: str) -> float:
        return self._gone[name] + sum(there.since(name) for there in list(self._there.values()))


@dataclass(slots=True)
class _Counted:
    now: msgspec.Struct
    before: msgspec.Struct
    users: int = 0

    def since(self, name: str) -> float:
        return float(getattr(self.now, name) - getattr(self.before, name))


def _made(metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    if metric.kind == "histogram":
        return Histogram(metric.name, metric.help, metric.labels, registry=registry, buckets=metric.buckets)
    kind = Counter if metric.kind == "counter" else Gauge
    return kind(metric.name, metric.help, metric.labels, registry=registry)


def _gauge(metric: Metric, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(metric.name, metric.help, value=value)


class _ByLabel:
    """The values of one gauge, by saga."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._values: dict[str, float] = {}

    def add(self, saga: str, value: float) -> None:
        self._values[saga] = self._values.get(saga, 0.0) + value

    def raise_to(self, saga: str, value: float) -> None:
        self._values[saga] = max(self._values.get(saga, 0.0), value)

    def family(self) -> GaugeMetricFamily:
        family = GaugeMetricFamily(self._metric.name, self._metric.help, labels=self._metric.labels)
        for saga, value in self._values.items():
            family.add_metric([saga], value)
        return family


def table() -> Iterator[tuple[str, str, str, str]]:
    """Yield name, kind, labels and meaning of every metric, for the documentation."""
    for metric in (*TOLD, *READ):
        yield metric.name, metric.kind, ", ".join(metric.labels), metric.help
