"""What a runner tells of one instance when it is asked: its state, and how a life of it ended."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec

from ..decision.entries import ENDS, Status
from ..decision.record import SagaRecord, decode_record
from ..decision.state import UnreadableStateError, decode_state
from ..definition.codec import TypeRegistry
from ..definition.results import unpack_result
from ..definition.saga import Saga
from ..errors import CodecError, OutcomeGoneError, SagalogError

S = TypeVar("S")


class _LeftBehind:
    """Stands for the state of a life that another one has followed. A class, so that it stays itself when it is pickled."""


_LEFT_BEHIND: Any = _LeftBehind


class SagaOutcome(msgspec.Struct, Generic[S], frozen=True):
    """How one life of an instance ended.

    `status`: completed, compensated, cancelled, or compensation_failed, which an operator may still bring to another end.
    `result`: what it completed with. `ended_at`: when it came to stand so. `incarnation`: which life it was, from 1.
    `finished`: nothing can change it any more; until then commands of its last steps are still to be accepted, and one
    that is refused may yet let it compensate.
    """

    saga: str
    correlation_id: str
    status: Status
    result: Any
    ended_at: datetime
    incarnation: int = 1
    finished: bool = True
    last_state: S = _LEFT_BEHIND

    def __repr__(self) -> str:
        """Name the life and how it ended. The result and the state are left out, so that no log gets them by mistake."""
        life = f"{self.correlation_id!r}, life {self.incarnation}"
        return f"<SagaOutcome {self.saga} {life}: {self.status.value}, {self.ended_at.isoformat()}>"

    @property
    def state(self) -> S:
        """The state in which it ended, a copy of its own.

        Raises OutcomeGoneError where the next life had begun before it was looked for: then its state is not kept.
        """
        if self.last_state is _LEFT_BEHIND:
            raise OutcomeGoneError(
                self.saga,
                self.correlation_id,
                self.incarnation,
                "its state is not kept, because the next incarnation has begun; its status and result are kept",
            )
        return self.last_state


class RecordReader:
    """One saga's code, as far as it takes to tell of its records."""

    __slots__ = ("name", "registry", "saga")

    def __init__(self, saga: Saga[Any], registry: TypeRegistry) -> None:
        self.saga: Saga[Any] = saga
        self.name: str = saga.name
        self.registry: TypeRegistry = registry

    def record(self, correlation_id: str, payload: bytes, *, deleted: bool = False) -> SagaRecord | None:
        """Return a stored record; None for a tombstone that holds nothing. Raises CodecError, which names the instance."""
        if deleted and not payload:
            return None
        try:
            return decode_record(payload)
        except CodecError as error:
            raise self.unreadable(correlation_id, error) from error

    def state(self, correlation_id: str, record: SagaRecord) -> Any:
        """Return the state, upcast where it is old. Raises CodecError, which names the instance."""
        try:
            return decode_state(self.saga, record)
        except UnreadableStateError as error:
            raise self.unreadable(correlation_id, error) from error

    def result(self, correlation_id: str, stored: Any) -> Any:
        """Return a stored result. Raises CodecError, which names the instance."""
        try:
            return unpack_result(stored, self.registry)
        except CodecError as error:
            raise self.unreadable(correlation_id, error) from error

    def outcome(self, correlation_id: str, record: SagaRecord) -> SagaOutcome[Any] | None:
        """Return how the incarnation of a record ended; None while it has not."""
        if record.status not in ENDS:
            return None
        return SagaOutcome(
            self.name,
            correlation_id,
            record.status,
            self.result(correlation_id, record.result),
            record.ended_at or record.updated_at,
            record.incarnation,
            record.finished,
            self.state(correlation_id, record),
        )

    def outcome_before(self, correlation_id: str, record: SagaRecord) -> SagaOutcome[Any]:
        """Return how the incarnation before that of a record ended. Raises OutcomeGoneError for what is not kept."""
        end, life = record.last_end, record.incarnation - 1
        if end is None or end.left_out:
            what = "its result was too large to be kept" if end is not None else "how it ended is not kept"
            raise OutcomeGoneError(self.name, correlation_id, life, f"{what} when the next life began")
        result = self.result(correlation_id, end.result)
        return SagaOutcome(self.name, correlation_id, end.status, result, end.at, incarnation=life)

    def unreadable(self, correlation_id: str, error: SagalogError) -> CodecError:
        """Return the error that tells of an instance that cannot be read."""
        return CodecError(
            f"saga {self.name!r}, id {correlation_id!r} cannot be read by this code: {error}. It is left as it is: "
            "newer code may be able to read it, and `sagalog edit` corrects it"
        )
