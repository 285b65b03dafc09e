"""Commits: on the event loop's own thread while the disk is quick, on the writer's thread otherwise.

    write_messages ─► [committer] ─► what came in one round of the loop ─► writer, here or on its thread ─► answers

To hand a batch to another thread and to hear of it takes two wake-ups, a tenth of a millisecond each and more where the
loop is busy with Python's lock: as long as a good disk takes for the commit itself. So what a round of the event loop
brought is committed right behind it, on the same thread, while commits are short. These go to the writer's thread, where
they hold up nothing else: large batches, as the loop can go on meanwhile; everything after a commit that took longer than
the setting says, until as many as SLOW in a row were quick; what finds another process's lock taken, which is waited for
there; other work than single records; and the copying of the log into the file (checkpoints).
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any, cast

from ...errors import JournalUnavailableError
from .file import OpenedFile
from .threads import ConnectionThread, Job, answer
from .writer import MAX_ROWS, Batch, Row, SqliteWriter, Work

MAX_HERE = 96  # records of one commit on the event loop's thread
SLOW = 32


class Committer:
    """Serves writes. `quick_seconds`: how long a commit may hold up the event loop; 0 leaves all to the thread."""

    def __init__(self, writer: SqliteWriter, file: OpenedFile, *, quick_seconds: float) -> None:
        self._file = file
        self._writer = writer
        self._quick_seconds = quick_seconds
        self._slow = 0 if quick_seconds > 0 else 1  # so many quick commits until the next here
        self._connection = threading.Lock()  # held while the connection is in use
        self._thread: ConnectionThread[Work] = ConnectionThread(
            "sagalog-writer", self._serve, self._end, MAX_ROWS, rest=self._checkpoint
        )
        self._here: dict[asyncio.AbstractEventLoop, list[Job[Work]]] = {}  # each entry is its loop's own
        self._closed = False

    def submit(self, work: Work) -> asyncio.Future[Any]:
        """Queue a write; cancelling the future does not undo it."""
        if self._closed:
            raise JournalUnavailableError("the journal is closed; nothing was stored")
        self._file.check_process()
        loop = asyncio.get_running_loop()
        job = Job(work, loop)
        waiting = self._here.get(loop)
        if waiting is not None:
            waiting.append(job)
            if len(waiting) > MAX_HERE:
                self._thread.take_over(self._here.pop(loop))
        elif self._slow or not isinstance(work, tuple) or self._thread.busy or self._writer.log_is_long:
            self._thread.take_over([job])
        else:
            self._here[loop] = [job]
            loop.call_soon(self._commit_here, loop)
        return job.future

    async def write_batch(self, rows: list[Row]) -> set[str]:
        """Store records of different ids, at most MAX_ROWS; return the ids that lost.

        A short batch is committed here and now, without a suspension, under the same conditions as single records.
        """
        if self._closed:
            raise JournalUnavailableError("the journal is closed; nothing was stored")
        self._file.check_process()
        job: Job[Work] = Job(Batch(rows), asyncio.get_running_loop())
        here = len(rows) <= MAX_HERE and not self._slow and not self._thread.busy and not self._writer.log_is_long
        if here and self._connection.acquire(blocking=False):
            begun = time.perf_counter()
            try:
                served = self._writer.serve([job])
                self._note(len(rows), time.perf_counter() - begun)
            finally:
                self._connection.release()
            if served:
                if job.error is not None:
                    raise job.error
                return cast("set[str]", job.result)
        self._thread.take_over([job])
        return cast("set[str]", await job.future)

    async def close(self) -> None:
        """Serve what waits, then close the connection."""
        self._closed = True
        while self._here:
            self._thread.take_over(self._here.popitem()[1])
        await self._thread.close()

    def _commit_here(self, loop: asyncio.AbstractEventLoop) -> None:
        jobs = self._here.pop(loop, None)
        if jobs is None:  # they went to the thread: they were too many
            return
        if not self._connection.acquire(blocking=False):
            self._thread.take_over(jobs)
            return
        served = True
        begun = time.perf_counter()
        try:
            served = self._writer.serve(jobs)
            self._note(len(jobs), time.perf_counter() - begun)
        finally:
            self._connection.release()
            if served:
                answer(jobs)
            else:  # another process holds the lock
                self._thread.take_over(jobs)

    def _serve(self, jobs: list[Job[Work]]) -> None:
        with self._connection:
            begun = time.perf_counter()
            if not self._writer.serve(jobs):
                self._writer.serve(jobs, patient=True)
            records = sum(len(job.work.rows) if isinstance(job.work, Batch) else 1 for job in jobs)
            self._note(records, time.perf_counter() - begun)

    def _note(self, records: int, seconds: float) -> None:
        """Remember whether the disk is quick. Large batches say nothing about it."""
        if self._quick_seconds > 0 and records <= MAX_HERE:
            self._slow = SLOW if seconds > self._quick_seconds else max(0, self._slow - 1)

    def _end(self) -> None:
        with self._connection:
            self._writer.close()

    def _checkpoint(self) -> None:
        if self._writer.log_is_long:
            with self._connection:
                self._writer.checkpoint()


class NoCommitter:
    """In place of a committer where the file can only be read."""

    def __init__(self, path: str) -> None:
        self._path = path

    def submit(self, work: Work) -> asyncio.Future[Any]:
        """Refuse it."""
        raise JournalUnavailableError(f"{self._path} is read-only here: it can only be read. Nothing was stored.")

    async def write_batch(self, rows: list[Row]) -> set[str]:
        """Refuse it."""
        self.submit(Batch(rows))
        raise AssertionError

    async def close(self) -> None:
        """Nothing is open."""
