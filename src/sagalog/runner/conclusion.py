"""What comes of an attempt at a command: it is accepted, refused, tried again later, or its instance is parked.

    attempt, deliver ─► [conclusion] ─► receive (reply events, refusals), queue (a record that parks)

A command is accepted when its reply events are stored. A failure that another attempt cannot mend parks the instance at
once, because each attempt may have effects.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from ..decision.draft import Draft
from ..decision.entries import Command
from ..decision.ids import command_id as id_of
from ..decision.message import Outcome, refusal
from ..decision.parking import stick
from ..decision.record import well_formed
from ..definition.itinerary import DefinedActivity
from ..errors import (
    CodecError,
    CommandRefused,
    PayloadTooLargeError,
    RunnerStoppedError,
    SagalogError,
    SagaParkedError,
)
from ..logs import log
from ..text import plural
from .answers import AnswerError, Answers
from .commands import CommandHandler, CommandHandlers
from .engine import Engine
from .envelope import Envelope, Repairing
from .failures import decisive, described, is_permanent, passes_through
from .gates import Gates
from .instance import Instance
from .lease import Leases
from .reporter import Reporter
from .settings import RetryPolicy

_SUMMARY_SECONDS = 60.0  # between log messages about failed attempts of one command type


class Conclusions:
    """Concludes attempts; `release` is called for an instance whose next attempt is due."""

    def __init__(
        self,
        engine: Engine,
        handlers: CommandHandlers,
        answers: Answers,
        leases: Leases,
        gates: Gates,
        release: Callable[[Instance], None],
    ) -> None:
        self._engine = engine
        self._handlers = handlers
        self._answers = answers
        self._leases = leases
        self._gates = gates
        self._release = release
        self.pause_beside: Callable[[Instance, Command, float], None]
        self._failures: dict[tuple[str, str], list[float]] = {}  # by saga and type: when logged, and how many since

    async def conclude(
        self, instance: Instance, entry: Command, answer: Any, error: BaseException | None = None
    ) -> bool:
        """Store the reply events, then note that it was accepted, tell that it was refused, or plan another attempt."""
        if instance.deliveries.was_forgotten(entry.id):
            return True
        origin = instance.deliveries.first_start
        if error is None:
            try:
                if answer is not None:
                    await self._answers.take(instance, entry, answer)
            except BaseException as raised:
                if self.ends(raised):
                    raise
                error = raised
        if error is None:
            self.accepted(instance, entry)
            return True
        error = decisive(error)
        told = self._failure(instance, entry, error)
        if told is not None:
            return await self._tell_failure(instance, entry, told, error)
        if isinstance(error, CommandRefused) and not self._asks_operator(instance, entry):
            try:
                await self._answers.stored(instance)
                await self._refuse(instance, entry, origin, error)
            except Exception as failed:
                error = failed
            else:
                return True
        return self._failed(instance, entry, error)

    def ends(self, error: BaseException) -> bool:
        """Say whether an error ends the task of an attempt. One that its own handler has cancelled has failed."""
        return passes_through(error) and not self._engine.cancelled_by_handler(error)

    def _failure(self, instance: Instance, entry: Command, error: BaseException) -> Any:
        """Return the event that tells a saga that its activity has failed; None where that is not so, or not up to it."""
        step = _activity(instance, entry)
        if step is None or isinstance(error, AnswerError) or self._asks_operator(instance, entry):
            return None
        if isinstance(error, CommandRefused):
            return step.failed(well_formed(f"refused: {error.reason}"), True)
        if is_permanent(error) or (isinstance(error, RunnerStoppedError) and self._engine.stopping.is_set()):
            return None
        failures = 1 + instance.deliveries.failures(entry.id)
        if self._retry_of(instance, entry).wait_seconds(failures) is not None:
            return None
        told = str(error) if isinstance(error, SagalogError) else described(error)
        return step.failed(well_formed(f"not done in {plural(failures, 'attempt')}: {told}"))

    @staticmethod
    def _asks_operator(instance: Instance, entry: Command) -> bool:
        """Say whether an operator has to decide about the failure of this activity: it may not fail."""
        step, record = _activity(instance, entry), instance.cached.record
        if step is None or step.options.optional:
            return False
        return step.never_fails or (record is not None and record.committed)

    async def _tell_failure(self, instance: Instance, entry: Command, told: Any, error: BaseException) -> bool:
        try:
            await self._answers.take(instance, entry, told)
        except BaseException as raised:
            if passes_through(raised):
                raise
            return self._failed(instance, entry, raised)
        if isinstance(error, CommandRefused):
            self._engine.counters.refused += 1
        self.accepted(instance, entry, "refused" if isinstance(error, CommandRefused) else "failed", error)
        return True

    async def _refuse(self, instance: Instance, entry: Command, origin: int, refused: CommandRefused) -> None:
        command_id = id_of(instance.persistence_id, entry.id)
        command = instance.runtime.registry.unpack(entry.command)
        trace = self._engine.hooks.trace_of(command_id)
        self._engine.counters.refused += 1
        message = refusal(command, command_id, refused.reason, trace)
        message.at, message.answer, message.origin = self._answers.moment(instance), True, origin
        envelope = Envelope(message)
        await instance.submit(envelope)
        record = instance.cached.record
        if (
            envelope.outcome is Outcome.DUPLICATE
            and record is not None
            and any(c.id == entry.id for c in record.outbox)
        ):
            raise AnswerError("its refusal has the id of another message")  # otherwise it would be delivered for ever
        self.tell(instance, entry, "refused", refused)

    def accepted(
        self, instance: Instance, entry: Command, outcome: str = "accepted", error: BaseException | None = None
    ) -> None:
        self._engine.counters.commands += outcome == "accepted"
        self.tell(instance, entry, outcome, error)
        instance.deliveries.accept(entry.id)

    def _failed(self, instance: Instance, entry: Command, error: BaseException) -> bool:
        engine = self._engine
        if isinstance(error, RunnerStoppedError) and engine.stopping.is_set():
            return False  # it stays in the outbox for the next worker
        if instance.cached.record is not None and not any(
            other.id == entry.id for other in instance.cached.record.outbox
        ):
            return True  # an operator has dropped it meanwhile
        if isinstance(error, SagaParkedError) and (entry.family or instance.is_in(error)):
            # This code cannot read whom it is for, or its own instance, which is to handle the answer.
            self.decline(instance, entry, error)
            return False
        engine.counters.dispatch_errors += 1
        self.tell(instance, entry, "failed", error)
        failures = instance.deliveries.failed(entry.id)
        carried_out = isinstance(error, AnswerError)
        # Our own errors name no payloads; those of others may quote them.
        told = str(error) if isinstance(error, (SagalogError, AnswerError)) else described(error)
        wait = None
        if not (carried_out or is_permanent(error) or isinstance(error, CommandRefused)):
            wait = self._retry_of(instance, entry).wait_seconds(failures)
        if wait is None:
            self._park(instance, entry, error, told, failures, carried_out=carried_out)
            return False
        self._complain(instance, entry, told, failures)
        if instance.deliveries.beside is not None and entry.id in instance.deliveries.beside:
            self.pause_beside(instance, entry, wait)
            return False
        instance.deliveries.wait(engine.loop.call_later(wait, self.again, instance))
        if wait > engine.seconds.lease / 2:
            # Others may take over only after our next attempt. Otherwise a dead broker would cost a write for each lease.
            instance.deliveries.lease_from(engine.now() + timedelta(seconds=wait))
            self._leases.prolong(instance)
        return False

    def _retry_of(self, instance: Instance, entry: Command) -> RetryPolicy:
        handler = self._handler_for(instance, entry)
        retry = None if handler is None else handler.policy.retry
        return retry or self._engine.settings.dispatch_retry

    def _park(
        self, instance: Instance, entry: Command, error: BaseException, told: str, failures: int, *, carried_out: bool
    ) -> None:
        name = entry.command.type
        if isinstance(error, CommandRefused):
            why = well_formed(error.reason)
            reason = f"activity {name} was refused: {why}; `retry` calls it again, `skip` continues without it"
        elif carried_out:
            reason = f"command {name} was carried out, but {told}; `retry` carries it out again, `skip` drops it"
        elif is_permanent(error):
            reason = f"command {name} was not accepted, and another attempt would not help: {told}"
        else:
            reason = f"command {name} was not accepted in {plural(failures, 'attempt')}: {told}"
        instance.deliveries.allow_all_attempts(entry.id)  # after a repair
        self._stuck(instance, entry, reason)

    def decline(self, instance: Instance, entry: Command, error: SagalogError) -> None:
        """Leave the first command of an outbox to a worker with other code: nothing is written, and nothing parked."""
        runtime = instance.runtime
        instance.deliveries.decline(entry)
        runtime.declined.add(instance.correlation_id, self._engine.now())
        self._engine.counters.dispatch_errors += 1
        self.tell(instance, entry, "failed", error)
        log.warning(
            "saga %s, id %s: command %s is left to another worker: %s",
            runtime.name,
            instance.correlation_id,
            entry.command.type,
            error,
            extra=instance.about(command_id=id_of(instance.persistence_id, entry.id)),
        )

    def unreadable(self, instance: Instance, entry: Command, error: CodecError) -> None:
        """Park an instance whose first command no code can read."""
        reason = f"command {entry.command.type} cannot be read: {error}; `skip` drops it, `edit --record` corrects it"
        self.tell(instance, entry, "failed", error)
        self._stuck(instance, entry, reason)

    def _stuck(self, instance: Instance, entry: Command, reason: str) -> None:
        parking = Envelope(Repairing(_stick(entry.id, reason)), future=self._engine.loop.create_future())
        assert parking.future is not None
        parking.future.add_done_callback(lambda _: self._parked(instance, entry, parking))
        # The command must not leave again before the record that parks it is stored.
        if instance.deliveries.beside is not None and entry.id in instance.deliveries.beside:
            self.pause_beside(instance, entry, self._engine.seconds.lease / 4)
        instance.poke(parking)
        instance.tell_parked(reason, command_id=id_of(instance.persistence_id, entry.id))

    @staticmethod
    def _parked(instance: Instance, entry: Command, parking: Envelope) -> None:
        """If the journal cannot take the record that parks it, leave the command alone until that record shrinks."""
        if parking.error is None and (waited := instance.deliveries.resume(entry.id)) is not None:
            waited.cancel()
        if isinstance(parking.error, PayloadTooLargeError):
            instance.deliveries.disown(entry.id)
            instance.runtime.unrecorded[instance.correlation_id] = entry.id, instance.cached.size
            log.error(
                "saga %s, id %s: could not record that command %s parks it, so this worker leaves it alone: %s",
                instance.runtime.name,
                instance.correlation_id,
                entry.command.type,
                parking.error,
                extra=instance.about(command_id=id_of(instance.persistence_id, entry.id)),
            )

    def _complain(self, instance: Instance, entry: Command, told: str, failures: int) -> None:
        """Log failed attempts: the first of a type at once, the others together, now and then."""
        now, key = self._engine.loop.time(), (instance.runtime.name, entry.command.type)
        said = self._failures.get(key)
        if said is not None and now - said[0] < _SUMMARY_SECONDS:
            said[1] += 1
            return
        others = int(said[1]) if said is not None else 0
        self._failures[key] = [now, 0.0]
        log.warning(
            "saga %s, id %s: command %s was not accepted (attempt %d%s): %s",
            instance.runtime.name,
            instance.correlation_id,
            entry.command.type,
            failures,
            f"; {others} more have failed since the last such line" if others else "",
            told,
            extra=instance.about(command_id=id_of(instance.persistence_id, entry.id)),
        )

    def again(self, instance: Instance) -> None:
        """Go on with the outbox: the pause is over."""
        instance.deliveries.end_pause()
        self._release(instance)

    def tell(self, instance: Instance, entry: Command, outcome: str, error: BaseException | None = None) -> None:
        runtime = instance.runtime
        if self._gates.active:
            self._gates.told(entry, outcome, error)
        self._engine.hooks.delivered(
            runtime.name, instance.correlation_id, entry, attempt_nr(instance, entry), outcome, error
        )

    def _handler_for(self, instance: Instance, entry: Command) -> CommandHandler | None:
        cls = instance.runtime.registry.get(entry.command.type)
        return None if cls is None else self._handlers.get(cls)


def _activity(instance: Instance, entry: Command) -> DefinedActivity | None:
    """Return the activity that a command calls; None for any other command, and for an undo."""
    table = instance.runtime.saga.activities
    return None if table is None or entry.undo else table.by_command.get(entry.command.type)


def attempt_nr(instance: Instance, entry: Command) -> int:
    """Return the number of the attempt at a command that comes next, or is under way: from 1."""
    return instance.deliveries.failures(entry.id) + 1


def _stick(entry: str, reason: str) -> Callable[[Draft, Reporter], Awaitable[None]]:
    async def park(draft: Draft, reporter: Reporter) -> None:
        record = draft.record
        if record is not None and any(command.id == entry for command in record.outbox):
            stick(draft, record, reason, entry)

    return park
