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


class Known:
    """What a record knows, for as many looks as a draft takes."""

    __slots__ = ("_held", "_inbox", "_of_held", "_of_inbox")

    def __init__(self) -> None:
        self._of_inbox: tuple[str, ...] | None = None
        self._inbox: set[str] | None = None
        self._of_held: Sequence[Held] | None = None
        self._held: set[tuple[str, str]] = set()

    def inbox(self, ids: tuple[str, ...]) -> Container[str]:
        """Return what to look for an id in: for one look the ids as they are, for making a set costs more than that."""
        if self._of_inbox is not ids:
            self._of_inbox, self._inbox = ids, None
            return ids
        if self._inbox is None:
            self._inbox = set(ids)
        return self._inbox

    def added(self, ids: tuple[str, ...]) -> None:
        """Note that the inbox is `ids` now, of which the last is new. What is forgotten stays known in this step."""
        self._of_inbox = ids
        if self._inbox is not None:
            self._inbox.add(ids[-1])

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
