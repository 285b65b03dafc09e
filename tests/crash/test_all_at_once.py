"""All that a saga may have at once: phases, numbers, times, deadlines, joins, gathers, results, an index; and itineraries.

Workers are killed, and nothing is lost or doubled.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sagalog.journal import migrate_journal

from ..servers.nats import Nats
from ..servers.postgres import Postgres
from ..servers.proxy import Proxy
from .conftest import Zygote
from .test_kill import SCALE
from .travelled import asked_from_outside, examine
from .travelling import POINTS
from .turns import killed_at_each_point, killed_by_turns, share


def survived(
    zygote: Zygote, folder: Path, tours: int, seed: int, kills: int, faults: Sequence[Callable[[], object]] = ()
) -> Counter[str]:
    ended = killed_by_turns(zygote, "travel", folder, tours, seed, kills, moments=(0.01, 0.05, 0.15), faults=faults)
    return verdict(folder, tours, ended)


def verdict(folder: Path, tours: int, ended: list[dict[str, int]]) -> Counter[str]:
    counted = examine(folder, tours)  # it says more than how the workers ended
    assert ended == [{"exit": 0}] * len(ended)
    asked_from_outside(folder, tours)
    print(dict(counted))
    assert counted["was kept"]
    assert counted["stamps kept"]
    assert counted["trips compensated"]
    assert counted["told"]
    return counted


def test_on_sqlite_nothing_is_lost_and_nothing_happens_twice(zygote: Zygote, folder: Path, seed: int) -> None:
    counted = survived(zygote, folder, 30, seed, int(40 * SCALE))
    assert counted["late, ignored"] + counted["late, handled"]


def test_killed_at_each_named_point_nothing_is_lost_and_nothing_happens_twice(
    zygote: Zygote, folder: Path, seed: int
) -> None:
    points = POINTS * max(1, int(SCALE))
    tours, ended = killed_at_each_point(zygote, "travel", folder, 10, seed, points, more=5)
    verdict(folder, tours, [ended])


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
    try:
        survived(zygote, on_postgres, 30, seed, int(16 * SCALE), faults)
    except AssertionError as error:
        error.add_note(postgres_server.said())
        raise


def test_on_nats_nothing_is_lost_and_nothing_happens_twice(
    zygote: Zygote, tmp_path: Path, nats: Nats, seed: int
) -> None:
    url = f"{nats.url}?stream=travel&replicas=1&timeout_seconds=2"
    share(tmp_path, url)

    def restart() -> None:
        nats.kill(0)
        nats.start_one(0)

    survived(zygote, tmp_path, 15, seed, int(6 * SCALE), [restart])
