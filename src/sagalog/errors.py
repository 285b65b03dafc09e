"""Every exception Sagalog raises. The class alone says what to do.

    SagalogError
    ├── DefinitionError              fix your code: a saga, handler or runner is put together wrongly (a ValueError, too)
    ├── CodecError                   fix your types: a value cannot be turned into bytes or back
    ├── InvalidEventError            fix the sender: the event was refused before anything was stored
    │   └── PayloadTooLargeError     ... because it, or what it leads to by itself, is over the limit
    ├── NoInstanceError              the event may not start a saga, and no live instance waits for it; or it was asked for
    ├── AlreadyStartedError          the saga is started already, and its handler declines such an event: again="raise"
    ├── UnexpectedEventError         the saga's phase does not expect such an event: unexpected="raise"
    ├── KeyTakenError                another live instance holds that unique key; nothing was stored
    ├── TooManyKeptError             send it again later: so many events wait for another phase that it takes no more
    ├── InstanceFullError            send it again later: what waits in the instance leaves no room for what the event adds
    ├── ConflictError                reload: another writer was first; certainly nothing was stored
    │   └── SequenceOutOfOrder       ... at the level of a journal: the number is not the next one
    ├── OutcomeUnknownError          look first: the write may or may not be stored
    │   └── NotAllReachedError       ... some instances that hold the key have stored the event, and others could not
    ├── JournalError                 operate: the journal refuses
    │   ├── JournalUnavailableError  retry: certainly nothing was stored
    │   ├── JournalFormatError       not a journal of ours, or of a newer version; left untouched
    │   └── MissingExtraError        install the named extra (an ImportError, too)
    ├── BrokerError                  operate: a broker refuses
    │   ├── BrokerUnavailableError   retry: the broker cannot be reached, or has not answered
    │   └── BrokerRefusedError       fix it: the broker will never take this, or there is no such stream, topic or queue
    ├── OutcomeTimeoutError          ask again: the instance has not ended within the time given (a TimeoutError, too)
    ├── OutcomeGoneError             ask earlier: how that life ended is not kept any more
    ├── SagaParkedError              operate: the instance waits for a repair
    ├── RepairError                  operate: this repair cannot be made as the instance stands; nothing was stored
    └── RunnerStoppedError           the runner is not running (any more); nothing was stored

    CommandRefused                   raised by *your* command handlers: "no, and do not ask again"

Messages name the saga and the id, never payloads.
"""

from __future__ import annotations

import re
from typing import Any


class SagalogError(Exception):
    """The root of every error that Sagalog raises."""


class DefinitionError(SagalogError, ValueError):
    """A saga, a handler or a runner is put together wrongly. Nothing was stored. It is a ValueError, too."""


class CodecError(SagalogError):
    """A value cannot be encoded, or stored bytes cannot be decoded. What is stored stays as it is."""


class InvalidEventError(SagalogError):
    """An event was refused before anything was stored: unknown type, missing key, invalid id."""


