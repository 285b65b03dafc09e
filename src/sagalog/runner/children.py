"""What parents and children tell each other, delivered like commands: by this worker, to an instance of this runner.

deliver ─► attempt ─► [children] ─► the mailbox of a child, or of a parent

Each may be delivered again, and by several workers. A start is known by its message id, an end by what the parent waits
for, and a child that is asked to end checks whether it still runs. This worker declines what is for an instance that its
code cannot read, as it declines a command of an unknown type. Nothing waits for a place here: no step of a parent waits
for its child, and no step of a child for its parent, so they cannot wait for each other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from ..decision.children import ChildTold, ended_silently, failed_to_start, start_of, tells_of, told_of, unpack_told
from ..decision.draft import Draft
from ..decision.entries import FINAL, Audit, Command, Status
from ..decision.ids import command_id, end_id, parent_in, parts_of
from ..decision.message import Message, Outcome
from ..decision.repair import cancel
from ..definition import codec
from ..definition.codec import TypeRegistry, full_name
from ..errors import (
    AlreadyStartedError,
    CodecError,
    DefinitionError,
    InvalidEventError,
    KeyTakenError,
    NoInstanceError,
    PayloadTooLargeError,
    SagalogError,
    SagaParkedError,
    UnexpectedEventError,
)
from ..logs import about, log
from .cache import InstanceCache
from .commands import CommandContext, CommandHandler, CommandPolicy
from .engine import Engine
from .envelope import Envelope, Repairing
from .instance import Instance
from .reporter import Reporter

Moment = Callable[[Instance], datetime | None]  # when a delivery happens, in event time
_NEVER_STARTS = (
    AlreadyStartedError,
    NoInstanceError,
    UnexpectedEventError,
    InvalidEventError,
    PayloadTooLargeError,
    DefinitionError,
    CodecError,
    KeyTakenError,
)


class ChildDelivery(CommandHandler):
    """Carries out one entry between parent and child, as a command handler does."""

    def __init__(self, function: Callable[[], Awaitable[None]]) -> None:
        self.policy: CommandPolicy = CommandPolicy()
        self.takes_context = False
        self.asynchronous = True
        self._deliver = function

    def __call__(self, command: Any, context: CommandContext | None) -> Any:
        """Deliver it; raises what keeps it from being stored."""
        return self._deliver()


class Children:
    """Delivers what parents and children tell each other."""

    def __init__(self, engine: Engine, caches: Mapping[str, InstanceCache], moment: Moment) -> None:
        self._engine = engine
        self._caches = caches
        self._moment = moment
        # Instances that this worker's code could not read when something was delivered to them: why, and what was read.
        self._unreadable: dict[str, tuple[str, tuple[int, int]]] = {}
        self._reading: set[str] = set()  # those of them that are looked at again just now

    def handler_of(self, instance: Instance, entry: Command) -> ChildDelivery:
        """Return what carries out an entry.

        Raises CodecError; DefinitionError or SagaParkedError where that is another worker's affair.
        """
        if self._unreadable:
            self._check_readable(instance, entry)
        if entry.family == "tell":
            parent = parent_in(entry.to)
            if parent is None:
                raise CodecError(f"{entry.to!r} names no parent")
            cache, correlation_id = self._cache(parent.persistence_id)
            told = unpack_told(entry.command)
            return ChildDelivery(lambda: self._tell(instance, entry, cache.instance(correlation_id), told))
        cache, correlation_id = self._cache(entry.to)
        if entry.family == "start":
            event = instance.runtime.registry.unpack(entry.command)
            return ChildDelivery(lambda: self._start(instance, entry, cache.instance(correlation_id), event))
        return ChildDelivery(lambda: self._stop(instance, entry, cache.instance(correlation_id)))

    def _cache(self, persistence_id: str) -> tuple[InstanceCache, str]:
        saga, correlation_id = parts_of(persistence_id)
        cache = self._caches.get(saga)
        if cache is None:
            raise DefinitionError(
                f"no saga {saga!r} in this runner: another worker has it, or pass it to this SagaRunner too"
            )
        return cache, correlation_id

    def _check_readable(self, instance: Instance, entry: Command) -> None:
        """Raise SagaParkedError where an entry is for an instance that could not be read; and read it again meanwhile.

        So it is found out without a write when that can be read by now.
        """
        parent = parent_in(entry.to) if entry.family == "tell" else None
        for persistence_id in (instance.persistence_id, entry.to if parent is None else parent.persistence_id):
            if (known := self._unreadable.get(persistence_id)) is None:
                continue
            if persistence_id not in self._reading:
                self._reading.add(persistence_id)
                self._engine.spawn(self._read(persistence_id))
            raise SagaParkedError(*parts_of(persistence_id), known[0])

    async def _read(self, persistence_id: str) -> None:
        try:
            cache, correlation_id = self._cache(persistence_id)
            saved = await cache.runtime.load(correlation_id)
            if saved is not None:
                record = cache.runtime.reader.record(correlation_id, saved.payload, deleted=saved.tombstone)
                if record is not None:
                    cache.runtime.reader.state(correlation_id, record)
                    tried = self._unreadable[persistence_id][1]
                    if (record.owes_replay or record.kept) and (saved.epoch, saved.version) == tried:
                        return  # so it is a message in it that this code cannot read
            self._unreadable.pop(persistence_id, None)
            cache.instance(correlation_id).read_again()
        except SagalogError as error:  # it still cannot be read, or the journal does not answer; it is read again later
            log.debug(
                "reading an instance again for its family: %s",
                error,
                extra=about(saga=parts_of(persistence_id)[0], correlation_id=parts_of(persistence_id)[1]),
            )
        finally:
            self._reading.discard(persistence_id)

    async def _give(self, to: Instance, envelope: Envelope) -> None:
        """Let an instance take something; note one that this code cannot read."""
        try:
            await to.submit(envelope)
        except SagaParkedError as error:
            self._unreadable[to.persistence_id] = error.reason, (to.cached.epoch, to.cached.version)
            raise

    async def _start(self, parent: Instance, entry: Command, child: Instance, event: Any) -> None:
        """Let the child begin. Where it cannot, now or ever, the parent is told that it failed."""
        message_id = start_of(parent.persistence_id, entry)
        try:
            data = codec.check_event(event, self._engine.settings.max_payload_bytes, message_id)
            message = Message(message_id, event, data=data)
            outcome = await self._submit(child, parent, entry, message)
        except _NEVER_STARTS as error:
            await self._fail(parent, entry, str(error))
            return
        if outcome in (Outcome.HANDLED, Outcome.HELD, Outcome.KEPT, Outcome.DUPLICATE):
            return
        saga, correlation_id = parts_of(entry.to)
        why = "its id is taken by a live instance" if outcome is Outcome.ALREADY_STARTED else outcome.value
        await self._fail(parent, entry, f"saga {saga!r}, id {correlation_id!r} was not started: {why}")

    async def _fail(self, parent: Instance, entry: Command, why: str) -> None:
        log.warning(
            "saga %s, id %s: a child has failed: %s",
            parent.runtime.name,
            parent.correlation_id,
            why,
            extra=parent.about(command_id=command_id(parent.persistence_id, entry.id)),
        )
        message_id, told = failed_to_start(parent.persistence_id, entry, why)
        await self._submit(parent, parent, entry, Message(message_id, told, "child"))

    async def _stop(self, parent: Instance, entry: Command, child: Instance) -> None:
        """Let the child compensate, or end as it stands, if it still runs. It tells its parent itself how it ended."""
        started_as = start_of(parent.persistence_id, entry)
        gone = fresh = False
        silent: ChildTold | None = None
        saga, correlation_id = parts_of(parent.persistence_id)
        compensates = entry.family == "stop"
        note = f"its parent {saga} {correlation_id} {'compensates' if compensates else 'was cancelled'}"
        beyond = f"{note}; this instance is past its pivot, so it continues"
        repair = cancel(compensate=compensates, note=note)

        async def run(draft: Draft, reporter: Reporter) -> None:
            nonlocal gone, fresh, silent
            record, fresh = draft.record, child.cached.fresh
            gone, silent = False, None  # it may be the second look
            if record is None or record.parent != started_as:
                gone = record is None or not tells_of(record, started_as)
            elif ended_silently(record, started_as):
                silent = told_of(record, draft.persistence_id)
            elif record.status is Status.RUNNING and compensates and record.committed:
                # It goes on to its end, of which its parent hears: what it has done, its parent alone can take back.
                if not any(audit.note == beyond for audit in record.audit):
                    draft.append(record, "audit", Audit(draft.now, "parent", beyond))
                    draft.touch()
            elif record.status is Status.RUNNING and compensates and not record.parked:
                draft.trace = entry.trace
                draft.compensate()  # as if a handler had asked for it: what it has sent still goes out before
                draft.append(record, "audit", Audit(draft.now, "parent", note))
                draft.touch()
            elif record.status is Status.RUNNING or not (compensates or record.status in FINAL):
                # What it holds is dropped, and a stuck command is in nobody's way.
                draft.record = repair.decide(record, draft.next_id, draft.now, draft.persistence_id).record
                draft.touch()

        # Where the child is gone, nothing is written that could lose to another worker: only a fresh read tells.
        while not fresh:
            child.read_again()
            await self._give(child, Envelope(Repairing(run)))
            fresh = fresh or not (gone or silent)
        if gone:
            await self._fail(parent, entry, f"saga {child.runtime.name!r}, id {child.correlation_id!r} is gone")
        elif silent is not None:  # nothing else is left to tell its parent, which ignores it if it has heard
            told = _readable_there(silent, child.runtime.registry)
            await self._submit(parent, parent, entry, Message(end_id(started_as), told, "child"))

    async def _tell(self, child: Instance, entry: Command, parent: Instance, told: ChildTold) -> None:
        """Let the parent hear of the end. One that is gone, or has heard, takes no notice."""
        told = _readable_there(told, child.runtime.registry)
        outcome = await self._submit(parent, child, entry, Message(end_id(entry.to), told, "child"))
        if outcome is Outcome.IGNORED:
            self._engine.counters.ignored += 1
            log.info(
                "saga %s, id %s: its parent, saga %s, id %s, ignores its end",
                child.runtime.name,
                child.correlation_id,
                parent.runtime.name,
                parent.correlation_id,
                extra=child.about(message_id=end_id(entry.to)),
            )

    async def _submit(self, to: Instance, by: Instance, entry: Command, message: Message) -> Outcome:
        message.trace = self._engine.hooks.trace_of(command_id(by.persistence_id, entry.id)) or entry.trace
        message.at, message.answer = self._moment(by), True
        envelope = Envelope(message)
        await self._give(to, envelope)
        assert envelope.outcome is not None
        return envelope.outcome


def _readable_there(told: ChildTold, registry: TypeRegistry) -> ChildTold:
    """Return it with the type of its result named in full: in its parent's saga, another may have the short name."""
    cls = None if told.result is None else registry.get(told.result.type)
    if told.result is None or cls is None:
        return told
    return msgspec.structs.replace(told, result=msgspec.structs.replace(told.result, type=full_name(cls)))
