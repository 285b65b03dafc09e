"""What every journal refuses before it stores anything: ids, moments and terms that some journal cannot keep, and numbers
that leave a gap.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

import msgspec

from ..errors import InvalidEventError, SequenceOutOfOrder
from .protocol import (
    FIRST_MOMENT,
    LAST_MOMENT,
    MAX_ID_BYTES,
    MAX_SEQUENCE_NR,
    MAX_TERM_BYTES,
    MAX_TERMS,
    MovedDue,
    PersistentRepr,
)


def checked(message: PersistentRepr) -> PersistentRepr:
    """Return a record that any journal can store; a payload that could still change is copied.

    Raises InvalidEventError for ids that are not valid Unicode (lone surrogates) or too long, for an epoch that is
    out of range, for a `due_at` outside of FIRST_MOMENT to LAST_MOMENT or without a time zone, and for fields of
    other types. Nothing was stored.
    """
    persistence_id = message.persistence_id
    if type(persistence_id) is not str or not persistence_id.isascii() or len(persistence_id) > MAX_ID_BYTES:
        check_id(persistence_id)
    if type(message.sequence_nr) is not int:
        raise InvalidEventError(f"sequence_nr must be an int, not {message.sequence_nr!r}; nothing was stored")
    if type(message.tags) is not tuple:
        raise InvalidEventError(f"tags must be a tuple of str, not {type(message.tags).__name__}; nothing was stored")
    for text in (message.manifest, message.writer_uuid, *message.tags):
        if type(text) is not str or not text.isascii():
            check_text(text)
    if message.due_at is not None:
        check_moment(message.due_at, "due_at")
    if type(message.epoch) is not int or not 0 <= message.epoch <= MAX_SEQUENCE_NR:
        raise InvalidEventError(f"epoch must be an int from 0 to 2**63 - 1, not {message.epoch!r}; nothing was stored")
    if message.terms is not None:
        check_terms(message.terms)
    if type(message.payload) is bytes:
        return message
    if not isinstance(message.payload, (bytearray, memoryview)):
        raise InvalidEventError(f"a payload must be bytes, not {type(message.payload).__name__}; nothing was stored")
    return msgspec.structs.replace(message, payload=bytes(message.payload))


def checked_batch(records: Sequence[PersistentRepr]) -> list[PersistentRepr | InvalidEventError]:
    """Return for each record of a batch what `checked` would, or the error to answer it with; an id counts once."""
    seen: set[str] = set()
    found: list[PersistentRepr | InvalidEventError] = []
    for record in records:
        try:
            found.append(checked(record))
        except InvalidEventError as error:
            found.append(error)
        else:
            if record.persistence_id in seen:
                found[-1] = InvalidEventError("an id is in one batch twice; its second record was not stored")
            seen.add(record.persistence_id)
    return found


def check_moment(at: datetime, name: str) -> None:
    """Raise InvalidEventError, naming the argument, for a moment that some journal or time zone cannot carry."""
    if not isinstance(at, datetime) or at.tzinfo is None or at.utcoffset() is None:
        raise InvalidEventError(f"{name} must be a datetime with a time zone, not {at!r}; nothing was stored")
    if not FIRST_MOMENT <= at <= LAST_MOMENT:
        raise InvalidEventError(
            f"{name} is too near the end of the calendar ({at.isoformat()}); it can be from {FIRST_MOMENT.date()} to "
            f"{LAST_MOMENT.date()}, in UTC. Nothing was stored. Use None for never."
        )


def check_terms(terms: Sequence[str]) -> None:
    """Raise InvalidEventError for terms that some journal cannot keep."""
    if type(terms) is not tuple or len(terms) > MAX_TERMS or len(set(terms)) < len(terms):
        raise InvalidEventError(f"terms must be a tuple of at most {MAX_TERMS} different strings; nothing was stored")
    for term in terms:
        check_text(term)
        if not term or "\0" in term or len(term.encode()) > MAX_TERM_BYTES:
            raise InvalidEventError(
                f"a term must be a string of 1 to {MAX_TERM_BYTES:,} bytes without NUL, not {term[:40]!r}; nothing "
                "was stored"
            )


def wanted_terms(terms: Sequence[str]) -> tuple[str, ...]:
    """Return the terms to look for, each once. Raises InvalidEventError where there is none, or one that cannot be."""
    wanted = tuple(dict.fromkeys(terms))
    if not wanted:
        raise InvalidEventError("give at least one term to search for")
    check_terms(wanted)
    return wanted


def check_moves(moves: Sequence[MovedDue]) -> None:
    """Raise InvalidEventError for a move of an id that is not valid Unicode, or to a moment that not all can carry."""
    for one in moves:
        check_text(one.persistence_id)
        if one.due_at is not None:
            check_moment(one.due_at, "due_at")


def check_id(persistence_id: str) -> None:
    """Raise InvalidEventError for an id that no journal takes."""
    check_text(persistence_id)
    if len(persistence_id.encode()) > MAX_ID_BYTES:
        raise InvalidEventError(
            f"the id {persistence_id[:40]!r}... takes more than {MAX_ID_BYTES:,} bytes; nothing was stored"
        )


def in_sequence(messages: Sequence[PersistentRepr]) -> tuple[list[PersistentRepr], tuple[str, ...]]:
    """Return the records of ids whose numbers are possible and without gaps, and the other ids."""
    if len(messages) == 1:
        (only,) = messages
        return (list(messages), ()) if 0 < only.sequence_nr < MAX_SEQUENCE_NR else ([], (only.persistence_id,))
    following: dict[str, int] = {}
    losers: dict[str, None] = {}
    for message in messages:
        number = message.sequence_nr
        expected = following.get(message.persistence_id, number)
        if number != expected or not 0 < number < MAX_SEQUENCE_NR:
            losers[message.persistence_id] = None
        following[message.persistence_id] = number + 1
    return [message for message in messages if message.persistence_id not in losers], tuple(losers)


def out_of_order(messages: Sequence[PersistentRepr], losers: Collection[str]) -> SequenceOutOfOrder:
    """Return the error that names the losers of a call, each once, in the order of the call."""
    return SequenceOutOfOrder(tuple(one for one in dict.fromkeys(m.persistence_id for m in messages) if one in losers))


def check_text(text: str) -> None:
    """Raise InvalidEventError for what is no text, or has no UTF-8 form."""
    if not isinstance(text, str):
        raise InvalidEventError(
            f"ids, manifests, writers and tags must be str, not {type(text).__name__}; nothing was stored"
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidEventError(
            "an id contains a lone surrogate, which is not valid Unicode; nothing was stored"
        ) from None
