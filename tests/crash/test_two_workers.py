"""Two workers on one file, one frozen past its lease and woken again, or killed in turn; and a disk that fills up."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from sagalog import JournalUnavailableError, SagaRunner, SqliteJournal

from . import shop
from .conftest import Zygote, kill, wait_for
from .examine import every_event_was_acknowledged, examine
from .shop import read_ledger
from .test_kill import SCALE

PLACES = ["Reserve o-0", "Charge o-0", "Ship o-4", "Release o-1", "Refund o-3", "step o-0/paid", "step o-2/paid"]


@pytest.mark.parametrize("place", PLACES)
def test_a_worker_frozen_past_its_lease_overwrites_nothing_when_it_wakes_up(
    zygote: Zygote, folder: Path, seed: int, place: str
) -> None:
    """In a command handler, or in a step: after the handler saw the event, before anything is saved."""
    frozen = zygote.spawn(folder, 12, seed, freeze=place)
    wait_for(folder, f'{{"frozen": "{place}"}}')
    other = zygote.spawn(folder, 12, seed + 1)
    ended = zygote.wait(other)
    before = examine(folder, 12)
    assert ended == {"exit": 0}, "the other one finishes everything, this order included"
    if not place.startswith("step"):
        kind, order = place.split()
        by = {n["pid"] for n in read_ledger(folder / "ledger") if n.get("order") == order and n["command"] == kind}
        assert by == {frozen, other}, "a command whose worker does not answer is delivered again by another"
    stored = everything(folder)
    kill(frozen, signal.SIGCONT)
    assert zygote.wait(frozen) == {"exit": 0}
    every_event_was_acknowledged(folder, 12)
    assert everything(folder) == stored, "it wrote something over what the other one had finished"
    after = examine(folder, 12)
    assert after["completed"] == before["completed"]
    assert after["compensated"] == before["compensated"]


def everything(folder: Path) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(folder / "shop.db")
    rows = connection.execute(
        """SELECT i.persistence_id, r.sequence_nr, l.writer_uuid, r.payload
           FROM record r JOIN instance i USING (instance_id) JOIN label l USING (label_id) ORDER BY 1, 2"""
    ).fetchall()
    connection.close()
    return rows


def test_workers_frozen_at_random_moments_and_woken_again_overwrite_nothing(
    zygote: Zygote, folder: Path, seed: int
) -> None:
    chance = random.Random(seed)
    for _ in range(max(2, int(8 * SCALE))):
        pids = [zygote.spawn(folder, 60, chance.randrange(10**6)) for _ in range(2)]
        wait_for(folder, f'{{"ready": {pids[0]}}}')
        time.sleep(chance.random() * 0.03)
        kill(pids[0], signal.SIGSTOP)
        time.sleep(shop.LEASE_SECONDS * 1.5)
        kill(pids[0], signal.SIGCONT)
        time.sleep(chance.random() * 0.03)
        for pid in pids:
            kill(pid)
            zygote.wait(pid)
    ended = zygote.wait(zygote.spawn(folder, 60, seed))
    examine(folder, 60, frozen=True)
    assert ended == {"exit": 0}
    every_event_was_acknowledged(folder, 60)


def test_two_workers_that_are_killed_in_turn_share_the_work(zygote: Zygote, folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    orders = 120
    alive = [zygote.spawn(folder, orders, chance.randrange(10**6)) for _ in range(2)]
    for turn in range(max(4, int(60 * SCALE))):
        wait_for(folder, f'{{"ready": {alive[turn % 2]}}}')
        time.sleep(chance.random() * 0.06)
        kill(alive[turn % 2])
        if zygote.wait(alive[turn % 2]) == {"exit": 0}:
            orders += 30  # it was through
        alive[turn % 2] = zygote.spawn(folder, orders, chance.randrange(10**6))
    ended = [zygote.wait(pid) for pid in alive]
    ended.append(zygote.wait(zygote.spawn(folder, orders, seed)))
    examine(folder, orders, frozen=True)
    assert ended == [{"exit": 0}] * 3
    every_event_was_acknowledged(folder, orders)


def test_workers_that_make_the_file_at_the_same_time_all_get_it(zygote: Zygote, tmp_path: Path, seed: int) -> None:
    for n in range(max(3, int(10 * SCALE))):
        folder = tmp_path / str(n)
        folder.mkdir()
        pids = [zygote.spawn(folder, 4, seed + worker) for worker in range(4)]
        assert [zygote.wait(pid) for pid in pids] == [{"exit": 0}] * 4
        examine(folder, 4, frozen=True)
        every_event_was_acknowledged(folder, 4)


async def test_a_disk_that_fills_up_refuses_events_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """The limit is SQLite's own, so the error is the one of a full disk (SQLITE_FULL)."""
    journal = SqliteJournal(tmp_path / "shop.db")
    connection = journal._writer._writer._connection
    ledger = shop.Ledger(tmp_path / "ledger")
    shop.killer = shop.Killer(ledger, "", 0)

    def dispatch(command: object, context: object) -> None:
        fields = {"undo": context.undo, "refused": False, "id": context.id, "durable": True, "at": time.time()}  # type: ignore[attr-defined]
        ledger.note(command=type(command).__name__, order=command.order, pid=0, **fields)  # type: ignore[attr-defined]

    refused: list[str] = []
    accepted: list[str] = []
    async with SagaRunner(journal, sagas=[shop.ShopSaga], dispatch=dispatch, settings=shop.settings(None)) as runner:

        async def place(n: int) -> None:
            ledger.note(sent=f"o-{n}/placed", at=time.time())
            try:
                await runner.handle(shop.Placed(f"o-{n}", f"o-{n}/placed"), message_id=f"o-{n}/placed")
            except JournalUnavailableError as error:
                assert "disk is full" in str(error)
                refused.append(f"o-{n}")
            else:
                ledger.note(ack=f"o-{n}/placed", outcome="handled")
                accepted.append(f"o-{n}")

        for n in range(20):
            await place(n)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages + 3}")
        await asyncio.gather(*(place(n) for n in range(20, 300)))
        assert refused, "the disk never filled up: the test proves nothing"
        stored = {row[0].rpartition("::")[2] for row in everything(tmp_path)}
        assert not stored & set(refused), "refused, and stored all the same"
        assert set(accepted) <= stored, "accepted, and not stored"
        connection.execute("PRAGMA max_page_count=1073741823")
        for order in list(refused):
            refused.remove(order)
            await place(shop.number(order))
        assert not refused
        assert len(accepted) == 300
        while await journal.ids_by_prefix("saga::"):  # every order's timer fires, and it is compensated
            await asyncio.sleep(0.01)
    await journal.close()
    examine(tmp_path, 300)
