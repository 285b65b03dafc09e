"""Tells the hooks what a runner does.

    receive, decide, settle, deliver, due ─► [telling] ─► Hook, Hook, ...

A runner without hooks has `NoHooks`. reporter.py tells of messages, hooked_handler.py of calls of command handlers, and
hook_calls.py calls the hooks.
"""

from __future__ import annotations

import time
from collections.abc import Coroutine
from datetime import datetime
from typing import Any, TypeVar

from ..decision.entries import Command
from ..decision.ids import command_id as id_of
from ..decision.ids import persistence_id
from .commands import CommandContext, CommandHandler
from .hook_calls import HookCalls
from .hooked_handler import HookedHandler
from .hooks import Delivery, Hook, Scan
from .reporter import NoReporter, Reporter

T = TypeVar("T")


class Hooks(HookCalls):
    """All hooks of a started runner."""

    def __init__(self, hooks: tuple[Hook, ...]) -> None:
        super().__init__(hooks)
        self._deliveries: dict[str, Delivery] = {}  # under way, by command id

    def caller(self) -> str:
        """Return the trace of whoever calls `handle` just now."""
        return self.ask("caller")

    def receiving(self, event: str, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        """Tell how long a caller of `handle` waits."""
        return self._timed(event, work) if self.hears("answered") else work

    async def _timed(self, event: str, work: Coroutine[Any, Any, T]) -> T:
        begun, error = time.perf_counter(), ""
        try:
            return await work
        except BaseException as raised:
            error = type(raised).__name__
            raise
        finally:
            self.tell("answered", event, time.perf_counter() - begun, error)

    def reporter(self, saga: str, correlation_id: str, *, unseen: bool) -> Reporter:
        """Return what tells of all that one draft takes. `unseen`: it begins on the guess that nothing is stored."""
        return Reporter(self, saga, correlation_id, unseen=unseen)

    def parked(self, saga: str, correlation_id: str, reason: str) -> None:
        """Tell that an instance is parked."""
        self.tell("parked", saga, correlation_id, reason)

    def scanned(self, saga: str, claimed: int, oldest: datetime | None, now: datetime) -> None:
        """Tell of a scan for due work."""
        late = 0.0 if oldest is None else max(0.0, (now - oldest).total_seconds())
        self.tell("scanned", Scan(saga, claimed, late))

    def hooked(self, handler: CommandHandler, entry: Command) -> CommandHandler | HookedHandler:
        """Return a command handler whose calls are told."""
        return HookedHandler(self, self.begin, handler, entry)

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


_NO_REPORTER = NoReporter()


class NoHooks(Hooks):
    """Nobody listens: what a runner without hooks has."""

    def __init__(self) -> None:
        super().__init__(())

    def caller(self) -> str:
        return ""

    def receiving(self, event: str, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        return work

    def reporter(self, saga: str, correlation_id: str, *, unseen: bool) -> Reporter:
        return _NO_REPORTER

    def scanned(self, saga: str, claimed: int, oldest: datetime | None, now: datetime) -> None:
        """Nobody listens."""

    def hooked(self, handler: CommandHandler, entry: Command) -> CommandHandler | HookedHandler:
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
