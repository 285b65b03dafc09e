"""Journals filled beforehand: many live instances, made from one that a runner made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from sagalog import InMemoryJournal, Journal, PersistentRepr, Saga, SagaRunner

_AT_ONCE = 5000


async def template(saga: type[Saga[Any]], event: Any, correlation_id: str) -> PersistentRepr:
    """Return the record of an instance of `saga` that has handled `event`."""
    journal = InMemoryJournal()
    async with SagaRunner(journal, sagas=[saga], dispatch=lambda command: None) as runner:
        await runner.handle(event)
        await runner.settle()
    stored = await journal.latest_message(f"saga::{saga.name}::{correlation_id}")
    assert stored is not None
    return stored


async def fill(
    journal: Journal,
    like: PersistentRepr,
    stem: str,
    count: int,
    vary: Callable[[int], tuple[bytes, datetime]] | None = None,
) -> None:
    """Store so many instances like that one, as first records. `vary` gives the payload and due moment of each."""
    prefix = like.persistence_id[: like.persistence_id.rindex("::") + 2] + stem
    due = datetime.now(UTC) + timedelta(days=1)

    def record(n: int) -> PersistentRepr:
        payload, due_at = vary(n) if vary is not None else (like.payload, due)
        return PersistentRepr(f"{prefix}{n}", 1, payload, like.manifest, like.writer_uuid, False, like.tags, due_at)

    for start in range(0, count, _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, count))
        await asyncio.gather(*(journal.write_messages([record(n)]) for n in numbers))
