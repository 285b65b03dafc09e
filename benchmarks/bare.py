"""What the engines themselves can do: rows of the same size in the same batches, with nothing between."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4


@dataclass(frozen=True)
class Work:
    """What to write: rows of `size` bytes in commits of so many rows, of so many sagas that take turns, for so long."""

    batches: list[int]
    size: int
    callers: int
    seconds: float

    def order(self, n: int) -> str:
        """Return the id of row n: all callers' first steps, their second, to their fifth, then their next orders."""
        return f"saga::order::order-{n // (self.callers * 5) * self.callers + n % self.callers}"

    def step(self, n: int) -> int:
        return n // self.callers % 5 + 1


@dataclass(frozen=True)
class Rate:
    """Rows a second, and the mean time of a commit."""

    rows_per_second: float
    commit_ms: float


async def bare(url: str, folder: Path, work: Work) -> Rate | None:
    """Measure the engine behind a journal's URL; None where there is none (memory)."""
    if url.startswith("sqlite:"):
        return _sqlite(folder / "bare.db", work)
    if url.startswith("postgresql:"):
        return await _postgres(url, work)
    if url.startswith("nats:"):
        return await _nats(url, work)
    return None


def _sqlite(path: Path, work: Work) -> Rate:
    """Write into the journal's own tables, by executemany."""
    from sagalog.journal.sqlite.schema import connect, prepare

    prepare(str(path), busy_seconds=5)
    connection = connect(str(path), busy_seconds=5, write=True)
    # As often as the journal does it by hand: a log that only grows is slower to write.
    connection.execute("PRAGMA wal_autocheckpoint=8000")
    connection.execute("INSERT INTO label VALUES (1, 'saga-state', 'saga-writer', '[\"saga::order\"]')")
    payload = b"x" * work.size
    number = commits = 0
    start = time.perf_counter()
    for batch in work.batches:
        rows = range(number, number + batch)
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            """INSERT INTO instance (persistence_id, sequence_nr, record_id, deleted, deleted_to, due_at)
               VALUES (?, ?, ?, 0, 0, 1) ON CONFLICT DO UPDATE SET sequence_nr = excluded.sequence_nr,
               record_id = excluded.record_id, due_at = excluded.due_at + ?4
               WHERE sequence_nr = excluded.sequence_nr - 1""",
            [(work.order(n), work.step(n), n + 1, n) for n in rows],
        )
        connection.executemany(
            """INSERT INTO record (record_id, instance_id, sequence_nr, previous_id, payload, label_id, deleted, due_at)
               VALUES (?, (SELECT instance_id FROM instance WHERE persistence_id = ?), ?, ?, ?, 1, 0, 1)""",
            [
                (n + 1, work.order(n), work.step(n), n - work.callers + 1 if work.step(n) > 1 else None, payload)
                for n in rows
            ],
        )
        connection.execute("COMMIT")
        number += batch
        commits += 1
        if time.perf_counter() - start > work.seconds:
            break
    elapsed = time.perf_counter() - start
    connection.close()
    return Rate(number / elapsed, elapsed / commits * 1000)


async def _postgres(url: str, work: Work) -> Rate:
    """Write upserts from unnest, with history, one statement for each batch."""
    import asyncpg

    connection = await asyncpg.connect(url.partition("?")[0])
    await connection.execute("CREATE TABLE bare_newest (id bytea PRIMARY KEY, nr bigint, due_at timestamptz)")
    await connection.execute("CREATE TABLE bare (id bytea, nr bigint, payload bytea, PRIMARY KEY (id, nr))")
    payload, number, commits = b"x" * work.size, 0, 0
    started = time.perf_counter()
    for batch in work.batches:
        rows = range(number, number + batch)
        await connection.execute(
            """WITH input AS (SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bytea[]) AS i (id, nr, payload)),
                    won AS (INSERT INTO bare_newest AS b SELECT id, nr, now() FROM input ON CONFLICT (id) DO UPDATE
                            SET nr = excluded.nr, due_at = excluded.due_at WHERE b.nr = excluded.nr - 1 RETURNING id)
               INSERT INTO bare SELECT input.* FROM input JOIN won USING (id)""",
            [work.order(n).encode() for n in rows],
            [work.step(n) for n in rows],
            [payload] * batch,
        )
        number += batch
        commits += 1
        if time.perf_counter() - started > work.seconds:
            break
    elapsed = time.perf_counter() - started
    await connection.execute("DROP TABLE bare, bare_newest")
    await connection.close()
    return Rate(number / elapsed, elapsed / commits * 1000)


async def _nats(url: str, work: Work) -> Rate:
    """Publish with compare-and-set, as many at a time as there are callers.

    While the stream has no leader, the message is sent again, as any client has to. Without an answer, or where the server
    finds another message before it than was expected, it may be stored: no more is asked of that order then.
    """
    import nats
    from nats.errors import TimeoutError as NoAnswerError
    from nats.js.errors import BadRequestError, NoStreamResponseError

    from sagalog.journal.nats.refusals import WRONG_LAST

    client = await nats.connect(url.partition("?")[0].split(","))
    stream: Any = client.jetstream()
    name = f"bare_{uuid4().hex[:8]}"
    await stream.add_stream(name=name, subjects=[f"{name}.>"], num_replicas=3)
    payload, done = b"x" * work.size, 0
    end = time.perf_counter() + work.seconds

    async def publish(subject: str, last: int) -> int:
        headers = {"Nats-Expected-Last-Subject-Sequence": str(last)}
        while True:
            try:
                return int((await stream.publish(subject, payload, 10, headers=headers)).seq)
            except NoStreamResponseError:
                await asyncio.sleep(0.02)

    async def caller(number: int) -> None:
        nonlocal done
        order = 0
        while time.perf_counter() < end:
            last = 0
            try:
                for _ in range(5):
                    last = await publish(f"{name}.{number}-{order}", last)
                    done += 1
            except NoAnswerError:
                pass
            except BadRequestError as error:
                if error.err_code not in WRONG_LAST:
                    raise
            order += 1

    started = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(work.callers)))
    elapsed = time.perf_counter() - started
    await stream.delete_stream(name)
    await client.close()
    return Rate(done / elapsed, elapsed / done * work.callers * 1000)
