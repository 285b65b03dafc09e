"""What happens, as it happens: steps a second, how long things took, which event led to which command."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from datetime import timedelta

import msgspec

from ..decision.entries import FINAL
from ..decision.ids import refused_entry
from ..operating.inspect import SagaView
from .tally import name_of

BUCKET_SECONDS = 5
BUCKETS = 120
_MAX_DURATIONS = 1_000
_MAX_TRANSITIONS = 2_000


class Spread(msgspec.Struct, frozen=True):
    """Half of the durations were at most `middle`, nineteen of twenty at most `high`."""

    middle: timedelta
    high: timedelta
    number: int


class Transition(msgspec.Struct, frozen=True):
    """A saga handled an event, and that led to something: a command, a timer, or a status."""

    saga: str
    event: str
    kind: str  # command | timer | status
    target: str


class Flow:
    """The last ten minutes of steps, and the last durations and transitions. Its memory is bounded."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._buckets: deque[tuple[int, Counter[str]]] = deque(maxlen=BUCKETS)
        self.lives: deque[timedelta] = deque(maxlen=_MAX_DURATIONS)
        self.timer_lags: deque[timedelta] = deque(maxlen=_MAX_DURATIONS)
        self.transitions: Counter[Transition] = Counter()

    def note(self, before: SagaView | None, after: SagaView) -> None:
        """Take notice of a step: what the record before it said, if that is known, and what it says now."""
        number = int(self._clock() // BUCKET_SECONDS)
        if not self._buckets or self._buckets[-1][0] != number:
            self._buckets.append((number, Counter()))
        bucket = self._buckets[-1][1]
        bucket["steps"] += 1
        record, old = after.record, before.record if before is not None else None
        if record is None:
            return
        bucket["events"] += len(record.handled)
        bucket["commands"] += sum(entry.id.startswith(f"{after.version}/") for entry in record.outbox)
        if record.status in FINAL and (old is None or old.status not in FINAL):
            self.lives.append(record.updated_at - record.started_at)
        if old is not None and old.timers:
            due = {f"{name_of(after)}/{timer.id}": timer.due_at for timer in old.timers.values()}
            for handled in record.handled:
                if handled.id in due:
                    self.timer_lags.append(max(timedelta(0), record.updated_at - due[handled.id]))
        self.observe(before, after)

    def observe(self, before: SagaView | None, after: SagaView) -> None:
        """Note which event led to which command, timer and status. A step that took several events says nothing."""
        record = after.record
        if record is None or len(record.handled) != 1 or len(self.transitions) >= _MAX_TRANSITIONS:
            return
        handled = record.handled[0]
        # What was refused is a command, and no event that the saga waited for.
        refused = refused_entry(name_of(after), handled.id) is not None
        event = f"{handled.type}, refused" if refused else handled.type
        own = f"{after.version}/"
        found = [("command", entry.command.type) for entry in record.outbox if entry.id.startswith(own)]
        # Scheduled commands have names of the engine's own; a timer has the one that the saga gave it.
        found += [
            ("command", timer.event.type) if timer.send else ("timer", timer.event.type)
            for timer in record.timers.values()
            if timer.id.startswith(own)
        ]
        if before is None or before.status != after.status:
            found.append(("status", after.status))
        if not found:
            found.append(("status", ""))
        for kind, target in found:
            self.transitions[Transition(after.saga, event, kind, target)] += 1

    def rate(self, what: str, seconds: int = 60) -> float | None:
        """Return how many there were a second lately; None while it is too early to tell."""
        watched = min(self._clock() - self._since, seconds)
        if watched < BUCKET_SECONDS:
            return None
        first = int((self._clock() - seconds) // BUCKET_SECONDS)
        return sum(counts[what] for number, counts in self._buckets if number > first) / watched

    def series(self, what: str) -> list[int]:
        """Return the number in each bucket of the last ten minutes, oldest first."""
        last = int(self._clock() // BUCKET_SECONDS)
        known = {number: counts[what] for number, counts in self._buckets}
        return [known.get(number, 0) for number in range(last - BUCKETS + 1, last + 1)]


def spread(durations: deque[timedelta]) -> Spread | None:
    """Return how durations spread; None where there are none."""
    if not durations:
        return None
    ordered = sorted(durations)
    return Spread(
        ordered[(len(ordered) - 1) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))], len(ordered)
    )
