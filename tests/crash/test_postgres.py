"""PostgreSQL is killed and restarted, connections are lost before and after the commit, workers are frozen and killed."""

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

from ..servers.postgres import Postgres
from ..servers.proxy import Proxy
from . import shop
from .conftest import Zygote, kill, wait_for
from .examine import every_event_was_acknowledged, examine
from .shop import read_ledger
from .test_kill import SCALE

ORDERS = 240


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Postgres]:
    server = Postgres(tmp_path / "postgres")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def proxy(server: Postgres) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def shared(tmp_path: Path, server: Postgres, proxy: Proxy) -> Path:
    """A folder whose workers reach the server through the proxy."""
    asyncio.run(migrate_journal(f"{server.url}?schema=shop"))
    through = server.url.replace(str(server.port), str(proxy.port))
    (tmp_path / "url").write_text(f"{through}?schema=shop")
    return tmp_path


def test_nothing_is_lost_and_nothing_happens_twice_whatever_breaks(
    zygote: Zygote, shared: Path, server: Postgres, proxy: Proxy, seed: int
) -> None:
    chance = random.Random(seed)
    faults: Counter[str] = Counter()
    workers = [zygote.spawn(shared, ORDERS, chance.randrange(10**6)) for _ in range(3)]
    for pid in workers:
        wait_for(shared, f'{{"ready": {pid}}}')
    for _ in range(max(4, int(24 * SCALE))):
        time.sleep(chance.random() * 0.15)
        fault = chance.choice(
            ["answer lost", "request lost", "connections cut", "server killed", "server shut down", "worker frozen"]
            + ["worker killed"] * 2
        )
        faults[fault] += 1
        if fault == "answer lost":
            proxy.lose("answer")
        elif fault == "request lost":
            proxy.lose("request")
        elif fault == "connections cut":
            proxy.cut()
        elif fault == "server killed":
            server.kill()
            server.start()
        elif fault == "server shut down":
            server.stop(signal.SIGQUIT)
            server.start()
        elif fault == "worker frozen":
            pid = chance.choice(workers)
            kill(pid, signal.SIGSTOP)
            time.sleep(shop.LEASE_SECONDS * 1.5)
            kill(pid, signal.SIGCONT)
        else:
            place = chance.randrange(len(workers))
            kill(workers[place])
            zygote.wait(workers[place])
            workers[place] = zygote.spawn(shared, ORDERS, chance.randrange(10**6))
    through = sum("done" in note for note in read_ledger(shared / "ledger"))
    ended = [zygote.wait(pid) for pid in workers]
    print(f"{dict(faults)}, {through} workers through before the last of them")
    assert ended == [{"exit": 0}] * 3, faults
    every_event_was_acknowledged(shared, ORDERS)
    result = examine(shared, ORDERS, frozen=True)
    assert result["completed"] + result["compensated"] == ORDERS, (result, faults)
    assert len(faults) > 3, faults


@pytest.mark.parametrize("lost", ["answer", "request"])
def test_a_step_whose_commit_got_no_answer_is_found_out_and_not_done_twice(
    zygote: Zygote, shared: Path, proxy: Proxy, seed: int, lost: str
) -> None:
    pid = zygote.spawn(shared, 60, seed)
    wait_for(shared, f'{{"ready": {pid}}}')
    for _ in range(10):
        proxy.lose(lost)
        time.sleep(0.03)
    assert zygote.wait(pid) == {"exit": 0}
    every_event_was_acknowledged(shared, 60)
    examine(shared, 60, frozen=True)


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
