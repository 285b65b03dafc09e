"""Which message ids an instance remembers: for how long, how many, and how a long list of them is searched.

The saga declares a window of time and a number for the ids that senders gave. They are not dated one by one: `ages` says
of so many of the oldest that all of them came before a moment, an eighth of the window apart. So an id is remembered for
the window at least, and an instance that lives for less than an eighth of it, or takes few events, needs no ages at all.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from datetime import datetime, timedelta
from typing import TypeAlias

from .record import Held, SagaRecord

Ages: TypeAlias = tuple[tuple[datetime, int], ...]  # oldest first: a moment, and how many more ids came before it

FEW = 64  # so many ids are searched one by one, and kept whatever their age
_PARTS = 8  # of a window, each dated as a whole


class Searched:
    """Ids to look into again and again: once as they are, for making a set costs more than one look."""

    __slots__ = ("_ids", "_set")

    def __init__(self) -> None:
        self._ids: Sequence[str] | None = None
        self._set: set[str] | None = None

    def of(self, ids: Sequence[str]) -> Container[str]:
        """Return what to look for an id in."""
        if self._ids is not ids:
            self._ids, self._set = ids, None
            return ids
        if self._set is None:
            self._set = set(ids)
        return self._set

    def added(self, ids: Sequence[str]) -> None:
        """Note that they are `ids` now, of which the last is new. What was forgotten stays known in this step."""
        self._ids = ids
        if self._set is not None:
            self._set.add(ids[-1])


class Known:
    """What a record knows, for as many looks as a draft takes."""

    __slots__ = ("_held", "_of_held", "inbox", "recent")

    def __init__(self) -> None:
        self.inbox = Searched()
        self.recent = Searched()
        self._of_held: Sequence[Held] | None = None
        self._held: set[tuple[str, str]] = set()

    def holds(self, held: Sequence[Held], message_id: str, kind: str) -> bool:
        """Say whether a message is among those that are held."""
        if len(held) < FEW:
            return any(one.id == message_id and one.kind == kind for one in held)
        if self._of_held is not held:
            self._of_held, self._held = held, {(one.kind, one.id) for one in held}
        return (kind, message_id) in self._held

    def held(self, held: Sequence[Held]) -> None:
        """Note that the last one was added to those that are held."""
        if self._of_held is held:
            self._held.add((held[-1].kind, held[-1].id))


def remember(record: SagaRecord, message_id: str, now: datetime, most: int, window: timedelta) -> None:
    """Add an id to the inbox, and forget those that are older than the window or beyond `most`."""
    ids, ages = _kept(record.inbox, record.inbox_ages, now, most - 1, window)
    dated = sum(count for _, count in ages)
    since = ages[-1][0] if ages else record.started_at
    if dated < len(ids) and (now - since) * _PARTS >= window:
        ages = (*ages, (now, len(ids) - dated))
    record.inbox, record.inbox_ages = (*ids, message_id), ages


def inherit(record: SagaRecord, old: SagaRecord, now: datetime, most: int, window: timedelta) -> None:
    """Let the record of a new incarnation remember for a while what the last one, and those before it, consumed."""
    ids, ages = old.inherited, old.inherited_ages
    if old.inherited_until is None or old.inherited_until <= now:
        ids, ages = (), ()
    ids = ids + old.inbox
    new = len(ids) - sum(count for _, count in ages)
    if len(ages) > 1 and (now - ages[-2][0]) * _PARTS < window:
        ages = (*ages[:-1], (now, ages[-1][1] + new))
    elif new:
        ages = (*ages, (now, new))
    record.inherited, record.inherited_ages = _kept(ids, ages, now, most, window)
    record.inherited_until = now + window


def _kept(
    ids: tuple[str, ...], ages: Ages, now: datetime, most: int, window: timedelta
) -> tuple[tuple[str, ...], Ages]:
    gone = aged = 0
    while aged < len(ages) and now - ages[aged][0] >= window:
        gone += ages[aged][1]
        aged += 1
    kept = list(ages[aged:])
    over = max(0, len(ids) - gone - most)
    gone += over
    while over and kept:
        before, count = kept[0]
        if count > over:
            kept[0] = (before, count - over)
            break
        over -= count
        del kept[0]
    return ids[gone:], tuple(kept)
