"""Servers to measure: what the environment names, or one from a wheel, started for the run; and their bare rates."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4


@contextmanager
def server(journal: str, folder: Path) -> Iterator[str]:
    """Give the URL of an empty journal that is made at open. NATS: three replicas on this machine."""
    name = f"bench_{uuid4().hex[:8]}"
    if journal == "postgres":
        given = os.environ.get("SAGALOG_TEST_POSTGRES")
        if given:
            yield f"{given}?schema={name}&migrate=true"
            return
        from tests.servers.postgres import Postgres

        database = Postgres(folder / "postgres")
        database.start()
        yield f"{database.url}?schema={name}&migrate=true"
        database.stop()
        return
    given = os.environ.get("SAGALOG_TEST_NATS")
    if given:
        yield f"{given}?stream={name}&replicas=3&migrate=true"
        return
    from tests.servers.nats import Nats

    cluster = Nats(folder / "nats")
    cluster.start()
    yield f"{cluster.url}?stream={name}&replicas=3&migrate=true"
    cluster.stop()


async def bare_postgres(url: str, batches: list[int], size: int, seconds: float, callers: int) -> float:
    """Write rows of that size in those batches by upserts from unnest, with history, one statement each; rows a second."""
    import asyncpg

    connection = await asyncpg.connect(url.partition("?")[0])
    await connection.execute("CREATE TABLE bare_newest (id bytea PRIMARY KEY, nr bigint, due_at timestamptz)")
    await connection.execute("CREATE TABLE bare (id bytea, nr bigint, payload bytea, PRIMARY KEY (id, nr))")
    payload, number = b"x" * size, 0
    started = time.perf_counter()
    for batch in batches:
        rows = range(number, number + batch)
        ids = [f"saga::order::order-{n // (callers * 5) * callers + n % callers}".encode() for n in rows]
        await connection.execute(
            """WITH input AS (SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bytea[]) AS i (id, nr, payload)),
                    won AS (INSERT INTO bare_newest AS b SELECT id, nr, now() FROM input ON CONFLICT (id) DO UPDATE
                            SET nr = excluded.nr, due_at = excluded.due_at WHERE b.nr = excluded.nr - 1 RETURNING id)
               INSERT INTO bare SELECT input.* FROM input JOIN won USING (id)""",
            ids,
            [n // callers % 5 + 1 for n in rows],
            [payload] * batch,
        )
        number += batch
        if time.perf_counter() - started > seconds:
            break
    elapsed = time.perf_counter() - started
    await connection.execute("DROP TABLE bare, bare_newest")
    await connection.close()
    return number / elapsed


async def bare_nats(url: str, size: int, seconds: float, callers: int) -> float:
    """Publish messages of that size with compare-and-set, so many at a time; messages a second."""
    import nats

    client = await nats.connect(url.partition("?")[0].split(","))
    stream: Any = client.jetstream()
    name = f"bare_{uuid4().hex[:8]}"
    await stream.add_stream(name=name, subjects=[f"{name}.>"], num_replicas=3)
    payload, done = b"x" * size, 0
    end = time.perf_counter() + seconds

    async def caller(number: int) -> None:
        nonlocal done
        order = 0
        while time.perf_counter() < end:
            last = 0
            for _ in range(5):
                headers = {"Nats-Expected-Last-Subject-Sequence": str(last)}
                last = (await stream.publish(f"{name}.{number}-{order}", payload, headers=headers, timeout=30)).seq
                done += 1
            order += 1

    started = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(callers)))
    elapsed = time.perf_counter() - started
    await stream.delete_stream(name)
    await client.close()
    return done / elapsed
