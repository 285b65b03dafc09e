"""Servers as they are after failovers, restores and misconfiguration: what is told, and what goes on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import asyncpg
import pytest

from sagalog import (
    ConflictError,
    DefinitionError,
    InvalidEventError,
    JournalUnavailableError,
    OutcomeUnknownError,
    PersistentRepr,
    open_journal,
)
from sagalog.conformance.records import record, write
from sagalog.journal.postgres import PostgresJournal
from sagalog.journal.postgres.schema import MIGRATIONS
from sagalog.journal.protocol import FIRST_MOMENT, LAST_MOMENT, MovedDue

from ..servers.postgres import Postgres
from ..servers.proxy import Proxy


@pytest.fixture
async def admin(postgres_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


@pytest.fixture
async def journal(postgres_schema: str) -> AsyncIterator[PostgresJournal]:
    async with open_journal(postgres_schema) as journal:
        assert isinstance(journal, PostgresJournal)
        yield journal


def schema_of(url: str) -> str:
    return url.partition("schema=")[2].partition("&")[0]


def kinds(answers: Any) -> list[Any]:
    return [None if one is None else type(one).__name__ for one in answers]


# Batches.


async def test_each_record_of_a_batch_is_told_by_itself(journal: PostgresJournal) -> None:
    await write(journal, "there", 1)
    batch = [
        record("new", 1),
        record("there", 1),
        record("there2", 2),
        record("bad", 1, manifest="a\x00b"),
        record("zero", 0),
        record("last", 1),
    ]
    lost = "SequenceOutOfOrder"
    assert kinds(await journal.write_batch(batch)) == [None, lost, lost, "InvalidEventError", lost, None]
    found = await journal.latest_messages(["last", "nowhere", "new", "last"])
    assert [one and one.persistence_id for one in found] == ["last", None, "new", "last"]
    assert await journal.write_batch([]) == []


async def test_a_large_batch_is_stored_as_a_whole(journal: PostgresJournal) -> None:
    batch = [record(f"p{number}", 1) for number in range(1000)]
    assert kinds(await journal.write_batch(batch)) == [None] * 1000
    assert kinds(await journal.write_batch(batch)) == ["SequenceOutOfOrder"] * 1000
    assert all(await journal.latest_messages([one.persistence_id for one in batch]))


@pytest.mark.parametrize("count", [1, 3, 300])
async def test_racing_batches_have_one_winner_for_each_id(journal: PostgresJournal, count: int) -> None:
    for number in (1, 2):
        batch = [record(f"p{one}", number) for one in range(count)]
        answers = await asyncio.gather(*(journal.write_batch(batch) for _ in range(6)))
        for of_one in zip(*answers, strict=True):
            assert sum(one is None for one in of_one) <= 1
        await journal.write_batch(batch)  # what none of them got, as each was in the way of another
        found = await journal.latest_messages([one.persistence_id for one in batch])
        assert [one.sequence_nr for one in found if one] == [number] * count


async def test_the_epoch_is_kept_compared_and_gone_after_a_purge(journal: PostgresJournal) -> None:
    def of(number: int, epoch: int, *, deleted: bool = False, key: str = "p") -> PersistentRepr:
        return PersistentRepr(key, number, b"{}", deleted=deleted, epoch=epoch, tags=("t",))

    others = [of(1, 2**63 - 1, key="q")]
    assert kinds(await journal.write_batch([of(1, 7), *others])) == [None, None]
    assert kinds(await journal.write_batch([of(2, 8)])) == ["SequenceOutOfOrder"]
    assert kinds(await journal.write_batch([of(2, 8), *[of(2, 3, key="q")]])) == ["SequenceOutOfOrder"] * 2
    assert kinds(await journal.write_batch([of(2, 0)])) == [None]
    with pytest.raises(ConflictError):
        await journal.write_messages([of(3, 7), of(4, 8)])
    await journal.write_messages([of(3, 7), of(4, 0, deleted=True)])
    latest = await journal.latest_message("p")
    assert latest is not None
    assert latest.epoch == 7
    assert [one.epoch async for one in journal.replay_messages("p")] == [7] * 4
    assert {one.epoch for _, one in [each async for each in journal.events_by_tag("t")]} == {7, 2**63 - 1}
    assert {one.epoch for one in (await journal.records_after(0))[0]} == {7, 2**63 - 1}
    assert [one.epoch for one in await journal.latest_by_prefix("q")] == [2**63 - 1]
    await journal.purge([("p", 4), ("q", 1), ("nowhere", 1)])
    assert await journal.latest_messages(["p"]) == [None]
    assert await journal.latest_message("q") is not None
    assert kinds(await journal.write_batch([of(5, 7)])) == ["SequenceOutOfOrder"]
    assert kinds(await journal.write_batch([of(1, 9)])) == [None]
    assert kinds(await journal.write_batch([of(2, -1), of(1, 2**63, key="r")])) == ["InvalidEventError"] * 2


async def test_a_lease_moves_without_a_record_only_where_the_number_is_still_that(journal: PostgresJournal) -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    for key in ("a", "b", "c"):
        await journal.write_messages([record(key, 1, due_at=at)])
    later = at + timedelta(days=1)
    moves = [MovedDue("a", 1, later), MovedDue("b", 2, later), MovedDue("c", 1, None), MovedDue("nowhere", 1, later)]
    assert list(await journal.move_due(moves)) == [True, False, True, False]
    assert await journal.due_ids("", later) == [("b", at), ("a", later)]


@pytest.mark.parametrize("lost", ["answer", "request"])
async def test_of_a_batch_in_flight_only_what_is_open_is_unknown(
    postgres_server: Postgres, postgres_proxy: Proxy, lost: str
) -> None:
    url = postgres_server.url.replace(str(postgres_server.port), str(postgres_proxy.port))
    async with open_journal(f"{url}?migrate=true") as journal:
        before = await journal.write_batch([record(f"a{number}", 1) for number in range(3)])
        postgres_proxy.lose(lost)
        answers = await journal.write_batch([record(f"b{number}", 1) for number in range(3)])
        assert kinds(before) == [None] * 3
        assert [type(one) for one in answers] == [OutcomeUnknownError] * 3
        stored = await journal.latest_messages([f"b{number}" for number in range(3)])
        assert [one is not None for one in stored] == [lost == "answer"] * 3
        assert kinds(await journal.write_batch([record("c", 1), record("d", 1)])) == [None, None]


async def test_a_read_that_fails_says_nothing_of_what_is_stored(
    postgres_server: Postgres, postgres_proxy: Proxy
) -> None:
    url = postgres_server.url.replace(str(postgres_server.port), str(postgres_proxy.port))
    async with open_journal(f"{url}?migrate=true&connect_seconds=0.5") as journal:
        await write(journal, "p", 1)
        postgres_proxy.block()
        with pytest.raises(JournalUnavailableError) as caught:
            await journal.latest_message("p")
        assert "stored" not in str(caught.value)
        postgres_proxy.block(False)


# Servers in odd states.


async def test_connections_from_while_the_server_was_read_only_are_replaced(
    journal: PostgresJournal, postgres_schema: str, admin: Any
) -> None:
    database = "postgres"
    await write(journal, "p", 1)
    try:
        await admin.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
        async with open_journal(postgres_schema.replace("&migrate=true", "&connect_seconds=0.5")) as late:
            for work in (late.write_messages([record("q", 1)]), late.purge([("p", 1)])):
                with pytest.raises(JournalUnavailableError, match="it is read-only"):
                    await work
            assert kinds(await late.write_batch([record("q", 1)])) == ["JournalUnavailableError"]
            await admin.execute("SET default_transaction_read_only = off")
            await admin.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")
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
        await admin.execute(script.format(s=schema, earliest="", latest=""))
    for key, at in (("far", "infinity"), ("old", "0001-12-31 10:00 BC"), ("p", "2030-01-01 00:00+00")):
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
        assert kinds(await journal.write_batch([PersistentRepr("p", 2, b"{}", epoch=3)])) == [None]
        assert [(one.sequence_nr, one.epoch) for one in (await journal.records_after(offset))[0]] == [(2, 3)]


# Told as what it is.


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
        ("sslmode=verify-full&sslrootcert=/nowhere/root.crt", "sslrootcert .*no such file"),
        ("sslmode=require", "the server refuses TLS"),
        ("sslmode=perhaps", "sslmode"),
        ("conect_seconds=3", "does not take a setting of the URL .*conect_seconds"),
        ("statement_timeout=soon", "does not take a setting of the URL .*statement_timeout"),
    ],
)
async def test_a_wrong_setting_is_told_as_what_it_is_and_at_once(
    postgres_schema: str, setting: str, message: str
) -> None:
    journal = open_journal(f"{postgres_schema}&{setting}")
    async with asyncio.timeout(5):
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
    told_so = "PostgreSQL localhost:1/db (cannot be reached|does not answer)"
    with pytest.raises(JournalUnavailableError, match=told_so) as told:
        await journal.open()
    assert "hunter2" not in str(told.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"connect_seconds": float("nan")},
        {"connect_seconds": -1},
        {"connect_seconds": "5"},
        {"timeout_seconds": 0},
        {"timeout_seconds": float("inf")},
        {"timeout_seconds": None},
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


# The ends of the calendar.

EDGES = [LAST_MOMENT, FIRST_MOMENT]
OUTSIDE = [
    LAST_MOMENT + timedelta(microseconds=1),
    FIRST_MOMENT - timedelta(microseconds=1),
    datetime.max.replace(tzinfo=UTC),
    datetime.min.replace(tzinfo=UTC),
    datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
    datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
    datetime(2030, 1, 1),  # noqa: DTZ001  (naive, on purpose)
]


@pytest.mark.parametrize(
    "at", [*EDGES, datetime(9999, 12, 28, 23, 59, 59, 1, UTC), datetime(1969, 12, 31, 23, 59, 59, 7, UTC)]
)
async def test_a_moment_comes_back_as_it_was(journal: PostgresJournal, admin: Any, at: datetime) -> None:
    await journal.write_batch([record("a", 1, due_at=at)])
    await journal.write_batch([record("b", 1, due_at=at), record("c", 1), record("d", 1, due_at=datetime.now(UTC))])
    await journal.move_due([MovedDue("c", 1, at)])
    await journal.claim_due("d", datetime.max.replace(tzinfo=UTC), at)
    assert await journal.due_ids("", datetime.max.replace(tzinfo=UTC)) == [(key, at) for key in "abcd"]
    latest = await journal.latest_message("a")
    assert latest is not None
    assert latest.due_at == at
    assert not await admin.fetchval(
        f"SELECT count(*) FROM {journal.schema}.instance WHERE due_at IN ('infinity', '-infinity')"
    )


@pytest.mark.parametrize("at", OUTSIDE)
async def test_a_moment_that_cannot_be_carried_is_refused_before_anything_is_stored(
    journal: PostgresJournal, at: datetime
) -> None:
    await write(journal, "p", 1)
    assert kinds(await journal.write_batch([record("a", 1, due_at=at), record("b", 1)])) == ["InvalidEventError", None]
    for work in (
        journal.write_messages([record("a", 1, due_at=at)]),
        journal.claim_due("", EDGES[0], at),
        journal.move_due([MovedDue("p", 1, at)]),
    ):
        with pytest.raises(InvalidEventError):
            await work
    assert await journal.latest_message("a") is None


# For people, and for others than the owner.


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
                async with asyncio.timeout(5):
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
