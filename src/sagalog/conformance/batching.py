"""Batches: many ids written, looked up or purged in one call, each answered for itself and in the order given."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from ..errors import ConflictError, InvalidEventError, JournalUnavailableError
from ..journal.protocol import Journal, MovedDue
from .capability import Capability, may
from .records import IDS, NOW, PAYLOADS, record, replay, write


class Batching:
    """What a journal promises of `write_batch`, `latest_messages` and `purge`."""

    if TYPE_CHECKING:

        @classmethod
        def make(cls, place: Any) -> Journal: ...

    async def test_empty_batches_have_no_answers_and_no_effect(self, five: Journal) -> None:
        assert list(await five.write_batch([])) == []
        assert list(await five.latest_messages([])) == []
        assert list(await five.move_due([])) == []
        await five.purge([])
        assert await replay(five, "p") == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize("size", [1, 2, 1_000])
    async def test_a_batch_is_stored_and_looked_up_in_the_order_given(self, journal: Journal, size: int) -> None:
        keys = [f"k{n * 7_919 % 1_009:04}" for n in range(size)]  # not in the order of their names
        records = [record(key, 1, key.encode(), manifest="m", tags=("red",), due_at=NOW) for key in keys]
        assert list(await journal.write_batch(records)) == [None] * size
        assert list(await journal.latest_messages(keys)) == records
        assert sorted([key async for key in journal.all_persistence_ids()]) == sorted(keys)
        assert len(await journal.due_ids("", NOW, limit=2_000)) == size

    async def test_each_record_of_a_batch_is_told_its_own_fate_in_the_order_given(self, five: Journal) -> None:
        batch = [
            record("new", 1),
            record("p", 5),  # lost: another was first
            record("other", 2),
            record("\ud800", 1),  # invalid
            record("gap", 2),
            record("text", 1, "text"),  # type: ignore[arg-type]
            record("zero", 0),
            record("endless", 2**63 - 1),
            record("surrogate", 1, tags=("\udfff",)),
            record("x" * 1_025, 1),
            record("last", 1),
        ]
        answers = list(await five.write_batch(batch))
        kinds = ["" if one is None else "lost" if isinstance(one, ConflictError) else "invalid" for one in answers]
        assert kinds == ["", "lost", "", "invalid", "lost", "invalid", "lost", "lost", "invalid", "invalid", ""]
        for one, kind in zip(answers, kinds, strict=True):
            assert kind != "invalid" or isinstance(one, InvalidEventError)
        for lost in (1, 4):
            assert batch[lost].persistence_id in str(answers[lost]), "the error names the id that lost, and no other"
        assert await replay(five, "p") == [1, 2, 3, 4, 5]
        assert await replay(five, "other") == [1, 2]
        assert sorted([key async for key in five.all_persistence_ids()]) == ["last", "new", "other", "p"]

    async def test_a_record_that_is_too_large_harms_no_neighbour(self, journal: Journal) -> None:
        large = record("large", 1, bytes(3_000_000))
        before, answer, after = await journal.write_batch([record("a", 1), large, record("b", 1)])
        assert (before, after) == (None, None)
        assert answer is None or isinstance(answer, InvalidEventError)  # a journal may have no limit, and may keep it
        assert await journal.latest_messages(["a", "large", "b"]) == [
            record("a", 1),
            large if answer is None else None,
            record("b", 1),
        ]

    async def test_an_id_that_comes_twice_in_a_batch_is_invalid_the_second_time(self, journal: Journal) -> None:
        answers = await journal.write_batch([record("a", 1, b"first"), record("b", 1), record("a", 2), record("a", 1)])
        assert list(answers[:2]) == [None, None]
        assert [type(one) for one in answers[2:]] == [InvalidEventError] * 2
        assert [one.payload if one else None for one in await journal.latest_messages(["a"])] == [b"first"]

    async def test_ids_and_payloads_of_any_kind_come_back_from_a_batch(self, journal: Journal) -> None:
        records = [record(key, 1, PAYLOADS[n % len(PAYLOADS)], manifest=f"m é {n}") for n, key in enumerate(IDS)]
        assert list(await journal.write_batch(records)) == [None] * len(IDS)
        found = await journal.latest_messages(["unknown", *IDS, IDS[0], "unknown 2"])
        assert list(found) == [None, *records, records[0], None]

    async def test_a_batch_stores_tombstones_and_the_next_life(self, five: Journal) -> None:
        assert list(await five.write_batch([record("p", 6, b"end", deleted=True), record("other", 2)])) == [None, None]
        assert await five.ids_by_prefix("", deleted=True) == ["p"]
        assert list(await five.write_batch([record("p", 7)])) == [None]
        assert await five.ids_by_prefix("", deleted=True) == []

    async def test_what_was_passed_in_a_batch_can_be_changed_afterwards(self, journal: Journal) -> None:
        payload = bytearray(b"before")
        await journal.write_batch([record("p", 1, payload)])  # type: ignore[arg-type]
        payload[:] = b"after!"
        (latest,) = await journal.latest_messages(["p"])
        assert latest is not None
        assert latest.payload == b"before"

    async def test_what_is_hidden_is_not_among_the_newest_and_its_number_is_still_taken(self, five: Journal) -> None:
        await five.delete_messages_to("p", 5)
        assert [one and one.sequence_nr for one in await five.latest_messages(["p", "other"])] == [None, 1]
        again, following = await five.write_batch([record("p", 5)]), await five.write_batch([record("p", 6)])
        assert isinstance(again[0], ConflictError)
        assert list(following) == [None]

    async def test_of_batches_that_race_exactly_one_wins_each_id(self, journal: Journal) -> None:
        await self._race([journal] * 4)

    @may(Capability.SHARED)
    async def test_of_batches_that_race_on_several_journals_exactly_one_wins_each_id(
        self, journal: Journal, place: Any
    ) -> None:
        async with self.make(place) as other:
            await other.open()
            await self._race([journal, other, journal, other])

    @staticmethod
    async def _race(journals: list[Journal]) -> None:
        keys = [f"k{n:02}" for n in range(40)]
        for number in range(1, 6):
            orders = [keys, keys[::-1], keys[20:] + keys[:20], keys[::2] + keys[1::2]]
            results = await asyncio.gather(
                *(
                    one.write_batch([record(key, number, f"{n}".encode()) for key in order])
                    for n, (one, order) in enumerate(zip(journals, orders, strict=True))
                )
            )
            told = [dict(zip(order, answers, strict=True)) for order, answers in zip(orders, results, strict=True)]
            found = dict(zip(keys, await journals[-1].latest_messages(keys), strict=True))
            for key in keys:
                winners = [n for n, answers in enumerate(told) if answers[key] is None]
                assert len(winners) == 1, f"{key} number {number} was won by {winners}"
                assert all(isinstance(answers[key], (ConflictError, type(None))) for answers in told)
                newest = found[key]
                assert newest is not None
                assert (newest.sequence_nr, newest.payload) == (number, f"{winners[0]}".encode())

    async def test_a_closed_journal_tells_each_record_that_nothing_was_stored(self, five: Journal) -> None:
        await five.close()
        answers = await five.write_batch([record("p", 6), record("new", 1)])
        assert [type(one) for one in answers] == [JournalUnavailableError] * 2
        for call in (five.latest_messages(["p"]), five.move_due([MovedDue("p", 5, NOW)]), five.purge([("p", 5)])):
            with pytest.raises(JournalUnavailableError, match="closed"):
                await call

    async def test_purge_of_many_forgets_tombstones_of_those_numbers_and_nothing_else(self, five: Journal) -> None:
        gone = [f"t{n:03}" for n in range(500)]
        await five.write_batch([record(key, 1, deleted=True) for key in [*gone, "wrong number", *IDS]])
        await five.purge([*((key, 1) for key in gone), ("wrong number", 2), ("p", 5), ("unknown", 1), ("other", 7)])
        assert sorted(await five.ids_by_prefix("", deleted=True)) == sorted(["wrong number", *IDS])
        assert sorted([key async for key in five.all_persistence_ids()]) == ["other", "p"]
        assert [await five.highest_sequence_nr(key) for key in (gone[0], gone[-1], "wrong number", "p")] == [0, 0, 1, 5]
        await five.purge([(key, 1) for key in [*IDS, *IDS]])
        assert await five.ids_by_prefix("", deleted=True) == ["wrong number"]

    async def test_a_lower_bound_of_the_highest_number_changes_nothing(self, five: Journal) -> None:
        await five.delete_messages_to("p", 3)
        for bound in range(6):
            assert await five.highest_sequence_nr("p", bound) == 5
        assert await five.highest_sequence_nr("p", from_sequence_nr=5) == 5
        assert await five.highest_sequence_nr("unknown", 0) == 0
        await five.delete_messages_to("p", 5)
        await write(five, "p", 6)
        assert await five.highest_sequence_nr("p", 4) == 6
