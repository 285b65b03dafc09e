"""An event loop in a thread of its own, and the work that other threads give it and take from it.

threads ─► [background] ─► the event loop's thread, and back where a connection belongs to a thread
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, TypeVar

from .errors import JournalUnavailableError, RunnerStoppedError
from .waiting import start_task

T = TypeVar("T")


class BackgroundLoop:
    """An event loop that runs in a thread, from when it is made until `stop`. The thread keeps no process alive."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._over = False  # nothing is taken any more: set under the lock
        self._waited_for: set[Future[Any]] = set()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_here(self) -> bool:
        """Whether this is called in its own thread, which must not wait for it."""
        return threading.current_thread() is self._thread

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine in the event loop, in the context of the caller, so that a trace goes on there.

        Cancelling the future cancels it. The future is always done in the end: with RunnerStoppedError where the event loop
        stops before that. Raises RunnerStoppedError where it has stopped: nothing was begun.
        """
        result: Future[T] = Future()

        def begin() -> None:
            task = start_task(work)
            result.add_done_callback(
                lambda _: self._loop.call_soon_threadsafe(task.cancel) if result.cancelled() else None
            )
            task.add_done_callback(lambda _: _copy(task, result))

        with self._lock:
            if self._over:
                work.close()
                raise RunnerStoppedError("the runner was stopped in the meantime; nothing was stored")
            self._waited_for.add(result)
            self._loop.call_soon_threadsafe(begin, context=copy_context())
        result.add_done_callback(self._waited_for.discard)
        return result

    def stop(self) -> None:
        """End the event loop and its thread, and cancel what is left in it."""
        with self._lock:
            if not self._over:
                self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            with self._lock:
                self._over = True
            loop.run_until_complete(asyncio.sleep(0))  # what was given in the last moment is a task then, as all else
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left, timeout=1.0))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
            for result in list(self._waited_for):  # their tasks do not end though they were cancelled
                if not result.done():
                    result.set_exception(RunnerStoppedError("the runner was stopped in the meantime; it may be stored"))


def _copy(task: asyncio.Task[T], result: Future[T]) -> None:
    if not result.set_running_or_notify_cancel():
        if not task.cancelled():
            task.exception()  # nobody is left to be told
        return
    if task.cancelled():
        result.set_exception(RunnerStoppedError("the runner was stopped in the meantime; it may be stored"))
    elif (error := task.exception()) is not None:
        result.set_exception(error)
    else:
        result.set_result(task.result())


class StatementsOfThread:
    """Runs functions in the thread that waits for a step, because a connection of its own belongs to that thread."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._over = False

    async def run(self, function: Callable[[], Any]) -> Any:
        """Run a function in the thread that serves; return what it returns. Called by the event loop."""
        if self._over:
            raise JournalUnavailableError("the caller no longer waits for its transaction; nothing was stored")
        done: Future[Any] = Future()
        self._queue.put((function, done))
        return await asyncio.wrap_future(done)

    def end(self, _: object) -> None:
        """Let `serve` return."""
        self._queue.put(None)

    def serve(self, until: float | None) -> None:
        """Run what comes, until the end, or the moment `until` of the monotonic clock."""
        try:
            while True:
                left = None if until is None else min(max(0.0, until - time.monotonic()), threading.TIMEOUT_MAX)
                try:
                    given = self._queue.get(timeout=left)
                except queue.Empty:
                    return
                if given is None:
                    return
                function, done = given
                if not done.set_running_or_notify_cancel():
                    continue
                try:
                    done.set_result(function())
                except Exception as error:
                    done.set_exception(error)
        finally:
            self._over = True
