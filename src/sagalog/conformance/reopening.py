"""Closing and opening again, several journals at one place, kills, and the caller's transactions."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ..errors import JournalUnavailableError, SequenceOutOfOrder
from ..journal.protocol import Journal, WritesInTransactions
from .capability import Capability, may
from .killing import acknowledged_before_kill
from .records import IDS, NOW, record, replay, write


class Reopening:
    """What a journal promises across its own life."""

    if TYPE_CHECKING:

        @classmethod
        def make(cls, place: Any) -> Journal: ...

    async def test_opening_twice_is_nothing(self, journal: Journal) -> None:
        await journal.open()
        await journal.open()
        await write(journal, "p", 1)

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
            five.purge([("p", 1)]),
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

    @may(Capability.TRANSACTIONS)
    async def test_a_record_written_within_a_transaction_stands_or_falls_with_it(
        self, five: Journal, place: Any
    ) -> None:
        assert isinstance(five, WritesInTransactions)
        async with self.connection(place) as connection:
            transaction = connection.transaction()
            await transaction.start()
            await five.write_in_transaction(connection, record("p", 6, b"mine"))
            await five.write_in_transaction(connection, record("new", 1, b"mine"))
            inside = await five.latest_in_transaction(connection, "p")
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
                    await five.write_in_transaction(connection, record("p", 5))
                await five.write_in_transaction(connection, record("p", 6, b"mine"))  # it is usable still
            latest = await five.latest_message("p")
            assert latest is not None
            assert latest.payload == b"mine"

    def connection(self, place: Any) -> Any:
        """Return a context manager that gives a connection to `place`; for the capability TRANSACTIONS."""
        raise NotImplementedError(f"{type(self).__name__}.connection(place) must return a connection")
