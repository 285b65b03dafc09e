"""sagaz: an order is a saga of five steps, added with `add_step` and run by `execute`.

Durable: with `SnapshotStrategy.AFTER_EACH_STEP` the saga inserts a snapshot after each step, by which it can be resumed
there, in a committed transaction of its own, and one more when it has ended. So an order is six commits here and five in
Sagalog; only the five steps are counted. One order is watched from another connection before the run: when a step begins,
the snapshots of all those before it are committed. sagaz only logs a snapshot that it could not store, so they are counted
again after the run.

This is the class of sagaz's pages on replay. The one with decorators stores a saga when it starts and when it has ended,
and nothing in between, whatever its storage. `add_step` takes compensations and retries; here are none of either. The pool
has 20 connections at most, its default; 64 were not faster. Log lines below WARNING are off.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from uuid import uuid4

import asyncpg
from sagaz.core.context import SagaContext
from sagaz.core.replay import ReplayConfig, SnapshotStrategy
from sagaz.core.saga import Saga
from sagaz.core.storage.backends.postgresql import PostgreSQLSnapshotStorage

from .loops import STEPS, in_tasks


class OrderSaga(Saga):
    """One order. `see` is called as each step begins, with how many have ended."""

    async def build(self, order: str, see: Callable[[int], Awaitable[None]]) -> None:
        self.context.set("order", order)
        self.context.set("total", 5)
        self._see = see
        await self.add_step("place", self.place)
        await self.add_step("pay", self.pay)
        await self.add_step("pack", self.pack)
        await self.add_step("ship", self.ship)
        await self.add_step("deliver", self.deliver)

    async def place(self, ctx: SagaContext) -> dict[str, object]:
        await self._see(0)
        return {"order": ctx.get("order"), "total": ctx.get("total")}

    async def pay(self, ctx: SagaContext) -> dict[str, object]:
        await self._see(1)
        return {"order": ctx.get("order"), "paid": True}

    async def pack(self, ctx: SagaContext) -> dict[str, object]:
        await self._see(2)
        return {"order": ctx.get("order"), "packed": True}

    async def ship(self, ctx: SagaContext) -> dict[str, object]:
        await self._see(3)
        return {"order": ctx.get("order"), "shipped": True}

    async def deliver(self, ctx: SagaContext) -> dict[str, object]:
        await self._see(4)
        return {"order": ctx.get("order"), "delivered": True}


class Orders:
    """Sagas under a name of their own, and a connection that counts the snapshots of all of them."""

    def __init__(self, storage: PostgreSQLSnapshotStorage, watching: asyncpg.Connection[asyncpg.Record]) -> None:
        self._name = f"order_{uuid4().hex[:8]}"
        self._storage = storage
        self._watching = watching
        self._config = ReplayConfig(enable_snapshots=True, snapshot_strategy=SnapshotStrategy.AFTER_EACH_STEP)
        self._processed = 0

    async def handle(self, order: str) -> None:
        await self._process(order, _look_away)

    async def check(self) -> None:
        """Process one order, and see the snapshots of the steps before it committed whenever one begins."""
        await self._process("checked", self._see)
        await self.check_all_stored()

    async def check_all_stored(self) -> None:
        """End the run unless all snapshots of all orders until now are committed."""
        await self._see(self._processed * (STEPS + 1))

    async def _process(self, order: str, see: Callable[[int], Awaitable[None]]) -> None:
        saga = OrderSaga(name=self._name, replay_config=self._config, snapshot_storage=self._storage)
        await saga.build(order, see)
        result = await saga.execute()
        if not result.success:
            sys.exit(f"{order} failed: {result.error}")
        self._processed += 1

    async def _see(self, snapshots: int) -> None:
        found = await self._watching.fetchval("SELECT count(*) FROM saga_snapshots WHERE saga_name = $1", self._name)
        if found != snapshots:
            raise MissingError(f"{snapshots} snapshots are due, but {found} are committed")


class MissingError(Exception):
    """A step has ended that is not stored."""


async def _look_away(steps: int) -> None: ...


async def main(url: str, callers: int, seconds: float) -> None:
    logging.getLogger("sagaz").setLevel(logging.WARNING)
    watching = await asyncpg.connect(url)
    async with PostgreSQLSnapshotStorage(url) as storage:  # which makes its tables
        orders = Orders(storage, watching)
        await orders.check()
        await in_tasks(orders.handle, callers, seconds)
        await orders.check_all_stored()
    await watching.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
