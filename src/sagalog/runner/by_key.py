"""Events that reach instances by a key: the holders are looked up, and each of them is given the event.

    receive ─► [by key] ─► mailbox of each instance that holds the key

The event is accepted when all of them have stored it. If this process dies before that, or one of them cannot take it, its
sender delivers it again under the same message id: those that had it know it, and the rest handle it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from ..decision.message import Message, Outcome
from ..errors import (
    NoInstanceError,
    NotAllReachedError,
    RunnerStoppedError,
    SagalogError,
)
from ..waiting import Attempts, Waiting
from .cache import InstanceCache
from .context import awaiting
from .engine import Engine
from .failures import most_telling, not_handled
from .finding import by_index, holders, holders_in_transaction, in_pages
from .holder_watch import HolderWatch
from .instance import Instance
from .settings import NoInstance

Submit = Callable[[InstanceCache, str, Message], Awaitable[Outcome]]
"""Hands a message to an instance, and returns what became of it there. Raises why it was not taken."""

_PAGES_AT_ONCE = 16  # of all events from outside together
_MOST = (Outcome.HANDLED, Outcome.HELD, Outcome.KEPT, Outcome.DUPLICATE, Outcome.IGNORED, Outcome.NO_INSTANCE)


class ByKey(msgspec.Struct, frozen=True):
    """Instances of one saga: those that hold this value of a key, one at most where it is unique."""

    cache: InstanceCache
    name: str
    text: str
    unique: bool

    @property
    def by_lookup(self) -> bool:
        """Who holds it is found without reading all live instances of the saga."""
        runtime = self.cache.runtime
        return (self.unique and runtime.reservations is not None) or by_index(runtime) is not None


class KeyedDelivery:
    """Gives an event to each instance that holds a key, a page of them at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pages = asyncio.Semaphore(_PAGES_AT_ONCE)
        self._watches: dict[str, HolderWatch] = {}  # by saga, where there is no index

    async def deliver(
        self, to: ByKey, message: Message, submit: Submit, *, caller: Instance | None, bounded: bool, within: Any = None
    ) -> dict[str, Outcome]:
        """Return what became of the event, by correlation id; none where nobody holds the key and that is no error.

        `caller`: whose event handler waits for it. `bounded`: it waits for a place, unlike what others wait for.
        `within`: a transaction of the caller. Raises once all were asked: what one of them raised, if none has stored
        the event, else NotAllReachedError; NoInstanceError as `no_instance` of the settings says.
        """
        settings, loop = self._engine.settings, self._engine.loop
        wait = self._engine.seconds.no_instance_wait
        until = loop.time() + wait
        looks = Attempts(Waiting(first=0.05, most=5.0, seconds=wait), clock=loop.time)
        while True:
            outcomes = await self._once(to, message, submit, caller=caller, bounded=bounded, within=within)
            if any(outcome is not Outcome.NO_INSTANCE for outcome in outcomes.values()):
                return outcomes
            if settings.no_instance is NoInstance.IGNORE:
                if not outcomes:
                    self._engine.counters.ignored += 1
                return outcomes
            if settings.no_instance is not NoInstance.WAIT or not await self._may_be_held(to, looks, until):
                raise NoInstanceError(
                    to.cache.runtime.name,
                    "",
                    type(message.event).__name__,
                    f"no live instance holds this value of its key {to.name!r}",
                )

    async def _may_be_held(self, to: ByKey, looks: Attempts, until: float) -> bool:
        """Wait until it is worth looking again for who holds a key; return False when the time is over."""
        while (pause := looks.failed()) is not None:
            await self._engine.back_off(pause)
            left = until - self._engine.loop.time()
            if to.by_lookup or await self._watch(to).may_be_held((to.name, to.text), left):
                return True
        return False

    def _watch(self, to: ByKey) -> HolderWatch:
        runtime = to.cache.runtime
        watch = self._watches.get(runtime.name)
        if watch is None:
            watch = self._watches[runtime.name] = HolderWatch(self._engine, runtime)
        return watch

    async def _once(
        self, to: ByKey, message: Message, submit: Submit, *, caller: Instance | None, bounded: bool, within: Any = None
    ) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        errors: list[tuple[str, BaseException]] = []
        try:
            async for page in self._holders(to, within):
                if self._engine.stopping.is_set():
                    errors.append(("", not_handled()))
                    break
                if bounded:
                    async with self._pages:
                        told = await self._page(to, page, message, submit, caller)
                else:
                    told = await self._page(to, page, message, submit, caller)
                for correlation_id, outcome in zip(page, told, strict=True):
                    if isinstance(outcome, Outcome):
                        outcomes[correlation_id] = outcome
                    elif isinstance(outcome, NoInstanceError):  # it has ended since, or gave the key up
                        outcomes[correlation_id] = Outcome.NO_INSTANCE
                    else:
                        errors.append((correlation_id, outcome))
        except SagalogError as error:  # the next page could not be looked up; pages before may have stored the event
            errors.append(("", error))
        if errors:
            took = sum(one is not Outcome.NO_INSTANCE for one in outcomes.values())
            raise _raised(errors, to, type(message.event).__name__, took, within=within is not None)
        return outcomes

    async def _holders(self, to: ByKey, within: Any) -> AsyncIterator[list[str]]:
        """Yield the ids of those that may hold the key. Each says by itself, in its step, whether it does."""
        runtime = to.cache.runtime
        if to.unique and runtime.reservations is not None:
            reservations = runtime.reservations if within is None else runtime.reservations.within(within)
            holder = await reservations.holder_of((to.name, to.text))
            if holder is not None:
                yield [holder]
            return
        if within is not None:
            found = holders_in_transaction(runtime, to.name, to.text, within)
        elif to.by_lookup:
            found = holders(runtime, to.name, to.text)
        else:
            found = in_pages(await self._watch(to).holders((to.name, to.text)))
        async for page in found:
            yield page

    @staticmethod
    async def _page(
        to: ByKey, page: list[str], message: Message, submit: Submit, caller: Instance | None
    ) -> list[Outcome | BaseException]:
        by = (to.name, to.text)
        copies = [msgspec.structs.replace(message.copied(), by=by) for _ in page]  # none sees what another does to it
        wanted = [] if caller is None else [to.cache.instance(correlation_id) for correlation_id in page]
        with awaiting(caller, wanted, type(message.event).__name__):
            return await asyncio.gather(
                *(submit(to.cache, correlation_id, copy) for correlation_id, copy in zip(page, copies, strict=True)),
                return_exceptions=True,
            )


def together(outcomes: dict[str, Outcome]) -> Outcome:
    """Return what became of an event in a saga, as one outcome: the first in the list that any instance had."""
    found = set(outcomes.values())
    return next((outcome for outcome in _MOST if outcome in found), Outcome.NO_INSTANCE)


def _raised(
    errors: list[tuple[str, BaseException]], to: ByKey, event: str, took: int, *, within: bool
) -> BaseException:
    """Return what to raise, where some instances could not take an event; their ids are with their errors.

    `within`: a transaction of the caller, which is to be rolled back, so that none has stored it.
    """
    why = most_telling([error for _, error in errors])
    if not took or within or not isinstance(why, SagalogError):
        return why
    if isinstance(why, RunnerStoppedError):
        return RunnerStoppedError(
            f"the runner stopped before all instances had handled the event: {took:,} of saga {to.cache.runtime.name} have "
            "it; sent again under the same message id, it reaches only the others"
        )
    ids = () if any(not name for name, _ in errors) else tuple(name for name, _ in errors)
    failed = NotAllReachedError(to.cache.runtime.name, to.name, event, took, ids, why)
    failed.__cause__ = why
    return failed
