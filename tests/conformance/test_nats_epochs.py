"""Epochs in JetStream: who decided on an earlier life of an id loses, whatever it has cached."""

from __future__ import annotations

import pytest

from sagalog import SequenceOutOfOrder, open_journal
from sagalog.conformance.records import record, replay, write
from sagalog.journal.protocol import PersistentRepr


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
