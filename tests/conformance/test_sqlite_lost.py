"""The file is taken away, copied over, or shared with a forked child: nothing is acknowledged that nobody will find."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from sagalog import JournalUnavailableError, OutcomeUnknownError, SqliteJournal
from sagalog.conformance.records import record, replay, write
from sagalog.journal import open_existing
from sagalog.journal.sqlite.file import CHECK_SECONDS


def replace(path: Path) -> None:
    shutil.copy(path, f"{path}.copy")
    os.replace(f"{path}.copy", path)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("how", [Path.unlink, replace, lambda path: path.rename(f"{path}.old")])
async def test_a_file_that_is_taken_away_is_noticed_by_the_next_write(tmp_path: Path, suffix: str, how: object) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    await write(journal, "p", 1)
    how(Path(f"{path}{suffix}"))  # type: ignore[operator]
    with pytest.raises((JournalUnavailableError, OutcomeUnknownError), match="removed or renamed|replaced"):
        await write(journal, "p", 2)
    (answer,) = await journal.write_batch([record("q", 1)])
    assert isinstance(answer, JournalUnavailableError)
    with pytest.raises(JournalUnavailableError, match=r"Restart this process.*Nothing was stored"):
        await write(journal, "p", 2)
    with pytest.raises(JournalUnavailableError, match="while it was open"):
        await journal.latest_message("p")
    with pytest.raises(JournalUnavailableError, match="while it was open"):
        await journal.examine()
    await journal.close()


async def test_a_full_disk_is_told_by_examine(tmp_path: Path) -> None:
    async with SqliteJournal(tmp_path / "journal.db") as journal:
        await write(journal, "p", 1)
        connection = journal._writer._writer._connection
        connection.execute("PRAGMA query_only=ON")
        levels = {finding.name: finding.level for finding in await journal.examine()}
        assert levels["writable"] == "fail"
        connection.execute("PRAGMA query_only=OFF")
        assert all(finding.level == "ok" for finding in await journal.examine())


async def test_a_second_name_of_the_file_is_told_by_examine(tmp_path: Path) -> None:
    async with SqliteJournal(tmp_path / "journal.db") as journal:
        os.link(tmp_path / "journal.db", tmp_path / "other.db")
        assert [finding.name for finding in await journal.examine() if finding.level == "warn"] == ["name"]


async def test_a_forked_child_is_told_at_once_and_leaves_the_parent_s_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with SqliteJournal(path) as journal:
        await write(journal, "p", 1)
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            told = []

            async def use() -> None:
                told.extend(str(error) for error in await journal.write_batch([record("p", 2)]))
                for call in (write(journal, "p", 2), journal.latest_message("p"), journal.latest_messages(["p"])):
                    try:
                        await call
                    except JournalUnavailableError as error:
                        told.append(str(error))
                await journal.close()
                try:
                    SqliteJournal(path)
                except JournalUnavailableError as error:
                    told.append(str(error))

            try:
                asyncio.events._set_running_loop(None)
                asyncio.new_event_loop().run_until_complete(use())
            finally:
                os.write(writing, "\n".join(told).encode())
                os._exit(0)
        os.close(writing)
        with open(reading) as pipe:
            told = (await asyncio.to_thread(pipe.read)).splitlines()
        os.waitpid(child, 0)
        assert len(told) == 5, told
        assert all("forked" in line for line in told)
        await write(journal, "p", 2)
        async with SqliteJournal(path) as other:
            assert await replay(other, "p") == [1, 2]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else for a while")
@pytest.mark.parametrize("live", [False, True])
async def test_another_user_s_file_can_be_looked_at_and_is_not_written(tmp_path: Path, live: bool) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    await write(journal, "p", 1)
    if not live:
        await journal.close()
    for file in tmp_path.iterdir():
        file.chmod(0o644)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.name.startswith(
            ("test_", "popen-", "pytest-")
        ):  # with several processes, each has a folder in between
            folder.chmod(0o755)
    os.seteuid(65534)
    try:
        async with open_existing(f"sqlite:///{path}") as looking:
            assert await replay(looking, "p") == [1]
            with pytest.raises(JournalUnavailableError, match=r"read-only.*Nothing was stored"):
                await write(looking, "p", 2)
            assert "fail" in {f.level for f in await looking.examine()} or looking.read_only  # type: ignore[attr-defined]
    finally:
        os.seteuid(0)
        await journal.close()


@pytest.mark.parametrize(("suffix", "size"), [("", 0), ("-wal", 0), ("-wal", 4096)])
async def test_what_is_cut_off_under_a_journal_is_noticed_by_the_next_write(
    tmp_path: Path, suffix: str, size: int
) -> None:
    """SQLite does not notice: it writes on behind the hole, or reads what it remembers."""
    journal = SqliteJournal(tmp_path / "journal.db")
    for number in range(1, 4):
        await write(journal, "p", number)
    os.truncate(tmp_path / f"journal.db{suffix}", size)
    await asyncio.sleep(CHECK_SECONDS)
    with pytest.raises((JournalUnavailableError, OutcomeUnknownError), match="was emptied|was truncated"):
        await write(journal, "p", 4)
    with pytest.raises(JournalUnavailableError, match=r"Restart this process.*Nothing was stored"):
        await write(journal, "p", 5)
    await journal.close()


@pytest.mark.parametrize("how", ["PASSIVE", "RESTART", "TRUNCATE"])
async def test_a_log_that_another_program_copies_into_the_file_is_not_lost(tmp_path: Path, how: str) -> None:
    async with SqliteJournal(tmp_path / "journal.db") as journal:
        for number in range(1, 40, 2):
            await write(journal, "p", number)
            await asyncio.sleep(CHECK_SECONDS)
            with closing(sqlite3.connect(tmp_path / "journal.db")) as shell:
                assert shell.execute(f"PRAGMA wal_checkpoint({how})").fetchone()[0] == 0
                if number > 20:
                    shell.execute("VACUUM")
            await write(journal, "p", number + 1)
        assert await replay(journal, "p") == list(range(1, 41))


def test_a_file_that_a_link_will_lead_to_is_for_its_owner_alone(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
    before = os.umask(0)
    try:
        SqliteJournal(tmp_path / "link.db")
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.glob("real.db*")} == {0o600}


@contextmanager
def somebody_else(tmp_path: Path) -> Iterator[None]:
    """Be a user who may enter the folders of the test, and write in the last."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.name.startswith(("test_", "popen-", "pytest-")):
            folder.chmod(0o755)
    tmp_path.chmod(0o777)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else for a while")
