"""Write what this version leaves in a journal, to be read by the tests of all later ones: run once for each release.

    python scripts/released_fixtures.py postgresql://tester@127.0.0.1:5432/postgres

It makes tests/fixtures/released/VERSION: a SQLite file, an export, the tables of PostgreSQL with their rows, and what is in
them as this version sees it. It refuses to write a folder that is there: what was released stays as it was.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import asyncpg  # noqa: E402

from sagalog import (  # noqa: E402
    Journal,
    ManualClock,
    RetryPolicy,
    RunnerSettings,
    SagalogError,
    SagaRunner,
    SqliteJournal,
    __version__,
    open_journal,
)
from sagalog.journal.postgres import schema as tables  # noqa: E402
from sagalog.operating.transfer import bring, export_lines, read_export  # noqa: E402
from tests.released import sagas  # noqa: E402
from tests.released.seen import seen  # noqa: E402

BEGUN = datetime(2026, 12, 1, 9, tzinfo=UTC)


async def live(journal: Journal) -> None:
    """Let instances of all kinds come to where they stand in the fixtures."""
    never = RetryPolicy(attempts=1, base=timedelta(0))
    settings = RunnerSettings(
        handler_retry=never,
        dispatch_retry=RetryPolicy(base=timedelta(minutes=1), cap=timedelta(minutes=1)),
        retention=timedelta(days=3650),
        stop_timeout=timedelta(0),
    )
    clock = ManualClock(BEGUN)
    runner = SagaRunner(journal, sagas=sagas.SAGAS, dispatch=sagas.Outside(away=True), clock=clock, settings=settings)
    async with runner:
        for order in ("running", "undelivered", "parked", "finished", "compensated", "refused", "cancelled"):
            await handled(runner, sagas.Placed(order, customer=f"customer of {order}"))
            clock.advance(timedelta(minutes=1))
        await handled(runner, sagas.Paid("undelivered"))
        await handled(runner, sagas.Paid("refused"))
        await handled(runner, sagas.Broken("parked"))
        await handled(runner, sagas.Paid("parked"))
        await handled(runner, sagas.Closed("finished"))
        await handled(runner, sagas.Closed("compensated", "taken back"))
        await runner.cancel(sagas.OrderSaga, "cancelled", note="as the customer wished", by="the fixtures")
        for event in (sagas.Opened("running"), sagas.Packed("running"), sagas.Booked("running")):
            await handled(runner, event)
        for event in (sagas.Shipped("running", 7), sagas.Reading("running", 1), sagas.Reading("running", 3)):
            await handled(runner, event)
        await handled(runner, sagas.Late("running"))
        clock.advance(timedelta(hours=1))


async def handled(runner: SagaRunner, event: Any) -> None:
    """Handle an event, and let the commands of its step leave."""
    try:
        await runner.handle(event, message_id=f"{type(event).__name__} {json.dumps(vars(event))}")
    except* SagalogError:
        pass  # parked, or no saga expects it: also what a release leaves behind
    for _ in range(20):  # what hangs does not settle
        await asyncio.sleep(0.01)


async def rows(url: str, schema: str) -> AsyncIterator[str]:
    """Yield the tables of PostgreSQL, as this version makes them, and their rows, as SQL. `{s}`: the schema."""
    yield "CREATE TABLE {s}.sagalog_version (version int NOT NULL);\n"
    yield f"INSERT INTO {{s}}.sagalog_version VALUES ({len(tables.MIGRATIONS)});\n"
    for script in tables.MIGRATIONS:
        for name, moment in tables._MOMENTS.items():
            script = script.replace(f"{{{name}}}", moment)
        yield script
    connection = await asyncpg.connect(url)
    try:
        for table, order in (("instance", "persistence_id"), ("record", "ordinal")):
            columns = [
                one[0]
                for one in await connection.fetch(
                    "SELECT column_name FROM information_schema.columns "
                    "WHERE table_schema = $1 AND table_name = $2 ORDER BY ordinal_position",
                    schema,
                    table,
                )
            ]
            values = ", ".join(f"quote_nullable({one})" for one in columns)
            found = await connection.fetch(f"SELECT concat_ws(', ', {values}) FROM {schema}.{table} ORDER BY {order}")
            for row in found:
                yield f"INSERT INTO {{s}}.{table} ({', '.join(columns)}) VALUES ({row[0]});\n"
        yield "SELECT setval('{s}.record_ordinal', (SELECT max(ordinal) FROM {s}.record));\n"
        await connection.execute(f"DROP SCHEMA {schema} CASCADE")
    finally:
        await connection.close()


async def write(folder: Path, url: str) -> None:
    """Write all files of this version."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "orders.db"
        async with SqliteJournal(path) as journal:
            await live(journal)
            lines = [line async for line in export_lines(journal, at=BEGUN)]
            found = await seen(journal)
        folder.mkdir(parents=True)
        target = sqlite3.connect(folder / "orders.db")
        with sqlite3.connect(path) as source:
            source.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            source.backup(target)
        target.execute("PRAGMA journal_mode = DELETE")
        target.execute("VACUUM")
        target.close()
    (folder / "export.jsonl").write_bytes(b"".join(line.rstrip(b"\n") + b"\n" for line in lines))
    (folder / "seen.json").write_text(json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    schema = "released_fixtures"
    async with open_journal(f"{url}?schema={schema}&migrate=true") as journal:
        for records in read_export(lines):
            await bring(journal, records)
    (folder / "postgres.sql").write_text("".join([part async for part in rows(url, schema)]))


def main() -> None:
    """Write the fixtures of this version."""
    folder = ROOT / "tests" / "fixtures" / "released" / __version__
    if folder.exists():
        raise SystemExit(f"{folder} is there: what was released stays as it was. Delete it only before the release.")
    asyncio.run(write(folder, sys.argv[1]))
    sizes = ", ".join(f"{one.name} {one.stat().st_size:,} bytes" for one in sorted(folder.iterdir()))
    print(f"{folder.relative_to(ROOT)}: {sizes}")


if __name__ == "__main__":
    main()
