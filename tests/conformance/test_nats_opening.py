"""What a NATS journal checks when it is opened: the server, the stream, its settings."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from sagalog import DefinitionError, JournalFormatError, JournalUnavailableError, open_journal
from sagalog.conformance.records import write
from sagalog.journal import migrate_journal
from sagalog.journal.nats.connection import check_version

from .named import stream_of


async def refused(url: str, message: str) -> None:
    with pytest.raises(JournalFormatError, match=message):
        async with open_journal(url):
            pass


async def test_a_stream_that_was_not_made_is_refused_with_the_command_that_makes_it(url: str) -> None:
    journal = open_journal(url)
    with pytest.raises(JournalFormatError, match="sagalog migrate --journal URL"):
        await journal.open()
    await journal.close()
    assert (await migrate_journal(url)).endswith("created")
    assert (await migrate_journal(url)).endswith("exists already")
    async with open_journal(url) as journal:
        await write(journal, "p", 1)


async def test_wrong_credentials_are_told_without_the_password(url: str) -> None:
    journal = open_journal(url.replace("shop:right", "shop:hunter2"))
    with pytest.raises(JournalUnavailableError, match="user, password, token,") as caught:
        await journal.open()
    assert "hunter2" not in str(caught.value)
    await journal.close()


async def test_a_server_that_is_not_there_is_told(url: str) -> None:
    journal = open_journal("nats://shop:hunter2@127.0.0.1:1?connect_seconds=0.3")
    with pytest.raises(JournalUnavailableError, match=r"NATS 127.0.0.1:1 cannot be reached") as caught:
        await journal.open()
    assert "hunter2" not in str(caught.value)
    await journal.close()


async def test_an_opening_that_is_cancelled_leaves_no_connection_behind(url: str) -> None:
    await migrate_journal(url)
    before = asyncio.all_tasks()
    for turns in (*range(1, 12), *range(12, 60, 6)):
        journal = open_journal(url)
        opening = asyncio.ensure_future(journal.open())
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        opening.cancel()
        await asyncio.wait([opening])
        await journal.close()
    async with asyncio.timeout(30):
        while asyncio.all_tasks() - before:  # of a client: it reads, sends and pings
            await asyncio.sleep(0.01)


async def test_a_stream_of_another_program_is_refused_and_not_touched(url: str, js: Any) -> None:
    await js.add_stream(name=stream_of(url), subjects=["theirs.>"])
    for asked in (url, f"{url}&migrate=true"):
        await refused(asked, "belongs to another program; it was not touched")
    assert (await js.stream_info(stream_of(url))).config.subjects == ["theirs.>"]


async def test_subjects_of_another_stream_are_told(url: str, js: Any) -> None:
    await js.add_stream(name=f"other_{stream_of(url)}"[:30], subjects=[f"{stream_of(url)}.>"])
    with pytest.raises(JournalUnavailableError, match="cannot be created:.*overlap"):
        await migrate_journal(url)


async def test_more_replicas_than_servers_are_told(url: str) -> None:
    with pytest.raises(JournalUnavailableError, match="Are there as many servers as replicas"):
        await migrate_journal(f"{url}&replicas=3")


async def test_settings_that_lose_sagas_are_refused(url: str, js: Any) -> None:
    await migrate_journal(url)
    config = (await js.stream_info(stream_of(url))).config
    config.max_age = 3600
    await js.update_stream(config)
    await refused(url, "has max_age, which deletes waiting sagas:")


async def test_another_format_is_refused(url: str, js: Any) -> None:
    await migrate_journal(url)
    config = (await js.stream_info(stream_of(url))).config
    config.metadata = {**config.metadata, "sagalog": "9"}
    await js.update_stream(config)
    await refused(url, "has format 9; this code knows 1: upgrade sagalog")


@pytest.mark.parametrize("version", [(2, 9, 10), (2, 9, 25), (1, 0, 0)])
def test_a_server_that_breaks_compare_and_set_is_refused(version: tuple[int, int, int]) -> None:
    major, minor, patch = version
    with pytest.raises(JournalFormatError, match="lets several writers win one compare-and-set: 2.10.0 or newer"):
        check_version(SimpleNamespace(major=major, minor=minor, patch=patch), "here")
    check_version(SimpleNamespace(major=2, minor=10, patch=0), "here")
    check_version(SimpleNamespace(major=3, minor=0, patch=0), "here")


async def test_one_replica_is_warned_about(url: str, caplog: pytest.LogCaptureFixture) -> None:
    await migrate_journal(url)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "sagalog"):
        async with open_journal(url):
            pass
    assert "has one replica" in caplog.text
    assert "sync_interval: always" in caplog.text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("nats://x?stream=a.b", "a stream's name may have"),
        ("nats://x?replicas=9", "replicas must be 1 to 5,"),
        ("nats://x?replicas=many", "replicas in a nats:// URL is a number"),
        ("nats://x?migrate=perhaps", "migrate in a nats:// URL is true or false"),
        ("nats://x?speed=high", "unknown setting 'speed'"),
        ("nats://x?history=-1", "history must be"),
    ],
)
def test_a_wrong_url_is_told(wrong: str, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        open_journal(wrong)
