"""What an outcome means for the sender of a message, and what is remembered of a message that was passed over.

turn ─► [outcome] ─► decide
"""

from __future__ import annotations

from collections.abc import Awaitable

from ..decision.answer import answer_to
from ..decision.entries import FINAL
from ..decision.ids import refused_id
from ..decision.message import Message, Outcome
from ..decision.record import SagaRecord, microseconds
from ..errors import NoInstanceError
from .envelope import Envelope
from .failures import not_handled
from .settings import NoInstance
from .starting import in_vain
from .turn import CacheTooOld, Turn, advance

_HANDLED = Outcome.HANDLED
_NO_INSTANCE = Outcome.NO_INSTANCE
PASSED_OVER = frozenset({Outcome.NO_INSTANCE, Outcome.IGNORED, Outcome.ALREADY_STARTED, Outcome.UNEXPECTED})


def take(turn: Turn, envelope: Envelope, message: Message) -> Awaitable[None] | None:
    """Run a message against the draft and note what it means. Returns an awaitable if its handler has to be awaited."""
    outcome = advance(turn, message)
    if outcome is _HANDLED:
        envelope.decided = _HANDLED
        return None
    if isinstance(outcome, Outcome):
        decided(turn, envelope, outcome)
        return None
    return take_slowly(turn, envelope, outcome)


async def take_slowly(turn: Turn, envelope: Envelope, outcome: Awaitable[Outcome]) -> None:
    """Wait for the outcome, and note what it means."""
    decided(turn, envelope, await outcome)


def decided(turn: Turn, envelope: Envelope, outcome: Outcome) -> None:
    """Note what an outcome means for the sender.

    Raises CacheTooOld where an event was passed over because of a record that was read before it came: nothing is written
    then, so nobody else would find out that another worker has changed it since. The same holds for its number.
    """
    message = envelope.message
    passed = outcome in PASSED_OVER and message is not None and message.kind in ("event", "child")
    if passed or (outcome is Outcome.DUPLICATE and _by_its_number(turn, message)):
        alone = turn.instance.runtime.engine.alone and outcome is not _NO_INSTANCE
        if not (turn.fresh and envelope.seen) and not alone:
            raise CacheTooOld
    if outcome is not _NO_INSTANCE:
        envelope.decided = outcome if message is None else answer_to(turn.draft, message, outcome)
    elif turn.fresh:
        no_instance(turn, envelope)
    else:
        raise CacheTooOld
    if outcome in PASSED_OVER:
        _remember(turn, envelope)
    elif outcome is Outcome.HELD:
        _note_parking(turn, envelope)


def _by_its_number(turn: Turn, message: Message | None) -> bool:
    """Say whether an event is a duplicate by its number alone.

    An id that was known stays known, but a number comes again: in the next life, or where a kept event was dropped.
    """
    numbered = message is not None and message.kind == "event" and turn.draft.saga.numberings
    return bool(numbered) and message is not None and not turn.draft.knows(message.id)


def _note_parking(turn: Turn, envelope: Envelope) -> None:
    """If the message has parked its instance, as a late answer may, note that this is to be told once it is stored."""
    record, before = turn.draft.record, turn.instance.cached.record
    if record is None or envelope.message is None or before is None or before.parked:
        return
    if record.held[0].id == envelope.message.id:
        envelope.park = record.parked, envelope.message


def _remember(turn: Turn, envelope: Envelope) -> None:
    """In event time, remember a message that was passed over, so that the log changes nothing when it is fed again.

    One that was refused by an error may come again later, under the same id.
    """
    message, record = envelope.message, turn.draft.record
    if message is None or message.at is None or message.kind != "event" or message.answer or message.own:
        return
    if record is None:
        turn.instance.runtime.passed_over.add(turn.instance.correlation_id, message.at, message.id)
        return
    noted = message.id if isinstance(envelope.decided, Outcome) else refused_id(message.id, microseconds(message.at))
    if not turn.draft.knows(noted):
        turn.draft.remember(record, noted)
        turn.draft.touch()


def is_live(record: SagaRecord | None) -> bool:
    """Say whether there is an instance that has not ended."""
    return record is not None and record.status not in FINAL


def _why_none(record: SagaRecord | None) -> str:
    if record is None:
        return "there never was such an instance, or it is forgotten"
    if record.status in FINAL:
        return f"the instance has ended ({record.status})"
    return f"the instance accepts nothing more ({record.status})"


def no_instance(turn: Turn, envelope: Envelope) -> None:
    """Apply the policy for a message that no live instance takes."""
    message, instance = envelope.message, turn.instance
    assert message is not None
    engine = instance.runtime.engine
    policy = engine.settings.no_instance
    if (
        message.kind != "event"
        or policy is NoInstance.IGNORE
        or (policy is NoInstance.WAIT and is_live(turn.draft.record))
    ):
        envelope.decided = _NO_INSTANCE
    elif policy is NoInstance.RAISE:
        event_type, why = type(message.event).__name__, _why_none(turn.draft.record)
        envelope.decided = NoInstanceError(instance.runtime.name, instance.correlation_id, event_type, why)
    elif engine.stopping.is_set():  # nobody would wake it any more
        envelope.decided = not_handled()
    elif envelope.deadline is None or envelope.deadline <= engine.loop.time():
        envelope.decided = in_vain(instance, envelope)
    else:
        instance.let_wait(envelope)
