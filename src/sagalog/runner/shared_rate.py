"""A rate that the workers of a journal share: this worker takes tokens for its next second, as many as it seems to need.

    gates ─► [shared rate] ─► journal: one record for each command type

At most one write a second for each type that is in use. What is not used is given back with the next write, or lost.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime

from ..errors import ConflictError
from ..journal import Journal
from ..journal.budget import take_tokens
from ..logs import about, log
from .failures import passes_through, told_of_store

_SECOND = 1.0
_LONGEST = 60.0  # between two looks, where the rate is less than one a minute
_AHEAD = 10  # a worker takes at least one part in so many of a second's tokens, so that few wait for its next look


class SharedRate:
    """The tokens of one command type that this worker has in hand."""

    def __init__(
        self, journal: Journal, command: str, per_second: float, now: Callable[[], datetime], time: Callable[[], float]
    ) -> None:
        self.per_second: float = per_second
        self._journal = journal
        self._command = command
        self._now = now
        self._time = time
        self._tokens = 0
        self._ends = 0.0  # when they are not good any more
        self._used = 0  # since the last look
        self._ask_at = 0.0
        self.asking: bool = False
        self._complained = False

    def wait_seconds(self, now: float) -> float | None:
        """Return how long it is until the next one may leave; 0: it may leave now; None: `ask` has to say."""
        if self._tokens > 0 and now < self._ends:
            return 0.0
        if self.asking or now >= self._ask_at:
            return None
        return self._ask_at - now

    def take(self) -> None:
        """Let one leave."""
        self._tokens -= 1
        self._used += 1

    async def ask(self, waiting: int) -> None:
        """Take tokens for the next second. `waiting`: how many commands stand in line. Raises nothing of the journal's."""
        wanted = max(waiting, 2 * self._used, int(self.per_second / _AHEAD), 1)
        back, self._tokens, self._used = max(0, self._tokens), 0, 0
        begun = self._time()
        try:
            got, pause = await take_tokens(
                self._journal, self._command, self.per_second, self._now(), wanted=wanted, back=back
            )
        except BaseException as error:  # without the journal nobody knows what the others let through
            if passes_through(error):
                raise
            got, pause = 0, _SECOND
            self._complain(error)
        else:
            self._complained = False
        self._tokens, self._ends = got, self._time() + _SECOND
        # Some more than a second, so that no worker is always the first of several.
        pause = min(_LONGEST, max(_SECOND, pause))
        self._ask_at = begun + pause * (1 + random.random() / 4)  # noqa: S311

    def _complain(self, error: BaseException) -> None:
        if not self._complained and not isinstance(error, ConflictError):
            self._complained = True
            log.warning(
                "commands %s wait for their shared rate: %s", self._command, told_of_store(error), extra=about()
            )
