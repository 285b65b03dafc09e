"""Writing: the next number or nothing, and what was passed in comes back."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from ..errors import InvalidEventError, SequenceOutOfOrder
from ..journal.protocol import Journal, PersistentRepr
from .capability import Capability, may
from .records import IDS, NOW, PAYLOADS, record, replay, write


class Writing:
    """What a journal promises of `write_messages`."""

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

    async def test_ids_never_leak_into_each_other(self, journal: Journal) -> None:
        for n, key in enumerate(IDS, 1):
            await journal.write_messages([record(key, 1, f"{n}".encode())])
        for n, key in enumerate(IDS, 1):
            assert [m.payload async for m in journal.replay_messages(key)] == [f"{n}".encode()]
            latest = await journal.latest_message(key)
            assert latest is not None
            assert latest.persistence_id == key
        assert sorted([key async for key in journal.all_persistence_ids()]) == sorted(IDS)

    async def test_records_that_are_asked_for_at_once_are_each_their_own(self, journal: Journal) -> None:
        for n, key in enumerate(IDS):
            due_at = NOW + timedelta(microseconds=n) if n % 2 else None
            stored = record(key, 1, PAYLOADS[n % len(PAYLOADS)], manifest=f"m{n}", tags=(f"t{n}",), due_at=due_at)
            await journal.write_messages([stored])
        await write(journal, IDS[0], 2)
        await journal.write_messages([record(IDS[1], 2, b"end", deleted=True)])
        one_by_one = [await journal.latest_message(key) for key in ["unknown", *IDS, IDS[0]]]
        at_once = await asyncio.gather(*(journal.latest_message(key) for key in ["unknown", *IDS, IDS[0]]))
        assert at_once == one_by_one
        assert [found.persistence_id for found in at_once if found is not None] == [*IDS, IDS[0]]

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

    async def test_an_id_of_1024_bytes_is_taken_and_a_longer_one_refused(self, journal: Journal) -> None:
        await write(journal, "é" * 512, 1)
        with pytest.raises(InvalidEventError, match="1,024 bytes"):
            await write(journal, "é" * 512 + "x", 1)

    async def test_many_writers_of_many_ids_lose_nothing(self, journal: Journal) -> None:
        async def writer(key: str) -> None:
            await write(journal, key, *range(1, 21))

        await asyncio.gather(*(writer(f"k{n}") for n in range(50)))
        for n in range(50):
            assert await replay(journal, f"k{n}") == list(range(1, 21))
