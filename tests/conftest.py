"""Servers for the tests: one of each for the whole run, real ones, from wheels or from where the environment says."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import nats
import nats.js.errors
import pytest

from .servers.nats import Nats
from .servers.postgres import Postgres
from .servers.proxy import Proxy

_schemas = count(1)


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL that stays up: SAGALOG_TEST_POSTGRES, or one started here."""
    given = os.environ.get("SAGALOG_TEST_POSTGRES")
    if given:
        yield given
        return
    server = Postgres(tmp_path_factory.mktemp("postgres"))
    server.start()
    yield server.url
    server.stop()


@pytest.fixture
def postgres_schema(postgres_url: str) -> str:
    """The URL of an empty schema in it, to be migrated at open."""
    return f"{postgres_url}?schema=t{os.getpid()}_{next(_schemas)}&migrate=true"


@pytest.fixture
def postgres_server(tmp_path: Path) -> Iterator[Postgres]:
    """A PostgreSQL of the test's own, to be killed."""
    server = Postgres(tmp_path / "postgres")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def postgres_proxy(postgres_server: Postgres) -> Iterator[Proxy]:
    """A way to it that loses requests and answers."""
    proxy = Proxy(postgres_server.port)
    yield proxy
    proxy.close()


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a three-node cluster that stays up: SAGALOG_TEST_NATS, or one started here."""
    given = os.environ.get("SAGALOG_TEST_NATS")
    if given:
        yield given
        return
    cluster = Nats(tmp_path_factory.mktemp("nats"))
    cluster.start()
    yield cluster.url
    cluster.stop()


@pytest.fixture
def nats_stream(nats_url: str) -> Iterator[str]:
    """The URL of a stream of three replicas that is not there yet, to be made at open; gone afterwards."""
    stream = f"t{os.getpid()}_{next(_schemas)}"
    yield f"{nats_url}?stream={stream}&replicas=3&migrate=true"

    async def drop() -> None:
        client = await nats.connect(nats_url.split(","))
        try:
            await client.jetstream().delete_stream(stream)
        except nats.js.errors.NotFoundError:
            pass
        await client.close()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, drop()).result()
