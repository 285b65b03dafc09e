"""kill -9 within, and right behind, a transaction of the application: its rows and the step are both there, or neither."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from sagalog import RunnerSettings, SagaRunner

from ..orders import OrderSaga, Placed, World
from ..servers.processes import eventually

CHILD = """
import asyncio, sys
from tests.orders import OrderSaga, Placed
from tests.runner.callers import of_psycopg, of_sqlalchemy, of_sqlite3
from datetime import timedelta
from sagalog import RunnerSettings, SagaRunner

url, place, kind = sys.argv[1:]
begin = {"sqlite3": of_sqlite3, "psycopg": of_psycopg, "sqlalchemy": of_sqlalchemy}[kind](place)

async def main():
    runner = SagaRunner(url, sagas=[OrderSaga], client=True, settings=RunnerSettings(lease=timedelta(seconds=60)))
    async with runner, begin() as transaction:
        await transaction.execute("INSERT INTO shop_rows VALUES ('a')")
        await runner.handle(Placed("a"), message_id="1", connection=transaction.connection)
        print("stepped", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await transaction.commit()
        print("committed", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["sqlite3", "psycopg", "sqlalchemy"])
@pytest.mark.parametrize("commits", [False, True])
async def test_rows_and_step_survive_together_or_not_at_all(
    kind: str, commits: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "sqlite3":
        place = str(tmp_path / "shop.db")
        url = f"sqlite:///{place}"
    else:
        url = request.getfixturevalue("postgres_schema")
        place = url.partition("?")[0]
        if kind == "sqlalchemy":
            place = place.replace("postgresql:", "postgresql+asyncpg:")
    world = World()
    settings = RunnerSettings(lease=timedelta(seconds=60), due_poll=timedelta(milliseconds=50))
    async with SagaRunner(url, sagas=[OrderSaga], dispatch=world, settings=settings) as worker:
        await _execute(kind, place, "CREATE TABLE IF NOT EXISTS shop_rows (id TEXT)")
        await _execute(kind, place, "DELETE FROM shop_rows")
        child = await _start(url, place, kind, tmp_path)
        assert child.stdin is not None
        assert child.stdout is not None
        assert await child.stdout.readline() == b"stepped\n"
        if commits:
            child.stdin.write(b"\n")
            assert await child.stdout.readline() == b"committed\n"
        child.send_signal(signal.SIGKILL)
        await child.wait()
        if commits:
            await eventually(lambda: world.seen, seconds=40)  # the lease is a minute
        (rows,) = await _execute(kind, place, "SELECT count(*) FROM shop_rows")
        assert rows[0] == int(commits)
        again = await worker.handle(Placed("a"), message_id="1")
        assert again.duplicate is commits
        await eventually(lambda: len(world.seen) == 1)


async def _start(url: str, place: str, kind: str, folder: Path) -> asyncio.subprocess.Process:
    root = Path(__file__).parents[2]
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CHILD, url, place, kind),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


async def _execute(kind: str, place: str, statement: str) -> list[Any]:
    if kind == "sqlite3":
        connection = sqlite3.connect(place, isolation_level=None)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()
    server = await asyncpg.connect(place.replace("+asyncpg", ""))
    try:
        return list(await server.fetch(statement))
    finally:
        await server.close()
