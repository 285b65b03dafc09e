"""What every journal promises. The replay rules are those of Apache Pekko's journal specification, in our words.

What is not marked `may` is a must. Every test stands for one sentence of the contract: its name.
"""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import AsyncIterator, Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ..errors import InvalidEventError, JournalUnavailableError, SequenceOutOfOrder
from ..journal.protocol import JoinsTransactions, Journal, PersistentRepr
from .capability import Capability, may, skip_missing
from .killing import acknowledged_before_kill

NOW = datetime(2030, 1, 1, tzinfo=UTC)
IDS = [
    "plain",
    "a/b",
    "a::b",
    "a%2Fb",
    "A",
    "a",
    "ship 🚢",
    "🚢" * 50,
    unicodedata.normalize("NFC", "é"),
    unicodedata.normalize("NFD", "é"),
    " ",
    "a\x00b",
    "a\x00",
    "\U0010ffff",
    "p\U0010ffff\U0010ffff\U0010ffff\U0010ffff\U0010ffff\U0010ffff\U0010ffff\U0010ffff\U0010ffff",
    "x" * 1_024,
    "'; DROP TABLE record; --",
]
PAYLOADS = [b"", b"\x00", b"a\x00b", b"\xff\xfe\x80", b"{}", bytes(range(256)) * 4096]


def record(persistence_id: str, number: int, payload: bytes = b"x", **more: object) -> PersistentRepr:
    return PersistentRepr(persistence_id, number, payload, **more)  # type: ignore[arg-type]


async def write(journal: Journal, persistence_id: str, *numbers: int) -> None:
    for number in numbers:
        await journal.write_messages([record(persistence_id, number, f"{persistence_id}-{number}".encode())])


async def replay(journal: Journal, *arguments: object, **keywords: object) -> list[int]:
    return [m.sequence_nr async for m in journal.replay_messages(*arguments, **keywords)]  # type: ignore[arg-type]


