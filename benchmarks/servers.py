"""Where to keep what is measured: an SQLite file, memory, what the environment names, or a server from a wheel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

JOURNALS = ("sqlite", "postgres", "nats", "memory")


@contextmanager
def server(journal: str, folder: Path) -> Iterator[str]:
    """Give the URL of an empty journal that is made at open. NATS: three replicas on this machine."""
    name = f"bench_{uuid4().hex[:8]}"
    if journal == "memory":
        yield "memory://"
    elif journal == "sqlite":
        yield f"sqlite:///{folder.absolute()}/{name}.db"
    elif journal == "postgres":
        with postgres(folder) as url:
            yield f"{url}?schema={name}&migrate=true"
    else:
        given = os.environ.get("SAGALOG_TEST_NATS")
        if given:
            yield f"{given}?stream={name}&replicas=3&migrate=true"
            return
        from tests.servers.nats import Nats

        cluster = Nats(folder / "nats")
        cluster.start()
        try:
            yield f"{cluster.url}?stream={name}&replicas=3&migrate=true"
        finally:
            cluster.stop()


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Give the URL of a PostgreSQL database, as its drivers take it."""
    given = os.environ.get("SAGALOG_TEST_POSTGRES")
    if given:
        yield given
        return
    from tests.servers.postgres import Postgres

    database = Postgres(folder / "postgres")
    database.start()
    try:
        yield database.url
    finally:
        database.stop()


async def version_of(url: str) -> str:
    """Return the name and version of the server behind a journal's URL."""
    address = url.partition("?")[0]
    if address.startswith("postgresql:"):
        import asyncpg

        connection = await asyncpg.connect(address)
        found: str = await connection.fetchval("SHOW server_version")
        await connection.close()
        return f"PostgreSQL {found}"
    if address.startswith("nats:"):
        import nats

        client = await nats.connect(address.split(","))
        told = str(client.connected_server_version).strip("<>")
        await client.close()
        return told
    return "SQLite" if address.startswith("sqlite:") else "none"


def disk_mb(folder: Path) -> float:
    """Return how much of the disk a folder takes: the file, or all that a server from a wheel keeps there."""
    return sum(file.stat().st_blocks for file in folder.rglob("*") if file.is_file()) * 512 / 2**20
