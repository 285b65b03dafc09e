"""A NATS journal that cannot be used any more is told at once what is wrong."""

from __future__ import annotations

import asyncio
import os

import nats
import pytest

from sagalog import DefinitionError, Journal, JournalFormatError, open_journal
from sagalog.conformance.records import record, write
from sagalog.journal.nats import NatsJournal

from .named import stream_of


async def test_a_stream_that_was_deleted_under_way_is_told_as_that(url: str) -> None:
    async with open_journal(f"{url}&migrate=true") as journal:
        await write(journal, "p", 1)
        client = await nats.connect(url.partition("?")[0])
        await client.jetstream().delete_stream(stream_of(url))
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
