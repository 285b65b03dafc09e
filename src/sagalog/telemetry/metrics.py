"""Which metrics there are: those that hooks are told (TOLD), and those that are read when somebody asks (READ)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

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
COMMANDS_WAITING = Metric(
    "sagalog_commands_waiting",
    "gauge",
    ("command",),
    "Commands of this process that wait before they leave: their type is paused, its circuit open, or its rate used up.",
)
COMMANDS_PAUSED = Metric(
    "sagalog_commands_paused", "gauge", ("command",), "1 where an operator has paused commands of this type, else 0."
)
CIRCUIT_OPEN = Metric(
    "sagalog_circuit_open",
    "gauge",
    ("command",),
    "Runners of this process whose circuit is open: the receiver of these commands is away.",
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

_SOURCE = ("source",)
SOURCE_COUNTS = {  # by the field of SourceCounts
    "received": "Messages received from a source, counted at each delivery.",
    "redelivered": "Of these, delivered before, as far as the broker counts.",
    "accepted": "Messages accepted: their step is durable, or they were ignored by policy.",
    "duplicates": "Of these, known to all their sagas already.",
    "ignored": "Of these, ignored by policy: unreadable, or taken by no saga.",
    "dead_letters": "Messages that went to the dead letters.",
    "retried": "Attempts at messages that failed for a while, such as while the journal was away.",
    "broker_errors": "Calls that a broker did not answer.",
}
SOURCE_TOTALS = tuple(
    Metric(f"sagalog_source_{field}_total", "counter", _SOURCE, text) for field, text in SOURCE_COUNTS.items()
)
SOURCE_LAG = Metric(
    "sagalog_source_lag",
    "gauge",
    _SOURCE,
    "Messages before a source that are not accepted; for Kafka those of this worker's partitions.",
)
SOURCE_OLDEST = Metric("sagalog_source_oldest_seconds", "gauge", _SOURCE, "How long the oldest of them has waited.")
SOURCE_UNDER_WAY = Metric("sagalog_source_under_way", "gauge", _SOURCE, "Messages received and not accepted yet.")
SOURCE_STOPPED = Metric(
    "sagalog_source_stopped", "gauge", _SOURCE, "1 for a source that has stopped at a message, by policy; else 0."
)

TOLD = (
    MESSAGES, STEPS, STEP_MESSAGES, SAVE_SECONDS, HANDLE_SECONDS, HANDLE_ERRORS, PARKED, DELIVERIES, DELIVERY_SECONDS,
    TIMER_LAG, DUE_CLAIMED, DUE_OLDEST, DUE_LOOKED,
)  # fmt: skip
READ = (
    OUTBOX_OLDEST, CACHED, MAILBOX, IN_FLIGHT, DISPATCH_WAITING, COMMANDS_WAITING, COMMANDS_PAUSED, CIRCUIT_OPEN, RUNNERS,
    STARTED, FINISHED, TAKEOVERS, PURGED, JOURNAL_COMMITS, JOURNAL_RECORDS, JOURNAL_SECONDS, *SOURCE_TOTALS, SOURCE_LAG,
    SOURCE_OLDEST, SOURCE_UNDER_WAY, SOURCE_STOPPED,
)  # fmt: skip


def table() -> Iterator[tuple[str, str, str, str]]:
    """Yield name, kind, labels and meaning of every metric, for the documentation."""
    for metric in (*TOLD, *READ):
        yield metric.name, metric.kind, ", ".join(metric.labels), metric.help
