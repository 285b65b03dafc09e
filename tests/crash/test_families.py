"""kill -9 in the middle of families: one child for each start, each end heard once, and parents taken back last."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sagalog.journal import migrate_journal

from ..servers.nats import Nats
from ..servers.postgres import Postgres
from .conftest import Zygote, kill, wait_for
from .shipping import PARCELS, POINTS, kind
from .shop import read_ledger
from .test_kill import SCALE
from .witness import read


def killed_by_turns(zygote: Zygote, folder: Path, orders: int, seed: int, kills: int) -> None:
    """Kill one of two workers again and again; then the last ones finish."""
    chance = random.Random(seed)

    def spawn() -> int:
        return zygote.spawn(folder, orders, chance.randrange(10**6), world="families")

    alive = [spawn(), spawn()]
    for turn in range(kills):
        wait_for(folder, f'{{"ready": {alive[turn % 2]}}}')
        time.sleep(chance.choice([0.01, 0.03, 0.1]) * chance.random())  # the moment is what is tested
        kill(alive[turn % 2])
        zygote.wait(alive[turn % 2])
        alive[turn % 2] = spawn()
    ended = [zygote.wait(pid) for pid in alive]
    examine(folder, orders)  # it says more than how the workers ended
    assert ended == [{"exit": 0}] * 2


def examine(folder: Path, orders: int) -> None:
    """Compare what was carried out, by the ledger outside, with what the journal says in the end."""
    history, live = read(folder)
    assert live == []
    done: dict[tuple[str, str], set[str]] = defaultdict(set)
    first: dict[tuple[str, str], int] = {}
    for place, note in enumerate(read_ledger(folder / "ledger")):
        if "command" in note:
            assert note["durable"], f"{note['id']} left before its step was stored"
            done[note["command"], note["of"]].add(note["id"])
            first.setdefault((note["command"], note["of"]), place)
    for (command, of), under in done.items():
        assert len(under) == 1, f"{command} {of} was carried out under {sorted(under)}: more than one made it"
    last = {name.removeprefix("saga::"): steps[-1] for name, steps in history.items()}
    for n in range(orders):
        _examine_order(last, done, first, f"o{n}")
        assert last[f"parcel::p{n}"]["status"] == "completed"
        assert last[f"parcel::p{n}"]["child_ends"] == {"completed": 2}
        assert {command for command, of in done if of.startswith(f"p{n}-")} == {"Carry"}


def _examine_order(last: dict[str, Any], done: Any, first: Any, order: str) -> None:
    parcels = [f"{order}-{n}" for n in range(PARCELS)]
    statuses = {parcel: last[f"parcel::{parcel}"]["status"] for parcel in parcels}
    for parcel in parcels:
        assert ("Carry", parcel) in done
        assert (("CarryBack", parcel) in done) is (statuses[parcel] == "compensated"), parcel
    heard = [told.partition(" ")[0] for told in last[f"order::{order}"]["state"]["ended"]]
    assert len(heard) == len(set(heard)), f"{order} heard of a child twice: {heard}"
    if kind(order) != 1:
        assert last[f"order::{order}"]["status"] == "completed"
        assert sorted(heard) == parcels
        lost = [f"{order}-0"] if kind(order) == 0 else []
        assert [parcel for parcel in parcels if statuses[parcel] == "compensated"] == lost
        assert not {("Fetch", parcel) for parcel in parcels} & set(done)
        return
    assert last[f"order::{order}"]["status"] == "compensated"
    for parcel in parcels:
        assert (("Fetch", parcel) in done) is (statuses[parcel] == "completed"), parcel
    undone = [first["CarryBack", parcel] for parcel in parcels if statuses[parcel] == "compensated"]
    assert undone, "nothing was stopped: the test proves nothing"
    assert max(undone) < first["Release", order], f"{order} was undone before its children were"


def test_on_sqlite_each_start_makes_one_child_and_each_end_is_heard_once(
    zygote: Zygote, folder: Path, seed: int
) -> None:
    killed_by_turns(zygote, folder, 18, seed, int(16 * SCALE))


def test_killed_at_each_named_point_a_family_comes_to_its_end(zygote: Zygote, folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    orders = 6
    points = POINTS * max(1, int(SCALE))
    chance.shuffle(points)
    for point in points:
        for _ in range(5):
            ended = zygote.wait(zygote.spawn(folder, orders, chance.randrange(10**6), point, 1, world="families"))
            if ended == {"signal": signal.SIGKILL}:
                break
            orders += 3  # it was through before it came there: more to do
        else:
            examine(folder, orders)
            raise AssertionError(f"nothing passes {point!r}: the test proves nothing")
    assert zygote.wait(zygote.spawn(folder, orders, seed, world="families")) == {"exit": 0}
    examine(folder, orders)
    assert {note["killed"] for note in read_ledger(folder / "ledger") if "killed" in note} == set(POINTS)


def test_on_postgresql_each_start_makes_one_child_and_each_end_is_heard_once(
    zygote: Zygote, tmp_path: Path, postgres_server: Postgres, seed: int
) -> None:
    url = f"{postgres_server.url}?schema=families"
    asyncio.run(migrate_journal(url))
    (tmp_path / "url").write_text(url)
    killed_by_turns(zygote, tmp_path, 12, seed, int(6 * SCALE))


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[Nats]:
    server = Nats(tmp_path / "nats", servers=1)
    server.start()
    yield server
    server.stop()


def test_on_nats_each_start_makes_one_child_and_each_end_is_heard_once(
    zygote: Zygote, tmp_path: Path, nats: Nats, seed: int
) -> None:
    url = f"{nats.url}?stream=families&replicas=1&timeout_seconds=2"
    asyncio.run(migrate_journal(url))
    (tmp_path / "url").write_text(url)
    killed_by_turns(zygote, tmp_path, 6, seed, int(3 * SCALE))
