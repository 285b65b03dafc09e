"""kill -9 in the middle of families: one child for each start, each end heard once, and parents taken back last."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from ..servers.nats import Nats
from ..servers.postgres import Postgres
from .conftest import Zygote
from .shipping import PARCELS, POINTS, kind
from .shop import read_ledger
from .test_kill import SCALE
from .turns import killed_at_each_point, killed_by_turns, share
from .witness import read


def survive(zygote: Zygote, folder: Path, orders: int, seed: int, kills: int) -> None:
    ended = killed_by_turns(zygote, "families", folder, orders, seed, kills)
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
    survive(zygote, folder, 18, seed, int(16 * SCALE))


def test_killed_at_each_named_point_a_family_comes_to_its_end(zygote: Zygote, folder: Path, seed: int) -> None:
    points = POINTS * max(1, int(SCALE))
    orders, ended = killed_at_each_point(zygote, "families", folder, 6, seed, points, more=3)
    examine(folder, orders)  # it says more than how the worker ended
    assert ended == {"exit": 0}


def test_on_postgresql_each_start_makes_one_child_and_each_end_is_heard_once(
    zygote: Zygote, tmp_path: Path, postgres_server: Postgres, seed: int
) -> None:
    url = f"{postgres_server.url}?schema=families"
    survive(zygote, share(tmp_path, url), 12, seed, int(6 * SCALE))


def test_on_nats_each_start_makes_one_child_and_each_end_is_heard_once(
    zygote: Zygote, tmp_path: Path, nats: Nats, seed: int
) -> None:
    url = f"{nats.url}?stream=families&replicas=1&timeout_seconds=2"
    survive(zygote, share(tmp_path, url), 6, seed, int(3 * SCALE))
