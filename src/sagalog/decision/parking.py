"""How an instance is parked: with the message that it could not handle, or for a command that waits for an operator.

decide, replay, commit, conclusion ─► [parking] ─► draft
"""

from __future__ import annotations

import msgspec

from ..text import plural
from .draft import Draft
from .entries import FINAL, Held
from .message import Message
from .record import SagaRecord, embed_state, well_formed


def park(draft: Draft, reason: str, message: Message) -> None:
    """Park the instance with the message that it could not handle; a new one is made for an event, if none is live.

    The refusal of a command of one that has ended stays with that one: only it can take back what it did.
    """
    before = draft.record
    record = draft.record = _to_park(draft, message.kind, message.id)
    try:
        draft.hold(message)
    except BaseException:
        draft.record = before
        raise
    draft.started += record is not before
    record.parked = well_formed(reason)


def park_again(draft: Draft, reason: str, held: tuple[Held, ...]) -> None:
    """Park the instance with messages that were held before; a new one is made where none is live any more."""
    before = draft.record
    record = draft.record = _to_park(draft, held[0].kind, held[0].id)
    draft.started += record is not before
    # The first was tried, so it waits for no other life to end: it may be what this one was made for.
    record.parked, record.held = well_formed(reason), (msgspec.structs.replace(held[0], waits=False), *held[1:])
    draft.touch()


def stick(draft: Draft, record: SagaRecord, reason: str, entry: str) -> None:
    """Park the instance because of a command that waits for an operator, and so do all behind it."""
    record.parked = record.parked if record.parked and not record.goes_on else reason
    record.goes_on = False
    record.stuck = record.stuck or entry  # the answers of several commands may be on their way
    draft.touch()


def take_over(draft: Draft, most: int) -> str:
    """Count that the first command is taken over from a worker that died; park the instance beyond `most`.

    Returns the reason if it parks. Otherwise a command that ends its worker would go from one to the next for ever. After
    some takeovers only those count that come after it was begun by itself: the worker may have died of another.
    """
    record = draft.touch()
    first = record.outbox[0]
    count = record.takeovers if record.taken == first.id else 0
    if record.begun or not record.suspects(first.id, most):
        count += 1
    record.begun = False
    if count <= most:
        record.taken, record.takeovers = first.id, count
        return ""
    record.taken, record.takeovers = "", 0  # after a repair it has all of them again
    reason = (
        f"command {first.command.type} was taken over {plural(most, 'time')} from workers that died before it was "
        "accepted: its handler may be killing them; `retry` delivers it again, `skip` drops it"
    )
    stick(draft, record, reason, first.id)
    return reason


def _to_park(draft: Draft, kind: str, message_id: str) -> SagaRecord:
    if draft.record is not None and (draft.record.status not in FINAL or kind != "event"):
        return draft.record
    record, state = draft.start(message_id)
    record.state, record.state_is_base64 = embed_state(draft.saga.pack_state(state))
    if draft.saga.index:
        record.index = draft.saga.index_table().texts(state, "")
    return record
