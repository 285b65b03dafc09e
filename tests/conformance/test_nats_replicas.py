"""A list of ids from a replica that is behind: it shows neither what was purged nor less than was acknowledged."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sagalog import open_journal
from sagalog.conformance.records import record
from sagalog.journal import migrate_journal

from ..servers.nats import Nats


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Nats]:
    """Three servers of the test's own, to be frozen."""
    servers = Nats(tmp_path / "nats")
    servers.start()
    yield servers
    servers.stop()


async def test_what_was_purged_while_a_replica_was_frozen_is_not_listed(cluster: Nats) -> None:
    stream = "stream=frozen&replicas=3"
    await migrate_journal(f"{cluster.url}?{stream}")
    for turn in range(6):
        leader = cluster.leader_of("frozen")
        assert leader is not None
        behind = (leader + 1 + turn % 2) % 3
        async with open_journal(f"nats://127.0.0.1:{cluster.ports[leader]}?{stream}") as journal:
            ids = [f"{turn}-{n}" for n in range(200)]
            assert not any(await journal.write_batch([record(key, 1, deleted=True) for key in ids]))
            cluster.signal(behind, signal.SIGSTOP)
            try:
                await journal.purge([(key, 1) for key in ids])
                assert not any(
                    await journal.write_batch([record(f"stays {turn} {n}", 1, b"x" * 10_000) for n in range(200)])
                )
            finally:
                cluster.signal(behind, signal.SIGCONT)
            assert await journal.ids_by_prefix("", deleted=True) == []
            assert len(await journal.ids_by_prefix(f"stays {turn} ")) == 200
