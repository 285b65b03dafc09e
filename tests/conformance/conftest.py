"""Servers that the tests of a journal share: one NATS server, and the PostgreSQL of the whole run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import count
from typing import Any

import asyncpg
import nats
import pytest

from ..servers.nats import Nats

_streams = count()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nats]:
    """One NATS server with users."""
    extra = "authorization { users: [{user: shop, password: right}] }\n"
    server = Nats(tmp_path_factory.mktemp("nats-one"), 1, extra=extra)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def url(server: Nats) -> str:
    """The URL of a stream on it that is not there yet."""
    return f"nats://shop:right@127.0.0.1:{server.ports[0]}?stream=stream_{next(_streams)}"


@pytest.fixture
async def js(server: Nats) -> AsyncIterator[Any]:
    """JetStream on that server."""
    client = await nats.connect(f"nats://shop:right@127.0.0.1:{server.ports[0]}")
    yield client.jetstream()
    await client.close()


@pytest.fixture
async def admin(postgres_url: str) -> AsyncIterator[Any]:
    """A connection to PostgreSQL as its owner."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()
