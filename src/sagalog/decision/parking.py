"""How an instance is parked: the message that it could not handle is held, and what comes later behind it.

decide, replay ─► [parking] ─► draft
"""

from __future__ import annotations

import msgspec

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


def _to_park(draft: Draft, kind: str, message_id: str) -> SagaRecord:
    if draft.record is not None and (draft.record.status not in FINAL or kind != "event"):
        return draft.record
    record, state = draft.start(message_id)
    record.state, record.state_is_base64 = embed_state(draft.saga.pack_state(state))
    if draft.saga.index:
        record.index = draft.saga.index_table().texts(state, "")
    return record
