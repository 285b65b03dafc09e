"""What this worker knows of the deliveries of one instance: whose its commands are, and how far each has come.

    settle, lease ─► [deliveries] ─► deliver, attempt, beside, conclusion, gates

We own the outbox entries that we saved, and those that we claimed after their lease had ended. Until then, all others
belong to the worker that saved them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Protocol

from ..decision.entries import Command

NO_IDS: frozenset[str] = frozenset()


class Cancellable(Protocol):
    """What is waited for before the next attempt: a timer, or a place in a line."""

    def cancel(self) -> None:
        """Wait no more."""


class Deliveries:
    """The deliveries of one instance.

    Besides the methods here, one file each changes `delivering` (deliver.py), `attempt` (attempt.py), `answered`
    (answers.py), `let_through` (gates.py), and `contested`, `lease_seconds` and `foreign` (lease.py).
    """

    __slots__ = (
        "accepted",
        "answered",
        "attempt",
        "attempts",
        "beside",
        "contested",
        "cursor",
        "declined",
        "delivering",
        "first_start",
        "foreign",
        "forgotten",
        "lease_end",
        "lease_seconds",
        "let_through",
        "next_attempt_at",
        "owned",
        "pausing",
        "retry",
    )

    def __init__(self) -> None:
        self.owned: frozenset[str] = NO_IDS
        self.lease_end: datetime | None = None  # of the last write; later, others may have taken over
        self.accepted: set[str] | frozenset[str] = NO_IDS  # accepted, not yet recorded
        self.answered: set[str] | frozenset[str] = NO_IDS  # carried out, their answers are being stored
        self.cursor: tuple[tuple[Command, ...], int] = ((), 0)  # how far the outbox is accepted
        self.delivering: bool = False
        # The entry whose handler is running, and its time limit.
        self.attempt: tuple[str, asyncio.Timeout] | None = None
        self.lease_seconds: float = 0.0  # of a renewal; 0: the lease of the settings
        # Another worker has changed it during our lease, so the next leases are written down.
        self.contested: bool = False
        self.declined: Command | None = None  # the first of the outbox, which only a worker with other code can deliver
        # Another worker's entry, and when to claim it, in the loop's time.
        self.foreign: tuple[str, float] | None = None
        self.first_start: int = 0  # of the lives that the deliveries are of; see SagaRecord
        self.forgotten: frozenset[str] = NO_IDS  # entries of lives before those, at whose commands handlers still are
        self.attempts: dict[str, int] | None = None  # failed deliveries by entry; None if there are none
        # Activities that are carried out beside the other commands, and their time limits while a handler is at them.
        self.beside: dict[str, asyncio.Timeout | None] | None = None
        self.pausing: dict[str, Cancellable] | None = None  # those before their next attempt
        self.let_through: frozenset[str] = NO_IDS  # entries that have waited at their gate, and may leave now
        self.retry: Cancellable | None = None  # before the next look at the outbox
        self.next_attempt_at: datetime | None = None

    @property
    def at_work(self) -> bool:
        """A command is being delivered, or what came of one is not stored yet."""
        return bool(self.delivering or self.accepted or self.answered or self.beside)

    @property
    def carries_out(self) -> bool:
        """A command is being carried out, or its answer is being stored."""
        return bool(self.attempt is not None or self.beside is not None or self.answered)

    @property
    def pauses(self) -> bool:
        """Something is waited for before the next attempt, or before the next look at the outbox."""
        return self.retry is not None or bool(self.pausing)

    def own(self, entries: frozenset[str], lease_end: datetime | None) -> None:
        """Note that these are ours, too, and until when."""
        self.owned |= entries
        self.lease_end = lease_end

    def own_of(self, outbox: frozenset[str], new: frozenset[str]) -> None:
        """Note that of an outbox the new entries are ours, and those that were before."""
        self.owned = new | (self.owned & outbox)

    def disown(self, entry: str) -> None:
        """Leave an outbox entry to other workers."""
        self.owned -= {entry}

    def disown_all(self) -> None:
        """Leave the whole outbox to other workers: our lease on it has ended."""
        self.owned, self.lease_end = NO_IDS, None

    def leased_until(self, lease_end: datetime | None) -> None:
        """Note when our lease on the outbox ends."""
        self.lease_end = lease_end

    def forget_all_but(self, outbox: frozenset[str]) -> None:
        """Forget what is in the outbox no more."""
        self.accepted &= outbox
        self.owned &= outbox

    def accept(self, entry: str) -> None:
        """Note that an entry is accepted, and that its failed attempts count no more."""
        if self.attempts is not None:
            self.attempts.pop(entry, None)
        if entry in self.owned:
            if isinstance(self.accepted, frozenset):
                self.accepted = set(self.accepted)
            self.accepted.add(entry)

    def recorded(self, entries: AbstractSet[str]) -> None:
        """Note that these are recorded as accepted. More may have been accepted since the draft was begun."""
        self.accepted -= entries
        if not self.accepted:
            self.accepted = NO_IDS

    def failed(self, entry: str) -> int:
        """Count a failed attempt at an entry; return how many there were."""
        if self.attempts is None:
            self.attempts = {}
        failures = self.attempts[entry] = self.failures(entry) + 1
        return failures

    def failures(self, entry: str) -> int:
        """Return how many attempts at an entry have failed."""
        return 0 if self.attempts is None else self.attempts.get(entry, 0)

    def allow_all_attempts(self, entry: str) -> None:
        """Count the failed attempts at an entry no more."""
        if self.attempts is not None:
            self.attempts.pop(entry, None)

    def decline(self, entry: Command) -> None:
        """Leave the first entry of the outbox to a worker with other code."""
        self.declined = entry
        self.disown(entry.id)

    def decline_nothing(self) -> None:
        """Note that this worker can deliver the first entry of the outbox."""
        self.declined = None

    def wait(self, until: Cancellable) -> None:
        """Note what the next look at the outbox waits for."""
        self.retry = until

    def lease_from(self, next_attempt_at: datetime) -> None:
        """Let leases begin at our next attempt: others may take over only after it."""
        self.next_attempt_at = next_attempt_at

    def look(self) -> None:
        """Note that the look at the outbox which was waited for is taken now."""
        self.retry = None

    def end_pause(self) -> None:
        """Note that the next command of the outbox waits no more."""
        self.retry = self.next_attempt_at = None

    def pause(self, entry: str, until: Cancellable) -> None:
        """Note that an activity waits before its next attempt, and for what."""
        if self.pausing is None:
            self.pausing = {}
        self.pausing[entry] = until

    def resume(self, entry: str) -> Cancellable | None:
        """Note that an activity waits no more; return what it waited for."""
        if self.pausing is None:
            return None
        until = self.pausing.pop(entry, None)
        if not self.pausing:
            self.pausing = None
            if self.retry is None:
                self.next_attempt_at = None
        return until

    def stop_pausing(self) -> None:
        """Cancel what is waited for before the next attempts."""
        if self.retry is not None:
            self.retry.cancel()
        for pause in self.pausing.values() if self.pausing is not None else ():
            pause.cancel()
        self.pausing = None
        self.end_pause()

    def begin_beside(self, entry: str) -> None:
        """Note that an activity is carried out beside the other commands; no handler is at it yet."""
        if self.beside is None:
            self.beside = {}
        self.beside[entry] = None

    def limit_beside(self, entry: str, limit: asyncio.Timeout | None) -> None:
        """Note the time limit of the handler that is at an activity; None: it has ended."""
        assert self.beside is not None
        self.beside[entry] = limit

    def end_beside(self, entry: str) -> bool:
        """Note that an activity was carried out. Returns whether none is carried out beside the others any more."""
        assert self.beside is not None
        self.beside.pop(entry, None)
        if self.beside:
            return False
        self.beside = None
        return True

    def of_another_life(self, first_start: int, next_entry: Command | None) -> bool:
        """Note which lives the outbox is of. Returns whether the lives before were forgotten meanwhile.

        Then the entries of the new ones have the same ids. So what is known of the deliveries says nothing of them, nor
        does the end of those that are under way, `next_entry` among them.
        """
        forgotten = self.first_start not in (0, first_start)
        if forgotten:
            under_way = {*self.answered, *(self.beside or ())}
            if self.attempt is not None:
                under_way.add(self.attempt[0])
            if self.delivering and next_entry is not None:
                under_way.add(next_entry.id)
            self.forgotten |= under_way
            self.owned = self.accepted = NO_IDS
            self.attempts = None
        self.first_start = first_start
        return forgotten

    def was_forgotten(self, entry: str) -> bool:
        """Say whether the life of an entry whose delivery has ended was forgotten, and think of it no more."""
        if entry not in self.forgotten:
            return False
        self.forgotten -= {entry}
        return True

    def next_of(self, outbox: tuple[Command, ...]) -> Command | None:
        """Return the first entry that is not carried out yet, by whichever worker; None if delivery waits.

        An undo command waits until all that was sent before it is accepted.
        """
        if self.beside is not None and len(outbox) == 1 and outbox[0].id in self.beside:
            return None  # most of the time, of an itinerary
        if self.cursor[0] is not outbox:
            self.cursor = (outbox, 0)
        index = self.cursor[1]
        while index < len(outbox) and outbox[index].id in self.accepted:
            index += 1
        self.cursor = (outbox, index)
        if index == len(outbox):
            return None
        if self.answered or self.beside or self.pausing:
            first = index
            while index < len(outbox) and self._at_work(outbox[index].id):
                index += 1
            if first < index < len(outbox) and outbox[index].undo:
                return None
        return outbox[index] if index < len(outbox) else None

    def _at_work(self, entry: str) -> bool:
        return (
            entry in self.accepted
            or entry in self.answered
            or (self.beside is not None and entry in self.beside)
            or (self.pausing is not None and entry in self.pausing)
        )
