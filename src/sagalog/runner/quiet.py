"""In event time, the events of a log come one at a time, each after everything that the one before has led to.

    receive ─► [quiet] ─► mailbox of the instance

An instance is quiet when nothing of it is under way and no command of ours is left to deliver.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from .envelope import Claim, Envelope, Maintenance
from .instance import Instance


@asynccontextmanager
async def in_turn(instance: Instance) -> AsyncIterator[None]:
    """Let callers in one at a time, in the order they come."""
    if instance.turnstile is None:
        instance.turnstile = asyncio.Lock()
    instance.in_line += 1
    try:
        async with instance.turnstile:
            yield
    finally:
        instance.in_line -= 1


async def quiet(instance: Instance) -> None:
    """Return when the instance is quiet, or the runner stops."""
    while not is_quiet(instance) and not instance.runtime.engine.stopping.is_set():
        await asyncio.shield(quieted(instance))


def quieted(instance: Instance) -> asyncio.Future[None]:
    """Return what is done as soon as the instance is quiet, or the runner stops. Till then it stays in memory."""
    if instance.quieted is None:
        instance.quieted = instance.runtime.engine.loop.create_future()
    return instance.quieted


def is_quiet(instance: Instance) -> bool:
    """Say whether nothing of it is under way, and no command of ours is left to deliver."""
    if instance.under_way or instance.ready or instance.mailbox or instance.to_deliver:
        return False
    if instance.deliveries.delivering or instance.deliveries.answered or instance.deliveries.beside is not None:
        return False
    entry = instance.undelivered()
    return entry is None or entry == instance.deliveries.declined


async def catch_up(instance: Instance) -> None:
    """Deliver what an earlier run left undelivered, before the first event of this run."""
    if not instance.caught_up:
        await instance.submit(Envelope(Maintenance.RECORD))
        await quiet(instance)
        instance.caught_up = True


async def fire_before(instance: Instance, at: datetime) -> None:
    """Fire the timers due at `at` or before, each after everything that the one before it has led to."""
    while _may_fire(instance, at) and not instance.runtime.engine.stopping.is_set():
        version = instance.cached.version
        await instance.submit(Envelope(Claim(at)))
        await quiet(instance)
        if instance.cached.version == version:  # they cannot fire: it is parked, say
            return


def its_turn(instance: Instance, at: datetime) -> bool:
    """Say whether all that comes before an event of that time is done."""
    return is_quiet(instance) and not _may_fire(instance, at)


def _may_fire(instance: Instance, at: datetime) -> bool:
    record = instance.cached.record
    return record is not None and any(timer.due_at <= at for timer in record.timers.values())


def tell_quiet(instance: Instance) -> None:
    """Wake the caller that waits for it, if the instance is quiet now."""
    if instance.quieted is not None and (is_quiet(instance) or instance.runtime.engine.stopping.is_set()):
        instance.quieted.set_result(None)
        instance.quieted = None
