"""The stream's leader and followers are killed and frozen, a worker is cut off, workers are frozen and killed."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from sagalog.journal import migrate_journal

from ..servers.nats import Nats
from ..servers.proxy import Proxy
from . import shop
from .conftest import Zygote
from .crew import Crew, clocks_ten_seconds_apart
from .test_kill import SCALE

ORDERS = 160
WORKERS = 3


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Nats]:
    cluster = Nats(tmp_path / "nats")
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
def way(cluster: Nats) -> Iterator[list[Proxy]]:
    """A proxy before each server: the way of one worker, which can be cut off."""
    way = [Proxy(port) for port in cluster.ports]
    yield way
    for proxy in way:
        proxy.close()


@pytest.fixture
def shared(tmp_path: Path, cluster: Nats, way: list[Proxy]) -> Path:
    asyncio.run(migrate_journal(f"{cluster.url}?stream=shop&replicas=3"))
    cut = "nats://" + ",".join(f"127.0.0.1:{proxy.port}" for proxy in way)
    urls = [f"{url}?stream=shop&replicas=3&timeout_seconds=2" for url in (cut, *[cluster.url] * (WORKERS - 1))]
    (tmp_path / "url").write_text("\n".join(urls))
    return tmp_path


def test_nothing_is_lost_and_nothing_happens_twice_whatever_breaks(
    zygote: Zygote, shared: Path, cluster: Nats, way: list[Proxy], seed: int
) -> None:
    crew = Crew(zygote, shared, ORDERS, seed, WORKERS)
    chance = crew.chance
    faults: Counter[str] = Counter()
    quick = ["worker cut off", "worker frozen", "worker killed", "answers lost", "follower killed"]
    rounds = max(3, int(4 * SCALE))
    for turn in range(rounds):
        for fault in ["leader killed" if turn % 2 == 0 else "leader frozen", *chance.sample(quick, 3)]:
            time.sleep(chance.random() * 0.2)
            faults[fault] += 1
            leader = cluster.leader_of("shop")
            if fault == "leader killed" and leader is not None:
                cluster.kill(leader)
                time.sleep(chance.random())
                cluster.start_one(leader)
            elif fault == "follower killed":
                follower = ((leader or 0) + 1 + chance.randrange(2)) % 3
                cluster.kill(follower)
                cluster.start_one(follower)
            elif fault == "leader frozen" and leader is not None:
                cluster.signal(leader, signal.SIGSTOP)
                time.sleep(1 + chance.random())
                cluster.signal(leader, signal.SIGCONT)
            elif fault == "worker cut off":
                for proxy in way:
                    proxy.block()
                time.sleep(shop.NATS_LEASE_SECONDS * 1.2)
                for proxy in way:
                    proxy.block(False)
            elif fault == "answers lost":
                for proxy in way:
                    proxy.lose("answer")
            elif fault == "worker frozen":
                crew.freeze_one(shop.NATS_LEASE_SECONDS * 1.2)
            elif fault == "worker killed":
                crew.replace_one()
    crew.finish(faults)


def test_workers_whose_clocks_are_ten_seconds_apart_fire_no_timer_early_and_lose_nothing(
    zygote: Zygote, shared: Path, seed: int
) -> None:
    clocks_ten_seconds_apart(zygote, shared, seed)
