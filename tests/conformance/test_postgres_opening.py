"""What a PostgreSQL journal checks when it is opened: the server, the schema, the rights."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from typing import Any

import pytest

from sagalog import DefinitionError, JournalFormatError, JournalUnavailableError, open_journal
from sagalog.conformance.records import record, write
from sagalog.journal import migrate_journal
from sagalog.journal.postgres import PostgresJournal
from sagalog.journal.postgres.schema import MIGRATIONS, check

from ..servers.processes import eventually
from .named import schema_of


def bare(url: str) -> str:
    return url.replace("&migrate=true", "")


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
        with pytest.raises(JournalFormatError, match="version 99; this code knows up to"):
            await work
    await admin.execute(f"UPDATE {schema}.sagalog_version SET version = {len(MIGRATIONS) - 1}")
    if len(MIGRATIONS) > 1:
        with pytest.raises(JournalFormatError, match="run\n? ?`sagalog migrate"):
            await open_journal(bare(postgres_schema)).open()


async def test_tables_that_do_not_say_their_version_are_told(postgres_schema: str, admin: Any) -> None:
    await migrate_journal(postgres_schema)
    await admin.execute(f"DELETE FROM {schema_of(postgres_schema)}.sagalog_version")
    for work in (open_journal(bare(postgres_schema)).open(), migrate_journal(postgres_schema)):
        with pytest.raises(JournalFormatError, match="does not say its version"):
            await work


@pytest.mark.parametrize("name", ["select", "pg_mine"])
async def test_a_name_that_postgresql_keeps_for_itself_is_refused(postgres_schema: str, name: str) -> None:
    with pytest.raises(DefinitionError, match=f"does not allow a schema named '{name}': choose another name"):
        await migrate_journal(postgres_schema.replace(schema_of(postgres_schema), name))


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
        ("postgresql://x/y?schema=Robert'); DROP", "a schema's name may have up to 63"),
        ("postgresql://x/y?migrate=perhaps", "migrate in a postgresql:// URL is true or false"),
        ("postgresql://x/y?connect_seconds=soon", "connect_seconds in a postgresql:// URL is a number"),
        ("postgresql://x/y?history=-1", "history must be"),
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


async def test_what_a_user_may_not_write_is_told_by_examine(postgres_schema: str, admin: Any) -> None:
    """One who may write nothing is there to look; one who may write some of it is a worker whose steps are refused."""
    schema = schema_of(postgres_schema)
    async with open_journal(postgres_schema) as journal:
        assert [one.level for one in await journal.examine()] == ["ok", "ok"]  # type: ignore[attr-defined]
    await admin.execute(f"DROP ROLE IF EXISTS looker_{schema}")
    await admin.execute(f"CREATE ROLE looker_{schema} LOGIN")
    try:
        await admin.execute(f"GRANT USAGE ON SCHEMA {schema} TO looker_{schema}")
        await admin.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO looker_{schema}")
        async with open_journal(bare(postgres_schema).replace("tester@", f"looker_{schema}@")) as looker:
            assert "this user may only read" in (await looker.examine())[-1].text  # type: ignore[attr-defined]
            assert all(one.level == "ok" for one in await looker.examine())  # type: ignore[attr-defined]
            await admin.execute(f"GRANT INSERT, UPDATE, DELETE ON {schema}.instance TO looker_{schema}")
            await admin.execute(f"GRANT UPDATE, DELETE ON {schema}.record TO looker_{schema}")
            (told,) = [one for one in await looker.examine() if one.level == "fail"]  # type: ignore[attr-defined]
            assert told.name == "writable"
            assert "lacks the right to INSERT on record" in told.text
    finally:
        await admin.execute(f"DROP OWNED BY looker_{schema}; DROP ROLE looker_{schema}")
