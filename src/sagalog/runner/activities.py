"""Activities as command handlers: how a saga's method is called, and what its result becomes.

deliver, beside ─► attempt ─► [activities] ─► the method ─► an event of its result
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from inspect import iscoroutinefunction
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from ..decision.entries import Command
from ..decision.record import SagaRecord
from ..decision.state import decode_state
from ..definition.activities import Call
from ..definition.itinerary import DefinedActivity
from ..definition.saga import Saga
from ..errors import DefinitionError
from .commands import CommandContext, CommandHandler, CommandHandlers, CommandPolicy

_GENERATORS = (GeneratorType, AsyncGeneratorType)


class ActivityContext(CommandContext, frozen=True, gc=False, kw_only=True):
    """What the call of an activity needs beside what any command handler may know."""

    record: SagaRecord
    entry: Command
    of: str  # for an undo: the id under which the activity was called


class ActivityHandler(CommandHandler):
    """Calls the method of one activity, or of its undo, with the state as it is stored now."""

    def __init__(self, saga: Saga[Any], step: DefinedActivity, *, undo: bool) -> None:
        options = step.options
        self.policy: CommandPolicy = CommandPolicy(
            options.timeout,
            options.retry,  # type: ignore[arg-type]
            options.places,
            options.rate,
            options.circuit,  # type: ignore[arg-type]
            options.shared_rate,
        )
        self.takes_context = True
        self._saga = saga
        self._step = step
        self.beside: bool = not undo  # an undo comes after all before it
        self._undo = undo
        self.function: Any = getattr(saga, step.methods["undo"] if undo else step.name)
        self.asynchronous: bool = iscoroutinefunction(self.function)
        self._with_result = not undo and step.options.until is None

    def check_kind(self, record: SagaRecord | None, entry: Command) -> None:
        """Raise DefinitionError for a call that other code has begun, to which the activity is of another kind.

        Where that waits for an event, what this method returns would pass for the event. The other way round, the result of
        a call would be lost.
        """
        if record is None or self._undo or entry.life != record.incarnation:
            return
        stage = record.activities.get(self._step.name)
        waits = self._step.options.until is not None
        if stage is not None and stage.status == ("running" if waits else "waiting"):
            kind = "waits for an event" if waits else "waits for none"
            raise DefinitionError(f"{entry.command.type} was begun by other code, but {kind} in this one")

    def __call__(self, command: Any, context: CommandContext | None) -> Any:
        """Call the method. Raises DefinitionError where the life that the call is of has ended, with its state."""
        assert isinstance(context, ActivityContext)
        record, entry = context.record, context.entry
        if entry.life != record.incarnation:
            raise DefinitionError(
                f"the incarnation that called it has ended, and its state is gone: `skip` drops {entry.command.type}"
            )
        call = Call(
            context.id,
            context.saga,
            context.correlation_id,
            context.attempt,
            context.of,
            getattr(command, "reminder", 0),
        )
        answer = self.function(decode_state(self._saga, record), call)
        if type(answer) is CoroutineType or isinstance(answer, Awaitable):  # the latter takes its time
            return self._awaited(answer)
        return self._told(answer)

    async def _awaited(self, answer: Awaitable[Any]) -> Any:
        return self._told(await answer)

    def _told(self, result: Any) -> Any:
        if type(result) in _GENERATORS:
            what = f"{type(self._saga).__name__}.{self.function.__name__}()"
            raise DefinitionError(f"{what} returned a generator, which has not run: let it make its call itself")
        if not self._with_result:
            return None
        return self._step.done(result) if self._step.done.__struct_fields__ else self._step.done()  # type: ignore[attr-defined]


def register(handlers: CommandHandlers, sagas: Iterable[Saga[Any]]) -> None:
    """Register the methods of all activities. Raises DefinitionError."""
    for saga in sagas:
        if saga.activities is not None:
            for command, (step, undo) in saga.activities.commands.items():
                handlers.add_own(command, ActivityHandler(saga, step, undo=undo))
