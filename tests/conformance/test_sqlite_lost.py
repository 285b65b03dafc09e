"""The file is taken away, copied over, or shared with a forked child: nothing is acknowledged that nobody will find."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from sagalog import JournalUnavailableError, OutcomeUnknownError, SqliteJournal
from sagalog.conformance.records import record, replay, write
from sagalog.journal import open_existing


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
