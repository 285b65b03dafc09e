"""What waits in the mailbox of an instance."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from enum import Enum
from math import inf
from typing import Any, TypeAlias

import msgspec

from ..decision.draft import Draft
from ..decision.message import Message, Outcome
from .reporter import Reporter


class Maintenance(Enum):
    """What an instance is asked for that nobody sends, and that needs no words of its own."""

    RECORD = "record"  # write down which commands were accepted; or only read what is stored
    RENEW = "renew"  # save a later `due_at`, because a delivery takes longer than the lease
    BEGIN = "begin"  # an attempt at a command that may end its worker
    TAKE_OVER = "take over"  # commands whose lease has ended
    WAKE = "wake"  # handle the oldest kept message whose moment has come


class Claim(msgspec.Struct, frozen=True):
    """Take over, and fire the timers due at `until` or before; None: those due now."""

    until: datetime | None = None


class Repairing(msgspec.Struct, frozen=True):
    """Repair it: `run` changes the draft, and returns what is told."""

    run: Callable[[Draft, Reporter], Awaitable[Any]]


Content: TypeAlias = Message | Claim | Repairing | Maintenance


def takes_over(content: Content) -> bool:
    """Say whether that is to decide who delivers the outbox."""
    return content is Maintenance.TAKE_OVER or isinstance(content, Claim)


class Burst:
    """Events that one sender hands over together: those of one instance stay in their order.

    Where the journal fails one, none behind it that is for the same instance is stored: it gets the same error.
    """

    __slots__ = ("_errors",)

    def __init__(self) -> None:
        self._errors: dict[str, BaseException] = {}

    def failed(self, persistence_id: str, error: BaseException) -> None:
        """Note why one for that instance was not stored, and may be in another attempt."""
        self._errors.setdefault(persistence_id, error)

    def error_of(self, persistence_id: str) -> BaseException | None:
        """Return why none is stored any more for that instance; None where each of them was so far."""
        return self._errors.get(persistence_id)


class Envelope(msgspec.Struct, eq=False):
    """What waits in a mailbox, and what becomes of it.

    The garbage collector has to track it: the traceback of an error that it holds refers back to it, and so does the task
    that waits for its future.
    """

    content: Content
    future: asyncio.Future[None] | None = None
    decided: Outcome | BaseException | None = None  # in this turn; it holds only when the turn is saved
    outcome: Outcome | None = None
    error: BaseException | None = None
    result: Any = None  # of a repair
    failures: int = 0
    park: tuple[str, Message] | None = None  # no more retries: park for this reason, and hold that message
    most_timers: float = inf  # that its turn may fire; more made the record too large
    deadline: float | None = None  # until when it may wait for a starting event, in the loop's time
    seen: bool = False  # a read of the record began after it had come
    withdrawn: bool = False  # its caller was cancelled while it waited
    over: bool = False  # it was answered or withdrawn, so nothing more is done about it
    burst: Burst | None = None  # with what it is to stay in order

    @property
    def message(self) -> Message | None:
        """The message in it; None if it holds anything else."""
        return self.content if isinstance(self.content, Message) else None

    @property
    def open(self) -> bool:
        """It was neither answered nor failed."""
        return self.outcome is None and self.error is None

    def withdraw(self) -> None:
        """Note that nobody waits for it any more: turns pass over it."""
        self.withdrawn = self.over = True

    def tried(self) -> None:
        """Note that a handler may have changed the event: the next attempt gets it as it came."""
        if isinstance(self.content, Message):
            self.content.tried = True

    def finish(self) -> None:
        """Let what was decided hold, and wake the caller."""
        decided = self.decided
        if isinstance(decided, Outcome):
            self.outcome = decided
        else:
            self.error = decided
        self.over = True
        if self.future is not None and not self.future.done():
            self.future.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Tell the caller why nothing was stored."""
        self.decided = error
        self.finish()
