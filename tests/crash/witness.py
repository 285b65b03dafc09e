"""What is in the journal, as another program sees it: read with the database's own driver, without Sagalog."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs
from zlib import crc32

import asyncpg
import nats
import nats.errors
import nats.js.errors

History = dict[str, list[dict[str, Any]]]


class Witness(Protocol):
    """Reads the journal of a folder: the file in it, or what its file `url` names."""

    async def durable(self, persistence_id: str, sequence_nr: int) -> bool:
        """Say whether that record is stored."""

    async def read(self) -> tuple[History, list[str]]:
        """Return every record by id, in order, and the ids that are live. Raises AssertionError for a gap."""

    async def close(self) -> None: ...


def witness(folder: Path) -> Witness:
    """Return the witness of a folder's journal."""
    url = url_of(folder)
    if url is None:
        return _Sqlite(folder / "shop.db")
    return _Nats(url) if url.startswith("nats://") else _Postgres(url)


def url_of(folder: Path, worker: int = 0) -> str | None:
    """Return the URL of a folder's journal, None for the file in it. Each worker may have a way of its own there."""
    path = folder / "url"
    if not path.exists():
        return None
    ways = path.read_text().split()
    return ways[worker % len(ways)]


def read(folder: Path) -> tuple[History, list[str]]:
    """Return what the witness of a folder reads."""

    async def once() -> tuple[History, list[str]]:
        reading = witness(folder)
        try:
            return await reading.read()
        finally:
            await reading.close()

    with ThreadPoolExecutor(1) as thread:  # the caller may run in an event loop of its own
        return thread.submit(asyncio.run, once()).result()


def _collect(
    rows: Iterable[tuple[str, int, bytes]], newest: Iterable[tuple[str, int, bool]]
) -> tuple[History, list[str]]:
    history: History = defaultdict(list)
    for persistence_id, sequence_nr, payload in rows:
        history[persistence_id].append(json.loads(payload) if payload else {})  # an empty tombstone
        assert sequence_nr == len(history[persistence_id]), "a gap in the sequence numbers"
    ends = list(newest)
    assert {row[0]: row[1] for row in ends} == {name: len(steps) for name, steps in history.items()}
    return history, [row[0] for row in ends if not row[2]]


class _Sqlite:
    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)

    async def durable(self, persistence_id: str, sequence_nr: int) -> bool:
        query = """SELECT count(*) FROM instance i JOIN record r ON r.record_id = i.record_id
                   WHERE i.persistence_id = ? AND r.sequence_nr >= ?"""
        return bool(self._connection.execute(query, (persistence_id, sequence_nr)).fetchone()[0])

    async def read(self) -> tuple[History, list[str]]:
        assert self._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return _collect(
            self._connection.execute(
                """SELECT i.persistence_id, r.sequence_nr, r.payload
                   FROM record r JOIN instance i USING (instance_id) ORDER BY 1, 2"""
            ),
            self._connection.execute("SELECT persistence_id, sequence_nr, deleted FROM instance"),
        )

    async def close(self) -> None:
        self._connection.close()


class _Postgres:
    def __init__(self, url: str) -> None:
        self._url, _, query = url.partition("?")
        (self._schema,) = parse_qs(query)["schema"]
        self._connection: Any = None
        self._one_at_a_time = asyncio.Lock()

    async def _fetch(self, query: str, *arguments: Any) -> list[Any]:
        async with self._one_at_a_time:
            while True:  # the server may be away
                try:
                    if self._connection is None or self._connection.is_closed():
                        self._connection = await asyncpg.connect(self._url)
                    return await self._connection.fetch(query, *arguments)  # type: ignore[no-any-return]
                except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                    await asyncio.sleep(0.05)

    async def durable(self, persistence_id: str, sequence_nr: int) -> bool:
        query = f"SELECT count(*) FROM {self._schema}.record WHERE persistence_id = $1 AND sequence_nr = $2"
        return bool((await self._fetch(query, persistence_id.encode(), sequence_nr))[0][0])

    async def read(self) -> tuple[History, list[str]]:
        records = await self._fetch(
            f"SELECT persistence_id, sequence_nr, payload FROM {self._schema}.record ORDER BY 1, 2"
        )
        newest = await self._fetch(f"SELECT persistence_id, sequence_nr, deleted FROM {self._schema}.instance")
        return _collect(
            [(row[0].decode(), row[1], row[2]) for row in records],
            [(row[0].decode(), row[1], row[2]) for row in newest],
        )

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()


class _Nats:
    def __init__(self, url: str) -> None:
        self._servers, _, query = url.partition("?")
        (self._stream,) = parse_qs(query)["stream"]
        self._client: Any = None
        self._one_at_a_time = asyncio.Lock()

    async def _get(self, **where: Any) -> tuple[str, int, bool, bytes, int] | None:
        """Return (id, number, tombstone, payload, place) of a message, as the stream's leader has it."""
        while True:
            try:
                if self._client is None:
                    self._client = await nats.connect(
                        self._servers.split(","), max_reconnect_attempts=-1, reconnect_time_wait=0, error_cb=_quiet
                    )
                message = await self._client.jsm(timeout=2).get_msg(self._stream, **where)
            except nats.js.errors.NotFoundError:
                return None
            except (OSError, nats.errors.Error, TimeoutError):  # no leader, or no server
                await asyncio.sleep(0.1)
            else:
                head = json.loads(message.headers["Sagalog"])
                name = message.subject.rpartition(".")[2]
                return name, head["nr"], head.get("deleted", False), message.data or b"", message.seq

    async def durable(self, persistence_id: str, sequence_nr: int) -> bool:
        family, token = "::".join(persistence_id.split("::")[:2]), persistence_id
        subject = f"{self._stream}.record.{crc32(persistence_id.encode()) % 64}.{family}.{token}"
        async with self._one_at_a_time:
            newest = await self._get(subject=subject)
        return newest is not None and newest[1] >= sequence_nr

    async def read(self) -> tuple[History, list[str]]:
        stored: list[tuple[str, int, bool, bytes, int]] = []
        place = 1
        while (message := await self._get(seq=place, subject=f"{self._stream}.record.>", next=True)) is not None:
            stored.append(message)
            place = message[4] + 1
        newest = {name: (name, nr, deleted) for name, nr, deleted, _, _ in stored}
        return _collect([(name, nr, payload) for name, nr, _, payload, _ in stored], newest.values())

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()


async def _quiet(_: Exception) -> None: ...
