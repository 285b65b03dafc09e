"""What an operator sees of a worker, and what a worker notices of an operator."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from sagalog import InMemoryJournal, NoInstanceError, RunnerSettings, SagaRunner
from sagalog.decision.entries import Command
from sagalog.decision.record import decode_record, encode_record
from sagalog.decision.repair import drop
from sagalog.definition.codec import Typed
from sagalog.journal.protocol import Finding, ListsLatest, all_latest
from sagalog.operating.apply import apply
from sagalog.operating.inspect import instances

from ..orders import Noted, OrderSaga, Paid, Placed, Release, Reserve
from .test_drop import QUICK, Hangs, record_of


async def test_an_attempt_is_cut_off_when_the_drop_ends_its_instance() -> None:
    world, journal = Hangs(Release), InMemoryJournal()
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=world, settings=QUICK) as runner:
        await runner.handle(Placed("a"))
        await world.until(world.accepted, "Reserve")
        await runner.cancel("order", "a")
        await world.until(world.hung, "Release")
        (waiting,) = [entry for entry in (await record_of(journal)).outbox if entry.undo]
        applied = await apply(journal, "order", "a", drop(waiting.id))
        assert applied.after.finished
        await world.until(world.cut, "Release")


async def test_a_cancel_from_outside_is_noticed_within_a_lease_by_the_worker_that_hangs() -> None:
    from sagalog.decision.repair import cancel

    world, journal = Hangs(Reserve), InMemoryJournal()
    settings = RunnerSettings(
        lease=timedelta(milliseconds=500),
        due_poll=timedelta(milliseconds=100),
        stop_timeout=timedelta(milliseconds=200),
    )
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=world, settings=settings) as runner:
        await runner.handle(Placed("a"))
        await world.until(world.hung, "Reserve")
        await asyncio.sleep(4)  # the renewals are far apart by now
        await apply(journal, "order", "a", cancel(compensate=True))
        async with asyncio.timeout(1.5):
            await world.until(world.cut, "Reserve")
            await world.until(world.accepted, "Release")


async def test_a_journal_that_fails_its_own_examination_is_not_ready() -> None:
    class Ill(InMemoryJournal):
        async def examine(self) -> list[Finding]:
            return [Finding("writable", "fail", "writes are refused: the disk is full")]

    async with SagaRunner(Ill(), sagas=[OrderSaga], dispatch=lambda command: None) as runner:
        health = await runner.health()
        assert not health.ready
        assert health.live
        assert "writable: writes are refused: the disk is full" in health.reasons


async def spoiled(journal: InMemoryJournal, **fields: Any) -> None:
    message = await journal.latest_message("saga::order::a")
    assert message is not None
    record = decode_record(message.payload)
    for name, value in fields.items():
        setattr(record, name, value)
    await journal.write_messages(
        [
            msgspec.structs.replace(
                message, sequence_nr=message.sequence_nr + 1, payload=encode_record(record), due_at=datetime.now(UTC)
            )
        ]
    )


async def placed() -> InMemoryJournal:
    journal = InMemoryJournal()
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=lambda command: None) as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
    return journal


async def test_a_command_of_a_known_version_that_cannot_be_read_parks_its_instance() -> None:
    journal = await placed()
    await spoiled(journal, outbox=(Command("9/0", Typed("Charge", msgspec.Raw(b'{"order":1}'), 1)),))
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=lambda command: None, settings=QUICK):
        async with asyncio.timeout(40):
            while not (record := await record_of(journal)).parked:
                await asyncio.sleep(0.01)
    assert record.stuck == "9/0"
    assert "Charge" in record.parked


async def test_health_names_an_instance_that_this_worker_cannot_read() -> None:
    journal = await placed()
    await spoiled(journal, state=msgspec.Raw(b'{"total":"seven"}'), outbox=())
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=lambda command: None, settings=QUICK) as runner:
        with pytest.raises(Exception):  # noqa: B017
            await runner.handle(Noted("a", "x"))
        health = await runner.health()
        assert any("cannot be read" in reason for reason in health.reasons)


async def test_no_instance_tells_finished_from_never_was() -> None:
    settings = RunnerSettings(no_instance="raise")
    async with SagaRunner(InMemoryJournal(), sagas=[OrderSaga], dispatch=lambda c: None, settings=settings) as runner:
        with pytest.raises(NoInstanceError, match="there never was"):
            await runner.handle(Paid("a"))
        await runner.handle(Placed("b"))
        await runner.cancel("order", "b", compensate=False)
        await runner.settle()
        with pytest.raises(NoInstanceError, match="has ended"):
            await runner.handle(Paid("b"))


async def test_the_runner_drops_a_command() -> None:
    world, journal = Hangs(Reserve), InMemoryJournal()
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=world, settings=QUICK) as runner:
        await runner.handle(Placed("a"))
        await world.until(world.hung, "Reserve")
        done = await runner.drop("order", "a", "1/0", note="gone", by="ada")
        assert done.effects[0].startswith("drops Reserve (1/0)")
        await world.until(world.cut, "Reserve")


class Listing:
    """A journal that cannot give the newest records of a page in one go, and counts how often it lists its ids."""

    def __init__(self, journal: InMemoryJournal) -> None:
        self._journal = journal
        self.listings = 0

    def __getattr__(self, name: str) -> Any:
        if name in ("latest_by_prefix", "latest_by_terms"):
            raise AttributeError(name)
        return getattr(self._journal, name)

    async def ids_by_prefix(self, *given: Any, **named: Any) -> list[str]:
        self.listings += 1
        return await self._journal.ids_by_prefix(*given, **named)


async def test_looking_at_all_instances_lists_their_ids_once_where_each_page_costs_a_list_of_all() -> None:
    journal: Any = Listing(InMemoryJournal())
    assert not isinstance(journal, ListsLatest)
    async with SagaRunner(journal._journal, sagas=[OrderSaga], dispatch=lambda command: None) as runner:
        await runner.handle_many(Placed(str(number)) for number in range(300))
    assert len({view.correlation_id async for view in instances(journal)}) == 300
    assert journal.listings == 2  # and that nothing comes behind them
    newest = [message.persistence_id async for message in all_latest(journal, "saga::order::", limit=64)]
    assert len(newest) == len(set(newest)) == 300
    assert journal.listings == 4
