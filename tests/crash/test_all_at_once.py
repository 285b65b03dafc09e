"""Phases, recurring timers, deadlines, joins, gathers, results, indexes and itineraries at once, and workers are killed."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from sagalog.journal import migrate_journal

from ..servers.nats import Nats
from ..servers.postgres import Postgres
from ..servers.proxy import Proxy
from .conftest import Zygote, kill, wait_for
from .shop import read_ledger
from .test_kill import SCALE
from .travelled import asked_from_outside, examine
from .travelling import POINTS


def killed_by_turns(
    zygote: Zygote, folder: Path, tours: int, seed: int, kills: int, faults: Sequence[Callable[[], object]] = ()
) -> Counter[str]:
    """Kill one of two workers again and again, and do what `faults` does between; then the last ones finish."""
    chance = random.Random(seed)

    def spawn() -> int:
        return zygote.spawn(folder, tours, chance.randrange(10**6), world="travel")

    alive = [spawn(), spawn()]
    for turn in range(kills):
        wait_for(folder, f'{{"ready": {alive[turn % 2]}}}')
        time.sleep(chance.choice([0.01, 0.05, 0.15]) * chance.random())  # the moment is what is tested
        kill(alive[turn % 2])
        zygote.wait(alive[turn % 2])
        alive[turn % 2] = spawn()
        if faults and turn % 2:
            chance.choice(faults)()
    ended = [zygote.wait(pid) for pid in alive]
    return verdict(folder, tours, ended)


def verdict(folder: Path, tours: int, ended: list[dict[str, int]]) -> Counter[str]:
    counted = examine(folder, tours)  # it says more than how the workers ended
    assert ended == [{"exit": 0}] * len(ended)
    asked_from_outside(folder, tours)
    print(dict(counted))
    assert counted["was kept"]
    assert counted["trips compensated"]
    assert counted["told"]
    return counted


def test_on_sqlite_nothing_is_lost_and_nothing_happens_twice(zygote: Zygote, folder: Path, seed: int) -> None:
    counted = killed_by_turns(zygote, folder, 30, seed, int(40 * SCALE))
    assert counted["late, ignored"] + counted["late, handled"]


def test_killed_at_each_named_point_nothing_is_lost_and_nothing_happens_twice(
    zygote: Zygote, folder: Path, seed: int
) -> None:
    chance = random.Random(seed)
    tours = 10
    points = POINTS * max(1, int(SCALE))
    chance.shuffle(points)
    for point in points:
        for _ in range(5):
            ended = zygote.wait(zygote.spawn(folder, tours, chance.randrange(10**6), point, 1, world="travel"))
            if ended == {"signal": signal.SIGKILL}:
                break
            tours += 5  # it was through before it came there: more to do
        else:
            examine(folder, tours)  # it says more than how the worker ended
            raise AssertionError(f"nothing passes {point!r}: the test proves nothing")
    verdict(folder, tours, [zygote.wait(zygote.spawn(folder, tours, seed, world="travel"))])
    hit = {note["killed"] for note in read_ledger(folder / "ledger") if "killed" in note}
    assert hit == set(POINTS)


@pytest.fixture
def on_postgres(tmp_path: Path, postgres_server: Postgres, postgres_proxy: Proxy) -> Path:
    asyncio.run(migrate_journal(f"{postgres_server.url}?schema=travel"))
    through = postgres_server.url.replace(str(postgres_server.port), str(postgres_proxy.port))
    (tmp_path / "url").write_text(f"{through}?schema=travel")
    return tmp_path


def test_on_postgresql_nothing_is_lost_and_nothing_happens_twice(
    zygote: Zygote, on_postgres: Path, postgres_server: Postgres, postgres_proxy: Proxy, seed: int
) -> None:
    def restart() -> None:
        postgres_server.kill()
        postgres_server.start()

    faults = [
        lambda: postgres_proxy.lose("answer"),
        lambda: postgres_proxy.lose("request"),
        postgres_proxy.cut,
        restart,
    ]
    killed_by_turns(zygote, on_postgres, 30, seed, int(16 * SCALE), faults)


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[Nats]:
    server = Nats(tmp_path / "nats", servers=1)
    server.start()
    yield server
    server.stop()


def test_on_nats_nothing_is_lost_and_nothing_happens_twice(
    zygote: Zygote, tmp_path: Path, nats: Nats, seed: int
) -> None:
    url = f"{nats.url}?stream=travel&replicas=1&timeout_seconds=2"
    asyncio.run(migrate_journal(url))
    (tmp_path / "url").write_text(url)

    def restart() -> None:
        nats.kill(0)
        nats.start_one(0)

    killed_by_turns(zygote, tmp_path, 15, seed, int(6 * SCALE), [restart])
