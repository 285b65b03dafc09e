"""What waits in the mailbox of an instance."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum
from math import inf
from typing import Any

import msgspec

from ..decision.draft import Draft
from ..decision.message import Message, Outcome
from .reporter import Reporter


class Maintenance(Enum):
    """Why an envelope without a message is in a mailbox."""

    RECORD = "record"  # write down which commands were accepted, or just read back
    RENEW = "renew"  # save for the sake of a later `due_at`: the delivery takes longer than the lease
    BEGIN = "begin"  # an attempt at a command that may end its worker
    TAKE_OVER = "take over"  # commands whose lease has ended
    CLAIM = "claim"  # that, and fire the timers that are due
    WAKE = "wake"  # handle the oldest kept message whose moment has come


class Envelope(msgspec.Struct, eq=False):
    """What waits in a mailbox: a message, a repair, or maintenance.

    The garbage collector has to see it: an error that it holds leads back to it by its traceback, and so does a future by
    the task that waits.
    """

    message: Message | None = None
    maintenance: Maintenance | None = None
    repair: Callable[[Draft, Reporter], Awaitable[Any]] | None = None
    future: asyncio.Future[None] | None = None
    decided: Outcome | BaseException | None = None  # in this turn; holds only once the turn is saved
    outcome: Outcome | None = None
    error: BaseException | None = None
    result: Any = None
    failures: int = 0
    park: tuple[str, Message] | None = None  # no more retries: park for this reason, holding that message
    most_timers: float = inf  # so many of a claim fire in one turn: more were too large together
    deadline: float | None = None  # in the loop's time: until then it may wait for its starting event
    seen: bool = False  # a read of its instance's record has begun since it came
    withdrawn: bool = False  # its caller was cancelled while it waited
    over: bool = False  # nothing is to be done about it any more: it is answered, or withdrawn

    @property
    def open(self) -> bool:
        """Neither answered nor failed."""
        return self.outcome is None and self.error is None

    def withdraw(self) -> None:
        """Nobody waits for it any more: whoever comes to it passes over it."""
        self.withdrawn = self.over = True

    def tried(self) -> None:
        """A handler may have had the event: the next one gets it as it came."""
        if self.message is not None:
            self.message.tried = True

    def finish(self) -> None:
        """What was decided holds: wake the caller."""
        decided = self.decided
        if isinstance(decided, Outcome):
            self.outcome = decided
        else:
            self.error = decided
        self.over = True
        if self.future is not None and not self.future.done():
            self.future.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Nothing was stored: tell the caller why."""
        self.decided = error
        self.finish()
