"""Bad files: each is refused with what it is and what to do, and stays as it was, byte for byte."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sagalog import (
    DefinitionError,
    InMemoryJournal,
    JournalFormatError,
    JournalUnavailableError,
    SqliteJournal,
    open_journal,
)
from sagalog.conformance.records import record, replay, write


def files(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def refused(path: Path, error: type[Exception], match: str) -> None:
    before, threads = files(path.parent), threading.active_count()
    with pytest.raises(error, match=match):
        SqliteJournal(path)
    assert files(path.parent) == before
    assert threading.active_count() == threads


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_database_of_another_program_is_refused_and_not_touched(tmp_path: Path, mode: str) -> None:
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute(f"PRAGMA journal_mode={mode}")
    connection.execute("CREATE TABLE cake (name TEXT)")
    connection.commit()
    connection.close()
    refused(tmp_path / "other.db", JournalFormatError, "belongs to another program")


def test_a_journal_of_a_newer_version_is_refused_and_not_touched(tmp_path: Path) -> None:
    async def make() -> None:
        async with SqliteJournal(tmp_path / "journal.db") as journal:
            await write(journal, "p", 1)

    asyncio.run(make())
    connection = sqlite3.connect(tmp_path / "journal.db")
    connection.execute("PRAGMA user_version=4")
    connection.commit()
    connection.close()
    refused(tmp_path / "journal.db", JournalFormatError, "schema version 4; this code knows version 3.*Upgrade")


@pytest.mark.parametrize(
    "content", [b"hello, I am a text file\n" * 100, b"SQLite format 3\x00" + b"\xff" * 4080, b"\x00" * 512]
)
def test_a_file_that_is_no_database_is_refused_and_not_touched(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.db").write_bytes(content)
    refused(tmp_path / "file.db", JournalFormatError, "damaged or not an SQLite file|belongs to another program")


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(JournalUnavailableError, match="no such folder|does not exist"):
        SqliteJournal(tmp_path / "nowhere" / "journal.db")


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.db").mkdir()
    with pytest.raises(JournalUnavailableError):
        SqliteJournal(tmp_path / "journal.db")


async def test_a_read_only_file_refuses_writes_and_says_so(tmp_path: Path) -> None:
    """Through SQLite's own read-only switch: a root user may write any file."""
    async with SqliteJournal(tmp_path / "journal.db") as journal:
        await write(journal, "p", 1)
        connection = journal._writer._writer._connection
        connection.execute("PRAGMA query_only=ON")
        with pytest.raises(JournalUnavailableError, match="read-only"):
            await write(journal, "p", 2)
        connection.execute("PRAGMA query_only=OFF")
        await write(journal, "p", 2)
        assert await replay(journal, "p") == [1, 2]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write read-only files; the switch of SQLite is tested above")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(JournalUnavailableError, match="read-only|cannot be opened"):
            SqliteJournal(tmp_path / "journal.db")
    finally:
        tmp_path.chmod(0o700)


async def test_a_full_disk_refuses_a_batch_and_works_again_when_there_is_room(tmp_path: Path) -> None:
    async with SqliteJournal(tmp_path / "journal.db") as journal:
        await write(journal, "p", 1)
        connection = journal._writer._writer._connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages}")
        big = b"x" * 100_000
        results = await asyncio.gather(
            *(journal.write_messages([record(f"k{n}", 1, big)]) for n in range(5)), return_exceptions=True
        )
        assert all(isinstance(result, JournalUnavailableError) and "disk is full" in str(result) for result in results)
        assert await journal.ids_by_prefix("k") == []
        connection.execute("PRAGMA max_page_count=1000000")
        await journal.write_messages([record("k0", 1, big)])
        assert await replay(journal, "p") == [1]


