"""Running sagas: one file a phase, and round.py calls them in their order.

    receive ─► queue ─► load ─► decide ─► commit ─► settle ─► deliver          due ─► queue

Read runner.py for what users call, started.py for how the phases are put together, then the phases in this order. What
waits between them is an instance (instance.py) with its mailbox of envelopes (envelope.py), what is cached of its record
(cached_record.py) and what is known of its deliveries (deliveries.py); what an instance does in one round is a turn
(turn.py). Why it is so: docs/design/0003-rounds-of-batches.md. Beside each phase, what it is made of:

    runner    started, round, given, arguments, settings, many, receipt, inside
    receive   addressing, places, by_key, holder_watch, quiet, context
    queue     instance, cached_record, deliveries, envelope, cache, starting
    load      runtime, stores
    decide    turn, outcome, fire, wake, replay, event_time, passed_over, failures
    commit    too_large, in_transaction
    settle    landing, repair
    deliver   attempt, beside, begun, conclusion, answers, acceptances, children, lanes, lease, declined
    gates     gate, circuit, circuit_reports, rate, shared_rate, controls
    commands  activities, typed_handlers, resources
    due       scanned, searching, stranded, purging, sweeping
    asking    finding, ended, awaited, follower
    hooks     telling, reporter, hook_calls, hooked_handler, counters, gauges, health
    engine    clock, timing, signals, attached
"""

from .circuit import Circuit
from .clock import Clock, EventClock, ManualClock, SystemClock
from .commands import CommandContext, CommandPolicy
from .counters import Counters
from .ended import SagaOutcome
from .finding import SagaInstance
from .health import Health
from .hooks import CircuitChange, Delivery, Handling, Hook, Save, Scan
from .receipt import Incoming, Receipt
from .repair import Repaired
from .runner import SagaRunner
from .settings import NoInstance, RetryPolicy, RunnerSettings

__all__ = [
    "Circuit",
    "CircuitChange",
    "Clock",
    "CommandContext",
    "CommandPolicy",
    "Counters",
    "Delivery",
    "EventClock",
    "Handling",
    "Health",
    "Hook",
    "Incoming",
    "ManualClock",
    "NoInstance",
    "Receipt",
    "Repaired",
    "RetryPolicy",
    "RunnerSettings",
    "SagaInstance",
    "SagaOutcome",
    "SagaRunner",
    "Save",
    "Scan",
    "SystemClock",
]
