"""Where events come in: which sagas take them, for which correlation ids, and whether they may come in at all.

    handle(event) ─► [receive] ─► mailbox of each instance ─► queue

Every mistake in an event is reported here, before anything is stored. addressing.py finds the sagas and ids, by_key.py
delivers by a key, places.py bounds what is under way, and quiet.py lets the events of a log come one at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import datetime
from functools import partial
from itertools import count
from typing import Any
from uuid import uuid4

import msgspec

from ..decision.ids import given_id, reply_origin, sender_id
from ..decision.message import Message, Outcome
from ..definition import codec
from ..errors import (
    InvalidEventError,
    RunnerStoppedError,
    SagalogError,
)
from ..journal.alone import alone_on
from ..journal.callers import CallersConnection, callers_connection
from .addressing import Addresses, Targets, check_unicode
from .arguments import check_moment
from .by_key import ByKey, KeyedDelivery, together
from .cache import InstanceCache
from .context import awaiting, check_no_circle, event_handler, in_command_handler, running_handler
from .engine import Engine
from .envelope import Burst, Envelope
from .failures import ends_program, most_telling, not_handled
from .hooks import is_trace
from .in_transaction import step_in_transaction
from .instance import Instance
from .places import Places
from .quiet import catch_up, fire_before, in_turn, its_turn, quiet
from .receipt import Receipt
from .repair import Repaired
from .settings import NoInstance

MAX_MESSAGE_ID = 1024


class Receiver:
    """Finds the instances of an event and answers when each has it durably."""

    def __init__(self, engine: Engine, caches: list[InstanceCache]) -> None:
        self._engine = engine
        addresses = Addresses(caches)
        self._targets = addresses.of
        self._keyed = addresses.keyed
        self._stamp = f"{uuid4()}/"
        self._anonymous = count(1)
        self._places = Places(engine)
        # Where events wait for a starting event, each type of those has places of its own: it is what is waited for, and
        # may itself wait in another saga for one of another type. So has each type that reaches instances by a key.
        self._own_places: dict[type, Places] = {}
        self._waits = engine.settings.no_instance is NoInstance.WAIT
        self._most_bytes = engine.settings.max_payload_bytes
        self._drained: asyncio.Future[None] | None = None
        self._with_keys = any(cache.runtime.saga.keys for cache in caches)
        self._by_key = KeyedDelivery(engine)

    @property
    def dated(self) -> bool:
        """Events bring their time."""
        return self._engine.timing.dated

    @property
    def in_flight(self) -> int:
        """How many events from outside, and repairs, are at work."""
        taken = self._places.taken
        return taken + sum(places.taken for places in self._own_places.values()) if self._own_places else taken

    async def handle(
        self,
        event: Any,
        message_id: str | None,
        at: datetime | None,
        trace: str = "",
        burst: Burst | None = None,
        sent_by: str = "",
    ) -> Receipt:
        """Handle an event from outside: bounded, and refused once the runner stops.

        `trace`: what it brought along; one that cannot be kept is passed over, for it is no reason to refuse the event.
        `burst`: with what it is to stay in order, instance by instance, also where the journal fails. `sent_by`: the
        operator who sends it, for the record.
        """
        engine = self._engine
        engine.check_loop()
        targets = self._targets(event)
        if at is None and not in_command_handler.get() and running_handler.get() is None:
            at = engine.timing.of_undated()
        message = self._message(event, message_id, at)
        if trace and is_trace(trace):
            message.trace = trace
        if sent_by:
            message.sent_by = sent_by
        keyed = self._keyed(event) if self._with_keys else ()
        if running_handler.get() is not None and (caller := event_handler()) is not None:
            return await self._handle_for(caller, targets, message, keyed, burst)
        places = self._places if not self._waits else self._places_of(event, targets, waits_itself=bool(keyed))
        # Other events wait for a command handler to end. If its own events waited for them, nothing would ever move.
        if places.free or in_command_handler.get():
            places.taken += 1
        else:
            await places.wait()
        try:
            if engine.stopping.is_set():
                raise _stopping()
            if len(targets) == 1 and not (self._waits or keyed) and at is None:
                cache, correlation_id = targets[0]
                instance = cache.instance(correlation_id)
                envelope = Envelope(message) if burst is None else _in_order(instance, message, burst)
                await instance.submit(envelope, lone=self.in_flight == 1)
                return Receipt(given_id(message.id), {cache.runtime.name: _outcome_of(envelope)})
            bounded = not in_command_handler.get()
            return await self._deliver(targets, message, keyed=keyed, bounded=bounded, burst=burst)
        finally:
            self._give_back(places)

    def check(self, event: Any, message_id: str | None, at: datetime | None) -> None:
        """Raise what `handle` raises at once for an event that no instance could take. Changes nothing."""
        self._targets(event)
        self._message(event, message_id, None)
        if at is not None:
            _check_at(event, at)

    def persistence_id_of(self, event: Any) -> str:
        """Return that of the first instance that an event is for; empty if it is for none. Raises InvalidEventError."""
        for cache, correlation_id in self._targets(event):
            return cache.runtime.prefix + correlation_id
        return ""

    def _places_of(self, event: Any, targets: Targets, *, waits_itself: bool) -> Places:
        # An event that waits until an instance holds a key must not take the places of the events that let one take it.
        if not waits_itself and not any(cache.runtime.saga.may_start(event) for cache, _ in targets):
            return self._places
        places = self._own_places.get(type(event))
        if places is None:
            places = self._own_places[type(event)] = Places(self._engine)
        return places

    async def _handle_for(
        self, caller: Instance, targets: Targets, message: Message, keyed: Sequence[ByKey], burst: Burst | None
    ) -> Receipt:
        """Handle an event that an event handler of `caller` waits for; it is handled at once or not at all."""
        if self._engine.stopping.is_set():
            raise _stopping()
        wanted = [cache.instance(correlation_id) for cache, correlation_id in targets]
        with awaiting(caller, wanted, type(message.event).__name__):
            self._places.taken += 1
            try:
                return await self._deliver(targets, message, keyed=keyed, caller=caller, burst=burst)
            finally:
                self._give_back(self._places)

    def _give_back(self, places: Places) -> None:
        places.give_back()
        if self._drained is not None and self.in_flight == 0 and not self._drained.done():
            self._drained.set_result(None)

    async def handle_in_transaction(self, event: Any, message_id: str | None, connection: Any) -> Receipt:
        """Handle an event within the transaction that is open on `connection`."""
        engine = self._engine
        engine.check_loop()
        targets = self._targets(event)
        message = self._message(event, message_id, None)
        if engine.stopping.is_set():
            raise _stopping()
        self._places.taken += 1
        try:
            async with alone_on(connection):  # where it is SQLAlchemy's, a statement is run to find the driver's
                callers = await callers_connection(connection)
                if callers.driver is connection:
                    return await self._handle_on(callers, targets, message)
                async with alone_on(callers.driver):
                    return await self._handle_on(callers, targets, message)
        finally:
            self._give_back(self._places)

    async def _handle_on(self, callers: CallersConnection, targets: Targets, message: Message) -> Receipt:
        event, caller = message.event, event_handler()
        if caller is not None:
            for cache, correlation_id in targets:
                check_no_circle(caller, cache.instance(correlation_id), type(event).__name__)
        outcomes: dict[str, Outcome] = {}
        for cache, correlation_id in targets:
            instance = cache.instance(correlation_id)
            outcomes[cache.runtime.name] = await step_in_transaction(instance, message, callers)
            message = message.copied()
        instances: dict[str, dict[str, Outcome]] = {}
        for to in self._keyed(event) if self._with_keys else ():
            one = asyncio.Lock()  # a connection carries one call at a time

            async def step(
                cache: InstanceCache, correlation_id: str, each: Message, one: asyncio.Lock = one
            ) -> Outcome:
                async with one:
                    return await step_in_transaction(cache.instance(correlation_id), each, callers)

            name = to.cache.runtime.name
            instances[name] = await self._by_key.deliver(
                to, message, step, caller=caller, bounded=False, within=callers
            )
            outcomes[name] = together(instances[name])
        return Receipt(given_id(message.id), outcomes, instances)

    async def repair(self, make: Callable[[], Coroutine[Any, Any, Repaired]]) -> Repaired:
        """Run a repair. Stopping waits for it; a repair that comes after the stop is refused."""
        if self._engine.stopping.is_set():
            raise _stopping("the repair was not made")
        self._places.taken += 1
        try:
            return await make()
        finally:
            self._give_back(self._places)

    def reply(
        self, asker: Instance, life: int, event: Any, message_id: str, trace: str, at: datetime | None
    ) -> Callable[[], Awaitable[Any]]:
        """Check an event that a command handler returned, and return what handles it, again and again if need be.

        `asker` sent the command in its incarnation `life`. It is not bounded, or commands and events could wait in a
        circle.
        """
        table = asker.runtime.saga.activities
        own = table is not None and type(event) in table.events
        targets = [] if own else self._targets(event)
        keyed = self._keyed(event) if self._with_keys and not own else ()
        message = self._message(event, message_id, None, ours=True)
        message.trace, message.at, message.answer = trace, at, True
        if own:
            message.life, message.origin = life, reply_origin(message_id)
            return partial(self._tell, asker, message)
        if len(targets) == 1 and not keyed:  # mostly
            cache, correlation_id = targets[0]
            if cache is asker.cache and correlation_id == asker.correlation_id:
                message.life, message.origin = life, reply_origin(message_id)
            return partial(self._submit, cache, correlation_id, message)
        for cache, correlation_id in targets:
            if cache is asker.cache and correlation_id == asker.correlation_id:
                # By then its next incarnation may have begun, which did not ask.
                others = (one for one in targets if one[0] is not cache)
                return partial(self._deliver, [(cache, correlation_id), *others], message, life, keyed)
        return partial(self._deliver, targets, message, 0, keyed)

    @staticmethod
    async def _tell(asker: Instance, message: Message) -> None:
        """Hand the result of an activity to the instance that called it. It waits for no starting event."""
        await asker.submit(Envelope(message))

    async def drained(self) -> None:
        """Return when no event from outside is at work any more."""
        self._places.close()
        for places in self._own_places.values():
            places.close()
        if self.in_flight:
            self._drained = self._engine.loop.create_future()
            await self._drained

    def _message(self, event: Any, message_id: str | None, at: datetime | None, *, ours: bool = False) -> Message:
        anonymous = message_id is None
        if message_id is None:
            message_id = f"{self._stamp}{next(self._anonymous)}"
        elif type(message_id) is not str or not message_id or len(message_id) > MAX_MESSAGE_ID:
            raise InvalidEventError(
                f"a message id must be a string of 1 to {MAX_MESSAGE_ID} characters; nothing was stored for this "
                f"{type(event).__name__}"
            )
        elif not message_id.isascii():
            check_unicode(message_id, "a message id")
        if not ours:
            message_id = sender_id(message_id)
        try:
            data, event = codec.own_event(event, self._most_bytes, message_id)
        except BaseException as error:
            if isinstance(error, SagalogError) or ends_program(error):
                raise
            raise InvalidEventError(
                f"encoding a {type(event).__name__} raised {type(error).__name__}; nothing was stored"
            ) from error
        if at is not None:
            _check_at(event, at)
            self._engine.timing.reach(at)
        return Message(message_id, event, at=at, own=anonymous, trace=self._engine.hooks.caller(), data=data)

    async def _deliver(
        self,
        targets: Targets,
        message: Message,
        life: int = 0,
        keyed: Sequence[ByKey] = (),
        caller: Instance | None = None,
        *,
        bounded: bool = False,
        burst: Burst | None = None,
    ) -> Receipt:
        """Hand the message to all targets, and to the holders of a key. `life`: of the first target, which asked for it."""
        others = [message.copied() for _ in targets[1:]]  # no saga sees what another one does to it
        message.life, message.origin = life, reply_origin(message.id) if life else 0
        if len(targets) == 1 and not keyed:
            cache, correlation_id = targets[0]
            return Receipt(
                given_id(message.id), {cache.runtime.name: await self._submit(cache, correlation_id, message, burst)}
            )
        if not (targets or keyed):
            self._engine.counters.ignored += 1
            return Receipt(given_id(message.id))
        spare = msgspec.structs.replace(message.copied(), life=0, origin=0) if keyed else message
        messages = [message, *others]
        submit = self._submit if burst is None else partial(self._submit, burst=burst)
        told: list[Any] = await asyncio.gather(
            *(self._submit(*target, each, burst) for target, each in zip(targets, messages, strict=bool(targets))),
            *(self._by_key.deliver(to, spare, submit, caller=caller, bounded=bounded) for to in keyed),
            return_exceptions=True,
        )
        names = [cache.runtime.name for cache, _ in targets] + [to.cache.runtime.name for to in keyed]
        if errors := [outcome for outcome in told if isinstance(outcome, BaseException)]:
            raise _only_in_part(most_telling(errors), names, told)
        outcomes = {
            name: outcome if isinstance(outcome, Outcome) else together(outcome)
            for name, outcome in zip(names, told, strict=True)
        }
        return Receipt(
            given_id(message.id), outcomes, dict(zip(names[len(targets) :], told[len(targets) :], strict=True))
        )

    async def _submit(
        self, cache: InstanceCache, correlation_id: str, message: Message, burst: Burst | None = None
    ) -> Outcome:
        instance = cache.instance(correlation_id)
        if message.at is not None and not message.answer and not in_command_handler.get():
            async with in_turn(instance):
                await catch_up(instance)
                await fire_before(instance, message.at)
                if self._engine.stopping.is_set() and not its_turn(instance, message.at):
                    raise _stopping()  # what comes before it would come after it
                outcome = await self._submitted(cache, instance, message, burst)
                await quiet(instance)
                return outcome
        return await self._submitted(cache, instance, message, burst)

    async def _submitted(
        self, cache: InstanceCache, instance: Instance, message: Message, burst: Burst | None
    ) -> Outcome:
        envelope = Envelope(message) if burst is None else _in_order(instance, message, burst)
        if self._waits and message.by is None and not cache.runtime.saga.may_start(message.event):
            envelope.deadline = self._engine.loop.time() + self._engine.seconds.no_instance_wait
        await instance.submit(envelope)
        return _outcome_of(envelope)


def _check_at(event: Any, at: datetime) -> None:
    check_moment(f"nothing was stored: at= of {type(event).__name__}", at, InvalidEventError)


def _in_order(instance: Instance, message: Message, burst: Burst) -> Envelope:
    """Return what goes into a mailbox. Raises the error of one of its burst, which came before it and was not stored."""
    error = burst.error_of(instance.persistence_id)
    if error is not None:
        raise error
    return Envelope(message, burst=burst)


def _only_in_part(error: BaseException, names: list[str], outcomes: Sequence[Any]) -> BaseException:
    """Return the error of one saga; if other sagas have taken the event, it says what sending it again does."""
    took = [name for name, one in zip(names, outcomes, strict=True) if not isinstance(one, BaseException) and one != {}]
    if not took:
        return error
    have = "saga " + ", ".join(took) + (" has it" if len(took) == 1 else " have it")
    again = f"{have}; sent again under the same message id, it reaches only the others"
    if isinstance(error, RunnerStoppedError):
        return RunnerStoppedError(f"the runner stopped before all sagas had handled the event: {again}")
    error.add_note(again)
    return error


def _stopping(what: str = "the event was not accepted") -> RunnerStoppedError:
    return RunnerStoppedError(f"the runner is stopping; {what} and nothing was stored")


def _outcome_of(envelope: Envelope) -> Outcome:
    if envelope.outcome is None:
        raise not_handled()
    return envelope.outcome
