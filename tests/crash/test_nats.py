"""The stream's leader and followers are killed and frozen, a worker is cut off, workers are frozen and killed."""

from __future__ import annotations

import asyncio
import random
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
from .conftest import Zygote, kill, wait_for
from .examine import every_event_was_acknowledged, examine
from .shop import read_ledger
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
    chance = random.Random(seed)
    faults: Counter[str] = Counter()
    workers = [zygote.spawn(shared, ORDERS, place) for place in range(WORKERS)]
    for pid in workers:
        wait_for(shared, f'{{"ready": {pid}}}')
    quick = ["worker cut off", "worker frozen", "worker killed", "answers lost", "follower killed"]
    rounds = max(3, int(4 * SCALE))
    for turn in range(rounds):
        for fault in ["leader killed" if turn % 2 == 0 else "leader frozen", *chance.sample(quick, 3)]:
            time.sleep(chance.random() * 0.2)
            faults[fault] += 1
            place = chance.randrange(WORKERS)
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
                kill(workers[place], signal.SIGSTOP)
                time.sleep(shop.NATS_LEASE_SECONDS * 1.2)
                kill(workers[place], signal.SIGCONT)
            elif fault == "worker killed":
                kill(workers[place])
                zygote.wait(workers[place])
                workers[place] = zygote.spawn(shared, ORDERS, place + WORKERS * chance.randrange(1, 10**5))
    through = sum("done" in note for note in read_ledger(shared / "ledger"))
    ended = [zygote.wait(pid) for pid in workers]
    print(f"{dict(faults)}, {through} workers through before the last of them")
    assert ended == [{"exit": 0}] * WORKERS, faults
    every_event_was_acknowledged(shared, ORDERS)
    result = examine(shared, ORDERS, frozen=True)
    assert result["completed"] + result["compensated"] == ORDERS, (result, faults)


def test_workers_whose_clocks_are_ten_seconds_apart_fire_no_timer_early_and_lose_nothing(
    zygote: Zygote, shared: Path, seed: int
) -> None:
    (shared / "skew").touch()
    workers = [zygote.spawn(shared, 200, 3 * seed + place) for place in range(3)]
    for pid in workers:
        wait_for(shared, f'{{"ready": {pid}}}')
    kill(workers[0])
    zygote.wait(workers[0])
    workers[0] = zygote.spawn(shared, 200, 3 * seed + 3)
    assert [zygote.wait(pid) for pid in workers] == [{"exit": 0}] * 3
    every_event_was_acknowledged(shared, 200)
    examine(shared, 200, frozen=True)
