"""Where SQLite's commits happen: on the event loop's thread while they are short, else on the writer's thread."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sagalog import JournalUnavailableError, OutcomeUnknownError, SqliteJournal
from sagalog.conformance.records import replay, write
from sagalog.journal.sqlite import writer as writer_module
from sagalog.journal.sqlite.committer import MAX_HERE, SLOW
from sagalog.journal.sqlite.threads import Job
from sagalog.journal.sqlite.writer import Work


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SqliteJournal]:
    async with SqliteJournal(tmp_path / "journal.db", on_loop=timedelta(milliseconds=60_000)) as opened:
        yield opened


def places(journal: SqliteJournal) -> list[str]:
    """Return a list that tells for each batch from now on where it was served, and how many jobs it had."""
    told: list[str] = []
    here, writer = threading.get_ident(), journal._writer._writer
    serve = writer.serve

    def telling(jobs: list[Any], **how: bool) -> bool:
        where = "loop" if threading.get_ident() == here else "thread"
        told.append(f"{where} {len(jobs)}{' patiently' if how.get('patient') else ''}")
        return serve(jobs, **how)

    writer.serve = telling  # type: ignore[method-assign]
    return told


async def test_what_comes_in_one_round_of_the_loop_is_one_commit_on_its_thread(journal: SqliteJournal) -> None:
    told = places(journal)
    await write(journal, "p", 1)
    await asyncio.gather(*(write(journal, f"k{n}", 1) for n in range(MAX_HERE)))
    assert told == ["loop 1", f"loop {MAX_HERE}"]
    assert journal.commit_counts.commits == 2
    assert await replay(journal, "k7") == [1]


async def test_a_large_batch_leaves_the_loop_free(journal: SqliteJournal) -> None:
    told = places(journal)
    await asyncio.gather(*(write(journal, f"k{n}", 1) for n in range(MAX_HERE + 1)))
    assert all(where.startswith("thread") for where in told)
    assert len(await journal.ids_by_prefix("k")) == MAX_HERE + 1


async def test_another_process_lock_is_waited_for_beside_the_loop(journal: SqliteJournal) -> None:
    told = places(journal)
    other = sqlite3.connect(journal.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writing = asyncio.ensure_future(write(journal, "p", 1))
    while len(told) < 3:  # refused here, refused there, and now it waits
        await asyncio.sleep(0)
    assert told == ["loop 1", "thread 1", "thread 1 patiently"]
    assert not writing.done()
    other.execute("ROLLBACK")
    other.close()
    await writing
    await write(journal, "p", 2)
    assert told[3:] == ["loop 1"]


@pytest.mark.parametrize(("on_loop", "again"), [(timedelta.resolution, True), (timedelta(0), False)])
async def test_a_slow_disk_is_left_to_the_thread(tmp_path: Path, on_loop: timedelta, again: bool) -> None:
    async with SqliteJournal(tmp_path / "journal.db", on_loop=on_loop) as journal:
        told = places(journal)
        await write(journal, "p", 1)
        await write(journal, "p", 2)
        assert told == (["loop 1", "thread 1"] if again else ["thread 1", "thread 1"])
        journal._writer._quick_seconds *= 1e12  # the disk is quick from now on
        for n in range(3, 3 + SLOW):
            await write(journal, "p", n)
        told.clear()
        await write(journal, "p", 3 + SLOW)
        assert told == (["loop 1"] if again else ["thread 1"])


async def test_the_log_is_copied_into_the_file_beside_the_loop(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "LOG_PAGES", 40)
    told: list[int] = []
    journal._writer._writer._connection.set_trace_callback(
        lambda sql: told.append(threading.get_ident()) if "checkpoint" in sql else None
    )
    log = Path(f"{journal.path}-wal")
    for n in range(1, 300):
        await write(journal, "p", n)
    assert len(told) > 5
    assert threading.get_ident() not in told
    assert log.stat().st_size < 150 * 4120  # 300 commits are some 1,000 pages


async def test_what_waits_for_the_round_to_end_is_stored_before_the_journal_closes(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db", on_loop=timedelta(milliseconds=60_000))
    writing = asyncio.ensure_future(write(journal, "p", 1))
    closing = asyncio.ensure_future(journal.close())  # begins in the same round
    await asyncio.gather(writing, closing)
    async with SqliteJournal(tmp_path / "journal.db") as again:
        assert await replay(again, "p") == [1]


async def test_an_interrupted_commit_is_unknown_and_its_transaction_is_not_the_next_one_s(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = journal._writer._writer
    store = writer._serve_rows

    class CtrlC(BaseException):
        """As KeyboardInterrupt, which pytest would take for its own."""

    def interrupted(*arguments: Any) -> None:
        assert writer._connection.in_transaction  # as the label is new
        store(*arguments)
        raise CtrlC

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(writer, "_serve_rows", interrupted)
    told: list[str] = []
    loop.set_exception_handler(lambda _, context: told.append(type(context["exception"]).__name__))
    future = journal._writer.submit(("p", 1, b"{}", ("", "", "[]"), 0, None, 0, None))
    with pytest.raises(CtrlC):
        journal._writer._commit_here(loop)  # what the loop calls
    monkeypatch.undo()
    with pytest.raises(OutcomeUnknownError, match="interrupted"):
        await future
    assert await journal.highest_sequence_nr("p") == 0
    await write(journal, "q", 1)
    assert await replay(journal, "q") == [1]


def test_loops_of_several_threads_share_a_journal(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db", on_loop=timedelta(milliseconds=60_000))

    async def many(name: str) -> None:
        for n in range(100):
            await asyncio.gather(*(write(journal, f"{name}{n}-{k}", 1) for k in range(3)))

    threads = [threading.Thread(target=lambda name=name: asyncio.run(many(name))) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    async def count() -> int:
        found = len(await journal.ids_by_prefix("", limit=10_000))
        await journal.close()
        return found

    assert asyncio.run(count()) == 1200


@pytest.mark.parametrize("busy", [False, True])
def test_a_journal_that_another_loop_closes_answers_whoever_was_about_to_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    monkeypatch.setattr("sagalog.journal.sqlite.file.CHECK_SECONDS", 0.0)  # it looks for the log, which SQLite removed
    journal = SqliteJournal(tmp_path / "journal.db", on_loop=timedelta(milliseconds=60_000))

    async def writes() -> None:
        loop, committer = asyncio.get_running_loop(), journal._writer
        closing = threading.Thread(target=lambda: asyncio.run(journal.close()))
        closing.start()
        closing.join(10)
        job = Job[Work](("p", 1, b"{}", ("", "", "[]"), 0, None, 0), loop)
        committer._here[loop] = [job]  # as if this loop had taken it at the moment of closing
        if busy:
            committer._connection.acquire()
        committer._commit_here(loop)
        with pytest.raises(JournalUnavailableError, match=r"losed.*othing was stored"):
            await job.future

    asyncio.run(asyncio.wait_for(writes(), 40))
