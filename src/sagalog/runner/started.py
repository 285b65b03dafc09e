"""A runner between its start and its stop: the phases, put together.

receive ─► queue ─► load ─► decide ─► commit ─► settle ─► deliver          due ─► queue          repair ─► queue
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from ..decision.controls import Change
from ..decision.repair import Repair
from ..definition.saga import Saga
from ..errors import DefinitionError, InvalidEventError
from ..logs import about, log, trace_of
from ..waiting import start_task
from .asking import runtime_of
from .cache import InstanceCache
from .commands import CommandHandlers
from .context import check_no_circle, event_handler
from .controls import ControlsWatch
from .deliver import Dispatcher
from .due import DueLoop
from .engine import Engine
from .envelope import Envelope, Maintenance
from .failures import not_handled
from .follower import Follower
from .gauges import Gauges, gauges_of
from .health import Health, examine
from .instance import Instance
from .queue import Queue
from .quiet import is_quiet, quieted, tell_quiet
from .receive import Receiver
from .repair import Repaired, apply
from .round import Rounds
from .runtime import SagaRuntime
from .starting import give_up_waiting
from .stores import Stores


class Started:
    """Everything of a running runner. Made at start, once the journal is open; it cannot be used after `stop`."""

    def __init__(
        self,
        engine: Engine,
        stores: Stores,
        sagas: Iterable[Saga[Any]],
        handlers: CommandHandlers,
        controls: ControlsWatch | None,
    ) -> None:
        queue: Queue[Instance] = Queue()
        caches = [
            InstanceCache(SagaRuntime(saga, stores.store_of(saga), engine, stores.journal), queue) for saga in sagas
        ]
        self.engine = engine
        self.stores = stores
        self.caches: dict[str, InstanceCache] = {cache.runtime.name: cache for cache in caches}
        self.receiver: Receiver = Receiver(engine, caches)
        self._dispatcher = Dispatcher(engine, handlers, self.caches, self.receiver.reply, stores.journal)
        if handlers.shares and stores.journal is None:
            raise DefinitionError("shared_rate= of a command needs a journal: this runner was given stores")
        self.controls = controls
        if controls is not None:
            controls.heard = self._dispatcher.gates.controlled
            controls.heard(controls.said)
        watches = not (engine.client or engine.alone)
        self.due_loop: DueLoop = DueLoop(engine, caches, controls if watches else None)
        self.follower: Follower = Follower(engine, stores.journal, [cache.runtime for cache in caches])
        self._rounds = Rounds(engine, queue, self._dispatcher, self.due_loop)
        self.due_task: asyncio.Task[None] = start_task(self.due_loop.run(), loop=engine.loop)
        engine.lasting = self.due_task
        self.due_task.add_done_callback(_due_loop_ended)

    async def stop(self, seconds: float) -> None:
        """Refuse new events, finish what is under way in so many seconds, record it; see `SagaRunner.stop`."""
        engine = self.engine
        engine.stopping.set()
        self._dispatcher.stop()
        await self.follower.stop()
        stopped = not_handled()
        for cache in self.caches.values():
            for instance in cache.active():
                give_up_waiting(instance, stopped)
                tell_quiet(instance)
        try:
            async with asyncio.timeout(seconds):
                await asyncio.wait([self.due_task])  # a failure was logged; stopping goes on
                await self.receiver.drained()
                await engine.wait_for_tasks()
        except TimeoutError:
            log.warning(
                "stopping: command handlers still run after %.0f s; cancelled, their commands stay in the outbox",
                engine.seconds.stop_timeout,
                extra=about(),
            )
            self.due_task.cancel()
            engine.cancel_tasks()
            await asyncio.gather(self.due_task, return_exceptions=True)
            await engine.wait_for_tasks(engine.seconds.lease)
        for cache in self.caches.values():
            for instance in list(cache.instances.values()):
                instance.deliveries.stop_pausing()
                if instance.deliveries.accepted:
                    instance.poke(Envelope(Maintenance.RECORD))
        await engine.wait_for_tasks(max(engine.seconds.stop_timeout, engine.seconds.lease))
        if engine.busy:
            log.warning("stopping: the journal does not answer; acceptances are not recorded", extra=about())
            engine.abandon()
            await engine.wait_for_tasks(engine.seconds.lease)
        if engine.busy:
            log.error(
                "stopping: a handler does not end although it was cancelled; the runner no longer waits for it",
                extra=about(),
            )
            self._rounds.give_up_handlers()
        self._dispatcher.close()  # deliveries that ended meanwhile may have set a timer

    async def settle(self) -> None:
        """Return when nothing is left to do now; see `SagaRunner.settle`."""
        engine = self.engine
        await self.due_loop.searched()
        while True:
            before = self._progress()
            for cache in self.caches.values() if not engine.client else ():
                if engine.timing.in_order:  # no lease runs out by itself here
                    await self.due_loop.hand_out_all(cache, engine.now() + engine.lease)
                else:
                    await self.due_loop.scan(cache, engine.now())
            await engine.wait_for_tasks()
            # A claim in order fires no timer behind one that has sent a command. So whatever was done since this look, such
            # as the acceptance of a command, another one has to see what may fire now.
            busy = self._dispatcher.gates.moving or (engine.timing.in_order and self._progress() != before)
            for cache in self.caches.values():
                for instance in cache.active():
                    busy = busy or not instance.settled
                    if instance.deliveries.accepted:
                        instance.poke(Envelope(Maintenance.RECORD))
            if not busy:
                # A command may wait for its next attempt, and what is due behind it for its answer.
                later = self._not_quiet() if engine.timing.in_order and not engine.stopping.is_set() else []
                if not later:
                    return
                await asyncio.wait(map(quieted, later), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)

    def _progress(self) -> tuple[int, int, int]:
        """Return how much was handed out, stored and accepted."""
        counters = self.engine.counters
        return self.due_loop.handed_out, counters.saves, counters.commands

    def _not_quiet(self) -> list[Instance]:
        """Return the instances that have a command left to deliver."""
        instances = (instance for cache in self.caches.values() for instance in cache.instances.values())
        return [instance for instance in instances if not is_quiet(instance)]

    async def health(self, timeout_seconds: float, behind_seconds: float | None) -> Health:
        """Say whether all is well; see `SagaRunner.health`."""
        return await examine(
            self.engine,
            [cache.runtime for cache in self.caches.values()],
            self.stores.journal,
            self.due_loop,
            self.due_task,
            timeout_seconds=timeout_seconds,
            behind_seconds=behind_seconds,
            waiting=self._dispatcher.gates.reasons(),
        )

    def gauges(self) -> Gauges:
        """Return what there is on hand now."""
        return gauges_of(self.receiver, self.engine, list(self.caches.values()), self._dispatcher.gates)

    async def repair(self, saga: str, correlation_id: str, repair: Repair) -> Repaired:
        """Repair an instance. Raises InvalidEventError for a saga that is not here."""
        cache = self._named(saga)
        caller = event_handler()
        if caller is not None:
            check_no_circle(caller, cache.instance(correlation_id), "a repair")
        return await self.receiver.repair(lambda: apply(cache, correlation_id, repair))

    async def control(self, change: Change) -> bool:
        """Change what is said about the commands of the journal; say whether it changed. Raises DefinitionError."""
        if self.controls is None:
            raise DefinitionError("pause and resume need a journal: this runner was given stores; nothing was stored")
        return await self.controls.change(change)

    def runtime_of(self, saga: type[Saga[Any]] | Saga[Any]) -> SagaRuntime:
        """Return the saga that is asked about. Raises InvalidEventError for one that is not here, DefinitionError."""
        return runtime_of(saga, lambda name: self._named(name).runtime)

    def _named(self, saga: str) -> InstanceCache:
        cache = self.caches.get(saga)
        if cache is None:
            raise InvalidEventError(f"no saga {saga!r} in this runner; it has {', '.join(sorted(self.caches))}")
        return cache


def _due_loop_ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        name = type(error).__name__
        log.critical("the loop that looks for due work failed: %s", name, exc_info=trace_of(error), extra=about())
