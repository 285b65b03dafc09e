"""Whether a record over the limit is stored all the same; if not, whether its event is to blame, or may come again later.

too large ─► commit, settle
"""

from __future__ import annotations

from collections.abc import Sequence

from ..decision.entries import Command, Held
from ..decision.ids import answered_entry
from ..decision.message import Message, Outcome
from ..decision.pages import size_of
from ..decision.record import SagaRecord
from ..errors import InstanceFullError, PayloadTooLargeError
from .envelope import Maintenance
from .turn import Turn

_WRITTEN_WHOLE = 8  # such a part of the limit may wait where all of it is written with each step
_OVER = 2  # times the limit: for records that must be stored, or what makes them too large would never go


def may_exceed(turn: Turn, record: SagaRecord, size: int) -> bool:
    """Say whether a record of this size, which is over the limit, may be stored all the same, up to twice the limit.

    That is so if the turn does nothing but take over, park or repair: otherwise an instance at its limit could not be
    parked for what makes it too large, nor could it be taken over. And what is kept may not keep out what it waits for.
    """
    most = turn.instance.runtime.most_bytes
    if size > _OVER * most:
        return False
    if record.kept and not _takes_more(turn, record) and size - size_of(record.kept) <= most:
        return True
    decided = [envelope for envelope in turn.decided if not envelope.over]
    if len(decided) != 1 or turn.draft.fired:
        return False
    message, park = decided[0].message, decided[0].park
    if decided[0].content is Maintenance.WAKE and park is None:
        return False  # it handles a message like any other
    return message is None or (park is not None and park[1] is message and message.kind != "event")


def check_room(turn: Turn, record: SagaRecord) -> None:
    """Raise PayloadTooLargeError for an event that would wait behind so many others that writing them is out of proportion.

    That is asked where no earlier record has what waits, so that all of it is written again with each event that comes.
    What was accepted before, timers and what parks the instance are stored all the same, and one event has room always.
    """
    runtime, before = turn.instance.runtime, turn.instance.cached.record
    most = runtime.most_bytes // _WRITTEN_WHOLE
    if before is None or not (before.held or before.kept) or not _takes_more(turn, record):
        return
    waiting = size_of(record.held) + size_of(record.kept)
    if waiting <= most:
        return
    decided = [envelope for envelope in turn.decided if not envelope.over]
    waits = [one for one in decided if one.decided is Outcome.HELD or one.decided is Outcome.KEPT]
    if any(one.message is not None and one.message.kind == "event" and one.park is None for one in waits):
        raise PayloadTooLargeError(f"what waits in an instance of saga {runtime.name!r}", waiting, most)


def as_told(
    turn: Turn, message: Message | None, decided: Outcome | BaseException | None, error: PayloadTooLargeError
) -> PayloadTooLargeError | InstanceFullError:
    """Return what to tell of one message that makes the record too large; `decided`: what would have become of it."""
    if message is None or message.kind != "event":
        return error
    if not (decided is Outcome.HELD or decided is Outcome.KEPT):
        record = turn.draft.record
        if record is None or error.size_bytes - _waiting_bytes(turn, record, message) > error.limit_bytes:
            return error
    instance, event_type = turn.instance, type(message.event).__name__
    full = InstanceFullError(
        instance.runtime.name, instance.correlation_id, event_type, error.size_bytes, error.limit_bytes
    )
    full.__cause__ = error
    return full


def _takes_more(turn: Turn, record: SagaRecord) -> bool:
    """Say whether the turn has given the record more to hold or to keep."""
    before = turn.instance.cached.record
    return before is None or len(record.kept) > len(before.kept) or len(record.held) > len(before.held)


def _waiting_bytes(turn: Turn, record: SagaRecord, message: Message) -> int:
    """Return how much of a record was there before the turn, and only until it is handled, or accepted."""
    before = turn.instance.cached.record
    if before is None:
        return 0
    size = size_of(_still(before.held, record.held)) + size_of(_still(before.kept, record.kept))
    if answered_entry(turn.instance.persistence_id, message.id):
        return size  # its command leaves the outbox only when this answer is stored
    return size + size_of(_still(before.outbox, record.outbox))


def _still(before: Sequence[Held | Command], after: Sequence[Held | Command]) -> tuple[Held | Command, ...]:
    left = {id(one) for one in after}
    return tuple(one for one in before if id(one) in left)
