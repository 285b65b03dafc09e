"""One attempt at a command: its handler is called within its time.

    deliver, beside ─► [attempt] ─► command handler
                           └─ conclusion: accepted, refused, again later, or parked

If the process dies before an acceptance is recorded, the command is delivered again under the same id, and its replies
are recognised by theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable
from contextvars import copy_context
from types import CoroutineType
from typing import Any

from ..decision.entries import FINAL, Command
from ..decision.ids import command_id as id_of
from ..decision.record import SagaRecord
from ..decision.state import UnreadableStateError, decode_state
from ..errors import (
    CodecError,
    DefinitionError,
    SagaParkedError,
)
from .activities import ActivityContext, ActivityHandler
from .answers import Answers
from .begun import Waits, begun
from .children import Children
from .commands import CommandContext, CommandHandler, CommandHandlers
from .conclusion import Conclusions, attempt_nr
from .engine import Engine
from .hooked_handler import HookedHandler
from .instance import Instance
from .lease import Leases
from .load import ids_of, unreadable

Handler = CommandHandler | HookedHandler


class CommandAttempts:
    """Carries out commands, and hands what came of them to `Conclusions`."""

    def __init__(
        self,
        engine: Engine,
        handlers: CommandHandlers,
        answers: Answers,
        leases: Leases,
        children: Children,
        conclusions: Conclusions,
    ) -> None:
        self._engine = engine
        self._handlers = handlers
        self._answers = answers
        self._leases = leases
        self._children = children
        self._conclusions = conclusions
        # attempts at what is not in the outbox any more: how they end is no failure
        self._cut: set[asyncio.Timeout] = set()

    def prepare(self, instance: Instance, entry: Command) -> tuple[Handler | None, Any]:
        """Return the handler of a command and the command. Both are None if there is no handler or it cannot be read."""
        try:
            handler, command = self.handler_of(instance, entry)
        except (CodecError, DefinitionError, SagaParkedError):
            return None, None
        return self._engine.hooks.hooked(handler, entry), command

    def handler_of(self, instance: Instance, entry: Command) -> tuple[CommandHandler, Any]:
        """Return the handler of a command and the command. Raises DefinitionError if there is none, CodecError.

        SagaParkedError: it is for an instance that this code cannot read, or its own could not take the answer here.
        """
        if entry.family:
            return self._children.handler_of(instance, entry), None
        command = instance.runtime.registry.unpack(entry.command)
        handler = self._handlers.get(type(command))
        if handler is None:
            raise DefinitionError(f"no command handler for {entry.command.type}: register one with dispatch=")
        if type(handler) is ActivityHandler:
            handler.check_kind(instance.cached.record, entry)
            check_answerable(instance, entry)
        elif not entry.undo:
            check_answerable(instance, entry)
        return handler, command

    def context(self, instance: Instance, entry: Command) -> CommandContext:
        told = (
            id_of(instance.persistence_id, entry.id),
            instance.runtime.name,
            instance.correlation_id,
            attempt_nr(instance, entry),
            entry.undo,
            self._engine.resources,
        )
        record = instance.cached.record
        if instance.runtime.saga.activities is None or record is None:
            return CommandContext(*told)
        of = id_of(instance.persistence_id, entry.of) if entry.of else ""
        return ActivityContext(*told, record=record, entry=entry, of=of)

    async def carry_out(
        self,
        instance: Instance,
        entry: Command,
        handler: Handler,
        answer: Any,
        command: Any = None,
    ) -> bool:
        """Call the handler within its time limit (or wait for the `answer` of one that was called), and conclude."""
        self._leases.keep(instance)
        limit = None
        try:
            if answer is None:
                answer = handler(command, self.context(instance, entry) if handler.takes_context else None)
            if type(answer) is CoroutineType:
                answer = begun(answer)
            if isinstance(answer, (Awaitable, AsyncIterable)):
                async with self._limit(handler) as limit:
                    instance.deliveries.attempt = (entry.id, limit)
                    if isinstance(answer, Awaitable):
                        answer = await answer
                    if isinstance(answer, AsyncIterable):
                        return await self._conclusions.conclude(instance, entry, answer)
                instance.deliveries.attempt = None  # the handler has ended, so there is nothing to cut off
            if answer is not None and self._answers.set_aside(instance, entry, answer):
                return True
            return await self._conclusions.conclude(instance, entry, answer)
        except BaseException as error:
            instance.deliveries.attempt = None
            if self._conclusions.ends(error):
                raise
            if limit is not None and limit in self._cut:
                instance.deliveries.was_forgotten(entry.id)
                return True
            return await self._conclusions.conclude(instance, entry, None, error)
        finally:
            instance.deliveries.attempt = None
            if limit is not None:
                self._cut.discard(limit)
            self._leases.let_go(instance)

    def _limit(self, handler: Handler) -> asyncio.Timeout:
        longest = handler.policy.timeout
        seconds = self._engine.seconds.command_timeout if longest is None else longest.total_seconds()
        return asyncio.timeout(None if seconds == float("inf") else seconds)

    async def carry_out_beside(self, instance: Instance, entry: Command, handler: Handler, command: Any) -> bool:
        """Call the handler of a command that is carried out beside others of its instance, and conclude."""
        answer = raised = limit = None
        try:
            if handler.asynchronous:
                answer = handler(command, self.context(instance, entry))
            else:  # in a context of its own, as `begun` does it
                answer = copy_context().run(handler, command, self.context(instance, entry))
            if type(answer) is CoroutineType:
                answer = begun(answer)
                waits = type(answer) is Waits
            else:
                waits = isinstance(answer, Awaitable)
            if waits:
                async with self._limit(handler) as limit:
                    instance.deliveries.limit_beside(entry.id, limit)
                    answer = await answer
        except BaseException as error:
            if self._conclusions.ends(error):
                raise
            raised = error
        finally:
            instance.deliveries.limit_beside(entry.id, None)
            cut = limit is not None and limit in self._cut
            if limit is not None:
                self._cut.discard(limit)
        if cut and raised is not None:
            instance.deliveries.was_forgotten(entry.id)
            return True
        if (
            raised is None
            and answer is not None
            and not (instance.deliveries.answered or instance.deliveries.forgotten)
        ):
            try:
                await self._answers.result(instance, entry, answer)
            except Exception:  # noqa: S110  (it is stored once more, with all that may go wrong)
                pass
            else:
                self._conclusions.accepted(instance, entry)
                return True
        return await self._conclusions.conclude(instance, entry, answer, raised)

    def cut(self, instance: Instance, record: SagaRecord | None) -> None:
        """End the attempt at a command that is not in the outbox any more: an operator dropped it."""
        deliveries = instance.deliveries
        limits = {entry: limit for entry, limit in (deliveries.beside or {}).items() if limit is not None}
        if deliveries.attempt is not None:
            limits[deliveries.attempt[0]] = deliveries.attempt[1]
        if not limits:
            return
        outbox = ids_of(record)
        for entry_id, limit in limits.items():
            if entry_id in outbox:
                continue
            when, now = limit.when(), self._engine.loop.time()
            if when is None or when > now:
                self._cut.add(limit)
                limit.reschedule(now)


def check_answerable(instance: Instance, entry: Command) -> None:
    """Raise SagaParkedError if only other code could handle what the command's handler answers, as far as is known.

    It would be carried out for nothing, again and again, and kept from those who have that code.
    """
    record, runtime = instance.cached.record, instance.runtime
    if record is None or record.status in FINAL:  # whose answers change nothing
        return
    newer = record.state_version > runtime.saga.state_version()
    if newer or instance.correlation_id in runtime.unreadable:
        try:
            decode_state(runtime.saga, record)
        except UnreadableStateError as error:
            raise unreadable(instance, str(error)) from error
    for name, gathering in record.gathers.items():
        for end in (gathering.then, gathering.failed):
            if end is not None and runtime.registry.is_newer(end) and gathering.leg_of(entry.id) is not None:
                raise unreadable(instance, f"gather {name}: {end.type} is of a newer version")
