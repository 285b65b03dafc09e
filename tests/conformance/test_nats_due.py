"""When ids are due in JetStream: moved without a record, found whenever they were written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any, Self

import pytest

from sagalog import open_journal
from sagalog.conformance.records import record, replay, write
from sagalog.journal.nats import NatsJournal
from sagalog.journal.nats.subjects import Subjects
from sagalog.journal.protocol import FIRST_MOMENT, LAST_MOMENT, MovedDue

from .named import stream_of

NOW = datetime(2031, 5, 1, tzinfo=UTC)


FAMILY = "saga::order::"


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

            async def late(
                wildcard: str,
                listing: Any = listing,
                at_once: datetime = now,
                at: datetime = long_ago,
                n: int = number,
            ) -> Any:
                nonlocal listed
                found = await listing(wildcard)
                listed += 1
                if listed == len(Subjects("s").due_by(at_once, FAMILY)):  # the last one
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


async def test_what_is_written_before_a_claimed_moment_is_found_although_all_of_it_is_in_the_future(url: str) -> None:
    later = [NOW + timedelta(seconds=seconds) for seconds in (0, 1, 11, 12, 20)]
    async with open_journal(f"{url}&migrate=true") as journal:
        assert await journal.claim_due("", later[0], later[1], limit=1) == []
        assert await journal.claim_due("", later[2], later[3], limit=1) == []
        await journal.write_messages([record("a", number) for number in (1, 2, 3)] + [record("a", 4, due_at=NOW)])
        assert await journal.due_ids("", later[4], limit=1) == [("a", NOW)]


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


class SetForward(datetime):
    """This machine's clock, after it was set forward by an hour."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return super().now(tz) + timedelta(hours=1)


async def test_a_clock_that_is_ahead_removes_no_entry_whose_record_is_about_to_be_written(
    url: str, js: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry is written before its record. Without it, nobody would find that the instance is due."""
    now = datetime.now(UTC)
    async with open_journal(f"{url}&migrate=true") as journal:
        await js.publish(Subjects(stream_of(url)).due(now, "p", 1), b"")
        monkeypatch.setattr("sagalog.journal.nats.due.datetime", SetForward)
        assert await journal.claim_due("", now + timedelta(seconds=1), now + timedelta(seconds=9)) == []
        left = await js.stream_info(stream_of(url), subjects_filter=f"{stream_of(url)}.due.>")
        assert len(left.state.subjects) == 1
