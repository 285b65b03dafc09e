"""What is particular to PostgreSQL: what is refused at open, and what is known after a lost connection."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from sagalog import (
    DefinitionError,
    InvalidEventError,
    Journal,
    JournalFormatError,
    JournalUnavailableError,
    OutcomeUnknownError,
    PersistentRepr,
    open_journal,
)
from sagalog.conformance.records import record, replay, write
from sagalog.journal import migrate_journal
from sagalog.journal.postgres import PostgresJournal, connections
from sagalog.journal.postgres.schema import MIGRATIONS, check
from sagalog.journal.postgres.statements import microseconds

from ..servers.postgres import Postgres
from ..servers.processes import eventually
from ..servers.proxy import Proxy


@pytest.fixture
async def admin(postgres_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


def bare(url: str) -> str:
    return url.replace("&migrate=true", "")


def schema_of(url: str) -> str:
    return url.partition("schema=")[2].partition("&")[0]


# At open.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda url: url.replace("/postgres?", "/nowhere?"), "the database does not exist"),
        (lambda url: url.replace("tester@", "nobody:hunter2@"), "this user may not log in"),
        (lambda url: re.sub(r":\d+/", ":1/", url) + "&connect_seconds=0.2", "cannot be reached"),
    ],
)
async def test_what_cannot_be_connected_to_is_told_without_the_password(
    postgres_schema: str, change: Any, message: str
) -> None:
    journal = open_journal(change(postgres_schema))
    with pytest.raises(JournalUnavailableError, match=message) as caught:
        await journal.open()
    assert "hunter2" not in str(caught.value)
    with pytest.raises(JournalUnavailableError, match=message):
        await journal.write_messages([record("p", 1)])
    await journal.close()


async def test_a_wrong_password_is_told(postgres_schema: str, admin: Any, tmp_path: Any) -> None:
    if "SAGALOG_TEST_POSTGRES" in os.environ:
        pytest.skip("it changes pg_hba.conf, which is for a server that the tests have started themselves")
    await admin.execute("DROP ROLE IF EXISTS locked")
    await admin.execute("CREATE ROLE locked LOGIN PASSWORD 'right'")
    (hba,) = await admin.fetchrow("SHOW hba_file")
    with open(hba) as opened:
        before = opened.read()
    try:
        with open(hba, "w") as opened:
            opened.write("host all locked 127.0.0.1/32 scram-sha-256\n" + before)
        await admin.execute("SELECT pg_reload_conf()")
        journal = open_journal(postgres_schema.replace("tester@", "locked:hunter2@"))

        async def refused() -> bool:
            try:
                await journal.open()
            except JournalUnavailableError as error:
                assert "hunter2" not in str(error)
                return "the password is wrong" in str(error)
            return False

        await eventually(refused)
        await journal.close()
    finally:
        with open(hba, "w") as opened:
            opened.write(before)
        await admin.execute("SELECT pg_reload_conf()")


async def test_tables_of_another_program_are_refused_and_not_touched(postgres_schema: str, admin: Any) -> None:
    schema = schema_of(postgres_schema)
    await admin.execute(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.record (theirs int)")
    for work in (open_journal(postgres_schema).open(), open_journal(bare(postgres_schema)).open()):
        with pytest.raises(JournalFormatError, match="tables of another program; it was not touched"):
            await work
    assert await admin.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = $1", schema) == 1


async def test_a_newer_schema_is_refused_and_an_older_one_is_migrated(postgres_schema: str, admin: Any) -> None:
    schema = schema_of(postgres_schema)
    with pytest.raises(JournalFormatError, match="sagalog migrate --journal URL"):
        await open_journal(bare(postgres_schema)).open()
    assert "made at version" in await migrate_journal(postgres_schema)
    await admin.execute(f"UPDATE {schema}.sagalog_version SET version = 99")
    for work in (open_journal(postgres_schema).open(), migrate_journal(postgres_schema)):
        with pytest.raises(JournalFormatError, match="version 99, this code knows up to"):
            await work
    await admin.execute(f"UPDATE {schema}.sagalog_version SET version = {len(MIGRATIONS) - 1}")
    if len(MIGRATIONS) > 1:
        with pytest.raises(JournalFormatError, match="run\n? ?`sagalog migrate"):
            await open_journal(bare(postgres_schema)).open()


async def test_many_that_migrate_at_once_make_one_schema(postgres_schema: str) -> None:
    said = await asyncio.gather(*(migrate_journal(postgres_schema) for _ in range(8)))
    assert sorted("made" in one for one in said) == [False] * 7 + [True]


async def test_a_user_without_rights_is_told(postgres_schema: str, admin: Any) -> None:
    await migrate_journal(postgres_schema)
    await admin.execute("DROP ROLE IF EXISTS guest")
    await admin.execute("CREATE ROLE guest LOGIN")
    async with PostgresJournal(postgres_schema.partition("?")[0], schema=schema_of(postgres_schema)) as journal:
        await write(journal, "p", 1)
    with pytest.raises(JournalUnavailableError, match="this user lacks a right"):
        await open_journal(bare(postgres_schema).replace("tester@", "guest@")).open()


async def test_a_server_too_old_is_refused() -> None:
    class Old:
        def get_server_version(self) -> Any:
            return type("Version", (), {"major": 12})

    with pytest.raises(JournalFormatError, match="runs PostgreSQL 12; 13 or newer is needed"):
        await check(Old(), "sagalog", "here")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://x/y?schema=Robert'); DROP", "a schema's name is"),
        ("postgresql://x/y?migrate=perhaps", "migrate in a postgresql:// URL is true or false"),
        ("postgresql://x/y?connect_seconds=soon", "connect_seconds in a postgresql:// URL is a number"),
        ("postgresql://x/y?history=-1", "history is"),
    ],
)
def test_a_wrong_url_is_told(url: str, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        open_journal(url)


async def test_a_url_that_the_driver_does_not_understand_is_told() -> None:
    with pytest.raises(DefinitionError, match="the port in this postgresql:// URL"):
        open_journal("postgresql://x:port/y")
    with pytest.raises(DefinitionError, match="this is not a PostgreSQL URL: `sslmode` parameter must be one of"):
        await open_journal("postgresql://x/y?sslmode=perhaps").open()


@pytest.mark.parametrize(("package", "url"), [("asyncpg", "postgresql://x/y"), ("nats", "nats://x")])
def test_a_missing_extra_is_told_with_the_command_that_installs_it(package: str, url: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; import sagalog; sagalog.open_journal({url!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    extra = {"asyncpg": "postgres", "nats": "nats"}[package]
    assert f"MissingExtraError: a journal at {url.partition(':')[0]}:// needs the package {package}" in done.stderr
    assert f"pip install 'sagalog[{extra}]'" in done.stderr


# In use.


@pytest.fixture
async def through(postgres_server: Postgres, postgres_proxy: Proxy) -> AsyncIterator[Journal]:
    url = postgres_server.url.replace(str(postgres_server.port), str(postgres_proxy.port))
    async with open_journal(f"{url}?migrate=true") as journal:
        for number in (1, 2):  # so that the statements are prepared, and what is lost is a write
            await journal.write_messages([record("q", number)])
        await write(journal, "p", 1)
        yield journal


@pytest.mark.parametrize(("lost", "stored"), [("answer", 2), ("request", 1)])
async def test_a_connection_lost_in_a_write_is_an_unknown_outcome_and_reading_resolves_it(
    through: Journal, postgres_proxy: Proxy, lost: str, stored: int
) -> None:
    postgres_proxy.lose(lost)
    with pytest.raises(OutcomeUnknownError, match="it may be stored"):
        await through.write_messages([record("p", 2)])
    assert await through.highest_sequence_nr("p") == stored
    assert await replay(through, "p") == list(range(1, stored + 1))
    await write(through, "p", stored + 1)


async def test_reads_and_writes_wait_for_a_server_that_comes_back(through: Journal, postgres_server: Postgres) -> None:
    postgres_server.kill()
    reading = asyncio.ensure_future(through.highest_sequence_nr("p"))
    claiming = asyncio.ensure_future(through.due_ids("", asyncio.get_running_loop() and _now()))
    await asyncio.sleep(0.05)
    assert not reading.done()
    await asyncio.to_thread(postgres_server.start)
    assert await reading == 1
    assert await claiming == []
    try:
        await write(through, "p", 2)
    except OutcomeUnknownError:  # the writer's connection was the old one
        assert await through.highest_sequence_nr("p") == 1
        await write(through, "p", 2)
    assert await replay(through, "p") == [1, 2]


async def test_a_connection_that_breaks_off_while_the_schema_is_checked_is_made_again(
    through: Journal, postgres_server: Postgres, postgres_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, cuts = connections.check, iter([True, True])

    async def cut_twice(*arguments: Any) -> None:
        if next(cuts, False):
            postgres_proxy.cut()
        await real(*arguments)

    monkeypatch.setattr(connections, "check", cut_twice)
    url = postgres_server.url.replace(str(postgres_server.port), str(postgres_proxy.port))
    async with open_journal(url) as journal:
        await journal.open()
        assert next(cuts, None) is None
        assert await journal.highest_sequence_nr("p") == 1


async def test_a_server_that_stays_away_is_told_in_time(
    through: Journal, postgres_server: Postgres, postgres_proxy: Proxy
) -> None:
    del postgres_server
    postgres_proxy.block()
    url = f"postgresql://tester@127.0.0.1:{postgres_proxy.port}/postgres?connect_seconds=0.3"
    journal = open_journal(url)
    with pytest.raises(JournalUnavailableError, match="cannot be reached"):
        await journal.write_messages([record("p", 2)])
    postgres_proxy.block(False)
    await write(journal, "p", 2)
    await journal.close()


def _now() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)


async def test_a_claim_reads_what_is_due_and_not_all_ids_where_statistics_are_missing(
    postgres_schema: str, admin: Any
) -> None:
    async with PostgresJournal.from_url(postgres_schema.partition("://")[2]) as journal:
        await admin.execute(
            f"""INSERT INTO {journal.schema}.instance (persistence_id, sequence_nr, deleted, due_at)
                SELECT ('saga::order::' || n)::bytea, 1, false, now() + interval '1 day'
                FROM generate_series(1, 20000) n"""
        )
        now = microseconds(_now())
        rows = await admin.fetch(f"EXPLAIN {journal._due.claim_statement}", b"saga::order::", now, now, 500)
    reads = "\n".join(row[0] for row in rows).partition("CTE Scan")[0]
    assert "Index Scan using instance_due" in reads
    assert "instance_pkey" not in reads


@pytest.mark.parametrize(("history", "kept"), [("all", [1, 2, 3, 4, 5]), ("0", [5]), ("2", [3, 4, 5])])
async def test_history_is_kept_as_long_as_the_setting_says(postgres_schema: str, history: str, kept: list[int]) -> None:
    async with open_journal(f"{postgres_schema}&history={history}") as journal:
        await write(journal, "p", 1, 2, 3, 4, 5)
        assert await replay(journal, "p") == kept
        assert await journal.highest_sequence_nr("p") == 5


async def test_a_person_can_read_the_records_with_psql(postgres_schema: str, admin: Any) -> None:
    async with open_journal(postgres_schema) as journal:
        await journal.write_messages(
            [PersistentRepr("saga::order::1", 1, b'{"status":"running"}'), PersistentRepr("nul\x00", 1, b"{}")]
        )
    rows = await admin.fetch(
        f"SELECT persistence_id, record->>'status' FROM {schema_of(postgres_schema)}.saga ORDER BY 1"
    )
    assert [tuple(row) for row in rows] == [("nul\\000", None), ("saga::order::1", "running")]


async def test_text_with_nul_beside_the_id_is_refused_and_harms_no_neighbour(postgres_schema: str) -> None:
    async with open_journal(postgres_schema) as journal:
        results = await asyncio.gather(
            write(journal, "good", 1),
            journal.write_messages([record("bad", 1, manifest="a\x00b")]),
            return_exceptions=True,
        )
        assert [type(one) for one in results] == [type(None), InvalidEventError]
        assert await journal.ids_by_prefix("") == ["good"]


async def test_the_server_tells_the_time(postgres_schema: str) -> None:
    async with open_journal(postgres_schema) as journal:
        assert isinstance(journal, PostgresJournal)
        assert abs((await journal.server_time() - _now()).total_seconds()) < 5
