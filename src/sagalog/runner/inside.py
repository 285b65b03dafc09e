"""What the command line, the dashboard and the server need of a runner, and its users do not."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..decision.record import well_formed
from .envelope import Burst
from .receipt import Receipt
from .runner import Reader, Report, SagaRunner

if TYPE_CHECKING:
    from ..brokers.subscription import Subscription


def has_handler(runner: SagaRunner, command: type) -> bool:
    """Say whether commands of this type have a handler."""
    return runner._handlers.get(command) is not None


def subscriptions_of(runner: SagaRunner) -> tuple[Subscription, ...]:
    """Return the sources that a runner reads while it is started, and how."""
    return tuple(runner._attached.subscriptions)


def journal_url_of(runner: SagaRunner) -> str | None:
    """Return the URL that it opens its journal by; None where a journal or stores were given. It may hold a password."""
    return runner._source if isinstance(runner._source, str) else None


def reader_of(runner: SagaRunner) -> Reader | None:
    """Return what turns a line of `sagalog run` into an event, by `SagaRunner.reads`."""
    return runner._reader


def reporter_of(runner: SagaRunner) -> Report | None:
    """Return what `sagalog run` prints the answer of at its end, by `SagaRunner.reports`."""
    return runner._reporter


def check_event(runner: SagaRunner, event: Any, message_id: str | None, at: datetime | None) -> None:
    """Raise what `SagaRunner.handle` of a started runner raises at once for an event that no instance could take."""
    assert runner._receiver is not None
    runner._receiver.check(event, message_id, at)


async def handle_by_hand(runner: SagaRunner, event: Any, message_id: str, by: str) -> Receipt:
    """Handle an event that an operator sends as `SagaRunner.handle` does, with the name of the operator in the record."""
    return await runner._receive(event, message_id, sent_by=well_formed(by))


async def handle_in_burst(runner: SagaRunner, event: Any, message_id: str, trace: str, burst: Burst) -> Receipt:
    """Handle an event as `SagaRunner.handle` does; where the journal fails one of a burst, none behind it is stored."""
    return await runner._receive(event, message_id, trace=trace, burst=burst)