class PayloadTooLargeError(InvalidEventError):
    """A payload is over the limit by itself; nothing was stored. Sizes are in bytes."""

    def __init__(self, what: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(what, size_bytes, limit_bytes)
        self.what = what
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        return (
            f"{self.what} takes {self.size_bytes:,} bytes, over the limit of {self.limit_bytes:,}; nothing was "
            "stored. Keep large documents elsewhere and their keys in the saga, or raise max_payload_bytes."
        )


class NoInstanceError(SagalogError):
    """The event may not start a saga and no live instance takes it (policy RAISE, or WAIT ran out).

    Also for an instance that was asked for, or is to be repaired, and is not there or has ended: then `event_type` is
    empty. Where the event was to reach instances by a key, `correlation_id` is empty. `why`: what there is instead of
    one; empty where that is not known.
    """

    def __init__(self, saga: str, correlation_id: str, event_type: str, why: str = "") -> None:
        super().__init__(saga, correlation_id, event_type, why)
        self.saga = saga
        self.correlation_id = correlation_id
        self.event_type = event_type
        self.why = why

    def __str__(self) -> str:
        why = self.why or "there is no live instance"
        if not self.correlation_id:  # it was to be reached by a key
            return f"{self.event_type} for saga {self.saga!r}: {why}, and this event may not start one. Nothing was stored."
        if not self.event_type:
            return f"saga {self.saga!r}, id {self.correlation_id!r}: {why}"
        return (
            f"{self.event_type} for saga {self.saga!r}, id {self.correlation_id!r}: {why}, and it may not start one. "
            "Nothing was stored."
        )


class AlreadyStartedError(SagalogError):
    """An event of this type has started the live instance already, and its handler says `again="raise"`.

    Nothing was stored. The same message, sent again, is a duplicate instead, and no error.
    """

    def __init__(self, saga: str, correlation_id: str, event_type: str) -> None:
        super().__init__(saga, correlation_id, event_type)
        self.saga = saga
        self.correlation_id = correlation_id
        self.event_type = event_type

    def __str__(self) -> str:
        return (
            f"{self.event_type} for saga {self.saga!r}, id {self.correlation_id!r}: the saga is already started. "
            "Nothing was stored."
        )


class UnexpectedEventError(SagalogError):
    """The phase of the live instance does not expect such an event, and none is declared to keep or ignore it.

    Nothing was stored.
    """

    def __init__(self, saga: str, correlation_id: str, event_type: str, phase: str, expected: tuple[str, ...]) -> None:
        super().__init__(saga, correlation_id, event_type, phase, expected)
        self.saga = saga
        self.correlation_id = correlation_id
        self.event_type = event_type
        self.phase = phase
        self.expected = expected

    def __str__(self) -> str:
        return (
            f"{self.event_type} for saga {self.saga!r}, id {self.correlation_id!r}: its phase is {self.phase}, and "
            f"this event is expected only during {' and '.join(self.expected)}. Nothing was stored."
        )


class TooManyKeptError(SagalogError):
    """As many events as `most_kept` of the saga wait in the record for their moment already. Nothing was stored.

    Sent again later, it finds room: whatever is expected now is handled all the same.
    """

    def __init__(self, saga: str, correlation_id: str, event_type: str, most: int) -> None:
        super().__init__(saga, correlation_id, event_type, most)
        self.saga = saga
        self.correlation_id = correlation_id
        self.event_type = event_type
        self.most = most

    def __str__(self) -> str:
        return (
            f"{self.event_type} for saga {self.saga!r}, id {self.correlation_id!r}: {self.most:,} events are kept "
            "there already, and this one would have to wait too. Nothing was stored; send it again later."
        )


class InstanceFullError(SagalogError):
    """What waits in the instance and what the event adds are over `max_payload_bytes` together. Nothing was stored.

    Where all that waits is written again with each step (`history=0`, a store of four methods), an event that would be held
    or kept has room up to an eighth of that.

    What waits: the events that a parked instance holds, those that are kept for their moment, and the commands that were
    not accepted yet. Once some of them are gone, the event finds room; it is not too large by itself.
    """

    def __init__(self, saga: str, correlation_id: str, event_type: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(saga, correlation_id, event_type, size_bytes, limit_bytes)
        self.saga = saga
        self.correlation_id = correlation_id
        self.event_type = event_type
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        return (
            f"{self.event_type} for saga {self.saga!r}, id {self.correlation_id!r}: with what is held, kept and sent "
            f"there already, the record would take {self.size_bytes:,} bytes, over the limit of {self.limit_bytes:,}. "
            "Nothing was stored; send it again later."
        )


class KeyTakenError(SagalogError):
    """A handler wants a unique key for its instance that another live instance holds. Nothing was stored.

    Another attempt helps only once that one has ended, or given it up. `holder`: its correlation id; empty where the stored
    reservation cannot be read, and `why` says so.
    """

    def __init__(self, saga: str, correlation_id: str, key: str, holder: str, why: str = "") -> None:
        super().__init__(saga, correlation_id, key, holder, why)
        self.saga = saga
        self.correlation_id = correlation_id
        self.key = key
        self.holder = holder
        self.why = why

    def __str__(self) -> str:
        who = self.why or f"the instance {self.holder!r} holds it"
        return (
            f"saga {self.saga!r}, id {self.correlation_id!r}: its key {self.key!r} is taken, {who}. Nothing was stored."
        )


class ConflictError(SagalogError):
    """The stored version is not the expected one. Certainly nothing was stored: reload and decide again."""

    def __init__(self, persistence_id: str, expected_version: int | None = None) -> None:
        super().__init__(persistence_id, expected_version)
        self.persistence_id = persistence_id
        self.expected_version = expected_version

    def __str__(self) -> str:
        return (
            f"{self.persistence_id}: version {self.expected_version} was expected, but another writer was first. "
            "Nothing was stored; load again and decide again."
        )


class SequenceOutOfOrder(ConflictError):  # noqa: N818  (named as in the contract of journals)
    """A record's number is not the next of its id. Nothing of that id was stored.

    `losers` names every such id of the call; the other ids of the call are stored (unless it was atomic).
    """

    def __init__(self, losers: tuple[str, ...]) -> None:
        super().__init__(losers[0] if losers else "")
        self.args: tuple[Any, ...] = (losers,)
        self.losers = losers

    def __str__(self) -> str:
        return (
            f"out of order: {', '.join(self.losers[:5])}{' ...' if len(self.losers) > 5 else ''}: the number written "
            "is not the next one, because another writer was first. Nothing was stored for these ids."
        )


class OutcomeUnknownError(SagalogError):
    """The write was sent and no answer came: it may be stored. Load, or send again under the same message id."""


class NotAllReachedError(OutcomeUnknownError):
    """An event by a key is stored by some of the instances that hold it, and others could not take it.

    Sent again under the same message id, it reaches only those that have not stored it. `correlation_ids`: of those that
    could not; empty where not all of them could be looked up. `stored`: how many have it. `why`: what one of the others
    raised, one that goes away if there is any such; its class says whether sending the event again helps now.
    """

    def __init__(
        self, saga: str, key: str, event_type: str, stored: int, correlation_ids: tuple[str, ...], why: SagalogError
    ) -> None:
        super().__init__(saga, key, event_type, stored, correlation_ids, why)
        self.saga = saga
        self.key = key
        self.event_type = event_type
        self.stored = stored
        self.correlation_ids = correlation_ids
        self.why = why

    def __str__(self) -> str:
        ids = ", ".join(repr(one) for one in self.correlation_ids[:5]) or "others"
        more = f" and {len(self.correlation_ids) - 5:,} more" if len(self.correlation_ids) > 5 else ""
        why = re.sub(r"[;.,]? [Nn]othing was stored\.?", "", str(self.why)).rstrip(".")
        return (
            f"{self.event_type} for saga {self.saga!r}, by its key {self.key!r}: {self.stored:,} "
            f"instance{'' if self.stored == 1 else 's'} stored it, {ids}{more} could not: "
            f"{why}. Sent again under the same message id, it reaches only the rest."
        )


class JournalError(SagalogError):
    """A journal cannot do what was asked."""


class JournalUnavailableError(JournalError):
    """The journal cannot be reached or is busy, full or read-only. Certainly nothing was stored: retry."""


class JournalFormatError(JournalError):
    """What was opened is not a journal of this program, is damaged, or was written by a newer version."""


class MissingExtraError(JournalError, ImportError):
    """An optional dependency is needed: the message holds the command that installs it."""


class BrokerError(SagalogError):
    """A broker cannot do what was asked."""


class BrokerUnavailableError(BrokerError):
    """The broker cannot be reached, or has not answered. What was sent may have arrived: send it again, same id."""


class BrokerRefusedError(BrokerError):
    """The broker will never take this message, or what the address names is not there. Another attempt does not help."""


class OutcomeTimeoutError(SagalogError, TimeoutError):
    """The instance has not ended within the time that its outcome was waited for; it goes on.

    `seen`: how it stood when this runner last saw it.
    """

    def __init__(self, saga: str, correlation_id: str, seconds: float, seen: str) -> None:
        super().__init__(saga, correlation_id, seconds, seen)
        self.saga = saga
        self.correlation_id = correlation_id
        self.seconds = seconds
        self.seen = seen

    def __str__(self) -> str:
        return (
            f"saga {self.saga!r}, id {self.correlation_id!r} has not ended within {self.seconds:g} s; when last "
            f"seen, {self.seen}"
        )


class OutcomeGoneError(SagalogError):
    """How a life of the instance ended is not kept any more, or not all of it: another one has begun since."""

    def __init__(self, saga: str, correlation_id: str, incarnation: int, why: str) -> None:
        super().__init__(saga, correlation_id, incarnation, why)
        self.saga = saga
        self.correlation_id = correlation_id
        self.incarnation = incarnation
        self.why = why

    def __str__(self) -> str:
        return f"saga {self.saga!r}, id {self.correlation_id!r}, life {self.incarnation}: {self.why}"


class SagaParkedError(SagalogError):
    """The instance waits for an operator and could not take the event. Nothing was stored."""

    def __init__(self, saga: str, correlation_id: str, reason: str) -> None:
        super().__init__(saga, correlation_id, reason)
        self.saga = saga
        self.correlation_id = correlation_id
        self.reason = reason

    def __str__(self) -> str:
        return f"saga {self.saga!r}, id {self.correlation_id!r} is parked: {self.reason}"


class RepairError(SagalogError):
    """A repair cannot be made as the instance stands; the message says why. Nothing was stored."""


class RunnerStoppedError(SagalogError):
    """The runner is not started, or stops. The event was not accepted and changed nothing."""


class CommandRefused(Exception):  # noqa: N818  (it is an answer, not a failure)
    """Raise it from a command handler: the command will never be carried out.

    The saga learns of it as a `Refused` event; unless it handles that, it compensates. `reason` is stored
    with the saga and shown to operators: no secrets in it.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
