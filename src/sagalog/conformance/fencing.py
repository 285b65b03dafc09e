"""Epochs: a writer that slept through a purge is not taken for the next one, although its number is."""

from __future__ import annotations

import asyncio

import pytest

from ..errors import ConflictError, SequenceOutOfOrder
from ..journal.protocol import Followable, Journal, ListsLatest, PersistentRepr
from .capability import Capability, may
from .records import record, replay

OLD, NEW = 2**63 - 1, 7


class Fencing:
    """What a journal promises of `epoch`."""

    async def _purged_and_begun_anew(self, journal: Journal) -> None:
        await journal.write_batch([record("p", 1, epoch=OLD)])
        await journal.write_batch([record("p", 2, deleted=True, epoch=OLD)])
        await journal.purge([("p", 2)])
        assert list(await journal.write_batch([record("p", 1, b"new", epoch=NEW)])) == [None]

    async def test_a_batch_of_an_epoch_that_was_purged_is_out_of_order_although_its_number_is_next(
        self, journal: Journal
    ) -> None:
        await self._purged_and_begun_anew(journal)
        stale, fine = await journal.write_batch([record("p", 2, b"stale", epoch=OLD), record("q", 1, epoch=OLD)])
        assert isinstance(stale, ConflictError)
        assert fine is None
        assert await replay(journal, "p") == [1]
        assert list(await journal.write_batch([record("p", 2, epoch=NEW)])) == [None]

    async def test_a_call_of_an_epoch_that_was_purged_is_out_of_order_although_its_number_is_next(
        self, journal: Journal
    ) -> None:
        await self._purged_and_begun_anew(journal)
        with pytest.raises(SequenceOutOfOrder) as caught:
            await journal.write_messages([record("p", 2, b"stale", epoch=OLD), record("q", 1, epoch=OLD)])
        assert caught.value.losers == ("p",)
        assert await replay(journal, "p") == [1]
        await journal.write_messages([record("p", 2, epoch=NEW)])

    async def test_a_write_that_states_no_epoch_belongs_to_the_stored_one(self, journal: Journal) -> None:
        await journal.write_batch([record("p", 1, epoch=OLD)])
        assert list(await journal.write_batch([record("p", 2)])) == [None]
        await journal.write_messages([record("p", 3), record("p", 4)])
        assert [m.epoch async for m in journal.replay_messages("p")] == [OLD] * 4

    async def test_the_epoch_outlives_deletion_and_the_next_life_and_is_forgotten_by_purge(
        self, journal: Journal
    ) -> None:
        await journal.write_batch([record("p", 1, deleted=True, epoch=OLD)])
        await journal.delete_messages_to("p", 1)
        assert isinstance((await journal.write_batch([record("p", 2, epoch=NEW)]))[0], ConflictError)
        assert list(await journal.write_batch([record("p", 2, deleted=True, epoch=OLD)])) == [None]
        await journal.purge([("p", 2)])
        assert list(await journal.write_batch([record("p", 1)])) == [None]
        (latest,) = await journal.latest_messages(["p"])
        assert latest is not None
        assert latest.epoch == 0

    async def test_every_read_gives_the_epoch(self, journal: Journal) -> None:
        offset = await journal.newest_offset() if isinstance(journal, Followable) else 0
        await journal.write_batch([record("p", 1, epoch=OLD), record("q", 1)])
        await journal.write_messages([record("p", 2)])
        reads: dict[str, PersistentRepr | None] = {
            "latest_message": await journal.latest_message("p"),
            "latest_messages": (await journal.latest_messages(["p"]))[0],
            "replay_messages": [m async for m in journal.replay_messages("p")][-1],
        }
        if isinstance(journal, ListsLatest):
            (reads["latest_by_prefix"],) = await journal.latest_by_prefix("p")
        if isinstance(journal, Followable):
            found: list[PersistentRepr] = []
            async with asyncio.timeout(20):
                while len(found) < 3:  # a follower sees it in a while
                    found, _ = await journal.records_after(offset)
            reads["records_after"] = [one for one in found if one.persistence_id == "p"][-1]
        assert {name: found and found.epoch for name, found in reads.items()} == dict.fromkeys(reads, OLD)

    @may(Capability.TAGS)
    async def test_reading_by_tag_gives_the_epoch(self, journal: Journal) -> None:
        await journal.write_batch([record("p", 1, epoch=OLD, tags=("red",))])
        assert [m.epoch async for _, m in journal.events_by_tag("red")] == [OLD]
