"""What the outside saw: what its senders were told, and which commands reached their handlers. Verdicts rest on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from ...decision.message import Outcome
from ...errors import CommandRefused
from ...runner import Receipt

KNOWN = (Outcome.HANDLED, Outcome.DUPLICATE, Outcome.HELD, Outcome.KEPT)


class SentEvent(msgspec.Struct):
    """One event, and what its sender was told of it. Ticks order everything that happened in a run."""

    message_id: str
    event: Any
    attempts: list[tuple[str, int]] = []  # worker, tick
    known: dict[str, int] = {}  # saga: tick at which its sender was told that it is stored

    @property
    def began(self) -> int:
        """When it was sent first."""
        return self.attempts[0][1]


class HandlerCall(msgspec.Struct):
    """One call of a command handler."""

    id: str
    command: Any
    undo: bool
    life: int  # of the persistence id, counted from 0
    began: int
    seconds: float  # of virtual time
    ended: int | None = None  # tick; None: it failed, or its worker died meanwhile
    refused: bool = False
    replies: tuple[Any, ...] = ()

    @property
    def persistence_id(self) -> str:
        """The instance that sent it."""
        return self.id.rsplit("/", 2)[0]


class Outside:
    """Everything that was seen from outside the workers, in order."""

    def __init__(self, tick: Callable[[], int]) -> None:
        self._tick = tick
        self.sent: dict[str, SentEvent] = {}
        self.deliveries: list[HandlerCall] = []
        self.answers: dict[tuple[str, int], tuple[Any, CommandRefused | None]] = {}
        self.repairs: Counter[str] = Counter()
        self.tried: Counter[str] = Counter()  # attempts that began, by command id

    def attempt(self, message_id: str, event: Any, worker: str) -> SentEvent:
        """An event is sent to a worker."""
        sent = self.sent.setdefault(message_id, SentEvent(message_id, event))
        sent.attempts.append((worker, self._tick()))
        return sent

    def told(self, sent: SentEvent, receipt: Receipt) -> None:
        """A worker answered that an event is accepted."""
        now = self._tick()
        for name, outcome in receipt.outcomes.items():
            if outcome in KNOWN:
                sent.known.setdefault(name, now)

    def ended(self, delivery: HandlerCall) -> None:
        """A command handler returned, or refused."""
        delivery.ended = self._tick()
