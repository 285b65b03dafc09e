"""PostgreSQL after failovers, restores and upgrades, and with transactions of others in the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from sagalog import JournalUnavailableError, PersistentRepr, open_journal
from sagalog.conformance.records import record, replay, write
from sagalog.journal.postgres import PostgresJournal
from sagalog.journal.postgres.failures import translate
from sagalog.journal.postgres.schema import _MOMENTS, MIGRATIONS

from .named import kinds, schema_of


@pytest.fixture
async def journal(postgres_schema: str) -> AsyncIterator[PostgresJournal]:
    async with open_journal(postgres_schema) as journal:
        assert isinstance(journal, PostgresJournal)
        yield journal


async def test_connections_from_while_the_server_was_read_only_are_replaced(
    journal: PostgresJournal, postgres_schema: str, admin: Any
) -> None:
    database = "postgres"
    await write(journal, "p", 1)
    try:
        await admin.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
        async with open_journal(postgres_schema.replace("&migrate=true", "&connect_seconds=3")) as late:
            for work in (late.write_messages([record("q", 1)]), late.purge([("p", 1)])):
                with pytest.raises(JournalUnavailableError, match="it is read-only"):
                    await work
            assert ("writable", "fail") in {(one.name, one.level) for one in await late.examine()}
            assert kinds(await late.write_batch([record("q", 1)])) == ["JournalUnavailableError"]
            await admin.execute("SET default_transaction_read_only = off")
            await admin.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")
            assert all(one.level == "ok" for one in await late.examine())  # whatever the pool still has from then
            assert kinds(await late.write_batch([record("q", 1)])) == [None]
            await write(late, "q", 2)
            await late.delete_messages_to("q", 1)
    finally:
        await admin.execute("SET default_transaction_read_only = off")
        await admin.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")


@pytest.mark.parametrize("level", ["serializable", "repeatable read"])
async def test_conflicts_are_conflicts_under_every_default_isolation(
    postgres_schema: str, admin: Any, level: str
) -> None:
    try:
        await admin.execute(f"ALTER DATABASE postgres SET default_transaction_isolation = '{level}'")
        async with open_journal(postgres_schema) as one, open_journal(postgres_schema) as two:
            for number in range(1, 15):
                both = (journal.write_batch([record("p", number), record("q", number)]) for journal in (one, two))
                answers = [answer for of_one in await asyncio.gather(*both) for answer in of_one]
                assert {type(answer).__name__ for answer in answers} <= {"NoneType", "SequenceOutOfOrder"}
                latest = [message and message.sequence_nr for message in await one.latest_messages(["p", "q"])]
                missing = [record(key, number) for key, at in zip("pq", latest, strict=True) if at != number]
                assert kinds(await one.write_batch(missing)) == [None] * len(missing)
            await one.delete_messages_to("p", 3)
    finally:
        await admin.execute("ALTER DATABASE postgres RESET default_transaction_isolation")


async def test_a_server_that_reads_backslashes_in_literals_gets_the_same_journal(
    postgres_schema: str, admin: Any
) -> None:
    try:
        await admin.execute("ALTER DATABASE postgres SET standard_conforming_strings = off")
        async with open_journal(postgres_schema) as journal:
            await write(journal, "p\\'x\\", 1, 2)
            assert await replay(journal, "p\\'x\\") == [1, 2]
            assert list(await journal.ids_by_prefix("p\\", limit=9)) == ["p\\'x\\"]
    finally:
        await admin.execute("ALTER DATABASE postgres RESET standard_conforming_strings")


async def test_followers_see_records_whose_transactions_came_from_an_older_cluster(
    journal: PostgresJournal, postgres_schema: str, admin: Any
) -> None:
    schema = schema_of(postgres_schema)
    await write(journal, "p", 1)
    await admin.execute(f"UPDATE {schema}.record SET ordinal = 1::bigint << 50")
    await admin.execute(f"SELECT setval('{schema}.record_ordinal', 1::bigint << 50)")
    found, offset = await journal.records_after(0)
    assert [one.persistence_id for one in found] == ["p"]
    await write(journal, "q", 1)
    assert [one.persistence_id for one in (await journal.records_after(offset))[0]] == ["q"]


async def test_an_idle_transaction_elsewhere_does_not_hold_followers_up(
    journal: PostgresJournal, postgres_url: str, admin: Any
) -> None:
    await admin.execute("SELECT pg_current_xact_id()")
    other = await asyncpg.connect(postgres_url.replace("/postgres", "/template1"))
    try:
        async with other.transaction():
            await other.execute("SELECT pg_current_xact_id()")
            offset = await journal.newest_offset()
            await write(journal, "p", 1)
            assert [one.persistence_id for one in (await journal.records_after(offset))[0]] == ["p"]
    finally:
        await other.close()


async def test_a_record_that_commits_late_is_not_stepped_over(journal: PostgresJournal, postgres_url: str) -> None:
    await write(journal, "first", 1)
    offset = await journal.newest_offset()
    application = await asyncpg.connect(postgres_url)
    try:
        transaction = application.transaction()
        await transaction.start()
        await journal.write_in_transaction(application, record("late", 1))
        await write(journal, "early", 1)
        found, offset = await journal.records_after(offset)
        assert found == []
        await transaction.commit()
        assert [one.persistence_id for one in (await journal.records_after(offset))[0]] == ["late", "early"]
    finally:
        await application.close()


@pytest.mark.parametrize("before", range(1, len(MIGRATIONS)))
async def test_a_schema_of_each_earlier_version_is_migrated_with_what_it_holds(
    postgres_schema: str, admin: Any, before: int
) -> None:
    schema = schema_of(postgres_schema)
    await admin.execute(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.sagalog_version (version int NOT NULL)")
    await admin.execute(f"INSERT INTO {schema}.sagalog_version VALUES ({before})")
    for script in MIGRATIONS[:before]:
        await admin.execute(script.format(s=schema, **_MOMENTS))
    far, old = ("infinity", "0001-12-31 10:00 BC")
    if before > 1:  # which clips what no datetime can be
        far, old = "9999-12-31 23:59:59.999999+00", "0001-01-01 00:00+00"
    for key, at in (("far", far), ("old", old), ("p", "2030-01-01 00:00+00")):
        await admin.execute(f"INSERT INTO {schema}.instance VALUES ('{key}', 1, false, false, '{at}')")
        await admin.execute(
            f"INSERT INTO {schema}.record (persistence_id, sequence_nr, payload, manifest, writer_uuid, deleted, tags,"
            f" due_at) VALUES ('{key}', 1, '{{}}', '', '', false, '[\"t\"]', '{at}')"
        )
    async with open_journal(postgres_schema) as journal:
        assert isinstance(journal, PostgresJournal)
        latest = datetime.max.replace(tzinfo=UTC)
        assert await journal.due_ids("", latest) == [
            ("old", datetime.min.replace(tzinfo=UTC)),
            ("p", datetime(2030, 1, 1, tzinfo=UTC)),
            ("far", latest),
        ]
        found, offset = await journal.records_after(0)
        assert [one.persistence_id for one in found] == ["far", "old", "p"]
        assert kinds(await journal.write_batch([PersistentRepr("p", 2, b"{}", epoch=3, terms=("x=1",))])) == [None]
        assert [one.persistence_id for one in (await journal.latest_by_terms(["x=1"]))[0]] == ["p"]
        assert [(one.sequence_nr, one.epoch) for one in (await journal.records_after(offset))[0]] == [(2, 3)]


async def test_the_view_is_json_whatever_the_texts_hold(journal: PostgresJournal, admin: Any) -> None:
    payloads = {
        "quote": rb'{"status": "a\"b"}',
        "umlaut": '{"status": "ä€😀"}'.encode(),
        "escaped": rb'{"status": "\u00e4\\u0000"}',
        "nul": rb'{"status": "\u0000\u0000x"}',
        "nan": b"{nan}",
        "bytes": b"\xff\x00",
    }
    await journal.write_batch([PersistentRepr(key, 1, payload) for key, payload in payloads.items()])
    await journal.write_batch([PersistentRepr("nul\x00", 1, b"{}")])
    rows = await admin.fetch(f"SELECT persistence_id, record->>'status' FROM {journal.schema}.saga")
    found = {row[0]: row[1] for row in rows}
    assert found["quote"] == 'a"b'
    assert found["umlaut"] == "ä€😀"
    assert found["escaped"] == "ä\\u0000"
    assert found["nul"] == "��x"
    assert len(found) == 7
    assert [found[key] for key in ("nan", "bytes", "nul\\000")] == [None] * 3


def test_statements_that_the_server_cancels_are_not_blamed_on_the_address() -> None:
    told = translate(asyncpg.QueryCanceledError("canceling statement due to statement timeout"), "PostgreSQL db/shop")
    assert isinstance(told, JournalUnavailableError)
    assert "raise the statement_timeout of this user, database or server" in str(told)
    assert "host" not in str(told)
