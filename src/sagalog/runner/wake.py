"""Kept messages whose moment has come are handled next in their turn, oldest first.

turn ─► [wake] ─► decide

Each WAKE envelope handles one message, so a failure is tried again, and parks, like that of any other message. A turn is
one record: what was kept for a phase is handled in the record that enters it.
"""

from __future__ import annotations

from collections.abc import Awaitable

from ..decision.draft import Draft
from ..decision.entries import Held
from ..decision.kept import next_kept
from ..decision.message import Message, Outcome, kept_message
from ..decision.state import UnreadableStateError
from ..errors import CodecError
from .envelope import Envelope, Maintenance
from .instance import Instance
from .load import unreadable
from .replay import tell_let_go
from .turn import HandlerFailed, Turn, advance


def wakes(turn: Turn) -> bool:
    """Say whether the record of a turn says that the moment of a kept message may have come."""
    record = turn.draft.record
    return record is not None and record.waking and record.owes_waking


def wake_next(turn: Turn) -> None:
    """Look through the kept messages next, before the rest of the batch.

    A turn of one message (more were too large together) leaves that to the next turn.
    """
    if not turn.single and not (turn.at < len(turn.batch) and turn.batch[turn.at].content is Maintenance.WAKE):
        turn.batch.insert(turn.at, Envelope(Maintenance.WAKE))


def wake(turn: Turn) -> Awaitable[None] | None:
    """Handle the oldest kept message whose moment has come. Returns an awaitable if its handler has to be awaited.

    Raises HandlerFailed, and SagaParkedError for a state, phase or message of a newer version, which we cannot read.
    """
    draft = turn.draft
    try:
        kept = next_kept(draft)
    except UnreadableStateError as error:
        raise unreadable(turn.instance, str(error)) from error
    if kept is None:
        return None
    message = turn.woken = _unkept(turn, kept)
    outcome = advance(turn, message)
    if isinstance(outcome, Outcome):
        tell_let_go(turn.instance, kept, outcome)
        return None
    return _wake_slowly(turn.instance, kept, outcome)


async def _wake_slowly(instance: Instance, kept: Held, outcome: Awaitable[Outcome]) -> None:
    tell_let_go(instance, kept, await outcome)


def _unkept(turn: Turn, kept: Held) -> Message:
    draft: Draft = turn.draft
    try:
        return kept_message(kept, draft.registry)
    except CodecError as error:
        if draft.registry.is_newer(kept.event):
            raise unreadable(turn.instance, f"kept event: {error}") from error
        raise HandlerFailed(Message(kept.id, None, kept.kind, kept.name, kept=True), error) from error