@pytest.mark.asyncio
class JournalConformance:
    """Subclass it with `make`, and name the capabilities that the journal has (all, unless said otherwise).

    `place` says where the journal under test is kept: a new, empty folder for each test. Override that fixture where
    it is something else, such as a URL; it must be picklable if the journal has the capability REOPEN.
    """

    capabilities: Collection[Capability] = frozenset(Capability)
    sequences = 30  # of calls, compared with a dict

    @classmethod
    def make(cls, place: Any) -> Journal:
        """Return a journal on what is kept at `place`. Called again for the same place to reopen it."""
        raise NotImplementedError(f"{cls.__name__}.make(place) has to return the journal to be tested")

    @pytest.fixture(autouse=True)
    def _capable(self, request: pytest.FixtureRequest) -> None:
        skip_missing(request, self.capabilities)

    @pytest.fixture
    def place(self, tmp_path: Path) -> Any:
        return tmp_path

    @pytest_asyncio.fixture
    async def journal(self, place: Any) -> AsyncIterator[Journal]:
        async with self.make(place) as journal:
            yield journal

    @pytest_asyncio.fixture
    async def five(self, journal: Journal) -> Journal:
        await write(journal, "p", 1, 2, 3, 4, 5)
        await write(journal, "other", 1)
        return journal

    # Replay.

    async def test_replay_gives_all_records_in_order(self, five: Journal) -> None:
        messages = [m async for m in five.replay_messages("p")]
        assert [(m.sequence_nr, m.payload) for m in messages] == [(n, f"p-{n}".encode()) for n in range(1, 6)]

    async def test_replay_with_a_lower_bound_begins_there(self, five: Journal) -> None:
        assert await replay(five, "p", 3) == [3, 4, 5]

    async def test_replay_with_an_upper_bound_ends_there(self, five: Journal) -> None:
        assert await replay(five, "p", 1, 3) == [1, 2, 3]

    async def test_replay_with_both_bounds_includes_both(self, five: Journal) -> None:
        assert await replay(five, "p", 2, 4) == [2, 3, 4]

    async def test_replay_with_equal_bounds_gives_one(self, five: Journal) -> None:
        assert await replay(five, "p", 3, 3) == [3]

    async def test_replay_with_a_limit_stops_after_so_many(self, five: Journal) -> None:
        assert await replay(five, "p", max=2) == [1, 2]
        assert await replay(five, "p", 2, 4, 2) == [2, 3]

    async def test_replay_with_limit_zero_gives_nothing(self, five: Journal) -> None:
        assert await replay(five, "p", max=0) == []

    async def test_replay_with_a_limit_below_the_range_gives_as_many_as_the_limit(self, five: Journal) -> None:
        assert await replay(five, "p", 2, 5, 1) == [2]

    async def test_replay_of_a_reversed_range_gives_nothing(self, five: Journal) -> None:
        assert await replay(five, "p", 4, 2) == []

    async def test_replay_outside_the_range_gives_nothing(self, five: Journal) -> None:
        assert await replay(five, "p", 6) == []

    async def test_an_unknown_id_has_no_records_and_highest_zero(self, five: Journal) -> None:
        assert await replay(five, "unknown") == []
        assert await five.highest_sequence_nr("unknown") == 0
        assert await five.latest_message("unknown") is None

    async def test_highest_is_the_last_number(self, five: Journal) -> None:
        assert await five.highest_sequence_nr("p") == 5

    # Deleting a prefix.

    async def test_after_deleting_to_three_the_deleted_ones_are_gone_and_the_rest_remains(self, five: Journal) -> None:
        await five.delete_messages_to("p", 3)
        assert await replay(five, "p") == [4, 5]
        assert await replay(five, "p", 1, 3) == []
        assert await replay(five, "p", 1, 4) == [4]
        assert await replay(five, "p", 1, 5, 1) == [4]
        assert await five.highest_sequence_nr("p") == 5
        assert await replay(five, "other") == [1]

    async def test_after_deleting_everything_the_highest_number_is_still_known(self, five: Journal) -> None:
        await five.delete_messages_to("p", 5)
        assert await replay(five, "p") == []
        assert await five.highest_sequence_nr("p") == 5
        assert await five.latest_message("p") is None
        assert "p" not in [key async for key in five.all_persistence_ids()]
        with pytest.raises(SequenceOutOfOrder):
            await write(five, "p", 1)
        await write(five, "p", 6)
        assert await replay(five, "p") == [6]

    async def test_deleting_beyond_the_last_number_does_not_move_it(self, five: Journal) -> None:
        await five.delete_messages_to("p", 99)
        assert await five.highest_sequence_nr("p") == 5
        await write(five, "p", 6)
        assert await replay(five, "p") == [6]

    async def test_deleting_an_unknown_id_is_nothing(self, five: Journal) -> None:
        await five.delete_messages_to("unknown", 3)
        assert await five.highest_sequence_nr("unknown") == 0

    # Writing.

    @pytest.mark.parametrize("number", [0, -1, 1, 5, 7, 2**63 - 1, 2**70])
    async def test_a_number_that_is_not_the_next_is_refused_and_stores_nothing(
        self, five: Journal, number: int
    ) -> None:
        with pytest.raises(SequenceOutOfOrder) as caught:
            await five.write_messages([record("p", number)])
        assert caught.value.losers == ("p",)
        assert await replay(five, "p") == [1, 2, 3, 4, 5]

    async def test_of_two_racing_writers_one_wins_and_the_other_is_told(self, five: Journal) -> None:
        results = await asyncio.gather(
            *(five.write_messages([record("p", 6, f"{n}".encode())]) for n in range(10)), return_exceptions=True
        )
        assert [type(result) for result in results if result is not None] == [SequenceOutOfOrder] * 9
        latest = await five.latest_message("p")
        assert latest is not None
        assert results[int(latest.payload)] is None
        assert await replay(five, "p", 6) == [6]

    async def test_a_loser_in_a_batch_harms_no_neighbour(self, five: Journal) -> None:
        calls = [five.write_messages([record(f"n{n}", 1)]) for n in range(20)]
        calls.insert(7, five.write_messages([record("p", 3)]))
        calls.insert(13, five.write_messages([record("p", 6)]))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [n for n, result in enumerate(results) if result is not None] == [7]
        assert await replay(five, "p") == [1, 2, 3, 4, 5, 6]
        for n in range(20):
            assert await replay(five, f"n{n}") == [1]

    async def test_ids_of_one_call_do_not_fail_one_another(self, five: Journal) -> None:
        with pytest.raises(SequenceOutOfOrder) as caught:
            await five.write_messages([record("new", 1), record("p", 4), record("other", 2)])
        assert caught.value.losers == ("p",)
        assert await replay(five, "new") == [1]
        assert await replay(five, "other") == [1, 2]

    @pytest.mark.parametrize("number", [0, -1, 2**63 - 1])
    async def test_a_number_that_can_never_be_harms_no_other_id_of_the_call(self, five: Journal, number: int) -> None:
        with pytest.raises(SequenceOutOfOrder) as caught:
            await five.write_messages([record("new", 1), record("p", number), record("other", 3)])
        assert caught.value.losers == ("p", "other")
        assert await replay(five, "new") == [1]

    async def test_records_of_one_id_in_one_call_stand_or_fall_together(self, five: Journal) -> None:
        await five.write_messages([record("p", 6), record("new", 1), record("p", 7)])
        assert await replay(five, "p", 6) == [6, 7]
        with pytest.raises(SequenceOutOfOrder):
            await five.write_messages([record("p", 8), record("new", 2), record("p", 10)])
        assert await five.highest_sequence_nr("p") == 7
        assert await replay(five, "new") == [1, 2]

    @may(Capability.ATOMIC)
    async def test_an_atomic_call_is_all_or_nothing(self, five: Journal) -> None:
        with pytest.raises(SequenceOutOfOrder) as caught:
            await five.write_messages([record("new", 1), record("p", 4)], atomic=True)
        assert caught.value.losers == ("p",)
        assert await five.highest_sequence_nr("new") == 0
        await five.write_messages([record("new", 1), record("p", 6)], atomic=True)
        assert await five.highest_sequence_nr("new") == 1

    async def test_an_empty_call_is_nothing(self, journal: Journal) -> None:
        await journal.write_messages([])

    # Ids and payloads.

    async def test_ids_never_leak_into_each_other(self, journal: Journal) -> None:
        for n, key in enumerate(IDS, 1):
            await journal.write_messages([record(key, 1, f"{n}".encode())])
        for n, key in enumerate(IDS, 1):
            assert [m.payload async for m in journal.replay_messages(key)] == [f"{n}".encode()]
            latest = await journal.latest_message(key)
            assert latest is not None
            assert latest.persistence_id == key
        assert sorted([key async for key in journal.all_persistence_ids()]) == sorted(IDS)

    @may(Capability.ORDERED)
    async def test_ids_are_listed_in_order(self, journal: Journal) -> None:
        for key in IDS:
            await write(journal, key, 1)
        assert [key async for key in journal.all_persistence_ids()] == sorted(IDS)
        assert getattr(journal, "sorted_ids", False), "readers skip only where sorted_ids says that they may"
        assert await journal.ids_by_prefix("", after="a") == [key for key in sorted(IDS) if key > "a"]

    @pytest.mark.parametrize("payload", PAYLOADS, ids=len)
    async def test_payloads_come_back_byte_for_byte(self, journal: Journal, payload: bytes) -> None:
        await journal.write_messages([record("p", 1, payload)])
        latest = await journal.latest_message("p")
        assert latest is not None
        assert latest.payload == payload
        assert [m.payload async for m in journal.replay_messages("p")] == [payload]

    async def test_every_field_comes_back(self, journal: Journal) -> None:
        full = PersistentRepr(
            "p", 1, b"x", "manifest é", "writer", False, ("one", "two ü"), NOW + timedelta(microseconds=1)
        )
        await journal.write_messages([full])
        assert await journal.latest_message("p") == full

    async def test_what_was_passed_in_can_be_changed_afterwards(self, journal: Journal) -> None:
        payload = bytearray(b"before")
        await journal.write_messages([record("p", 1, payload)])  # type: ignore[arg-type]
        payload[:] = b"after!"
        latest = await journal.latest_message("p")
        assert latest is not None
        assert latest.payload == b"before"

    @pytest.mark.parametrize("bad", [record("\ud800", 1), record("p", 1, "text"), record("p", 1, tags=("\udfff",))])  # type: ignore[arg-type]
    async def test_what_cannot_be_stored_is_refused_and_harms_no_neighbour(
        self, journal: Journal, bad: PersistentRepr
    ) -> None:
        results = await asyncio.gather(
            journal.write_messages([record("good", 1)]),
            journal.write_messages([bad]),
            journal.write_messages([record("fine", 1)]),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [type(None), InvalidEventError, type(None)]
        assert sorted([key async for key in journal.all_persistence_ids()]) == ["fine", "good"]

    # Tombstones, due ids, prefixes, tags.

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
        await five.purge("p", 5)  # live
        assert await five.highest_sequence_nr("p") == 5
        await five.write_messages([record("p", 6, b"", deleted=True)])
        await five.purge("p", 5)  # another number
        assert await five.highest_sequence_nr("p") == 6
        await five.purge("p", 6)
        assert await five.highest_sequence_nr("p") == 0
        assert await replay(five, "p") == []
        await five.purge("p", 6)
        await write(five, "p", 1)
        assert await replay(five, "p") == [1]

    async def test_purge_leaves_an_id_whose_tombstone_was_deleted(self, five: Journal) -> None:
        await five.write_messages([record("p", 6, b"", deleted=True)])
        await five.delete_messages_to("p", 6)
        await five.purge("p", 6)
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

    async def test_opening_twice_is_nothing(self, journal: Journal) -> None:
        await journal.open()
        await journal.open()
        await write(journal, "p", 1)

    async def test_an_id_of_1024_bytes_is_taken_and_a_longer_one_refused(self, journal: Journal) -> None:
        await write(journal, "é" * 512, 1)
        with pytest.raises(InvalidEventError, match="1,024 bytes"):
            await write(journal, "é" * 512 + "x", 1)

    @may(Capability.TAGS)
    async def test_offsets_of_a_tag_do_not_move_when_others_are_purged(self, journal: Journal) -> None:
        for key in ("a", "b", "c"):
            await journal.write_messages([record(key, 1, deleted=key == "a", tags=("red",))])
        offsets = {m.persistence_id: offset async for offset, m in journal.events_by_tag("red")}
        await journal.purge("a", 1)
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

    async def test_after_close_every_call_says_that_it_is_closed(self, five: Journal) -> None:
        await five.close()
        await five.close()
        calls = [
            five.write_messages([record("p", 6)]),
            five.highest_sequence_nr("p"),
            five.delete_messages_to("p", 1),
            five.latest_message("p"),
            five.ids_by_prefix(""),
            five.due_ids("", NOW),
            five.claim_due("", NOW, NOW),
            five.purge("p", 1),
            replay(five, "p"),
        ]
        for call in calls:
            with pytest.raises(JournalUnavailableError, match="closed"):
                await call

    async def test_a_journal_closes_at_the_end_of_its_block(self, journal: Journal) -> None:
        async with journal as same:
            await write(same, "p", 1)
        with pytest.raises(JournalUnavailableError):
            await write(journal, "p", 2)

    async def test_many_writers_of_many_ids_lose_nothing(self, journal: Journal) -> None:
        async def writer(key: str) -> None:
            await write(journal, key, *range(1, 21))

        await asyncio.gather(*(writer(f"k{n}") for n in range(50)))
        for n in range(50):
            assert await replay(journal, f"k{n}") == list(range(1, 21))

    async def test_any_sequence_of_calls_does_what_a_dict_would_do(self, place: Any) -> None:
        machine = pytest.importorskip("sagalog.conformance.machine", reason="needs hypothesis", exc_type=ImportError)
        have = self.capabilities
        await asyncio.to_thread(
            machine.check,
            lambda: self.make(place),
            atomic=Capability.ATOMIC in have,
            ordered=Capability.ORDERED in have,
            reopens=Capability.REOPEN in have,
            examples=self.sequences,
        )

    # Reopening, and several processes.

    @may(Capability.REOPEN)
    async def test_everything_is_there_after_closing_and_opening_again(self, journal: Journal, place: Any) -> None:
        for key in IDS:
            await write(journal, key, 1, 2)
        await journal.delete_messages_to("plain", 1)
        await journal.write_messages([record("a", 3, deleted=True, due_at=NOW)])
        await journal.close()
        async with self.make(place) as again:
            for key in IDS:
                assert await replay(again, key) == {"plain": [2], "a": [1, 2, 3]}.get(key, [1, 2])
            assert await again.ids_by_prefix("", deleted=True) == ["a"]
            assert await again.due_ids("", NOW) == [("a", NOW)]

    @may(Capability.SHARED)
    async def test_two_journals_at_one_place_race_and_each_number_is_won_once(
        self, journal: Journal, place: Any
    ) -> None:
        async with self.make(place) as other:
            wins: dict[int, int] = {}

            async def writer(one: Journal) -> None:
                while (number := await one.highest_sequence_nr("p") + 1) <= 60:
                    try:
                        await one.write_messages([record("p", number)])
                        wins[number] = wins.get(number, 0) + 1
                    except SequenceOutOfOrder:
                        continue

            await asyncio.gather(writer(journal), writer(other), writer(journal), writer(other))
            assert wins == dict.fromkeys(range(1, 61), 1)
            assert await replay(journal, "p") == list(range(1, 61))
            assert await replay(other, "p") == list(range(1, 61))

    @may(Capability.SHARED)
    async def test_journals_that_claim_at_once_get_different_ids(self, journal: Journal, place: Any) -> None:
        keys = [f"s::{n:03}" for n in range(200)]
        await journal.write_messages([record(key, 1, due_at=NOW) for key in keys])
        until = NOW + timedelta(minutes=1)
        async with self.make(place) as other:
            claimed: list[str] = []

            async def claim(one: Journal) -> None:
                while page := await one.claim_due("s::", NOW, until, limit=20):
                    claimed.extend(key for key, _ in page)

            await asyncio.gather(claim(journal), claim(other), claim(journal), claim(other))
        assert len(claimed) == len(set(claimed))
        # A journal may pass over what another one is just claiming; it comes up at the next look.
        assert sorted([*claimed, *[key for key, _ in await journal.claim_due("s::", NOW, until)]]) == keys

    @may(Capability.REOPEN)
    async def test_what_was_acknowledged_before_a_kill_is_there(self, journal: Journal, place: Any) -> None:
        await journal.close()
        for turn in range(6):
            acknowledged = await acknowledged_before_kill(self.make, place, after=20 + 41 * turn)
            async with self.make(place) as again:
                for key, number in acknowledged.items():
                    highest = await again.highest_sequence_nr(key)
                    assert number <= highest <= number + 1, f"{key}: {number} was acknowledged, {highest} is stored"
                    found = [(m.sequence_nr, m.payload) async for m in again.replay_messages(key)]
                    assert found == [(n, f"{key}-{n}".encode()) for n in range(1, highest + 1)]

    # A transaction of the caller.

    @may(Capability.TRANSACTIONS)
    async def test_a_record_written_within_a_transaction_stands_or_falls_with_it(
        self, five: Journal, place: Any
    ) -> None:
        assert isinstance(five, JoinsTransactions)
        async with self.connection(place) as connection:
            transaction = connection.transaction()
            await transaction.start()
            await five.write_within(connection, record("p", 6, b"mine"))
            await five.write_within(connection, record("new", 1, b"mine"))
            inside = await five.latest_within(connection, "p")
            assert inside is not None
            assert (inside.sequence_nr, inside.payload) == (6, b"mine")
            assert await five.highest_sequence_nr("p") == 5
            # Who comes meanwhile loses at once: nobody waits for that transaction.
            for bad in (record("p", 6), record("new", 1)):
                with pytest.raises(SequenceOutOfOrder):
                    await asyncio.wait_for(five.write_messages([bad]), 5)
            await asyncio.wait_for(five.write_messages([record("other", 2)]), 5)
            await transaction.rollback()
            assert await five.highest_sequence_nr("p") == 5
            assert await five.highest_sequence_nr("new") == 0
            async with connection.transaction():
                with pytest.raises(SequenceOutOfOrder):
                    await five.write_within(connection, record("p", 5))
                await five.write_within(connection, record("p", 6, b"mine"))  # it is usable still
            latest = await five.latest_message("p")
            assert latest is not None
            assert latest.payload == b"mine"

    def connection(self, place: Any) -> Any:
        """Return a context manager that gives a connection to `place`; for the capability TRANSACTIONS."""
        raise NotImplementedError(f"{type(self).__name__}.connection(place) has to give a connection")
