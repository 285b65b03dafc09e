"""Places for what is carried out: each kind has its own, so one whose receiver hangs delays no other.

deliver, beside ─► [lanes] ─► serve, one after the other in each place
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from .context import in_command_handler
from .engine import Engine

T = TypeVar("T")


class _Lane(Generic[T]):
    """The places of one kind, and what waits for one."""

    __slots__ = ("places", "ready", "running")

    def __init__(self, places: int) -> None:
        self.places = places
        self.ready: deque[T] = deque()
        self.running = 0


class Lanes(Generic[T]):
    """One lane for each kind. `serve` carries one out, as a command handler does.

    With `hands_over`, a task whose lane is empty takes a place in the next lane that needs one. So the activities of an
    itinerary, each in its own lane, need one task instead of one each. It is for what waits whenever it is served: what
    never does could keep the loop for itself.
    """

    def __init__(self, engine: Engine, serve: Callable[[T], Awaitable[None]], *, hands_over: bool = False) -> None:
        self._engine = engine
        self._serve = serve
        self._hands_over = hands_over
        self._lanes: dict[str, _Lane[T]] = {}
        self._open: deque[_Lane[T]] = deque()  # each has a place for which there is no task yet
        self._opening = False

    def put(self, kind: str, places: int, waiting: T) -> None:
        """Serve it as soon as its lane, which has so many places, has a free one; return at once."""
        lane = self._lanes.get(kind)
        if lane is None:
            lane = self._lanes[kind] = _Lane(places)
        lane.ready.append(waiting)
        self._engine.backlog += 1
        if lane.running < lane.places:
            lane.running += 1
            if not self._hands_over:
                self._engine.spawn(self._work(lane))
                return
            self._open.append(lane)
            if not self._opening:
                self._opening = True
                self._engine.loop.call_soon(self._begin_tasks)

    def _begin_tasks(self) -> None:
        """Begin a task for each place that no task has taken which was at its end."""
        self._opening = False
        while self._open:
            self._engine.spawn(self._work(self._open.popleft()))

    async def _work(self, first: _Lane[T]) -> None:
        in_command_handler.set(True)
        lane: _Lane[T] | None = first
        while lane is not None:
            try:
                while lane.ready:
                    waiting = lane.ready.popleft()
                    self._engine.backlog -= 1
                    await self._serve(waiting)
            finally:
                lane.running -= 1
                if lane.ready and lane.running == 0 and not self._engine.stopping.is_set():  # this task was cancelled
                    lane.running += 1
                    self._engine.spawn(self._work(lane))
            lane = self._open.popleft() if self._open else None

    def stop(self, drop: Callable[[T], None]) -> None:
        """Serve nothing more; `drop` is called for each that waits. What is being served ends by itself."""
        for lane in self._lanes.values():
            for waiting in lane.ready:
                drop(waiting)
            self._engine.backlog -= len(lane.ready)
            lane.ready.clear()
        while self._open:
            self._open.popleft().running -= 1
