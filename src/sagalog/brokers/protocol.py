"""What a broker has to be able to do: a source to read from, a sink to send to. `sagalog.conformance` tests both.

Errors are of two sorts. BrokerUnavailableError goes away: whoever called tries again, with a pause. BrokerRefusedError does
not. No exception of a driver escapes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import Protocol, runtime_checkable

from .message import Backlog, DeadLetter, SinkMessage, SourceMessage


@runtime_checkable
class Source(Protocol):
    """Messages from a broker, each delivered until it was accepted or rejected.

    What was received and neither accepted nor rejected comes again: to this source when it is opened again, or to another
    one of the same group. That is also so when this process is killed, or its connection is cut. One task calls `receive`;
    the other methods may be called at any time while it waits.
    """

    @property
    def name(self) -> str:
        """What health, metrics and logs call it: no secrets. Two sources of one runner have different names."""

    @property
    def keep_every(self) -> timedelta | None:
        """How often `keep` has to be called for what is under way; None: never."""

    async def open(self) -> None:
        """Connect. Calling it again has no effect. Raises BrokerUnavailableError, BrokerRefusedError."""

    async def close(self) -> None:
        """Disconnect. What was accepted before stays accepted. It may be opened again."""

    async def receive(self, most: int, wait: timedelta) -> Sequence[SourceMessage]:
        """Return up to `most` messages, in order, as soon as there are any; none after `wait`.

        If it is cancelled, what it would have returned comes again.
        """

    async def accept(self, messages: Sequence[SourceMessage]) -> None:
        """Let these not come again. They need not be the oldest; what was received before them comes again all the same.

        A message that has come again meanwhile, or belongs to another source by now, is passed over. If the acknowledgement
        is lost, it comes again.
        """

    async def keep(self, messages: Sequence[SourceMessage]) -> None:
        """Say that these are still at work here, so that the broker gives them to nobody else."""

    async def give_back(self, messages: Sequence[SourceMessage], delay: timedelta) -> None:
        """Let these come again, to this source or another one, after about the delay; at once where the broker has none.

        A broker may have a longest delay.
        """

    async def reject(self, message: SourceMessage, reason: str) -> None:
        """Put it among the dead letters, and let it not come again; first the one, then the other.

        If it fails between the two, the message comes again. Rejected again then, it is one dead letter still where the
        broker knows duplicates, and two where not.
        """

    async def backlog(self) -> Backlog:
        """Return what lies before this source."""


@runtime_checkable
class KeepsDeadLetters(Protocol):
    """A source whose dead letters can be viewed, corrected and put back."""

    def dead_letters(self) -> AsyncIterator[DeadLetter]:
        """Yield the dead letters, oldest first."""

    async def put_back(
        self, letter: DeadLetter, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send it to its source again, behind what waits there, then take it out of the dead letters.

        It is handled under the id that it had. `body`, `headers`: as mended, instead of its own.
        """

    async def drop(self, letter: DeadLetter) -> None:
        """Take it out of the dead letters. Calling it again has no effect."""


@runtime_checkable
class Sink(Protocol):
    """Takes messages for a broker."""

    @property
    def name(self) -> str:
        """What logs call it: no secrets."""

    async def send(self, message: SinkMessage) -> None:
        """Return when the broker has it. Connects when it is first called, and again after a lost connection.

        Raises BrokerUnavailableError where it may have it or not, BrokerRefusedError for what it will never take.
        """

    async def close(self) -> None:
        """Disconnect. Calling it again has no effect."""
