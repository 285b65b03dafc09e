"""Absurd with its Python SDK: an order is a task of a queue, each of its five steps a `ctx.step`.

Durable: a step ends with `absurd.set_task_checkpoint_state`, a statement of its own on a connection in autocommit, and
`synchronous_commit` stays on. One order is watched from another connection before the run: when a step begins, all those
before it are committed. An order is eight commits here and five in Sagalog: the task is spawned, claimed and completed too.
Only the five steps are counted.

Each caller spawns its order under an idempotency key and then works on one task of the queue by `work_batch`, Absurd's
worker without its loop, so that no poll stands between an order and its work. With `start_worker` and `await_task_result`
instead, one caller waited for polls most of the time (a fifteenth of the steps by the defaults, a third with a
`poll_interval` of 5 ms), and for 64 callers neither 16 nor 64 workers were faster than this. The asyncio form was slower
with both. The schema is what `absurdctl init` installs, which would need `psql`.
"""

from __future__ import annotations

import sys
from collections import deque
from uuid import uuid4

import absurdctl
import psycopg
from absurd_sdk import Absurd, TaskContext

from .loops import AT_ONCE, STEPS, in_threads


class Orders:
    """A queue of its own, and as many workers on it as there are callers at work."""

    def __init__(self, url: str, callers: int) -> None:
        self._url = url
        self._queue = f"bench_{uuid4().hex[:8]}"
        self._watching: psycopg.Connection[tuple[int]] | None = None
        with psycopg.connect(url, autocommit=True) as connection:
            if connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'absurd'").fetchone() is None:
                connection.execute(absurdctl.BUNDLED_SCHEMA_SQL)
            Absurd(connection, queue_name=self._queue).create_queue()
        self._free = deque(Worker(self, url, self._queue) for _ in range(min(callers, AT_ONCE)))

    def handle(self, order: str) -> None:
        """Place one order, and process one that is waiting: this one, or that of another caller who took this one."""
        worker = self._free.pop()
        worker.spawn(order)
        worker.work()
        self._free.append(worker)

    def check(self) -> None:
        """Process one order, and see the steps before it committed whenever one begins, and all five at the end."""
        with psycopg.connect(self._url, autocommit=True) as self._watching:
            self.handle("checked")
            self.see(STEPS)
        self._watching = None

    def see(self, steps: int) -> None:
        """Within `check`: end the run unless so many steps are committed. Otherwise it has no effect."""
        if self._watching is None:
            return
        found = self._watching.execute(f'SELECT count(*) FROM absurd."c_{self._queue}"').fetchone()
        if found != (steps,):
            sys.exit(f"{steps} steps have ended, but {found} are committed")

    def drop(self) -> None:
        for worker in self._free:
            worker.client.close()
        with psycopg.connect(self._url, autocommit=True) as connection:
            Absurd(connection, queue_name=self._queue).drop_queue()


class Worker:
    """One connection, which serves one thread at a time."""

    def __init__(self, orders: Orders, url: str, queue: str) -> None:
        self.client = Absurd(url, queue_name=queue)
        self.client.register_task("process")(self._process)
        self._orders = orders
        self._processed = 0

    def spawn(self, order: str) -> None:
        self.client.spawn("process", {"order": order, "total": 5}, idempotency_key=order)

    def work(self) -> None:
        before = self._processed
        while self._processed == before:  # a claim passes over a task that another worker is claiming
            self.client.work_batch()

    def _process(self, params: dict[str, object], ctx: TaskContext) -> object:
        order, see = params["order"], self._orders.see

        def place() -> dict[str, object]:
            see(0)
            return {"order": order, "total": params["total"]}

        def pay() -> dict[str, object]:
            see(1)
            return {"order": order, "paid": True}

        def pack() -> dict[str, object]:
            see(2)
            return {"order": order, "packed": True}

        def ship() -> dict[str, object]:
            see(3)
            return {"order": order, "shipped": True}

        def deliver() -> dict[str, object]:
            see(4)
            return {"order": order, "delivered": True}

        ctx.step("place", place)
        ctx.step("pay", pay)
        ctx.step("pack", pack)
        ctx.step("ship", ship)
        ctx.step("deliver", deliver)
        self._processed += 1
        return order


def main(url: str, callers: int, seconds: float) -> None:
    orders = Orders(url, callers)
    orders.check()
    in_threads(orders.handle, callers, seconds)
    orders.drop()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
