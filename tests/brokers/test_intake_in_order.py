"""Events of one key keep their order through a journal that fails: on NATS, whose source hands them over in bursts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from sagalog import (
    InMemoryJournal,
    JournalUnavailableError,
    OutcomeUnknownError,
    PersistentRepr,
    RunnerSettings,
    SagalogError,
)

from ..servers.processes import eventually
from .placed import Place, counts, logged, running
from .shop import Counted, event


@pytest.mark.parametrize("max_batch", [256, 3])
@pytest.mark.parametrize("error", [JournalUnavailableError, OutcomeUnknownError])
async def test_events_of_one_key_keep_their_order_through_a_journal_that_fails_now_and_then(
    place: Place, error: type[SagalogError], max_batch: int
) -> None:
    journal, chance = InMemoryJournal(), random.Random(11)
    write, left = journal.write_batch, [40]

    async def sometimes(records: Sequence[PersistentRepr]) -> Sequence[SagalogError | None]:
        if left[0] and chance.random() < 0.5:
            left[0] -= 1
            if error is OutcomeUnknownError and chance.random() < 0.5:
                await write(records)
            return [error("now and then") for _ in records]
        return await write(records)

    journal.write_batch = sometimes  # type: ignore[method-assign]
    for number in range(25):
        for order in "abc":
            await place.into.send(event(order, number))
    settings = RunnerSettings(max_batch=max_batch)
    async with running(place, journal=journal, settings=settings) as runner:
        await eventually(lambda: counts(runner).accepted == 75, 60)
        for order in "abc":
            assert (await runner.state(Counted, order)).log == list(range(25))
        assert left[0] < 40


async def test_what_waits_behind_an_event_that_the_journal_has_not_taken_is_not_stored_before_it(place: Place) -> None:
    journal, asked, answer = InMemoryJournal(), asyncio.Event(), asyncio.Event()
    write, failed = journal.write_batch, [False]

    async def once(records: Sequence[PersistentRepr]) -> Sequence[SagalogError | None]:
        if failed[0]:
            return await write(records)
        failed[0] = True
        asked.set()
        await answer.wait()
        return [JournalUnavailableError("once") for _ in records]

    journal.write_batch = once  # type: ignore[method-assign]
    for number in range(20):
        await place.into.send(event("a", number))
    async with running(place, journal=journal) as runner:
        await asked.wait()
        await eventually(lambda: counts(runner).received == 20)
        answer.set()
        await logged(runner, "a", range(20))
        await eventually(lambda: counts(runner).accepted == 20)
