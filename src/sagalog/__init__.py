"""Durable sagas for Python: events in, one record per step, commands out, whatever is killed in between.

Open to users is what these modules name in their `__all__`; everything else may change without notice:

- `sagalog`: sagas, runners, journals
- `sagalog.testing`, `sagalog.testing.simulation`: tests of sagas
- `sagalog.journal`, `sagalog.conformance`: journals, stores and brokers of your own
- `sagalog.brokers`, `sagalog.brokers.nats`, `sagalog.brokers.redis`, `sagalog.brokers.kafka`,
  `sagalog.brokers.rabbitmq`: events from brokers, and commands to them
- `sagalog.dashboard`: the dashboard in an ASGI app
- `sagalog.blocking`: sagas from code that does not await, from threads
- `sagalog.django`: an app for Django projects
- `sagalog.web`, `sagalog.web.fastapi`: events in and outcomes out over HTTP, in your own web app
- `sagalog.telemetry.prometheus`, `sagalog.telemetry.otel`: metrics and traces
- `sagalog.mypy`: the plugin, named in the settings of mypy
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from .decision.entries import Status
from .decision.message import Outcome
from .decision.record import SagaRecord
from .definition.actions import (
    Action,
    AddKey,
    CancelTimer,
    Compensate,
    Complete,
    Enter,
    Gather,
    Gathered,
    Refused,
    RemoveKey,
    Run,
    Schedule,
    Send,
    SetTimer,
    StartChild,
)
from .definition.activities import Call, activity
from .definition.children import ChildEnded, on_child
from .definition.context import StepContext
from .definition.joins import when_all
from .definition.keys import Key
from .definition.legs import leg
from .definition.phases import on_enter, on_leave
from .definition.routes import Actions, on, on_refused, starts
from .definition.saga import Saga
from .definition.schema import schema, upcast
from .definition.sequences import Gap, Sequence
from .errors import (
    AlreadyStartedError,
    BrokerError,
    BrokerRefusedError,
    BrokerUnavailableError,
    CodecError,
    CommandRefused,
    ConflictError,
    DefinitionError,
    InstanceFullError,
    InvalidEventError,
    JournalError,
    JournalFormatError,
    JournalUnavailableError,
    KeyTakenError,
    MissingExtraError,
    NoInstanceError,
    NotAllReachedError,
    OutcomeGoneError,
    OutcomeTimeoutError,
    OutcomeUnknownError,
    PayloadTooLargeError,
    RepairError,
    RunnerStoppedError,
    SagalogError,
    SagaParkedError,
    SequenceOutOfOrder,
    TooManyKeptError,
    UnexpectedEventError,
)
from .journal import Journal, PersistentRepr, open_journal
from .journal.memory import InMemoryJournal
from .journal.state_store import SagaStateStore, SavedState
from .journal.store import InMemorySagaStateStore, JournalSagaStateStore
from .runner import (
    Circuit,
    CircuitChange,
    Clock,
    CommandContext,
    CommandPolicy,
    Counters,
    Delivery,
    EventClock,
    Handling,
    Health,
    Hook,
    Incoming,
    ManualClock,
    NoInstance,
    Receipt,
    Repaired,
    RetryPolicy,
    RunnerSettings,
    SagaInstance,
    SagaOutcome,
    SagaRunner,
    Save,
    Scan,
    SystemClock,
)

__version__ = "1.0.0rc1"

if _TYPE_CHECKING:
    from .definition.itinerary_saga import ItinerarySaga
    from .journal.sqlite import SqliteJournal

__all__ = [
    "Action",
    "Actions",
    "AddKey",
    "AlreadyStartedError",
    "BrokerError",
    "BrokerRefusedError",
    "BrokerUnavailableError",
    "Call",
    "CancelTimer",
    "ChildEnded",
    "Circuit",
    "CircuitChange",
    "Clock",
    "CodecError",
    "CommandContext",
    "CommandPolicy",
    "CommandRefused",
    "Compensate",
    "Complete",
    "ConflictError",
    "Counters",
    "DefinitionError",
    "Delivery",
    "Enter",
    "EventClock",
    "Gap",
    "Gather",
    "Gathered",
    "Handling",
    "Health",
    "Hook",
    "InMemoryJournal",
    "InMemorySagaStateStore",
    "Incoming",
    "InstanceFullError",
    "InvalidEventError",
    "ItinerarySaga",
    "Journal",
    "JournalError",
    "JournalFormatError",
    "JournalSagaStateStore",
    "JournalUnavailableError",
    "Key",
    "KeyTakenError",
    "ManualClock",
    "MissingExtraError",
    "NoInstance",
    "NoInstanceError",
    "NotAllReachedError",
    "Outcome",
    "OutcomeGoneError",
    "OutcomeTimeoutError",
    "OutcomeUnknownError",
    "PayloadTooLargeError",
    "PersistentRepr",
    "Receipt",
    "Refused",
    "RemoveKey",
    "RepairError",
    "Repaired",
    "RetryPolicy",
    "Run",
    "RunnerSettings",
    "RunnerStoppedError",
    "Saga",
    "SagaInstance",
    "SagaOutcome",
    "SagaParkedError",
    "SagaRecord",
    "SagaRunner",
    "SagaStateStore",
    "SagalogError",
    "Save",
    "SavedState",
    "Scan",
    "Schedule",
    "Send",
    "Sequence",
    "SequenceOutOfOrder",
    "SetTimer",
    "SqliteJournal",
    "StartChild",
    "Status",
    "StepContext",
    "SystemClock",
    "TooManyKeptError",
    "UnexpectedEventError",
    "activity",
    "leg",
    "on",
    "on_child",
    "on_enter",
    "on_leave",
    "on_refused",
    "open_journal",
    "schema",
    "starts",
    "upcast",
    "when_all",
]


def __getattr__(name: str) -> _Any:
    """Import when it is first asked for: the SQLite journal, and with it the driver; the saga class of itineraries."""
    if name == "SqliteJournal":
        from .journal.sqlite import SqliteJournal

        globals()[name] = SqliteJournal
        return SqliteJournal
    if name == "ItinerarySaga":
        from .definition.itinerary_saga import ItinerarySaga

        globals()[name] = ItinerarySaga
        return ItinerarySaga
    raise AttributeError(f"module 'sagalog' has no attribute {name!r}")
