"""Brokers for the tests: one server of each kind for the whole run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from ..servers.kafka import Kafka
from ..servers.nats import Nats
from ..servers.rabbitmq import MISSING, PROGRAM, RabbitMQ
from ..servers.redis import RedisServer
from .placed import Place


@pytest.fixture(scope="session")
def one_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nats]:
    """A server that stays up."""
    server = Nats(tmp_path_factory.mktemp("one-nats"), servers=1)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def one_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that stays up."""
    server = RedisServer(tmp_path_factory.mktemp("one-redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def one_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker that stays up."""
    server = Kafka(tmp_path_factory.mktemp("one-kafka"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def one_rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """A server for all, which one test kills and starts again."""
    if not PROGRAM.exists():
        pytest.skip(MISSING)
    server = RabbitMQ(tmp_path_factory.mktemp("one-rabbitmq"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def place(one_nats: Nats) -> AsyncIterator[Place]:
    place = Place(one_nats)
    yield place
    await place.into.close()
