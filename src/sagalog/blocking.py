"""Sagas from synchronous code: Django and Flask handlers, scripts, Celery tasks. One runner, in a background event loop.

    threads ─► [BlockingRunner] ─► the event loop's thread ─► SagaRunner

The event loop is started in the process that first uses it. So it survives servers that fork, as long as nobody has used it
before the fork; in a child of a process that has, each call says what to do.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from datetime import timedelta
from typing import Any, Literal, Self, TypeVar

from .background import BackgroundLoop, StatementsOfThread
from .definition.saga import Saga
from .durations import seconds_of
from .errors import (
    DefinitionError,
    JournalUnavailableError,
    OutcomeUnknownError,
    RunnerStoppedError,
)
from .journal.callers import callers_connection_of_thread
from .runner import Health, Receipt, Repaired, SagaInstance, SagaOutcome, SagaRunner
from .runner.runner import SagaNamed

__all__ = ["BlockingRunner"]

S = TypeVar("S")
T = TypeVar("T")
Timeout = timedelta | None

_FORKED = (
    "this BlockingRunner was started in process {}, and this is process {}, which was forked from it: its event loop did "
    "not come along. Send no event before the fork, and each process starts its own with its first call. With "
    "gunicorn --preload, nothing that is imported may send "
    "events; or call stop() before the fork. Nothing was stored"
)


class BlockingRunner:
    """A SagaRunner for code that does not await: each method waits until it is done, and may be called by any thread.

    The runner starts with the first call in a process, or `start`; it stops with `stop`, at the end of a `with` block, or
    when the process ends. It may be made when a module is imported: a server that forks afterwards has one for each worker.

    `timeout`: how long a call waits at most, unless it says so itself; None: without end.
    """

    def __init__(self, runner: SagaRunner, *, timeout: Timeout = timedelta(seconds=30)) -> None:
        if not isinstance(runner, SagaRunner):
            raise DefinitionError(f"a BlockingRunner takes a SagaRunner, not {type(runner).__name__}")
        _check_timeout(timeout)
        self._runner = runner
        self._timeout = timeout
        self._lock = threading.Lock()
        self._process = 0  # in which it was started; 0: in none
        self._loop: BackgroundLoop | None = None
        _all.add(self)

    def __repr__(self) -> str:
        return f"<BlockingRunner over {self._runner!r}>"

    @property
    def runner(self) -> SagaRunner:
        """The runner that it was made with."""
        return self._runner

    def start(self) -> None:
        """Start the runner now, rather than with the first call. Calling it again has no effect."""
        self._started()

    def stop(self) -> None:
        """Stop gracefully, as `SagaRunner.stop` does. The next call starts it anew. Calling it again has no effect."""
        self._check_process()
        self._check_thread()
        with self._lock:
            loop = self._loop
            if loop is None:
                return
            try:
                loop.submit(self._runner.stop()).result()
            finally:
                loop.stop()
                self._loop, self._process = None, 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def handle(
        self, event: Any, *, message_id: str | None = None, connection: Any = None, timeout: Timeout = None
    ) -> Receipt:
        """Handle one event; return when every saga it is for has it durably. See `SagaRunner.handle`.

        `connection`: your own, of this thread, with a transaction open: Django's (`django.db.connection`, within
        `transaction.atomic()`), psycopg's, sqlite3's, or SQLAlchemy's Connection or Session over one of them. The step then
        is part of that transaction.

        Raises what `SagaRunner.handle` raises, and OutcomeUnknownError where it has not returned within `timeout`: the
        event may be stored; send it again under the same message id.
        """
        if connection is not None:
            return self._within(connection, event, message_id, timeout)

        def unknown(seconds: float) -> Exception:
            return OutcomeUnknownError(
                f"{type(event).__name__} was not handled within {seconds:g} s; it may be stored. Send it again under the "
                "same message id"
            )

        return self._wait(lambda runner: runner.handle(event, message_id=message_id), timeout, unknown)

    def state(self, saga: type[Saga[S]] | Saga[S], correlation_id: str, *, timeout: Timeout = None) -> S:
        """Return the state that is stored of an instance. See `SagaRunner.state`."""
        return self._ask(lambda runner: runner.state(saga, correlation_id), timeout)

    def instance(
        self, saga: type[Saga[S]] | Saga[S], correlation_id: str, *, timeout: Timeout = None
    ) -> SagaInstance[S]:
        """Return an instance as it is stored. See `SagaRunner.instance`."""
        return self._ask(lambda runner: runner.instance(saga, correlation_id), timeout)

    def outcome(
        self,
        saga: type[Saga[S]] | Saga[S],
        correlation_id: str,
        *,
        timeout: Timeout = None,
        incarnation: int | None = None,
        missing: Literal["raise", "wait"] = "raise",
    ) -> SagaOutcome[S]:
        """Wait until an instance has ended, and return how. See `SagaRunner.outcome`.

        Raises OutcomeTimeoutError where it has not within `timeout` (default: that of this BlockingRunner).
        """
        _check_timeout(timeout)
        given = self._timeout if timeout is None else timeout

        def work(runner: SagaRunner) -> Coroutine[Any, Any, SagaOutcome[S]]:
            return runner.outcome(saga, correlation_id, timeout=given, incarnation=incarnation, missing=missing)

        # The call itself knows what it waited for, so it is given a little longer.
        return self._wait(
            work, None if given is None else given + timedelta(seconds=10), _unanswered, endless=given is None
        )

    def find(
        self, saga: type[Saga[S]] | Saga[S], /, *, timeout: Timeout = None, **fields: Any
    ) -> list[SagaInstance[S]]:
        """Return the live instances whose fields have these values, all of them. See `SagaRunner.find`."""

        async def found(runner: SagaRunner) -> list[SagaInstance[S]]:
            return [one async for one in runner.find(saga, **fields)]

        return self._ask(found, timeout)

    def retry(
        self, saga: SagaNamed, correlation_id: str, *, note: str = "", by: str = "", timeout: Timeout = None
    ) -> Repaired:
        """Let a parked instance try again. See `SagaRunner.retry`."""
        return self._ask(lambda runner: runner.retry(saga, correlation_id, note=note, by=by), timeout)

    def skip(
        self, saga: SagaNamed, correlation_id: str, *, note: str = "", by: str = "", timeout: Timeout = None
    ) -> Repaired:
        """Drop what failed, and go on. See `SagaRunner.skip`."""
        return self._ask(lambda runner: runner.skip(saga, correlation_id, note=note, by=by), timeout)

    def cancel(
        self,
        saga: SagaNamed,
        correlation_id: str,
        *,
        compensate: bool = True,
        note: str = "",
        by: str = "",
        timeout: Timeout = None,
    ) -> Repaired:
        """End an instance. See `SagaRunner.cancel`."""
        return self._ask(
            lambda runner: runner.cancel(saga, correlation_id, compensate=compensate, note=note, by=by), timeout
        )

    def settle(self, *, timeout: Timeout = None) -> None:
        """Return when nothing is left to do now. See `SagaRunner.settle`."""
        self._ask(lambda runner: runner.settle(), timeout)

    def health(self) -> Health:
        """Say whether the runner is alive and keeps up. See `SagaRunner.health`."""
        return self._ask(lambda runner: runner.health(), timedelta(seconds=10))

    def _ask(self, work: Callable[[SagaRunner], Coroutine[Any, Any, T]], timeout: Timeout) -> T:
        return self._wait(work, timeout, _unanswered)

    def _wait(
        self,
        work: Callable[[SagaRunner], Coroutine[Any, Any, T]],
        timeout: Timeout,
        late: Callable[[float], Exception],
        *,
        endless: bool = False,
    ) -> T:
        _check_timeout(timeout)
        given = None if endless else self._timeout if timeout is None else timeout
        loop, runner = self._started()
        future = loop.submit(work(runner))
        seconds = None if given is None else given.total_seconds()
        try:
            return future.result(None if seconds is None else min(seconds, threading.TIMEOUT_MAX))
        except TimeoutError:
            if future.done():
                return future.result()  # its own error, or an answer in the same moment
            future.cancel()
            raise late(seconds or 0.0) from None
        except BaseException:
            future.cancel()
            raise

    def _within(self, connection: Any, event: Any, message_id: str | None, timeout: Timeout) -> Receipt:
        """Handle an event in a transaction of the calling thread, which runs the statements meanwhile."""
        _check_timeout(timeout)
        given = self._timeout if timeout is None else timeout
        try:
            loop, runner = self._started()
        except JournalUnavailableError as error:
            raise JournalUnavailableError(
                f"{error} If the transaction on connection= holds that lock, the journal's tables cannot be created "
                "within it: call start() before the transaction."
            ) from error
        statements = StatementsOfThread()
        callers = callers_connection_of_thread(connection, statements.run)
        future = loop.submit(runner.handle(event, message_id=message_id, connection=callers))
        future.add_done_callback(statements.end)
        until = None if given is None else time.monotonic() + given.total_seconds()
        try:
            statements.serve(until)
        except BaseException:
            future.cancel()
            raise
        if not future.done():
            future.cancel()
            raise OutcomeUnknownError(
                f"{type(event).__name__} was not handled in time; roll the transaction back: then nothing is stored"
            )
        return future.result()

    def _started(self) -> tuple[BackgroundLoop, SagaRunner]:
        """Return the event loop and the runner in it, started if need be."""
        if self._process:
            self._check_process()
            self._check_thread()
            loop = self._loop
            if loop is not None:
                return loop, self._runner
        with self._lock:
            if self._loop is not None:
                return self._loop, self._runner
            if _ending.is_set():
                raise RunnerStoppedError("this process is ending; the event was not accepted and nothing was stored")
            loop = BackgroundLoop("sagalog-blocking")
            try:
                loop.submit(self._runner.start()).result()
            except BaseException:
                loop.stop()
                raise
            self._loop, self._process = loop, os.getpid()
            return loop, self._runner

    def _check_process(self) -> None:
        if self._process and self._process != os.getpid():
            raise DefinitionError(_FORKED.format(self._process, os.getpid()))

    def _check_thread(self) -> None:
        if self._loop is not None and self._loop.is_here:
            raise DefinitionError(
                "a BlockingRunner was called from its own event loop, perhaps by a handler of the runner: it would "
                "wait for itself. There, await the runner itself: await runner.handle(...)"
            )


def _unanswered(seconds: float) -> Exception:
    return JournalUnavailableError(f"there was no answer within {seconds:g} s")


def _check_timeout(timeout: object) -> None:
    if timeout is not None:
        seconds_of("timeout=", timeout)  # a wait for longer would be an error of the system, once the event is stored


_all: weakref.WeakSet[BlockingRunner] = weakref.WeakSet()
_ending = threading.Event()


def _stop_all() -> None:
    """Stop gracefully when the process ends, as far as it ends by itself; what a killed one leaves, workers take over."""
    _ending.set()
    for one in _running():
        try:
            one.stop()
        except Exception:  # noqa: S110  (its log says what; the others are stopped, too)
            pass


def _running() -> Iterator[BlockingRunner]:
    return (one for one in list(_all) if one._process == os.getpid())


def _forked() -> None:
    for one in list(_all):
        one._lock = threading.Lock()


atexit.register(_stop_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
