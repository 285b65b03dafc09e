"""Looks at what operators have said about the commands of the journal: which are paused.

    journal ─► [controls] ─► gates of deliver

One lookup of one id at start, before anything is delivered, and then with the scans for due work, at most two a second.
While the journal does not answer, what was said last holds.
"""

from __future__ import annotations

from collections.abc import Callable

from ..decision.controls import Change, Controls, since
from ..journal import Journal
from ..journal.controls import change_controls, read_controls
from ..logs import about, log

_EVERY_SECONDS = 0.5  # between two looks, or half of `due_poll` where that is less


class ControlsWatch:
    """What operators have said about the commands of one journal, as last read. `heard` is called when that changes."""

    def __init__(self, journal: Journal, time: Callable[[], float], poll_seconds: float) -> None:
        self._journal = journal
        self._time = time
        self._next = 0.0
        self._pause = min(_EVERY_SECONDS, poll_seconds / 2)
        self._version = 0
        self.said: Controls = Controls()
        self.heard: Callable[[Controls], None] = lambda controls: None

    async def look(self, *, now: bool = False) -> None:
        """Read it, unless that was done a moment ago (`now`: in any case). Raises as the journal does, and CodecError."""
        if not now and self._time() < self._next:
            return
        controls, version = await read_controls(self._journal)
        self._next = self._time() + self._pause
        if version <= self._version:  # a slow answer does not bring back what was
            return
        before, self.said, self._version = self.said, controls, version
        self.heard(controls)
        for name in controls.paused.keys() - before.paused.keys():
            pause = controls.paused[name]
            log.warning("commands %s are paused %s", name, since(pause), extra=about())
        for name in before.paused.keys() - controls.paused.keys():
            log.warning("commands %s are resumed", name, extra=about())

    async def change(self, change: Change) -> bool:
        """Store a change, and hold to it at once; say whether it changed anything. Raises what `change_controls` raises."""
        before, after = await change_controls(self._journal, change)
        await self.look(now=True)
        return before != after
