"""Running sagas: receive, mailbox, step, commit, dispatch, due. One file a phase; runner.py owns start and stop."""

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
