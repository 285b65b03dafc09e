"""kill -9 between the two writes of a unique key, and anywhere else: a seat is that of one desk at a time."""

from __future__ import annotations

import random
import signal
from pathlib import Path

from ..servers.nats import Nats
from ..servers.postgres import Postgres
from .conftest import Zygote
from .seating import POINTS, SEATS
from .shop import read_ledger
from .test_kill import SCALE
from .turns import killed_by_turns, share
from .witness import read


def survive(zygote: Zygote, folder: Path, desks: int, seed: int, kills: int) -> None:
    ended = killed_by_turns(zygote, "desks", folder, desks, seed, kills)
    examine(folder, desks)  # it says more than how the workers ended
    assert ended == [{"exit": 0}] * 2


def examine(folder: Path, desks: int) -> None:
    """Nobody has a seat while another has it, each event by a key reached who had the seat, and all came to their end."""
    notes = read_ledger(folder / "ledger")
    sitting: dict[str, str] = {}
    for note in notes:
        if "has" in note:
            other = sitting.setdefault(note["seat"], note["has"])
            assert other == note["has"], f"{note['has']} has seat {note['seat']}, which {other} has"
        if "gives" in note and sitting.get(note["seat"]) == note["gives"]:
            del sitting[note["seat"]]
        if "scanned" in note:
            assert note["reached"] == [note["scanned"]], note
    names = {f"D{n}" for n in range(desks)}
    assert {note["done"] for note in notes if "done" in note} == names
    history, live = read(folder)
    assert [one for one in live if one.startswith("saga::")] == []
    for name in names:
        steps, seat = history[f"saga::desk::{name}"], str(int(name[1:]) % SEATS)
        log = steps[-1]["state"]["log"]
        assert [one for one in log if not one.startswith("leaves")] == ["booked", f"scans {seat}"], f"{name}: {log}"
        assert "unique_keys" not in steps[-1]
    holders = {step["holder"] for step in history["key::desk::seat=0"]}
    assert holders == {name for name in names if int(name[1:]) % SEATS == 0}


def test_on_sqlite_a_seat_is_that_of_one_desk(zygote: Zygote, folder: Path, seed: int) -> None:
    survive(zygote, folder, 36, seed, int(16 * SCALE))


def test_killed_before_and_after_each_of_the_two_writes_a_seat_is_free_for_others(
    zygote: Zygote, folder: Path, seed: int
) -> None:
    """One worker dies at each of these points, while another wants the same seats."""
    chance = random.Random(seed)
    points = POINTS * max(1, int(SCALE))
    chance.shuffle(points)
    desks = 12 * len(points)
    other = zygote.spawn(folder, desks, 1 + 2 * chance.randrange(10**5), world="desks")
    for point in points:
        dies = zygote.spawn(folder, desks, 2 * chance.randrange(10**5), point, chance.choice([1, 2]), world="desks")
        assert zygote.wait(dies) == {"signal": signal.SIGKILL}, f"nothing passes {point!r}: the test proves nothing"
    last = zygote.spawn(folder, desks, 2 * chance.randrange(10**5), world="desks")
    assert [zygote.wait(pid) for pid in (last, other)] == [{"exit": 0}] * 2
    examine(folder, desks)
    assert {note["killed"] for note in read_ledger(folder / "ledger") if "killed" in note} == set(POINTS)


def test_on_postgresql_a_seat_is_that_of_one_desk(
    zygote: Zygote, tmp_path: Path, postgres_server: Postgres, seed: int
) -> None:
    url = f"{postgres_server.url}?schema=desks"
    survive(zygote, share(tmp_path, url), 24, seed, int(6 * SCALE))


def test_on_nats_a_seat_is_that_of_one_desk(zygote: Zygote, tmp_path: Path, nats: Nats, seed: int) -> None:
    url = f"{nats.url}?stream=desks&replicas=1&timeout_seconds=2"
    survive(zygote, share(tmp_path, url), 12, seed, int(4 * SCALE))
