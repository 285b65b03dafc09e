"""A store that cannot find due instances is searched once: what an earlier process left there is due now.

    due ─► [searching] ─► the runner's own memory of what is due (scanned.py)

The search is made in the background: starting does not wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from ..decision.record import decode_record
from ..errors import CodecError
from .engine import Engine
from .failures import passes_through
from .runtime import SagaRuntime
from .scanned import ScannedStore


async def search(engine: Engine, runtime: SagaRuntime, notice: Callable[[datetime], None]) -> None:
    """Read every record of a store, and tell `notice` when each is due; tried again until it succeeds."""
    scanned = runtime.scanned
    if scanned is None:
        return
    while not engine.stopping.is_set():
        try:
            await _search_once(engine, runtime, scanned, notice)
            return
        except BaseException as error:
            if passes_through(error):
                raise
            engine.complain(f"saga {runtime.name}: looking through its store", error, runtime.name)
            await asyncio.sleep(engine.seconds.due_poll)


async def _search_once(
    engine: Engine, runtime: SagaRuntime, scanned: ScannedStore, notice: Callable[[datetime], None]
) -> None:
    async for key in runtime.store.keys():
        if engine.stopping.is_set():
            return
        saved = await runtime.store.load(key)
        if saved is None:
            continue
        try:
            record = decode_record(saved.payload)
        except CodecError as error:
            runtime.unreadable[key] = str(error)
            continue
        due_at = engine.now() if record.owes else record.next_timer_at
        if due_at is None and record.finished:
            due_at = record.updated_at + engine.retention
        if due_at is not None:
            scanned.remember_if_unknown(key, due_at)
            notice(due_at)
