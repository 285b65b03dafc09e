"""Where a numbered event stands in its sequence: which number comes next, which are missing, and until when.

The record keeps the next number of each sequence. A number below it is a duplicate, whatever its message id, or too late:
it was missing, and is not waited for any more. One above it is kept until those before it have come (kept.py). A hole is a
number that an operator dropped, or that ended with an earlier life: nobody waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ..definition.codec import Typed
from ..definition.saga import Saga
from ..definition.sequences import Gap, Sequence
from .entries import FINAL, Held
from .ids import GAP, parts_of
from .lookup import KeptMessages
from .message import Message, Outcome
from .record import SagaRecord

_MAX_SKIPPED = 100  # gaps whose numbers are told apart from duplicates
DEADLINE = Typed("gap", msgspec.Raw(b"null"))  # what the timer of a gap brings: its event is made when it fires


def place_of(saga: Saga[Any], message: Message) -> tuple[str, int]:
    """Return the sequence and the number of an event; no sequence for one that has none.

    One that waits in the record, or was held there, has those under which it was accepted, whatever this code says of it.
    """
    if message.kind != "event":
        return "", 0
    if message.place is not None:
        return message.place
    numbering = saga.numberings.get(type(message.event))
    return ("", 0) if numbering is None else numbering.place(message.event)


def sequence_of(saga: Saga[Any], key: str) -> Sequence | None:
    """Return the sequence that is stored under this key; None for one that this code does not have."""
    name = key.partition("/")[0]
    return next((one.sequence for one in saga.numberings.values() if one.sequence.name == name), None)


def next_number(saga: Saga[Any], record: SagaRecord, key: str) -> int | None:
    """Return the number that is handled next; None where any may be the first."""
    known = record.sequences.get(key)
    if known is not None:
        return known
    sequence = sequence_of(saga, key)
    if sequence is None or sequence.first is None:
        return None
    return _behind_holes(record, key, sequence.first)


def _behind_holes(record: SagaRecord, key: str, number: int) -> int:
    if f"{key}/{number}" not in record.holes:
        return number
    holes = frozenset(record.holes)
    while f"{key}/{number}" in holes:
        number += 1
    return number


def known_number(
    saga: Saga[Any], record: SagaRecord | None, message: Message, waits: Callable[[str, int], bool]
) -> Outcome | None:
    """Return what an event is whose number was handled, `waits`, or is too late; None for one that is new."""
    key, number = place_of(saga, message)
    if not key or record is None:
        return None
    expected = next_number(saga, record, key)
    if expected is not None and number < expected and not _begin_anew(saga, record, key):
        return Outcome.IGNORED if _skipped(record, key, number) else Outcome.DUPLICATE
    return Outcome.DUPLICATE if waits(key, number) else None


def _begin_anew(saga: Saga[Any], record: SagaRecord, key: str) -> bool:
    """Say whether the life that has passed these numbers has ended, and they begin again with the next one."""
    sequence = sequence_of(saga, key) if record.status in FINAL else None
    return sequence is not None and sequence.restarts


def _skipped(record: SagaRecord, key: str, number: int) -> bool:
    for entry in record.skipped:
        sequence, _, span = entry.rpartition("/")
        first, _, last = span.partition("-")
        if sequence == key and int(first) <= number <= int(last):
            return True
    return False


def pass_number(record: SagaRecord, key: str, number: int) -> None:
    """Go on behind a number that was handled, or is not to be waited for; its gap has ended.

    It never goes back: what has been handled would be handled again.
    """
    following = _behind_holes(record, key, max(number + 1, record.sequences.get(key, 0)))
    if record.holes:
        record.holes = tuple(hole for hole in record.holes if not _is_below(hole, key, following))
    record.sequences = {**record.sequences, key: following}
    if GAP + key in record.timers:
        record.timers = {name: timer for name, timer in record.timers.items() if name != GAP + key}


def _is_below(hole: str, key: str, number: int) -> bool:
    sequence, _, missing = hole.rpartition("/")
    return sequence == key and int(missing) < number


def leave_hole(record: SagaRecord, dropped: Held) -> None:
    """Do not wait for the number of a message that is dropped."""
    if not dropped.sequence:
        return
    if record.sequences.get(dropped.sequence) == dropped.number:
        pass_number(record, dropped.sequence, dropped.number)
    else:
        record.holes = (*record.holes, f"{dropped.sequence}/{dropped.number}")
        # It may be the first of all: a gap that is left gets a new deadline.
        if dropped.sequence not in record.sequences:
            record.timers = {name: timer for name, timer in record.timers.items() if name != GAP + dropped.sequence}


def gap_in(saga: Saga[Any], persistence_id: str, record: SagaRecord, key: str) -> Gap | None:
    """Return the numbers that are missing before the lowest that waits; None where none is."""
    expected, lowest = next_number(saga, record, key), _lowest(record, key)
    if lowest is None or expected is None or lowest <= expected:
        return None
    name, _, sender = key.partition("/")
    return Gap(name, sender, parts_of(persistence_id)[1], expected, lowest - 1)


def skip_missing(record: SagaRecord, key: str) -> None:
    """Go on with the lowest number that waits: those before it are not waited for any more."""
    lowest = _lowest(record, key)
    if lowest is not None:
        skipped = f"{key}/{record.sequences.get(key, 0)}-{lowest - 1}"
        record.skipped = (*record.skipped[1 - _MAX_SKIPPED :], skipped)
        pass_number(record, key, lowest - 1)


def carry_on(saga: Saga[Any], record: SagaRecord, old: SagaRecord) -> None:
    """Let the next life of an instance go on with the numbers of the last one, apart from those that begin anew.

    They do not after a life that nothing has started: what was to start it was dropped, and the others are still there.
    """
    keys = {*old.sequences, *(hole.rpartition("/")[0] for hole in old.holes)} if old.started_by else ()
    ended = {key for key in keys if (known := sequence_of(saga, key)) is not None and known.restarts}
    record.sequences = {key: number for key, number in old.sequences.items() if key not in ended}
    record.holes = tuple(hole for hole in old.holes if hole.rpartition("/")[0] not in ended)
    record.skipped = tuple(one for one in old.skipped if one.rpartition("/")[0] not in ended)


def _lowest(record: SagaRecord, key: str) -> int | None:
    kept: Any = record.kept
    if isinstance(kept, KeptMessages):
        return kept.lowest(key)
    return min((one.number for one in record.kept if one.sequence == key), default=None)
