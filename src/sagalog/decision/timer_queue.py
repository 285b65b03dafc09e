"""The timers of a record in the order in which they are due, for as many as fire in one draft."""

from __future__ import annotations

import heapq
from datetime import datetime

from .entries import Timer
from .record import SagaRecord


class TimerQueue:
    """Made once a draft, of the timers that are pending then; those that are set later are added."""

    __slots__ = ("_heap", "_number")

    def __init__(self, timers: dict[str, Timer]) -> None:
        self._heap: list[tuple[datetime, int, str, str]] = [
            (timer.due_at, number, name, timer.id) for number, (name, timer) in enumerate(timers.items())
        ]
        heapq.heapify(self._heap)
        self._number = len(timers)

    def add(self, name: str, timer: Timer) -> None:
        """Add a timer. One of the same name that was there before is passed over from now on."""
        heapq.heappush(self._heap, (timer.due_at, self._number, name, timer.id))
        self._number += 1

    def first(self, record: SagaRecord) -> tuple[str, Timer] | None:
        """Return the timer that may fire and is due first, of those due at the same moment the one set first."""
        waiting = []
        found = None
        while self._heap:
            _, _, name, timer_id = self._heap[0]
            timer = record.timers.get(name)
            if timer is None or timer.id != timer_id:
                heapq.heappop(self._heap)  # replaced, or gone
            elif record.parked and not timer.send:
                waiting.append(heapq.heappop(self._heap))  # for the repair
            else:
                found = (name, timer)
                break
        for entry in waiting:
            heapq.heappush(self._heap, entry)
        return found
