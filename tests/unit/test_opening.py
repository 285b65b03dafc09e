"""A journal that takes long to open is logged, with how long."""

from __future__ import annotations

import logging
import sqlite3
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from sagalog import JournalUnavailableError, SqliteJournal
from sagalog.journal import opening
from sagalog.journal.opening import SLOW_SECONDS, told_if_slow


@pytest.mark.parametrize(("took", "said"), [(SLOW_SECONDS, True), (SLOW_SECONDS - 0.01, False)])
def test_only_what_took_long_is_told(took: float, said: bool, caplog: pytest.LogCaptureFixture) -> None:
    ticks = iter([100.0, 100.0 + took])
    with told_if_slow("orders.db", clock=lambda: next(ticks)):
        pass
    assert [record.getMessage() for record in caplog.records] == (
        [f"opening the journal orders.db took {took:.1f} s"] if said else []
    )


def test_an_opening_that_fails_is_told_too(caplog: pytest.LogCaptureFixture) -> None:
    ticks = iter([0.0, 7.0])
    with pytest.raises(ZeroDivisionError), told_if_slow("orders\n.db", clock=lambda: next(ticks)):
        raise ZeroDivisionError
    assert [record.getMessage() for record in caplog.records] == ["opening the journal orders\\n.db failed after 7.0 s"]


async def test_a_file_that_somebody_holds_is_told_when_it_opens_at_last(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "SLOW_SECONDS", 0.2)
    path = tmp_path / "orders.db"
    async with SqliteJournal(path):
        pass
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("PRAGMA locking_mode=EXCLUSIVE")
    holder.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.5, holder.close)
    release.start()
    with caplog.at_level(logging.WARNING, logger="sagalog"):
        async with SqliteJournal(path, busy_timeout=timedelta(seconds=20)):
            pass
    release.join()
    assert any("opening the journal" in record.getMessage() for record in caplog.records)
    with caplog.at_level(logging.WARNING, logger="sagalog"), pytest.raises(JournalUnavailableError):
        SqliteJournal(tmp_path / "none" / "orders.db")
