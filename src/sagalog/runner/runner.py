"""The runner as its users see it. started.py puts the phases together; round.py calls them."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from ..decision import repair
from ..decision.controls import CommandPause, pausing, resuming
from ..definition.saga import Saga
from ..definition.schema import schema_of
from ..durations import seconds_of
from ..errors import DefinitionError, InvalidEventError, RunnerStoppedError
from ..journal import Journal
from .activities import register
from .arguments import check_text, check_type
from .asking import outcome_of, state_of
from .attached import LEAST_SECONDS, Attached
from .circuit import Circuit
from .clock import Clock, SystemClock
from .commands import CommandHandlers, CommandPolicy
from .context import check_outside_handlers, outside_handlers
from .controls import ControlsWatch
from .counters import Counters
from .ended import SagaOutcome
from .engine import Engine
from .envelope import Burst
from .finding import SagaInstance, find, instance_of, wanted_of
from .gauges import Gauges
from .given import check_source, client_of, sagas_of
from .health import NOT_STARTED, Health
from .hooks import Hook, checked_hooks
from .many import handle_all
from .receipt import Incoming, Receipt
from .receive import Receiver
from .repair import Repaired
from .resources import Resources
from .settings import RetryPolicy, RunnerSettings
from .signals import asked_to_stop
from .started import Started
from .stores import JournalSource, Stores, is_in_memory
from .telling import Hooks, NoHooks

if TYPE_CHECKING:
    from ..brokers.protocol import Sink, Source
    from ..brokers.publication import Publication
    from ..brokers.subscription import Subscription
    from .typed_handlers import Registers

C = TypeVar("C")
S = TypeVar("S")
Dispatch = Callable[..., Any] | Mapping[type, Callable[..., Any]]
Reader = Callable[[dict[str, Any]], Incoming | None]
Report = Callable[["SagaRunner"], Any]
# Type checkers check a class; a name also reaches a saga whose class is not here.
SagaNamed = type[Saga[Any]] | Saga[Any] | str

_NOT_STARTED = "the runner is not started: use it as `async with SagaRunner(...) as runner`; nothing was stored"


class SagaRunner:
    """Runs sagas over a journal: use it as `async with SagaRunner(journal, sagas=[OrderSaga], dispatch=...) as runner`.

    `journal` is a URL (opened at start, closed at stop), a Journal, one saga's own SagaStateStore, or a mapping from
    saga names to such stores. `dispatch` is a function for all commands, or a mapping from command types to functions;
    `command` registers more. A command handler takes `(command)` or `(command, context)`, is async unless it never waits,
    and returns None or events; CommandRefused means no for ever, any other error means later. `hooks` are told what it
    does, for metrics and traces. `sources` are read, and `sinks` take the commands of a type; see `sagalog.brokers`.
    `lifespan(runner)` gives an asynchronous context manager: what it yields is open while the runner runs, as
    `runner.resources` and `context.resources`.

    A `client` takes events and answers questions, and leaves the rest to the workers on its journal: it carries out no
    command, fires no timer and takes over nothing. Workers take the commands of its steps at once.
    """

    def __init__(
        self,
        journal: JournalSource,
        *,
        sagas: Iterable[Saga[Any] | type[Saga[Any]]],
        dispatch: Dispatch | None = None,
        clock: Clock | None = None,
        settings: RunnerSettings | None = None,
        hooks: Iterable[Hook] = (),
        sources: Iterable[Source | Subscription] = (),
        sinks: Mapping[type, Sink | Publication] | None = None,
        client: bool = False,
        lifespan: Callable[[SagaRunner], AbstractAsyncContextManager[Any]] | None = None,
    ) -> None:
        if settings is not None:
            check_type("settings=", settings, RunnerSettings, "RunnerSettings(...)")
        if clock is not None and not (
            callable(getattr(clock, "now", None)) and callable(getattr(clock, "sleep_until", None))
        ):
            raise DefinitionError(f"clock= takes a clock (now, sleep_until), not {type(clock).__name__}")
        self.settings: RunnerSettings = settings or RunnerSettings()
        self.clock: Clock = clock if clock is not None else SystemClock()
        self.counters: Counters = Counters()
        self.sagas: list[Saga[Any]] = sagas_of(sagas)
        self.hooks: tuple[Hook, ...] = checked_hooks(hooks)
        self.client: bool = client_of(client, journal, self.clock)
        self._resources = Resources(lifespan)
        self._source = journal
        self._handlers = CommandHandlers()
        self._handlers.add(dispatch)
        register(self._handlers, self.sagas)
        self._attached = Attached(self.sagas, sources, {} if sinks is None else sinks)
        self._attached.register(self._handlers)
        check_source(journal, self.sagas)
        self._reader: Reader | None = None
        self._reporter: Report | None = None
        self._hooks: Hooks = NoHooks()
        self._stores: Stores | None = None
        self._starting: bool = False
        self._started: Started | None = None
        self._receiver: Receiver | None = None

    def __repr__(self) -> str:  # of a URL only its scheme: it may hold a password
        on = self._source.partition(":")[0] if isinstance(self._source, str) else type(self._source).__name__
        sagas = ", ".join(saga.name for saga in self.sagas)
        return f"<SagaRunner of {sagas} on {on}, {'not running' if self._receiver is None else 'running'}>"

    @property
    def in_memory(self) -> bool:
        """The journal is in this process's memory, so no other process can share it."""
        return is_in_memory(self._source)

    def using(
        self,
        *,
        journal: JournalSource | None = None,
        clock: Clock | None = None,
        hooks: Iterable[Hook] = (),
        sources: bool = False,
        client: bool | None = None,
    ) -> SagaRunner:
        """Return a runner like this one, not started, on another journal or clock, with further hooks, or as a client.

        `sources`: whether it reads the sources of this one. Its commands have the same handlers and sinks in any case.
        """
        check_type("sources=", sources, bool, "True or False")
        other = SagaRunner(
            self._source if journal is None else journal,
            sagas=self.sagas,
            clock=self.clock if clock is None else clock,
            settings=self.settings,
            hooks=(*self.hooks, *checked_hooks(hooks)),
            client=self.client if client is None else client,
            lifespan=self._resources.make,
        )
        other._handlers = self._handlers
        other._attached = self._attached.copy(sources=sources)
        other._reader, other._reporter = self._reader, self._reporter
        return other

    def command(
        self,
        command: type[C],
        *,
        timeout: timedelta | None = None,
        retry: RetryPolicy | None = None,
        places: int | None = None,
        rate: float | None = None,
        shared_rate: float | None = None,
        circuit: Circuit | None = None,
    ) -> Registers[C]:
        """Register the decorated function as the handler of a command type.

        `timeout`: how long one attempt may take (default: `command_timeout` of the settings); then it is cancelled and
        counts as failed. `retry`: how often and when it is tried again (default: `dispatch_retry`). `places`: how many
        attempts of this type run at once in this worker (default: `max_dispatch`). `rate`: how many leave this worker in
        a second, `shared_rate`: all workers on one journal together (default: no bound). `circuit`: when they wait
        because their receiver is away (default: each is tried).
        """
        policy = CommandPolicy(timeout, retry, places, rate, circuit, shared_rate)

        def register(function: Any) -> Any:
            self._handlers.add_for(command, function, policy)
            return function

        return register

    def reads(self, function: Reader) -> Reader:
        """Let the decorated function turn a line of `sagalog run` (a JSON object) into an Incoming, or None: skip it."""
        if not callable(function):
            raise DefinitionError(f"reads takes a function, not {type(function).__name__}")
        self._reader = function
        return function

    def reports(self, function: Report) -> Report:
        """Let `sagalog run` print what the decorated function returns at the end (a text; may be async)."""
        if not callable(function):
            raise DefinitionError(f"reports takes a function, not {type(function).__name__}")
        self._reporter = function
        return function

    @property
    def resources(self) -> Any:
        """What the `lifespan` of a started runner has opened; None without one."""
        return self._resources.value

    @property
    def journal(self) -> Journal | None:
        """The journal of a started runner, None where stores were given."""
        return None if self._stores is None else self._stores.journal

    async def start(self) -> None:
        """Open what was named by URL, and begin to look for due work. Loads no instance, however many are live."""
        if self._started is not None:
            self._started.engine.check_loop()
        if self._started is not None or self._starting:  # two engines would run, and only one of them could be stopped
            raise DefinitionError("this runner is started already")
        self._starting = True
        try:
            await self._start()
        finally:
            self._starting = False

    async def _start(self) -> None:
        self._stores = stores = Stores(self._source)
        await stores.open()
        self._hooks = Hooks(self.hooks) if self.hooks else NoHooks()
        context = outside_handlers()
        try:
            clock = await stores.agreed_clock(self.clock)
            await self._resources.open(self)
            engine = Engine(
                self.settings,
                clock,
                self.counters,
                context,
                self._hooks,
                client=self.client,
                resources=self._resources.value,
            )
            controls = None
            if stores.journal is not None:
                controls = ControlsWatch(stores.journal, engine.loop.time, engine.seconds.due_poll)
            if controls is not None and not (engine.client or engine.alone):
                await controls.look(now=True)
            self._started = Started(engine, stores, self.sagas, self._handlers, controls)
        except BaseException:
            try:
                await self._resources.close()
            finally:
                await stores.close()
            raise
        self._receiver = self._started.receiver
        self._attached.start(self._receiver, self._hooks)
        self._hooks.tell("started", self)

    async def stop(self) -> None:
        """Stop gracefully: refuse new events, finish what is under way, record it, close what was opened here.

        Commands that were not accepted within `stop_timeout` stay in their outbox, for any worker. Raises DefinitionError
        while `start()` is under way.
        """
        if self._starting:
            raise DefinitionError(
                "this runner is still starting: cancel start(), or call stop() once start() has returned"
            )
        started = self._started
        if started is None:
            return
        started.engine.check_loop()
        started.engine.check_not_of_ours("stop")
        seconds, loop = started.engine.seconds.stop_timeout, started.engine.loop
        until = loop.time() + seconds
        await self._attached.drain(seconds)
        await started.stop(min(seconds, max(LEAST_SECONDS, until - loop.time())))  # one bound for both
        await self._attached.close(seconds)
        try:
            await self._resources.close()
        finally:
            await started.stores.close()
        if self._started is started:  # not for the second of two calls at once
            self._hooks.tell("stopped", self)
            self._started = self._receiver = None
            self._hooks = NoHooks()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def serve(self) -> None:
        """Run until SIGTERM, SIGINT or `stop()`, then stop gracefully. Call it inside `async with`.

        Signals are heard by the main thread only, and not on Windows; elsewhere `stop()` ends it, or a cancellation. From
        the first signal on, another one does what it did before this call: by default, SIGTERM ends the process at once.
        Several runners may be served by one loop: a signal stops all of them.
        """
        await asked_to_stop(self._running().engine.stopping)
        await self.stop()

    async def health(
        self,
        *,
        timeout: timedelta = timedelta(seconds=2),  # noqa: ASYNC109  (the answer says what did not answer in time)
        behind: timedelta | None = None,
    ) -> Health:
        """Say whether this runner is alive and keeps up, and if not, why; answers within `timeout`.

        Ready means: the journal answers, and no work has been due for longer than `behind` (default: six leases)
        without a worker claiming it. Changes nothing and raises nothing.
        """
        seconds = seconds_of("timeout", timeout)
        late = None if behind is None else seconds_of("behind", behind, zero=True)
        if self._started is None:
            return NOT_STARTED
        self._started.engine.check_loop()
        return self._attached.health(await self._started.health(seconds, late))

    def gauges(self) -> Gauges:
        """Return what this runner is busy with now; nothing, unless it is started. May be called by another thread."""
        return Gauges() if self._started is None else self._attached.gauges(self._started.gauges())

    def _running(self) -> Started:
        if self._started is None:
            raise RunnerStoppedError(_NOT_STARTED)
        self._started.engine.check_loop()
        return self._started

    async def handle(
        self,
        event: Any,
        *,
        message_id: str | None = None,
        at: datetime | None = None,
        connection: Any = None,
        trace: str | None = None,
    ) -> Receipt:
        """Handle one event; return when every saga it is for has it durably.

        `message_id` is the sender's: a message handled before is a duplicate and changes nothing. Without one, each
        call counts as a new message. `at` is the event's own time, for a runner on an EventClock; by default, that of
        the newest one before it.

        `connection`: your own, to the database or file of the journal, with a transaction open: asyncpg's, psycopg's,
        sqlite3's or aiosqlite's, or SQLAlchemy's AsyncConnection or AsyncSession over one of them. The step then becomes
        part of that transaction: the receipt holds if it commits, and only then do commands leave. What the handler
        raises is raised here at once, without retry or parking. Another event for the same instance, in SQLite for any,
        waits until the transaction has ended: do not wait for one inside of it.

        If the task that calls it is cancelled, the event may be handled all the same: send it again under the same message
        id, or look.

        `trace`: the traceparent that came with the event, for hooks; a span that is open around this call comes before it.
        A text that is none (over 256 characters, or not printable ASCII) is passed over.

        Raises:
            SagalogError: nothing was stored for that saga. InvalidEventError, DefinitionError (also in another event loop),
                NoInstanceError, SagaParkedError, RunnerStoppedError, JournalUnavailableError say why.
            OutcomeUnknownError: it may be stored; send it again under the same message id.
        """
        if trace is not None and type(trace) is not str:
            raise InvalidEventError(
                f"trace= takes a traceparent as a str, not {type(trace).__name__}; nothing was stored for this "
                f"{type(event).__name__}"
            )
        if connection is None:
            return await self._receive(event, message_id, at, trace=trace or "")
        if at is not None or trace:
            raise DefinitionError(f"{'at=' if at is not None else 'trace='} and connection= cannot be used together")
        work = (self._receiver or _NotStarted).handle_in_transaction(event, message_id, connection)
        return await self._hooks.receiving(type(event).__name__, work)

    def _receive(
        self,
        event: Any,
        message_id: str | None,
        at: datetime | None = None,
        *,
        trace: str = "",
        burst: Burst | None = None,
        sent_by: str = "",
    ) -> Awaitable[Receipt]:
        """Hand an event to the phases, and tell the hooks how long its sender waits; see Receiver.handle."""
        given = trace if trace and not self._hooks.caller() else ""
        work = (self._receiver or _NotStarted).handle(event, message_id, at, given, burst, sent_by)
        return self._hooks.receiving(type(event).__name__, work)

    async def handle_many(self, events: Iterable[Incoming | Any] | AsyncIterable[Incoming | Any]) -> list[Receipt]:
        """Handle many events, given as Incoming or plain; those of one instance in the order given.

        Where the journal fails one, those of the same instance behind it are not stored either, and have the same error:
        sent again under their message ids, all of them are handled in their order. Events that reach instances by a key
        (`by=`) are looked up first, and may come later than others. Any other error is that of one event alone.

        Up to `max_in_flight` are at work at once. With `no_instance="wait"` those that wait count among them, so a starting
        event is to come no further behind what waits for it.

        Returns their receipts in that order. All are tried; if some fail, an ExceptionGroup of their errors is raised,
        each with a note that names the event by its number (from 1) and message id.
        """
        self._running()
        if isinstance(events, (str, bytes, Mapping)) or not isinstance(events, (Iterable, AsyncIterable)):
            raise InvalidEventError(
                f"handle_many takes an iterable of events, not {type(events).__name__}; nothing was stored"
            )

        burst = Burst()

        def handle(incoming: Incoming) -> Awaitable[Receipt]:
            return self._receive(incoming.event, incoming.message_id, incoming.at, burst=burst)

        return await handle_all(handle, events, self.settings.max_in_flight)

    async def settle(self) -> None:
        """Return when nothing is left to do now: mailboxes empty, due work done, commands accepted and recorded.

        It does not wait for commands that wait for another attempt, for parked instances, for events that wait for their
        starting event, or for commands of another worker. So are those whose lease ended because this process stood still
        for longer than that: they are taken over after another lease. It does wait for answers that cannot be stored yet.
        With an EventClock, timers due up to its time fire here, commands of an earlier process are taken over, and those
        that wait for another attempt are waited for, however long: what is due behind one comes after its answer.
        """
        started = self._running()
        check_outside_handlers("settle")
        await started.settle()

    async def state(self, saga: type[Saga[S]] | Saga[S], correlation_id: str) -> S:
        """Return the state that is stored of an instance: after its last step, also of a parked or finished one; a copy.

        A finished one is known for `retention` at least. Raises NoInstanceError where nothing is known of it, CodecError
        for a record or state that this code cannot read, JournalUnavailableError.
        """
        state: S = await state_of(self._running().runtime_of(saga), correlation_id)
        return state

    async def instance(self, saga: type[Saga[S]] | Saga[S], correlation_id: str) -> SagaInstance[S]:
        """Return an instance as it is stored: its status, version, state, and how it ended, if it has.

        Raises as `state` does, except that a state which this code cannot read is told when it is looked at.
        """
        return await instance_of(self._running().runtime_of(saga), correlation_id)

    async def outcome(
        self,
        saga: type[Saga[S]] | Saga[S],
        correlation_id: str,
        *,
        timeout: timedelta | None = None,  # noqa: ASYNC109  (the error says what was waited for)
        incarnation: int | None = None,
        missing: Literal["raise", "wait"] = "raise",
    ) -> SagaOutcome[S]:
        """Wait until an instance has ended, by whichever worker, and return how.

        Ended are the completed, compensated and cancelled ones, and those whose compensation failed. A parked one has not:
        it is waited for until somebody has repaired it, and it ends. `incarnation`: which life is meant; None: the one
        that is stored when it is looked up first, also if that has ended already. `missing`: whether to raise, or to
        wait for it, where there is no such instance, or that life has not begun.

        Raises:
            OutcomeTimeoutError: it has not ended within `timeout` (None: wait without end). It is a TimeoutError, too.
            NoInstanceError: there is no such instance, and `missing` does not say to wait for it.
            OutcomeGoneError: that life has ended, and how is not kept any more.
            CodecError: this code cannot read its record, state or result.
            RunnerStoppedError: the runner stopped meanwhile.
        """
        started = self._running()
        runtime = started.runtime_of(saga)
        return await outcome_of(
            runtime, correlation_id, started.follower, timeout=timeout, incarnation=incarnation, missing=missing
        )

    def find(self, saga: type[Saga[S]] | Saga[S], /, **fields: Any) -> AsyncIterator[SagaInstance[S]]:
        """Yield the live instances with all that is given: fields that the saga's `index` names, and keys that they hold.

        A key is meant where the index names no field so. By an index in SQLite and PostgreSQL, which is written with each
        step; elsewhere all live instances of the saga are read. A unique key is one lookup on each journal. What changes
        meanwhile may be found as it was or as it is. An instance that was stored before its saga had this index is found
        after its next step, or `sagalog reindex`.

        Raises DefinitionError at once for what is neither in the index nor a key, or a value of another type.
        """
        runtime = self._running().runtime_of(saga)
        return find(runtime, wanted_of(runtime, fields))

    async def retry(self, saga: SagaNamed, correlation_id: str, *, note: str = "", by: str = "") -> Repaired:
        """Let a parked or not compensated instance try again what it could not do, then the events held since.

        `saga`: its class, or its name.
        """
        return await self._repair(saga, correlation_id, note, by, repair.retry(note=note, by=by))

    async def skip(self, saga: SagaNamed, correlation_id: str, *, note: str = "", by: str = "") -> Repaired:
        """Drop what failed (held event, stuck command, refused undo), then go on as `retry` does."""
        return await self._repair(saga, correlation_id, note, by, repair.skip(note=note, by=by))

    async def drop(self, saga: SagaNamed, correlation_id: str, entry: str, *, note: str = "", by: str = "") -> Repaired:
        """Take one command or timer out of an instance, by its number `<sequence nr>/<index>`.

        A running attempt at it is cut off. Raises as `retry` does, and RepairError if nothing has that number.
        """
        check_text("entry", entry, error=InvalidEventError, end="; nothing was stored")
        return await self._repair(saga, correlation_id, note, by, repair.drop(entry, note=note, by=by))

    async def cancel(
        self, saga: SagaNamed, correlation_id: str, *, compensate: bool = True, note: str = "", by: str = ""
    ) -> Repaired:
        """End an instance, by default with its undo commands sent first. Held events are dropped, known as duplicates."""
        if not isinstance(compensate, bool):
            raise DefinitionError(f"compensate= must be True or False, not {type(compensate).__name__}")
        made = repair.cancel(compensate=compensate, note=note, by=by)
        return await self._repair(saga, correlation_id, note, by, made)

    async def pause(self, command: type | str, *, note: str = "", by: str = "") -> bool:
        """Let no command of this type leave any more, on all workers of this journal, until it is resumed.

        Durable on return, and holds across restarts. This worker holds to it at once, others within a second or so (see
        `due_poll`). An attempt that has begun is not cut off. Events are handled as before; what is to be sent
        waits in its outbox, and counts no attempt. Returns False if the type was paused already, and leaves that as it was.

        Raises RepairError for a note that cannot be kept, DefinitionError without a journal, and what the journal raises.
        """
        started = self._running()
        return await started.control(pausing(_named(command), at=started.engine.now(), by=by, note=note))

    async def resume(self, command: type | str) -> bool:
        """End the pause of this command type: what has waited leaves, under its ids. Returns False if it was not paused.

        Raises as `pause` does.
        """
        return await self._running().control(resuming(_named(command)))

    @property
    def paused(self) -> Mapping[str, CommandPause]:
        """The command types that are paused, as this runner has seen it last: since when, by whom and why."""
        controls = None if self._started is None else self._started.controls
        return {} if controls is None else controls.said.paused

    async def _repair(self, saga: SagaNamed, correlation_id: str, note: str, by: str, made: repair.Repair) -> Repaired:
        name: Any = saga if isinstance(saga, str) else getattr(saga, "name", saga)
        _check_repair(name, correlation_id, note, by)
        return await self._running().repair(name, correlation_id, made)


class _NotStarted:
    """Stands for the receiver of a runner that is not started; raises when it is awaited, so that hooks hear of it."""

    @staticmethod
    async def handle(*_: object) -> Receipt:
        raise RunnerStoppedError(_NOT_STARTED)

    handle_in_transaction = handle


def _named(command: type | str) -> str:
    return schema_of(command).name if isinstance(command, type) else command


def _check_repair(saga: str, correlation_id: str, note: str, by: str) -> None:
    end = "; nothing was stored"
    check_text("saga", saga, error=InvalidEventError, end=end)
    check_text("correlation_id", correlation_id, error=InvalidEventError, end=end)
    check_text("note=", note, empty=True, error=InvalidEventError, end=end)
    check_text("by=", by, empty=True, error=InvalidEventError, end=end)
