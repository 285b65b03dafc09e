"""Tells the hooks what a runner does.

    receive, decide, settle, deliver, due ─► [telling] ─► Hook, Hook, ...

A runner without hooks has `NoHooks`. A hook that raises is complained about once, and is asked again the next time: no
step, write or delivery ever depends on one.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Coroutine, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from inspect import isgenerator
from typing import Any, TypeVar

from ..decision.advance import UnreadableStateError, advance
from ..decision.draft import Draft
from ..decision.ids import command_id as id_of
from ..decision.ids import persistence_id
from ..decision.message import Message, Outcome
from ..decision.record import Command, SagaRecord
from ..errors import ConflictError
from ..logs import about, log
from .commands import CommandContext, CommandHandler
from .failures import certain, ends_program
from .hooks import MAX_TRACE, Delivery, Handling, Hook, Save, Scan

T = TypeVar("T")


class Hooks:
    """All hooks of a started runner."""

    def __init__(self, hooks: tuple[Hook, ...]) -> None:
        self._hooks = hooks
        self._complained: set[tuple[int, str]] = set()
        self._deliveries: dict[str, Delivery] = {}  # under way, by command id

    def tell(self, method: str, *arguments: Any) -> None:
        """Call a method of every hook."""
        for hook in self._hooks:
            self._call(hook, method, *arguments)

    def ask(self, method: str, *arguments: Any) -> str:
        """Call a method of every hook; return the first trace that one gives."""
        found = ""
        for hook in self._hooks:
            given = self._call(hook, method, *arguments)
            if given and not found:
                if type(given) is str and len(given) <= MAX_TRACE and given.isascii() and given.isprintable():
                    found = given
                else:
                    self._complain(hook, method, "gave a trace that is not up to 256 printable ASCII characters")
        return found

    def _call(self, hook: Hook, method: str, *arguments: Any) -> Any:
        try:
            return getattr(hook, method)(*arguments)
        except BaseException as error:
            if ends_program(error):
                raise
            self._complain(hook, method, f"raised {type(error).__name__}")
            return None

    def _complain(self, hook: Hook, method: str, what: str) -> None:
        if (id(hook), method) not in self._complained:
            self._complained.add((id(hook), method))
            log.error("hook %s.%s %s; said once, it goes on", type(hook).__name__, method, what, extra=about())

    def caller(self) -> str:
        """Return the trace of whoever calls `handle` just now."""
        return self.ask("caller")

    def receiving(self, event: str, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        """Tell how long a caller of `handle` waits."""
        return self._timed(event, work)

    async def _timed(self, event: str, work: Coroutine[Any, Any, T]) -> T:
        begun, error = time.perf_counter(), ""
        try:
            return await work
        except BaseException as raised:
            error = type(raised).__name__
            raise
        finally:
            self.tell("answered", event, time.perf_counter() - begun, error)

    def watch(self, saga: str, correlation_id: str, *, unseen: bool) -> Watch:
        """Return who tells of all that one draft takes. `unseen`: it begins on the guess that nothing is stored."""
        return Watch(self, saga, correlation_id, unseen=unseen)

    def parked(self, saga: str, correlation_id: str, reason: str) -> None:
        """Tell that an instance is parked."""
        self.tell("parked", saga, correlation_id, reason)

    def scanned(self, saga: str, claimed: int, oldest: datetime | None, now: datetime) -> None:
        """Tell of a look for due work."""
        late = 0.0 if oldest is None else max(0.0, (now - oldest).total_seconds())
        self.tell("scanned", Scan(saga, claimed, late))

    def watched(self, handler: CommandHandler, entry: Command) -> CommandHandler | WatchedHandler:
        """Return a command handler whose calls are told."""
        return WatchedHandler(self, handler, entry)

    def begin(self, entry: Command, context: CommandContext) -> Delivery:
        """Tell that a handler is about to be called."""
        delivery = Delivery(
            context.saga,
            context.correlation_id,
            entry.command.type,
            context.id,
            context.attempt,
            entry.undo,
            entry.trace,
        )
        delivery.trace = self.ask("delivering", delivery)
        self._deliveries[context.id] = delivery
        return delivery

    @contextmanager
    def within(self, delivery: Delivery) -> Iterator[None]:
        """Run what is inside in the contexts of all hooks."""
        entered: list[tuple[Hook, AbstractContextManager[Any]]] = []
        for hook in self._hooks:
            context = self._call(hook, "within", delivery)
            if context is not None:
                try:
                    context.__enter__()
                except BaseException as error:
                    if ends_program(error):
                        raise
                    self._complain(hook, "within", f"raised {type(error).__name__}")
                else:
                    entered.append((hook, context))
        try:
            yield
        finally:
            for hook, context in reversed(entered):
                try:
                    context.__exit__(None, None, None)
                except BaseException as error:
                    if ends_program(error):
                        raise
                    self._complain(hook, "within", f"raised {type(error).__name__}")

    def trace_of(self, command_id: str) -> str:
        """Return the trace of a delivery that is under way."""
        delivery = self._deliveries.get(command_id)
        return "" if delivery is None else delivery.trace

    def delivered(
        self,
        saga: str,
        correlation_id: str,
        entry: Command,
        attempt: int,
        outcome: str,
        error: BaseException | None = None,
    ) -> None:
        """Tell what became of an attempt."""
        command_id = id_of(persistence_id(saga, correlation_id), entry.id)
        delivery = self._deliveries.pop(command_id, None)
        if delivery is None:  # it has no handler to call
            name = entry.command.type
            delivery = Delivery(saga, correlation_id, name, command_id, attempt, entry.undo, entry.trace)
        delivery.outcome = outcome
        delivery.error = "" if error is None else type(error).__name__
        self.tell("delivered", delivery)


class Watch:
    """Tells of the messages that one draft takes: each is over when the draft is saved, lost or given up."""

    __slots__ = ("_begun", "_correlation_id", "_hooks", "_open", "_saga", "_unseen")

    def __init__(self, hooks: Hooks, saga: str, correlation_id: str, *, unseen: bool) -> None:
        self._hooks = hooks
        self._saga = saga
        self._correlation_id = correlation_id
        self._unseen = unseen
        self._open: list[Handling] = []
        self._begun = 0.0

    def advance(self, draft: Draft, message: Message) -> Outcome | Awaitable[Outcome]:
        """Do as `decision.advance`, and tell."""
        event = message.event.command if message.kind == "refused" else message.event
        late = None
        if message.kind == "timer" and message.at is not None and not message.replayed:
            late = max(0.0, (draft.now - message.at).total_seconds())
        kind = type(event).__name__
        if event is None and draft.record is not None and message.name in draft.record.timers:
            kind = draft.record.timers[message.name].event.type  # a scheduled command, which is not unpacked here
        handling = Handling(
            self._saga,
            self._correlation_id,
            message.kind,
            kind,
            message.id,
            draft.sequence_nr,
            message.trace,
            message.kind == "timer" or message.replayed,
            late,
        )
        draft.trace = handling.trace = self._hooks.ask("handling", handling)
        try:
            outcome = advance(draft, message)
        except BaseException as error:
            self._fail(handling, error)
            raise
        if not isinstance(outcome, Outcome):
            return self._awaited(handling, outcome)
        handling.outcome = outcome.value
        self._open.append(handling)
        return outcome

    async def _awaited(self, handling: Handling, work: Awaitable[Outcome]) -> Outcome:
        try:
            outcome = await work
        except BaseException as error:
            self._fail(handling, error)
            raise
        handling.outcome = outcome.value
        self._open.append(handling)
        return outcome

    def _fail(self, handling: Handling, error: BaseException) -> None:
        self._end(handling, "failed", error)
        if isinstance(error, UnreadableStateError):  # it ends the whole turn
            self.taken_back()

    def _end(self, handling: Handling, outcome: str = "", error: BaseException | None = None) -> None:
        handling.outcome = outcome or handling.outcome
        handling.error = "" if error is None else type(error).__name__
        self._hooks.tell("handled", handling)

    def writing(self) -> None:
        """The record goes to the journal now."""
        self._begun = time.perf_counter()

    def written(self, sequence_nr: int, record: SagaRecord, error: BaseException | None) -> None:
        """Tell what became of the record; `settled` or `taken_back` follows."""
        outcome = "saved"
        if isinstance(error, ConflictError):
            outcome = "exists" if self._unseen else "conflict"
        elif error is not None:
            outcome = "unavailable" if certain(error) else "unknown"
        oldest = record.outbox[0].id if record.outbox else ""
        seconds = time.perf_counter() - self._begun
        self._hooks.tell(
            "saved",
            Save(self._saga, self._correlation_id, sequence_nr, outcome, len(self._open), seconds, oldest),
        )
        if error is not None:
            for handling in self._drain():
                self._end(handling, outcome, error)

    def settled(self) -> None:
        """What was decided holds."""
        for handling in self._drain():
            self._end(handling)

    def taken_back(self, message_id: str | None = None) -> None:
        """Nothing of it (or of that message) was stored, and all is decided again."""
        for handling in self._drain():
            if message_id is None or handling.message_id == message_id:
                self._end(handling, "repeated")
            else:
                self._open.append(handling)

    def _drain(self) -> list[Handling]:
        handled, self._open = self._open, []
        return handled


class NoWatch(Watch):
    """Nobody listens."""

    __slots__ = ()

    def __init__(self) -> None:
        """Nothing is kept."""

    def advance(self, draft: Draft, message: Message) -> Outcome | Awaitable[Outcome]:
        return advance(draft, message)

    def writing(self) -> None:
        """Nobody listens."""

    def written(self, sequence_nr: int, record: SagaRecord, error: BaseException | None) -> None:
        """Nobody listens."""

    def settled(self) -> None:
        """Nobody listens."""

    def taken_back(self, message_id: str | None = None) -> None:
        """Nobody listens."""


_NO_WATCH = NoWatch()


class NoHooks(Hooks):
    """Nobody listens: what a runner without hooks has."""

    def __init__(self) -> None:
        super().__init__(())

    def caller(self) -> str:
        return ""

    def receiving(self, event: str, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        return work

    def watch(self, saga: str, correlation_id: str, *, unseen: bool) -> Watch:
        return _NO_WATCH

    def scanned(self, saga: str, claimed: int, oldest: datetime | None, now: datetime) -> None:
        """Nobody listens."""

    def watched(self, handler: CommandHandler, entry: Command) -> CommandHandler | WatchedHandler:
        return handler

    def trace_of(self, command_id: str) -> str:
        return ""

    def delivered(
        self,
        saga: str,
        correlation_id: str,
        entry: Command,
        attempt: int,
        outcome: str,
        error: BaseException | None = None,
    ) -> None:
        """Nobody listens."""


class WatchedHandler:
    """A command handler that runs, with whatever it returns, in the contexts of the hooks."""

    __slots__ = ("_entry", "_handler", "_hooks", "asynchronous", "policy", "takes_context")

    def __init__(self, hooks: Hooks, handler: CommandHandler, entry: Command) -> None:
        self._hooks = hooks
        self._handler = handler
        self._entry = entry
        self.asynchronous = handler.asynchronous
        self.policy = handler.policy
        self.takes_context = True  # the hooks do

    def __call__(self, command: Any, context: CommandContext | None) -> Any:
        assert context is not None
        delivery = self._hooks.begin(self._entry, context)
        with self._hooks.within(delivery):
            answer = self._handler(command, context)
        if isinstance(answer, Awaitable):
            return self._awaited(delivery, answer)
        if isinstance(answer, AsyncIterable):
            return self._iterated(delivery, answer)
        return self._generated(delivery, answer) if isgenerator(answer) else answer

    async def _awaited(self, delivery: Delivery, answer: Awaitable[T]) -> T:
        with self._hooks.within(delivery):
            return await answer

    async def _iterated(self, delivery: Delivery, answer: AsyncIterable[T]) -> AsyncIterator[T]:
        events = aiter(answer)
        while True:
            # Not around the `yield`: in between, the runner stores the reply, which is no part of the handler.
            with self._hooks.within(delivery):
                try:
                    event = await anext(events)
                except StopAsyncIteration:
                    return
            yield event

    def _generated(self, delivery: Delivery, answer: Iterator[T]) -> Generator[T, None, Any]:
        while True:
            with self._hooks.within(delivery):
                try:
                    event = next(answer)
                except StopIteration as end:
                    return end.value
            yield event