async def test_a_file_locked_by_another_program_is_unavailable_until_it_is_released(tmp_path: Path) -> None:
    async with SqliteJournal(tmp_path / "journal.db", busy_timeout=timedelta(milliseconds=50)) as journal:
        await write(journal, "p", 1)
        other = sqlite3.connect(tmp_path / "journal.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalUnavailableError, match="another program holds its lock.*Nothing was stored"):
            await write(journal, "p", 2)
        assert await replay(journal, "p") == [1]  # readers do not wait for the writer
        other.execute("ROLLBACK")
        other.close()
        await write(journal, "p", 2)
        assert await replay(journal, "p") == [1, 2]


async def test_a_file_whose_copying_from_the_log_was_cut_short_is_opened_with_its_log(tmp_path: Path) -> None:
    """A worker that is killed then has written page 1, which counts the pages, and not yet the pages; the log has them."""
    (tmp_path / "killed").mkdir()
    path, killed = tmp_path / "journal.db", tmp_path / "killed" / "journal.db"
    async with SqliteJournal(path) as journal:
        await write(journal, "p", 1)
        connection = journal._writer._writer._connection
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        before = path.read_bytes()
        await journal.write_messages([record("p", number, b"x" * 2000) for number in range(2, 40)])
        assert path.stat().st_size == len(before), "the log has been copied already: the test proves nothing"
        shutil.copy(f"{path}-wal", f"{killed}-wal")
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        killed.write_bytes(path.read_bytes()[:page_bytes] + before[page_bytes:])
    async with SqliteJournal(killed) as journal:
        assert await replay(journal, "p") == list(range(1, 40))


async def test_damage_found_while_reading_is_told_and_not_repaired(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with SqliteJournal(path) as journal:
        for n in range(300):
            await journal.write_messages([record(f"k{n}", 1, b"x" * 500)])
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 20] = b"\xa5" * (4096 * 17)
    path.write_bytes(content)
    async with SqliteJournal(path) as journal:
        with pytest.raises(JournalFormatError, match="damaged"):
            for n in range(300):
                await journal.latest_message(f"k{n}")


async def test_what_takes_the_place_of_a_deleted_record_is_not_taken_for_it(tmp_path: Path) -> None:
    async with SqliteJournal(tmp_path / "journal.db") as journal:
        await journal.write_messages([record("gone", 1, b"gone")])
        await journal.delete_messages_to("gone", 1)
        await journal.write_messages([record("other", 1, b"other")])
        assert await journal.latest_message("gone") is None
        gone, other = await journal.latest_messages(["gone", "other"])
        assert gone is None
        assert other is not None
        assert [one async for one in journal.replay_messages("gone", 1, 9, 9)] == []
        await journal.delete_messages_to("gone", 1)  # again, nor is it deleted in its place
        assert await replay(journal, "other") == [1]
        await write(journal, "gone", 2)
        assert await replay(journal, "gone") == [2]
        assert await replay(journal, "other") == [1]


async def test_a_damaged_row_fails_only_the_read_that_meets_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with SqliteJournal(path) as journal:
        await write(journal, "good", 1)
        await write(journal, "bad", 1)
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("UPDATE record SET payload = 7 WHERE record_id = (SELECT max(record_id) FROM record)")
            other.execute("UPDATE instance SET due_at = 1.5 WHERE persistence_id = 'bad'")
        held = threading.Event()
        first = journal._reader.submit(lambda _: held.wait())  # what comes meanwhile is read in one go
        reads = [
            asyncio.ensure_future(read)
            for read in (
                journal.latest_message("good"),
                journal.records_after(0),
                journal.due_ids("", datetime(2999, 1, 1, tzinfo=UTC)),
            )
        ]
        await asyncio.sleep(0)
        held.set()
        good, bad, due = await asyncio.gather(*reads, return_exceptions=True)
        await first
    assert good is not None
    assert not isinstance(good, BaseException)
    assert type(bad) is JournalFormatError
    assert due == [("bad", datetime(1970, 1, 1, microsecond=1, tzinfo=UTC))]  # which keeps no other from being found


@pytest.mark.parametrize(
    "statement",
    ["UPDATE instance SET persistence_id = CAST(x'62ff' AS TEXT)", "ALTER TABLE instance RENAME TO other"],
    ids=["a text that is no UTF-8", "a table that is gone"],
)
async def test_what_will_never_be_right_again_is_no_outage(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "journal.db"
    async with SqliteJournal(path) as journal:
        await write(journal, "a", 1)
        with closing(sqlite3.connect(path)) as other, other:
            other.execute(statement)
        with pytest.raises(JournalFormatError, match="damaged"):
            await journal.ids_by_prefix("")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("orders.db", "a journal needs a URL"),
        ("oracle://x", "no journal for oracle://.*memory, nats"),
        ("sqlite://orders.db", "sqlite:///relative.db"),
        ("sqlite:///", "sqlite:///relative.db"),
        ("sqlite:///a.db?colour=red", "unknown setting 'colour'"),
        ("sqlite:///a.db?history=some", "history must be"),
        ("sqlite:///a.db?history=5&history=6", "history is given twice"),
        ("sqlite:///a.db?busy_seconds=long", "busy_seconds"),
        ("sqlite:///a.db?busy_seconds=nan", "busy_seconds"),
        ("sqlite:///a.db?busy_seconds=-1", "busy_seconds"),
        ("sqlite:///a.db?busy_seconds=1e300", "busy_seconds"),
        ("sqlite:///a.db?on_loop_ms=-1", "on_loop_ms"),
        ("sqlite:///a.db?history=99999999999999999999", "history must be"),
        ("sqlite:///a%00.db".replace("%00", "\0"), "zero character"),
        ("memory://path", "takes no path"),
    ],
)
def test_a_wrong_url_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DefinitionError, match=message):
        open_journal(url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("beside", ["false", 1, None])
def test_what_is_neither_true_nor_false_is_refused(tmp_path: Path, beside: Any) -> None:
    with pytest.raises(DefinitionError, match="beside"):
        SqliteJournal(tmp_path / "a.db", beside=beside)
    assert list(tmp_path.iterdir()) == []


async def test_a_file_that_was_named_from_the_working_directory_stays_the_same_in_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    async with open_journal("sqlite:///a.db") as journal:
        await write(journal, "a", 1)
        os.chdir("elsewhere")
        await write(journal, "a", 2)
        assert await replay(journal, "a") == [1, 2]
        assert list(Path().iterdir()) == []


async def test_urls_open_what_they_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_journal("sqlite:///here.db"), open_journal(f"sqlite:///{tmp_path}/there.db?history=3") as there:
        assert isinstance(there, SqliteJournal)
        assert (tmp_path / "here.db").exists()
        assert (tmp_path / "there.db").exists()
    async with open_journal("memory://") as memory:
        assert isinstance(memory, InMemoryJournal)


async def test_a_file_into_which_another_process_copies_its_log_just_now_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first page counts those that are still to come; by the time we look again, the log is gone."""
    path = tmp_path / "journal.db"
    async with SqliteJournal(path) as journal:
        await write(journal, "p", 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:4096])
    connect = sqlite3.connect

    class Copied(sqlite3.Connection):
        def execute(self, *arguments: object) -> sqlite3.Cursor:
            try:
                return super().execute(*arguments)  # type: ignore[arg-type]
            except sqlite3.DatabaseError:
                path.write_bytes(whole)
                raise

    def lock_free(*arguments: object, **named: object) -> sqlite3.Connection:
        named["factory"] = Copied if named.get("uri") else sqlite3.Connection
        return connect(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(sqlite3, "connect", lock_free)
    async with SqliteJournal(path) as journal:
        assert path.read_bytes() == whole, "nothing looked damaged"
        assert await replay(journal, "p") == [1]
