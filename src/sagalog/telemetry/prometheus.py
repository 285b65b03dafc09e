"""Metrics for Prometheus: give a `PrometheusHook` to any number of runners, and mount its registry.

Labels take values that the code declares: names of sagas, of message types, of outcomes. Whatever else turns up (a
command type of a newer version, an error of a user's own) counts as `other`, so that nothing from outside makes series.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .. import errors
from ..brokers import SourceCounts
from ..errors import DefinitionError, MissingExtraError
from ..journal.protocol import CommitCounts, CountsCommits
from ..runner import Counters, Delivery, Handling, Hook, SagaRunner, Save, Scan
from .metrics import (
    CACHED,
    CIRCUIT_OPEN,
    COMMANDS_PAUSED,
    COMMANDS_WAITING,
    DELIVERIES,
    DELIVERY_SECONDS,
    DISPATCH_WAITING,
    DUE_CLAIMED,
    DUE_LOOKED,
    DUE_OLDEST,
    FINISHED,
    HANDLE_ERRORS,
    HANDLE_SECONDS,
    IN_FLIGHT,
    JOURNAL_COMMITS,
    JOURNAL_RECORDS,
    JOURNAL_SECONDS,
    MAILBOX,
    MESSAGES,
    OUTBOX_OLDEST,
    PARKED,
    PURGED,
    RUNNERS,
    SAVE_SECONDS,
    SOURCE_COUNTS,
    SOURCE_LAG,
    SOURCE_OLDEST,
    SOURCE_STOPPED,
    SOURCE_TOTALS,
    SOURCE_UNDER_WAY,
    STARTED,
    STEP_MESSAGES,
    STEPS,
    TAKEOVERS,
    TIMER_LAG,
    TOLD,
    Metric,
)
from .totals import CounterTotals

try:
    from prometheus_client import REGISTRY, Counter, Gauge, Histogram
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector, CollectorRegistry
except ModuleNotFoundError as _error:
    raise MissingExtraError("metrics need the package prometheus_client: pip install 'sagalog[prometheus]'") from _error

if TYPE_CHECKING:
    from prometheus_client import Metric as Family

OTHER = "other"


class PrometheusHook(Hook, Collector):
    """Counts what runners do, in `registry` (default: the one of prometheus_client). One hook serves many runners.

    Raises DefinitionError if the registry has such a hook already, MissingExtraError (at import) without the package.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.registry = registry
        self._known: set[str] = set()
        self._runners: dict[SagaRunner, CommitCounts | None] = {}  # and what its journal counts
        self._totals = CounterTotals(Counters)
        self._commits = CounterTotals(CommitCounts)
        self._begun: dict[str, float] = {}  # deliveries, by command id
        self._oldest: dict[tuple[str, str], tuple[str, float]] = {}  # first outbox entry, by instance
        self._sources: dict[str, list[SourceCounts]] = {}  # of all runners that were ever started
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
        self._children: dict[tuple[str, ...], Any] = {}  # by name and labels; as many as there are series

    def __repr__(self) -> str:
        return f"<PrometheusHook of {len(self._runners)} runners>"

    def started(self, runner: SagaRunner) -> None:
        counts = runner.journal.commit_counts if isinstance(runner.journal, CountsCommits) else None
        self._runners[runner] = counts
        self._totals.enter(runner.counters)
        if counts is not None:
            self._commits.enter(counts)
        for source in runner.gauges().sources:
            self._sources.setdefault(source.name, []).append(source.counts)
        for saga in runner.sagas:
            registry = type(saga).registry(saga)
            for name in registry.names():
                self._known.add(name)
                known = registry.get(name)
                if known is not None:
                    self._known.add(known.__name__)
            # From 0, so that the first one is seen as an increase.
            self._of(PARKED, saga.name)
            for outcome in ("saved", "conflict", "unavailable", "unknown"):
                self._of(STEPS, saga.name, outcome)

    def stopped(self, runner: SagaRunner) -> None:
        counts = self._runners.pop(runner)
        self._totals.leave(runner.counters)
        if counts is not None:
            self._commits.leave(counts)

    def _of(self, metric: Metric, *labels: str) -> Any:
        """Return the one series of a metric that has these labels."""
        key = (metric.name, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._made[metric].labels(*labels)
        return child

    def _type(self, name: str) -> str:
        return name if name in self._known else OTHER

    def handled(self, handling: Handling) -> None:
        if handling.outcome == "repeated":  # it comes again
            return
        self._of(MESSAGES, handling.saga, self._type(handling.type), handling.outcome).inc()
        if handling.late_seconds is not None and handling.outcome == "handled":
            self._of(TIMER_LAG, handling.saga).observe(handling.late_seconds)

    def answered(self, event: str, seconds: float, error: str) -> None:
        kind = self._type(event)
        if error:
            self._of(HANDLE_ERRORS, kind, error if error in self._errors else OTHER).inc()
        else:
            self._of(HANDLE_SECONDS, kind).observe(seconds)

    def saved(self, save: Save) -> None:
        self._of(STEPS, save.saga, save.outcome).inc()
        if save.outcome != "saved":
            return
        self._of(SAVE_SECONDS, save.saga).observe(save.seconds)
        self._of(STEP_MESSAGES, save.saga).observe(save.messages)
        instance = (save.saga, save.correlation_id)
        if not save.oldest:
            self._oldest.pop(instance, None)
        elif self._oldest.get(instance, ("", 0.0))[0] != save.oldest:
            self._oldest[instance] = (save.oldest, time.monotonic())

    def parked(self, saga: str, correlation_id: str, reason: str) -> None:
        self._of(PARKED, saga).inc()

    def delivering(self, delivery: Delivery) -> str:
        self._begun[delivery.command_id] = time.monotonic()
        return ""

    def delivered(self, delivery: Delivery) -> None:
        command = self._type(delivery.command)
        self._of(DELIVERIES, delivery.saga, command, delivery.outcome).inc()
        begun = self._begun.pop(delivery.command_id, None)
        if begun is not None:
            self._of(DELIVERY_SECONDS, delivery.saga, command).observe(time.monotonic() - begun)

    def scanned(self, scan: Scan) -> None:
        self._of(DUE_CLAIMED, scan.saga).inc(scan.claimed)
        self._of(DUE_OLDEST, scan.saga).set(scan.oldest_seconds)
        self._of(DUE_LOOKED, scan.saga).set_to_current_time()

    def describe(self) -> Iterable[Family]:
        """Return the names for the registry, which refuses a second hook by them."""
        return self.collect()

    def collect(self) -> Iterable[Family]:
        """Read what runners have on their hands; the registry may ask in another thread than theirs."""
        cached, mailbox, oldest = _ByLabel(CACHED), _ByLabel(MAILBOX), _ByLabel(OUTBOX_OLDEST)
        waits, paused, away = _ByLabel(COMMANDS_WAITING), _ByLabel(COMMANDS_PAUSED), _ByLabel(CIRCUIT_OPEN)
        in_flight = waiting = 0
        lag, waiting_for, under_way = _ByLabel(SOURCE_LAG), _ByLabel(SOURCE_OLDEST), _ByLabel(SOURCE_UNDER_WAY)
        stopped = _ByLabel(SOURCE_STOPPED)
        runners = list(self._runners)
        undelivered: dict[tuple[str, str], str] = {}
        for runner in runners:
            load = runner.gauges()
            in_flight += load.in_flight
            waiting += load.dispatch_waiting
            for command in load.commands:
                name = self._type(command.name)
                waits.add(name, command.waiting)
                paused.raise_to(name, float(command.paused))
                away.add(name, float(command.circuit_open))
            for saga in load.sagas:
                cached.add(saga.name, saga.cached)
                mailbox.add(saga.name, saga.mailbox_messages)
                oldest.add(saga.name, 0.0)
                undelivered.update(((saga.name, key), entry) for key, entry in saga.undelivered.items())
            for source in load.sources:
                lag.add(source.name, source.lag or 0)
                waiting_for.raise_to(source.name, source.oldest_seconds or 0.0)
                under_way.add(source.name, source.under_way)
                stopped.raise_to(source.name, float(bool(source.stopped)))
        now = time.monotonic()
        for instance, (entry, since) in list(self._oldest.items()):
            if undelivered.get(instance) == entry:
                oldest.raise_to(instance[0], now - since)
            elif instance not in undelivered:  # accepted, or another worker's by now
                self._oldest.pop(instance, None)
        yield from (one.family() for one in (cached, mailbox, oldest, waits, paused, away))
        yield from (lag.family(), waiting_for.family(), under_way.family(), stopped.family())
        for total, field in zip(SOURCE_TOTALS, SOURCE_COUNTS, strict=True):
            counter = CounterMetricFamily(total.name, total.help, labels=total.labels)
            for name, counts in list(self._sources.items()):
                counter.add_metric([name], sum(getattr(one, field) for one in list(counts)))
            yield counter
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


def _made(metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    if metric.kind == "histogram":
        return Histogram(metric.name, metric.help, metric.labels, registry=registry, buckets=metric.buckets)
    kind = Counter if metric.kind == "counter" else Gauge
    return kind(metric.name, metric.help, metric.labels, registry=registry)


def _gauge(metric: Metric, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(metric.name, metric.help, value=value)


class _ByLabel:
    """The values of one gauge, by its label."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._values: dict[str, float] = {}

    def add(self, label: str, value: float) -> None:
        self._values[label] = self._values.get(label, 0.0) + value

    def raise_to(self, label: str, value: float) -> None:
        self._values[label] = max(self._values.get(label, 0.0), value)

    def family(self) -> GaugeMetricFamily:
        family = GaugeMetricFamily(self._metric.name, self._metric.help, labels=self._metric.labels)
        for label, value in self._values.items():
            family.add_metric([label], value)
        return family


__all__ = ["PrometheusHook"]
