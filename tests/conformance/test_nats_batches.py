"""Many records at once on NATS: each is told by itself, and nothing is asked for without bound."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import nats
import pytest

from sagalog import (
    DefinitionError,
    InvalidEventError,
    Journal,
    JournalFormatError,
    JournalUnavailableError,
    OutcomeUnknownError,
    PayloadTooLargeError,
    SequenceOutOfOrder,
    open_journal,
)
from sagalog.conformance.records import record, replay, write
from sagalog.journal.nats import NatsJournal
from sagalog.journal.nats.bounded import gather_bounded
from sagalog.journal.nats.subjects import Subjects
from sagalog.journal.protocol import FIRST_MOMENT, LAST_MOMENT, MovedDue, PersistentRepr

from ..servers.nats import Nats
from ..servers.proxy import Proxy

NOW = datetime(2031, 5, 1, tzinfo=UTC)
FAMILY = "saga::order::"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nats]:
    server = Nats(tmp_path_factory.mktemp("nats-batches"), 1)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def url(server: Nats, request: pytest.FixtureRequest) -> str:
    name = "".join(c if c.isalnum() else "_" for c in request.node.name)
    return f"{server.url}?stream={name}"


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
        async with open_journal(f"{way}&migrate=true&timeout_seconds=0.5&connect_seconds=1") as journal:
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


# Epochs.


def of_epoch(key: str, number: int, epoch: int) -> PersistentRepr:
    return PersistentRepr(key, number, b"", epoch=epoch, deleted=number == 2)


async def test_a_writer_that_slept_through_a_purge_is_not_the_next_one_whatever_it_has_cached(url: str) -> None:
    async with open_journal(f"{url}&migrate=true") as one, open_journal(url) as two:
        await one.write_messages([of_epoch("p", 1, 7)])
        await two.latest_message("p")
        await one.write_messages([of_epoch("p", 2, 7)])
        await one.purge([("p", 2)])
        await one.write_messages([of_epoch("p", 1, 8)])
        for journal in (one, two):
            assert isinstance((await journal.write_batch([of_epoch("p", 2, 7)]))[0], SequenceOutOfOrder)
            latest = await journal.latest_message("p")  # which brings the cache up to date
            assert latest is not None
            assert latest.epoch == 8
            with pytest.raises(SequenceOutOfOrder):
                await journal.write_messages([of_epoch("p", 2, 7)])
        await two.write_messages([of_epoch("p", 2, 8)])
        assert [r.epoch async for r in one.replay_messages("p")] == [8, 8]


async def test_the_epoch_stays_where_a_write_states_none_and_several_are_packed(url: str) -> None:
    async with open_journal(f"{url}&migrate=true") as journal:
        await journal.write_messages([of_epoch("p", 1, 7), record("p", 2), record("p", 3)])
        await write(journal, "p", 4)
        await journal.delete_messages_to("p", 1)
        await journal.write_messages([record("p", 5)])
        assert [(r.sequence_nr, r.epoch) async for r in journal.replay_messages("p")] == [(n, 7) for n in (2, 3, 4, 5)]
        with pytest.raises(SequenceOutOfOrder):
            await journal.write_messages([of_epoch("q", 1, 7), of_epoch("q", 2, 8)])


async def test_a_number_that_is_next_is_taken_though_another_worker_rewrote_the_message(url: str) -> None:
    async with open_journal(f"{url}&migrate=true") as one, open_journal(url) as two:
        await write(one, "p", 1, 2)
        await two.delete_messages_to("p", 1)
        await write(one, "p", 3)
        assert await replay(two, "p") == [2, 3]


# When ids are due.


async def test_a_due_moment_is_moved_without_a_record_and_only_for_the_newest(url: str) -> None:
    later = NOW + timedelta(seconds=30)
    async with open_journal(f"{url}&migrate=true") as journal:
        await write(journal, "none", 1)
        await journal.write_batch([record(key, 1, due_at=NOW) for key in ("moved", "stopped", "other")])
        moves = [
            MovedDue("moved", 1, later),
            MovedDue("stopped", 1, None),
            MovedDue("other", 2, later),
            MovedDue("none", 1, later),
            MovedDue("unknown", 1, later),
        ]
        assert await journal.move_due(moves) == [True, True, False, True, False]
        assert await journal.due_ids("", NOW) == [("other", NOW)]
        assert sorted(await journal.due_ids("", later)) == [("moved", later), ("none", later), ("other", NOW)]
        assert await journal.move_due([MovedDue("moved", 1, later + timedelta(seconds=30))]) == [True]
        assert ("moved", later) not in await journal.due_ids("", later)
        assert await replay(journal, "moved") == [1]


async def test_what_was_claimed_can_be_moved_by_any_worker(url: str) -> None:
    until = NOW + timedelta(seconds=5)
    async with open_journal(f"{url}&migrate=true") as one, open_journal(url) as two:
        await one.write_messages([record("p", 1, due_at=NOW)])
        await one.write_messages([record("q", 1, due_at=NOW)])
        assert len(await one.claim_due("", NOW, until)) == 2
        later = NOW + timedelta(seconds=50)
        assert await one.move_due([MovedDue("p", 1, later)]) == [True]
        assert await two.move_due([MovedDue("q", 1, later)]) == [True]
        assert await two.claim_due("", until, later) == []
        assert len(await two.due_ids("", later)) == 2


async def test_what_was_due_long_ago_when_it_was_written_is_found_by_the_next_look(url: str) -> None:
    """Also where the look before it began earlier and ended later, and in another worker."""
    async with open_journal(f"{url}&migrate=true") as one, open_journal(url) as two:
        assert isinstance(one, NatsJournal)
        for number in range(5):
            now = datetime.now(UTC)
            long_ago = now - timedelta(seconds=100 + number)
            listing = one._requests.subjects_of
            listed = 0

            async def late(wildcard: str, listing: Any = listing, at: datetime = long_ago, n: int = number) -> Any:
                nonlocal listed
                found = await listing(wildcard)
                listed += 1
                if listed == len(Subjects("s").due_by(datetime.now(UTC), FAMILY)):
                    await two.write_messages([record(f"{FAMILY}{n}", 1, due_at=at)])
                return found

            one._due._swept.clear()
            one._requests.subjects_of = late  # type: ignore[method-assign]
            assert await one.claim_due(FAMILY, now, now + timedelta(seconds=60)) == []
            one._requests.subjects_of = listing  # type: ignore[method-assign]
            claimed = await one.claim_due(FAMILY, now, now + timedelta(seconds=60))
            assert claimed == [(f"{FAMILY}{number}", long_ago)]
            await two.write_messages([record(f"{FAMILY}again{number}", 1, due_at=long_ago)])
            assert len(await one.claim_due(FAMILY, now, now + timedelta(seconds=60))) == 1


@pytest.mark.parametrize("hours", [-14, 0, 14])
async def test_moments_at_the_ends_of_the_calendar_break_no_look(url: str, hours: int) -> None:
    zone = timezone(timedelta(hours=hours))
    first, last = FIRST_MOMENT.astimezone(zone), LAST_MOMENT.astimezone(zone)
    async with open_journal(f"{url}&migrate=true") as journal:
        told = await journal.write_batch([record("first", 1, due_at=first), record("last", 1, due_at=last)])
        assert told == [None, None]
        assert [key for key, _ in await journal.due_ids("", NOW)] == ["first"]
        assert [key for key, _ in await journal.due_ids("", last)] == ["first", "last"]
        assert all(await journal.latest_messages(["first", "last"]))
        assert [key for key, _ in await journal.claim_due("", NOW, last)] == ["first"]
        await journal.claim_due("", last, last)


# Bounds.


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


async def test_a_large_backlog_of_entries_that_nobody_needs_is_removed_some_at_a_time(url: str) -> None:
    async with open_journal(f"{url}&migrate=true") as journal:
        assert isinstance(journal, NatsJournal)
        keys = [f"{FAMILY}{n}" for n in range(1_500)]
        await journal.write_batch([record(k, 1, due_at=NOW + timedelta(seconds=n)) for n, k in enumerate(keys)])
        await journal.write_batch([record(key, 2) for key in keys])
        purging = most = 0
        purge = journal._requests.purge

        async def counted(subject: str, up_to: int) -> None:
            nonlocal purging, most
            purging += 1
            most = max(most, purging)
            await purge(subject, up_to)
            purging -= 1

        journal._requests.purge = counted  # type: ignore[method-assign]
        assert await journal.claim_due(FAMILY, NOW + timedelta(days=1), NOW + timedelta(days=2)) == []
        assert 0 < most <= 16
        await journal.purge([(key, 2) for key in keys[:100]])


# What is told.


async def test_a_stream_that_was_deleted_under_way_is_told_as_that(server: Nats, url: str) -> None:
    async with open_journal(f"{url}&migrate=true") as journal:
        await write(journal, "p", 1)
        client = await nats.connect(server.url)
        await client.jetstream().delete_stream(url.partition("stream=")[2])
        await client.close()
        for call in (journal.latest_message("p"), journal.write_messages([record("p", 2)])):
            with pytest.raises(JournalFormatError, match="has no stream"):
                await call
        assert isinstance((await journal.write_batch([record("p", 2)]))[0], JournalFormatError)


async def test_another_event_loop_is_told_at_once(url: str) -> None:
    async with open_journal(f"{url}&migrate=true") as journal:

        async def use(journal: Journal) -> None:
            await journal.write_messages([record("p", 1)])

        with pytest.raises(DefinitionError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, use(journal))
        assert await journal.highest_sequence_nr("p") == 0


async def test_a_child_after_a_fork_is_told_at_once(url: str) -> None:
    async with open_journal(f"{url}&migrate=true") as journal:
        assert isinstance(journal, NatsJournal)
        owner = journal._connection._owner
        assert owner is not None
        own, owner._pid = owner._pid, os.getpid() + 1
        with pytest.raises(DefinitionError, match="forked"):
            await journal.latest_message("p")
        owner._pid = own


async def test_what_is_written_before_a_claimed_moment_is_found_although_all_of_it_is_in_the_future(url: str) -> None:
    later = [NOW + timedelta(seconds=seconds) for seconds in (0, 1, 11, 12, 20)]
    async with open_journal(f"{url}&migrate=true") as journal:
        assert await journal.claim_due("", later[0], later[1], limit=1) == []
        assert await journal.claim_due("", later[2], later[3], limit=1) == []
        await journal.write_messages([record("a", number) for number in (1, 2, 3)] + [record("a", 4, due_at=NOW)])
        assert await journal.due_ids("", later[4], limit=1) == [("a", NOW)]
