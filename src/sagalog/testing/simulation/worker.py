"""One worker: a real runner, whose journal, clock, command handlers and event handlers go wrong."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from datetime import timedelta
from typing import Any, TypeVar

from ...decision.ids import persistence_id
from ...definition.activities import Call
from ...definition.context import StepContext
from ...definition.saga import Saga
from ...definition.schema import schema_of
from ...errors import CommandRefused
from ...runner import CommandContext, SagaRunner
from .chance import COMMAND_FAULTS, SAGA_FAULTS, START_FAULTS
from .clock import LoopClock
from .journal import Condition, FaultyJournal
from .loop import process
from .outside import HandlerCall
from .situation import Situation

T = TypeVar("T")
_MAX_SKEW = 60.0  # seconds that a clock may be wrong
_COUNTED = (
    "handled",
    "duplicates",
    "held",
    "conflicts",
    "commands",
    "refused",
    "takeovers",
    "timers",
    "parked",
    "purged",
)


class Worker:
    """It is among the crew's `workers` as long as senders may turn to it."""

    def __init__(self, run: Situation, name: str, *, client: bool = False) -> None:
        self._run = run
        self.name = name
        self.repairing = 0
        self.condition: Condition = Condition(name, run.tell, run.blame)
        self._context = copy_context()
        self._context.run(process.set, self.condition.dead)
        fault = run.chance.strikes(START_FAULTS)
        if fault == "worker slow":
            self.condition.slow = 50.0
        ahead = run.chance.random.uniform(-2, 2) if fault == "clock wrong" else 0.0
        self.clock: LoopClock = LoopClock(timedelta(seconds=ahead))
        self._tell_skew()
        self.runner: SagaRunner = SagaRunner(
            FaultyJournal(run.ledger, run.chance, self.condition, run.tell, self._poll_again),
            sagas=[self._acting(_raising(saga, run)) for saga in run.sagas],
            dispatch=self._answer,
            clock=self.clock,
            settings=run.settings,
            client=client,
        )
        for command, policy in run.world.policies.items():
            given = {name: getattr(policy, name) for name in policy.__struct_fields__}
            self.runner.command(command, **given)(self._answer)

    def does(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do something as this worker's process does it."""
        return asyncio.get_running_loop().create_task(work, context=self._context)

    def count(self) -> None:
        """Add what its runner has done to the run's counts."""
        counters = self.runner.counters
        self._run.counters.update({name: getattr(counters, name) for name in _COUNTED})

    def jump(self, direction: int) -> None:
        """Set its clock forwards (1) or backwards (-1) by up to a minute."""
        ahead = self.clock.ahead.total_seconds() + direction * self._run.chance.upto(_MAX_SKEW)
        self.clock.ahead = timedelta(seconds=max(-_MAX_SKEW, min(_MAX_SKEW, ahead)))
        self._run.tell(f"the clock of {self.name} jumps: it is {self.clock.ahead.total_seconds():+.1f} s off now")
        self._tell_skew()
        self.clock.nudge()

    def poll_at(self, seconds: float) -> None:
        """Let its due loop look at that virtual time, or shortly after, as its clock sees it."""
        loop = asyncio.get_running_loop()
        late = max(0.0, seconds - self.clock.ahead.total_seconds() - loop.time())
        loop.call_later(late + self._run.chance.upto(1), self.clock.nudge)

    def _poll_again(self) -> None:
        self.poll_at(asyncio.get_running_loop().time())

    def _tell_skew(self) -> None:
        self._run.skew = max(self._run.skew, abs(self.clock.ahead.total_seconds()))

    def _acting(self, saga: Saga[Any]) -> Saga[Any]:
        """Let the world answer for the activities of a saga, in place of its own methods."""
        for command, (step, undo) in saga.activities.commands.items() if saga.activities is not None else ():
            vars(saga)[step.methods["undo"] if undo else step.name] = self._activity(
                command, saga.name, step.name, undo
            )
        return saga

    def _activity(self, command: type, saga: str, name: str, undo: bool) -> Callable[[Any, Call], Awaitable[Any]]:
        world, chance = self._run.world, self._run.chance.random

        async def act(state: Any, call: Call) -> Any:
            made = command(call.reminder) if call.reminder else command()
            called = CommandContext(call.id, saga, call.correlation_id, call.attempt, undo)
            does = world.undo if undo else world.activity
            return await self._serve(made, called, lambda: does(saga, name, state, call, chance))

        return act

    async def _answer(self, command: Any, context: CommandContext) -> Any:
        world, chance = self._run.world, self._run.chance.random

        def answer() -> Any:
            events = world.answer(command, chance)
            return events if events is None or isinstance(events, (list, tuple)) else [events]

        return await self._serve(command, context, answer, replies=True)

    async def _serve(
        self, command: Any, context: CommandContext, answer: Callable[[], Any], *, replies: bool = False
    ) -> Any:
        run, chance = self._run, self._run.chance
        run.outside.tried[context.id] += 1
        name = schema_of(type(command)).name
        if name in self.condition.paused:
            run.blame(f"{context.id} leaves {self.name}, which has seen that {name} is paused")
        lives = run.ledger.lives.get(persistence_id(context.saga, context.correlation_id), ())
        now = asyncio.get_running_loop().time()
        delivery = HandlerCall(context.id, command, context.undo, max(0, len(lives) - 1), run.tick(), now)
        await self.condition.gate()
        await asyncio.sleep(chance.upto(0.02) * self.condition.slow)
        await self.condition.gate()
        fault = chance.strikes(COMMAND_FAULTS)
        if fault == "command handlers fail for a while":
            run.away_until = asyncio.get_running_loop().time() + chance.upto(60)
            run.tell("the command handlers fail for a while")
        if fault == "command handler fails" or asyncio.get_running_loop().time() < run.away_until:
            raise ConnectionError("simulated")
        if fault == "command handler slow":
            await asyncio.sleep(chance.upto(20))
        answered, refused = self._carry_out(answer, delivery)
        if replies:
            delivery.replies = tuple(answered or ())
        run.tell(
            f"{context.id} {command!r} reaches its handler{' and is refused' if refused else ''}, from {self.name}"
        )
        run.outside.deliveries.append(delivery)
        if fault == "command handler fails after it did it":
            raise ConnectionError("simulated")
        if fault == "dies in a command handler":
            self.condition.die(f"while {context.id} is carried out")
            await self.condition.gate()
        run.outside.ended(delivery)
        if refused is not None:
            raise refused
        return answered

    def _carry_out(self, answer: Callable[[], Any], delivery: HandlerCall) -> tuple[Any, CommandRefused | None]:
        """Let the world answer, once for each id: a receiver knows the ids that it has seen."""
        key = (delivery.id, delivery.life)
        known = self._run.outside.answers.get(key)
        if known is None:
            try:
                known = (answer(), None)
            except CommandRefused as error:
                known = (None, error)
            except Exception as error:  # the world is wrong, not the runner, which would try again for ever
                self._run.give_up(error)
                raise
            self._run.outside.answers[key] = known
        delivery.refused = known[1] is not None
        return known


def _raising(saga: Saga[Any], run: Situation) -> Saga[Any]:
    """Return a saga like this one, whose handlers now and then raise."""

    def handle(state: Any, event: Any) -> Any:
        _raise(run, saga.name, event)
        return saga.handle(state, event)

    def refused(state: Any, event: Any) -> Any:
        _raise(run, saga.name, event.command)
        return saga.refused(state, event)

    def handle_in(state: Any, event: Any, context: StepContext) -> Any:
        _raise(run, saga.name, event)
        return saga.handle_in(state, event, context)

    def refused_in(state: Any, event: Any, context: StepContext | None) -> Any:
        _raise(run, saga.name, event.command)
        return saga.refused_in(state, event, context)

    def child_ended(state: Any, ended: Any, context: StepContext) -> Any:
        _raise(run, saga.name, ended)
        return saga.child_ended(state, ended, context)

    ours = copy.copy(saga)
    vars(ours).update(
        handle=handle, refused=refused, handle_in=handle_in, refused_in=refused_in, child_ended=child_ended
    )
    return ours


def _raise(run: Situation, saga: str, event: Any) -> None:
    now = asyncio.get_running_loop().time()
    fault = run.chance.strikes(SAGA_FAULTS, share=0.5)
    kind = (saga, type(event))
    if fault == "event handler raises for a while":
        run.raising[kind] = now + run.chance.upto(10)
        run.tell(f"handling {type(event).__name__} in saga {saga} fails for a while")
    if fault is not None or now < run.raising.get(kind, 0):
        raise RuntimeError("simulated")
