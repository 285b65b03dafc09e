"""Batches in JetStream: each record is told by itself, and no more is asked at once than a server can queue."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from sagalog import (
    InvalidEventError,
    JournalUnavailableError,
    OutcomeUnknownError,
    PayloadTooLargeError,
    SequenceOutOfOrder,
    open_journal,
)
from sagalog.conformance.records import record, write
from sagalog.journal.nats import NatsJournal
from sagalog.journal.nats.bounded import gather_bounded

from ..servers.nats import Nats
from ..servers.proxy import Proxy

NOW = datetime(2031, 5, 1, tzinfo=UTC)


FAMILY = "saga::order::"


async def test_each_record_of_a_batch_is_told_by_itself(url: str) -> None:
    async with open_journal(f"{url}&migrate=true") as journal:
        await write(journal, "behind", 1)
        told = await journal.write_batch(
            [
                record("new", 1, due_at=NOW),
                record("behind", 2),
                record("gap", 2),
                record("large", 1, b"x" * 2_097_152),
                record("\ud800", 1),
                record("last", 1),
            ]
        )
        assert [type(one) for one in told] == [
            type(None),
            type(None),
            SequenceOutOfOrder,
            PayloadTooLargeError,
            InvalidEventError,
            type(None),
        ]
        found = await journal.latest_messages(["last", "none", "behind", "new"])
        assert [one and one.sequence_nr for one in found] == [1, None, 2, 1]
        assert await journal.due_ids("", NOW) == [("new", NOW)]


async def test_more_than_a_page_is_written_and_read_in_order(url: str) -> None:
    keys = [f"{FAMILY}{n}" for n in range(1_000)]
    async with open_journal(f"{url}&migrate=true") as journal:
        assert not any(await journal.write_batch([record(key, 1, due_at=NOW) for key in keys]))
        found = await journal.latest_messages(keys)
        assert [one and one.persistence_id for one in found] == keys
        claimed = await journal.claim_due(FAMILY, NOW, NOW + timedelta(seconds=5))
        assert len(claimed) == 1_000
        assert await journal.claim_due(FAMILY, NOW, NOW + timedelta(seconds=5)) == []


async def test_a_batch_whose_answers_are_lost_is_unknown_and_what_was_not_sent_is_not(server: Nats, url: str) -> None:
    proxy = Proxy(server.ports[0])
    way = url.replace(str(server.ports[0]), str(proxy.port))
    try:
        async with open_journal(f"{way}&migrate=true&timeout_seconds=1.5&connect_seconds=3") as journal:
            proxy.lose("answer")
            told = await journal.write_batch([record(f"p{n}", 1) for n in range(600)])
            assert isinstance(told[0], OutcomeUnknownError)
            assert isinstance(told[-1], JournalUnavailableError)
            found = await journal.latest_messages([f"p{n}" for n in range(600)])
            for one, stored in zip(told, found, strict=True):
                assert stored is None or not isinstance(one, JournalUnavailableError)
    finally:
        proxy.close()


async def test_large_records_are_read_in_a_batch_without_overrunning_the_client(url: str) -> None:
    async with open_journal(f"{url}&migrate=true") as journal:
        keys = [f"{FAMILY}{n}" for n in range(440)]
        assert not any(await journal.write_batch([record(key, 1, b"x" * 300_000) for key in keys]))
        assert all(await journal.latest_messages(keys))
        assert isinstance(journal, NatsJournal)
        records, _ = await journal.records_after(0)
        assert len(records) == 440
        assert [n async for n, _ in journal.events_by_tag("none")] == []


async def test_many_calls_are_made_some_at_a_time_and_the_first_error_ends_them() -> None:
    under_way = most = begun = 0

    async def call(number: int) -> int:
        nonlocal under_way, most, begun
        begun += 1
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        if number == 500:
            raise ValueError("seen")
        return number * 2

    assert await gather_bounded(call, range(400), 7) == [n * 2 for n in range(400)]
    assert most == 7
    begun = 0
    with pytest.raises(ValueError, match="seen"):
        await gather_bounded(call, range(495, 10_000), 7)
    assert begun < 30
