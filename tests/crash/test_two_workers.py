"""Two workers on one file, one frozen past its lease and woken again, or killed in turn; and a disk that fills up."""

from __future__ import annotations

import asyncio
import random
import signal
from pathlib import Path

import pytest

from sagalog import JournalUnavailableError, SagaRunner, SqliteJournal

from . import shop
from .conftest import Zygote, kill, wait_for
from .examine import every_event_was_acknowledged, examine
from .shop import read_ledger


@pytest.mark.parametrize("command", ["Reserve o-0", "Charge o-0", "Ship o-4", "Release o-1", "Refund o-3"])
def test_a_worker_frozen_in_a_command_past_its_lease_overwrites_nothing(
    zygote: Zygote, tmp_path: Path, seed: int, command: str
) -> None:
    frozen = zygote.spawn(tmp_path, 12, seed, stop=command)
    kind, order = command.split()
    wait_for(tmp_path, f'"command": "{kind}", "order": "{order}"')
    other = zygote.spawn(tmp_path, 12, seed + 1)
    assert zygote.wait(other) == {"exit": 0}, "the other one finishes everything, this command included"
    by = {
        note["pid"]
        for note in read_ledger(tmp_path / "ledger")
        if note.get("order") == order and note["command"] == kind
    }
    assert by == {frozen, other}
    before = examine(tmp_path, 12)
    kill(frozen, signal.SIGCONT)
    assert zygote.wait(frozen) == {"exit": 0}
    every_event_was_acknowledged(tmp_path, 12)
    after = examine(tmp_path, 12)
    assert after["completed"] == before["completed"]
    assert after["compensated"] == before["compensated"]


def test_workers_frozen_at_random_moments_and_woken_again_overwrite_nothing(
    zygote: Zygote, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    for _ in range(8):
        pids = [zygote.spawn(tmp_path, 60, chance.randrange(10**6)) for _ in range(2)]
        wait_for(tmp_path, f'{{"ready": {pids[0]}}}')
        signal.sigtimedwait([], chance.random() * 0.03)
        kill(pids[0], signal.SIGSTOP)
        signal.sigtimedwait([], shop.LEASE_SECONDS * 1.5)
        kill(pids[0], signal.SIGCONT)
        signal.sigtimedwait([], chance.random() * 0.03)
        for pid in pids:
            kill(pid)
            zygote.wait(pid)
    assert zygote.wait(zygote.spawn(tmp_path, 60, seed)) == {"exit": 0}
    every_event_was_acknowledged(tmp_path, 60)
    examine(tmp_path, 60, frozen=True)


def test_two_workers_that_are_killed_in_turn_share_the_work(zygote: Zygote, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    alive = [zygote.spawn(tmp_path, 120, chance.randrange(10**6)) for _ in range(2)]
    for turn in range(40):
        wait_for(tmp_path, f'{{"ready": {alive[turn % 2]}}}')
        signal.sigtimedwait([], chance.random() * 0.06)
        kill(alive[turn % 2])
        zygote.wait(alive[turn % 2])
        alive[turn % 2] = zygote.spawn(tmp_path, 120, chance.randrange(10**6))
    assert [zygote.wait(pid) for pid in alive] == [{"exit": 0}, {"exit": 0}]
    every_event_was_acknowledged(tmp_path, 120)
    examine(tmp_path, 120)


async def test_a_disk_that_fills_up_refuses_events_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """The limit is SQLite's own, so the error is the one of a full disk (SQLITE_FULL)."""
    journal = SqliteJournal(tmp_path / "shop.db")
    connection = journal._writer._serve.__self__._connection  # type: ignore[attr-defined]
    ledger = shop.Ledger(tmp_path / "ledger")
    shop.killer = shop.Killer(ledger, "", 0)

    def dispatch(command: object, context: object) -> None:
        fields = {"undo": context.undo, "refused": False, "id": context.id}  # type: ignore[attr-defined]
        ledger.note(command=type(command).__name__, order=command.order, pid=0, **fields)  # type: ignore[attr-defined]

    refused: list[str] = []
    accepted: list[str] = []
    async with SagaRunner(journal, sagas=[shop.ShopSaga], dispatch=dispatch, settings=shop.settings()) as runner:

        async def place(n: int) -> None:
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
