"""Finding ids: live ones, tombstones, those that are due, by prefix and by tag."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone

import pytest

from ..errors import InvalidEventError
from ..journal.protocol import FIRST_MOMENT, LAST_MOMENT, Journal, MovedDue
from .capability import Capability, may
from .records import IDS, NOW, record, replay, write


class FindingIds:
    """What a journal promises of ids, tombstones, due ids and tags."""

    async def test_a_tombstone_ends_the_life_of_its_id_and_stays_readable(self, five: Journal) -> None:
        await five.write_messages([record("p", 6, b"end", deleted=True)])
        assert [key async for key in five.all_persistence_ids()] == ["other"]
        assert await five.ids_by_prefix("", deleted=True) == ["p"]
        latest = await five.latest_message("p")
        assert latest is not None
        assert (latest.payload, latest.deleted) == (b"end", True)
        await write(five, "p", 7)
        assert await five.ids_by_prefix("", deleted=True) == []

    async def test_purge_forgets_a_tombstone_of_that_number_and_nothing_else(self, five: Journal) -> None:
        await five.purge([("p", 5)])  # live
        assert await five.highest_sequence_nr("p") == 5
        await five.write_messages([record("p", 6, b"", deleted=True)])
        await five.purge([("p", 5)])  # another number
        assert await five.highest_sequence_nr("p") == 6
        await five.purge([("p", 6)])
        assert await five.highest_sequence_nr("p") == 0
        assert await replay(five, "p") == []
        await five.purge([("p", 6)])
        await write(five, "p", 1)
        assert await replay(five, "p") == [1]

    async def test_purge_leaves_an_id_whose_tombstone_was_deleted(self, five: Journal) -> None:
        await five.write_messages([record("p", 6, b"", deleted=True)])
        await five.delete_messages_to("p", 6)
        await five.purge([("p", 6)])
        assert await five.highest_sequence_nr("p") == 6

    async def test_due_ids_come_earliest_first_and_by_their_newest_record(self, journal: Journal) -> None:
        for key, seconds in (("s::c", 3), ("s::a", 1), ("s::b", 2), ("t::x", 0)):
            await journal.write_messages([record(key, 1, due_at=NOW + timedelta(seconds=seconds))])
        await write(journal, "s::never", 1)
        later = NOW + timedelta(seconds=9)
        assert await journal.due_ids("s::", later) == [
            ("s::a", NOW + timedelta(seconds=1)),
            ("s::b", NOW + timedelta(seconds=2)),
            ("s::c", NOW + timedelta(seconds=3)),
        ]
        assert await journal.due_ids("s::", NOW + timedelta(seconds=1)) == [("s::a", NOW + timedelta(seconds=1))]
        assert await journal.due_ids("s::", NOW) == []
        assert [key for key, _ in await journal.due_ids("s::", later, limit=2)] == ["s::a", "s::b"]
        await write(journal, "s::a", 2)  # due no more
        await journal.write_messages([record("s::b", 2, deleted=True, due_at=NOW)])  # a tombstone is due, too
        assert [key for key, _ in await journal.due_ids("s::", later)] == ["s::b", "s::c"]

    async def test_what_was_claimed_comes_up_again_at_the_given_moment_or_by_its_next_record(
        self, journal: Journal
    ) -> None:
        for n in range(6):
            await journal.write_messages([record(f"s::{n}", 1, due_at=NOW + timedelta(seconds=n))])
        await journal.write_messages([record("t::0", 1, due_at=NOW)])
        until = NOW + timedelta(minutes=1)
        first = await journal.claim_due("s::", NOW + timedelta(seconds=3), until, limit=2)
        assert first == [("s::0", NOW), ("s::1", NOW + timedelta(seconds=1))]
        second = await journal.claim_due("s::", NOW + timedelta(seconds=3), until)
        assert [key for key, _ in second] == ["s::2", "s::3"]
        assert await journal.claim_due("s::", NOW + timedelta(seconds=3), until) == []
        await journal.write_messages([record("s::0", 2, due_at=NOW), record("s::1", 2)])
        assert await journal.claim_due("s::", NOW, until) == [("s::0", NOW)]
        assert await journal.due_ids("s::", until) == [
            ("s::4", NOW + timedelta(seconds=4)),
            ("s::5", NOW + timedelta(seconds=5)),
            ("s::0", until),
            ("s::2", until),
            ("s::3", until),
        ]
        latest = await journal.latest_message("s::0")
        assert latest is not None
        assert latest.due_at == NOW  # the record is as it was written

    async def test_of_those_that_claim_at_once_each_gets_others(self, journal: Journal) -> None:
        keys = [f"s::{n:03}" for n in range(200)]
        await journal.write_messages([record(key, 1, due_at=NOW) for key in keys])
        pages = await asyncio.gather(
            *(journal.claim_due("s::", NOW, NOW + timedelta(minutes=1), limit=20) for _ in range(10))
        )
        claimed = [key for page in pages for key, _ in page]
        while page := await journal.claim_due("s::", NOW, NOW + timedelta(minutes=1), limit=50):
            claimed += [key for key, _ in page]
        assert sorted(claimed) == keys

    async def test_a_moved_due_moment_counts_instead_of_the_one_in_the_record(self, journal: Journal) -> None:
        later = NOW + timedelta(minutes=1)
        keys = ["s::early", "s::late", "s::never", "s::new", "s::left"]
        await journal.write_batch([record(key, 1, due_at=NOW if key != "s::new" else None) for key in keys])
        moves = [
            MovedDue("s::late", 1, later),
            MovedDue("unknown", 1, NOW),
            MovedDue("s::never", 1, None),
            MovedDue("s::left", 2, None),
            MovedDue("s::left", 0, None),
            MovedDue("s::new", 1, NOW + timedelta(microseconds=1)),
            MovedDue("s::early", 1, NOW - timedelta(minutes=1)),
        ]
        assert list(await journal.move_due(moves)) == [True, False, True, False, False, True, True]
        expected = [
            ("s::early", NOW - timedelta(minutes=1)),
            ("s::left", NOW),
            ("s::new", NOW + timedelta(microseconds=1)),
            ("s::late", later),
        ]
        assert await journal.due_ids("", later) == expected
        assert await journal.claim_due("", later, later + timedelta(minutes=1)) == expected
        assert [found and found.sequence_nr for found in await journal.latest_messages(keys)] == [1] * 5
        assert await journal.highest_sequence_nr("unknown") == 0

    async def test_what_was_claimed_is_moved_and_what_has_a_newer_record_is_left(self, journal: Journal) -> None:
        until = NOW + timedelta(minutes=1)
        await journal.write_batch([record("a", 1, due_at=NOW), record("b", 1, due_at=NOW)])
        await journal.claim_due("", NOW, until)
        await journal.write_batch([record("b", 2, due_at=NOW)])
        assert list(await journal.move_due([MovedDue("b", 1, None), MovedDue("a", 1, NOW)])) == [False, True]
        assert sorted(await journal.due_ids("", NOW)) == [("a", NOW), ("b", NOW)]
        await journal.write_batch([record("a", 2)])  # a new record counts instead of what was moved
        assert await journal.due_ids("", until) == [("b", NOW)]

    @pytest.mark.parametrize("at", [LAST_MOMENT, FIRST_MOMENT, datetime(1969, 12, 31, 23, 59, 59, 7, UTC)])
    async def test_a_moment_at_the_end_of_the_calendar_is_kept_and_found(self, journal: Journal, at: datetime) -> None:
        """The record has it as it was. When it is due may be clipped, as far from now as the journal can tell apart."""
        await journal.write_messages([record("written", 1, due_at=at)])
        await journal.write_batch([record("moved", 1), record("claimed", 1, due_at=NOW), record("others", 1)])
        assert list(await journal.move_due([MovedDue("moved", 1, at)])) == [True]
        assert ("claimed", NOW) in await journal.claim_due("claimed", LAST_MOMENT, at)
        found = await journal.due_ids("", LAST_MOMENT)
        assert sorted(key for key, _ in found) == ["claimed", "moved", "written"]
        assert all((moment < NOW) is (at < NOW) for _, moment in found)
        (written,) = await journal.latest_messages(["written"])
        assert written is not None
        assert written.due_at == at

    @pytest.mark.parametrize(
        "at",
        [
            LAST_MOMENT + timedelta(microseconds=1),
            FIRST_MOMENT - timedelta(microseconds=1),
            datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))),
            datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
            datetime(2030, 1, 1),  # noqa: DTZ001  (naive, on purpose)
        ],
    )
    async def test_a_moment_that_some_journal_cannot_carry_is_refused_by_all(
        self, journal: Journal, at: datetime
    ) -> None:
        """Before anything is stored, claimed or moved."""
        await journal.write_messages([record("p", 1, due_at=NOW)])
        with pytest.raises(InvalidEventError):
            await journal.write_messages([record("new", 1, due_at=at)])
        (answer,) = await journal.write_batch([record("new", 1, due_at=at)])
        assert isinstance(answer, InvalidEventError)
        with pytest.raises(InvalidEventError):
            await journal.claim_due("", NOW, at)
        with pytest.raises(InvalidEventError):
            await journal.move_due([MovedDue("p", 1, None), MovedDue("p", 1, at)])
        assert await journal.due_ids("", LAST_MOMENT) == [("p", NOW)]
        assert await journal.highest_sequence_nr("new") == 0

    async def test_what_is_hidden_or_purged_cannot_be_moved_and_a_tombstone_can(self, five: Journal) -> None:
        await five.delete_messages_to("p", 5)
        await five.write_batch([record("end", 1, deleted=True), record("gone", 1, deleted=True)])
        await five.purge([("gone", 1)])
        moves = [MovedDue("p", 5, NOW), MovedDue("end", 1, NOW), MovedDue("gone", 1, NOW)]
        assert list(await five.move_due(moves)) == [False, True, False]
        assert await five.due_ids("", NOW) == [("end", NOW)]

    async def test_what_was_claimed_of_a_purged_id_says_nothing_of_its_next_life(self, journal: Journal) -> None:
        await journal.write_batch([record("p", 1, deleted=True, due_at=NOW)])
        soon = NOW + timedelta(seconds=1)
        assert await journal.claim_due("", NOW, soon) == [("p", NOW)]
        await journal.purge([("p", 1)])
        await journal.write_batch([record("p", 1)])
        assert await journal.due_ids("", soon) == []
        assert await journal.claim_due("", soon, soon + timedelta(seconds=1)) == []

    @may(Capability.TAGS)
    async def test_offsets_of_a_tag_do_not_move_when_others_are_purged(self, journal: Journal) -> None:
        for key in ("a", "b", "c"):
            await journal.write_messages([record(key, 1, deleted=key == "a", tags=("red",))])
        offsets = {m.persistence_id: offset async for offset, m in journal.events_by_tag("red")}
        await journal.purge([("a", 1)])
        assert [m.persistence_id async for _, m in journal.events_by_tag("red", offsets["b"])] == ["c"]

    async def test_ids_by_prefix_come_in_pages_that_change_does_not_disturb(self, journal: Journal) -> None:
        keys = [f"s::{n:03}" for n in range(30)]
        for key in ["r::1", *keys, "s:;", "t::1"]:
            await write(journal, key, 1)
        order = await journal.ids_by_prefix("s::", limit=100)
        assert sorted(order) == keys
        seen: list[str] = []
        page = await journal.ids_by_prefix("s::", limit=10)
        while page:
            seen += page
            if len(seen) == 10:  # the whole next page goes away, ids appear before and behind, others change
                for key in order[10:20]:
                    await journal.write_messages([record(key, 2, deleted=True)])
                for key in (order[0], order[25], "s::000a", "s::zzz"):
                    await write(journal, key, 2 if key in keys else 1)
            page = await journal.ids_by_prefix("s::", after=page[-1], limit=10)
        assert seen[:10] == order[:10]
        assert [key for key in seen if key in keys] == [*order[:10], *order[20:]]
        assert len(seen) == len(set(seen))

    @pytest.mark.parametrize("prefix", ["", "p", "p\U0010ffff", "a", "a\x00", "\ud7ff", "\U0010ffff", "zzz"])
    async def test_a_prefix_finds_exactly_the_ids_that_start_so(self, journal: Journal, prefix: str) -> None:
        for key in [*IDS, "\ud7ffx", "\ue000"]:
            await journal.write_messages([record(key, 1, due_at=NOW)])
        expected = sorted(key for key in [*IDS, "\ud7ffx", "\ue000"] if key.startswith(prefix))
        assert sorted(await journal.ids_by_prefix(prefix)) == expected
        assert sorted(key for key, _ in await journal.due_ids(prefix, NOW)) == expected

    @may(Capability.TAGS)
    async def test_events_by_tag_come_in_the_order_they_were_written(self, journal: Journal) -> None:
        await journal.write_messages([record("a", 1, tags=("red",)), record("b", 1, tags=("blue",))])
        await journal.write_messages([record("b", 2, tags=("red", "blue"))])
        found = [(o, m.persistence_id, m.sequence_nr) async for o, m in journal.events_by_tag("red")]
        assert [one[1:] for one in found] == [("a", 1), ("b", 2)]
        after = found[0][0]
        assert [m.persistence_id async for _, m in journal.events_by_tag("red", after)] == ["b"]
        assert [m async for _, m in journal.events_by_tag("re")] == []
