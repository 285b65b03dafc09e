"""Who is told what a runner does: metrics, traces, whatever else watches. A hook sees everything and changes nothing.

    receive, turn, commit, dispatch, due ─► [hooks] ─► Hook, Hook, ...

A runner without hooks has no `Hooks`, and each phase asks that one question. A hook that raises is complained about
once, and is asked again the next time: no step, save or delivery ever depends on one.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Coroutine, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from inspect import isgenerator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from ..decision.advance import UnreadableStateError, advance
from ..decision.draft import Draft
from ..decision.message import Message, Outcome
from ..decision.record import Command
from ..errors import ConflictError, DefinitionError, JournalUnavailableError
from ..logs import about, log
from .failures import ends_program

if TYPE_CHECKING:
    from .commands import CommandContext, CommandHandler
    from .mailbox import Instance
    from .receive import Receipt
    from .runner import SagaRunner

T = TypeVar("T")
MAX_TRACE = 256  # characters


@dataclass(slots=True, eq=False, weakref_slot=True)
class Handling:
    """One message that an instance handles: an event, a timer of its own, or the refusal of one of its commands.

    `cause` is the trace that the message brought, `trace` the one that is kept with whatever it sends. `waited`: the
    cause is of the past (a timer, a held event). When it is over, `outcome` says how: a value of `Outcome`; `failed`:
    its handler raised `error`; or the save failed, as in `Save.outcome`; or `repeated`: taken back before a save, to be
    decided again (or to be refused, because the record would be too large).
    """

    saga: str
    correlation_id: str
    kind: str  # event, timer or refused
    type: str  # of the event, of the refused or the scheduled command
    message_id: str
    sequence_nr: int
    cause: str
    waited: bool
    late_seconds: float | None = None  # how long after its time a timer fires
    trace: str = ""
    outcome: str = ""
    error: str = ""  # the type's name, never its message


@dataclass(frozen=True, slots=True)
class Save:
    """One attempt to save a step.

    `outcome` is `saved`; `conflict`: another worker was faster; `exists`: a start that met an instance; `unavailable`:
    not stored; or `unknown`. `messages` share the step, 0 for upkeep. `oldest` is the first command in its outbox.
    """

    saga: str
    correlation_id: str
    sequence_nr: int
    outcome: str
    messages: int
    seconds: float
    oldest: str = ""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Delivery:
    """One attempt to deliver a command. When it is over, `outcome` is `accepted`, `refused` or `failed`.

    `cause` is the trace kept with the command, `trace` the one that its reply events bring.
    """

    saga: str
    correlation_id: str
    command: str  # its type
    command_id: str
    attempt: int
    undo: bool
    cause: str
    trace: str = ""
    outcome: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """A look for due work of a saga: how many instances were claimed (a page of them), since when the oldest was due."""

    saga: str
    claimed: int
    oldest_seconds: float


@runtime_checkable
class Hook(Protocol):
    """Hears what a runner does. Subclass it, and override what you want to hear of; every method may do nothing.

    Methods are called in the event loop, between the lines of a step, and must not wait. A trace is text of at most
    256 printable ASCII characters that is opaque to the runner and kept in the record; of several hooks the first that
    gives one is heard.
    """

    def started(self, runner: SagaRunner) -> None:
        """A runner has started."""

    def stopped(self, runner: SagaRunner) -> None:
        """It has stopped; nothing more comes of it."""

    def caller(self) -> str:
        """Return the trace of whoever calls `handle` just now, or an empty text."""
        return ""

    def handling(self, handling: Handling) -> str:
        """A message is about to be handled; return the trace to keep with what it sends, or an empty text."""
        return ""

    def handled(self, handling: Handling) -> None:
        """It is over, durable if its outcome says so. Called once for each `handling`."""

    def answered(self, event: str, seconds: float, error: str) -> None:
        """The caller of `handle` was answered, after so long; `error` is the type of what was raised, or empty."""

    def saved(self, save: Save) -> None:
        """A step was saved, or was not."""

    def parked(self, saga: str, correlation_id: str, reason: str) -> None:
        """An instance is parked."""

    def delivering(self, delivery: Delivery) -> str:
        """A command handler is about to be called; return the trace for its reply events, or an empty text."""
        return ""

    def within(self, delivery: Delivery) -> AbstractContextManager[Any] | None:
        """Return the context in which to run the command handler, or None. It is left without being told of errors."""
        return None

    def delivered(self, delivery: Delivery) -> None:
        """The attempt is over. Also called, without `delivering`, for a command that has no handler."""

    def looked(self, look: Look) -> None:
        """Due work of a saga was looked for."""


def checked_hooks(hooks: Iterable[Hook]) -> tuple[Hook, ...]:
    """Return the hooks. Raises DefinitionError for what is none."""
    if isinstance(hooks, (str, bytes)) or not isinstance(hooks, Iterable):
        raise DefinitionError(f"hooks= takes a list of hooks, not a {type(hooks).__name__}")
    given = tuple(hooks)
    for hook in given:
        if isinstance(hook, type) or not isinstance(hook, Hook):
            name = hook.__name__ if isinstance(hook, type) else type(hook).__name__
            raise DefinitionError(f"hooks= takes objects whose class is a subclass of sagalog.Hook, not {name}")
    return given


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

    # Steps.

    async def receiving(self, event: str, work: Coroutine[Any, Any, Receipt]) -> Receipt:
        """Tell how long a caller of `handle` waits."""
        begun, error = time.perf_counter(), ""
        try:
            return await work
        except BaseException as raised:
            error = type(raised).__name__
            raise
        finally:
            self.tell("answered", event, time.perf_counter() - begun, error)

    def watch(self, instance: Instance, draft: Draft) -> None:
        """Hear of everything that is handled in this draft."""
        draft.watch = Watch(self, instance, draft)

    def parked(self, instance: Instance, reason: str) -> None:
        """Tell that an instance is parked."""
        self.tell("parked", instance.hosted.name, instance.correlation_id, reason)

    def looked(self, saga: str, claimed: int, oldest: datetime | None, now: datetime) -> None:
        """Tell of a look for due work."""
        late = 0.0 if oldest is None else max(0.0, (now - oldest).total_seconds())
        self.tell("looked", Look(saga, claimed, late))

    # Deliveries.

    def watched(self, handler: CommandHandler, entry: Command) -> WatchedHandler:
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

    def delivered(self, instance: Instance, entry: Command, outcome: str, error: BaseException | None = None) -> None:
        """Tell what became of an attempt."""
        command_id = f"{instance.persistence_id}/{entry.id}"
        delivery = self._deliveries.pop(command_id, None)
        if delivery is None:  # it has no handler to call
            saga, key = instance.hosted.name, instance.correlation_id
            attempt = 1 if instance.attempts is None else instance.attempts.get(entry.id, 0) + 1
            delivery = Delivery(saga, key, entry.command.type, command_id, attempt, entry.undo, entry.trace)
        delivery.outcome = outcome
        delivery.error = "" if error is None else type(error).__name__
        self.tell("delivered", delivery)


class Watch:
    """Tells of the messages that one draft takes: each is over when the draft is saved, lost or given up."""

    __slots__ = ("_draft", "_hooks", "_instance", "_open", "_unseen")

    def __init__(self, hooks: Hooks, instance: Instance, draft: Draft) -> None:
        self._hooks = hooks
        self._instance = instance
        self._draft = draft
        self._open: list[Handling] = []
        self._unseen = draft.record is None and not instance.loaded

    def advance(self, message: Message) -> Outcome | Awaitable[Outcome]:
        """Do as `step.advance`, and tell."""
        draft, instance = self._draft, self._instance
        event = message.event.command if message.kind == "refused" else message.event
        late = None
        if message.kind == "timer" and message.at is not None:
            late = max(0.0, (draft.now - message.at).total_seconds())
        kind = type(event).__name__
        if event is None and draft.record is not None and message.name in draft.record.timers:
            kind = draft.record.timers[message.name].event.type  # a scheduled command, which is not unpacked here
        handling = Handling(
            instance.hosted.name,
            instance.correlation_id,
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

    async def saving(self, save: Awaitable[int]) -> int:
        """Await the save of the draft, and tell."""
        begun = time.perf_counter()
        try:
            version = await save
        except BaseException as error:
            if isinstance(error, ConflictError):
                outcome = "exists" if self._unseen else "conflict"
            else:
                outcome = "unavailable" if isinstance(error, JournalUnavailableError) else "unknown"
            self._tell_saved(outcome, begun)
            for handling in self._drain():
                self._end(handling, outcome, error)
            raise
        self._tell_saved("saved", begun)
        return version

    def _tell_saved(self, outcome: str, begun: float) -> None:
        instance, draft = self._instance, self._draft
        oldest = draft.record.outbox[0].id if draft.record is not None and draft.record.outbox else ""
        seconds, messages = time.perf_counter() - begun, len(self._open)
        save = Save(
            instance.hosted.name, instance.correlation_id, draft.sequence_nr, outcome, messages, seconds, oldest
        )
        self._hooks.tell("saved", save)

    def parked(self, reason: str) -> None:
        """The instance is parked."""
        self._hooks.parked(self._instance, reason)

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

    def _generated(self, delivery: Delivery, answer: Iterator[T]) -> Iterator[T]:
        while True:
            with self._hooks.within(delivery):
                try:
                    event = next(answer)
                except StopIteration:
                    return
            yield event
