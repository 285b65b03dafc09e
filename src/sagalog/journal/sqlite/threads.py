"""A thread that owns one connection and serves callers of event loops; results of a batch go back in one hop."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from ...errors import JournalUnavailableError

J = TypeVar("J")


class Job(Generic[J]):
    """One call that waits: what to do, and the future to answer."""

    __slots__ = ("error", "future", "loop", "result", "work")

    def __init__(self, work: J, loop: asyncio.AbstractEventLoop) -> None:
        self.work: J = work
        self.loop: asyncio.AbstractEventLoop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.result: Any = None
        self.error: Exception | None = None


class ConnectionThread(Generic[J]):
    """Runs `serve(jobs)` with everything that waits, up to `most` jobs at once, and answers them together.

    `rest`, if given, runs whenever a batch was answered.
    """

    def __init__(
        self,
        name: str,
        serve: Callable[[list[Job[J]]], None],
        close: Callable[[], None],
        most: int,
        rest: Callable[[], None] | None = None,
    ) -> None:
        self._queue: queue.SimpleQueue[Job[J] | None] = queue.SimpleQueue()
        self._serve = serve
        self._close = close
        self._most = most
        self._rest = rest
        self._serving = False
        self._closed = False
        self._gate = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether anything waits or is being served."""
        return self._serving or not self._queue.empty()

    def submit(self, work: J) -> asyncio.Future[Any]:
        """Queue a job. The future is answered on the calling loop; cancelling it does not undo the job."""
        job = Job(work, asyncio.get_running_loop())
        self.take_over([job])
        return job.future

    def take_over(self, jobs: Sequence[Job[J]]) -> None:
        """Queue jobs, on the loop that made them. Where the thread has been closed, they are told so."""
        with self._gate:  # so that nothing is queued behind the end
            if not self._closed:
                for job in jobs:
                    self._queue.put(job)
                return
        for job in jobs:
            job.error = JournalUnavailableError("the journal is closed; nothing was stored")
        answer(jobs)

    async def close(self) -> None:
        """Serve what waits, then end the thread and close its connection."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    def _run(self) -> None:
        take, poll = self._queue.get, self._queue.get_nowait
        stopping = False
        while not stopping:
            job = take()
            if job is None:
                break
            self._serving = True
            jobs = [job]
            try:
                while len(jobs) < self._most:
                    job = poll()
                    if job is None:
                        stopping = True
                        break
                    jobs.append(job)
            except queue.Empty:
                pass
            try:
                self._serve(jobs)
            except Exception as error:
                for job in jobs:
                    job.error = error
            self._serving = False  # before the answer: the caller that hears it may take the connection
            by_loop: dict[asyncio.AbstractEventLoop, list[Job[J]]] = {}
            for job in jobs:
                by_loop.setdefault(job.loop, []).append(job)
            for loop, answered in by_loop.items():
                try:
                    loop.call_soon_threadsafe(answer, answered)
                except RuntimeError:  # that loop is closed: nobody waits any more
                    continue
            if self._rest is not None:
                self._rest()
        self._close()


def answer(jobs: Sequence[Job[Any]]) -> None:
    """Tell the callers what became of their jobs; on their loop."""
    for job in jobs:
        future = job.future
        if future.done():  # cancelled by its caller
            continue
        if job.error is None:
            future.set_result(job.result)
        else:
            future.set_exception(job.error)
