"""Stores the events that command handlers return. Only then does a command count as accepted.

    attempt ─► [answers] ─► receive

The next commands of an instance need not wait for that, because they leave in any case. So the answers of many commands
share a step. Otherwise each answer would write a record with all commands that are still to go.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import AsyncIterable, Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from typing import Any

from ..decision.entries import Command
from ..decision.ids import command_id, reply_id
from ..decision.message import Message
from ..definition.codec import own_event
from ..errors import (
    CodecError,
    DefinitionError,
    InstanceFullError,
    InvalidEventError,
    JournalUnavailableError,
    KeyTakenError,
    NoInstanceError,
    NotAllReachedError,
    OutcomeUnknownError,
    SagaParkedError,
    TooManyKeptError,
    UnexpectedEventError,
)
from ..logs import log
from .engine import Engine
from .envelope import Envelope
from .instance import Instance
from .lease import Leases

Store = Callable[[], Awaitable[Any]]
Reply = Callable[[Instance, int, Any, str, str, datetime | None], Store]
"""Checks an event for who asked, in which life, with its message id, trace and time, and returns what stores it."""

_NEVER_TAKEN = (DefinitionError, CodecError, InvalidEventError, KeyTakenError, UnexpectedEventError)
_TAKEN_LATER = (InstanceFullError, JournalUnavailableError, OutcomeUnknownError, SagaParkedError, TooManyKeptError)
_AT_ONCE = 256  # answers of an instance on their way, and events of one answer in a step
_BYTES_A_SECOND = 16_000_000  # so much of an instance's record is written for answers, while it has commands to deliver
_SMALL_BYTES = 8_192  # a record up to this size is written for each answer as it comes
_MAX_WAIT_SECONDS = 0.25


class AnswerError(Exception):
    """A command was carried out, but what its handler returned can never be stored."""


class Prepared:
    """The checked events of an answer: only the journal or the saga can still refuse them."""

    __slots__ = ("stores",)

    def __init__(self, stores: list[tuple[str, Store]]) -> None:
        self.stores: list[tuple[str, Store]] = stores


class _Group:
    """The answers of one instance that are stored together."""

    __slots__ = ("entries", "full", "task")

    def __init__(self, full: asyncio.Future[None]) -> None:
        self.full = full  # done when the group takes no more answers
        self.task: asyncio.Task[None]
        self.entries: list[tuple[Command, Prepared]] = []

    def close(self) -> None:
        if not self.full.done():
            self.full.set_result(None)


class Answers:
    """Stores the events that command handlers answer.

    `conclude` is called for a command and its prepared answer; `go_on` for an instance whose answers were concluded.
    """

    def __init__(self, engine: Engine, reply: Reply, leases: Leases) -> None:
        self._engine = engine
        self._reply = reply
        self._leases = leases
        self._open: dict[Instance, _Group] = {}
        self._tasks: dict[Instance, set[asyncio.Task[None]]] = {}
        self.conclude: Callable[[Instance, Command, Prepared], Awaitable[object]]
        self.go_on: Callable[[Instance], None]

    def set_aside(self, instance: Instance, entry: Command, answer: Any) -> bool:
        """Store an answer while the next commands are delivered. Returns False if it has to be stored first.

        That is so if nothing more is to be delivered, where an order is promised (an undo command leaves when all before
        it are accepted; in event time each thing comes after what led to it), and for what cannot be checked in advance.
        """
        deliveries = instance.deliveries
        if entry.undo or self._engine.timing.in_order or len(deliveries.answered) >= _AT_ONCE:
            return False
        if instance.cached.record is None or len(instance.cached.record.outbox) == 1:  # it is the last one
            return False
        if isinstance(answer, (Awaitable, AsyncIterable)) or inspect.isgenerator(answer):
            return False
        if isinstance(deliveries.answered, frozenset):
            deliveries.answered = set()
        deliveries.answered.add(entry.id)
        prepared = None
        if instance.undelivered() is not None:
            with suppress(Exception):  # it is raised again, to whoever waits
                prepared = self._prepared(instance, entry, answer)
        if prepared is None:
            deliveries.answered.discard(entry.id)
            return False
        group = self._open.get(instance)
        if group is None:
            group = self._open[instance] = _Group(self._engine.loop.create_future())
            group.task = self._engine.spawn(self._store(instance, group))
            self._tasks.setdefault(instance, set()).add(group.task)
            self._leases.keep(instance)
        group.entries.append((entry, prepared))
        if len(deliveries.answered) >= _AT_ONCE:
            group.close()
        return True

    async def _store(self, instance: Instance, group: _Group) -> None:
        try:
            seconds = min(instance.cached.size / _BYTES_A_SECOND, _MAX_WAIT_SECONDS, self._engine.seconds.lease / 8)
            if instance.cached.size > _SMALL_BYTES and not self._engine.stopping.is_set():
                await asyncio.wait([group.full], timeout=seconds)
            del self._open[instance]
            await asyncio.gather(*(self.conclude(instance, *one) for one in group.entries))
        finally:
            if self._open.get(instance) is group:
                del self._open[instance]
            instance.deliveries.answered -= {entry.id for entry, _ in group.entries}
            tasks = self._tasks[instance]
            tasks.discard(group.task)
            if not tasks:
                del self._tasks[instance]
                self._leases.let_go(instance)
        self.go_on(instance)

    def hurry(self, instance: Instance) -> None:
        """Store the answers that are there without waiting for more."""
        if (group := self._open.get(instance)) is not None:
            group.close()

    async def stored(self, instance: Instance) -> None:
        """Return when all answers of the instance are stored, so that what comes now comes after them."""
        while tasks := self._tasks.get(instance):
            self.hurry(instance)
            await asyncio.wait(list(tasks))

    def stop(self) -> None:
        """Let all groups be stored without waiting for more."""
        for group in self._open.values():
            group.close()

    def result(self, instance: Instance, entry: Command, event: Any) -> Awaitable[Any]:
        """Try once to store the result of an activity. Raises whatever goes wrong; `take` then tries again."""
        sent_as, origin = command_id(instance.persistence_id, entry.id), instance.deliveries.first_start
        message_id = reply_id(sent_as, type(event).__name__, 0, origin)
        data, event = own_event(event, self._engine.settings.max_payload_bytes, message_id)
        message = Message(message_id, event, answer=True, data=data)
        message.trace, message.at = self._engine.hooks.trace_of(sent_as), self.moment(instance)
        message.life, message.origin = entry.life, origin
        return instance.submit(Envelope(message))

    async def take(self, instance: Instance, entry: Command, answer: Any) -> None:
        """Store the events that a handler answered. Raises AnswerError for what can never be stored."""
        if isinstance(answer, Prepared):
            await self._store_all(instance, answer)
            return
        one = self._numbered(instance, entry)
        if instance in self._tasks:
            await self.stored(instance)
        if isinstance(answer, AsyncIterable):
            async for event in answer:
                await self._keep_trying(instance, *one(event))
            return
        if inspect.isgenerator(answer):
            try:
                while True:
                    await self._keep_trying(instance, *one(next(answer)))
            except StopIteration as end:  # a generator may also return events, and none is dropped
                answer = end.value
            if answer is None:
                return
        await self._store_all(instance, self._prepared(instance, entry, answer, one))

    def _prepared(
        self, instance: Instance, entry: Command, answer: Any, one: Callable[[Any], tuple[str, Store]] | None = None
    ) -> Prepared:
        one = one or self._numbered(instance, entry)
        return Prepared([one(event) for event in (answer if isinstance(answer, (list, tuple)) else (answer,))])

    def _numbered(self, instance: Instance, entry: Command) -> Callable[[Any], tuple[str, Store]]:
        """Return what checks an event of an answer, and gives it the next id of its type."""
        sent_as, origin = command_id(instance.persistence_id, entry.id), instance.deliveries.first_start
        trace, at = self._engine.hooks.trace_of(sent_as), self.moment(instance)
        counts: Counter[str] = Counter()

        def one(event: Any) -> tuple[str, Store]:
            name = type(event).__name__
            number = counts[name]
            counts[name] += 1
            try:
                return name, self._reply(
                    instance, entry.life, event, reply_id(sent_as, name, number, origin), trace, at
                )
            except (DefinitionError, CodecError, InvalidEventError) as error:
                raise _not_taken(name, error) from error

        return one

    async def _store_all(self, instance: Instance, prepared: Prepared) -> None:
        # Events that come together share a step, in their order.
        for first in range(0, len(prepared.stores), _AT_ONCE):
            some = prepared.stores[first : first + _AT_ONCE]
            if len(some) == 1:
                await self._keep_trying(instance, *some[0])
                continue
            stored = await asyncio.gather(*(self._keep_trying(instance, *one) for one in some), return_exceptions=True)
            for error in stored:
                if error is not None:
                    raise error

    def moment(self, instance: Instance) -> datetime | None:
        """In event time, return when the handler was called: the time of the step that sent the command."""
        return self._engine.timing.of_answer(instance.cached.record)

    async def _keep_trying(self, instance: Instance, name: str, store: Store) -> None:
        failures = 0
        while True:
            try:
                await store()
                return
            except NoInstanceError:
                # The instance that the answer is for has ended, or never was. Another attempt would not change that.
                self._engine.counters.ignored += 1
                return
            except _NEVER_TAKEN as error:
                raise _not_taken(name, error) from error
            except _TAKEN_LATER as error:
                if isinstance(error, NotAllReachedError) and isinstance(error.why, _NEVER_TAKEN):
                    raise _not_taken(name, error) from error
                if isinstance(error, SagaParkedError) and instance.is_in(error):
                    raise  # a worker that can read our own instance carries the command out
                # The command is carried out, so only its answer is tried again, under the same id.
                failures += 1
                wait = self._engine.settings.dispatch_retry.wait_seconds(failures)
                if wait is None:
                    raise
                if isinstance(error, SagaParkedError) and failures == 1:
                    log.warning(
                        "saga %s, id %s: the answer of a command, a %s, waits until it can be stored: %s",
                        instance.runtime.name,
                        instance.correlation_id,
                        name,
                        error,
                        extra=instance.about(),
                    )
                await self._engine.back_off(wait)


def _not_taken(name: str, error: Exception) -> AnswerError:
    return AnswerError(f"its answer, a {name}, cannot be handled: {error}")
