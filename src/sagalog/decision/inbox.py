"""Which message ids an instance remembers: for how long, how many, and how a long list of them is searched.

The answers of one command that came one after the other are remembered as one id (see ids.reply_parts): a command handler
may yield thousands of them, each in a step of its own.

The saga declares a window of time and a number for the ids that senders gave. They are not dated one by one: `ages` says
of so many of the oldest that all of them came before a moment, an eighth of the window apart. So an id is remembered for
the window at least, and an instance that lives for less than an eighth of it, or takes few events, needs no ages at all.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import TypeAlias

from .ids import replies_id, reply_parts
from .record import SagaRecord

Ages: TypeAlias = tuple[tuple[datetime, int], ...]  # oldest first: a moment, and how many more ids came before it

FEW = 64  # up to this many, ids are searched one by one, and kept whatever their age
_PARTS = 8  # of a window, each dated as a whole


_NEAR = 16  # how far back an answer looks for the ones before it


class Searched:
    """Ids that are searched again and again: once as they are, because a set costs more."""

    __slots__ = ("_ids", "_runs", "_set")

    def __init__(self) -> None:
        self._ids: Sequence[str] | None = None
        self._set: set[str] | None = None
        self._runs: dict[str, list[tuple[int, int]]] | None = None

    def stands_for(self, ids: Sequence[str], message_id: str) -> bool:
        """Say whether one of these ids, none of which is that one itself, stands for that reply among others."""
        if len(ids) < FEW:
            return stand_for(ids, message_id)
        reply = reply_parts(message_id)
        if reply is None:
            return False
        if reply[1] < reply[2]:  # nothing that comes in is written as several
            return stand_for(ids, message_id)
        if self._ids is not ids:
            self._ids, self._set, self._runs = ids, None, None
        if self._runs is None:
            self._runs = {}
            for one in ids:  # nearly all stand for themselves alone, and are not taken apart
                if "-" in one[one.rfind("/") :] and (run := reply_parts(one)) is not None:
                    self._runs.setdefault(run[0], []).append((run[1], run[2]))
        return any(first <= reply[1] <= last for first, last in self._runs.get(reply[0], ()))

    def of(self, ids: Sequence[str]) -> Container[str]:
        """Return what to look for an id in."""
        if self._ids is not ids:
            self._ids, self._set, self._runs = ids, None, None
            return ids
        if self._set is None:
            self._set = set(ids)
        return self._set

    def added(self, before: Sequence[str], ids: Sequence[str], message_id: str) -> None:
        """Note that `before` is `ids` now, with a new one. What was forgotten stays known in this step."""
        if self._ids is not before:  # then what was looked up is of others
            self._set = self._runs = None
        self._ids = ids
        if self._set is not None:
            self._set.add(message_id)
        if self._runs is not None and (reply := reply_parts(message_id)) is not None:
            joined = ids[-1] != message_id  # with the one before it, which may have stood for itself alone till now
            self._runs.setdefault(reply[0], []).append((reply[1] - joined, reply[2]))


class Known:
    """What a record knows, for as many looks as a draft takes."""

    __slots__ = ("inbox", "recent")

    def __init__(self) -> None:
        self.inbox: Searched = Searched()
        self.recent: Searched = Searched()


def stand_for(ids: Iterable[str], message_id: str) -> bool:
    """Say whether one of these ids stands for that reply, and for others."""
    reply = reply_parts(message_id)
    if reply is None:
        return False
    of, number, _ = reply
    runs = (reply_parts(one) for one in ids if one.startswith(of))
    return any(run is not None and run[0] == of and run[1] <= number <= run[2] for run in runs)


def each(ids: Iterable[str]) -> Iterator[str]:
    """Yield each message id that these stand for."""
    for one in ids:
        run = reply_parts(one)
        if run is None:
            yield one
        else:
            yield from (replies_id(run[0], number, number) for number in range(run[1], run[2] + 1))


def count_of(ids: Iterable[str]) -> int:
    """Return how many message ids these stand for."""
    runs = (reply_parts(one) for one in ids)
    return sum(1 if run is None else max(1, run[2] - run[1] + 1) for run in runs)


def continued(record: SagaRecord, message_id: str) -> tuple[str, ...] | None:
    """Return the inbox with a reply added to the ones before it; None where that one has no place among the last."""
    reply = reply_parts(message_id)
    if reply is None or not reply[1]:
        return None
    ids = record.inbox
    dated = sum(count for _, count in record.inbox_ages)
    for place in range(len(ids) - 1, max(dated, len(ids) - _NEAR) - 1, -1):
        if ids[place].startswith(reply[0]):
            run = reply_parts(ids[place])
            if run is not None and run[0] == reply[0] and run[2] == reply[1] - 1:
                return (*ids[:place], replies_id(reply[0], run[1], reply[1]), *ids[place + 1 :])
    return None


def remember(record: SagaRecord, ids: list[str], message_id: str, now: datetime, most: int, window: timedelta) -> None:
    """Add an id to `ids`, the inbox of the record, and forget those that are older than the window or beyond `most`."""
    gone, ages = _forgotten(len(ids), record.inbox_ages, now, most - 1, window)
    del ids[:gone]
    dated = sum(count for _, count in ages)
    since = ages[-1][0] if ages else record.started_at
    if dated < len(ids) and (now - since) * _PARTS >= window:
        ages = (*ages, (now, len(ids) - dated))
    ids.append(message_id)
    record.inbox_ages = ages


def remember_moments(record: SagaRecord, ids: list[str], message_id: str, now: datetime, most: int) -> None:
    """Add an id to `ids`, the inbox of the record, and forget those beyond `most`, but none of the newest moment.

    In event time a log may be fed again: what is older than the newest step is recognised by its time, and of what came
    at that very moment only the ids tell what is known. The ages of the inbox say how many came before that moment.
    """
    ages = record.inbox_ages
    newest = ages[-1][0] if ages else None
    if newest is None or newest < now:  # then all came before
        newest, earlier = now, len(ids)
    else:
        earlier = sum(count for _, count in ages)
    gone = min(max(0, len(ids) + 1 - most), earlier)
    del ids[:gone]
    record.inbox_ages = ((newest, earlier - gone),)
    ids.append(message_id)


def inherit(record: SagaRecord, old: SagaRecord, now: datetime, most: int, window: timedelta) -> None:
    """Let the record of a new incarnation remember for a while what the last one, and those before it, consumed."""
    ids, ages = old.inherited, old.inherited_ages
    if old.inherited_until is None or old.inherited_until <= now:
        ids, ages = (), ()
    ids = (*ids, *old.inbox)
    new = len(ids) - sum(count for _, count in ages)
    if len(ages) > 1 and (now - ages[-2][0]) * _PARTS < window:
        ages = (*ages[:-1], (now, ages[-1][1] + new))
    elif new:
        ages = (*ages, (now, new))
    gone, record.inherited_ages = _forgotten(len(ids), ages, now, most, window)
    record.inherited, record.inherited_until = ids[gone:], now + window


def _forgotten(number: int, ages: Ages, now: datetime, most: int, window: timedelta) -> tuple[int, Ages]:
    """Return how many of the oldest of so many ids are forgotten, and what is known of the age of the others."""
    gone = aged = 0
    while aged < len(ages) and now - ages[aged][0] >= window:
        gone += ages[aged][1]
        aged += 1
    kept = list(ages[aged:])
    over = max(0, number - gone - most)
    gone += over
    while over and kept:
        before, count = kept[0]
        if count > over:
            kept[0] = (before, count - over)
            break
        over -= count
        del kept[0]
    return gone, tuple(kept)
