"""Servers for the tests: one of each for the whole run, real ones, from wheels or from where the environment says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count

import pytest

from .servers.postgres import Postgres

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
