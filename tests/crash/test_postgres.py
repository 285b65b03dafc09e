"""PostgreSQL is killed and restarted, connections are lost before and after the commit, workers are frozen and killed."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from sagalog.journal import migrate_journal

from ..servers.postgres import Postgres
from ..servers.proxy import Proxy
from . import shop
from .conftest import Zygote, wait_for
from .crew import Crew, clocks_ten_seconds_apart
from .examine import every_event_was_acknowledged, examine
from .test_kill import SCALE

ORDERS = 240


@pytest.fixture
def shared(tmp_path: Path, postgres_server: Postgres, postgres_proxy: Proxy) -> Path:
    """A folder whose workers reach the server through the proxy."""
    asyncio.run(migrate_journal(f"{postgres_server.url}?schema=shop"))
    through = postgres_server.url.replace(str(postgres_server.port), str(postgres_proxy.port))
    (tmp_path / "url").write_text(f"{through}?schema=shop")
    return tmp_path


def test_nothing_is_lost_and_nothing_happens_twice_whatever_breaks(
    zygote: Zygote, shared: Path, postgres_server: Postgres, postgres_proxy: Proxy, seed: int
) -> None:
    crew = Crew(zygote, shared, ORDERS, seed)
    faults: Counter[str] = Counter()
    for _ in range(max(4, int(24 * SCALE))):
        time.sleep(crew.chance.random() * 0.15)
        fault = crew.chance.choice(
            ["answer lost", "request lost", "connections cut", "server killed", "server shut down", "worker frozen"]
            + ["worker killed"] * 2
        )
        faults[fault] += 1
        if fault == "answer lost":
            postgres_proxy.lose("answer")
        elif fault == "request lost":
            postgres_proxy.lose("request")
        elif fault == "connections cut":
            postgres_proxy.cut()
        elif fault == "server killed":
            postgres_server.kill()
            postgres_server.start()
        elif fault == "server shut down":
            postgres_server.stop(signal.SIGQUIT)
            postgres_server.start()
        elif fault == "worker frozen":
            crew.freeze_one(shop.LEASE_SECONDS * 1.5)
        else:
            crew.replace_one()
    crew.finish(faults)
    assert len(faults) > 3, faults


@pytest.mark.parametrize("lost", ["answer", "request"])
def test_a_step_whose_commit_got_no_answer_is_found_out_and_not_done_twice(
    zygote: Zygote, shared: Path, postgres_proxy: Proxy, seed: int, lost: str
) -> None:
    pid = zygote.spawn(shared, 60, seed)
    wait_for(shared, f'{{"ready": {pid}}}')
    for _ in range(10):
        postgres_proxy.lose(lost)
        time.sleep(0.03)
    assert zygote.wait(pid) == {"exit": 0}
    every_event_was_acknowledged(shared, 60)
    examine(shared, 60, frozen=True)


def test_workers_whose_clocks_are_ten_seconds_apart_fire_no_timer_early_and_lose_nothing(
    zygote: Zygote, shared: Path, seed: int
) -> None:
    clocks_ten_seconds_apart(zygote, shared, seed)