async def test_looking_at_another_user_s_file_leaves_nothing_beside_it_that_keeps_the_owner_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with SqliteJournal(path) as journal:
        await write(journal, "p", 1)
    path.chmod(0o644)
    with somebody_else(tmp_path):
        async with open_existing(f"sqlite:///{path}") as looking:
            assert await replay(looking, "p") == [1]
            assert [file.name for file in tmp_path.iterdir()] == ["journal.db"]
            os.seteuid(0)
            async with SqliteJournal(path) as journal:
                await write(journal, "p", 2)
            os.seteuid(65534)
            assert await replay(looking, "p") == [1, 2]
        with pytest.raises(JournalUnavailableError, match="read-only for this user"):
            SqliteJournal(path)
        assert [file.name for file in tmp_path.iterdir()] == ["journal.db"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else for a while")
def test_a_file_that_this_user_may_not_see_is_told_from_one_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "private" / "journal.db"
    path.parent.mkdir()
    SqliteJournal(path)
    with somebody_else(tmp_path):
        with pytest.raises(JournalUnavailableError, match="may not be read by this user"):
            open_existing(f"sqlite:///{path}")
        with pytest.raises(JournalUnavailableError, match="does not exist"):
            open_existing(f"sqlite:///{path}x")
    path.parent.chmod(0o700)
    with somebody_else(tmp_path), pytest.raises(JournalUnavailableError, match="cannot be reached by this user"):
        open_existing(f"sqlite:///{path}")
