"""The runner: puts the phases together, owns start, drain and stop.

receive ─► queue ─► load ─► decide ─► commit ─► settle ─► deliver          due ─► queue          repair ─► queue
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Self, TypeVar

from ..decision import repair
from ..definition.saga import Saga
from ..errors import DefinitionError, InvalidEventError, RunnerStoppedError
from ..journal import Journal, open_journal
from ..journal.memory import InMemoryJournal
from ..journal.protocol import TellsTime
from ..journal.store import JournalSagaStateStore, SagaStateStore
from ..logs import about, log, trace_of
from .arguments import check_text, check_type
from .cache import InstanceCache
from .clock import Clock, ServerClock, SystemClock
from .commands import CommandHandlers, CommandPolicy
from .context import check_no_circle, check_outside_handlers, event_handler, outside_handlers
from .counters import Counters
from .deliver import Dispatcher
from .due import DueLoop
from .engine import Engine
from .envelope import Envelope, Maintenance
from .failures import not_handled
from .gauges import Gauges, gauges_of
from .given import check_source, sagas_of
from .health import NOT_STARTED, Health, examine
from .hooks import Hook, checked_hooks
from .instance import Instance
from .queue import Queue
from .quiet import tell_quiet
from .receive import Incoming, Receipt, Receiver
from .repair import Repaired, apply
from .round import Rounds
from .runtime import SagaRuntime
from .settings import RetryPolicy, RunnerSettings
from .signals import asked_to_stop
from .starting import give_up_waiting
from .telling import Hooks, NoHooks

F = TypeVar("F", bound=Callable[..., Any])
Dispatch = Callable[..., Any] | Mapping[type, Callable[..., Any]]
Reader = Callable[[dict[str, Any]], Incoming | None]
Report = Callable[["SagaRunner"], Any]

_NOT_STARTED = "the runner is not started: use it as `async with SagaRunner(...) as runner`; nothing was stored"


class SagaRunner:
    """Runs sagas over a journal: use it as `async with SagaRunner(journal, sagas=[OrderSaga], dispatch=...) as runner`.

    `journal` is a URL (opened at start, closed at stop), a Journal, one saga's own SagaStateStore, or a mapping from
    saga names to such stores. `dispatch` is a function for all commands, or a mapping from command types to functions;
    `command` registers more. A command handler takes `(command)` or `(command, context)`, may be async, and returns
    None or events; CommandRefused means no for ever, any other error means later. `hooks` are told what it does, for
    metrics and traces.
    """

    def __init__(
        self,
        journal: str | Journal | SagaStateStore | Mapping[str, SagaStateStore],
        *,
        sagas: Iterable[Saga[Any] | type[Saga[Any]]],
        dispatch: Dispatch | None = None,
        clock: Clock | None = None,
        settings: RunnerSettings | None = None,
        hooks: Iterable[Hook] = (),
    ) -> None:
        if settings is not None:
            check_type("settings=", settings, RunnerSettings, "RunnerSettings(...)")
        if clock is not None and not (
            callable(getattr(clock, "now", None)) and callable(getattr(clock, "sleep_until", None))
        ):
            raise DefinitionError(f"clock= takes a clock (now, sleep_until), not a {type(clock).__name__}")
        self.settings = settings or RunnerSettings()
        self.clock: Clock = clock if clock is not None else SystemClock()
        self.counters = Counters()
        self.sagas = sagas_of(sagas)
        self.hooks = checked_hooks(hooks)
        self._source = journal
        self._handlers = CommandHandlers()
        self._handlers.add(dispatch)
        check_source(journal, self.sagas)
        self.reader: Reader | None = None
        self.reporter: Report | None = None
        self._journal: Journal | None = None
        self._engine: Engine | None = None
        self._hooks: Hooks = NoHooks()
        self._caches: dict[str, InstanceCache] = {}
        self._dispatcher: Dispatcher | None = None
        self._due_loop: DueLoop | None = None
        self._receiver: Receiver | None = None
        self._due: asyncio.Task[None] | None = None
        self._stopped: asyncio.Event | None = None

    def has_handler(self, command: type) -> bool:
        """Say whether commands of this type have a handler."""
        return self._handlers.get(command) is not None

    @property
    def in_memory(self) -> bool:
        """Nothing of it can be shared with another process."""
        return isinstance(self._source, InMemoryJournal) or self._source == "memory://"

    def using(
        self,
        *,
        journal: str | Journal | SagaStateStore | None = None,
        clock: Clock | None = None,
        hooks: Iterable[Hook] = (),
    ) -> SagaRunner:
        """Return a runner like this one, not started, on another journal or clock, with further hooks."""
        other = SagaRunner(
            self._source if journal is None else journal,
            sagas=self.sagas,
            clock=clock or self.clock,
            settings=self.settings,
            hooks=(*self.hooks, *hooks),
        )
        other._handlers = self._handlers
        other.reader, other.reporter = self.reader, self.reporter
        return other

    def command(
        self,
        command: type,
        *,
        timeout: timedelta | None = None,
        retry: RetryPolicy | None = None,
        places: int | None = None,
    ) -> Callable[[F], F]:
        """Register the decorated function as the handler of a command type.

        `timeout`: how long one attempt may take (default: `command_seconds` of the settings); then it is cancelled and
        counts as failed. `retry`: how often and when it is tried again (default: `dispatch_retry`). `places`: how many
        attempts of this type run at once in this worker (default: `max_dispatch`).
        """
        policy = CommandPolicy(timeout, retry, places)

        def register(function: F) -> F:
            self._handlers.add_for(command, function, policy)
            return function

        return register

    def reads(self, function: Reader) -> Reader:
        """Let the decorated function turn a line of `sagalog run` (a JSON object) into an Incoming, or None: skip it."""
        if not callable(function):
            raise DefinitionError(f"reads takes a function, not a {type(function).__name__}")
        self.reader = function
        return function

    def reports(self, function: Report) -> Report:
        """Let `sagalog run` print what the decorated function returns at the end (a text; may be async)."""
        if not callable(function):
            raise DefinitionError(f"reports takes a function, not a {type(function).__name__}")
        self.reporter = function
        return function

    @property
    def journal(self) -> Journal | None:
        """The journal of a started runner, None where stores were given."""
        return self._journal

    async def start(self) -> None:
        """Open what was named by URL, and begin to look for due work. Loads no instance, however many are live."""
        if self._engine is not None:
            raise DefinitionError("this runner is started already")
        source = self._source
        if isinstance(source, str):
            self._journal = open_journal(source)
        elif not isinstance(source, (SagaStateStore, Mapping)):
            self._journal = source
        if self._journal is not None:
            try:
                await self._journal.open()
            except BaseException:
                await self._close_journal()
                raise
        self._hooks = Hooks(self.hooks) if self.hooks else NoHooks()
        engine = Engine(self.settings, await self._agreed_clock(), self.counters, outside_handlers(), self._hooks)
        queue: Queue[Instance] = Queue()
        caches = [
            InstanceCache(SagaRuntime(saga, self._store(saga), engine, self._journal), queue) for saga in self.sagas
        ]
        self._caches = {cache.runtime.name: cache for cache in caches}
        self._receiver = Receiver(engine, caches)
        self._dispatcher = Dispatcher(engine, self._handlers, self._receiver.reply)
        self._due_loop = due_loop = DueLoop(engine, caches)
        Rounds(engine, queue, self._dispatcher, due_loop)
        self._engine = engine
        self._stopped = asyncio.Event()
        self._due = engine.loop.create_task(due_loop.run())
        self._due.add_done_callback(_due_loop_ended)
        self._hooks.tell("started", self)

    async def _agreed_clock(self) -> Clock:
        """Return the clock to use: the server's, where there is one and nothing else was asked for."""
        if type(self.clock) is not SystemClock or not isinstance(self._journal, TellsTime):
            return self.clock
        clock = ServerClock(self._journal)
        try:
            await clock.synchronize()
        except BaseException:
            await self._close_journal()
            raise
        return clock

    def _store(self, saga: Saga[Any]) -> SagaStateStore:
        if self._journal is not None:
            return JournalSagaStateStore(self._journal, saga.name)
        if isinstance(self._source, Mapping):
            return self._source[saga.name]
        assert isinstance(self._source, SagaStateStore)
        return self._source

    async def stop(self) -> None:
        """Stop gracefully: refuse new events, finish what is under way, record it, close what was opened here.

        Commands that were not accepted within `stop_seconds` stay in their outbox, for any worker.
        """
        engine, receiver, due, dispatcher = self._engine, self._receiver, self._due, self._dispatcher
        if engine is None or receiver is None or due is None or dispatcher is None:
            return
        engine.check_loop()
        engine.check_not_of_ours("stop")
        engine.stopping.set()
        dispatcher.stop()
        stopped = not_handled()
        for cache in self._caches.values():
            for instance in cache.active():
                give_up_waiting(instance, stopped)
                tell_quiet(instance)
        try:
            async with asyncio.timeout(self.settings.stop_seconds):
                await asyncio.wait([due])  # if it has failed, it was logged, and stopping goes on
                await receiver.drained()
                await engine.wait_for_tasks()
        except TimeoutError:
            log.warning(
                "stopping: command handlers still run after %.0f s; cancelled, their commands stay in the outbox",
                self.settings.stop_seconds,
                extra=about(),
            )
            due.cancel()
            engine.cancel_tasks()
            await asyncio.gather(due, return_exceptions=True)
            await engine.wait_for_tasks(self.settings.lease_seconds)
        for cache in self._caches.values():
            for instance in list(cache.instances.values()):
                instance.forget()
                if instance.accepted:
                    instance.poke(Envelope(maintenance=Maintenance.RECORD))
        await engine.wait_for_tasks(max(self.settings.stop_seconds, self.settings.lease_seconds))
        if engine.busy:
            log.warning("stopping: the journal does not answer; what was accepted is not recorded", extra=about())
            engine.abandon()
            await engine.wait_for_tasks(self.settings.lease_seconds)
        if engine.busy:
            log.error("stopping: a handler does not end although it was cancelled; it is left to itself", extra=about())
        dispatcher.close()  # deliveries that ended meanwhile have asked for a later record
        await self._close_journal()
        engine.hooks.tell("stopped", self)
        self._engine = self._receiver = self._due = self._dispatcher = self._due_loop = None
        self._hooks = NoHooks()
        self._caches = {}
        if self._stopped is not None:
            self._stopped.set()

    async def _close_journal(self) -> None:
        """Close what was opened here; a journal that was given stays open."""
        if isinstance(self._source, str) and self._journal is not None:
            await self._journal.close()
        self._journal = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def serve(self) -> None:
        """Run until SIGTERM, SIGINT or `stop()`, then stop gracefully. Call it inside `async with`.

        Signals are heard by the main thread only, and not on Windows; elsewhere `stop()` ends it, or a cancellation.
        """
        await asked_to_stop(self._running().stopping)
        await self.stop()

    async def health(self, *, timeout_seconds: float = 2.0, behind_seconds: float | None = None) -> Health:
        """Say whether this runner is alive and keeps up, and if not, why; answers within `timeout_seconds`.

        Ready means: the journal answers, and no work has been due for longer than `behind_seconds` (default: six leases)
        without a worker claiming it. Changes nothing and raises nothing.
        """
        engine, due, due_loop = self._engine, self._due, self._due_loop
        if engine is None or due is None or due_loop is None:
            return NOT_STARTED
        engine.check_loop()
        return await examine(
            engine,
            [cache.runtime for cache in self._caches.values()],
            self._journal,
            due_loop,
            due,
            timeout_seconds=timeout_seconds,
            behind_seconds=behind_seconds,
        )

    def gauges(self) -> Gauges:
        """Return what this runner has on its hands now; nothing, unless it is started. May be called by another thread."""
        engine, receiver = self._engine, self._receiver
        if engine is None or receiver is None:
            return Gauges()
        return gauges_of(receiver, engine, list(self._caches.values()))

    def _running(self) -> Engine:
        if self._engine is None:
            raise RunnerStoppedError(_NOT_STARTED)
        self._engine.check_loop()
        return self._engine

    def handle(
        self, event: Any, *, message_id: str | None = None, at: datetime | None = None, connection: Any = None
    ) -> Coroutine[Any, Any, Receipt]:
        """Handle one event; return when every saga it is for has it durably.

        `message_id` is the sender's: a message handled before is a duplicate and changes nothing. Without one, each
        call counts as a new message. `at` is the event's own time, for a runner on an EventClock.

        `connection`, with a journal in PostgreSQL: an asyncpg connection to the same database with a transaction open.
        The step then becomes part of that transaction: the receipt holds if it commits, and only then do commands
        leave. What the handler raises is raised here at once, without retry or parking. Another event for the same
        instance waits until the transaction has ended: do not wait for one inside of it.

        Raises:
            InvalidEventError, DefinitionError (also in another event loop), NoInstanceError, SagaParkedError,
            RunnerStoppedError, JournalUnavailableError: nothing was stored for that saga.
            OutcomeUnknownError: it may be stored; send it again under the same message id.
        """
        receiver = self._receiver or _NotStarted
        if connection is not None:
            if at is not None:
                raise DefinitionError("at= and connection= do not go together")
            work = receiver.handle_in_transaction(event, message_id, connection)
        else:
            work = receiver.handle(event, message_id, at)
        return self._hooks.receiving(type(event).__name__, work)

    async def handle_many(self, events: Iterable[Incoming | Any] | AsyncIterable[Incoming | Any]) -> list[Receipt]:
        """Handle many events, given as Incoming or plain; those of one instance in the order given.

        Returns their receipts in that order. All are tried; if some fail, an ExceptionGroup of their errors is raised,
        each with a note that names the event by its number (from 1) and message id.
        """
        engine = self._running()
        if isinstance(events, (str, bytes, Mapping)) or not isinstance(events, (Iterable, AsyncIterable)):
            raise InvalidEventError(
                f"handle_many takes an iterable of events, not a {type(events).__name__}; nothing was stored"
            )
        window = asyncio.Semaphore(self.settings.max_in_flight)
        receipts: list[Receipt | None] = []
        errors: list[Exception] = []

        async def one(number: int, incoming: Incoming) -> None:
            try:
                receipts[number] = await self.handle(incoming.event, message_id=incoming.message_id, at=incoming.at)
            except Exception as error:
                error.add_note(f"event {number + 1}, message id {incoming.message_id!r}")
                errors.append(error)
            finally:
                window.release()

        async with asyncio.TaskGroup() as group:
            async for item in _aiter(events):
                await window.acquire()
                incoming = item if isinstance(item, Incoming) else Incoming(item)
                receipts.append(None)
                group.create_task(one(len(receipts) - 1, incoming))
        del engine
        if errors:
            raise ExceptionGroup(f"{len(errors)} of {len(receipts)} events were not accepted", errors)
        return [receipt for receipt in receipts if receipt is not None]

    async def settle(self) -> None:
        """Return when nothing is left to do now: mailboxes empty, due work done, commands accepted and recorded.

        Commands that wait for another attempt, parked instances, and events that wait for their starting event are not
        waited for. With an EventClock, timers
        due up to its time fire here, and commands that an earlier process left are taken over.
        """
        engine, due_loop = self._running(), self._due_loop
        assert due_loop is not None
        check_outside_handlers("settle")
        await due_loop.scanned()
        while True:
            now = engine.now()
            if engine.event_time:  # no lease runs out by itself here
                now += engine.lease
            for cache in self._caches.values():
                await due_loop.look(cache, now)
            await engine.wait_for_tasks()
            busy = False
            for cache in self._caches.values():
                for instance in cache.active():
                    busy = busy or not instance.settled
                    if instance.accepted:
                        instance.poke(Envelope(maintenance=Maintenance.RECORD))
            if not busy:
                return
            await asyncio.sleep(0)

    async def retry(self, saga: str, correlation_id: str, *, note: str = "", by: str = "") -> Repaired:
        """Let a parked or not compensated instance try again what it could not do, then the events held since."""
        return await self._repair(saga, correlation_id, note, by, repair.retry(note=note, by=by))

    async def skip(self, saga: str, correlation_id: str, *, note: str = "", by: str = "") -> Repaired:
        """Drop what failed (held event, stuck command, refused undo), then go on as `retry` does."""
        return await self._repair(saga, correlation_id, note, by, repair.skip(note=note, by=by))

    async def drop(self, saga: str, correlation_id: str, entry: str, *, note: str = "", by: str = "") -> Repaired:
        """Take one command or timer out of an instance, by its number `<sequence nr>/<index>`.

        A running attempt at it is cut off.
        Raises as `retry`, and RepairError where nothing has that number.
        """
        check_text("entry", entry, error=InvalidEventError, end="; nothing was stored")
        return await self._repair(saga, correlation_id, note, by, repair.drop(entry, note=note, by=by))

    async def cancel(
        self, saga: str, correlation_id: str, *, compensate: bool = True, note: str = "", by: str = ""
    ) -> Repaired:
        """End an instance, by default with its undo commands sent first. Held events are dropped, known as duplicates."""
        if not isinstance(compensate, bool):
            raise DefinitionError(f"compensate= is True or False, not a {type(compensate).__name__}")
        made = repair.cancel(compensate=compensate, note=note, by=by)
        return await self._repair(saga, correlation_id, note, by, made)

    async def _repair(self, saga: str, correlation_id: str, note: str, by: str, made: repair.Repair) -> Repaired:
        _check_repair(saga, correlation_id, note, by)
        cache = self._named(saga)
        caller = event_handler()
        if caller is not None:
            check_no_circle(caller, cache.instance(correlation_id), "a repair")
        assert self._receiver is not None
        return await self._receiver.repair(lambda: apply(cache, correlation_id, made))

    def _named(self, saga: str) -> InstanceCache:
        self._running()
        try:
            return self._caches[saga]
        except KeyError:
            raise InvalidEventError(
                f"no saga {saga!r} in this runner; it has {', '.join(sorted(self._caches))}"
            ) from None


def _due_loop_ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        name = type(error).__name__
        log.critical("the loop that looks for due work failed: %s", name, exc_info=trace_of(error), extra=about())


class _NotStarted:
    @staticmethod
    async def handle(*_: object) -> Receipt:
        raise RunnerStoppedError(_NOT_STARTED)

    handle_in_transaction = handle


def _check_repair(saga: str, correlation_id: str, note: str, by: str) -> None:
    end = "; nothing was stored"
    check_text("saga", saga, error=InvalidEventError, end=end)
    check_text("correlation_id", correlation_id, error=InvalidEventError, end=end)
    check_text("note=", note, empty=True, error=InvalidEventError, end=end)
    check_text("by=", by, empty=True, error=InvalidEventError, end=end)


async def _aiter(events: Iterable[Any] | AsyncIterable[Any]) -> Any:
    if isinstance(events, AsyncIterable):
        async for event in events:
            yield event
    else:
        for event in events:
            yield event
