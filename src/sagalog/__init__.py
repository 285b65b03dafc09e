"""Durable sagas for Python: events in, one record per step, commands out, whatever is killed in between."""

from .actions import Action, CancelTimer, Compensate, Complete, Refused, Schedule, Send, SetTimer
from .codec import schema
from .errors import (
    CodecError,
    CommandRefused,
    ConflictError,
    DefinitionError,
    InvalidEventError,
    JournalError,
    JournalFormatError,
    JournalUnavailableError,
    MissingExtraError,
    NoInstanceError,
    OutcomeUnknownError,
    PayloadTooLargeError,
    RunnerStoppedError,
    SagalogError,
    SagaParkedError,
    SequenceOutOfOrder,
)
from .journal import Journal, PersistentRepr, open_journal
from .journal.memory import InMemoryJournal
from .journal.sqlite import SqliteJournal
from .record import SagaRecord, Status
from .saga import Saga, on, on_refused, starts
from .store import InMemorySagaStateStore, JournalSagaStateStore, SagaStateStore, SavedState

__all__ = [
    "Action",
    "CancelTimer",
    "CodecError",
    "CommandRefused",
    "Compensate",
    "Complete",
    "ConflictError",
    "DefinitionError",
    "InMemoryJournal",
    "InMemorySagaStateStore",
    "InvalidEventError",
    "Journal",
    "JournalError",
    "JournalFormatError",
    "JournalSagaStateStore",
    "JournalUnavailableError",
    "MissingExtraError",
    "NoInstanceError",
    "OutcomeUnknownError",
    "PayloadTooLargeError",
    "PersistentRepr",
    "Refused",
    "RunnerStoppedError",
    "Saga",
    "SagaParkedError",
    "SagaRecord",
    "SagaStateStore",
    "SagalogError",
    "SavedState",
    "Schedule",
    "Send",
    "SequenceOutOfOrder",
    "SetTimer",
    "SqliteJournal",
    "Status",
    "on",
    "on_refused",
    "open_journal",
    "schema",
    "starts",
]
