"""What is wrong with PostgreSQL, its settings or its use is told as what it is, without passwords."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from sagalog import DefinitionError, JournalUnavailableError, open_journal
from sagalog.conformance.records import record, write
from sagalog.journal.postgres import PostgresJournal

from .named import schema_of


@pytest.fixture
async def journal(postgres_schema: str) -> AsyncIterator[PostgresJournal]:
    async with open_journal(postgres_schema) as journal:
        assert isinstance(journal, PostgresJournal)
        yield journal


async def test_a_missing_right_is_told_with_the_table(postgres_schema: str, admin: Any) -> None:
    schema = schema_of(postgres_schema)
    async with open_journal(postgres_schema) as journal:
        await write(journal, "p", 1)
    await admin.execute("DROP ROLE IF EXISTS clerk")
    await admin.execute("CREATE ROLE clerk LOGIN")
    await admin.execute(f"GRANT USAGE ON SCHEMA {schema} TO clerk")
    await admin.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.instance TO clerk")
    await admin.execute(f"GRANT SELECT ON {schema}.sagalog_version, {schema}.record TO clerk")
    url = postgres_schema.replace("tester@", "clerk@").replace("&migrate=true", "")
    try:
        async with open_journal(url) as journal:
            with pytest.raises(JournalUnavailableError, match=r"lacks a right on table record: .* Nothing was stored"):
                await journal.write_messages([record("q", 1)])
            await admin.execute(f"GRANT INSERT, DELETE ON {schema}.record TO clerk")
            await write(journal, "q", 1)  # without a right on the sequence
            assert isinstance(journal, PostgresJournal)
            assert len((await journal.records_after(0))[0]) == 2
    finally:
        await admin.execute("DROP OWNED BY clerk; DROP ROLE clerk")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sslmode=verify-full&sslrootcert=/nowhere/root.crt", "sslrootcert .*but that file does not exist"),
        ("sslmode=require", "the server refuses TLS"),
        ("sslmode=perhaps", "sslmode"),
        ("conect_seconds=3", "does not accept a setting in the URL.*conect_seconds"),
        ("connect_timeout=5", r"Only libpq has connect_timeout: leave it out \(connect_seconds says"),
        ("sslmode=prefer&channel_binding=prefer", "Only libpq has channel_binding: leave it out$"),
        ("statement_timeout=soon", "does not accept a setting in the URL.*statement_timeout"),
    ],
)
async def test_a_wrong_setting_is_told_as_what_it_is_and_at_once(
    postgres_schema: str, setting: str, message: str
) -> None:
    journal = open_journal(f"{postgres_schema}&{setting}")
    async with asyncio.timeout(40):
        with pytest.raises((DefinitionError, JournalUnavailableError), match=message) as caught:
            await journal.open()
    assert "host and port" not in str(caught.value)


@pytest.mark.parametrize("mark", ["/", "?", "#", "@", "%", "/?#", "?schema=", "12/"])
async def test_a_password_is_never_shown(mark: str) -> None:
    for password in (f"hunter2{mark}geheim", f"{mark}geheim"):
        with pytest.raises(DefinitionError, match="%2F") as caught:
            open_journal(f"postgresql://user:{password}@localhost:1/db?connect_seconds=0.1")
        assert "hunter2" not in str(caught.value)
        assert "geheim" not in str(caught.value)
        with pytest.raises(DefinitionError):
            PostgresJournal(f"postgresql://user:{password}@localhost:1/db")
    journal = open_journal("postgresql://user:hunter2%2F%3F%23@localhost:1/db?connect_seconds=0.1")
    told_so = "PostgreSQL localhost:1/db (cannot be reached|does not answer|did not answer in time)"
    with pytest.raises(JournalUnavailableError, match=told_so) as told:
        await journal.open()
    assert "hunter2" not in str(told.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"connect_timeout": float("nan")},
        {"connect_timeout": timedelta(seconds=-1)},
        {"connect_timeout": "5"},
        {"timeout": timedelta(0)},
        {"timeout": float("inf")},
        {"timeout": None},
        {"migrate": "yes"},
        {"pooler": 1},
        {"history": 1.5},
        {"schema": None},
        {"schema": "Ä"},
    ],
)
def test_an_odd_argument_is_named(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(DefinitionError, match=name):
        PostgresJournal("postgresql://x/y", **settings)


@pytest.mark.parametrize("dsn", [None, 5, "", "sqlite:///x", "postgresql://x:0/y", "postgresql://x/y?port=no"])
def test_an_odd_url_is_refused(dsn: Any) -> None:
    with pytest.raises(DefinitionError, match="PostgreSQL|postgresql"):
        PostgresJournal(dsn)


async def test_another_event_loop_is_told_at_once(journal: PostgresJournal) -> None:
    await write(journal, "p", 1)

    async def use() -> list[str]:
        told = []
        for call in (
            lambda: journal.latest_message("p"),
            lambda: journal.latest_messages(["p"]),
            lambda: journal.write_messages([record("p", 2)]),
            lambda: journal.purge([("p", 1)]),
            journal.open,
            journal.close,
        ):
            with pytest.raises(DefinitionError) as caught:
                async with asyncio.timeout(40):
                    await call()
            told.append(str(caught.value))
        (answer,) = await journal.write_batch([record("p", 2)])
        return [*told, str(answer)]

    with ThreadPoolExecutor(1) as thread:
        told = await asyncio.get_running_loop().run_in_executor(thread, lambda: asyncio.run(use()))
    assert all("another event loop" in one for one in told)
    await write(journal, "p", 2)


async def test_a_forked_process_is_told_at_once(journal: PostgresJournal) -> None:
    await write(journal, "p", 1)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # the loop of the parent is not this process's
        try:
            try:
                journal.latest_message("p").send(None)
            except DefinitionError as error:
                os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    said = await asyncio.to_thread(lambda: os.read(reading, 1000).decode())
    os.waitpid(child, 0)
    assert "before the process forked" in said
    await write(journal, "p", 2)
