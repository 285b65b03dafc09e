"""Brokers for the tests: one server of each kind for the whole run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..servers.nats import Nats


@pytest.fixture(scope="session")
def one_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nats]:
    """A server that stays up."""
    server = Nats(tmp_path_factory.mktemp("one-nats"), servers=1)
    server.start()
    yield server
    server.stop()
